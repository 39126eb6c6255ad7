"""Settings as text: what cannot be meant is one sentence that names it, and reading twice costs
once.
"""

from __future__ import annotations

import pytest

from hetpure_lab.attacks import ATTACKS
from hetpure_lab.common import specs
from hetpure_lab.defences import DEFENCES


@pytest.mark.parametrize("value", ["8/0", "1e400", "nan", "inf", "", "abc"])
def test_a_number_that_is_none_is_named(value):
    with pytest.raises(ValueError, match=f"eps is .*, not '{value}'"):
        specs.parse(f"pgd:eps={value}", ATTACKS)


@pytest.mark.parametrize(
    "text", ["pgd:iterations=2.5", "pgd:random_start=maybe", "pgd:taw=3", "hetpure:blocks=a"]
)
def test_a_setting_that_cannot_be_meant_is_refused_every_time(text):
    for _ in range(2):  # errors are not kept
        with pytest.raises(ValueError, match="taw|, not '"):
            specs.parse(text, ATTACKS if text.startswith("pgd") else DEFENCES)


def test_what_is_read_twice_is_one_object_that_nobody_can_change():
    (_, a), (_, b) = (specs.parse("hetpure:tau=0.5", DEFENCES) for _ in range(2))
    assert a is b and a.tau == 0.5
    with pytest.raises(AttributeError):
        a.tau = 0.4
