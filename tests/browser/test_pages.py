"""Every page in a real browser: at the width of a desk and of a phone, light and dark, served and
from files. Pages of one template, one a claim or a rival, are only opened, at the least width.
"""

from __future__ import annotations

import pytest
from chromium import HTML, axe, chromium, missing, screenshots, served  # noqa: F401  (fixtures)

PAGES = sorted(
    p.relative_to(HTML).as_posix()
    for room in ("book", "chapters")
    for p in HTML.glob(f"{room}/*.html")
)
# Pages of one template, such as one page a claim: the first of each folder stands for the others.
PAGES += [
    sorted(folder.glob("*.html"))[0].relative_to(HTML).as_posix()
    for folder in sorted(HTML.glob("book/*/"))
    if any(folder.glob("*.html"))
]
ALL = sorted(
    p.relative_to(HTML).as_posix()
    for p in HTML.rglob("*.html")
    if "_static" not in p.parts and p != HTML / "index.html"  # a redirect
)
REST = [name for name in ALL if name not in PAGES]
LEAST = 320  # pixels: the narrowest window that WCAG asks for
JUDGED_OF_REST = 25  # axe judges every 25th of the rest
VIEWS = [
    ("light", "desk", 1280),
    ("dark", "desk", 1280),
    ("dark", "phone", 390),
    ("light", "phone", 390),
]
JUDGED = [("light", "desk"), ("dark", "phone")]  # by axe: both schemes, both widths
FROM_FILES = 3  # every third page waits for its formulas; all are opened
SET = """async () => { if (window.MathJax?.startup) await MathJax.startup.promise }"""
SCROLLED = """async () => {
  for (let y = 0; y < document.body.scrollHeight; y += 4000) {
    scrollTo(0, y);
    await new Promise(requestAnimationFrame);
  }
  scrollTo(0, 0);
  if (window.MathJax?.startup) await MathJax.startup.promise;
  await Promise.all([...document.images].map((i) => i.decode().catch(() => 0)));
}"""
MEASURED = """() => {
  const images = [...document.querySelectorAll("article img")].filter((i) => i.offsetParent);
  const wide = [...document.querySelectorAll("article *")].filter((e) => {
    const box = e.getBoundingClientRect();
    return box.width && box.right > innerWidth + 1
      && !e.closest(".table-box, .cell_output, figure.wide, pre, .math, mjx-container, .slider")
      && !e.closest(".preview");
  });
  const screens = (document.querySelector("article")?.offsetHeight ?? 0) / innerHeight;
  return {
    overflow: Math.max(0, document.documentElement.scrollWidth - innerWidth),
    wide: wide.slice(0, 3)
      .map((e) => e.tagName + "." + e.className + ": " + e.textContent.slice(0, 40)),
    empty: images.filter((i) => !i.naturalWidth).map((i) => i.src),
    squeezed: images.filter((i) => i.closest(".cell_output")
      && Math.abs((i.width * i.naturalHeight) / (i.height * i.naturalWidth) - 1) > 0.03)
      .map((i) => i.src),
    silent: images.filter((i) => !i.hasAttribute("alt") || /\\.(png|svg)$/.test(i.alt))
      .map((i) => i.src),
    filtered: images.filter((i) => !["none", ""].includes(getComputedStyle(i).filter))
      .map((i) => i.src),
    screens: innerWidth >= 1280 && screens > 15 && screens,
    formulas: document.querySelectorAll("article .math").length,
    unset: [...document.querySelectorAll("article .math")]
      .filter((m) => !m.querySelector("mjx-container")).length,
    broken: document.querySelectorAll("article mjx-merror").length,
    verdicts: [...document.querySelectorAll("article .verdict")].filter((v) => v.offsetParent
      && v.getBoundingClientRect().right > innerWidth).length,
  };
}"""


