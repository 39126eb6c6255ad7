"""Claims: every element of the paper has an entry, states follow from what exists, verdicts from
intervals, and pages are up to date.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT

from hetpure_lab import evidence
from hetpure_lab.attacks import ATTACKS, PGD
from hetpure_lab.common import specs
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import ablations, compare, studies
from hetpure_lab.evidence import records as record_files
from hetpure_lab.paper import comparisons, elements, printed
from hetpure_lab.paper.elements import ELEMENTS
from hetpure_lab.paper.printed import TABLES, Claim, Table
from hetpure_lab.report import pages

# What is numbered in the paper: 11 equations, 3 algorithms, 8 tables, 9 figures, and the appendix,
# sections 7 to 10.
NUMBERED = {
    "Eq": range(1, 12),
    "Alg": range(1, 4),
    "Table": range(1, 9),
    "Fig": range(1, 10),
    "Sec": range(7, 11),
}


def test_every_element_of_the_paper_has_an_entry():
    assert list(ELEMENTS) == [f"{kind} {n}" for kind, numbers in NUMBERED.items() for n in numbers]


def test_the_paper_numbers_nothing_else(shared):
    text = (shared / "reference/paper.md").read_text()
    appendix = text.partition("Supplementary Material")[2]
    found = {
        "Eq": re.findall(r"\\quad \((\d+)[ab]?\)", text),
        "Alg": re.findall(r"Algorithm (\d)\b", text),
        "Table": re.findall(r"^Table (\d)\.", text, re.MULTILINE),
        "Fig": re.findall(r"^Figure (\d)\.", text, re.MULTILINE),
        "Sec": re.findall(r"^#+ (\d+)\. ", appendix, re.MULTILINE),
    }
    numbers = {
        kind: {int(n) for item in items for n in ((item,) if isinstance(item, str) else item) if n}
        for kind, items in found.items()
    }
    assert numbers == {kind: set(expected) for kind, expected in NUMBERED.items()}


def test_the_list_is_printed_as_json(capsys):
    elements.main(["--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["element"] for row in rows] == list(ELEMENTS)
    assert all(
        row["status"] in elements.STATUSES and row["chapter"] in range(1, 13) for row in rows
    )


@pytest.mark.parametrize("name", [n for n in ELEMENTS if n.startswith(("Eq", "Alg"))])
def test_equations_and_algorithms_are_done(name):
    assert elements.status(ELEMENTS[name]) == "done"


def test_what_does_not_exist_is_not_done():
    done = ELEMENTS["Eq 1"]
    assert elements.status(replace(done, chapters=(99,))) == "planned"
    assert elements.status(replace(done, functions=("q_xt_x1",))) == "planned"
    assert elements.status(replace(done, labels=("eq-nowhere",))) == "partly"
    assert elements.status(replace(done, functions=("spatial_softmax",))) == "partly", (
        "chapters 1 and 3 do not use it"
    )


def test_a_table_is_done_when_all_its_cells_are_measured(monkeypatch, tmp_path):
    element = ELEMENTS["Table 5"]
    rows = (
        Claim("AP", "a", "90", ("50",), "none"),
        Claim("AP", "b", "90", ("-",), "uniform:t=0.1"),
    )
    for attacks, share in ((("PGD+EOT",), 1), (("BPDA+EOT",), 0)):
        monkeypatch.setitem(TABLES, "Table 5", Table("Table 5", "", attacks, rows))
        monkeypatch.setattr(
            elements,
            "measured_cells",
            lambda _: {
                (elements.place("cifar10-small", "Linf", 8 / 255, "pgd"), "none"): [Path("a")]
            },
        )
        assert elements.share(element) == share
        assert elements.status(element) == ("done" if share else "planned")
    monkeypatch.undo()
    assert (
        elements.share(element, tmp_path) == 0
        and elements.status(ELEMENTS["Fig 7"], tmp_path) == "planned"
    )


def written(results, defence, eps):
    """A file of one record of the ImageNet bench, attacked at that radius and always right."""
    _, purifier = specs.parse(defence, DEFENCES)
    config = {
        "bench": "imagenet-small-10",
        "defence": {"name": defence.partition(":")[0]} | vars(purifier),
        "seed": 0,
        "weights": {},
    }
    config |= {"split": "test", "K": 1}
    config["attack"] = {"name": "pgd"} | vars(PGD(eps=eps))
    columns = {c: {"labels": [0], "soft": 0} for c in evidence.COLUMNS}
    path = results / "imagenet-small-10" / f"{config['defence']['name']}-{round(255 * eps)}.jsonl"
    record_files.append(
        path, [{"image": key, "label": 0, "config": config} | columns for key in "abc"]
    )


def test_records_of_another_radius_count_for_nothing(tmp_path):
    """The method is needed at the caption's radius, and where the quoted rows were attacked."""
    places = [
        place for place, defence in elements.cells(TABLES["Table 6"]) if defence == printed.STRONGER
    ]
    assert [round(255 * eps) for _, _, eps, _ in places] == [8, 4]
    share = {}
    for name, defence, radius in (
        ("method", printed.STRONGER, 8),
        ("lorid", "lorid:t=0.05,steps=2", 4),
        ("noise", "uniform:t=0.2,steps=6", 4),
    ):
        written(tmp_path / name, defence, radius / 255)
        share[name] = elements.share(ELEMENTS["Table 6"], tmp_path / name)
    assert share["method"] == share["noise"] > share["lorid"] == 0, (
        "LoRID's row is at the caption's radius, that of noise is quoted at 4/255"
    )


