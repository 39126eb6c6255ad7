"""What a reader does with the pages: search, toggle, hover, copy, download, filter, follow a deep
link, change the theme.
"""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import pytest
from chromium import HTML, chromium, served  # noqa: F401  (fixtures)

from hetpure_lab.common.paths import ROOT
from hetpure_lab.report.sliders import slider


@pytest.fixture(scope="module")
def page(chromium):
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield context.new_page()
    context.close()


def test_search_finds_a_word_and_leads_to_it(page, served):
    page.goto(f"{served}/search.html?q=surrogate")
    page.wait_for_selector("#search-results li a")
    assert page.locator("#search-results li").count() > 2


def test_a_search_from_files_quotes_what_it_found(page):
    page.goto((HTML / "search.html").as_uri() + "?q=surrogate")
    page.wait_for_selector("#search-results li p.context")
    page.wait_for_function("""() => document.querySelectorAll("#search-results li").length
        === document.querySelectorAll("#search-results li p.context").length""")
    quotes = page.locator("#search-results li p.context").all_inner_texts()
    assert sum("surrogate" in quote.lower() for quote in quotes) > len(quotes) / 2 > 1
    assert (HTML / "_static" / "texts.js").stat().st_size < 1e6


def test_what_a_search_from_files_quotes_is_text(page):
    page.goto((HTML / "search.html").as_uri() + "?q=surrogate")
    page.wait_for_selector("#search-results li p.context")
    page.evaluate("window.hetpureTexts['book/errata'] = '<img src=x onerror=alert(1)>'")
    quoted = page.evaluate("fetch('./book/errata.html').then((answer) => answer.text())")
    assert quoted == '<div role="main">&lt;img src=x onerror=alert(1)&gt;</div>'


@pytest.mark.parametrize(
    "target", ["errata.html#erratum-e12", "notation.html#symbol-tau", "notation.html#symbol-T"]
)
def test_a_deep_link_lands_on_its_row(page, served, target):
    page.goto("about:blank")  # a page that is still loading scrolls to its first target
    page.goto(f"{served}/book/{target}")
    below = """(id) => {
      const { y } = document.getElementById(id).getBoundingClientRect();
      return y >= document.querySelector(".bd-header-article").offsetHeight && y < innerHeight;
    }"""
    page.wait_for_function(below, arg=target.partition("#")[2], timeout=5000)


@pytest.mark.parametrize(
    "name, kind",
    [
        ("book/notation.html", "erratum"),
        ("chapters/02_attention_mask.html", "equation"),
        ("book/index.html", "references"),
    ],
)
@pytest.mark.parametrize("where", ["http", "file"])
def test_a_link_shows_on_hover_what_it_leads_to(page, served, name, kind, where):
    page.goto(f"{served}/{name}" if where == "http" else (HTML / name).as_uri())
    link = page.locator(f"article a[data-preview*='{kind}']").first
    link.scroll_into_view_if_needed()
    link.hover()
    page.wait_for_selector("#preview:not([hidden])")
    said = page.locator("#preview").inner_text()
    assert len(said) > 10 and "\\(" not in said
    page.keyboard.press("Escape")
    page.wait_for_selector("#preview", state="hidden")
    link.focus()
    page.wait_for_selector("#preview:not([hidden])")


@pytest.mark.parametrize("where", ["http", "file"])
def test_a_symbol_shows_its_row_and_leads_to_it(page, served, where):
    name = "chapters/02_attention_mask.html"
    page.goto(f"{served}/{name}" if where == "http" else (HTML / name).as_uri())
    link = page.locator("a.symbol[href$='#symbol-tau']").first
    link.hover()
    page.wait_for_selector("#preview:not([hidden]) mjx-container")
    assert "threshold on the maps" in page.locator("#preview").inner_text()
    page.keyboard.press("Escape")
    page.wait_for_selector("#preview", state="hidden")
    link.focus()
    page.wait_for_selector("#preview:not([hidden])")
    page.keyboard.press("Enter")
    page.wait_for_url("**/book/notation.html#symbol-tau")


