"""Colours of figures can be seen on white, and told apart by those who see two primaries."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from hetpure_lab.report import plots

# Machado, Oliveira and Fernandes 2009, whole deficiency, on linear RGB
EYES = {
    "three primaries": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
# Colours that one axis tells apart by nothing else: columns of outcomes, defences, and readings.
TOGETHER = {
    "columns": {role: plots.COLOURS[role] for role in ("clean", "null", "adversarial")},
    "defences": {role: plots.COLOURS[role] for role in ("clean", "uniform", "hetpure", "paper")},
    "readings": plots.READINGS | {"line": plots.COLOURS["paper"]},
}
# Half of all eyes see a CIELAB difference of 2.3 between large patches (Mahy et al. 1994). A line
# or a point is small, so colours of one axis are three times as far apart. Others also differ in
# shape or place, and twice is enough.
APART, ELSEWHERE = 3 * 2.3, 2 * 2.3


def linear(colour: str) -> np.ndarray:
    c = np.array(to_rgb(colour))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(colour: str) -> float:
    """With white, as WCAG defines it."""
    return 1.05 / (linear(colour) @ TO_XYZ[1] + 0.05)


def lab(colour: str, eyes: str) -> np.ndarray:
    seen = np.clip(np.array(EYES[eyes]) @ linear(colour), 0, 1)
    x = TO_XYZ @ seen / (0.95047, 1, 1.08883)
    f = np.where(x > (6 / 29) ** 3, np.cbrt(x), x / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def ciede2000(one: np.ndarray, other: np.ndarray) -> float:
    """Sharma, Wu and Dalal 2005."""
    (L, a, b), root = np.array([one, other], float).T, lambda c: np.sqrt(c**7 / (c**7 + 25.0**7))
    a = a * (1.5 - 0.5 * root(np.hypot(a, b).mean()))
    C, h = np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360
    turn = ((h[1] - h[0] + 180) % 360 - 180) * bool(C.prod())
    hue, chroma, light = h[0] + turn / 2, C.mean(), (L.mean() - 50) ** 2
    cos = [np.cos(np.radians(k * hue - d)) for k, d in ((1, 30), (2, 0), (3, -6), (4, 63))]
    T = 1 - 0.17 * cos[0] + 0.24 * cos[1] + 0.32 * cos[2] - 0.20 * cos[3]
    dL = (L[1] - L[0]) / (1 + 0.015 * light / np.sqrt(20 + light))
    dC = (C[1] - C[0]) / (1 + 0.045 * chroma)
    dH = 2 * np.sqrt(C.prod()) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * chroma * T)
    twist = np.sin(np.radians(60 * np.exp(-(((hue % 360 - 275) / 25) ** 2))))
    return np.sqrt(dL**2 + dC**2 + dH**2 - 2 * root(chroma) * twist * dC * dH)


# rows 1, 4, 7 and 16 of the table of Sharma, Wu and Dalal, and one across the hue of 0
@pytest.mark.parametrize(
    "one, other, wanted",
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_measure_is_ciede2000(one, other, wanted):
    assert ciede2000(one, other) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("colour", {**plots.COLOURS, **plots.READINGS}.values())
def test_a_line_of_every_colour_is_seen_on_white(colour):
    assert contrast(colour) >= 3, "WCAG 1.4.11"


def closest(colours: dict[str, str], eyes: str) -> tuple[float, tuple[str, str]]:
    seen = {name: lab(colour, eyes) for name, colour in colours.items()}
    return min((ciede2000(seen[a], seen[b]), (a, b)) for a, b in combinations(seen, 2))


@pytest.mark.parametrize("eyes", EYES)
def test_colours_of_one_axis_are_told_apart(eyes):
    for group, colours in TOGETHER.items():
        assert closest(colours, eyes)[0] > APART, (group, closest(colours, eyes))
    assert closest(plots.COLOURS, eyes)[0] > ELSEWHERE, closest(plots.COLOURS, eyes)
