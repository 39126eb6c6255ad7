"""Running an experiment: only the images that are missing, in any number of processes at once.

Attack and scoring draw separate noise: K fresh purifications of the adversarial image, and the same
K of the clean image and of a random perturbation of equal norm (the null control).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from hetpure_core import Purified
from hetpure_lab import attacks, defences
from hetpure_lab.attacks import ATTACKS, Attack, Undefended
from hetpure_lab.common import microbatch, specs
from hetpure_lab.common.paths import RESULTS
from hetpure_lab.common.progress import stream
from hetpure_lab.data import Images
from hetpure_lab.evidence import pixels, workers
from hetpure_lab.evidence.claims import Claims
from hetpure_lab.evidence.experiment import Experiment
from hetpure_lab.evidence.outcomes import column_record
from hetpure_lab.evidence.records import append, provenance, read
from hetpure_lab.networks import benches
from hetpure_lab.networks.benches import Bench

if TYPE_CHECKING:
    from distributed import Client

Worker = Callable[[Images], Iterable[list[dict]]]  # records of images, batch by batch

# A worker may have several threads, but its networks are one set, and so is what is counted and
# measured about them.
ONE_AT_A_TIME = threading.Lock()
# images of a batch: what a stopped process loses at most, and what finds decided images to set
# aside
LEAST = 8
WAIT = 1.0  # seconds between two looks whether others are done
# Digests of the splits that were read before records kept them (`Images.digest`), by their source.
EARLY = {
    "cifar10/test (test-00000-of-00001.parquet)": "80911ffbac1aa648",
    "svhn-unseen/test (test-00000-of-00001.parquet)": "3f35b9e8b79d8332",
    "imagenet/validation (validation-00000-of-00001.parquet)": "414218d5f0deaaf0",
}


def run(
    experiment: Experiment,
    images: Images,
    bench: Bench | None = None,
    device: str = "cpu",
    batch: int | None = None,
    progress: bool = True,
    results: Path = RESULTS,
    client: Client | None = None,
    threads: int = 1,
) -> dict[str, dict]:
    """Attack and score those of `images` that have no record yet, `batch` at a time; returns the
    records of all, by image id.

    Without a `batch` it is `full_batch`: as many as memory holds at once, and no fewer than
    `LEAST`. Processes that run the same experiment at the same time share its images; each returns
    when all images have a record. With a Dask `client` its workers do the batches with `threads`
    each, on a `device` of theirs and with the bench of that name from their own checkout; this
    process alone writes. Raises `ValueError` for images of another split or source than those on
    record.
    """
    if bench and client:
        raise ValueError("workers load the bench by its name: give a bench or a client, not both")
    if batch is not None and batch < 1:
        raise ValueError(f"a batch has at least 1 image, not {batch}")
    check_radius(experiment)
    batch = batch or full_batch(experiment, device)
    path, ids = experiment.path(results), images.ids
    found = read(path)
    check_origin(experiment, images, found, path)
    missing = [key for key in ids if key not in found]
    if not missing:
        return {key: found[key] for key in ids}
    label = f"{experiment.defence} / {experiment.attack}"
    look = {
        "unit": "image",
        "mininterval": 2,
        "bar_format": "{l_bar}{bar}| {n:.1f}/{total} [{elapsed}<{remaining}, {rate_fmt}]",
    }
    with (
        tqdm(total=len(missing), desc=label, disable=not progress, file=stream(), **look) as bar,
        Claims(path) as claims,
    ):
        mine = _of_this_process(experiment, device, bench, bar.update)
        mine = _of_workers(experiment, device, batch, client, threads) if client else mine
        while missing := [key for key in ids if key not in read(path)]:
            claimed = claims.some(missing, len(missing) if client else batch)
            found = read(path)
            # its owner may have written it and gone since the last look
            left = [key for key in claimed if key not in found]
            if left:
                rows = {key: i for i, key in enumerate(ids)}
                for records in mine(images[torch.tensor([rows[key] for key in left])]):
                    append(path, records, results)
                    claims.drop([record["image"] for record in records])
            elif not claimed:
                time.sleep(WAIT)  # the rest is in others' hands
            claims.drop(claimed)
            bar.n = bar.total - len([key for key in ids if key not in read(path)])
            bar.refresh()
    found = read(path)
    return {key: found[key] for key in ids}


def _of_this_process(
    experiment: Experiment, device: str, bench: Bench | None, tick: Callable[[float], None]
) -> Worker:
    return lambda images: [shard(experiment, images, device, bench, tick)]


def _of_workers(
    experiment: Experiment, device: str, batch: int, client: Client, threads: int
) -> Worker:
    def work(images: Images) -> Iterator[list[dict]]:
        parts = [
            (experiment, images[rows], device, threads)
            for rows in torch.arange(len(images)).split(batch)
        ]
        return workers.each(client, remote, parts)

    return work


def remote(experiment: Experiment, images: Images, device: str, threads: int) -> list[dict]:
    """`shard` in a worker, which a cluster's manager may have given any number of threads."""
    torch.set_num_threads(threads)
    return shard(experiment, images, device)


