"""A slider holds a whole picture for each value, and shows the chosen one alone."""

from __future__ import annotations

import base64
import re

import matplotlib.pyplot as plt
import pytest

from hetpure_lab.report.sliders import slider


def figures(values, pixels: bool) -> dict:
    found = {}
    for value in values:
        found[value], axis = plt.subplots(figsize=(1, 1))
        axis.imshow([[0, value]], vmax=1) if pixels else axis.plot([0, value])
    return found


@pytest.mark.parametrize("pixels, start", [(True, b"\x89PNG"), (False, b"<?xml")])
def test_every_frame_is_a_picture_of_its_own_and_one_is_chosen(pixels, start):
    others = plt.get_fignums()  # of tests before this one
    html = slider(figures((0.3, 0.8), pixels), "threshold <τ>", 0.8, "Masks").data
    pictures = [base64.b64decode(text) for text in re.findall(r"base64,([^\"]+)", html)]
    assert len(set(pictures)) == 2 and all(p.startswith(start) for p in pictures)
    assert re.findall(r'<figure class="chosen" data-value="([^"]*)"', html) == ["0.8"]
    assert re.findall(r'data-value="([^"]*)"', html) == ["0.3", "0.8"]
    assert "threshold &lt;τ&gt;" in html and html.count('alt="Masks; ') == 2
    assert plt.get_fignums() == others


def test_a_value_without_a_frame_is_refused():
    with pytest.raises(ValueError, match=r"0\.5.*0\.3, 0\.8"):
        slider(figures((0.3, 0.8), False), "threshold", 0.5, "Masks")
    plt.close("all")
