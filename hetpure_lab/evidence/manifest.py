"""The manifest: the length and the sha256 of every file of records when the last of its lines was
entered. Needs no torch.

The engine enters its own lines, under the lock of the file. Records only ever come at the end, so a
file must begin with its entered lines. Lines behind them were brought from elsewhere, or written by
a process that was stopped between two steps, and count as *not entered* until ``hetpure manifest
--enter`` has verified them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

NAME = "manifest.json"


@dataclass(frozen=True)
class Entry:
    """The first `bytes` of a file, which are `lines` lines, and their `sha256`."""

    bytes: int
    lines: int
    sha256: str

    @classmethod
    def of(cls, text: bytes) -> Entry:
        """The entry that stands for `text`."""
        return cls(len(text), text.count(b"\n"), hashlib.sha256(text).hexdigest())


@dataclass(frozen=True)
class Difference:
    """That a `file` (its path from the manifest) is not as entered; `changed` unless lines only
    came behind, or it is new.
    """

    file: str
    says: str
    changed: bool

    def __str__(self) -> str:
        return f"{self.file}: {self.says}"


def read(results: Path) -> dict[str, Entry]:
    """Entries by file, as a path from `results`. Raises `ValueError` if the manifest is damaged."""
    path = results / NAME
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
        return {file: Entry(**entry) for file, entry in found.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); restore it, or make it anew with: hetpure manifest"
            " --enter"
        ) from error


def _write(results: Path, entries: dict[str, Entry]) -> None:
    lines = [f"{json.dumps(file)}: {json.dumps(asdict(entries[file]))}" for file in sorted(entries)]
    new = results / f".{NAME}.{os.getpid()}"
    new.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    new.replace(results / NAME)


def enter(results: Path, texts: dict[str, bytes | None]) -> None:
    """Enter files with their whole contents, whatever was entered before; None removes the
    entry.
    """
    with (results / f".{NAME}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = {file: entry for file, entry in read(results).items() if file not in texts}
        _write(
            results,
            kept | {file: Entry.of(text) for file, text in texts.items() if text is not None},
        )


def announce(results: Path, path: Path, added: bytes) -> None:
    """Say which lines are about to be appended to the file at `path`, so that they count as the
    engine's if it is stopped on the way.
    """
    said = _announced(results, path) | _digests(added)
    place = _place(results, path)
    place.parent.mkdir(parents=True, exist_ok=True)
    new = place.with_suffix(f".{os.getpid()}")
    new.write_text("\n".join(sorted(said)))
    new.replace(place)  # at once: what was announced before is not lost on the way


def enter_appended(results: Path, path: Path, before: int, text: bytes) -> bool:
    """Enter the file at `path`, to which something was appended at byte `before`, its whole content
    now being `text`.

    Done only if the entered lines are unchanged, and all lines since were announced or are torn;
    returns whether it was.
    """
    file, known = path.relative_to(results).as_posix(), read(results)
    entry = known.get(file, Entry.of(b""))
    foreign = [line for line in text[entry.bytes : before].split(b"\n") if _is_record(line)]
    if (
        _digests(b"\n".join(foreign)) - _announced(results, path)
        or Entry.of(text[: entry.bytes]) != entry
    ):
        return False
    enter(results, {file: text})
    _place(results, path).unlink(missing_ok=True)
    return True


def _place(results: Path, path: Path) -> Path:
    return (
        results
        / ".announced"
        / hashlib.sha256(path.relative_to(results).as_posix().encode()).hexdigest()[:24]
    )


def _announced(results: Path, path: Path) -> set[str]:
    place = _place(results, path)
    return set(place.read_text().split()) if place.exists() else set()


def _digests(text: bytes) -> set[str]:
    return {hashlib.sha256(line).hexdigest()[:32] for line in text.split(b"\n") if line}


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def files(results: Path) -> list[Path]:
    """All files of records: in the folders of benches, and others that were entered."""
    found = {
        path
        for path in results.glob("*/**/*.jsonl")
        if not path.relative_to(results).parts[0].startswith(".")
    }
    return sorted(found | {results / file for file in read(results) if (results / file).exists()})


def differences(results: Path, only: Iterable[Path] = ()) -> list[Difference]:
    """Every file that is not as entered, each with how; of `only` these files, if any are given.

    Raises `ValueError` for a file that is neither there nor entered.
    """
    entries, chosen = read(results), {path.resolve() for path in only}
    there = {path.relative_to(results).as_posix(): path for path in files(results)}
    known = {(results / file).resolve() for file in (*entries, *there)}
    if strange := sorted(chosen - known):
        raise ValueError(f"{strange[0]} is no file of records under {results}")
    wanted = [
        file
        for file in sorted({*entries, *there})
        if not chosen or (results / file).resolve() in chosen
    ]
    found = (_difference(file, entries.get(file), there.get(file)) for file in wanted)
    return [difference for difference in found if difference]


def _difference(file: str, entry: Entry | None, path: Path | None) -> Difference | None:
    if path is None:
        return Difference(file, "is gone", True)
    text = path.read_bytes()
    if entry is None:
        return Difference(file, f"was never entered ({Entry.of(text).lines} lines)", False)
    if len(text) < entry.bytes:
        return Difference(
            file, f"was cut: {len(text)} of the {entry.bytes} bytes that were entered", True
        )
    if hashlib.sha256(text[: entry.bytes]).hexdigest() != entry.sha256:
        return Difference(
            file, f"was changed within the {entry.lines} lines that were entered", True
        )
    more = text[entry.bytes :].count(b"\n")
    return (
        Difference(file, f"{more} lines behind the {entry.lines} that were entered", False)
        if len(text) > entry.bytes
        else None
    )
