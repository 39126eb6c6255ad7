"""Benches: a data set, a classifier, a denoiser and the method's default settings, under one name.

`load` is the only way in. Weights come from ``weights/`` in the repository, are compared with the sha256 on their card and read
with safetensors, which cannot execute anything.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from hetpure_core import HetPure, Schedule, linear_schedule
from hetpure_lab.data import ROOT
from hetpure_lab.networks import build

WEIGHTS = ROOT / "weights"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class BenchError(ValueError):
    """An unknown bench or device, or weights that are missing or damaged."""


@dataclass(frozen=True)
class Bench:
    """A loaded bench; `weights` maps each network's name to the sha256 of its file, `method` is the bench's default configuration."""

    name: str
    dataset: str
    classes: tuple[str, ...]
    classifier: nn.Module
    denoiser: nn.Module
    method: HetPure
    schedule: Schedule
    weights: dict[str, str]
    device: torch.device


SMALL = {"cifar10-small": ("cifar10", CIFAR10_CLASSES, HetPure(t_l=0.2, t_s=0.05, tau=0.8, U=10, steps=10))}


def dataset(name: str) -> str:
    """The data set of the bench called `name`. Raises `BenchError`."""
    if name not in SMALL:
        raise BenchError(f"unknown bench {name!r}; known: {', '.join(SMALL)}")
    return SMALL[name][0]


def load(name: str, device: str = "cpu") -> Bench:
    """The bench called `name` on `device` (cpu, cuda, cuda:1, ...), networks in eval mode and frozen. Raises `BenchError`."""
    if name not in SMALL:
        raise BenchError(f"unknown bench {name!r}; known: {', '.join(SMALL)}")
    target = resolve_device(device)
    dataset, classes, method = SMALL[name]
    networks = {part: load_network(f"{name}-{part}", target) for part in ("classifier", "denoiser")}
    weights = {f"{name}-{part}": card(f"{name}-{part}")["sha256"] for part in networks}
    return Bench(name, dataset, classes, networks["classifier"], networks["denoiser"], method, linear_schedule(), weights, target)


def resolve_device(device: str) -> torch.device:
    """The torch device of that name, if this machine has it."""
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise BenchError(f"unknown device {device!r}; use cpu, cuda or cuda:N") from error
    if target.type not in ("cpu", "cuda"):
        raise BenchError(f"unknown device {device!r}; use cpu, cuda or cuda:N")
    if target.type == "cuda" and not torch.cuda.is_available():
        raise BenchError(f"device {device!r} was asked for, but torch {torch.__version__} sees no CUDA GPU here")
    return target


def card(name: str, folder: Path = WEIGHTS) -> dict:
    """What is known about a network: data, recipe, images seen, time, curve, metrics, sha256."""
    path = folder / f"{name}.json"
    if not path.exists():
        raise BenchError(f"no card {path}; train it with: python -m hetpure_lab.train {name}")
    return json.loads(path.read_text())


def add_metrics(name: str, split: str, metrics: dict[str, float], folder: Path = WEIGHTS) -> None:
    """Write accuracies on `split` into a network's card."""
    about = card(name, folder)
    curve = about.pop("curve")
    about["metrics"] = about.get("metrics", {}) | {split: {k: round(v, 4) for k, v in metrics.items()}}
    (folder / f"{name}.json").write_text(json.dumps(about | {"curve": curve}, indent=1) + "\n")


def load_network(name: str, device: torch.device | str = "cpu", folder: Path = WEIGHTS) -> nn.Module:
    """The network with the weights of ``weights/NAME.safetensors``, checked against its card."""
    about, path = card(name, folder), folder / f"{name}.safetensors"
    if not path.exists():
        raise BenchError(f"{path} is missing; train it with: python -m hetpure_lab.train {name}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != about["sha256"]:
        raise BenchError(f"{path} is damaged or not the file on its card: sha256 {found[:12]}... instead of {about['sha256'][:12]}...")
    network = build(about["network"])
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise BenchError(f"{path} does not fit {about['network']}: {error}") from error
    return network.eval().requires_grad_(False).to(device)
