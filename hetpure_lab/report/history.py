"""What the verdict on each claim was before, and why it changed, from an append-only log.

``results/verdicts.jsonl`` has a line for each time that a claim's verdict or scale was another one
than in the line before; ``hetpure claims --pages`` appends. Why it changed follows from the two
lines: more images, other records, a larger family of tests, or another rule. `from_git` makes the
log of a checkout that has none from the pages that its commits hold.
"""

from __future__ import annotations

import datetime
import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hetpure_lab.common.paths import RESULTS, ROOT
from hetpure_lab.paper.claims import Row

LOG = "verdicts.jsonl"
NUMBER = r"[+-]?\d+\.\d+"


@dataclass(frozen=True)
class Entry:
    """A verdict as it stood from `date` on: the `difference` with its interval as text, images `n`
    and `tests` of the family, where there were any; `commit` is the one before."""

    claim: str
    verdict: str
    scale: str
    difference: str = ""
    n: int | None = None
    tests: int | None = None
    date: str = ""
    commit: str = ""

    @property
    def said(self) -> str:
        """Verdict and scale in words."""
        return f"*{self.verdict}*" + (f" ({self.scale})" if self.scale else "")


def of_row(row: Row, date: str = "", commit: str = "") -> Entry:
    """The entry of a claim as it is judged now."""
    measured = f"{row.measured} points, n = {row.measured.n}. " if row.measured else ""
    return of_text(row.id, row.verdict, row.scale, measured + row.found, date, commit)


def of_text(claim: str, verdict: str, scale: str, here: str, date: str, commit: str) -> Entry:
    """An entry from what a page says under *Here*."""
    interval = re.search(rf"{NUMBER} \[{NUMBER}, {NUMBER}\]", here)
    n, tests = (re.search(p, here) for p in (r"n = (\d+)", r"(?:over|of) (\d+) tests"))
    value = lambda m: int(m[1]) if m else None
    difference = interval[0] if interval else ""
    return Entry(claim, verdict, scale, difference, value(n), value(tests), date, commit)


def read(results: Path = RESULTS) -> dict[str, list[Entry]]:
    """Every claim's entries, the oldest first."""
    path, found = results / LOG, {}
    for line in path.read_text().splitlines() if path.exists() else ():
        entry = Entry(**json.loads(line))
        found.setdefault(entry.claim, []).append(entry)
    return found


def changes(entries: Iterable[Entry], known: dict[str, list[Entry]]) -> Iterator[Entry]:
    """Those entries whose verdict or scale is another one than the claim's last in `known`, which
    they enter."""
    for e in entries:
        before = known.setdefault(e.claim, [])
        if not before or (before[-1].verdict, before[-1].scale) != (e.verdict, e.scale):
            before.append(e)
            yield e


def append(rows: Sequence[Row], results: Path = RESULTS) -> int:
    """Add a line for each claim whose verdict or scale has changed; returns how many."""
    today, commit = datetime.date.today().isoformat(), _git("rev-parse", "--short", "HEAD").strip()
    return _write(changes([of_row(r, today, commit) for r in rows], read(results)), results)


def _write(entries: Iterable[Entry], results: Path) -> int:
    lines = [json.dumps(asdict(e), ensure_ascii=False) + "\n" for e in entries]
    with (results / LOG).open("a") as file:
        file.writelines(lines)
    return len(lines)


def why(before: Entry, after: Entry) -> str:
    """Why a verdict changed, from what two entries were made of."""
    if before.verdict == "not tested":
        return "it was measured or computed for the first time"
    if after.verdict == "not tested":
        return "its records are of other networks or settings than those of today"
    if before.n != after.n and None not in (before.n, after.n):
        return f"{after.n} images in place of {before.n}"
    if before.difference != after.difference:
        return "other records decide"
    if before.tests != after.tests and None not in (before.tests, after.tests):
        return f"the family has {after.tests} tests in place of {before.tests}"
    return "the rule or the definition of a scale changed, the records did not"


def said(entries: Sequence[Entry]) -> str:
    """A claim's history in sentences."""
    if not entries:
        return "no verdict is on file yet."
    first, *rest = entries
    parts = [f"{_since(first)} {first.said}"]
    for before, after in zip(entries, rest):
        parts.append(f"{_since(after)} {after.said}, because {why(before, after)}")
    return "; ".join(parts) + "."


def _since(entry: Entry) -> str:
    return f"since {entry.date} ({entry.commit})"


# ---- a log from the pages that commits hold ----------------------------------------------------


def from_git(results: Path = RESULTS) -> int:
    """Begin the log from every committed version of the pages of claims, the oldest first; returns
    how many lines it has. Raises `ValueError` if there is a log."""
    if (results / LOG).exists():
        raise ValueError(f"{results / LOG} exists; only a new log is made from commits")
    known: dict[str, list[Entry]] = {}
    for line in _git("log", "--reverse", "--format=%h %as", "--", "book/claims").splitlines():
        commit, date = line.split()
        _write(changes(_committed(commit, date), known), results)
    return sum(map(len, known.values()))


def _committed(commit: str, date: str) -> Iterator[Entry]:
    """The entries of all pages as a commit has them."""
    files = _git("ls-tree", "--name-only", commit, "book/claims/").split()
    shown = _git("grep", "-hE", "--heading", "--break", r"^(# |\*\*)", commit, "--", *files)
    for page in re.split(r"^# ", shown, flags=re.MULTILINE)[1:]:
        claim, *rest = [line for line in page.splitlines() if line.strip()]
        verdict = re.match(r"\*\*(.+?)\*\*(?:, scale: (\w+))?$", rest[0]) if rest else None
        here = next((line for line in rest if line.startswith("**Here:**")), "")
        if verdict:
            yield of_text(claim, verdict[1], verdict[2] or "", here, date, commit)


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=False)
    return done.stdout
