"""The step that a chapter shows of a purifier is its own."""

from __future__ import annotations

import pytest

from hetpure_core import Uniform
from hetpure_lab import defences
from hetpure_lab.common import specs
from hetpure_lab.report import pictures

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
