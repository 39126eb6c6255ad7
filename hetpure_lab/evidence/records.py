"""Records: append-only files of JSON lines, one line per image, that survive killed writers, full
disks and company.

A line counts once `append` has returned. `read` skips the torn line of a stopped writer with a
warning, and the next `append` closes it; of two lines about one image the first counts. The common
part of many records (configuration, source, code, libraries) stands once in a line of its own, a
*head*, which they name by its digest; early records repeat it, and are read as before. Needs no
torch.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hetpure_lab.common.paths import CHECKOUT, ROOT
from hetpure_lab.evidence import code, manifest
from hetpure_lab.evidence.code import CODE

LIBRARIES = ("torch", "numpy", "foolbox", "pyautoattack")
# what a head says
HEAD = (
    "config",
    "source",
    "data",
    "code",
    "commit",
    "libraries",
    "machine",
    "device",
    "unit",
    "host",
)
COLUMNS = ("adversarial", "clean", "null")


# ---- writing -------------------------------------------------------------------------------------


def append(path: Path, records: Sequence[dict], results: Path | None = None) -> None:
    """Add whole lines in one write and force them to disk; a torn line left by a stopped writer is
    closed first.

    They are entered into the manifest of the folder `results`, if one is given. Raises `OSError`
    that names the file if the lines could not be stored completely (a full disk); then none of them
    is acknowledged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new, file = not path.exists(), os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            # until it is closed, or its process is gone: nobody tears a line after the look at the
            # end
            fcntl.flock(file, fcntl.LOCK_EX)
            before = path.read_bytes()
            torn = before and not before.endswith(b"\n")
            added = (b"\n" if torn else b"") + _lines(records, before)
            if results:
                manifest.announce(results, path, added)
            _write(file, added)
            os.fsync(file)
            if results:
                _enter(results, path, len(before), before + added)
        finally:
            os.close(file)
        if new:
            _sync_folder(path.parent)
    except OSError as error:
        raise OSError(
            error.errno,
            f"the last {len(records)} records were not stored ({error.strerror})",
            str(path),
        ) from error


def _lines(records: Sequence[dict], before: bytes) -> bytes:
    """The records as lines, behind the heads that the file does not have yet."""
    known, found = set(_heads(before)), []
    for record in records:
        if "config" in record:
            shared = {k: record[k] for k in HEAD if k in record}
            head = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:12]
            if head not in known:
                known.add(head)
                found.append({"head": head} | shared)
            record = {k: v for k, v in record.items() if k not in shared} | {"head": head}
        found.append(record)
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in found).encode()


def _heads(text: bytes) -> Iterator[str]:
    """The digests of the heads in a file."""
    for line in text.split(b"\n"):
        if line.startswith(b'{"head":'):
            yield from (found.head for found in lines(line))


def _enter(results: Path, path: Path, before: int, text: bytes) -> None:
    """The records are safe by now: a manifest that cannot follow is no reason to lose their
    work.
    """
    try:
        entered = manifest.enter_appended(results, path, before, text)
    except (OSError, ValueError) as error:
        warnings.warn(f"{path}: stored, but not entered into the manifest ({error})", stacklevel=3)
        return
    if not entered:
        warnings.warn(
            f"{path}: has lines that nobody entered; hetpure manifest says which, and --enter"
            " verifies them",
            stacklevel=3,
        )


def _write(file: int, text: bytes) -> None:
    """All of `text` in one call, or an error: a second call's text may lie elsewhere."""
    if os.write(file, text) != len(text):
        raise OSError(28, "the disk is full")


def _sync_folder(folder: Path) -> None:
    """A new file's name is as durable as its lines."""
    entry = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


