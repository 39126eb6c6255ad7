"""The ten names of ``import hetpure_lab as hp``: three lines, lists, cards, and what is refused."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

import hetpure_lab as hp
from hetpure_lab.cli import main
from hetpure_lab.common.stats import Accuracy
from hetpure_lab.evidence.records import read
from hetpure_lab.report import card as report_card

QUICK = "pgd:iterations=2,eot=1,confirm=0"


def smooth(images):
    """Somebody's own purifier: a blur."""
    return F.avg_pool2d(images, 3, 1, 1)


@pytest.fixture(scope="module")
def bench():
    return hp.load_bench("cifar10-small")


@pytest.fixture(scope="module")
def images():
    return hp.load_images("cifar10", n=3, split="sample")


@pytest.fixture(scope="module")
def compared(bench, images):
    """The three lines of the docstring, at the size of a test."""
    mine, noise = (
        hp.evaluate(hp.defend(bench, p), QUICK, images, K=2, progress=False)
        for p in (smooth, "uniform:t=0.1,steps=1")
    )
    return hp.compare(mine, noise)


def test_three_lines_put_an_own_purifier_beside_a_known_one(compared):
    assert compared.first.defence == "smooth" and "uniform noise" in compared.second.defence
    assert compared.word in ("higher", "lower", "inconclusive") and 0 < compared.p <= 1
    row = compared.frame().loc["adversarial"]
    first, second = compared.first.accuracy(), compared.second.accuracy()
    assert row["difference"] == pytest.approx(100 * (first.value - second.value))
    assert isinstance(first, Accuracy) and len(compared.first) == 3
    turned = hp.compare(compared.second, compared.first)
    assert turned.frame().loc["clean", "difference"] == -compared.frame().loc["clean", "difference"]


def test_cards_are_text_html_csv_and_latex(compared):
    for card in (compared, compared.first):
        assert card.title in str(card) and card.title in card._repr_html_()
        assert "<table" in card._repr_html_() and card.to_csv().count("\n") == len(card.frame()) + 1
        latex = card.to_latex()
        assert latex.count(r"\\") == len(card.frame()) + 1 and r"\toprule" in latex
        assert "%" not in latex.replace(r"\%", "")


def test_an_evaluation_goes_on_where_it_was_stopped(bench, images, tmp_path):
    defence = hp.defend(bench, smooth)
    options = {"K": 2, "folder": tmp_path, "progress": False}
    few = hp.evaluate(defence, QUICK, images[torch.tensor([0, 1])], **options)
    (file,) = tmp_path.rglob("*.jsonl")
    before = file.read_text()
    hp.evaluate(defence, QUICK, images, **options)
    assert file.read_text().startswith(before) and len(read(file)) == 3
    assert read(file)[images.ids[0]]["adversarial"] == few[images.ids[0]]["adversarial"]
    hp.evaluate(hp.defend(bench, lambda x: x, name="smooth"), QUICK, images, **options)
    assert len(list(tmp_path.rglob("*.jsonl"))) == 2  # another function under that name


def test_an_attack_stays_in_its_ball_on_real_pixels(bench, images):
    attack = hp.attack("pgd:iterations=1,eot=1,eps=4/255")
    found = attack(hp.defend(bench, None), images, progress=False)
    levels = 255 * (found - images.floats)
    assert levels.abs().max() <= 4.001 and (levels - levels.round()).abs().max() < 1e-3
    same = attack(hp.defend(bench, "none"), images.floats, images.labels, progress=False)
    assert same.shape == found.shape


def test_a_defence_purifies_and_answers(bench, images):
    defence = hp.defend(bench, "uniform:t=0.05,steps=1")
    assert defence.spec == "uniform:t=0.05,steps=1" and "uniform noise" in defence.name
    assert defence.purify(images).shape == images.floats.shape
    assert defence(images.floats, images.ids).shape == (3, 10)
    found = hp.defend(bench, smooth).purify(images)
    torch.testing.assert_close(found, smooth(images.floats))
    with pytest.raises(ValueError, match="no defence has no purifier"):
        hp.defend(bench, None).purify(images)


def test_lists_name_what_there_is():
    assert {"none", "hetpure", "uniform"} <= set(hp.defences().index)
    assert {"pgd", "autoattack-corrected", "paper"} <= set(hp.attacks().index)
    assert "cifar10-small" in hp.benches().index


