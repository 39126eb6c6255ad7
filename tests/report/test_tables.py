"""Tables of the page: captions, the records behind them, the same bytes in every run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from hetpure_lab.audit import flags
from hetpure_lab.common.paths import RESULTS, ROOT
from hetpure_lab.report import tables

RECORDS = ["results/cifar10-small/hetpure--pgd--7d196b30.jsonl", "zoo.jsonl"]
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
# cells whose intervals come from what the chapter runs itself
LIVE = {
    "04_adaptive_attack": {"cell-099"},
    "05_cifar10": {"cell-016"},
    "06_svhn": {"cell-020"},
    "07_imagenet": {"cell-021"},
    "09_inside": {"cell-016", "cell-030", "cell-037"},
    "12_audit": {"cell-037", "cell-039"},
    "13_ground_truth": {"cell-033"},
    "14_premise": {"cell-014", "cell-016"},
    "15_candidate": {"moved"},
}
INTERVAL = re.compile(r"-?[\d.]+\s\[[^\]]*\]")


@pytest.fixture
def frame():
    return pd.DataFrame(
        {"n": {"hetpure": 2, "none": 4}, "verdict": {"hetpure": "no", "none": "yes"}}
    )


def parsed(table: tables.Table) -> BeautifulSoup:
    return BeautifulSoup(table.to_html(), "html.parser")


def test_the_same_table_has_the_same_bytes_and_two_tables_have_two_names(frame):
    html = tables.show(frame, "one").to_html()
    assert tables.show(frame.copy(), "one").to_html() == html
    name = lambda caption: parsed(tables.show(frame, caption)).find("table")["id"]
    assert name("one") != name("two")
    words = ["verdict", "n", "no", "hetpure", "2", "yes", "none", "4"]
    assert repr(tables.show(frame, "one")).split() == words, "text says the same"


def test_a_named_line_is_a_column_and_the_verdict_comes_first(frame):
    heads = lambda f: [h.get_text() for h in parsed(tables.show(f)).select("thead th")]
    assert heads(frame.rename_axis("defence")) == ["verdict", "defence", "n"]
    assert heads(frame.reset_index(drop=True)) == ["verdict", "n"]
    counted = pd.DataFrame({"calls": {1: 2, 5: 10}}).rename_axis("U")
    assert heads(counted) == ["U", "calls"], "numbers that have a name are no mere line numbers"


def test_the_records_behind_a_table_stand_in_its_caption_once(frame):
    shown = parsed(tables.show(tables.behind(frame, RECORDS * 2), "What <is> shown."))
    assert [a["href"] for a in shown.select("caption a")] == [
        "../results/cifar10-small/hetpure--pgd--7d196b30.jsonl",
        "../results/zoo.jsonl",
    ]
    assert "What <is> shown." in shown.caption.get_text() and "2 files" in shown.caption.get_text()
    assert parsed(tables.show(pd.DataFrame(frame.to_dict()))).caption is None


def test_stacked_frames_keep_the_records_of_all_and_leave_empty_ones_out(frame):
    parts = {
        "a": tables.behind(frame.copy(), RECORDS[:1]),
        "b": tables.behind(frame.copy(), RECORDS),
    }
    both = tables.stacked(parts | {"c": pd.DataFrame()})
    assert both.attrs["records"] == tuple(r.removeprefix("results/") for r in RECORDS)
    assert set(both.index.get_level_values(0)) == {"a", "b"}
    assert tables.stacked({"c": pd.DataFrame()}).empty


def test_flags_lead_to_the_files_that_they_are_about():
    raised = flags.committed()
    links = parsed(tables.show(tables.flagged(raised))).select("td a")
    assert len(links) == sum(len(f.about.split(" / ")) for f in raised) > len(raised)
    assert all((RESULTS / a["href"].removeprefix("../results/")).exists() for a in links)


def test_a_verdict_is_told_apart_without_colours():
    signs = {word: tables.verdict(word) for word in ("higher", "lower", "larger", "inconclusive")}
    shown = {word: BeautifulSoup(html, "html.parser").get_text()[0] for word, html in signs.items()}
    assert len(set(shown.values())) == len(shown) and shown["inconclusive"] == "–"


def outputs(path: Path):
    """Every table of a chapter with the cell that shows it."""
    for cell in json.loads(path.read_text())["cells"]:
        for output in cell.get("outputs", ()):
            html = "".join(output.get("data", {}).get("text/html", ""))
            for table in BeautifulSoup(html, "html.parser").find_all("table"):
                yield cell["id"], table


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_table_of_a_chapter_says_what_it_shows(path):
    for cell, table in outputs(path):
        assert table.caption and table.caption.get_text().strip(), cell


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_interval_leads_to_records_that_exist_unless_the_chapter_measured_it(path):
    for cell, table in outputs(path):
        links = [a["href"] for a in table.find_all("a", href=re.compile("results/"))]
        assert all((RESULTS / link.partition("results/")[2]).exists() for link in links), cell
        if INTERVAL.search(table.get_text()) and cell not in LIVE.get(path.stem, ()):
            assert links, cell
