"""What the tests share: one thread, tiny smooth networks in float64, a defence of known accuracy,
the reference data and its fixtures.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import zlib
from collections import Counter
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import settings
from scipy import stats
from torch import Tensor, nn

from hetpure_core import Purified, Uniform
from hetpure_lab.networks.packaged import PACKAGED

if TYPE_CHECKING:
    from hetpure_lab.audit.flags import Evidence
    from hetpure_lab.data import Images

ROOT = Path(__file__).resolve().parents[1]

torch.set_num_threads(1)
settings.register_profile("repeatable", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("repeatable")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_terminal_summary(terminalreporter):
    """Say what was not tested here, and why: each reason once."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(
        r.longrepr[2] if isinstance(r.longrepr, tuple) else str(r.longrepr) for r in skipped
    )
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"skipped {count}: {reason.removeprefix('Skipped: ')}")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


def need_package(name: str) -> None:
    """Skip where a network's package is not installed; the reason says how to install it."""
    about = PACKAGED[name]
    try:
        distribution(about.package.split("==")[0])
    except PackageNotFoundError:
        pytest.skip(f"{about.package} is not installed: {about.install}")


def client(name: str):
    """A library of the extra ``clients``, skipped where it is absent. All import torchvision.

    PyPI's torchvision for Linux is built for CUDA. Beside a PyTorch without CUDA its operators
    cannot be loaded, and the import stops at the shape rules of two of them, which no classifier
    calls: they are declared here, without an implementation.
    """
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install 'hetpure[clients]'")
    declare_operators()
    return importlib.import_module(name)


@cache
def declare_operators():
    found = [op for op in ("nms", "qnms") if not hasattr(torch.ops.torchvision, op)]
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for op in found:
        declared.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for module in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
        del sys.modules[module]  # of an import that had stopped half-way
    return declared


class TinyClassifier(nn.Module):
    """Two smooth convolutions and a linear head: images in [0, 1] to 5 logits."""

    def __init__(self):
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.SiLU())
        self.block2 = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.SiLU())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return 3 * self.head(self.block2(self.block1(x)).mean((2, 3)))

    def taps(self) -> list[nn.Module]:
        return [self.block1, self.block2]


class TinyDenoiser(nn.Module):
    """A smooth function of x_t and t that mixes neighbouring pixels."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.conv2(torch.tanh(self.conv1(x) + t.to(x.dtype).reshape(-1, 1, 1, 1) / 1000))


def seeded(make: type[nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().double()


@pytest.fixture
def classifier() -> nn.Module:
    return seeded(TinyClassifier, 1)


@pytest.fixture
def denoiser() -> nn.Module:
    return seeded(TinyDenoiser, 2)


@pytest.fixture
def images() -> Tensor:
    """Four images (4, 3, 8, 8) in float64, strictly inside [0, 1]."""
    return 0.1 + 0.8 * torch.rand(
        4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )


class LinearClassifier(nn.Module):
    """Two classes with logits u and -u for u = w . (x - 1/2), and two that never win, so that every
    loss of AutoAttack exists.
    """

    def __init__(self, w: Tensor):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x: Tensor) -> Tensor:
        u = ((x - 0.5) * self.w).sum((1, 2, 3))
        return torch.stack([u, -u, u.new_full(u.shape, -20), u.new_full(u.shape, -21)], 1)

    def taps(self) -> list[nn.Module]:
        return []


class NoDenoiser(nn.Module):
    """It predicts no noise: purification then only adds Gaussian noise."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Smoothed:
    """A defence whose accuracy is known: a linear classifier of x + sigma * noise is right with
    probability Phi(margin / sigma).

    All images have class 0 and the clean accuracy `clean`; `eps` is such that the best attack
    leaves `attacked`.
    """

    def __init__(self, norm: str, clean: float = 0.93, attacked: float = 0.5, size: int = 4):
        w = torch.randn(3, size, size, generator=torch.Generator().manual_seed(5))
        self.w, self.norm, self.clean, self.attacked = w / w.norm(), norm, clean, attacked
        self.defence = Purified(
            LinearClassifier(self.w), NoDenoiser(), Uniform(0.05, steps=1), seed=0
        )
        abar = float(self.defence.schedule.abar[50])
        self.sigma = 0.5 * ((1 - abar) / abar) ** 0.5
        margins = [self.sigma * float(stats.norm.ppf(p)) for p in (clean, attacked)]
        self.image = (0.5 + margins[0] * self.w)[None]
        self.eps = (margins[0] - margins[1]) / float(
            self.w.abs().sum() if norm == "Linf" else self.w.norm()
        )

    def batch(self, n: int) -> tuple[Tensor, Tensor, list[str]]:
        """n times the image, which differ in their noise only: images, labels, ids."""
        return (
            self.image.repeat(n, 1, 1, 1),
            torch.zeros(n, dtype=torch.long),
            [f"image {i}" for i in range(n)],
        )

    def accuracy(self, x: Tensor) -> Tensor:
        """The probability that one purification of x is classified right (n,)."""
        return torch.special.ndtr(((x - 0.5) * self.w).sum((1, 2, 3)) / self.sigma)


