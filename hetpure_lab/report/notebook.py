"""What every chapter starts with and leans on: its parameters, its checks, and what its slow cells
will cost.

A chapter declares its parameters once, in the cell tagged ``parameters``, as annotated assignments
(``tau: float = 0.8``). `start` reads types from there, refuses a name that papermill injected and
the chapter does not have, and turns ``1e1`` into a whole number where one is due. It looks at what
was injected and not at the namespace, so that a chapter runs again from the top or the middle of a
live kernel.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path

import torch
from IPython.display import Markdown

from hetpure_lab.common.paths import RESULTS
from hetpure_lab.data import Images, Shipped
from hetpure_lab.paper.budgets import Budget, choose
from hetpure_lab.report import plots

INJECTED = "# Parameters"  # the first line of the cell that papermill adds
KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}


def injected(cells: Sequence[str]) -> set[str]:
    """The names that papermill's own cell assigns, among the sources of executed `cells`."""
    found = (ast.parse(cell) for cell in cells if cell.startswith(INJECTED))
    targets = (
        t for tree in found for s in tree.body if isinstance(s, ast.Assign) for t in s.targets
    )
    return {t.id for t in targets if isinstance(t, ast.Name)}


def start(namespace: MutableMapping) -> Budget:
    """Check and convert a chapter's parameters in place, set the book's style, and return its
    budget.

    Raises `ValueError` with a sentence: an unknown name, a value of another type, an unknown
    budget. A budget that was injected wins over `usual`.
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    given, kinds = injected(namespace.get("In", [])), types(namespace)
    if unknown := given - set(kinds):
        raise ValueError(
            f"unknown parameter {listed(unknown)}; this chapter has: {listed(kinds, sort=False)}"
        )
    for name, kind in kinds.items():
        namespace[name] = converted(name, namespace[name], kind)
    if "budget" in kinds and "budget" not in given:
        namespace["budget"] = usual(namespace["budget"])
    plots.style()
    say_if_empty(RESULTS)
    return choose(namespace.get("budget", "smoke"))


# Lent machines, by a variable that each sets: little time, and two slow cores.
LENT = {"COLAB_RELEASE_TAG": "Colab", "BINDER_SERVICE_HOST": "Binder"}


def usual(declared: str) -> str:
    """The budget where none is injected: that of HETPURE_BUDGET, on a lent machine the smallest,
    else the `declared` one. What a machine decides is said.
    """
    if "HETPURE_BUDGET" in os.environ:
        return os.environ["HETPURE_BUDGET"]
    lent = next((LENT[name] for name in LENT if name in os.environ), None)
    if lent is None or declared == "smoke":
        return declared
    print(
        f"The budget is smoke, because this runs on {lent}. For another one, run"
        f" os.environ['HETPURE_BUDGET'] = '{declared}' in a cell above."
    )
    return "smoke"


def say_if_empty(results: Path) -> None:
    """Say once that no experiment is on record, so that nobody takes an installation without
    records for the state of the evidence.
    """
    if not any(results.glob("*/*.jsonl")):
        print(
            f"There are no records in {results}. What the book shows from records"
            " reads 'Not measured yet' here."
        )


def types(namespace: MutableMapping) -> dict[str, type]:
    """The declared parameters and their types; an annotation may be a type or its name."""
    declared = namespace.get("__annotations__", {})
    return {name: {k.__name__: k for k in KINDS}.get(kind, kind) for name, kind in declared.items()}


def listed(names: Sequence[str] | set[str] | dict, sort: bool = True) -> str:
    return ", ".join(sorted(names) if sort else names)


def converted(name: str, value: object, kind: type) -> object:
    """`value` as a parameter of type `kind`; papermill turns ``1e1`` into a float and leaves words
    as text.
    """
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and numeric:
        return float(value)
    if kind is int and numeric and value == int(value):
        return int(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    raise ValueError(f"{name} must be {KINDS.get(kind, kind.__name__)}, not {value!r}")


def take(images: Images, n: int) -> Images:
    """`n` images in a seeded order; of a shipped sample that has fewer all, and it says so. Raises
    `DataError` for other data.
    """
    if isinstance(images, Shipped) and n > len(images):
        print(
            f"{n} images were asked for; {images.source} has {len(images)}: all of them are taken"
        )
        n = len(images)
    return images.take(n)


def check(says: str, holds: object) -> None:
    """Print that what the sentence `says` holds, or stop the run with it. `holds` is anything with
    a truth value, a tensor of one too.
    """
    if not bool(holds):
        raise AssertionError(f"this does not hold: {says}")
    print(f"✓ {says}")


def sentences(said: Sequence[str]) -> Markdown:
    """What records say, as a list, or that there is none."""
    return Markdown("\n".join(f"- {line}" for line in said) or "Not measured yet.")


# ---- how long a slow cell takes ------------------------------------------------------------------


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    for limit, unit, scale in (
        (90, "second", 1),
        (5400, "minute", 60),
        (float("inf"), "hour", 3600),
    ):
        if seconds < limit:
            count = max(1, round(seconds / scale))
            return f"about {count} {unit}{'s' if count > 1 else ''}"
    raise ValueError(f"{seconds} is no duration")


def announce(what: str, seconds: float) -> None:
    """Say on stderr how long `what` takes on this machine; a calibration predicted `seconds` (see
    `planner.at_most`).
    """
    print(f"{what}: {duration(seconds)} on this machine", file=sys.stderr)
