"""The evidence: experiments, their append-only records, and what follows from them.

An experiment is a bench, a defence, an attack and a scoring rule; its file under ``results/`` holds one line per image. Running it
again runs only the images that are missing, in any number of processes at once. Attack and scoring draw separate noise: K fresh
purifications of the adversarial image, and the same K of the clean image and of a random perturbation of equal norm (the null
control).

    python -m hetpure_lab.evidence run --defence hetpure --attack pgd --n-images 128
    python -m hetpure_lab.evidence queue            # everything in results/queue.txt that is not done
    python -m hetpure_lab.evidence --json           # what there is
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hetpure_core import Purified, vote
from hetpure_lab import attacks, benches, data, defences, specs, stats
from hetpure_lab.attacks import ATTACKS, PGD, Undefended
from hetpure_lab.benches import Bench
from hetpure_lab.data import ROOT, Images
from hetpure_lab.defences import DEFENCES

RESULTS = ROOT / "results"
QUEUE = RESULTS / "queue.txt"
COLUMNS = ("adversarial", "clean", "null")


# ---- what an experiment is -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Experiment:
    """`defence` and `attack` are specs such as ``hetpure:tau=0.5`` and ``pgd:eps=4/255``; `K` purifications score every column."""

    defence: str
    attack: str
    bench: str = "cifar10-small"
    split: str = "test"
    K: int = 20
    seed: int = 0

    def __post_init__(self):
        specs.parse(self.defence, DEFENCES), specs.parse(self.attack, ATTACKS)
        if self.K < 1:
            raise ValueError(f"K must be at least 1, not {self.K}")

    @cached_property
    def config(self) -> dict:
        """All settings, spelt out, and the weights' checksums."""
        defence, purifier = specs.parse(self.defence, DEFENCES)
        attack, settings = specs.parse(self.attack, ATTACKS)
        return {
            "bench": self.bench,
            "split": self.split,
            "defence": {"name": defence} | (asdict(purifier) if purifier else {}),
            "attack": {"name": attack} | asdict(settings),
            "K": 1 if purifier is None else self.K,
            "seed": self.seed,
            "weights": {name: benches.card(name)["sha256"][:16] for name in defences.networks(self.defence, self.bench)},
        }

    @property
    def key(self) -> str:
        """What makes two experiments the same: their settings other than defaults, however worded, and the weights."""
        names = {"defence": specs.write(self.config["defence"], DEFENCES), "attack": specs.write(self.config["attack"], ATTACKS)}
        return hashlib.sha256(json.dumps(self.config | names, sort_keys=True).encode()).hexdigest()[:8]

    def path(self, results: Path = RESULTS) -> Path:
        """The file of this experiment's records; its name is for people, its key decides."""
        name = re.sub(r"[^\w.=+-]+", "-", f"{self.defence}--{self.attack}")
        return results / self.bench / f"{name}--{self.key}.jsonl"


# ---- records: append-only lines ----------------------------------------------------------------------------------------------


