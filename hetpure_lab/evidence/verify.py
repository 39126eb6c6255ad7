"""Is a record true? Everything it says is held against itself, its file, the data and the networks.

Without data or networks: its configuration against the file's key, the difference against the ball
of its own norm and the grid of 8-bit pixels, the votes against the labels, no image twice. With the
data: the image is known, has that label, and stays an image. With the networks (`rescore`): the
labels and votes of all three columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

from hetpure_lab import data, defences
from hetpure_lab.attacks import ATTACKS, Attack
from hetpure_lab.common import specs
from hetpure_lab.data import Images
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import pixels, records
from hetpure_lab.evidence.engine import origin, score
from hetpure_lab.evidence.experiment import Experiment, key_of
from hetpure_lab.evidence.outcomes import COLUMNS, column_record
from hetpure_lab.networks import benches
from hetpure_lab.networks.benches import BenchError


@dataclass(frozen=True)
class Fault:
    """That something about `image` in line `number` of a file is not true; "" and 0 if it is about
    the file.
    """

    says: str
    number: int = 0
    image: str = ""

    def __str__(self) -> str:
        where = (
            f"line {self.number}, image {self.image}: "
            if self.image
            else f"line {self.number}: "
            if self.number
            else ""
        )
        return f"{where}{self.says}"


@dataclass
class Verdict:
    """The faults of a file, the unchecked parts with reasons, and the numbers of records that were
    looked at and scored again.
    """

    faults: list[Fault] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    looked_at: int = 0
    scored: int = 0


# ---- without data and networks -------------------------------------------------------------------


def of_text(path: Path, found: Sequence[records.Line]) -> Iterator[Fault]:
    """What is wrong with the lines of an experiment's file by themselves."""
    first: dict[str, records.Line] = {}
    sources = Counter(
        origin(line.record) or line.record.get("source") for line in found if line.record
    )
    usual = sources.most_common(1)[0][0] if sources else None
    for line in found:
        if line.wrong:
            yield Fault(line.wrong, line.number)
        if line.record is None:
            continue
        name = line.record["image"]
        if name in first:
            same = _fate(line.record) == _fate(first[name].record)
            kind = "a duplicate of" if same else "a conflicting duplicate of"
            yield Fault(f"{kind} line {first[name].number}", line.number, name)
        first.setdefault(name, line)
        if missing := records.lacks(line.record):
            yield Fault(missing, line.number, name)
            continue
        yield from (Fault(says, line.number, name) for says in of_record(path, line.record))
        if (source := origin(line.record) or line.record.get("source")) != usual:
            yield Fault(
                f"is of other data ({source}) than the rest of the file ({usual})",
                line.number,
                name,
            )


def _fate(record: dict) -> dict:
    return {k: record.get(k) for k in ("label", "delta", *COLUMNS)}


def of_record(path: Path, record: dict) -> Iterator[str]:
    """What is wrong with a record by itself and in this file."""
    config = record["config"]
    try:
        benches.dataset(config["bench"])
        known = data.DATASETS[benches.dataset(config["bench"])]
    except BenchError as error:
        yield f"bench: {error}"
        return
    if config["bench"] != path.parent.name:
        yield f"bench: {config['bench']} in a file of {path.parent.name}"
    yield from _of_key(path, config)
    if not 0 <= record["label"] < known.n_classes:
        yield f"label: {record['label']} is out of range 0..{known.n_classes - 1}"
    yield from _of_delta(record, config["attack"], known.size)
    for column in COLUMNS:
        yield from (f"{column}: {says}" for says in _of_votes(record[column], known.n_classes))


def _of_key(path: Path, config: dict) -> Iterator[str]:
    try:
        key = key_of(config)
    except (ValueError, KeyError, TypeError) as error:
        yield f"configuration: it names no experiment ({error})"
        return
    if key != (named := path.stem.rpartition("--")[2]):
        yield f"configuration: its key is {key}, and the file's is {named}"


