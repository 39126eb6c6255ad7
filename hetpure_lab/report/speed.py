"""This engine's speed: the ratios of the committed run of ``hetpure bench``."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from IPython.display import Markdown

from hetpure_lab.common.paths import RESULTS
from hetpure_lab.report import tables

MEANINGS = {
    "exact_over_floor": (
        "an exact gradient over its floor: three forward passes per call, and the classifier's own"
        " gradient"
    ),
    "saved_bytes_40_over_10": "bytes kept for a gradient with 40 steps over 10, recomputed",
    "released_loop_over_ours": (
        "time of the released loop over ours until an image is decided, the product of the next two"
    ),
    "released_loop_per_iteration": "the cost of one iteration",
    "iterations_over_spent": (
        "iterations of the budget over those that are run until failure is confirmed"
    ),
    "equal_result_over_ours": (
        "the released loop run to its end over our cheapest attack on record that leaves no more,"
        " least of three defences"
    ),
    "dask_2_over_1": "throughput of two one-thread workers over one",
}


def table(results: Path = RESULTS) -> tables.Table | Markdown:
    """The ratios and the machine that they were measured on, or that there is no run on record."""
    path = results / "bench.json"
    if not path.exists():
        return Markdown("Not measured yet.")
    found = json.loads(path.read_text())
    machine = f"{found['cores']} cores of {found['machine']}"
    lines = [
        {"what": what, "ratio": f"{found[key]:.2f}"}
        for key, what in MEANINGS.items()
        if found.get(key)
    ]
    said = f"{machine}, torch {found['torch']}, commit {found['commit']}"
    return tables.show(pd.DataFrame(lines), said)