def test_a_symbol_with_two_meanings_shows_both(page, served):
    page.goto(f"{served}/chapters/08_ablations.html")
    page.locator("a.symbol[href$='#symbol-p']").first.focus()
    page.wait_for_selector("#preview:not([hidden])")
    said = page.locator("#preview").inner_text()
    assert "exponent of the norm" in said and "p-value of a test" in said


def test_a_symbol_keeps_its_colour_and_is_one_stop_by_key(page, served):
    page.goto(f"{served}/chapters/03_heterogeneous_purification.html")
    page.evaluate("MathJax.startup.promise")
    page.wait_for_function("!document.querySelector('a.symbol [tabindex=\"0\"]')")
    other = page.eval_on_selector_all(
        "a.symbol",
        "all => all.filter((a) => getComputedStyle(a).color !== "
        "getComputedStyle(a.parentElement).color).length",
    )
    assert page.locator("a.symbol").count() > 20 and other == 0
    learned = page.locator("a.symbol .learned").first
    assert learned.evaluate("e => getComputedStyle(e).color") == "rgb(165, 74, 8)"


def test_a_spec_is_copied_by_mouse_and_by_key(page, served):
    page.goto(f"{served}/book/findings.html")
    spec = page.locator("abbr.spec").first
    wanted = spec.get_attribute("title")
    spec.click()
    assert page.evaluate("navigator.clipboard.readText()") == wanted
    page.evaluate("navigator.clipboard.writeText('')")
    spec.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("navigator.clipboard.readText().then(Boolean)")
    assert page.evaluate("navigator.clipboard.readText()") == wanted


def test_a_code_cell_is_copied_and_a_hidden_one_opens(page, served):
    page.goto(f"{served}/chapters/05_cifar10.html")
    fold = page.locator("details.hide").first
    fold.locator("summary").click()
    assert fold.evaluate("e => e.open") and fold.locator("pre").first.is_visible()
    button = page.locator("button.copybtn").first
    button.scroll_into_view_if_needed()
    button.click(force=True)
    assert page.evaluate("navigator.clipboard.readText()").strip()


def test_the_notebook_and_the_records_can_be_had(page, served):
    page.goto(f"{served}/chapters/05_cifar10.html")
    notebook = page.locator("a[href*='_sources'][href$='.ipynb']").first.get_attribute("href")
    assert page.request.get(page.evaluate("h => new URL(h, location).href", notebook)).ok
    record = page.locator("article a[href$='.jsonl']").first.get_attribute("href")
    answer = page.request.get(page.evaluate("h => new URL(h, location).href", record))
    assert answer.ok and '"image"' in answer.text()[:2000]


# ---- what is long is clipped ---------------------------------------------------------------------

SPECS = "".join(
    f"<tr id='row-{i}'><td><abbr class='spec' title='uniform:t=0.{i}'>noise {i}</abbr></td></tr>"
    for i in range(40)
)
CODE = "\n".join(f"line_{i} = {i}" for i in range(60))
LONG = f"""<article class='bd-article'>
<div class='cell'><div class='cell_input'><div class='highlight-python'><div class='highlight'>
<pre>{CODE}</pre></div></div></div></div><div style='height: 2000px'></div>
<div class='table-box'><table class='long'><thead><tr><th>defence</th></tr></thead>
<tbody>{SPECS}</tbody></table></div></article>"""


@pytest.fixture
def long_page(chromium, request, tmp_path):
    """A page with sixty lines of code and a table of forty rows; `request.param`: its anchor."""
    static = (HTML / "_static").as_uri()
    style = f"<link rel='stylesheet' href='{static}/hetpure.css'>"
    script = f"<script defer src='{static}/hetpure.js'></script>"
    (tmp_path / "long.html").write_text(f"<!doctype html>{style}{script}{LONG}")
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.goto((tmp_path / "long.html").as_uri() + getattr(request, "param", ""))
    yield opened
    context.close()


def clipped(page) -> list[str]:
    """Which boxes hide a part of their content."""
    return page.eval_on_selector_all(
        "pre, .table-box",
        "all => all.filter((e) => e.scrollHeight > e.clientHeight + 4).map((e) => e.tagName)",
    )


