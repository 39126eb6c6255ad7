"""Who works on which image: processes on one experiment share its images without being told how.

A claim is a lock of one byte, at an offset that the image's id decides, in a file beside the
records. The system drops the locks of a process that ends, however it ends, so that nothing is left
to expire and another process takes the image over. Where there are no locks (some network file
systems) every claim succeeds: then work may be done twice, and of two records the first counts.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

HELD = (errno.EACCES, errno.EAGAIN)


class Claims:
    """The claims of this process on images of the records at `path`, until the block ends.

    Raises `OSError` that names the folder if nothing can be written there: before any work is done.
    """

    def __init__(self, path: Path):
        self.path = path.parent / ".claims" / path.with_suffix("").name
        self.held: set[str] = set()

    def __enter__(self) -> Claims:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            folder = self.path.parent.parent
            raise OSError(
                error.errno, f"no records can be written there ({error.strerror})", str(folder)
            ) from error
        return self

    def __exit__(self, *_) -> None:
        os.close(self.file)

    def take(self, image: str) -> bool:
        """Whether the image is this process's from now on; False while another one works on it."""
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(image))
        except OSError as error:
            if error.errno in HELD:
                return False
        self.held.add(image)
        return True

    def some(self, images: Sequence[str], most: int) -> list[str]:
        """At most so many of the `images`, in their order, that nobody else works on."""
        found: list[str] = []
        for image in images:
            if len(found) == most:
                break
            if self.take(image):
                found.append(image)
        return found

    def drop(self, images: Sequence[str]) -> None:
        """Others may have them."""
        for image in images:
            self.held.discard(image)
            fcntl.lockf(self.file, fcntl.LOCK_UN, 1, _place(image))


def _place(image: str) -> int:
    return int.from_bytes(hashlib.sha256(image.encode()).digest()[:6])
