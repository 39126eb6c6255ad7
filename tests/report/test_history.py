"""The history of a claim is a log that follows from what was judged, and says why a verdict
changed."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from conftest import ROOT

from hetpure_lab.common.stats import Accuracy
from hetpure_lab.paper.claims import Row
from hetpure_lab.report import history
from hetpure_lab.report.history import Entry

ROW = Row("a", "statement", "§1", "said", "x", "not tested")
MEASURED = replace(
    ROW,
    verdict="inconclusive",
    scale="toy",
    measured=Accuracy(0.1, -0.1, 0.3, 32),
    found="sign-flip p 0.3, 0.9 after Holm's correction over 3 tests",
)


def test_only_a_change_of_verdict_or_scale_is_noted(tmp_path):
    assert [history.append(rows, tmp_path) for rows in ([ROW], [ROW], [MEASURED], [MEASURED])] == [
        1,
        0,
        1,
        0,
    ]
    first, second = history.read(tmp_path)["a"]
    assert (first.verdict, second.verdict, second.n, second.tests) == (
        "not tested",
        "inconclusive",
        32,
        3,
    )
    assert second.difference == "10.0 [-10.0, 30.0]" and re.match(r"\d{4}-\d\d-\d\d$", second.date)
    before = (tmp_path / history.LOG).read_text()
    history.append([ROW], tmp_path)
    assert (tmp_path / history.LOG).read_text().startswith(before)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"verdict": "not tested"}, {}, "for the first time"),
        ({"n": 32}, {"n": 64}, "64 images in place of 32"),
        ({"difference": "1.0 [0.0, 2.0]"}, {}, "other records"),
        ({"tests": 1}, {"tests": 7}, "7 tests in place of 1"),
        ({}, {}, "the records did not"),
    ],
)
def test_the_reason_follows_from_the_two_entries(before, after, said):
    plain = {"claim": "a", "verdict": "verified", "scale": "small", "n": 64, "tests": 7}
    plain |= {"difference": "3.0 [1.0, 5.0]"}
    assert said in history.why(Entry(**plain | before), Entry(**plain | after))


def test_the_log_ends_with_the_verdicts_of_the_pages():
    log = history.read()
    for name, entries in log.items():
        page = ROOT / "book" / "claims" / f"{name.lower()}.md"
        if page.exists():
            last = entries[-1]
            shown = f"**{last.verdict}**" + (f", scale: {last.scale}" if last.scale else "")
            assert page.read_text().splitlines()[2] == shown, "run: hetpure claims --pages"
            assert last.said in page.read_text()
    assert len(log) > 200 and any(len(entries) > 1 for entries in log.values())


def test_a_log_is_made_from_commits_once(tmp_path):
    (tmp_path / history.LOG).write_text(json.dumps({"claim": "a", "verdict": "x", "scale": ""}))
    with pytest.raises(ValueError, match="exists; only a new log is made from commits"):
        history.from_git(tmp_path)
