"""Where things lie: the checkout, the user's cache, the trained networks and the records."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hetpure"
WEIGHTS = ROOT / "weights"
RESULTS = Path(os.environ.get("HETPURE_RESULTS", ROOT / "results"))
