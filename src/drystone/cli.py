"""The command ``drystone``. Each tool brings its own arguments; this file only gathers them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

import drystone

_SUMMARIES = {
    "bench": "Time models in drystone against eager PyTorch and other engines.",
    "cache": "Look at, or remove, the measured times that plans are made from.",
    "doctor": "Say whether this machine and this PyTorch are set up well.",
    "ops": "Time single operators in drystone against other libraries.",
    "profile": "Show where a model's time goes, by module and by step.",
    "run": "Start a program with threads, cores and allocator set up.",
    "thresholds": "Check the sizes from which drystone serves torch's operators.",
}


def _tool(name: str) -> Callable[..., Any] | typer.Typer:
    if name == "bench":
        from drystone.tools.bench.command import bench

        return bench
    if name == "cache":
        from drystone.tools.cache import cache

        return cache
    if name == "doctor":
        from drystone.tools.doctor.command import doctor

        return doctor
    if name == "ops":
        from drystone.tools.ops.command import ops

        return ops
    if name == "profile":
        from drystone.tools.profile.command import profile

        return profile
    if name == "run":
        from drystone.tools.run.command import run

        return run
    from drystone.tools.thresholds.command import thresholds

    return thresholds


def application(only: str | None = None) -> typer.Typer:
    """All tools. With ``only``, a name, the others are there in name alone: importing torch takes seconds."""
    app = typer.Typer(callback=_drystone, invoke_without_command=True, no_args_is_help=True, add_completion=False)
    for name, summary in _SUMMARIES.items():
        tool = _tool(name) if only in (None, name) else _named
        if isinstance(tool, typer.Typer):
            app.add_typer(tool, name=name, short_help=summary)
        else:
            # What comes after the program that is run is its own.
            settings = {"allow_interspersed_args": False} if name == "run" else None
            app.command(name, short_help=summary, context_settings=settings)(tool)
    return app


def _drystone(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error was raised.")] = False,
) -> None:
    """PyTorch models on CPUs without the time between the arithmetic."""
    if version:
        typer.echo(f"drystone {drystone.__version__}")
        raise typer.Exit


def _named() -> None:
    raise AssertionError("a tool that was not asked for")


def main() -> None:
    """An error is one line on standard error and exit code 2, without a traceback unless ``--debug`` comes before the tool."""
    tool = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "")
    try:
        application(only=tool)()
    except Exception as error:
        if sys.argv[1:2] == ["--debug"]:
            raise
        text = " ".join(str(error).split())
        print(f"drystone {tool}: {type(error).__name__}: {text}. Where: drystone --debug {tool} …", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