def _of_delta(record: dict, attack: dict, size: int) -> Iterator[str]:
    try:
        delta = pixels.unpack(record["delta"], (3, size, size)).float()
    except (KeyError, ValueError, RuntimeError, TypeError, pixels.zlib.error) as error:
        yield f"delta: cannot be unpacked as 3 x {size} x {size} whole steps of 1/255 ({error})"
        return
    levels = 255 * attack["eps"]
    if attack["norm"] == "Linf" and delta.abs().max() > int(levels + 1e-4):
        yield (
            f"delta: {int(delta.abs().max())}/255 is outside the l-infinity ball of"
            f" {levels:.4g}/255"
        )
    if attack["norm"] == "L2" and delta.norm() > levels * (1 + 1e-5):
        yield (
            f"delta: length {float(delta.norm()) / 255:.4g} is outside the l2 ball of"
            f" {attack['eps']:.4g}"
        )
    if settings := _settings(attack):
        yield from settings.broken(record, delta)


def _settings(attack: dict) -> Attack | None:
    """The attack of a configuration, or None where it names none: `_of_key` says so."""
    try:
        return specs.parse(specs.write(attack, ATTACKS), ATTACKS)[1]
    except (ValueError, KeyError, TypeError):
        return None


def _of_votes(column: dict, n_classes: int) -> Iterator[str]:
    labels = column["labels"]
    if bad := [label for label in labels if not 0 <= label < n_classes]:
        yield f"label {bad[0]} is out of range 0..{n_classes - 1}"
    for S, voted in column.get("hard", {}).items():
        counts = Counter(labels[: int(S)])
        if not 1 < int(S) <= len(labels) or counts[voted] < max(counts.values()):
            yield (
                f"the hard vote of {S} is {voted}, but its labels are mostly"
                f" {counts.most_common(1)[0][0]}"
            )
    soft = column.get("soft", {})
    for S, voted in soft.items() if isinstance(soft, dict) else [("all", soft)]:
        if type(voted) is not int or not 0 <= voted < n_classes:
            yield f"the soft vote of {S} is {voted!r}, no class"


# ---- with the data -------------------------------------------------------------------------------


def of_images(found: Sequence[records.Line], images: Images) -> Iterator[Fault]:
    """What is wrong with records of an experiment, beside the `images` of its split."""
    rows = {key: i for i, key in enumerate(images.ids)}
    whole = images.split and images.split != data.sources.SAMPLE
    for line in found:
        record, name = line.record, line.record["image"]
        if name not in rows:
            if whole:
                yield Fault(f"image: it is none of {images.source}", line.number, name)
            continue
        i = rows[name]
        if record["label"] != (label := int(images.labels[i])):
            yield Fault(f"label: {record['label']}, and the data say {label}", line.number, name)
        if (settings := _settings(record["config"]["attack"])) is None:
            continue
        image, delta = images.pixels[i], pixels.unpack(record["delta"], images.pixels.shape[1:])
        changed = settings.applied(image, delta)
        if changed.min() < 0 or changed.max() > 255:
            yield Fault("delta: it leads outside 0..255 on this image", line.number, name)
        for says in settings.broken(record, delta, image):
            yield Fault(says, line.number, name)


# ---- with the networks ---------------------------------------------------------------------------


def rescored(found: Sequence[dict], images: Images, device: str = "cpu") -> list[dict[str, dict]]:
    """The present labels and votes of each record of one experiment, by column.

    `images` must contain theirs. Raises `ValueError` if the weights are not the records'.
    """
    experiment = experiment_of(found[0])
    if experiment.config["weights"] != found[0]["config"]["weights"]:
        raise ValueError(
            f"the weights are not those that made the records of {experiment.defence} /"
            f" {experiment.attack}"
        )
    bench, by_image = benches.load(experiment.bench, device), {r["image"]: r for r in found}
    images = pixels.with_records(images, by_image)
    attack = specs.parse(experiment.attack, ATTACKS)[1]
    defence = attack.faces(defences.build(experiment.defence, bench))
    delta = torch.stack(
        [pixels.unpack(by_image[key]["delta"], images.pixels.shape[1:]) for key in images.ids]
    )
    logits = score(experiment, defence, attack, images, delta.to(bench.device), bench.device)
    columns = {name: column_record(column) for name, column in logits.items()}
    rows = {
        key: {name: column[i] for name, column in columns.items()}
        for i, key in enumerate(images.ids)
    }
    return [rows[r["image"]] for r in found]


