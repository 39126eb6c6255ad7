"""What cheaper attacks cost in strength, as parts of ``book/scaling``: gradients in bfloat16, and
fewer gradients than the literature's budget. Tables of records; nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hetpure_lab.attacks import ATTACKS, PGD
from hetpure_lab.common import names, specs, stats
from hetpure_lab.cost import benchmark
from hetpure_lab.evidence import RESULTS, Experiment, compare, read

DEFENCES = ("uniform:t=0.1", "hetpure")  # whose gradients are compared in two precisions
CHEAP = "Not measured yet: `hetpure run --defence {} --attack {} --n-images 16`.\n"


def difference(one: Path, other: Path) -> tuple[str, str, str, int]:
    """Of two experiments' shared images: points left by each, and `one` minus `other`."""
    a, b = (read(path) for path in (one, other))
    pair = compare.rates(a, b)
    left = [f"{100 * rates.mean():.1f}" if len(rates) else "–" for rates in pair]
    apart = str(stats.paired_difference(*pair)) if len(pair[0]) else "–"
    return *left, apart, len(pair[0])


def precision(results: Path = RESULTS) -> str:
    """Points that attacks leave with gradients in bfloat16 and in float32, on the same images."""
    exact, rough = PGD(), replace(PGD(), precision="bf16")
    rows = []
    for defence in DEFENCES:
        paths = [Experiment(defence, attack).path(results) for attack in (rough, exact)]
        if all(path.exists() for path in paths):
            half, full, apart, n = difference(*paths)
            rows.append(f"| {names.defence(defence)} | {half} | {full} | {apart} | {n} |")
    if not rows:
        return CHEAP.format(DEFENCES[0], specs.describe(rough, ATTACKS))
    about = f"left by {names.attack(specs.describe(exact, ATTACKS))} in"
    head = f"| defence | {about} bfloat16 | in float32 | bfloat16 minus float32 | images |"
    return "\n".join([head, "|---|---|---|---|---|", *rows, ""])


def equal(results: Path = RESULTS) -> str:
    """For each defence the cheapest attack on record that leaves no more of the same images than
    the literature's budget does, and how many gradients fewer it takes.
    """
    rows = []
    for defence in benchmark.EQUAL:
        found = benchmark.no_worse(defence, results)
        if not found:
            continue
        best, whole = min(found, key=benchmark.Spent.gradients), benchmark.whole(defence, results)
        ratio = benchmark.WHOLE.iterations * benchmark.WHOLE.eot / best.gradients()
        cells = (
            names.defence(defence),
            f"{100 * whole.left:.1f}",
            names.attack(best.attack),
            f"{100 * best.left:.1f}",
            str(best.apart),
            f"{best.gradients():.0f}",
            f"{ratio:.1f}",
            best.n,
        )
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    budget = f"{benchmark.WHOLE.iterations} × {benchmark.WHOLE.eot}"
    if not rows:
        return f"No defence has records of {budget} iterations.\n"
    head = (
        f"| defence | left by {budget} | cheapest attack that leaves no more | left | minus"
        f" {budget} | gradients an image | times fewer | images |"
    )
    return "\n".join([head, "|---" * 8 + "|", *rows, ""])


INCLUDES: dict[str, Callable[[Path], str]] = {"precision.md": precision, "equal.md": equal}
