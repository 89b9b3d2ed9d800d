"""``drystone.enable()``: what it puts in place of torch's own, and how that goes away again."""

from __future__ import annotations

import runpy
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import drystone
import fresh_process
from drystone.eager import enable, operators, pages

ALL = frozenset(operators.names())


def large_lookup() -> torch.Tensor:
    return F.embedding(torch.arange(512), torch.randn(512, 64))


def test_the_last_call_counts() -> None:
    assert enable.state() == enable.Enabled()
    drystone.enable()
    drystone.enable()
    assert enable.state() == enable.Enabled(ALL, reuse_pages=True)
    drystone.enable(only=["embedding"], reuse_pages=False, torchscript=True)
    assert enable.state() == enable.Enabled(frozenset({"embedding"}), torchscript=True)
    drystone.disable()
    drystone.disable()
    assert enable.state() == enable.Enabled()


def test_within_a_with_statement() -> None:
    with pytest.raises(KeyError), drystone.enabled(only=["topk"]):
        assert enable.state() == enable.Enabled(frozenset({"topk"}), reuse_pages=True)
        raise KeyError
    assert enable.state() == enable.Enabled()


def test_blocks_add_up_and_end_one_by_one() -> None:
    drystone.enable(only=["embedding"], reuse_pages=False)
    with drystone.enabled(only=["topk", "embedding"], reuse_pages=False):
        with drystone.enabled(only=["cat"], torchscript=True):
            assert enable.state() == enable.Enabled(frozenset({"cat", "embedding", "topk"}), True, True)
        assert enable.state() == enable.Enabled(frozenset({"embedding", "topk"}))
        drystone.disable()
        assert enable.state() == enable.Enabled(frozenset({"embedding", "topk"}))
    assert enable.state() == enable.Enabled()


def test_enable_outlives_blocks() -> None:
    drystone.enable()
    with drystone.enabled(), drystone.enabled(only=[], reuse_pages=False):
        assert enable.state().operators == ALL
    assert enable.state() == enable.Enabled(ALL, reuse_pages=True)


def test_blocks_that_end_in_the_order_in_which_they_began() -> None:
    """As those of two threads may."""
    first, second = drystone.enabled(), drystone.enabled(only=["topk"], torchscript=True)
    load = torch.jit.load
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert enable.state() == enable.Enabled(frozenset({"topk"}), True, True)
    second.__exit__(None, None, None)
    assert enable.state() == enable.Enabled() and torch.jit.load is load


def test_where_it_raises_nothing_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    drystone.enable(only=["embedding"], reuse_pages=False)
    before = enable.state()
    monkeypatch.setenv("DRYSTONE_PAGES", "much")
    with pytest.raises(drystone.InputError, match="DRYSTONE_PAGES"):
        drystone.enable(torchscript=True)
    monkeypatch.delenv("DRYSTONE_PAGES")
    monkeypatch.setattr(operators, "why_not", lambda: "there is no shim")
    with pytest.raises(drystone.DrystoneWarning, match="there is no shim"), warnings.catch_warnings():
        warnings.simplefilter("error")
        drystone.enable(torchscript=True)
    monkeypatch.setattr(operators, "replace", lambda wanted: ["topk"])
    monkeypatch.setattr(operators, "why_not", lambda: None)
    with pytest.raises(drystone.DrystoneWarning, match="torch's own topk stay"), warnings.catch_warnings():
        warnings.simplefilter("error")
        with drystone.enabled(torchscript=True):
            pass
    assert enable.state() == before


def test_what_others_put_over_the_torchscript_hook_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.jit, "freeze", torch.jit.freeze)
    drystone.enable(only=[], torchscript=True)
    ours = torch.jit.freeze
    theirs = lambda *args: ours(*args)  # noqa: E731
    monkeypatch.setattr(torch.jit, "freeze", theirs)
    drystone.disable()
    assert torch.jit.freeze is theirs
    frozen = theirs(torch.jit.script(torch.nn.Linear(2, 2).eval()))
    assert type(frozen) is torch.jit.RecursiveScriptModule


def test_unknown_names_are_refused_before_anything_changes() -> None:
    with pytest.raises(ValueError, match=r"no operator 'topq' in drystone; it has .*embedding"):
        drystone.enable(only=["embedding", "topq"])
    assert enable.state() == enable.Enabled()


def test_our_kernel_is_registered_once_and_for_all() -> None:
    drystone.enable(only=["embedding"])
    kernels = torch._C._dispatch_dump("aten::embedding")
    assert "operators.cpp" in kernels
    drystone.disable()
    drystone.enable()
    assert torch._C._dispatch_dump("aten::embedding") == kernels


