"""The whole book as one PDF with an outline: ``python -m hetpure_lab.report.pdf`` after ``make
book``'s single page.

Chromium prints the page that ``jupyter-book build --builder singlehtml`` wrote, once every formula
is set and every picture is there.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hetpure_lab.common.paths import ROOT
from hetpure_lab.report import browser as browsers

PAGE = ROOT / "book" / "_build" / "singlehtml" / "book" / "index.html"
TARGET = ROOT / "out" / "book.pdf"
READY = """async () => {
  if (window.MathJax?.startup) await MathJax.startup.promise;
  document.querySelectorAll("img").forEach((i) => (i.loading = "eager"));
  await Promise.all([...document.images].map((i) => i.decode().catch(() => 0)));
}"""
FOOTER = (
    '<div style="font-size: 7pt; width: 100%; text-align: center">'
    '<span class="pageNumber"></span> of <span class="totalPages"></span></div>'
)


class PrintError(ValueError):
    """No browser, or nothing to print."""


def write(page: Path = PAGE, target: Path = TARGET) -> Path:
    """Print `page` to `target`, with an outline of its headings. Raises `PrintError`."""
    if not page.exists():
        raise PrintError(f"{page} is not there: make pdf builds it first")
    program = browsers.chromium()
    if not program:
        raise PrintError(browsers.MISSING)
    from playwright.sync_api import sync_playwright

    target.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=program, args=["--no-sandbox"])
        sheet = browser.new_context(color_scheme="light").new_page()
        sheet.set_default_timeout(300_000)
        sheet.goto(page.as_uri())
        sheet.evaluate(READY)
        sheet.pdf(
            path=target,
            format="A4",
            outline=True,
            tagged=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOTER,
            margin={"top": "16mm", "bottom": "16mm", "left": "15mm", "right": "15mm"},
        )
        browser.close()
    return target


def main() -> int:
    try:
        path = write()
    except PrintError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{path}, {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
