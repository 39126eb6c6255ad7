"""Running an experiment: only the images that are missing, in any number of processes at once.

Attack and scoring draw separate noise: K fresh purifications of the adversarial image, and the same K of the clean image and of a random
perturbation of equal norm (the null control).
"""

from __future__ import annotations

import time
from collections.abc import Callable
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
from hetpure_lab.data import Images
from hetpure_lab.evidence import pixels, workers
from hetpure_lab.evidence.experiment import Experiment
from hetpure_lab.evidence.outcomes import column_record
from hetpure_lab.evidence.records import append, provenance, read
from hetpure_lab.networks import benches
from hetpure_lab.networks.benches import Bench

if TYPE_CHECKING:
    from distributed import Client


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
            for records in workers.each(client, shard, [(experiment, images[torch.tensor(rows)], device) for rows in batches]):
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
