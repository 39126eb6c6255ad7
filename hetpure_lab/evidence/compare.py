"""Two experiments on the images they share: the paired difference, its tests, and the words that a verdict may use."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

import numpy as np

from hetpure_lab.common import stats
from hetpure_lab.evidence.outcomes import Outcomes
from hetpure_lab.evidence.records import read


def compare(reference: Path, other: Path, level: float = 0.05) -> dict:
    """Two experiments on the images they share: paired difference of attacked single-shot accuracy, and McNemar on the vote.

    `detectable`: with votes that differ on as many images, the difference that McNemar at this level finds four times in five.
    """
    a, b = read(reference), read(other)
    shared = [key for key in a if key in b]
    first, second = (Outcomes.of({key: records[key] for key in shared}) for records in (a, b))
    rates = [o.correct("adversarial").mean(1) for o in (first, second)]
    difference = stats.paired_difference(*rates)
    votes = [o.majority_correct("adversarial") for o in (first, second)]
    tests = {"p (difference)": stats.sign_flip(*rates), "p (vote, McNemar)": stats.mcnemar(*votes)}
    tests["detectable"] = _detectable(*votes, level)
    return {"n": len(shared), "difference": difference} | tests | {"verdict": verdict(difference)}


# The tests of `compare`, and their names once they are corrected for how many were made.
TESTS = {"p (difference)": "p (difference, Holm)", "p (vote, McNemar)": "p (vote, McNemar, Holm)"}


def together(pairs: dict[Hashable, tuple[Path, Path]]) -> dict[Hashable, dict]:
    """`compare` of every pair, the p-values after Holm's correction over them; that of the difference decides the verdict.

    `detectable` is at the strictest level of that correction, 0.05 over the number of pairs: a p-value below it counts, whatever the
    others are.
    """
    found = {name: compare(*pair, 0.05 / len(pairs)) for name, pair in pairs.items()}
    for test, corrected in TESTS.items():
        for pair, p in zip(found.values(), stats.holm([pair.pop(test) for pair in found.values()])):
            pair[corrected] = float(p)
    for pair in found.values():
        pair["verdict"] = stats.word(pair["difference"], pair["p (difference, Holm)"])
    return found


def _detectable(a: np.ndarray, b: np.ndarray, level: float) -> str:
    """`stats.smallest_detectable` in points, or that no difference would be found."""
    least = stats.smallest_detectable(len(a), np.mean(a != b), alpha=level) if (a != b).any() else None
    return "none" if least is None else f"{100 * least:.0f} points"


def verdict(difference: stats.Accuracy) -> str:
    """What an interval of a difference allows one to say."""
    if difference.low > 0:
        return "higher"
    return "lower" if difference.high < 0 else "no difference established"