class Sharpen(torch.nn.Module):
    """Somebody's own purifier as a module."""

    def forward(self, images):
        return (2 * images - smooth(images)).clamp(0, 1)


@dataclass(frozen=True)
class Rounded:
    """And as a dataclass, with the contract of the core."""

    levels: int = 8

    def mask(self, images, classifier, taps, noise):
        return None

    def plan(self, x_adv, mask, eps, noise, schedule):
        return [(0, lambda x: x + ((x * self.levels).round() / self.levels - x).detach())]

    def calls(self, schedule):
        return 0


@pytest.mark.parametrize(
    ("purifier", "name"), [(smooth, "smooth"), (Sharpen(), "Sharpen"), (Rounded(), "Rounded")]
)
def test_any_purifier_of_ones_own_gets_a_report_card(purifier, name, bench, images, monkeypatch):
    monkeypatch.setitem(report_card.BUDGETS, "minute", report_card.Budget(2, 1, 1, 2))
    found = hp.audit(hp.defend(bench, purifier), images[torch.tensor([0, 1])], progress=False)
    states = {row["check"]: row["state"] for row in found.as_json()["checks"]}
    assert found.name == name and found.case.found and set(states.values()) != {"not measured"}
    assert name in found.html() and str(found)


def test_the_card_of_a_spec_is_that_of_the_command(bench, capsys):
    found = hp.audit(hp.defend(bench, "none"), live=False)
    assert main(["audit", "--defence", "none", "--records-only", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found.as_json()["checks"]


@pytest.mark.parametrize(
    ("purifier", "n", "says"),
    [
        (smooth, 1, "an audit needs at least 2 images, not 1"),
        (lambda x: x[:, :1], 2, "returns shape .* for images of shape .* it must keep it"),
        (lambda x: x * float("nan"), 2, "values that are NaN or infinite"),
        (lambda x: 5 * x, 2, "images are in .0, 1."),
    ],
)
def test_an_audit_refuses_in_a_sentence(purifier, n, says, bench, images):
    with pytest.raises(ValueError, match=says) as caught:
        hp.audit(hp.defend(bench, purifier), images[torch.arange(n)], progress=False)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="unknown budget 'week'; known: minute, hour, night"):
        hp.audit(hp.defend(bench, smooth), budget="week")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda b, x: hp.load_bench("nowhere"), "unknown bench 'nowhere'; known: cifar10-small"),
        (lambda b, x: hp.load_images("mine"), "unknown data set 'mine'; known: cifar10"),
        (lambda b, x: hp.load_images("cifar10", 21, "sample"), "from 1 to 20"),
        (lambda b, x: hp.defend(b, "mine"), "unknown 'mine'; known: none"),
        (lambda b, x: hp.defend(b, 3), "a purifier is a spec, an object .* not 3"),
        (lambda b, x: hp.defend(b, Rounded), "is an object, Rounded.*, not the class Rounded"),
        (lambda b, x: hp.attack("pgd:eps=8/0"), "eps is a number"),
        (lambda b, x: hp.attack(3), "an attack is a spec or an Attack, not 3"),
        (lambda b, x: hp.attack()(hp.defend(b), x.floats), "needs their labels"),
        (lambda b, x: hp.attack()(hp.defend(b), x.floats, torch.zeros(3)), "labels are whole"),
        (lambda b, x: hp.evaluate(hp.defend(b), QUICK, x, K=0), "K and batch must be at least 1"),
    ],
)
def test_bad_input_is_a_sentence(call, says, bench, images):
    with pytest.raises(ValueError, match=says):
        call(bench, images)


def test_every_public_name_is_documented():
    for name in set(hp.__all__) - {"__version__"}:
        function = getattr(__import__("hetpure_lab.public").public, name)
        assert len(inspect.getdoc(function)) > 40 and inspect.signature(function)
    assert hp.__version__[0].isdigit() and set(hp.__all__) <= set(dir(hp))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        hp.nothing  # noqa: B018


def test_the_import_is_quick_and_packages_keep_their_names(root):
    code = (
        "import sys, hetpure_lab as hp; print('torch' in sys.modules);"
        "from hetpure_lab import attacks; print(attacks.PGD.__name__, hp.attacks is attacks);"
        "print(len(attacks()) > 5)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "PGD", "True", "True"]
