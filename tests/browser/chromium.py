"""A real browser over the built book: one Chromium, one server, axe-core by its pinned version.

Needs Chromium (named in ``HETPURE_CHROMIUM``, or on the path) and ``make book``; without them the
tests are skipped and say why. A test module imports the fixtures that it uses. Screenshots are kept
in ``out/screenshots``.
"""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hetpure_lab.common.paths import ROOT
from hetpure_lab.report import browser

HTML = ROOT / "book" / "_build" / "html"
SCREENSHOTS = ROOT / "out" / "screenshots"
CHROMIUM = browser.chromium()


def missing() -> str:
    """What these tests lack, or ""."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed: pip install playwright"
    if not CHROMIUM:
        return browser.MISSING
    if not (HTML / "book" / "index.html").exists():
        return "the book is not built: make book"
    return ""


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    if reason := missing():
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """The book's address on a server of this machine."""
    if reason := missing():
        pytest.skip(reason)
    handler = functools.partial(Quiet, directory=str(HTML))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core, by version and hash."""
    from hetpure_lab.report import npm

    version, integrity = (
        "4.14.1",
        "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
    )
    package = npm.Package("axe-core", version, integrity, ("axe.min.js",))
    try:
        return npm.unpack(package, npm.fetch(package))["axe.min.js"].decode()
    except npm.NpmError as error:
        pytest.skip(f"axe-core could not be fetched: {error}")


@pytest.fixture(scope="module")
def screenshots() -> Path:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return SCREENSHOTS