def full_batch(experiment: Experiment, device: str) -> int:
    """As many images as fill the rows that a device of that kind takes at once with the copies of a
    gradient, and at least `LEAST`.
    """
    attack = specs.parse(experiment.attack, ATTACKS)[1]
    return max(LEAST, microbatch.rows(torch.device(device)) // attack.eot)


def check_radius(experiment: Experiment) -> None:
    """Raise `ValueError`, before any work, for a radius of which 8-bit differences keep nothing or
    more than they hold.
    """
    attack = specs.parse(experiment.attack, ATTACKS)[1]
    if attack.norm == "Linf" and attack.eps and not 1 / 255 - 1e-6 <= attack.eps < 128 / 255:
        says = f"an l-infinity radius is from 1/255 to 127/255, not {attack.eps:.4g}"
        raise ValueError(f"adversarial images are stored as 8-bit differences: {says}")


def check_origin(
    experiment: Experiment, images: Images, found: dict[str, dict], path: Path
) -> None:
    """Raise `ValueError` if the experiment is about another split than `images` are of, or its
    records about other images.
    """
    if images.split and images.split != experiment.split:
        raise ValueError(
            f"the experiment is about the split {experiment.split!r}; "
            f"these images are of the split {images.split!r} ({images.source})"
        )
    for record in found.values():
        digests, texts = (
            (images.digest, origin(record)),
            (images.source, record.get("source", images.source)),
        )
        ours, theirs = digests if all(digests) else texts
        if ours != theirs:
            one, other = (
                f"{text} (digest {digest or 'unknown'})" for text, digest in zip(texts, digests)
            )
            raise ValueError(
                f"{path} holds records about images of {other}, and these are of {one}: they would"
                " be mixed"
            )


def origin(record: dict) -> str:
    """The digest of the split that a record's image is part of; early records name its file
    only.
    """
    return record.get("data") or EARLY.get(record.get("source", ""), "")


@lru_cache(maxsize=2)
def _bench(name: str, device: str) -> Bench:
    return benches.load(name, device)


def shard(
    experiment: Experiment,
    images: Images,
    device: str = "cpu",
    bench: Bench | None = None,
    tick: Callable[[float], None] = lambda k: None,
) -> list[dict]:
    """The records of one batch, from nothing but its arguments and the weights: what a worker does.
    Recovers from too large a microbatch.

    `tick` is called with fractions of images done.
    """
    with ONE_AT_A_TIME:
        bench = bench or _bench(experiment.bench, device)
        defence, (_, attack) = (
            defences.build(experiment.defence, bench),
            specs.parse(experiment.attack, ATTACKS),
        )
        if isinstance(defence, Purified | Undefended):
            microbatch.fit(defence, images.floats[:1].to(bench.device))
        share = lambda k: tick(k / max(1, attack.steps))
        return microbatch.recovering(
            lambda: evaluate(experiment, defence, attack, images, bench.device, share), bench.device
        )


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
        x_adv, spent, told = attack.find(defence, x, y, ids, experiment.seed, tick)
        delta = attack.stored(x_adv, x)
        logits = score(experiment, defence, attack, images, delta, device)
    columns = {name: column_record(column) for name, column in logits.items()}
    shared = {"config": experiment.config, "source": images.source} | (
        {"data": images.digest} if images.digest else {}
    )
    shared |= provenance(*experiment.classes) | {"device": _name(device)}
    elapsed = {"seconds": time.time() - started[0], "cpu_seconds": time.process_time() - started[1]}
    shared |= {what: round(s / len(ids), 3) for what, s in elapsed.items()} | {
        "denoiser_calls": round(calls.rows / len(ids))
    }
    return [
        {
            "image": key,
            "label": int(y[i]),
            "iterations": int(spent[i]),
            "delta": pixels.pack(delta[i].cpu()),
        }
        | told[i]
        | {name: column[i] for name, column in columns.items()}
        | shared
        for i, key in enumerate(ids)
    ]


def score(
    experiment: Experiment,
    defence: Purified | Undefended,
    attack: Attack,
    images: Images,
    delta: Tensor,
    device: torch.device,
) -> dict[str, Tensor]:
    """Logits (K, n, classes) of the three columns on fresh noise, the adversarial images being int8
    differences `delta` (n, 3, h, w).
    """
    x, ids, K = images.floats.to(device), images.ids, experiment.config["K"]
    null = attack.stored(attack.null(x, ids, f"null {experiment.seed}"), x)
    changes = {"adversarial": delta, "clean": torch.zeros_like(delta), "null": null}
    scorer, pixels_ = (
        attacks.reseeded(defence, f"score {experiment.seed}"),
        images.pixels.to(device),
    )
    return {
        c: attacks.logits_of(scorer, attack.applied(pixels_, d) / 255, ids, range(K))
        for c, d in changes.items()
    }


def _name(device: torch.device) -> str:
    """What ran: ``cpu``, or the name of the GPU."""
    return (
        torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else str(device)
    )


class Calls:
    """`rows`: how many images went through a defence's denoiser inside the block, counting what is
    recomputed for gradients.
    """

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