def append(path: Path, records: Sequence[dict]) -> None:
    """Add whole lines in one write and force them to disk; a torn line left by a killed writer is closed first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(r, separators=(",", ":")) + "\n" for r in records).encode()
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            lines = b"\n" + lines
        if os.write(file, lines) != len(lines):
            raise OSError(f"{path}: the disk is full; the last batch was not recorded")
        os.fsync(file)
    finally:
        os.close(file)


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
            warnings.warn(f"{path}, line {number}: not a whole record (a writer was killed?); dropped", stacklevel=2)
    return records


def pack(delta: Tensor) -> str:
    """int8 differences as text."""
    return base64.b85encode(zlib.compress(delta.numpy().tobytes(), 9)).decode()


def unpack(text: str, shape: Sequence[int]) -> Tensor:
    """The int8 differences of a record."""
    return torch.frombuffer(bytearray(zlib.decompress(base64.b85decode(text))), dtype=torch.int8).reshape(*shape)


def adversarial_images(images: Images, records: dict[str, dict]) -> Tensor:
    """The 8-bit adversarial images uint8 (n, 3, h, w) of those `images` that have a record, in the order of `images`."""
    rows = [i for i, key in enumerate(images.ids) if key in records]
    shape = images.pixels.shape[1:]
    deltas = torch.stack([unpack(records[images.ids[i]]["delta"], shape) for i in rows])
    return (images.pixels[rows].short() + deltas).to(torch.uint8)


def provenance() -> dict:
    """What produced a record: code, libraries, machine."""
    code = {name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest()[:12] for name in ("hetpure_core.py", "hetpure_lab/attacks.py")}
    try:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except OSError:
        commit = ""
    return {"code": code, "commit": commit, "torch": torch.__version__.split("+")[0], "machine": platform.machine()}


# ---- running -----------------------------------------------------------------------------------------------------------------


def run(
    experiment: Experiment,
    images: Images,
    bench: Bench | None = None,
    device: str = "cpu",
    batch: int = 8,
    progress: bool = True,
    results: Path = RESULTS,
) -> dict[str, dict]:
    """Attack and score those of `images` that have no record yet, `batch` at a time; returns the records of all, by image id."""
    path = experiment.path(results)
    missing = [i for i, key in enumerate(images.ids) if key not in read(path)]
    if missing:
        bench = bench or benches.load(experiment.bench, device)
        defence = defences.build(experiment.defence, bench)
        _, attack = specs.parse(experiment.attack, ATTACKS)
        label = f"{experiment.defence} / {experiment.attack}"
        with tqdm(total=len(missing) * attack.iterations, desc=label, unit="it", disable=not progress, mininterval=2) as bar:
            for start in range(0, len(missing), batch):
                rows = images[torch.tensor(missing[start : start + batch])]
                append(path, evaluate(experiment, defence, attack, rows, bench.device, bar.update))
    found = read(path)
    return {key: found[key] for key in images.ids}


def evaluate(
    experiment: Experiment,
    defence: Purified | Undefended,
    attack: PGD,
    images: Images,
    device: torch.device,
    tick: Callable[[int], None] = lambda k: None,
) -> list[dict]:
    """One batch: attack, round to 8 bits, score the three columns on fresh noise."""
    started, ids = time.time(), images.ids
    x, y = images.floats.to(device), images.labels.to(device)
    x_adv, spent = attack.run(defence, x, y, ids, experiment.seed, tick)
    delta = attacks.to_8_bit(x_adv, x, attack.norm, attack.eps)
    null = attacks.perturb_randomly(x, ids, attack.norm, attack.eps, f"null {experiment.seed}")
    null = attacks.to_8_bit(null, x, attack.norm, attack.eps)
    scorer, K = attacks.reseeded(defence, f"score {experiment.seed}"), experiment.config["K"]
    pixels = {"adversarial": delta, "clean": torch.zeros_like(delta), "null": null}
    logits = {name: attacks.logits_of(scorer, (images.pixels.to(device) + d.short()) / 255, ids, range(K)) for name, d in pixels.items()}
    shared = {"config": experiment.config, "source": images.source} | provenance()
    shared |= {"device": str(device), "seconds": round((time.time() - started) / len(ids), 3)}
    return [
        {"image": key, "label": int(y[i]), "iterations": int(spent[i]), "delta": pack(delta[i].cpu())}
        | {name: {"labels": column[:, i].argmax(-1).tolist(), "soft": int(vote(column[:, i : i + 1]))} for name, column in logits.items()}
        | shared
        for i, key in enumerate(ids)
    ]


# ---- what follows from records -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcomes:
    """The outcomes of one experiment: `labels` (n,), and per column the K predicted labels (n, K)."""

    labels: np.ndarray
    predicted: dict[str, np.ndarray]

    @classmethod
    def of(cls, records: dict[str, dict]) -> Outcomes:
        rows = list(records.values())
        return cls(np.array([r["label"] for r in rows]), {c: np.array([r[c]["labels"] for r in rows]) for c in COLUMNS})

    def correct(self, column: str) -> np.ndarray:
        """0/1 outcomes (n, K)."""
        return self.predicted[column] == self.labels[:, None]

    def single(self, column: str) -> stats.Accuracy:
        """Expected accuracy of one purification."""
        correct = self.correct(column)
        return stats.wilson(correct[:, 0]) if correct.shape[1] == 1 else stats.mean_rate(correct.mean(1))

    def majority(self, column: str) -> stats.Accuracy:
        """Hard vote of all K."""
        return stats.wilson(self.majority_correct(column))

    def majority_correct(self, column: str) -> np.ndarray:
        predicted = self.predicted[column]
        counts = np.stack([np.bincount(row, minlength=1 + predicted.max()) for row in predicted])
        return counts.argmax(1) == self.labels

    def every(self, column: str) -> stats.Accuracy:
        """All K right: what is left if any failure counts."""
        return stats.wilson(self.correct(column).all(1))


def summary(path: Path) -> dict:
    """One experiment as a row: settings, n, and accuracies with 95 % intervals."""
    records = read(path)
    config, outcomes = next(iter(records.values()))["config"], Outcomes.of(records)
    attack = config["attack"]
    row = {"bench": config["bench"], "defence": specs.write(config["defence"], DEFENCES), "attack": specs.write(attack, ATTACKS)}
    row |= {k: attack[k] for k in ("norm", "gradient", "eps", "iterations", "eot")}
    row |= {"K": config["K"], "seed": config["seed"], "n": len(records), "data": config["split"]}
    row |= {"weights": config["weights"], "file": path.name}
    for column in COLUMNS:
        for rule in ("single", "majority", "every"):
            row[f"{column}_{rule}"] = asdict(getattr(outcomes, rule)(column))
    return row


def current(path: Path) -> bool:
    """Whether a file's records were made with the weights that are in the repository now."""
    record = next(iter(read(path).values()), None)
    return record is not None and all(benches.card(k)["sha256"][:16] == v for k, v in record["config"]["weights"].items())


