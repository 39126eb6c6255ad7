"""Report cards: of a defence on record, of a function, and what is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from conftest import TinyClassifier, seeded

from hetpure_core import linear_schedule
from hetpure_lab import cli, data
from hetpure_lab.audit import plans
from hetpure_lab.report import card
from hetpure_lab.report.card import BadDefence


@pytest.fixture(scope="module")
def made():
    return card.audit("hetpure", live=False)


def test_a_card_holds_all_that_decided_it(made):
    values = json.loads(json.dumps(made.as_json()))
    assert (
        values["worst"]["attacks"] > 5 and values["scale"] == "small" and len(values["checks"]) > 20
    )
    assert set(values["controls"]) == {"no attack", "random noise", "attacked"}
    assert len(values["curves"]["radius"]) == 4 and len(values["curves"]["budget"]) > 2
    assert (
        any(name.endswith(".jsonl") for name in values["hashes"])
        and "hetpure_core.py" in values["hashes"]
    )


def test_the_page_stands_alone_and_shows_nothing_as_passed_that_was_not_measured(made):
    page = made.html()
    assert page.startswith("<!doctype html>") and page.count("<svg") == 2
    assert not [word for word in ('src="http', 'href="http', "<script") if word in page]
    states = {c.name: v.state for c, v in made.rows}
    assert states["exact gradient"] == "not measured", "no live run was made"
    assert made.latex().count("\\\\") == len(made.rows) + 1


def test_a_function_is_told_from_a_defence_with_settings():
    assert card.is_function("mymodule:purify") and card.is_function("pack.age:purify")
    assert not card.is_function("uniform:t=0.1") and not card.is_function("hetpure")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: x[:, :1], r"returns shape \(2, 1, 8, 8\) for images of shape \(2, 3, 8, 8\)"),
        (lambda x: x * float("nan"), "returns 384 values that are NaN or infinite"),
        (lambda x: x.numpy(), "returns ndarray, not a tensor"),
        (lambda x: 255 * x, "images are in \\[0, 1\\]"),
        (lambda x: x.nowhere, "fails on images of shape .* AttributeError"),
    ],
)
def test_what_returns_no_images_is_refused_in_a_sentence(function, said):
    with pytest.raises(BadDefence, match=said):
        card.trusted(function, 0.5 * torch.ones(2, 3, 8, 8))


def test_too_few_images_and_unknown_names_are_refused():
    one = data.embedded_sample(data.DATASETS["cifar10"])[torch.arange(1)]
    with pytest.raises(ValueError, match="at least 2 images, not 1"):
        card.enough(one)
    with pytest.raises(ValueError, match="unknown budget 'week'; known: minute, hour, night"):
        card.audit("hetpure", budget="week")
    with pytest.raises(BadDefence, match="module 'json' has no 'purify'"):
        card.load("json:purify")
    with pytest.raises(BadDefence, match="cannot import 'nowhere'"):
        card.load("nowhere:purify")


def test_a_function_is_attacked_and_its_card_is_a_toy():
    images = data.embedded_sample(data.DATASETS["cifar10"])[torch.arange(2)]
    classifier = seeded(TinyClassifier, 1).float()
    classifier.head = torch.nn.Linear(8, 10)
    lab = SimpleNamespace(
        name="cifar10-small",
        dataset="cifar10",
        classifier=classifier,
        schedule=linear_schedule(),
        device=torch.device("cpu"),
    )
    made = card.audit(lambda x: (4 * x).round() / 4, lab, "minute", images)
    assert made.scale == "toy" and made.left and "undefended" in {c.name for c, _ in made.rows}
    assert "<h1>" in made.html()


def test_every_check_says_what_it_needs_and_how_long_that_takes(made):
    checked = made.as_json()["checks"]
    assert all(c["needs"] and c["takes"] for c in checked)
    by_name = {c["check"]: c for c in checked}
    assert by_name["null control"]["needs"] == "pgd" and by_name["exact gradient"]["needs"] == (
        "a live run"
    )
    long, short = (
        made.clock.seconds(f"hetpure run --defence hetpure --attack {a} --n-images 64")
        for a in ("pgd:iterations=200,eot=20", "pgd")
    )
    assert long == pytest.approx(25 * short), "gradients: 200 x 20 against 20 x 8"
    page = made.html()
    assert "<th>needs</th><th>takes</th>" in page and "color-scheme:light dark" in page


def test_a_preset_lists_what_fits_into_its_time_and_a_night_more_than_an_hour():
    made = card.audit("gradual", live=False)
    spent = {}
    for name, hours in plans.HOURS.items():
        found = list(plans.preset(name, made.rows, made.clock))
        spent[name] = sum(seconds or 0 for _, seconds in found)
        assert spent[name] <= 3600 * hours
        assert all(line.startswith("hetpure run") for line, _ in found)
    assert 0 < spent["minute"] + spent["hour"] < spent["night"]
    assert made.plan("hour") == made.as_json()["plans"]["hour"]


def test_a_time_that_nobody_knows_is_said_so(made):
    command = "hetpure run --defence uniform:t=0.123 --attack pgd --n-images 64"
    assert made.clock.seconds(command) is None and "not known" in plans.said(None)


def refused(capsys, defence: str, n_images: int) -> str:
    """The one sentence of an audit that is refused."""
    assert cli.main(["audit", "--defence", defence, "--n-images", str(n_images)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    return error


def test_too_few_images_are_refused_in_one_sentence(capsys):
    assert "at least 2 images, not 1" in refused(capsys, "uniform:t=0.1", 1)


def test_a_defence_that_fails_is_refused_in_one_sentence(shared, capsys):
    """An audit from the command line takes images of the test set."""
    assert "the defence fails on images of shape" in refused(capsys, "json:dumps", 2)