def test_long_code_and_long_tables_are_clipped_until_asked_for(long_page):
    assert clipped(long_page) == ["PRE", "DIV"]
    for name, kind in (("show all 60 lines", "PRE"), ("show all 40 rows", "DIV")):
        button = long_page.get_by_role("button", name=name)
        assert button.get_attribute("aria-expanded") == "false"
        button.focus()
        long_page.keyboard.press("Enter")
        assert kind not in clipped(long_page)
    less = long_page.get_by_role("button", name="show less")
    assert less.count() == 2 and less.first.get_attribute("aria-expanded") == "true"
    less.first.click()
    assert clipped(long_page) == ["PRE"]


def test_what_is_clipped_is_printed_and_reached_by_key(long_page):
    long_page.emulate_media(media="print")
    assert clipped(long_page) == []
    long_page.emulate_media(media="screen")
    long_page.evaluate("document.querySelector('#row-39 abbr').focus()")
    long_page.wait_for_function("!document.querySelector('.table-box.clipped')")
    assert clipped(long_page) == ["PRE"]


# A link to a text is followed as the browser's own search is: by scrolling every box around it.
@pytest.mark.parametrize(
    "long_page, left",
    [("#row-37", "PRE"), ("#:~:text=noise%2038", "PRE"), ("#:~:text=line_57", "DIV")],
    indirect=["long_page"],
)
def test_a_link_or_a_search_into_what_is_clipped_opens_it(long_page, left):
    long_page.wait_for_function("document.querySelectorAll('.clipped').length === 1")
    assert clipped(long_page) == [left]
    if left == "PRE":
        lands = "document.querySelector('#row-38').getBoundingClientRect().y < 900"
        long_page.wait_for_function(lands)


def test_a_long_table_is_filtered(long_page):
    rows = long_page.locator("tbody tr:visible")
    field = long_page.locator("input[type=search]")
    field.fill("noise 7")
    assert rows.count() == 4 and "4 of 40" in long_page.locator(".filter-count").inner_text()
    field.fill("t=0.29")
    assert rows.count() == 1, "the spec behind a name is found too"
    field.fill("noise")
    assert rows.count() == 40 and clipped(long_page) == ["PRE"], "all that is found is shown"
    field.fill("<img src=x onerror=alert(1)>")
    assert rows.count() == 0
    field.fill("")
    assert rows.count() == 40 and clipped(long_page) == ["PRE", "DIV"]


def test_one_button_shows_everything_and_the_next_page_keeps_it(page, served):
    page.goto(f"{served}/book/claims.html")
    assert len(page.query_selector_all(".clipped")) > 3
    page.locator("button.whole").click()
    assert not page.query_selector_all(".clipped")
    page.goto(f"{served}/chapters/09_inside.html")
    button = page.locator("button.whole")
    assert button.get_attribute("aria-pressed") == "true" and not page.query_selector_all(
        ".clipped"
    )
    button.click()
    assert page.query_selector_all(".clipped")


def test_a_copy_of_clipped_code_is_whole(page, served):
    page.goto(f"{served}/chapters/09_inside.html")
    code = page.locator("pre.clipped").first
    code.hover()
    code.locator("xpath=..").locator("button.copybtn").click(force=True)
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.strip() == code.inner_text().strip()


def test_the_modules_own_code_is_one_click_away_and_in_print(page, served):
    page.goto(f"{served}/chapters/02_attention_mask.html")
    fold = page.locator("details.module").first
    code = fold.locator("pre").first
    assert "tapped" in fold.locator("summary").inner_text() and not code.is_visible()
    page.emulate_media(media="print")
    assert code.is_visible()
    page.emulate_media(media="screen")
    fold.locator("summary").click()
    assert code.is_visible()


def test_without_script_nothing_is_clipped(chromium, served):
    context = chromium.new_context(java_script_enabled=False)
    still = context.new_page()
    still.goto(f"{served}/book/claims.html")
    assert still.locator("tbody tr:visible").count() > 500
    assert not still.query_selector_all(".clipped") and not still.locator("#find").is_visible()
    context.close()


