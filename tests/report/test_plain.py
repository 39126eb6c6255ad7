"""Chapters as every notebook program shows them: no MyST left, and every link leads somewhere."""

from __future__ import annotations

import re

import nbformat
import pytest
from conftest import ROOT

from hetpure_lab.report import plain
from hetpure_lab.report.release import published

CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
RAW = re.compile(r"\{(?:cite|eq|numref|ref|doc|math|prf:)[\w:]*\}`|^(?:```|:::)+\{|^:class:", re.M)


def shown(notebook) -> str:
    """All that is rendered as Markdown."""
    outputs = [o.get("data", {}) for c in notebook.cells for o in c.get("outputs", ())]
    sources = [c.source for c in notebook.cells if c.cell_type == "markdown"]
    return "\n".join(sources + [data.get("text/markdown", "") for data in outputs])


def hrefs(notebook) -> set[str]:
    """Where the links of all that is rendered lead."""
    outputs = [o.get("data", {}) for c in notebook.cells for o in c.get("outputs", ())]
    text = shown(notebook) + "".join(data.get("text/html", "") for data in outputs)
    return {found["href"] for found in plain.LINK.finditer(text)}


@pytest.fixture(scope="module", params=CHAPTERS, ids=lambda p: p.stem)
def chapter(request):
    return request.param, nbformat.read(request.param, as_version=4)


def test_numbers_go_on_in_the_second_notebook_of_a_chapter():
    plain.numbers.cache_clear()
    found = plain.numbers()
    assert len({number for _, number in found.values()}) == len(found)
    assert found["eq-defended"][1] == "(4.1)"
    name, number = found["eq-bpda"]
    assert name == "04_shortcuts.ipynb" and number.startswith("(4.")


def test_no_directive_role_or_macro_of_the_book_is_left(chapter):
    path, notebook = chapter
    text = shown(plain.plain(notebook, path.name, plain.online))
    assert not RAW.findall(text)
    assert not [name for name in plain.macros() if re.search(rf"\\{name}(?![A-Za-z])", text)]
    assert text.count("<details") == text.count("</details>")


def test_every_link_online_is_a_page_of_the_book_or_a_record(chapter):
    path, notebook = chapter
    links = hrefs(plain.plain(notebook, path.name, plain.online))
    assert all(re.match("#|https?:", link) for link in links)
    pages = (link.partition("#")[0] for link in links if link.startswith(published()))
    for name in {page.removeprefix(published()) for page in pages}:
        sources = [ROOT / re.sub(r"html$", kind, name) for kind in ("ipynb", "md", "html")]
        assert any(source.exists() for source in sources), name


def test_links_nearby_lead_to_files_that_are_there(chapter):
    path, notebook = chapter
    folder = ROOT / "out"
    for link in hrefs(plain.plain(notebook, path.name, plain.near(folder))):
        if not re.match("#|https?:", link):
            assert (folder / link.partition("#")[0]).resolve().exists(), link


def test_labels_get_the_numbers_of_the_book():
    text = "See {eq}`eq-x`.\n\n$$\na\n$$\n\n$$\nb = \\abar_t\n$$ (eq-x)\n"
    plain.numbers()["eq-x"] = ("02_attention_mask.ipynb", "(2.7)")
    here = plain.translate(text, "02_attention_mask.ipynb", plain.online)
    assert "See [(2.7)](#eq-x)." in here and "\\tag{2.7}" in here and "\\abar" not in here
    assert here.count("\\tag") == 1
    there = plain.translate("{eq}`eq-x`", "05_cifar10.ipynb", plain.online)
    assert there == f"[(2.7)]({published()}chapters/02_attention_mask.html)"


def test_the_denoiser_has_the_colour_of_what_is_learned_in_every_formula():
    texts = {
        path.name: "\n".join(
            c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown"
        )
        for path in CHAPTERS
    }
    pages = [*(ROOT / "book").glob("*.md"), *(ROOT / "book" / "rivals").glob("*.md")]
    texts |= {path.name: path.read_text() for path in pages}
    plain_one = re.compile(r"(?<!\\learned\{)\\epsilon_(?:\\theta|\{\\theta\})")
    assert not [name for name, text in texts.items() if plain_one.search(text)]
    assert sum("\\learned{" in text for text in texts.values()) > 8


def test_what_is_learned_keeps_its_colour_with_braces_inside():
    said = plain.expand(r"$\learned{\epsilon_{\theta}}(x) + \learned{a}$")
    colour = plain.LEARNED
    assert (
        said == rf"$\textcolor{{{colour}}}{{\epsilon_{{\theta}}}}(x) + \textcolor{{{colour}}}{{a}}$"
    )


def test_a_dropdown_folds_and_its_code_stays_code():
    box = "````{admonition} More\n:class: dropdown\nFirst:\n```python\nx = 1\n```\n````"
    assert plain.translate(box, "", plain.online) == (
        "<details><summary>More</summary>\n\nFirst:\n```python\nx = 1\n```\n\n</details>"
    )


def test_an_exercise_is_a_heading_and_its_solution_folds_below_it():
    text = (
        "```{exercise}\n:label: ex-2-3\n\nHow much?\n```\n\n"
        "````{solution} ex-2-3\n:label: sol-2-3\n:class: dropdown\n\n```python\nx = 1\n```\n````"
    )
    assert plain.translate(text, "02_attention_mask.ipynb", plain.online) == (
        '<a id="ex-2-3"></a>\n\n### Exercise 2.3\n\nHow much?\n\n'
        '<details id="sol-2-3"><summary>Solution to Exercise 2.3</summary>\n\n'
        "```python\nx = 1\n```\n\n</details>"
    )


def test_a_reference_to_an_exercise_leads_to_it_under_its_name_or_other_words():
    here = plain.translate("{ref}`ex-2-3`", "02_attention_mask.ipynb", plain.online)
    assert here == "[Exercise 2.3](#ex-2-3)"
    there = plain.translate("{ref}`the answer <sol-2-3>`", "05_cifar10.ipynb", plain.online)
    assert there == f"[the answer]({published()}chapters/02_attention_mask.html)"


def test_an_answer_moves_below_the_title_once_and_stderr_goes():
    code = nbformat.v4.new_code_cell("answer()", metadata={"tags": ["run-answer", "hide-input"]})
    code.outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="3/3 [00:01]"),
        nbformat.v4.new_output("display_data", {"text/markdown": "tau did it"}),
    ]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# Title\n\nMore."), code]
    )
    once = plain.plain(notebook, "05_cifar10.ipynb", plain.online)
    assert once.cells[0].source == "# Title\n\ntau did it\n\nMore."
    assert [o.output_type for o in once.cells[1].outputs] == ["display_data"]
    assert once.cells[1].metadata["jupyter"]["source_hidden"]
    assert plain.plain(once, "05_cifar10.ipynb", plain.online).cells[0] == once.cells[0]
    assert "tau" not in notebook.cells[0].source


def test_a_copy_that_a_reader_has_changed_stays(tmp_path):
    first = plain.write(tmp_path, CHAPTERS[:2])
    (tmp_path / CHAPTERS[0].name).write_text("mine")
    assert first == CHAPTERS[:2] and plain.write(tmp_path, CHAPTERS[:2]) == []
    assert (tmp_path / CHAPTERS[0].name).read_text() == "mine"
