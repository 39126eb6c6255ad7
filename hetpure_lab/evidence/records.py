"""Records: append-only files of JSON lines, one line per image, that survive killed writers, full disks and company.

A line counts once `append` has returned. Whatever a writer left behind when it was stopped is skipped with a warning by `read` and
closed by the next `append`; of two lines about one image the first counts. Needs no torch.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hetpure_lab.common.paths import ROOT

# The sources that decide an outcome: packages whole, so that a new file counts without being listed.
DECIDING_PACKAGES = ("data", "networks", "defences", "attacks")
DECIDING_FILES = ("experiment", "engine", "outcomes", "pixels")


def deciding() -> list[str]:
    """The sources that decide an outcome, as paths from the checkout."""
    lab = ROOT / "hetpure_lab"
    found = [p for name in DECIDING_PACKAGES for p in sorted((lab / name).glob("*.py"))]
    found += [lab / "evidence" / f"{name}.py" for name in DECIDING_FILES]
    return ["hetpure_core.py", *(p.relative_to(ROOT).as_posix() for p in found)]


LIBRARIES = ("torch", "numpy", "foolbox", "pyautoattack")


def append(path: Path, records: Sequence[dict]) -> None:
    """Add whole lines in one write and force them to disk; a torn line left by a stopped writer is closed first.

    Raises `OSError` that names the file if the lines could not be stored completely (a full disk); then none of them is acknowledged.
    """
    lines = "".join(json.dumps(r, separators=(",", ":")) + "\n" for r in records).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new, file = not path.exists(), os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed, or its process is gone: nobody tears a line after the look at the end
            size = os.fstat(file).st_size
            torn = size and os.pread(file, 1, size - 1) != b"\n"
            _write(file, b"\n" + lines if torn else lines)
            os.fsync(file)
        finally:
            os.close(file)
        if new:
            _sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, f"the last {len(records)} records were not stored ({error.strerror})", str(path)) from error


def _write(file: int, text: bytes) -> None:
    """All of `text` in one call, or an error: what a second call would add need not come to lie behind it."""
    if os.write(file, text) != len(text):
        raise OSError(28, "the disk is full")


def _sync_folder(folder: Path) -> None:
    """A new file's name is as durable as its lines."""
    entry = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


def read(path: Path) -> dict[str, dict]:
    """Records by image; unreadable lines are dropped with a warning, and of two records of one image the first counts."""
    records: dict[str, dict] = {}
    if not path.exists():
        return records
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line:
            continue
        try:
            record = json.loads(line)
            records.setdefault(record["image"], record)
        except (ValueError, KeyError, TypeError):
            warnings.warn(f"{path}, line {number}: not a whole record (a writer was stopped?); dropped", stacklevel=2)
    return records


def _checksum(source: str) -> str:
    return hashlib.sha256((ROOT / source).read_bytes()).hexdigest()[:12]


def _commit() -> str:
    try:
        return subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def _installed(package: str) -> str:
    try:
        return version(package).split("+")[0]
    except PackageNotFoundError:
        return "not installed"


# Taken when this module is imported, with the code they describe: files may be edited while a long run goes on.
CODE, COMMIT = {source: _checksum(source) for source in deciding()}, _commit()


def provenance() -> dict:
    """What produced a record: checksums of the sources that decide an outcome, as they were imported, commit, libraries, machine."""
    libraries = {"python": platform.python_version()} | {p: _installed(p) for p in LIBRARIES}
    return {"code": CODE, "commit": COMMIT, "libraries": libraries, "machine": platform.machine()}
