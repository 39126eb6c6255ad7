"""Tables 6 and 8, and what their chapters share: one radius at a time, honest stand-ins, inputs
that differ as they say.
"""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from hetpure_lab import data, evidence
from hetpure_lab.attacks import PGD
from hetpure_lab.common import names, specs
from hetpure_lab.data import NoData, sources
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import inputs
from hetpure_lab.evidence.outcomes import column_record
from hetpure_lab.networks import benches
from hetpure_lab.networks.benches import BenchError
from hetpure_lab.paper import printed
from hetpure_lab.report import regenerate, tables

# ---- claims and tables ---------------------------------------------------------------------------


def write(results, defence, eps, correct, bench="imagenet-small"):
    """A record file as an experiment leaves it: `correct` says which of its images survive the
    attack.
    """
    _, purifier = specs.parse(defence, DEFENCES)
    settings = {"name": defence.partition(":")[0]} | (vars(purifier) if purifier else {})
    config = {
        "bench": bench,
        "split": "test",
        "defence": settings,
        "K": 1,
        "seed": 0,
        "weights": {},
    }
    config["attack"] = {"name": "pgd", **vars(PGD(eps=eps))}
    logits = torch.eye(10)
    column = lambda right: column_record(logits[None, [7 if right else 1]])[0]
    rows = [
        {"image": f"i{k}", "label": 7, "config": config, "adversarial": column(c)}
        for k, c in enumerate(correct)
    ]
    rows = [r | {"clean": column(True), "null": column(True)} for r in rows]
    evidence.append(results / bench / f"{settings['name']}-{round(255 * eps)}.jsonl", rows)


@pytest.fixture
def both_radii(tmp_path):
    write(tmp_path, printed.STRONGER, 4 / 255, [1, 1, 1, 0])
    write(tmp_path, printed.STRONGER, 8 / 255, [1, 0, 0, 0])
    write(tmp_path, "uniform:t=0.2,steps=6", 4 / 255, [1, 1, 0, 0])
    return tmp_path


def test_a_table_shows_one_radius_of_the_records(both_radii):
    for eps, value in ((4 / 255, "75.0"), (8 / 255, "25.0"), (None, "25.0")):
        table = tables.beside_the_paper(
            "Table 6", "imagenet-small", "Linf", both_radii, eps
        ).set_index("method")
        assert re.fullmatch(rf"{value} \[.*\] \(4\)", table.loc["the method", "here: PGD+EOT"])


def test_a_number_quoted_from_another_radius_is_not_shown(both_radii):
    quoted = tables.TABLES["Table 6"].rows[3]
    small, large = (
        tables.beside_the_paper("Table 6", "imagenet-small", "Linf", both_radii, eps).set_index(
            "method"
        )["paper: PGD+EOT"]
        for eps in (4 / 255, 8 / 255)
    )
    assert small[quoted.method] == quoted.robust[0] and large[quoted.method] == "other radius"


def test_the_captions_own_radius_is_not_that_of_the_quoted_rows():
    rows = tables.TABLES["Table 6"].rows
    assert [c.method for c in rows if c.at(8 / 255).robust == c.robust][-1] == "the method"
    assert all(c.eps == 4 / 255 for c in rows if c.kind == "AT")


@pytest.mark.parametrize(
    ("table", "bench"), [("Table 6", "imagenet-small-10"), ("Table 8", "svhn-small")]
)
def test_the_methods_row_is_measured_with_the_benchs_settings(table, bench):
    row = next(c for c in tables.TABLES[table].rows if c.method == "the method")
    method = benches.SMALL[bench][2]
    assert specs.parse(row.ours, DEFENCES)[1] == method and regenerate.spec(method) == row.ours


def test_rows_of_diffpure_have_its_levels_and_by_ddim_the_methods_steps():
    rows = {
        t: [specs.parse(c.ours, DEFENCES) for c in tables.TABLES[t].rows if "DiffPure" in c.method]
        for t in ("Table 6", "Table 8")
    }
    assert all([purifier.t for _, purifier in found] == [0.2, 0.3, 0.4] for found in rows.values())
    assert {slug for slug, _ in rows["Table 8"]} == {"sde"} and {
        slug for slug, _ in rows["Table 6"]
    } == {"uniform"}
    assert {purifier.steps for _, purifier in rows["Table 6"]} == {
        benches.SMALL["imagenet-small-10"][2].steps
    }


