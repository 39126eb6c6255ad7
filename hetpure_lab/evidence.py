"""The evidence: experiments, running them, and a row for each.

An experiment is a bench, a defence, an attack and a scoring rule; its file under ``results/`` holds one line per image. Running it
again runs only the images that are missing, in any number of processes at once. Attack and scoring draw separate noise: K fresh
purifications of the adversarial image, and the same K of the clean image and of a random perturbation of equal norm (the null
control).

    python -m hetpure_lab.evidence run --defence hetpure --attack pgd --n-images 128
    python -m hetpure_lab.evidence queue            # everything in results/queue.txt that is not done
    python -m hetpure_lab.evidence --json           # what there is
    python -m hetpure_lab.evidence export FILE --to FOLDER      # its adversarial images as PNG files
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hetpure_core import HetPure, Purified, Uniform
from hetpure_lab import attacks, benches, checkpoints, data, defences, microbatch, pixels, scale, specs, stats
from hetpure_lab.attacks import ATTACKS, PRESETS, Attack, Undefended
from hetpure_lab.benches import Bench
from hetpure_lab.data import ROOT, Images
from hetpure_lab.defences import DEFENCES
from hetpure_lab.outcomes import COLUMNS, RULES, Outcomes, column_record
from hetpure_lab.pixels import adversarial_images as adversarial_images
from hetpure_lab.pixels import unpack as unpack
from hetpure_lab.records import append, provenance, read

if TYPE_CHECKING:
    from distributed import Client

RESULTS = Path(os.environ.get("HETPURE_RESULTS", ROOT / "results"))
QUEUE = ROOT / "results" / "queue.txt"


# ---- what an experiment is -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Experiment:
    """`defence` and `attack` are specs such as ``hetpure:tau=0.5`` and ``pgd:eps=4/255``, or objects, which become specs; an attack can be
    one of `attacks.PRESETS` by name. `K` purifications score every column."""

    defence: str | HetPure | Uniform | None
    attack: str | Attack
    bench: str = "cifar10-small"
    split: str = "test"
    K: int = 20
    seed: int = 0

    def __post_init__(self):
        if isinstance(self.attack, str):
            object.__setattr__(self, "attack", PRESETS.get(self.attack, self.attack))
        for name, known in (("defence", DEFENCES), ("attack", ATTACKS)):
            if not isinstance(getattr(self, name), str):
                object.__setattr__(self, name, specs.describe(getattr(self, name), known))
            specs.parse(getattr(self, name), known)
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


# ---- running -----------------------------------------------------------------------------------------------------------------


def run(
    experiment: Experiment,
    images: Images,
    bench: Bench | None = None,
    device: str = "cpu",
    batch: int = 8,
    progress: bool = True,
    results: Path = RESULTS,
    client: Client | None = None,
) -> dict[str, dict]:
    """Attack and score those of `images` that have no record yet, `batch` at a time; returns the records of all, by image id.

    With a Dask `client` its workers do the batches, on a `device` of theirs and with the bench of that name from their own checkout; this
    process alone writes.
    """
    if bench and client:
        raise ValueError("workers load the bench by its name: give a bench or a client, not both")
    path, ids = experiment.path(results), images.ids
    found = read(path)
    missing = [i for i, key in enumerate(ids) if key not in found]
    batches = [missing[start : start + batch] for start in range(0, len(missing), batch)]
    label = f"{experiment.defence} / {experiment.attack}"
    look = {"unit": "image", "mininterval": 2, "bar_format": "{l_bar}{bar}| {n:.1f}/{total} [{elapsed}<{remaining}, {rate_fmt}]"}
    with tqdm(total=len(missing), desc=label, disable=not progress or not missing, **look) as bar:
        if client:
            for records in scale.each(client, shard, [(experiment, images[torch.tensor(rows)], device) for rows in batches]):
                append(path, records)
                bar.update(len(records))
        else:
            for rows in batches:
                found = read(path)
                if left := [i for i in rows if ids[i] not in found]:  # another process may have been here
                    append(path, shard(experiment, images[torch.tensor(left)], device, bench, lambda k: bar.update(k)))
    found = read(path)
    return {key: found[key] for key in ids}


@lru_cache(maxsize=2)
def _bench(name: str, device: str) -> Bench:
    return benches.load(name, device)


def shard(
    experiment: Experiment, images: Images, device: str = "cpu", bench: Bench | None = None, tick: Callable[[float], None] = lambda k: None
) -> list[dict]:
    """The records of one batch, from nothing but its arguments and the weights: what a worker does. Recovers from too large a microbatch.

    `tick` is called with fractions of images done.
    """
    bench = bench or _bench(experiment.bench, device)
    defence, (_, attack) = defences.build(experiment.defence, bench), specs.parse(experiment.attack, ATTACKS)
    if isinstance(defence, Purified | Undefended):
        microbatch.fit(defence, images.floats[:1].to(bench.device))
    share = lambda k: tick(k / max(1, attack.steps))
    return microbatch.recovering(lambda: evaluate(experiment, defence, attack, images, bench.device, share), bench.device)


def evaluate(
    experiment: Experiment,
    defence: Purified | Undefended,
    attack: Attack,
    images: Images,
    device: torch.device,
    tick: Callable[[int], None] = lambda k: None,
) -> list[dict]:
    """One batch: attack, round to 8 bits, score the three columns on fresh noise."""
    started, ids, defence = (time.time(), time.process_time()), images.ids, attack.faces(defence)
    x, y = images.floats.to(device), images.labels.to(device)
    with Calls(defence) as calls:
        x_adv, spent = attack.run(defence, x, y, ids, experiment.seed, tick)
        delta = attacks.to_8_bit(x_adv, x, attack.norm, attack.eps)
        logits = score(experiment, defence, attack, images, delta, device)
    columns = {name: column_record(column) for name, column in logits.items()}
    shared = {"config": experiment.config, "source": images.source} | provenance() | {"device": _name(device)}
    elapsed = {"seconds": time.time() - started[0], "cpu_seconds": time.process_time() - started[1]}
    shared |= {what: round(s / len(ids), 3) for what, s in elapsed.items()} | {"denoiser_calls": round(calls.rows / len(ids))}
    return [
        {"image": key, "label": int(y[i]), "iterations": int(spent[i]), "delta": pixels.pack(delta[i].cpu())}
        | {name: column[i] for name, column in columns.items()}
        | shared
        for i, key in enumerate(ids)
    ]


def score(
    experiment: Experiment, defence: Purified | Undefended, attack: Attack, images: Images, delta: Tensor, device: torch.device
) -> dict[str, Tensor]:
    """Logits (K, n, classes) of the three columns on fresh noise, the adversarial images being int8 differences `delta` (n, 3, h, w)."""
    x, ids, K = images.floats.to(device), images.ids, experiment.config["K"]
    null = attacks.perturb_randomly(x, ids, attack.norm, attack.eps, f"null {experiment.seed}")
    null = attacks.to_8_bit(null, x, attack.norm, attack.eps)
    changes = {"adversarial": delta, "clean": torch.zeros_like(delta), "null": null}
    scorer = attacks.reseeded(defence, f"score {experiment.seed}")
    return {c: attacks.logits_of(scorer, (images.pixels.to(device) + d.short()) / 255, ids, range(K)) for c, d in changes.items()}


def _name(device: torch.device) -> str:
    """What ran: ``cpu``, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else str(device)


