"""The system's Chromium, driven by Playwright; no browser is downloaded."""

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core_runtime.errors import UserError, clean

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass
class Opened:
    """A page that is open.

    Attributes:
        page: Playwright's.
        seconds: that any step may take.
        notes: what happened on the way, for the user.
    """

    page: Any
    seconds: float
    notes: list[str] = field(default_factory=list)


def find_chromium(path: Path | None) -> Path:
    """The browser's program.

    Raises:
        UserError: there is none.
    """
    if path is not None:
        if not path.is_file():
            raise UserError(f"--browser {path}: no such file", "give the path of Chromium or Chrome")
        return path
    for name in NAMES:
        executable = shutil.which(name)
        if executable:
            return Path(executable)
    raise UserError(
        "no Chromium is installed", "install it (Debian: apt-get install chromium), or give its path with --browser"
    )


def can_open() -> bool:
    """Whether there is a browser, and Playwright to drive it."""
    if importlib.util.find_spec("playwright") is None:
        return False
    return any(shutil.which(name) for name in NAMES)


def address(url: str) -> str:
    """A web address, or the address of a local file.

    Raises:
        UserError: neither.
    """
    parts = urlsplit(url)
    if parts.scheme in ("http", "https", "file"):
        return url
    if Path(url).is_file():
        return Path(url).resolve().as_uri()
    raise UserError(
        f"{clean(url)[:80]!r} is not a web address and not a file", "give http://…, https://…, or an HTML file"
    )


def is_local(url: str) -> bool:
    """Whether a page is a local file or comes from this machine: only there a click is made without ``--yes``."""
    parts = urlsplit(url)
    return parts.scheme == "file" or (parts.hostname or "") in LOOPBACK


@contextlib.contextmanager
def opened(
    url: str,
    *,
    browser: Path | None = None,
    size: tuple[int, int] = (1280, 800),
    pixel_ratio: float = 1.0,
    seconds: float = 20.0,
) -> Iterator[Opened]:
    """A page in a browser of its own, closed at the end.

    Dialogues that the page opens are dismissed, and noted. As root Chromium has no sandbox, which is noted, too.

    Args:
        url: as `address` gives it.
        browser: its program; None: the system's.
        size: of the window, in CSS pixels.
        pixel_ratio: pixels per CSS pixel.
        seconds: that loading, and each step, may take.

    Raises:
        UserError: Playwright or the browser is absent or does not start; the page cannot be reached, does not end loading, or crashes.
    """
    program = find_chromium(browser)
    try:
        from playwright.sync_api import Error, TimeoutError, sync_playwright
    except ImportError:
        raise UserError("Playwright is not installed", "pip install 'attention-suite-gui-grounding[browser]'") from None
    notes: list[str] = []
    options = ["--hide-scrollbars"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--no-sandbox")
        notes.append("the browser runs without its sandbox, as root must")
    with sync_playwright() as driver:
        try:
            chromium = driver.chromium.launch(executable_path=program, args=options, timeout=seconds * 1000)
        except Error as error:
            raise UserError(f"{program} does not start: {_first_line(error)}", "try another --browser") from None
        try:
            width, height = size
            page = chromium.new_page(viewport={"width": width, "height": height}, device_scale_factor=pixel_ratio)
            page.set_default_timeout(seconds * 1000)
            page.on("dialog", lambda dialog: _dismiss(dialog, notes))
            page.goto(url, wait_until="load", timeout=seconds * 1000)
            yield Opened(page, seconds, notes)
        except TimeoutError:
            raise UserError(
                f"{clean(url)[:120]} does not answer within {seconds:g} s", "--seconds waits longer"
            ) from None
        except Error as error:
            raise UserError(f"{clean(url)[:120]}: {_first_line(error)}", "look at the page in a browser") from None
        finally:
            with contextlib.suppress(Error):
                chromium.close()


def _dismiss(dialog: Any, notes: list[str]) -> None:
    notes.append(f"the page opened a dialogue, which was dismissed: {clean(dialog.message)[:80]!r}")
    dialog.dismiss()


def _first_line(error: Exception) -> str:
    """What Playwright says, without its call log."""
    return clean(str(error).partition("Call log")[0])[:200]