def test_the_larger_radius_is_compared_image_by_image(both_radii, monkeypatch):
    monkeypatch.setattr(regenerate, "RESULTS", both_radii)
    rows = {eps: tables.headline("imagenet-small", both_radii, eps) for eps in (4 / 255, 8 / 255)}
    effect = regenerate.radius_effect(rows, "imagenet-small")
    assert list(effect.index) == [printed.STRONGER] and effect.loc[
        printed.STRONGER, "change, points"
    ].startswith("-50.0")


def test_the_field_is_of_one_radius_and_in_the_order_of_cost(both_radii):
    small, large = (
        tables.by_cost(tables.field("imagenet-small", results=both_radii, eps=eps))
        for eps in (4 / 255, 8 / 255)
    )
    assert [r["defence"] for r in small] == ["uniform:t=0.2,steps=6", printed.STRONGER]
    assert [r["defence"] for r in large] == [printed.STRONGER]
    assert (
        tables.cost("at:model=pgd-at-linf")
        == tables.cost("none")
        == 0
        < tables.cost(small[0]["defence"])
    )


def test_the_paired_table_speaks_only_of_what_was_measured(both_radii, monkeypatch):
    monkeypatch.setattr(regenerate, "RESULTS", both_radii)
    pairs = regenerate.paired(
        tables.headline("imagenet-small", both_radii, 4 / 255), printed.STRONGER, "imagenet-small"
    )
    assert list(pairs.index) == ["uniform:t=0.2,steps=6"]
    assert pairs["the method is"].tolist() == ["inconclusive"]
    assert names.markup(pairs.index[0]) in regenerate.verdicts(pairs)
    alone = regenerate.paired(
        tables.headline("imagenet-small", both_radii, 8 / 255), printed.STRONGER, "imagenet-small"
    )
    assert regenerate.verdicts(alone) == "No record compares the method with another defence yet."


def test_measured_rows_link_to_their_records_and_absent_ones_say_so(both_radii):
    rows = tables.measured(tables.evidence_rows("imagenet-small", results=both_radii, eps=8 / 255))
    assert (
        'href="../results/imagenet-small/hetpure-8.jsonl"' in regenerate.or_nothing(rows).to_html()
    )
    assert regenerate.or_nothing(tables.measured([])).data == "Not measured yet."


def test_published_networks_are_described_by_origin_and_licence_and_have_no_curves(monkeypatch):
    monkeypatch.setattr(
        benches.checkpoints,
        "recorded",
        lambda: dict.fromkeys(benches.checkpoints.CATALOGUE, "0" * 64),
    )
    paper = SimpleNamespace(
        weights=dict.fromkeys(("cifar10-paper-classifier", "cifar10-paper-denoiser"), "")
    )
    table = regenerate.network_table(paper)
    assert (
        table.loc["licence", "cifar10-paper-denoiser"] == "CC BY-NC-SA 4.0"
        and "RobustBench" in table.loc["from", "cifar10-paper-classifier"]
    )
    assert "no curves" in regenerate.training_curves(paper).data
    small = regenerate.network_table(SimpleNamespace(weights={"cifar10-small-denoiser": ""}))
    assert {"images seen", "hours"} <= set(small.index) and "licence" not in small.index


# ---- images --------------------------------------------------------------------------------------


def bench(name, dataset, closed=None):
    return SimpleNamespace(name=name, dataset=dataset, classifier=SimpleNamespace(closed=closed))


def nothing(dataset, *_):
    raise NoData(f"{dataset.name} was not found")


def test_samples_stand_in_for_absent_data_and_say_so(monkeypatch, capsys):
    monkeypatch.setattr(sources, "_find", nothing)
    for name, dataset, said in (
        ("svhn-small", "svhn-unseen", "stand-in"),
        ("cifar10-small", "cifar10", "the CIFAR-10 sample"),
    ):
        images = regenerate.images_for(bench(name, dataset))
        assert (
            said in images.source and images.split == "sample" and said in capsys.readouterr().err
        )
    with pytest.raises(NoData):
        regenerate.images_for(bench("cifar10-small", "cifar10"), "a folder")