def test_an_operator_that_is_switched_off_is_torchs() -> None:
    """The last bits tell them apart."""
    x = torch.randn(128, 3072)
    own = F.softmax(x, 0)
    drystone.enable(only=["softmax"])
    ours = F.softmax(x, 0)
    drystone.disable()
    assert torch.equal(F.softmax(x, 0), own)
    drystone.enable(only=["topk"])
    assert torch.equal(F.softmax(x, 0), own)
    drystone.ops.topk(x, 3)  # defines drystone's own names
    assert torch.equal(torch.ops.drystone._softmax(x, 0, False), ours)
    assert not torch.equal(ours, own)  # else this test says nothing


def test_import_changes_nothing_and_nothing_is_printed() -> None:
    code = (
        "import torch, drystone\n"
        "before = torch._C._dispatch_dump('aten::embedding')\n"
        "import drystone.ops, drystone.eager.enable\n"
        "drystone.disable()\n"
        "assert torch._C._dispatch_dump('aten::embedding') == before\n"
        "assert not drystone.eager.pages.state().on\n"
        "with drystone.enabled(): torch.topk(torch.zeros(3), 1)\n"
        "assert drystone.eager.enable.state() == drystone.eager.enable.Enabled()\n"
    )
    done = fresh_process.run(code, filter="error")
    assert (done.stdout, done.stderr) == ("", "")


def auto(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``python -m drystone.auto ARGUMENTS`` does, in this process."""
    monkeypatch.setattr(sys, "argv", ["drystone.auto", *arguments])
    monkeypatch.setattr(sys, "path", sys.path[:])
    sys.modules.pop("drystone.auto", None)
    runpy.run_module("drystone.auto", run_name="__main__")


def test_auto_runs_a_program_as_if_it_were_called_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "beside.py").write_text("value = 7\n")
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nimport beside\nfrom drystone.eager import enable\n"
        "assert __name__ == '__main__' and sys.argv[1:] == ['--flag', '3'] and beside.value == 7\n"
        "state = enable.state()\nassert state.operators and state.torchscript\nprint('ran')\n"
    )
    auto([str(program), "--flag", "3"], monkeypatch)
    assert capsys.readouterr().out == "ran\n"


@pytest.mark.parametrize(("arguments", "message"), [(["no/such.py"], "'no/such.py'"), ([], "usage")])
def test_auto_without_a_program(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=message):
        auto(arguments, monkeypatch)


# -- pages ------------------------------------------------------------------------------------------------------------


def test_large_results_reuse_memory() -> None:
    drystone.enable(only=[])
    x = torch.zeros(1 << 23)
    address = torch.tanh(x).data_ptr()
    before = pages.state().reused
    assert torch.tanh(x).data_ptr() == address
    assert pages.state().reused == before + 1
    small = torch.tanh(x[:100])
    assert pages.state().reused == before + 1 and small.numel() == 100


def test_what_waits_is_bounded_and_released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRYSTONE_PAGES", "64")
    drystone.enable(only=[])
    for size in range(1 << 22, 24 << 20, 1 << 21):
        torch.empty(size)
        assert pages.state().kept <= 64 << 20
    assert pages.state().kept > 0
    drystone.disable()
    assert pages.state().kept == 0


def test_a_block_is_not_given_to_a_much_smaller_tensor() -> None:
    drystone.enable(only=[])
    address = torch.empty(32 << 20).data_ptr()
    assert torch.empty(8 << 20).data_ptr() != address
    assert torch.empty((32 << 20) - 100).data_ptr() == address


def test_a_tensor_that_grows_finds_the_block_of_the_one_before() -> None:
    drystone.enable(only=[])
    grown = torch.empty(1 << 23)
    fresh = pages.state().fresh
    for step in range(1, 200):
        grown = torch.empty((1 << 23) + step * 8000)
    assert grown.numel() == (1 << 23) + 1_592_000
    assert pages.state().fresh - fresh <= 2


def test_tensors_outlive_the_allocator_that_made_them() -> None:
    before = torch.arange(1 << 23)
    drystone.enable(only=[])
    within = torch.arange(1 << 23)
    with drystone.enabled(only=[]):
        nested = torch.arange(1 << 23)
    del before
    drystone.disable()
    assert torch.equal(within, nested)
    within.untyped_storage().resize_(64 << 20)
    del within, nested
    assert pages.state().kept == 0


def test_onednn_within_torch_takes_bare_pointers_from_it() -> None:
    x = torch.randn(2, 16, 128, 128)
    layer = torch.nn.Conv2d(16, 32, 3)
    with torch.no_grad():
        expected = layer(x)
        drystone.enable(only=[])
        blocked = x.to_mkldnn()
        assert torch.equal(layer(x), expected)
    drystone.disable()
    del blocked


def test_no_pages_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRYSTONE_PAGES", "0")
    drystone.enable()
    assert not pages.state().on
    monkeypatch.setenv("DRYSTONE_PAGES", "much")
    with pytest.raises(drystone.InputError, match="DRYSTONE_PAGES is 'much'"):
        drystone.enable()


# -- embedding, the first of the operators ----------------------------------------------------------------------------
