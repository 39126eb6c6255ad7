"""Are records true, and do their adversarial images still score as they say?

    hetpure rescore FILE --n-images 4

A record keeps the image that was found and names the noise that scored it, so anyone can score it
again, without the attack. Every record of a file is held against itself, its file and the data
(`verify`). Scored again are some that are drawn anew at every run, of every version of the code
that wrote into the file, or with ``--all`` every one; without FILE, of the files that several
versions wrote. What comes out is noted in ``results/rescored.jsonl``, and versions that score alike
count as one (`same_code`). The command says what differs and ends with exit code 1; it says as well
what it could not check.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tqdm import tqdm

from hetpure_lab.common.paths import RESULTS
from hetpure_lab.common.progress import bar
from hetpure_lab.data import Images
from hetpure_lab.evidence import code, verify
from hetpure_lab.evidence.outcomes import COLUMNS
from hetpure_lab.evidence.records import append, read
from hetpure_lab.evidence.select import files
from hetpure_lab.evidence.verify import Verdict

NOTES = RESULTS / "rescored.jsonl"


def digest(thing: dict) -> str:
    """Of a record, or of the checksums of the code."""
    return hashlib.sha256(json.dumps(thing, sort_keys=True).encode()).hexdigest()[:12]


def differing(records: Sequence[dict], images: Images, device: str = "cpu") -> list[int]:
    """How many of the recorded labels, over the three columns, come out differently now: one number
    per record.

    `records` are of one experiment; `images` must contain theirs. Raises `ValueError` if the
    weights are not those of the records.
    """
    return [
        labels_apart(record, now)
        for record, now in zip(records, verify.rescored(records, images, device))
    ]


def labels_apart(record: dict, now: dict[str, dict]) -> int:
    """How many labels of a record, over the three columns, are not those that come out `now`."""
    return sum(a != b for c in COLUMNS for a, b in zip(now[c]["labels"], record[c]["labels"]))


@dataclass(frozen=True)
class Note:
    """That a record was scored again `by` a version of the code, and how many `of` its labels were
    `differing`.
    """

    record: str
    code: str
    by: str
    differing: int
    of: int


def notes(path: Path | None = None) -> list[Note]:
    """What was noted so far."""
    return [
        Note(**{k: line[k] for k in Note.__annotations__}) for line in read(path or NOTES).values()
    ]


def summary(found: Sequence[Note] | None = None) -> str:
    """How many stored images were scored again, and with what outcome, in a sentence."""
    found = notes() if found is None else found
    differing, labels = sum(n.differing for n in found), sum(n.of for n in found)
    images = len({n.record for n in found})
    return (
        f"Scored again: {images} stored adversarial images, of whose {labels} labels {differing}"
        " came out differently."
    )


def same_code(records: dict[str, dict], found: Sequence[Note] | None = None) -> bool:
    """Whether one version of the code made all `records`, or scores those of every version exactly
    as recorded.
    """
    versions: dict[str, set[str]] = {}
    for record in records.values():
        versions.setdefault(digest(record["code"]), set()).add(digest(record))
    found = notes() if found is None else found
    agree = [
        {version} | {n.by for n in found if n.record in known and not n.differing}
        for version, known in versions.items()
    ]
    return bool(set.intersection(*agree))


def sample(path: Path, n: int, random: Random | None = None) -> list[str]:
    """The images of `n` records of every version of the code in a file, drawn anew at every
    call.
    """
    versions: dict[str, list[str]] = {}
    for image, record in read(path).items():
        versions.setdefault(digest(record.get("code", {})), []).append(image)
    random = random or Random()
    return [
        image
        for made_by in versions.values()
        for image in random.sample(made_by, min(n, len(made_by)))
    ]


def rescore(
    path: Path,
    images: Images | None,
    chosen: Sequence[str] | None,
    target: Path | None = None,
    device: str = "cpu",
) -> Verdict:
    """Verify the file at `path`, score records of the `chosen` images (None: all) again, and note
    what came out.
    """
    verdict, now = verify.file(path, images, chosen, device)
    records = {image: record for image, record in read(path).items() if image in now}
    by = (
        digest(code.of(verify.experiment_of(next(iter(records.values()))).classes))
        if records
        else ""
    )
    found = [
        Note(
            digest(r),
            digest(r["code"]),
            by,
            labels_apart(r, now[image]),
            sum(len(r[c]["labels"]) for c in COLUMNS),
        )
        for image, r in records.items()
    ]
    if found:
        target = target or NOTES
        append(
            target,
            [
                {"image": f"{note.record} {note.by}", "file": path.name} | vars(note)
                for note in found
            ],
            target.parent,
        )
    return verdict


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="hetpure rescore", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "files",
        nargs="*",
        type=Path,
        help="files of records (default: those that several versions of the code wrote)",
    )
    parser.add_argument(
        "--n-images",
        type=int,
        default=1,
        help="images to score again, per version of the code in a file",
    )
    parser.add_argument("--all", action="store_true", help="score every record again")
    parser.add_argument("--data", help="folder of the data set (default: the usual search)")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    if args.n_images < 0:
        raise ValueError(f"--n-images must not be negative, not {args.n_images}")
    if absent := [str(path) for path in args.files if not path.is_file()]:
        raise ValueError(f"no file {absent[0]}")
    chosen_files, true = args.files or [p for p in files() if not same_code(read(p))], True
    for path in bar(chosen_files, "rescore", len(chosen_files) < 2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the verdict names the lines
            chosen = None if args.all else sample(path, args.n_images)
            verdict = rescore(path, verify.images_of(path, args.data), chosen, device=args.device)
        tqdm.write(report(path, verdict))
        true = true and not verdict.faults
    return 0 if true else 1


def report(path: Path, verdict: Verdict) -> str:
    """What was found about a file, line by line."""
    state = f"{len(verdict.faults)} faults in" if verdict.faults else "nothing wrong with"
    lines = [
        f"{path.name}: {state} {verdict.looked_at} records, of which {verdict.scored} were scored"
        " again"
    ]
    lines += [f"  {fault}" for fault in verdict.faults]
    return "\n".join(lines + [f"  not checked: {what}" for what in verdict.unchecked])