# ---- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A line of a file: its number, and the `record` in it, or the digest of the `head`, or its
    fault (`wrong`).
    """

    number: int
    record: dict | None = None
    head: str = ""
    wrong: str = ""


def lines(text: bytes) -> Iterator[Line]:
    """Every line of a file that is not empty; records come with the entries of their heads."""
    heads: dict[str, dict] = {}
    last: dict = {}
    for number, line in enumerate(text.split(b"\n"), 1):
        if not line:
            continue
        try:
            found = json.loads(line)
            name = found.get("head")
            if "image" not in found and isinstance(name, str):
                heads[name] = {k: v for k, v in found.items() if k != "head"}
                yield Line(number, head=name)
                continue
            if not isinstance(found.get("image"), str):
                yield Line(number, wrong="no record, because no image is named")
                continue
        except (ValueError, AttributeError):
            yield Line(number, wrong="not a whole record (a writer was stopped?)")
            continue
        if name is not None:
            if name not in heads:
                yield Line(number, wrong=f"a record whose head {name} is not above it")
                continue
            found = {k: v for k, v in found.items() if k != "head"} | heads[name]
        for part in ("config", "code"):  # equal ones become one object: early records repeat them
            if part in found and found[part] == last.get(part):
                found[part] = last[part]
        last = found
        yield Line(number, found)


def lacks(record: dict) -> str:
    """The missing part of a record of an experiment, in a few words; "" if it can be counted."""
    config = record.get("config")
    if not isinstance(config, dict) or not all(
        k in config for k in ("bench", "split", "defence", "attack", "K", "seed", "weights")
    ):
        return "no configuration"
    if not all(isinstance(config[k], dict) and "name" in config[k] for k in ("defence", "attack")):
        return "a configuration without names"
    if type(record.get("label")) is not int:
        return f"no label but {record.get('label')!r}"
    for column in COLUMNS:
        labels = record[column].get("labels") if isinstance(record.get(column), dict) else None
        if (
            not isinstance(labels, list)
            or len(labels) != config["K"]
            or not all(type(label) is int for label in labels)
        ):
            return f"no {config['K']} labels under {column}"
    return ""


_parsed: dict[Path, tuple[tuple, dict[str, dict], list[str]]] = {}


def read(path: Path) -> dict[str, dict]:
    """Records by image; unreadable lines are dropped with a warning, and of two records of one
    image the first counts.

    A file is parsed once per process, as long as it is not changed. Records are shared with other
    readers: not to be changed.
    """
    path = Path(path)
    if not path.exists():
        return {}
    about = path.stat()
    state = (about.st_size, about.st_mtime_ns, about.st_ino)
    if path not in _parsed or _parsed[path][0] != state:
        _parsed[path] = (state, *_parse(path.read_bytes()))
    _, records, wrong = _parsed[path]
    for says in wrong:
        warnings.warn(f"{path}, {says}; dropped", stacklevel=2)
    return dict(records)


def _parse(text: bytes) -> tuple[dict[str, dict], list[str]]:
    found = list(lines(text))
    of_experiments = any(
        isinstance(line.record.get("config"), dict) and "attack" in line.record["config"]
        for line in found
        if line.record
    )
    records, wrong = {}, [f"line {line.number}: {line.wrong}" for line in found if line.wrong]
    for line in found:
        if line.record is None:
            continue
        if of_experiments and (missing := lacks(line.record)):
            wrong.append(f"line {line.number}: no record of an experiment: {missing}")
        else:
            records.setdefault(line.record["image"], line.record)
    return records, wrong


# ---- what made a record --------------------------------------------------------------------------


def _commit() -> str:
    """The commit of the checkout; of an installation its version, in any repository."""
    if not CHECKOUT:
        return f"hetpure {_installed('hetpure')}, sources {code.fingerprint()}"
    try:
        return subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip()
    except OSError:
        return ""


def _installed(package: str) -> str:
    try:
        return version(package).split("+")[0]
    except PackageNotFoundError:
        return "not installed"


COMMIT = _commit()  # taken when this module is imported, as `code.CODE` is


def provenance(*classes: type) -> dict:
    """The origin of a record: checksums of the sources that decide an outcome, as they were
    imported, commit, libraries, machine.

    Counted are sources that purifiers and attacks of the `classes` use; without any, all that could
    decide an outcome.
    """
    libraries = {"python": platform.python_version()} | {p: _installed(p) for p in LIBRARIES}
    used = code.of(classes) if classes else CODE
    return {"code": used, "commit": COMMIT, "libraries": libraries, "machine": platform.machine()}
