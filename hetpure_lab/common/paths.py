"""Where things lie: in a checkout beside the package, in an installation in it and in the working
folder.

An installation carries networks and cards inside the package, and writes into the working folder
(or ``$HETPURE_RESULTS``), never into itself.
"""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent  # what holds hetpure_core.py and the package
CHECKOUT = (ROOT / "pyproject.toml").is_file() and (ROOT / "weights").is_dir()
HOME = ROOT if CHECKOUT else Path.cwd()  # where `out` and `results` are

_HOME = os.environ.get("HOME") or os.environ.get("USERPROFILE") or "."
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path(_HOME) / ".cache") / "hetpure"
WEIGHTS = ROOT / "weights" if CHECKOUT else PACKAGE / "weights"
RESULTS = Path(os.environ.get("HETPURE_RESULTS") or HOME / "results")


def demand_checkout(what: str) -> None:
    """Raise `ValueError` in an installation, which has no chapters and no pages."""
    if not CHECKOUT:
        raise ValueError(f"{what} needs a checkout of the repository: this is an installed package")
