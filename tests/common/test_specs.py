"""Settings as text: what cannot be meant is one sentence that names it."""

from __future__ import annotations

import pytest

from hetpure_lab.attacks import ATTACKS
from hetpure_lab.common import specs
from hetpure_lab.defences import DEFENCES


@pytest.mark.parametrize(
    "text, says",
    [
        ("pgd:eps=8/0", "eps is a finite number or a fraction such as 8/255, not '8/0'"),
        ("pgd:eps=1e400", "eps is a finite number"),
        ("pgd:eps=nan", "eps is a finite number"),
        ("pgd:eps=inf", "eps is a finite number"),
        ("pgd:eps", "eps is a finite number.* not ''"),
        ("pgd:iterations=2.5", "iterations is a whole number, not '2.5'"),
        ("pgd:random_start=maybe", "random_start is yes or no, not 'maybe'"),
        ("pgd:taw=3", "pgd has no setting taw"),
    ],
)
def test_what_cannot_be_meant_is_named(text, says):
    with pytest.raises(ValueError, match=says):
        specs.parse(text, ATTACKS)


def test_blocks_are_whole_numbers():
    with pytest.raises(ValueError, match=r"blocks is whole numbers joined by \+, not 'a'"):
        specs.parse("hetpure:blocks=a", DEFENCES)


def test_what_is_read_twice_is_equal():
    assert specs.parse("hetpure:tau=0.5", DEFENCES) == specs.parse("hetpure:tau=0.5", DEFENCES)
    assert specs.parse("none", DEFENCES) == ("none", None)
