"""Running an experiment: only the images that are missing, in any number of processes at once.

Attack and scoring draw separate noise: K fresh purifications of the adversarial image, and the same
K of the clean image and of a random perturbation of equal norm (the null control).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hetpure_core import Purified
from hetpure_lab import attacks, defences
from hetpure_lab.attacks import ATTACKS, Attack, Undefended
from hetpure_lab.attacks.threat import Decided, Told
from hetpure_lab.common import microbatch, specs
from hetpure_lab.common.paths import RESULTS
from hetpure_lab.common.progress import bar as progress_bar
from hetpure_lab.data import Images, joined
from hetpure_lab.evidence import pixels, workers
from hetpure_lab.evidence.claims import Claims
from hetpure_lab.evidence.experiment import Experiment
from hetpure_lab.evidence.outcomes import column_record
from hetpure_lab.evidence.records import append, provenance, read
from hetpure_lab.networks import benches
from hetpure_lab.networks.benches import Bench

if TYPE_CHECKING:
    from distributed import Client

More = Callable[[int], Images]  # the next images, at most so many of them; none: no more now
Worker = Callable[[Images, More], Iterable[list[dict]]]  # records of those and more, as they come

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
    with progress_bar(len(missing), label, not progress, **look) as bar, Claims(path) as claims:
        mine = _of_this_process(experiment, device, bench, batch, bar.update)
        mine = _of_workers(experiment, device, batch, client, threads) if client else mine
        more = _claiming(path, images, claims)
        while any(key not in read(path) for key in ids):
            if len(first := more(len(ids) if client else batch)):
                for records in mine(first, more):
                    append(path, records, results)
                    claims.drop([record["image"] for record in records])
            else:
                time.sleep(WAIT)  # the rest is in others' hands
            bar.n = bar.total - len([key for key in ids if key not in read(path)])
            bar.refresh()
    found = read(path)
    return {key: found[key] for key in ids}


def _claiming(path: Path, images: Images, claims: Claims) -> More:
    """Those of `images` that have no record and that nobody works on, as they are asked for."""
    rows = {key: i for i, key in enumerate(images.ids)}

    def more(most: int) -> Images:
        known = read(path)
        free = [key for key in rows if key not in known and key not in claims.held]
        claimed = claims.some(free, most)
        # its owner may have written it and gone since the last look
        known = read(path)
        claims.drop([key for key in claimed if key in known])
        left = [rows[key] for key in claimed if key not in known]
        return images[torch.tensor(left, dtype=torch.long)]

    return more


def _of_this_process(
    experiment: Experiment,
    device: str,
    bench: Bench | None,
    batch: int,
    tick: Callable[[float], None],
) -> Worker:
    return lambda first, more: each(experiment, first, more, batch, device, bench, tick)


def _of_workers(
    experiment: Experiment, device: str, batch: int, client: Client, threads: int
) -> Worker:
    def work(images: Images, more: More) -> Iterator[list[dict]]:
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
    return max(LEAST, microbatch.rows(benches.named_device(device)) // attack.abreast)


def check_radius(experiment: Experiment) -> None:
    """Raise `ValueError`, before any work, for a radius of which 8-bit differences keep nothing or
    more than they hold.
    """
    attack = specs.parse(experiment.attack, ATTACKS)[1]
    names = {"Linf": ("an l-infinity", 128 / 255, " to 127/255"), "L2": ("an l2", math.inf, " on")}
    if attack.norm not in names:
        return
    name, most, to = names[attack.norm]
    if not 1 / 255 - 1e-6 <= attack.eps < most:
        says = f"{name} radius is from 1/255{to}, not {attack.eps:.4g}"
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
    none = lambda most: images[torch.arange(0)]
    found = each(experiment, images, none, len(images), device, bench, tick)
    by_image = {record["image"]: record for records in found for record in records}
    return [by_image[key] for key in images.ids]


def each(
    experiment: Experiment,
    first: Images,
    more: More,
    at_once: int,
    device: str = "cpu",
    bench: Bench | None = None,
    tick: Callable[[float], None] = lambda k: None,
) -> Iterator[list[dict]]:
    """Records of the `first` images and of `more`, as they are decided, `at_once` being attacked at
    a time. Recovers from too large a microbatch.
    """
    with ONE_AT_A_TIME:
        bench = bench or _bench(experiment.bench, device)
        defence, (_, attack) = (
            defences.build(experiment.defence, bench),
            specs.parse(experiment.attack, ATTACKS),
        )
        if isinstance(defence, Purified | Undefended):
            microbatch.fit(defence, first.floats[:1].to(bench.device))
        share, facing = lambda k: tick(k / max(1, attack.steps)), attack.faces(defence)
        with Calls(facing) as calls:
            bill = Bill(calls)
            source = Source(first, more, bench.device)
            for images, found in _decided(experiment, facing, attack, source, at_once, share):
                score_them = lambda: recorded(experiment, facing, attack, images, *found, bill)
                yield microbatch.recovering(score_them, bench.device)


class Source:
    """What an attack is handed: the `first` images, then `more`. It keeps those whose fate is not
    known, which come first if the attack begins again.
    """

    def __init__(self, first: Images, more: More, device: torch.device):
        self.back, self.more, self.device = [first], more, device
        self.out: list[Images] = []  # one image each, in the order in which they were handed out
        self.open: set[int] = set()

    def __call__(self, most: int) -> tuple[Tensor, Tensor, Sequence]:
        images = self.back.pop() if self.back else self.more(most)
        if len(images) > most:
            self.back.append(images[torch.arange(most, len(images))])
            images = images[torch.arange(most)]
        self.open |= set(range(len(self.out), len(self.out) + len(images)))
        self.out += [images[torch.tensor([i])] for i in range(len(images))]
        return images.floats.to(self.device), images.labels.to(self.device), images.ids

    def close(self, places: Sequence[int]) -> Images:
        """The images at these places, whose fate is known now."""
        self.open -= set(places)
        return joined([self.out[place] for place in places])

    def again(self) -> None:
        """What was handed out and is not decided will be handed out again."""
        if self.open:
            self.back.append(joined([self.out[place] for place in sorted(self.open)]))
        self.out, self.open = [], set()


def _decided(
    experiment: Experiment,
    defence: Purified | Undefended,
    attack: Attack,
    source: Source,
    at_once: int,
    tick: Callable[[int], None],
) -> Iterator[tuple[Images, Told]]:
    """Images as they are decided, with what the attack found, in groups that fill the networks
    when they are scored. Begins again with the rest and half the rows whenever memory runs out.
    """
    kept: list[tuple[Images, Decided]] = []
    fill = max(1, min(at_once, microbatch.rows(source.device) // experiment.config["K"]))

    def group() -> tuple[Images, Told]:
        images, found = zip(*kept)
        kept.clear()
        x, spent = (torch.cat([getattr(f, name) for f in found]) for name in ("x", "spent"))
        return joined(images), (x, spent, [told for f in found for told in f.told])

    while True:
        try:
            for found in attack.each(defence, source, experiment.seed, tick, at_once):
                kept.append((source.close(found.places.tolist()), found))
                if sum(len(images) for images, _ in kept) >= fill:
                    yield group()
            break
        except (RuntimeError, MemoryError) as error:
            if not microbatch.can_halve(error, source.device):
                raise
        microbatch.halve(source.device)
        source.again()
    if kept:
        yield group()


class Bill:
    """What records cost: what was spent since the last ones were charged."""

    def __init__(self, calls: Calls):
        self.calls, self.paid = calls, self.now(calls)

    @staticmethod
    def now(calls: Calls) -> tuple[float, float, int]:
        return time.time(), time.process_time(), calls.rows

    def charge(self, n: int) -> dict:
        """To n images alike."""
        now = self.now(self.calls)
        clock, processor, rows = ((b - a) / n for a, b in zip(self.paid, now))
        self.paid = now
        return {
            "seconds": round(clock, 3),
            "cpu_seconds": round(processor, 3),
            "denoiser_calls": round(rows),
        }


def evaluate(
    experiment: Experiment,
    defence: Purified | Undefended,
    attack: Attack,
    images: Images,
    device: torch.device,
    tick: Callable[[int], None] = lambda k: None,
) -> list[dict]:
    """One batch: attack, round to 8 bits, score the three columns on fresh noise."""
    defence = attack.faces(defence)
    x, y = images.floats.to(device), images.labels.to(device)
    with Calls(defence) as calls:
        bill = Bill(calls)
        found = attack.find(defence, x, y, images.ids, experiment.seed, tick)
        return recorded(experiment, defence, attack, images, *found, bill)


def recorded(
    experiment: Experiment,
    defence: Purified | Undefended,
    attack: Attack,
    images: Images,
    x_adv: Tensor,
    spent: Tensor,
    told: list[dict],
    bill: Bill,
) -> list[dict]:
    """Records of adversarial images (n, 3, h, w): rounded to 8 bits, scored, and charged."""
    device = x_adv.device
    delta = attack.stored(x_adv, images.floats.to(device))
    logits = score(experiment, defence, attack, images, delta, device)
    columns = {name: column_record(column) for name, column in logits.items()}
    shared = {"config": experiment.config, "source": images.source} | (
        {"data": images.digest} if images.digest else {}
    )
    shared |= provenance(*experiment.classes) | {"device": _name(device)}
    shared |= bill.charge(len(images))
    return [
        {
            "image": key,
            "label": int(images.labels[i]),
            "iterations": int(spent[i]),
            "delta": pixels.pack(delta[i].cpu()),
        }
        | told[i]
        | {name: column[i] for name, column in columns.items()}
        | shared
        for i, key in enumerate(images.ids)
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
