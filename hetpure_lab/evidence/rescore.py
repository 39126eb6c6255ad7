"""Do the stored adversarial images still score as their records say? ``hetpure rescore FILE --n-images 4``.

A record keeps the image that was found and names the noise that scored it, so anyone can score it again, without the attack. Of every
version of the code that wrote into a file the first images are taken; without FILE, of the files that several versions wrote. What comes
out is noted in ``results/rescored.jsonl``, and versions that score alike count as one (`same_code`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from hetpure_lab import data, defences
from hetpure_lab.attacks import ATTACKS
from hetpure_lab.common import specs
from hetpure_lab.common.paths import RESULTS
from hetpure_lab.data import Images
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import pixels
from hetpure_lab.evidence.engine import score
from hetpure_lab.evidence.experiment import Experiment
from hetpure_lab.evidence.outcomes import COLUMNS
from hetpure_lab.evidence.records import CODE, append, read
from hetpure_lab.evidence.select import files
from hetpure_lab.networks import benches

NOTES = RESULTS / "rescored.jsonl"


def digest(thing: dict) -> str:
    """Of a record, or of the checksums of the code."""
    return hashlib.sha256(json.dumps(thing, sort_keys=True).encode()).hexdigest()[:12]


def experiment_of(record: dict) -> Experiment:
    """The experiment that a record belongs to."""
    config = record["config"]
    names = specs.write(config["defence"], DEFENCES), specs.write(config["attack"], ATTACKS)
    return Experiment(*names, config["bench"], config["split"], config["K"], config["seed"])


def differing(records: Sequence[dict], images: Images, device: str = "cpu") -> list[int]:
    """How many of the recorded labels, over the three columns, come out differently now: one number per record.

    `records` are of one experiment; `images` must contain theirs. Raises `ValueError` if the weights are not those of the records.
    """
    experiment = experiment_of(records[0])
    if experiment.config["weights"] != records[0]["config"]["weights"]:
        raise ValueError(f"the weights are not those that made the records of {experiment.defence} / {experiment.attack}")
    bench, by_image = benches.load(experiment.bench, device), {r["image"]: r for r in records}
    images = pixels.with_records(images, by_image)
    attack = specs.parse(experiment.attack, ATTACKS)[1]
    defence = attack.faces(defences.build(experiment.defence, bench))
    delta = torch.stack([pixels.unpack(by_image[key]["delta"], images.pixels.shape[1:]) for key in images.ids])
    logits = score(experiment, defence, attack, images, delta.to(bench.device), bench.device)
    found = {c: logits[c].argmax(-1).T.tolist() for c in COLUMNS}
    rows = {key: sum(a != b for c in COLUMNS for a, b in zip(found[c][i], by_image[key][c]["labels"])) for i, key in enumerate(images.ids)}
    return [rows[r["image"]] for r in records]


@dataclass(frozen=True)
class Note:
    """That a record was scored again `by` a version of the code, and how many `of` its labels were `differing`."""

    record: str
    code: str
    by: str
    differing: int
    of: int


def notes(path: Path | None = None) -> list[Note]:
    """What was noted so far."""
    return [Note(**{k: line[k] for k in Note.__annotations__}) for line in read(path or NOTES).values()]


def summary(found: Sequence[Note] | None = None) -> str:
    """How many stored images were scored again, and with what outcome, in a sentence."""
    found = notes() if found is None else found
    differing, labels = sum(n.differing for n in found), sum(n.of for n in found)
    images = len({n.record for n in found})
    return f"Scored again: {images} stored adversarial images, of whose {labels} labels {differing} came out differently."


def same_code(records: dict[str, dict], found: Sequence[Note] | None = None) -> bool:
    """Whether one version of the code made all `records`, or scores those of every version exactly as recorded."""
    versions: dict[str, set[str]] = {}
    for record in records.values():
        versions.setdefault(digest(record["code"]), set()).add(digest(record))
    found = notes() if found is None else found
    agree = [{version} | {n.by for n in found if n.record in known and not n.differing} for version, known in versions.items()]
    return bool(set.intersection(*agree))


def rescore(path: Path, images: Images, n: int = 1, target: Path | None = None) -> list[Note]:
    """Score the first `n` records of every version in the file at `path` again, and note what came out."""
    versions: dict[str, list[dict]] = {}
    for record in read(path).values():
        versions.setdefault(digest(record["code"]), []).append(record)
    chosen = [record for made_by in versions.values() for record in made_by[:n]]
    labels = sum(len(chosen[0][c]["labels"]) for c in COLUMNS)
    found = [Note(digest(r), digest(r["code"]), digest(CODE), k, labels) for r, k in zip(chosen, differing(chosen, images))]
    append(target or NOTES, [{"image": f"{note.record} {note.by}", "file": path.name} | vars(note) for note in found])
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="hetpure rescore", description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="files of records (default: those that several versions of the code wrote)")
    parser.add_argument("--n-images", type=int, default=1, help="images per version of the code in a file")
    parser.add_argument("--data", help="folder of parquet files (default: the usual search)")
    args = parser.parse_args(argv)
    worst = 0
    for path in tqdm(args.files or [p for p in files() if not same_code(read(p))], desc="rescore"):
        if not (records := read(path)):
            raise ValueError(f"{path} has no records")
        config = next(iter(records.values()))["config"]
        images = data.load(benches.dataset(config["bench"]), config["split"], args.data, quiet=True)
        for note in rescore(path, images, args.n_images):
            print(f"{path.name}: {note.differing} of {note.of} labels differ (record {note.record}, code {note.code})")
            worst = max(worst, note.differing)
    sys.exit(1 if worst else 0)