def test_claims_are_found_in_all_groups_and_by_an_address(page, served):
    page.goto(f"{served}/book/claims.html?find=random+mask")
    found = page.locator("table.long tbody tr:visible")
    assert 0 < found.count() < 60 and "random" in found.first.inner_text().lower()
    assert re.fullmatch(r"\d+ of \d{3}", page.locator("#found").inner_text())
    page.locator("#find").fill("")
    assert found.count() > 500 and page.locator("#found").inner_text() == ""


# ---- sliders, themes, keys -----------------------------------------------------------------------


def test_a_slider_moves_by_key_and_stands_still_without_script(chromium):
    frames = {v: plt.subplots(figsize=(1, 1))[0] for v in (1, 2, 3)}
    html = slider(frames, "level", 2, "Squares of nothing").data
    for script in (False, True):
        context = chromium.new_context(java_script_enabled=script)
        page = context.new_page()
        page.set_content(html * (1 + script))  # twice: each has its own
        values = "e => e.map((f) => f.dataset.value)"
        if not script:
            assert page.locator("figure:visible").count() == 1
            assert page.locator("figure:visible").get_attribute("data-value") == "2"
            continue
        assert page.locator("input[type=range]").count() == 2
        page.locator("input[type=range]").last.focus()
        page.keyboard.press("ArrowRight")
        assert page.locator("figure:visible").evaluate_all(values) == ["2", "3"]
        said = page.locator("input[type=range]").last.get_attribute("aria-valuetext")
        assert said == "level 3"
        context.close()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(
    "name", ["02_attention_mask", "03_heterogeneous_purification", "05_cifar10"]
)
def test_the_sliders_of_the_book_move(page, served, name, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{served}/chapters/{name}.html")
    field = page.locator(".slider input[type=range]").first
    field.scroll_into_view_if_needed()
    first = page.locator(".slider figure:visible").first.get_attribute("data-value")
    field.focus()
    page.keyboard.press("Home")
    shown = page.locator(".slider figure:visible")
    assert shown.count() == page.locator(".slider").count()
    value = shown.first.get_attribute("data-value")
    assert value == page.locator(".slider output").first.inner_text() != first
    picture = shown.first.locator("img")
    assert picture.evaluate("i => i.naturalWidth") > 300
    assert picture.bounding_box()["width"] <= width
    page.set_viewport_size({"width": 1280, "height": 900})


def test_the_theme_is_switched_and_kept(page, served):
    page.goto(f"{served}/book/index.html")
    seen = {page.evaluate("document.documentElement.dataset.theme")}
    for _ in range(2):
        page.locator("button.theme-switch-button:visible").first.click()
        seen.add(page.evaluate("document.documentElement.dataset.theme"))
    assert seen == {"light", "dark"}
    mode = page.evaluate("document.documentElement.dataset.mode")
    page.goto(f"{served}/book/findings.html")
    assert page.evaluate("document.documentElement.dataset.mode") == mode


def test_the_first_page_says_the_result_within_the_first_screen(page, served):
    page.goto(f"{served}/book/index.html")
    numbers = page.locator(".answer strong").all_inner_texts()
    assert len(numbers) >= 4 and all(re.search(r"\d|told apart", n) for n in numbers)
    for what in (".answer", "a[href*='live.html'].sd-btn", "a[href*='12_audit.html'].sd-btn"):
        box = page.locator(f"article {what}").first.bounding_box()
        assert box["y"] + box["height"] < 900
    numbers = {p.name[:2] for p in (ROOT / "chapters").glob("*.ipynb")}
    assert page.locator(".chapter-card").count() == len(numbers)
    assert page.locator(".chapter-card img.thumb").count() > 8


def test_the_keyboard_reaches_the_text(page, served):
    page.goto(f"{served}/book/index.html")
    page.keyboard.press("Tab")
    assert "main" in page.evaluate("document.activeElement.getAttribute('href') || ''")
