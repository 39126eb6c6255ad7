"""The progress bar of all long work, and where it is seen: in the notebook that runs, and in the
shell that started it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm


class Both:
    """A text stream that writes to two."""

    def __init__(self, first: TextIO, second: TextIO):
        self.streams = first, second

    def write(self, text: str) -> int:
        """Write to both; returns the number of characters."""
        for stream in self.streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush both."""
        for stream in self.streams:
            stream.flush()


def stream() -> TextIO | Both:
    """stderr; in a kernel that a shell started (papermill, say), that shell's stream as well.

    A kernel shows its stderr in the notebook, which nobody sees before papermill ends. It keeps the
    shell's own stream, and that is written to if it is a terminal.
    """
    kept = getattr(sys.stderr, "_original_stdstream_copy", None)
    if kept is None or not os.isatty(kept):
        return sys.stderr
    return Both(sys.stderr, os.fdopen(os.dup(kept), "w", closefd=True))


def bar(of: Iterable[Any] | int, what: str, quiet: bool = False, **options: Any) -> tqdm:
    """A progress bar over things, or with an ``update`` to a total, named `what`; `options` are
    tqdm's. It is hidden if `quiet`, and by ``TQDM_DISABLE`` in the environment.

    >>> list(bar([1, 2], "two", quiet=True))
    [1, 2]
    """
    given = {"total": of or None} if isinstance(of, int) else {"iterable": of}
    hidden = quiet or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    return tqdm(**given, desc=what, disable=hidden, file=stream(), **options)