class Calls:
    """`rows`: how many images went through a defence's denoiser inside the block, counting what is recomputed for gradients."""

    def __init__(self, defence: Purified | Undefended):
        self.denoiser, self.rows = getattr(defence, "denoiser", None), 0

    def __enter__(self) -> Calls:
        self.hook = self.denoiser and self.denoiser.register_forward_pre_hook(self._count)
        return self

    def __exit__(self, *_) -> None:
        if self.hook:
            self.hook.remove()

    def _count(self, _module, inputs: tuple) -> None:
        self.rows += len(inputs[0])


# ---- what follows from records -----------------------------------------------------------------------------------------------


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
        for rule in RULES:
            accuracy = outcomes.accuracy(column, rule)
            row[f"{column}_{rule}"] = None if accuracy is None else asdict(accuracy)
    return row


def over_seeds(bench: str, column: str = "adversarial", results: Path = RESULTS) -> dict[str, stats.Spread]:
    """Run-to-run and image-to-image variation of every experiment of a bench that ran with several seeds, by its first file's name."""
    groups: dict[str, dict[str, dict[str, dict]]] = {}
    for path in files(results):
        records = read(path)
        config = next(iter(records.values()))["config"]
        if config["bench"] != bench:
            continue
        names = {"defence": specs.write(config["defence"], DEFENCES), "attack": specs.write(config["attack"], ATTACKS), "seed": None}
        groups.setdefault(json.dumps(config | names, sort_keys=True), {})[path.name] = records
    return {next(iter(runs)): _spread(list(runs.values()), column) for runs in groups.values() if len(runs) > 1}


def _spread(runs: list[dict[str, dict]], column: str) -> stats.Spread:
    shared = [key for key in runs[0] if all(key in run for run in runs)]
    return stats.spread(np.stack([Outcomes.of({key: run[key] for key in shared}).correct(column).mean(1) for run in runs]))