def experiment_of(record: dict) -> Experiment:
    """The experiment that a record belongs to."""
    config = record["config"]
    names = specs.write(config["defence"], DEFENCES), specs.write(config["attack"], ATTACKS)
    return Experiment(*names, config["bench"], config["split"], config["K"], config["seed"])


def of_scores(record: dict, now: dict[str, dict]) -> Iterator[str]:
    """The columns of a record that differ from `now`."""
    for column in COLUMNS:
        then, again = record[column], now[column]
        if differing := sum(a != b for a, b in zip(then["labels"], again["labels"])):
            yield f"{column}: {differing} of {len(again['labels'])} labels come out differently"
        for how in ("hard", "soft"):
            kept = then.get(how, {})
            kept = kept if isinstance(kept, dict) else {str(len(then["labels"])): kept}
            for S, voted in kept.items():
                if S in again[how] and again[how][S] != voted:
                    yield (
                        f"{column}: the {how} vote of {S} comes out as {again[how][S]}, not {voted}"
                    )


def file(
    path: Path, images: Images | None, chosen: Sequence[str] | None = (), device: str = "cpu"
) -> tuple[Verdict, dict[str, dict]]:
    """A file in full, with the records of `chosen` images scored again; None scores all.

    Returns the findings, and by image the present outcome. Without `images` of its split labels and
    scores are left unchecked.
    """
    found = list(records.lines(path.read_bytes()))
    verdict = Verdict(list(of_text(path, found)))
    whole = [line for line in found if line.record and not records.lacks(line.record)]
    verdict.looked_at = len(whole)
    damaged = {
        f.image
        for f in verdict.faults
        if "delta" in f.says or f.says.startswith(("bench", "configuration"))
    }
    sound = [line for line in whole if line.record["image"] not in damaged]
    if not whole:
        verdict.faults.append(Fault("no record of an experiment"))
    if images is None:
        verdict.unchecked.append("labels, images and scores: the data are not here")
        return verdict, {}
    verdict.faults += of_images(sound, images)
    ids = set(images.ids)
    if absent := len({line.record["image"] for line in sound} - ids):
        verdict.unchecked.append(f"{absent} images that are not in {images.source}")
    wanted = {line.record["image"]: line for line in reversed(sound) if line.record["image"] in ids}
    wanted = {key: line for key, line in wanted.items() if chosen is None or key in chosen}
    if not wanted:
        return verdict, {}
    lines = list(wanted.values())
    try:
        again = rescored([line.record for line in lines], images, device)
    except ValueError as error:
        verdict.unchecked.append(f"scores: {error}")
        return verdict, {}
    for line, now in zip(lines, again):
        verdict.faults += [
            Fault(says, line.number, line.record["image"]) for says in of_scores(line.record, now)
        ]
    verdict.scored = len(lines)
    return verdict, {line.record["image"]: now for line, now in zip(lines, again)}


@lru_cache(maxsize=2)
def _images(dataset: str, split: str, folder: str | None) -> Images:
    return data.load_or_sample(dataset, split, folder, quiet=True)


def images_of(path: Path, folder: str | None = None) -> Images | None:
    """The images of a file's experiment: its split, or the sample that is part of it, or None where
    there are neither.

    Raises `DataError` if a `folder` is named that does not hold them.
    """
    first = next(
        (
            line.record
            for line in records.lines(path.read_bytes())
            if line.record and not records.lacks(line.record)
        ),
        None,
    )
    if first is None:
        return None
    try:
        return _images(benches.dataset(first["config"]["bench"]), first["config"]["split"], folder)
    except (BenchError, data.NoData):
        if folder:
            raise
        return None
