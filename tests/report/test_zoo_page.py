"""The page of the bug zoo: every number on it is computed from the records, and everything it
points to exists."""

from __future__ import annotations

import re

from conftest import ROOT

from hetpure_lab.audit import faults
from hetpure_lab.audit.faults import FAULTS
from hetpure_lab.report import zoo


def test_what_is_not_measured_is_said_to_be(tmp_path):
    page = zoo.page(tmp_path)
    assert page.count("not measured |") == 2 * len(FAULTS) and "Not measured yet." in page


def test_numbers_come_from_the_records(tmp_path):
    faults.measure(faults.setting("world", 8), ["best of K", "wrong radius"], tmp_path)
    page = zoo.page(tmp_path)
    for name, record in faults.recorded("world", tmp_path).items():
        added = faults.added(record["faulty"], record["sound"])
        row = next(line for line in page.splitlines() if line.startswith(f"| [{name}]"))
        assert f"{100 * added.value:+.1f} [{100 * added.low:+.1f}, {100 * added.high:+.1f}]" in row
    assert "n = 8: 2 faults" in page


def test_every_fault_has_its_paragraph_and_its_sources(tmp_path):
    page, known = (
        zoo.page(tmp_path),
        set(re.findall(r"^@\w+{(\w+)", (ROOT / "book/references.bib").read_text(), re.MULTILINE)),
    )
    cited = set(",".join(re.findall(r"{cite:p}`([\w,]+)`", page)).split(","))
    assert cited <= known and len(cited) > 5
    targets = re.findall(r"^\((zoo-[\w-]+)\)=$", page, re.MULTILINE)
    assert len(targets) == len(set(targets)) == len(FAULTS) and set(
        re.findall(r"\]\(#([\w-]+)\)", page)
    ) == set(targets)


def test_a_verdict_needs_more_than_an_interval(tmp_path):
    """What is said is decided by the sign-flip test over all faults: three images decide
    nothing.
    """
    rates = {f"{i}": 1.0 for i in range(3)}
    line = {"faulty": rates, "sound": dict.fromkeys(rates, 0.0)}
    assert zoo.words({"best of K": line}) == {"best of K": "inconclusive"}
    many = {f"{i}": float(i % 2) for i in range(40)}
    line = {"faulty": many, "sound": dict.fromkeys(many, 0.0)}
    said = zoo.words({name: line for name in FAULTS} | {"forgotten": line})
    assert said == dict.fromkeys(FAULTS, "higher")
