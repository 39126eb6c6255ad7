"""Published adversarially trained classifiers, through RobustBench's own loader.

    hetpure fetch robustbench/cifar10/Linf/Gowal2021Improving_28_10_ddpm_100m    # download, keep
    its digest

RobustBench is not a dependency: ``python -m pip install '.[paper]'``. Nothing is downloaded unless
asked; files lie beside the other checkpoints, and are trusted on first use as those are. Weights
are named ``robustbench/DATA SET/THREAT/NAME``, defences ``at:model=THREAT/NAME``; images are in [0,
1], and each network brings its own normalisation.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from hetpure_lab.networks import checkpoints
from hetpure_lab.networks.checkpoints import CheckpointError

PREFIX = "robustbench/"
# this project's name of the images, and RobustBench's of its networks
DATASETS = {"cifar10": "cifar10", "imagenet-224": "imagenet"}
THREATS = ("Linf", "L2")


def weights_name(model: str, dataset: str) -> str:
    """The name of the weights of ``THREAT/NAME`` for images of `dataset`."""
    if dataset not in DATASETS:
        raise CheckpointError(
            f"RobustBench has no networks for {dataset!r}; it has some for: {', '.join(DATASETS)}"
        )
    parts(name := f"{PREFIX}{DATASETS[dataset]}/{model}")
    return name


def parts(name: str) -> tuple[str, str, str]:
    """Data set, threat model and model of a weights' name, as RobustBench calls them."""
    found = name.split("/")
    if (
        len(found) != 4
        or f"{found[0]}/" != PREFIX
        or found[1] not in DATASETS.values()
        or found[2] not in THREATS
        or not found[3]
    ):
        raise CheckpointError(
            f"{name!r} is no network of RobustBench: robustbench/DATA SET/THREAT/NAME, threats:"
            f" {', '.join(THREATS)}"
        )
    return found[1], found[2], found[3]


def path_of(name: str) -> Path:
    """Where RobustBench keeps the file."""
    dataset, threat, model = parts(name)
    return checkpoints.folder() / "robustbench" / dataset / threat / f"{model}.pt"


def load(name: str, device: torch.device | str = "cpu") -> nn.Module:
    """The network, in eval mode and frozen. Its file must be here: see `fetch`."""
    if not path_of(name).exists():
        raise CheckpointError(f"{path_of(name)} is missing; get it with: hetpure fetch {name}")
    return _loaded(name).eval().requires_grad_(False).to(device)


def fetch(name: str) -> Path:
    """Let RobustBench download the file if it is not here, check that the network loads, and keep
    the file's digest.
    """
    _loaded(name)
    return path_of(name)


def library(module: str) -> ModuleType:
    """A module of RobustBench. It imports AutoAttack by its repository's name, which the package
    index has as pyautoattack.
    """
    if find_spec("autoattack") is None:
        sys.modules["autoattack"] = import_module("pyautoattack")
    return import_module(f"robustbench.{module}")


def _loaded(name: str) -> nn.Module:
    dataset, threat, model = parts(name)
    try:
        utils = library("utils")
    except ImportError as error:
        raise CheckpointError(
            f"{name} needs RobustBench ({error}); install it with: python -m pip install '.[paper]'"
        ) from error
    try:
        network = utils.load_model(
            model,
            model_dir=checkpoints.folder() / "robustbench",
            dataset=dataset,
            threat_model=threat,
        )
    except KeyError as error:
        raise CheckpointError(f"RobustBench has no {model!r} for {dataset}, {threat}") from error
    if not path_of(name).exists():
        raise CheckpointError(
            f"RobustBench loads {model} from elsewhere than {path_of(name)}, where its file cannot"
            " be checked"
        )
    checkpoints.settle(name, path_of(name))
    return network


def card(name: str) -> dict:
    """The card of a network, with its sha256 after it was used once."""
    _, _, model = parts(name)
    if not (digest := checkpoints.recorded().get(name, "")):
        raise CheckpointError(f"{name} was never used here; get it with: hetpure fetch {name}")
    origin = "https://github.com/RobustBench/robustbench"
    return {
        "name": name,
        "network": model,
        "sha256": digest,
        "origin": origin,
        "licence": "see there",
    }
