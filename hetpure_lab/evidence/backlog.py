"""The queue: command lines of experiments, most worth first."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path

from hetpure_lab.attacks import PRESETS
from hetpure_lab.common.paths import HOME, RESULTS
from hetpure_lab.evidence.experiment import Experiment
from hetpure_lab.evidence.records import read
from hetpure_lab.networks import benches, checkpoints

QUEUE = HOME / "results" / "queue.txt"


def add_experiment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bench", default="cifar10-small")
    parser.add_argument("--defence", required=True, help="none, uniform:t=0.1, hetpure:tau=0.5,...")
    parser.add_argument(
        "--attack",
        required=True,
        help=f"pgd:eps=8/255,iterations=20,eot=8,... or one of {', '.join(PRESETS)}",
    )
    parser.add_argument("--n-images", type=int, default=128)
    parser.add_argument("--split", default="test")
    parser.add_argument("--K", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)


def experiment_of(args: argparse.Namespace) -> Experiment:
    return Experiment(args.defence, args.attack, args.bench, args.split, args.K, args.seed)


def queue(path: Path = QUEUE) -> Iterator[list[str]]:
    """The command lines of the queue file; '#' starts a comment."""
    if not path.is_file():
        raise ValueError(f"there is no queue {path}: a line of it is what follows `hetpure run`")
    for line in path.read_text().splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def queued(path: Path = QUEUE) -> Iterator[list[str]]:
    """`queue`, and nothing where there is none: an installation has no queue to show."""
    yield from queue(path) if path.is_file() else ()


def outstanding(
    path: Path = QUEUE, results: Path = RESULTS
) -> Iterator[tuple[list[str], int, int]]:
    """The lines of the queue that are not done, how many images they have on record, and how many
    they want.

    Networks that are not trained yet leave nothing on record.
    """
    parser = argparse.ArgumentParser()
    add_experiment(parser)
    for words in queue(path):
        args = parser.parse_args(words)
        try:
            found = len(read(experiment_of(args).path(results)))
        except (benches.BenchError, checkpoints.CheckpointError):
            found = 0
        if found < args.n_images:
            yield words, found, args.n_images
