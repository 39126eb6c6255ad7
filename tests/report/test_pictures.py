"""The step that a chapter shows of a purifier is its own, and formulas in code can be read."""

from __future__ import annotations

import inspect
import re

import pytest

import hetpure_core
from hetpure_core import Uniform
from hetpure_lab import defences
from hetpure_lab.common import specs
from hetpure_lab.report import formulas, pictures

OWN = [slug for slug, kind in defences.DEFENCES.items() if kind is not None and slug != "at"]


@pytest.mark.parametrize("slug", OWN)
def test_every_purifier_has_a_step_to_show(slug):
    purifier = specs.parse(slug, defences.DEFENCES)[1]
    step = pictures.step_of(purifier)
    assert getattr(type(purifier), step.__name__) is step


def test_a_thing_without_steps_has_none_to_show():
    assert pictures.step_of(Uniform()).__name__ == "mask"
    with pytest.raises(ValueError, match="has no step to show"):
        pictures.step_of(object())


@pytest.mark.parametrize(
    "tex, text",
    [
        (r"\hat x_0 / \sqrt{\bar\alpha_t}", "x̂_0 / √ᾱ_t"),
        (r"\tfrac12 \sqrt{\tfrac{1 - r}{s} t}\, z", "1/2 √((1 - r)/s t) z"),
        (r"(\sum_i |A_{mi}|^p)^{1/p}", "(∑_i |A_mi|^p)^(1/p)"),
        (r"\unheard of", r"\unheard of"),
    ],
)
def test_a_formula_is_written_on_a_line(tex, text):
    assert formulas.written(tex) == text


def shown() -> list:
    """All that chapters and pages of rivals may show the source of."""
    steps = [pictures.step_of(specs.parse(slug, defences.DEFENCES)[1]) for slug in OWN]
    core = vars(hetpure_core).values()
    return steps + [f for f in core if getattr(f, "__module__", "") == "hetpure_core"]


def test_shown_source_has_no_raw_formulas():
    written = [t for f in shown() for t in re.findall(":math:`([^`]*)`", inspect.getsource(f))]
    assert len(written) > 10
    assert not [text for text in map(formulas.written, written) if re.search(r"[\\{}]", text)]
    assert ":math:" not in pictures.show_source(*(f for f in shown() if callable(f))).data