class Visit:
    """One page that goes from address to address, and what went wrong there."""

    def __init__(self, browser, width: int = 1280):
        self.size = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=self.size, color_scheme="light")
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda m: m.type == "error" and self.wrong.append(m.text))
        self.page.on("pageerror", lambda e: self.wrong.append(str(e)))
        self.page.on("request", lambda r: self.asked.append(r.url))

    def open(self, address: str, wait: str = SCROLLED) -> None:
        self.wrong.clear(), self.asked.clear()
        self.page.emulate_media(color_scheme="light")
        self.page.set_viewport_size(self.size)
        self.page.goto(address)
        if wait:
            self.page.evaluate(wait)

    def look(self, scheme: str, width: int) -> dict:
        """The page as it measures itself in a view."""
        self.page.emulate_media(color_scheme=scheme)
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.evaluate("scrollTo(0, 0)")
        return self.page.evaluate(MEASURED)


@pytest.fixture(scope="module")
def visit(chromium):
    found = Visit(chromium)
    yield found
    found.context.close()


@pytest.fixture(scope="module")
def narrow(chromium):
    found = Visit(chromium, LEAST)
    yield found
    found.context.close()


@pytest.mark.parametrize("name", REST)
def test_a_page_of_a_template_fits_the_least_width(narrow, served, axe, name):
    narrow.open(f"{served}/{name}", SET)
    assert not narrow.wrong
    assert all(url.startswith((served, "data:", "blob:")) for url in narrow.asked)
    assert not misfits(narrow.page.evaluate(MEASURED))
    if REST.index(name) % JUDGED_OF_REST == 0:
        assert not serious(narrow.page, axe)


def misfits(seen: dict) -> dict:
    """What goes beyond a window or is no formula, of what a page measured."""
    return {k: seen[k] for k in ("overflow", "wide", "unset", "broken") if seen[k]}


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_every_page_of_the_build_is_finished():
    pages = {name: (HTML / name).read_text() for name in ALL}
    assert len(pages) > len(PAGES)
    assert not [name for name, html in pages.items() if "data-finished" not in html]
    assert not [name for name, html in pages.items() if "THEBE_JS_URL" in html]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_in_every_view(visit, served, axe, screenshots, name):
    visit.open(f"{served}/{name}")
    assert not visit.wrong
    assert all(url.startswith((served, "data:", "blob:")) for url in visit.asked)
    faults = {}
    for scheme, width, pixels in VIEWS:
        seen, view = visit.look(scheme, pixels), f"{scheme}-{width}"
        visit.page.screenshot(path=screenshots / f"{name.replace('/', '-')[:-5]}-{view}.png")
        faults[view] = {k: v for k, v in seen.items() if k != "formulas" and v}
        if (scheme, width) in JUDGED and (found := serious(visit.page, axe)):
            faults[view]["axe"] = found
    faults[f"light-{LEAST}"] = misfits(visit.look("light", LEAST))
    assert not any(faults.values()), faults


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_from_files(visit, name):
    wait = "" if PAGES.index(name) % FROM_FILES else SCROLLED
    visit.open((HTML / name).as_uri(), wait)
    assert not visit.wrong
    assert all(url.startswith(("file:", "data:", "blob:")) for url in visit.asked)
    if wait:
        seen = visit.look("light", 1280)
        assert not seen["empty"] and not seen["unset"]


def serious(page, axe: str) -> list[str]:
    """What axe calls critical or serious, outside of formulas, in the text of the page."""
    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate(axe + "; undefined")
    found = page.evaluate("""() => axe.run({exclude: [["mjx-container"]]},
          {runOnly: ["wcag2a", "wcag2aa"], resultTypes: ["violations"], elementRef: false})""")
    return [
        f"{v['id']}: {n['html'][:120]} {n['any'][0]['message'][:120] if n['any'] else ''}"
        for v in found["violations"]
        if v["impact"] in ("critical", "serious")
        for n in v["nodes"][:3]
    ]
