"""Pages in headless Chromium (Debian's package chromium)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(_BROWSER is None, reason="there is no Chromium: apt install chromium")


def after_scripts(page: Path) -> str:
    """The document, once its scripts have run."""
    return _chromium(page, "--dump-dom")


def screenshot(page: Path, image: Path, width: int = 1200, height: int = 1600) -> None:
    _chromium(page, f"--screenshot={image}", f"--window-size={width},{height}")


def _chromium(page: Path, *options: str) -> str:
    assert _BROWSER is not None
    # As root it has no sandbox; hosts are not resolved, so that a page which loads something shows it.
    settings = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    profile = f"--user-data-dir={page.parent / 'browser'}"
    ended = subprocess.run([_BROWSER, *settings, profile, *options, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
