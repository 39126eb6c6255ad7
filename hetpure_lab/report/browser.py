"""The one place that knows where Chromium is: named in ``HETPURE_CHROMIUM``, or on the path."""

from __future__ import annotations

import os
import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = "no Chromium: install one (apt-get install chromium), or name it in HETPURE_CHROMIUM"


def chromium() -> str:
    """The browser's program, or "" where there is none."""
    return os.environ.get("HETPURE_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), "")