def files(results: Path = RESULTS) -> list[Path]:
    """All record files of the current weights."""
    return [path for path in sorted(results.glob("*/*.jsonl")) if current(path)]


def queue(path: Path = QUEUE) -> Iterator[list[str]]:
    """The command lines of the queue file; '#' starts a comment."""
    for line in path.read_text().splitlines():
        if words := shlex.split(line, comments=True):
            yield words


# ---- command line --------------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hetpure_lab.evidence", description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="list every experiment as JSON")
    commands = parser.add_subparsers(dest="command")
    for name, text in (("run", "start or continue one experiment"), ("queue", "run what results/queue.txt lists and is not done")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--data", help="folder of parquet files (default: the usual search)")
        command.add_argument("--device", default="cpu")
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("--shard", default="0/1", help="i/n: every n-th missing image from the i-th, to share work between processes")
        if name == "run":
            _add_experiment(command)
    return parser


def _add_experiment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bench", default="cifar10-small")
    parser.add_argument("--defence", required=True, help="none, uniform:t=0.1, hetpure:tau=0.5,...")
    parser.add_argument("--attack", required=True, help="pgd:eps=8/255,iterations=20,eot=8,...")
    parser.add_argument("--n-images", type=int, default=128)
    parser.add_argument("--split", default="test")
    parser.add_argument("--K", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)


def _run(args: argparse.Namespace, shared: argparse.Namespace) -> None:
    experiment = Experiment(args.defence, args.attack, args.bench, args.split, args.K, args.seed)
    bench = benches.load(args.bench, shared.device)
    images = data.load(bench.dataset, args.split, shared.data, quiet=True).take(args.n_images)
    i, n = map(int, shared.shard.split("/"))
    run(experiment, images[torch.arange(i, len(images), n)], bench, shared.device)
    print(json.dumps({k: v for k, v in summary(experiment.path()).items() if k in ("defence", "attack", "n", "adversarial_single")}))


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    if args.command is None:
        rows = [summary(path) for path in files()]
        print(json.dumps(rows, indent=1) if args.json else "\n".join(f"{r['defence']:40} {r['attack']} n={r['n']}" for r in rows))
        return
    torch.set_num_threads(args.threads)
    try:
        if args.command == "run":
            return _run(args, args)
        one = argparse.ArgumentParser()
        _add_experiment(one)
        for words in queue():
            _run(one.parse_args(words), args)
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