def test_ten_way_refuses_images_of_other_classes(monkeypatch):
    monkeypatch.setattr(
        regenerate.lab_data,
        "load_or_sample",
        lambda *_: data.embedded_sample(data.DATASETS["imagenet"]),
    )
    closed = torch.ones(1000)
    closed[list(benches.IMAGENETTE)] = 0
    assert len(regenerate.images_for(bench("imagenet-small", "imagenet", torch.zeros(1000)))) == 20
    with pytest.raises(
        BenchError,
        match="decides between ten classes only, but the ImageNet sample in Foolbox has label 243",
    ):
        regenerate.images_for(bench("imagenet-small-10", "imagenet", closed))


# ---- what the classifier is fed ------------------------------------------------------------------


class Shows:
    """Hands back its input instead of logits."""

    def logits(self, x):
        return x

    def __call__(self, x):
        return x


def test_the_release_hands_over_plain_pixels_at_256():
    x = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    fed = inputs.unnormalised(Shows(), x)
    assert fed.shape[-2:] == (256, 256) and 0 <= fed.min() and fed.max() <= 1
    assert float(fed.mean()) == pytest.approx(float(x.mean()), abs=1e-3)
    assert torch.allclose(inputs.as_they_come(Shows(), x), (255 * x - 127) / 128)


def slope(image, axis):
    """Mean change per pixel along an axis, away from the edges."""
    return float(image[0, 0].diff(dim=axis)[20:-20, 20:-20].mean())


def test_squashing_changes_proportions_and_cropping_does_not():
    ramp = torch.arange(128.0)[:, None].expand(128, 128)
    down, across = ramp.expand(1, 3, 128, 128), ramp.T.expand(1, 3, 128, 128)
    for feed, same in ((inputs.cropped, True), (inputs.squashed, False)):
        vertical, horizontal = slope(feed(Shows(), down), 0), slope(feed(Shows(), across), 1)
        assert horizontal == pytest.approx(96 / 224, rel=1e-4)
        assert vertical == pytest.approx((96 if same else 128) / 224, rel=1e-4)


def test_the_table_of_inputs_pairs_every_row_with_the_first():
    hits = {
        "a": {"clean": np.array([1, 1, 1, 0], bool)},
        "b": {"clean": np.array([1, 0, 0, 0], bool)},
    }
    table = inputs.table(hits)
    assert table.loc["b", "clean"].startswith("25.0") and table.loc[
        "b", "change, clean"
    ].startswith("-50.0")
    assert table.loc["a", "change, clean"] == ""


def test_a_table_for_the_page_lists_each_note_once_and_names_what_specs_mean():
    notes = ["not ours", "", "not ours", "another"]
    settings = {
        "defence here": ["hetpure:t_l=0.4,t_s=0.2"] * 4,
        "attack": ["pgd:eps=0.01568627450980392,eot=4"] * 4,
    }
    frame = pd.DataFrame(settings | {"note": notes, "verdict": ["open", "higher", "lower", "open"]})
    html = tables.show(frame, "Which is which").to_html()
    assert (
        html.count("not ours") == html.count("another") == 1
        and "Which is which<br>1: not ours<br>2: another" in html
    )
    assert re.findall(r'class="data row\d col3" >([^<]*)<', html) == ["1", "", "1", "2"]
    assert (
        'title="hetpure:t_l=0.4,t_s=0.2">the method, tₗ = 0.4, tₛ = 0.2<' in html
        and 'title="pgd:eps=4/255,eot=4"' in html
    )
    assert html.index("verdict") < html.index("defence here")
    assert "<caption" not in tables.show(frame.assign(note="")).to_html()


def test_a_note_ends_with_a_name_and_keeps_other_words():
    notes = {note for t in printed.TABLES.values() for c in t.rows if (note := c.note)}
    shown = [tables.noted(note) for note in notes]
    assert not any(re.search(r"here: at|: [a-z]+:", re.sub("<[^>]*>", "", s)) for s in shown)
    assert any("<abbr" in s for s in shown) and any("<abbr" not in s for s in shown)


def test_an_interval_is_not_broken_and_markup_in_a_cell_stays_text():
    frame = pd.DataFrame({"clean": ["64.1 [51.6, 76.6] (64)", "<b>"]})
    html = tables.show(frame).to_html()
    assert "64.1\u00a0[51.6,\u00a076.6] (64)" in html and "&lt;b&gt;" in html


def test_only_long_tables_fold():
    frame = pd.DataFrame({"defence": ["none"] * (tables.LONG + 1)})
    assert (
        "dataframe long" in tables.show(frame).to_html()
        and "dataframe long" not in tables.show(frame[1:]).to_html()
    )
