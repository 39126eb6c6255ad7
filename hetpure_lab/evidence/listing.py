"""All experiments as rows, reading only new files: ``hetpure experiments``. Needs no torch for
known files.

A row follows from a file, the code that summarises it and the cards of the networks. It is kept in
the user's cache under the digests of all three, so that only new files cost time. A cache that
cannot be written, or is damaged, only costs time.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from hetpure_lab.common.paths import CACHE, RESULTS, ROOT, WEIGHTS
from hetpure_lab.evidence import code

# What `select.summary` computes with, beside the sources that decide an outcome (which hold the
# defaults of all settings).
SUMMARISING = (
    "evidence/select.py",
    "evidence/records.py",
    "evidence/listing.py",
    "common/specs.py",
    "common/stats.py",
)


def state() -> str:
    """The digest of everything but the records that a row depends on."""
    known = hashlib.sha256(code.fingerprint().encode())
    for path in (
        *(ROOT / "hetpure_lab" / name for name in SUMMARISING),
        *sorted(WEIGHTS.glob("*.json")),
    ):
        known.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    return known.hexdigest()[:16]


def rows(results: Path = RESULTS) -> list[dict]:
    """`select.summary` of all `select.files`, in their order."""
    store, now = _store(results), state()
    known = _load(store, now)
    found = {
        path: _row(path, known.get(str(path.relative_to(results))))
        for path in sorted(results.glob("*/*.jsonl"))
    }
    kept = {str(path.relative_to(results)): row for path, row in found.items()}
    if kept != known:
        _save(store, {"state": now, "files": kept})
    for path, row in found.items():
        for says in row["warnings"]:
            warnings.warn(
                f"{path}: {says}" if not says.startswith(str(path)) else says, stacklevel=2
            )
    return [row["row"] for row in found.values() if row["row"]]


def _row(path: Path, known: dict | None) -> dict:
    """A file's row, or None under ``row`` if it does not count, with the size, time and digest by
    which it is known.
    """
    about = path.stat()
    stamp = [about.st_size, about.st_mtime_ns]
    if known and known["stamp"] == stamp:
        return known
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if known and known["sha256"] == digest:
        return known | {"stamp": stamp}
    from hetpure_lab.evidence import select

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        row = select.summary(path) if select.current(path) else None
    said = list(
        dict.fromkeys(str(warning.message) for warning in heard if warning.category is UserWarning)
    )
    return {"stamp": stamp, "sha256": digest, "row": row, "warnings": said}


def _store(results: Path) -> Path:
    return (
        CACHE / "rows" / f"{hashlib.sha256(str(results.resolve()).encode()).hexdigest()[:16]}.json"
    )


def _load(store: Path, now: str) -> dict[str, dict]:
    try:
        found = json.loads(store.read_text())
        return found["files"] if found["state"] == now else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _save(store: Path, found: dict) -> None:
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        new = store.with_name(f"{store.name}.{os.getpid()}")
        new.write_text(json.dumps(found))
        new.replace(store)
    except OSError:
        return  # it will be computed again


def main(argv: Sequence[str] | None = None) -> None:
    import argparse

    parser = argparse.ArgumentParser(
        prog="hetpure experiments", description="list every experiment with its accuracies"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    found = rows()
    if parser.parse_args(argv).json:
        print(json.dumps(found, indent=1))
    else:
        print("\n".join(f"{r['defence']:40} {r['attack']} n={r['n']}" for r in found))
