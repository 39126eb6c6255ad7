"""Report cards: of a defence on record, of a function, and what is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from conftest import TinyClassifier, seeded

from hetpure_core import linear_schedule
from hetpure_lab import data
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