@pytest.fixture(params=["Linf", "L2"])
def smoothed(request) -> Smoothed:
    return Smoothed(request.param)


# ---- records without an attack, and images to make some (imports inside, so that other tests need


@pytest.fixture
def little() -> Images:
    """Six images of 8 x 8 pixels."""
    from hetpure_lab.data import Images

    pixels8 = torch.randint(30, 220, (6, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )
    return Images(pixels8, torch.arange(6) % 5, torch.ones(6, dtype=torch.bool), "random pixels")


def records_of(
    defence: str,
    attack: str,
    attacked: list[float],
    clean: list[float],
    null: list[float],
    K: int = 20,
    **config,
) -> Evidence:
    """Records with the given shares of right outcomes per image; every image was changed by the
    whole radius.
    """
    from hetpure_lab.audit import flags
    from hetpure_lab.evidence import Experiment, pixels

    about = Experiment(defence, attack, K=K).config | config
    most = min(127, int(255 * about["attack"]["eps"] + 1e-4))  # 8-bit steps that fit the file
    delta = torch.full((3, 8, 8), most, dtype=torch.int8)
    column = lambda rate: {
        "labels": [3] * round(rate * about["K"]) + [5] * (about["K"] - round(rate * about["K"])),
        "soft": 3,
    }
    rows = {
        f"{i:04}": (
            {
                "image": f"{i:04}",
                "label": 3,
                "iterations": about["attack"]["iterations"],
                "delta": pixels.pack(delta),
            }
            | {
                "adversarial": column(a),
                "clean": column(c),
                "null": column(z),
                "config": about,
                "code": {"x": "1"},
            }
        )
        for i, (a, c, z) in enumerate(zip(attacked, clean, null))
    }
    return flags.Evidence(f"{defence} / {attack}", rows)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def tracked(root) -> list[str]:
    """The names of the files that git tracks; an image or an archive of the sources knows none."""
    words = ["git", "-C", str(root), "ls-files", "-z"]
    listed = subprocess.run(words, capture_output=True, text=True, check=False)
    if not (root / ".git").exists() or listed.returncode:
        pytest.skip("which files are tracked is known in a checkout only")
    return listed.stdout.rstrip("\0").split("\0")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference data beside the repository."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"the reference data are not here: no folder {folder}")
    return folder


# ---- parity fixtures: `shared/parity/README.md` --------------------------------------------------

OTHER = os.environ.get("HETPURE_PARITY")
FOLDER = Path(OTHER) if OTHER else ROOT.parent / "shared" / "parity"


def normal(name: str, shape: tuple[int, ...]) -> Tensor:
    """The fixtures' generator: standard normal float32 numbers that depend on a name only."""
    rng = np.random.Generator(np.random.Philox(zlib.crc32(name.encode())))
    return torch.from_numpy(np.asarray(rng.standard_normal(shape, dtype=np.float32)))


def input_images(name: str, shape: tuple[int, ...]) -> Tensor:
    return (0.5 + 0.25 * normal(f"input:{name}", shape)).clamp(0, 1)


def weight(name: str, like: Tensor) -> Tensor:
    """The weight-filling rule."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros_like(like)
    z = normal(name, tuple(like.shape))
    if name.endswith("running_var"):
        return (0.1 * z).exp()
    if like.ndim >= 2:
        return z / like[0].numel() ** 0.5
    return 1 + 0.1 * z if name.endswith(("weight", ".W")) else 0.1 * z


def fixture(name: str) -> tuple[dict, dict[str, Tensor]]:
    """What NAME.json says, and the arrays of NAME.npz."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return json.loads((FOLDER / f"{name}.json").read_text()), {
            k: torch.from_numpy(v) for k, v in arrays.items()
        }
