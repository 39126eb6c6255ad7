"""The evidence: experiments, running them, and a row for each.

An experiment is a bench, a defence, an attack and a scoring rule; its file under ``results/`` holds
one line per image. Running it again runs only the images that are missing, in any number of
processes at once. Attack and scoring draw separate noise: K fresh purifications of the adversarial
image, and the same K of the clean image and of a random perturbation of equal norm (the null
control).

    hetpure run --defence hetpure --attack pgd --n-images 128
    hetpure queue            # everything in results/queue.txt that is not done
    hetpure experiments --json           # what there is
    hetpure export FILE --to FOLDER      # its adversarial images as PNG files
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hetpure_lab import data
from hetpure_lab.evidence import pixels, workers
from hetpure_lab.evidence.backlog import add_experiment, experiment_of, outstanding, queue
from hetpure_lab.evidence.engine import run
from hetpure_lab.evidence.records import read
from hetpure_lab.evidence.select import summary
from hetpure_lab.networks import benches, checkpoints

if TYPE_CHECKING:
    from distributed import Client


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hetpure", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("run", "start or continue one experiment"),
        ("queue", "run what results/queue.txt lists and is not done"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--data", help="folder of parquet files (default: the usual search)")
        command.add_argument("--device", default="cpu")
        command.add_argument(
            "--threads",
            type=int,
            default=1,
            help="of one process (with a scheduler: of one worker)",
        )
        command.add_argument(
            "--batch",
            default="auto",
            help="images at once: a number, or auto (default) by what memory holds",
        )
        command.add_argument(
            "--shard",
            default="0/1",
            help=(
                "i/n: every n-th image from the i-th (0 is the first), to share work between"
                " processes"
            ),
        )
        command.add_argument(
            "--scheduler",
            help="address of a Dask scheduler whose workers do the work, see book/scaling",
        )
        for part, says in (
            ("ca", "the authority's certificate"),
            ("cert", "this process's certificate"),
            ("key", "its key"),
        ):
            command.add_argument(
                f"--tls-{part}", metavar="FILE", help=f"for a tls:// scheduler: {says}"
            )
        if name == "run":
            add_experiment(command)
    commands.add_parser(
        "left",
        help=(
            "list what results/queue.txt has that is not done, with the images on record and those"
            " wanted"
        ),
    )
    command = commands.add_parser(
        "export", help="write an experiment's adversarial images as PNG files"
    )
    command.add_argument("file", type=Path, help="a file of records")
    command.add_argument(
        "--to", type=Path, required=True, help="folder for IMAGE-ID.png and labels.csv"
    )
    command.add_argument("--data", help="folder of parquet files (default: the usual search)")
    return parser


def _share(text: str) -> tuple[int, int]:
    """``i/n`` as two numbers."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    i, n = map(int, found.groups()) if found else (0, 0)
    if not i < n:
        raise ValueError(f"a shard is i/n with 0 <= i < n, such as 0/2, not {text}")
    return i, n


def _batch(text: str) -> int | None:
    """A number of images, or None for ``auto``."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"--batch is a number of images from 1, or auto, not {text}")
    return int(text)


def _client(args: argparse.Namespace) -> Client | None:
    """Of the scheduler that is named, after a look at its workers."""
    files = [args.tls_ca, args.tls_cert, args.tls_key]
    if any(files) and not all(files):
        raise ValueError("TLS needs all of --tls-ca, --tls-cert and --tls-key")
    if not args.scheduler:
        return None
    client = workers.connect(args.scheduler, workers.Tls(*files) if all(files) else None)
    workers.check_versions(client)
    return client


def _run(args: argparse.Namespace, shared: argparse.Namespace, client: Client | None) -> None:
    experiment, (i, n) = experiment_of(args), _share(shared.shard)
    images = data.load(benches.dataset(args.bench), args.split, shared.data, quiet=True).take(
        args.n_images
    )
    if i >= len(images):
        return
    images, settings = (
        images[torch.arange(i, len(images), n)],
        {"device": shared.device, "batch": _batch(shared.batch)},
    )
    run(experiment, images, client=client, threads=shared.threads, **settings)
    print(
        json.dumps(
            {
                k: v
                for k, v in summary(experiment.path()).items()
                if k in ("defence", "attack", "n", "adversarial_single")
            }
        )
    )


def _export(args: argparse.Namespace) -> None:
    records = read(args.file)
    if not records:
        raise ValueError(f"{args.file} has no records")
    config = next(iter(records.values()))["config"]
    images = data.load(benches.dataset(config["bench"]), config["split"], args.data, quiet=True)
    print(f"{len(pixels.export(images, records, args.to))} images in {args.to}")


def _left() -> None:
    lines = [
        f"{found:4} of {wanted:4}  {shlex.join(words)}" for words, found, wanted in outstanding()
    ]
    print(*lines, sep="\n")
    print(f"{len(lines)} of {sum(1 for _ in queue())} lines are not done; make evidence runs them")


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    if args.command == "export":
        return _export(args)
    if args.command == "left":
        return _left()
    if args.threads < 1:
        raise ValueError(f"--threads must be at least 1, not {args.threads}")
    torch.set_num_threads(args.threads)
    _share(args.shard), _batch(args.batch)  # wrong ones are told before anything is loaded
    client = _client(args)
    if args.command == "run":
        return _run(args, args, client)
    one = argparse.ArgumentParser()
    add_experiment(one)
    for words in queue():
        try:
            _run(one.parse_args(words), args, client)
        # networks that are not trained yet must not stop the others
        except (benches.BenchError, checkpoints.CheckpointError) as error:
            print(f"skipped {shlex.join(words)}: {error}", file=sys.stderr)