def current(path: Path) -> bool:
    """Whether a file's records were made with the weights that are in the repository now."""
    record = next(iter(read(path).values()), None)
    return record is not None and all(benches.is_current(k, v) for k, v in record["config"]["weights"].items())


def files(results: Path = RESULTS) -> list[Path]:
    """All record files of the current weights."""
    return [path for path in sorted(results.glob("*/*.jsonl")) if current(path)]


def queue(path: Path = QUEUE) -> Iterator[list[str]]:
    """The command lines of the queue file; '#' starts a comment."""
    for line in path.read_text().splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def outstanding(path: Path = QUEUE, results: Path = RESULTS) -> Iterator[tuple[list[str], int, int]]:
    """The lines of the queue that are not done, how many images they have on record, and how many they want.

    Networks that are not trained yet leave nothing on record.
    """
    parser = argparse.ArgumentParser()
    _add_experiment(parser)
    for words in queue(path):
        args = parser.parse_args(words)
        try:
            found = len(read(_experiment(args).path(results)))
        except (benches.BenchError, checkpoints.CheckpointError):
            found = 0
        if found < args.n_images:
            yield words, found, args.n_images


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
        command.add_argument(
            "--shard", default="0/1", help="i/n: every n-th image from the i-th (0 is the first), to share work between processes"
        )
        command.add_argument("--scheduler", help="address of a Dask scheduler whose workers do the work, see book/scaling")
        if name == "run":
            _add_experiment(command)
    commands.add_parser("left", help="list what results/queue.txt has that is not done, with the images on record and those wanted")
    command = commands.add_parser("export", help="write an experiment's adversarial images as PNG files")
    command.add_argument("file", type=Path, help="a file of records")
    command.add_argument("--to", type=Path, required=True, help="folder for IMAGE-ID.png and labels.csv")
    command.add_argument("--data", help="folder of parquet files (default: the usual search)")
    return parser


def _add_experiment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bench", default="cifar10-small")
    parser.add_argument("--defence", required=True, help="none, uniform:t=0.1, hetpure:tau=0.5,...")
    parser.add_argument("--attack", required=True, help=f"pgd:eps=8/255,iterations=20,eot=8,... or one of {', '.join(PRESETS)}")
    parser.add_argument("--n-images", type=int, default=128)
    parser.add_argument("--split", default="test")
    parser.add_argument("--K", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)


def _share(text: str) -> tuple[int, int]:
    """``i/n`` as two numbers."""
    i, n = map(int, text.split("/"))
    if not 0 <= i < n:
        raise ValueError(f"a shard is i/n with 0 <= i < n, not {text}")
    return i, n


def _experiment(args: argparse.Namespace) -> Experiment:
    return Experiment(args.defence, args.attack, args.bench, args.split, args.K, args.seed)


def _run(args: argparse.Namespace, shared: argparse.Namespace, client: Client | None) -> None:
    experiment, (i, n) = _experiment(args), _share(shared.shard)
    images = data.load(benches.dataset(args.bench), args.split, shared.data, quiet=True).take(args.n_images)
    if i >= len(images):
        return
    run(experiment, images[torch.arange(i, len(images), n)], device=shared.device, client=client)
    print(json.dumps({k: v for k, v in summary(experiment.path()).items() if k in ("defence", "attack", "n", "adversarial_single")}))


def _export(args: argparse.Namespace) -> None:
    records = read(args.file)
    if not records:
        raise ValueError(f"{args.file} has no records")
    config = next(iter(records.values()))["config"]
    images = data.load(benches.dataset(config["bench"]), config["split"], args.data, quiet=True)
    print(f"{len(pixels.export(images, records, args.to))} images in {args.to}")


def _list(as_json: bool) -> None:
    rows = [summary(path) for path in files()]
    print(json.dumps(rows, indent=1) if as_json else "\n".join(f"{r['defence']:40} {r['attack']} n={r['n']}" for r in rows))


def _left() -> None:
    lines = [f"{found:4} of {wanted:4}  {shlex.join(words)}" for words, found, wanted in outstanding()]
    print(*lines, sep="\n")
    print(f"{len(lines)} of {sum(1 for _ in queue())} lines are not done; make evidence runs them")


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    try:
        if args.command is None:
            return _list(args.json)
        if args.command == "export":
            return _export(args)
        if args.command == "left":
            return _left()
        torch.set_num_threads(args.threads)
        client = scale.connect(args.scheduler) if args.scheduler else None
        if args.command == "run":
            return _run(args, args, client)
        one = argparse.ArgumentParser()
        _add_experiment(one)
        for words in queue():
            try:
                _run(one.parse_args(words), args, client)
            except (benches.BenchError, checkpoints.CheckpointError) as error:  # networks that are not trained yet must not stop the others
                print(f"skipped {shlex.join(words)}: {error}", file=sys.stderr)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