def test_an_element_names_the_records_of_what_it_shows(tmp_path):
    written(tmp_path, printed.STRONGER, 8 / 255)
    written(tmp_path, "lorid:t=0.05,steps=2", 4 / 255)
    rows = {row["element"]: row["records"] for row in elements.listing(tmp_path)}
    assert (
        rows["Table 6"] == ["imagenet-small-10/hetpure-8.jsonl"]
        and rows["Table 1"] == rows["Eq 1"] == []
    )
    where = studies.path("distance", "cifar10-small", results=tmp_path)
    record_files.append(where, [{"image": "a", "rows": []}])
    assert {row["element"]: row["records"] for row in elements.listing(tmp_path)}["Fig 9"] == [
        where.relative_to(tmp_path).as_posix()
    ]


def test_the_scorecard_pairs_records_of_the_tables_own_radius_and_clean_images_of_any(tmp_path):
    rival = "lorid:t=0.05,steps=2"
    attacked, clean = (
        next(
            c
            for c in comparisons.comparisons()
            if (c.table.name, c.rival.ours, c.column) == ("Table 6", rival, column)
        )
        for column in ("PGD+EOT", "standard")
    )
    seen = lambda claim: comparisons.measure(claim, compare.known("imagenet-small-10", tmp_path))
    for defence in (printed.STRONGER, rival):
        written(tmp_path, defence, 4 / 255)
    assert seen(attacked) is None
    written(tmp_path, printed.STRONGER, 8 / 255)
    assert seen(attacked) is None, "the method at 8/255 beside a rival at 4/255"
    assert seen(clean).judged.difference.n == 3
    written(tmp_path, rival, 8 / 255)
    assert seen(attacked).judged.difference.n == 3 and seen(attacked).scale == "toy"


def test_a_figure_with_a_study_is_done_when_it_is_measured(tmp_path):
    figure = ELEMENTS["Fig 9"]
    assert elements.share(figure, tmp_path) == 0 and elements.status(figure, tmp_path) == "planned"
    record_files.append(
        studies.path("distance", "cifar10-small", results=tmp_path), [{"image": "a", "rows": []}]
    )
    assert elements.share(figure, tmp_path) == 1


def test_a_section_is_as_far_as_its_least_part():
    states = [elements.status(ELEMENTS[part]) for part in ELEMENTS["Sec 9"].parts]
    assert elements.status(ELEMENTS["Sec 9"]) == min(states, key=elements.STATUSES.index)
    assert elements.status(
        replace(ELEMENTS["Sec 9"], parts=("Alg 2", "Table 2"))
    ) == elements.status(ELEMENTS["Table 2"])


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)
def test_a_table_has_one_value_per_attack_and_known_attacks(table):
    assert set(table.attacks) <= set(printed.ATTACK_NAMES)
    assert {len(row.robust) for row in table.rows} == {len(table.attacks)}
    assert len({row.ours for row in table.rows if row.ours}) == sum(
        bool(row.ours) for row in table.rows
    ), "two rows, one defence"


def queued():
    """What results/queue.txt will have measured, as `elements.cells`."""
    for words in evidence.queue():
        options = {"--bench": "cifar10-small"} | dict(zip(words[::2], words[1::2]))
        experiment = evidence.Experiment(options["--defence"], options["--attack"])
        slug, attack = specs.parse(experiment.attack, ATTACKS)
        yield (
            elements.place(options["--bench"], attack.norm, attack.eps, slug),
            specs.normal(options["--defence"], DEFENCES),
        )


SMALL = [name for name, table in TABLES.items() if "-small" in table.bench]


@pytest.mark.parametrize("name", SMALL)
def test_a_table_is_done_once_the_queue_is(name, monkeypatch):
    monkeypatch.setattr(
        elements, "measured_cells", lambda _: {cell: [Path("a")] for cell in queued()}
    )
    assert (
        set(elements.cells(TABLES[name])) <= set(queued()) and elements.share(ELEMENTS[name]) == 1
    )


@pytest.mark.parametrize("name", SMALL)
def test_a_row_that_nothing_measures_here_says_why(name):
    reasons = (printed.DOWNLOAD, printed.NO_SVHN, "which settings is not said")
    for row in TABLES[name].rows:
        assert row.ours or any(reason in row.note for reason in reasons), row.method
        assert "/" not in row.ours, "published networks are not for the small benches"


def test_table_7_does_not_lose_by_every_block():
    rows = {row.method: float(row.standard) for row in TABLES["Table 7"].rows}
    assert rows["without block 3"] > rows["all blocks"] == rows["without block 2"]  # erratum E24


def records(rates, K=10):
    labels = [[0] * round(r * K) + [1] * (K - round(r * K)) for r in rates]
    return {
        str(i): {"label": 0} | {c: {"labels": row, "soft": 0} for c in evidence.COLUMNS}
        for i, row in enumerate(labels)
    }


def test_a_comparison_takes_the_attack_that_most_images_share():
    chosen = ("Table 1", "PGD+EOT", "gradual", "")
    claim = next(
        c
        for c in comparisons.comparisons()
        if (c.table.name, c.column, c.rival.ours, c.variant) == chosen
    )
    weak, strong = records([0.5] * 4), records([0.9] * 8)
    cells = {("hetpure", "pgd", 0): strong, ("gradual", "pgd", 0): records([0.4] * 3)}
    cells |= {("hetpure", "pgd:eot=4", 0): weak, ("gradual", "pgd:eot=4", 0): strong}
    found = comparisons.measure(claim, compare.Known(cells))
    assert found.attack == "pgd:eot=4" and found.judged.difference.n == 4
    assert (
        found.judged.difference.value == pytest.approx(-0.4)
        and comparisons.measure(claim, compare.Known({})) is None
    )


def test_where_a_stand_in_could_change_the_verdict_both_are_listed():
    found = [
        c
        for c in comparisons.comparisons()
        if c.table.name == "Table 1" and "DiffPure" in c.rival.method
    ]
    assert {(c.column, c.variant, c.stand_in) for c in found} == {
        ("standard", "", False),
        ("standard", "by DDIM", True),
        ("PGD+EOT", "", False),
        ("PGD+EOT", "by DDIM", True),
        ("AutoAttack", "", False),
        ("AutoAttack", "by DDIM", True),
        ("AutoAttack", "as packaged", False),
    }


def test_numbers_of_another_radius_are_not_compared():
    found = {
        (c.rival.method, c.column) for c in comparisons.comparisons() if c.table.name == "Table 6"
    }
    assert ("Nie et al. (DiffPure, t* = 0.3)", "standard") in found
    assert ("Nie et al. (DiffPure, t* = 0.3)", "PGD+EOT") not in found  # attacked at 4/255


def test_comparisons_are_with_other_rows_and_have_a_direction():
    found = list(comparisons.comparisons())
    assert all(c.rival.specs and c.rival is not c.method and c.claimed for c in found)
    assert {"Gowal et al. 2021", "Salman et al."} <= {c.rival.method for c in found}, (
        "published networks, which are not here"
    )
    diffpure = next(
        c
        for c in found
        if c.table.name == "Table 1" and c.column == "standard" and "DiffPure" in c.rival.method
    )
    assert diffpure.claimed == pytest.approx(93.16 - 90.07)


@pytest.mark.parametrize("name", pages.PAGES)
def test_generated_pages_are_up_to_date(name):
    assert (ROOT / "book" / name).read_text() == pages.PAGES[name](), "run: hetpure pages"


def test_the_scorecard_is_honest_about_what_is_missing(tmp_path):
    page = pages.scorecard(tmp_path).partition("## Table 1")[2]
    assert set(re.findall(r"\*\*([a-z ]+)\*\*", page)) == {"not tested"}
    assert page.count("leaves more under attack than tau = 0.8: **not tested**.") == 1


def test_the_scorecard_says_in_words_whether_fig_7_holds():
    page = pages.scorecard().partition("## Fig 7")[2].partition("\n## ")[0]
    words = [
        ablations.choice(ablations.records(ablations.experiments(n)), ablations.GRIDS[n].reference)
        for n in ("tau", "levels")
    ]
    assert all(f": {said}." in page for said in words)


@pytest.mark.parametrize("name", ["Table 2", "Table 4"])
def test_the_larger_classifiers_tables_are_measured_on_their_small_bench(name, tmp_path):
    """By every row that the small bench can have, its adversarially trained network among them."""
    wanted = elements.cells(TABLES[name])
    assert {place[0] for place, _ in wanted} == {"cifar10-small-swish"}
    defences = {defence for _, defence in wanted}
    assert {printed.METHOD, "gradual"} <= defences and sum(
        d.startswith("at") for d in defences
    ) == 1
    assert not any("/" in d for d in defences)
    assert elements.status(ELEMENTS[name], tmp_path) == "planned"
