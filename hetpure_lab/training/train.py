"""Train the small benches' networks: ``hetpure train cifar10-small-classifier``.

A run is a pure function of its recipe: batch k is drawn from a generator seeded by (seed, k), so a
killed run continues from its last checkpoint as if nothing had happened. Finished weights go to
``weights/NAME.safetensors`` with a card beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hetpure_core import Noise, linear_schedule, q_xt_x0, x0_xt
from hetpure_lab import data as lab_data
from hetpure_lab.attacks import PGD, perturb_randomly
from hetpure_lab.common import specs
from hetpure_lab.common.paths import CHECKOUT, HOME, ROOT
from hetpure_lab.common.progress import bar as progress_bar
from hetpure_lab.data import Images
from hetpure_lab.defences import DEFENCES, atop, pixeldefend
from hetpure_lab.networks import benches
from hetpure_lab.networks.small import build

RUNS = HOME / "out" / "train"
WEIGHTS = ROOT / "weights" if CHECKOUT else HOME / "weights"  # what is trained goes here
N_VALIDATION = 256


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run.

    `shares` gives each source's share of every batch (the ``jpeg``, ``lossless`` or ``all`` images
    of a data set). Each of `cycles` is a number of images over which the learning rate warms up and
    falls to zero once, from a peak that is halved for every cycle after the first; `augment` is,
    per cycle, the probability of each of `OBJECT_AUGMENTATIONS` or `DIGIT_AUGMENTATIONS`
    (classifiers).
    """

    name: str
    network: str
    task: str
    shares: dict[str, float]
    cycles: tuple[int, ...]
    batch: int
    lr: float
    augment: tuple[float, ...] = ()
    weight_decay: float = 0.0
    warmup: float = 0.05
    ema: float = 0.0
    t_max: int = 420
    t_power: float = 1.5
    seed: int = 0
    bf16: bool = True

    @property
    def digits(self) -> bool:
        """Whether the images show digits, which a mirror or a narrow crop turns into something
        else.
        """
        return any(key.startswith("svhn/") for key in self.shares)

    @property
    def steps(self) -> list[int]:
        """The step at which each cycle ends."""
        return [total // self.batch for total in accumulate(self.cycles)]

    def cycle(self, step: int) -> tuple[int, float]:
        """The cycle that `step` is in, and how far it is through it, in [0, 1)."""
        index = next(i for i, end in enumerate(self.steps) if step < end)
        start = ([0] + self.steps)[index]
        return index, (step - start) / (self.steps[index] - start)

    @property
    def made_from(self) -> tuple[str, ...]:
        """The names of the finished weights that the run needs."""
        return ()


@dataclass(frozen=True)
class DefenceRecipe(Recipe):
    """A recipe for one of `hetpure_lab.trained`.

    `defence` is the spec that the network is for, `start` names the weights that training starts
    from, `classifier` the fixed one it trains against. The attack inside training takes `inner`
    steps of `step` times `eps` from a random point of the ball.
    """

    defence: str = ""
    start: str = ""
    classifier: str = ""
    norm: str = "Linf"
    eps: float = 8 / 255
    inner: int = 1
    step: float = 1.25

    @property
    def made_from(self) -> tuple[str, ...]:
        return tuple(name for name in (self.start, self.classifier) if name)

    def settings(self) -> Any:
        return specs.parse(self.defence, DEFENCES)[1]


_FINE_TUNED = {
    "network": "wrn_16_2",
    "start": "cifar10-small-classifier",
    "shares": {"cifar10/jpeg": 0.75, "cifar10/lossless": 0.25},
    "batch": 128,
    "augment": (0.25,),
    "weight_decay": 5e-4,
}
_AT = _FINE_TUNED | {"task": "adversarial", "lr": 0.05}  # as fine-tuning: Jeddi et al. 2020
_PGD_AT = _AT | {"cycles": (140_000,), "inner": 2, "step": 0.75}  # Madry et al. 2018

_SWISH_AT = _PGD_AT | {
    "network": "swish_wrn_10_4",
    "start": "cifar10-small-swish-classifier",
    "cycles": (64_000,),
}

_DENOISER = {
    "shares": {"cifar10/jpeg": 0.3, "cifar10/lossless": 0.4, "cinic10/lossless": 0.3},
    "cycles": (1_600_000,),
    "batch": 64,
    "lr": 2e-3,
    "ema": 0.9995,
}

RECIPES = {
    r.name: r
    for r in (
        Recipe(
            "cifar10-small-classifier",
            "wrn_16_2",
            "classify",
            {"cifar10/jpeg": 0.75, "cifar10/lossless": 0.25},
            cycles=(1_200_000, 800_000, 1_200_000, 400_000),
            batch=128,
            lr=0.2,
            augment=(0.4, 0.25, 0.25, 0.1),
            weight_decay=5e-4,
            warmup=0.15,
        ),
        # the form of Gowal et al. 2020, one short cycle: a later one can continue it
        Recipe(
            "cifar10-small-swish-classifier",
            "swish_wrn_10_4",
            "classify",
            {"cifar10/jpeg": 0.75, "cifar10/lossless": 0.25},
            cycles=(128_000,),
            batch=128,
            lr=0.2,
            augment=(0.1,),
            weight_decay=5e-4,
            warmup=0.15,
        ),
        Recipe("cifar10-small-denoiser", "unet_64_64", "denoise", **_DENOISER),
        # the same recipe at a third and at three and a half times the size
        Recipe("cifar10-small-narrow-denoiser", "unet_32_32", "denoise", **_DENOISER),
        Recipe("cifar10-small-wide-denoiser", "unet_128_128", "denoise", **_DENOISER),
        Recipe(
            "svhn-small-classifier",
            "wrn_16_2",
            "classify",
            {"svhn/all": 1.0},
            cycles=(560_000,),
            batch=128,
            lr=0.1,
            augment=(0.5,),
            weight_decay=5e-4,
            warmup=0.15,
        ),
        Recipe(
            "svhn-small-denoiser",
            "unet_64_64",
            "denoise",
            {"svhn/all": 1.0},
            cycles=(400_000,),
            batch=64,
            lr=2e-3,
            ema=0.999,
        ),
        Recipe(
            "imagenet-small-denoiser",
            "unet_64_96_128",
            "denoise",
            {"imagenet/all": 1.0},
            cycles=(200_000,),
            batch=32,
            lr=1e-3,
            ema=0.9995,
        ),
        DefenceRecipe(
            "cifar10-small-map-denoiser",
            "unet_64_64_map",
            "denoise-map",
            **_DENOISER | {"cycles": (96_000,), "lr": 1e-3, "ema": 0.998},
            start="cifar10-small-denoiser",
        ),
        DefenceRecipe(
            "cifar10-small-addt-denoiser",
            "unet_64_64",
            "addt",
            {"cifar10/jpeg": 0.5, "cifar10/lossless": 0.5},
            cycles=(12_800,),
            batch=64,
            lr=2e-4,
            ema=0.99,
            inner=2,
            start="cifar10-small-denoiser",
            classifier="cifar10-small-classifier",
        ),
        DefenceRecipe("cifar10-small-pgd-at-linf", **_PGD_AT),
        DefenceRecipe("cifar10-small-pgd-at-l2", norm="L2", eps=0.5, **_PGD_AT),
        DefenceRecipe("cifar10-small-swish-pgd-at-linf", **_SWISH_AT),
        DefenceRecipe("cifar10-small-swish-pgd-at-l2", norm="L2", eps=0.5, **_SWISH_AT),
        DefenceRecipe("cifar10-small-fast-at-linf", cycles=(180_000,), **_AT),
        DefenceRecipe(
            "svhn-small-pgd-at-linf",
            **_PGD_AT | {"start": "svhn-small-classifier", "shares": {"svhn/all": 1.0}, "lr": 0.02},
            # with the other's learning rate, training on digits easily falls back to naming the
            # most frequent one
        ),
        DefenceRecipe(
            "imagenet-small-10-fast-at-linf",
            **_AT
            | {
                "network": "wrn_16_2_imagenette_32",
                "start": "cifar10-small-fast-at-linf",
                "shares": {"imagenet/all": 1.0},
                "cycles": (32_000,),
                "augment": (0.5,),
                "eps": 4 / 255,
            },
        ),
        # At a rate of 0.1 the loss of the first steps rises: what the classifier knew is lost
        # before the estimates are learnt.
        DefenceRecipe(
            "cifar10-small-me-net",
            task="me-net",
            cycles=(260_000,),
            lr=0.02,
            defence="me-net",
            **_FINE_TUNED,
        ),
        DefenceRecipe(
            "cifar10-small-atop",
            "unet_64_64",
            "atop",
            {"cifar10/jpeg": 0.5, "cifar10/lossless": 0.5},
            cycles=(96_000,),
            batch=64,
            lr=5e-4,
            augment=(0.0,),
            ema=0.995,
            defence="atop",
            start="cifar10-small-denoiser",
            classifier="cifar10-small-classifier",
        ),
        Recipe(
            "cifar10-small-pixelcnn",
            "pixelcnn_96",
            "likelihood",
            {"cifar10/lossless": 0.6, "cinic10/lossless": 0.4},
            cycles=(200_000,),
            batch=32,
            lr=2e-3,
            ema=0.999,
        ),
    )
}


# ---- data and augmentation -----------------------------------------------------------------------


def sources(recipe: Recipe, folder: str | None) -> tuple[dict[str, Images], Images]:
    """The recipe's training images by source, and lossless images held out of all of them for the
    validation curve.
    """
    splits = {"cifar10": "train", "cinic10": "test", "svhn": "train", "imagenet": "train"}
    found = {
        name: lab_data.load(name, splits[name], folder)
        for name in {key.split("/")[0] for key in recipe.shares}
    }
    validation = None
    pools = {}
    for key in recipe.shares:
        name, kind = key.split("/")
        images = found[name]
        pools[key] = (
            images[(images.lossless == (kind == "lossless")).nonzero()[:, 0]]
            if kind != "all"
            else images
        )
        if validation is None and kind != "jpeg":
            order = torch.from_numpy(np.random.RandomState(0).permutation(len(pools[key])))
            validation, pools[key] = (
                pools[key][order[:N_VALIDATION]],
                pools[key][order[N_VALIDATION:]],
            )
    if validation is None:
        raise ValueError(f"{recipe.name} has no lossless images to validate on")
    return pools, validation


def draw(
    pools: dict[str, Images], recipe: Recipe, rng: np.random.Generator
) -> tuple[np.ndarray, Tensor]:
    """One batch of raw pixels (n, h, w, 3) and labels, each row's source chosen by the recipe's
    shares.
    """
    keys = list(recipe.shares)
    choice = rng.choice(len(keys), recipe.batch, p=list(recipe.shares.values()))
    pixels, labels = [], []
    for key in (keys[c] for c in choice):
        i = int(rng.integers(len(pools[key])))
        pixels.append(pools[key].pixels[i].permute(1, 2, 0).numpy())
        labels.append(int(pools[key].labels[i]))
    return np.stack(pixels), torch.tensor(labels)


def shift_and_flip(
    pixels: np.ndarray, rng: np.random.Generator, pad: int, flip: bool = True
) -> np.ndarray:
    """Random translation by up to `pad` pixels with reflection, and a random horizontal flip."""
    n, h, w, _ = pixels.shape
    padded = np.pad(pixels, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
    dy, dx = rng.integers(0, 2 * pad + 1, (2, n))
    out = np.stack([p[y : y + h, x : x + w] for p, y, x in zip(padded, dy, dx)])
    if flip:
        mirrored = rng.random(n) < 0.5
        out[mirrored] = out[mirrored, :, ::-1]
    return out


def zoom(image: np.ndarray, rng: np.random.Generator, low: float = 0.65) -> np.ndarray:
    """A random square crop of side >= `low`, resized back (the usual random resized crop)."""
    h = image.shape[0]
    side = int(round(h * rng.uniform(low, 1)))
    y, x = rng.integers(0, h - side + 1, 2)
    return np.asarray(
        Image.fromarray(image[y : y + side, x : x + side]).resize((h, h), Image.Resampling.BILINEAR)
    )


def jpeg(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Compress and decompress at a random quality: the bridge between lossless and compressed
    images.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=int(rng.integers(20, 96)))
    return np.asarray(Image.open(buffer))


def warp(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random rotation by up to 12 degrees, scale of 0.8 to 1.25 and shear, about the centre;
    edges are reflected.
    """
    h, pad = image.shape[0], image.shape[0] // 2
    angle, scale, shear = (
        math.radians(rng.uniform(-12, 12)),
        rng.uniform(0.8, 1.25),
        rng.uniform(-0.15, 0.15),
    )
    a, b = scale * math.cos(angle), scale * (shear - math.sin(angle))
    c, d = scale * math.sin(angle), scale * math.cos(angle)
    centre, source = (h - 1) / 2, pad + (h - 1) / 2
    padded = Image.fromarray(np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect"))
    moved = (a, b, source - (a + b) * centre, c, d, source - (c + d) * centre)
    return np.asarray(
        padded.transform((h, h), Image.Transform.AFFINE, moved, Image.Resampling.BILINEAR)
    )


def recolour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random contrast, brightness and colour cast, and now and then the negative: a digit may be
    darker or lighter than its ground.
    """
    x = image.astype(np.float32)
    if rng.random() < 0.3:
        x = 255 - x
    mean = x.mean((0, 1))
    gain = rng.uniform(0.6, 1.4) * rng.uniform(0.85, 1.15, 3)
    return (
        ((x - mean) * gain + mean + rng.uniform(-30, 30) + rng.uniform(-10, 10, 3))
        .clip(0, 255)
        .astype(np.uint8)
    )


def blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian blur of up to one pixel, as the purified images of a small denoiser have."""
    return np.asarray(
        Image.fromarray(image).filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.0)))
    )


def cutout(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A square of a quarter of the side replaced by one random colour (DeVries & Taylor 2017)."""
    h, side = image.shape[0], image.shape[0] // 4
    y, x = rng.integers(0, h - side + 1, 2)
    out = image.copy()
    out[y : y + side, x : x + side] = rng.integers(0, 256, 3)
    return out


OBJECT_AUGMENTATIONS = (zoom, jpeg)
DIGIT_AUGMENTATIONS = (warp, recolour, blur, jpeg, cutout)


def to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255


def classifier_batch(
    pools: dict[str, Images], recipe: Recipe, rng: np.random.Generator, augment: float
) -> tuple[Tensor, Tensor]:
    pixels, labels = draw(pools, recipe, rng)
    pixels = shift_and_flip(pixels, rng, pad=2 if recipe.digits else 4, flip=not recipe.digits)
    for i in range(len(pixels)):
        for change in DIGIT_AUGMENTATIONS if recipe.digits else OBJECT_AUGMENTATIONS:
            if rng.random() < augment:
                pixels[i] = change(pixels[i], rng)
    return to_tensor(pixels).contiguous(memory_format=torch.channels_last), labels


def denoiser_batch(pools: dict[str, Images], recipe: Recipe, rng: np.random.Generator) -> Tensor:
    pixels, _ = draw(pools, recipe, rng)
    return (
        to_tensor(shift_and_flip(pixels, rng, pad=pixels.shape[1] // 16, flip=not recipe.digits))
        * 2
        - 1
    )


# ---- the tasks: loss on a batch, metrics on the validation images --------------------------------


def rng_of(recipe: Recipe, step: int) -> np.random.Generator:
    """The randomness of one step: step k always draws the same, also after an interruption."""
    return np.random.default_rng([recipe.seed, step])


def classify_loss(net: nn.Module, pools: dict[str, Images], recipe: Recipe, step: int) -> Tensor:
    x, y = classifier_batch(
        pools, recipe, rng_of(recipe, step), recipe.augment[recipe.cycle(step)[0]]
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
        logits = net(x)
    return F.cross_entropy(logits.float(), y)


@torch.no_grad()
def classify_metrics(net: nn.Module, validation: Images, recipe: Recipe) -> dict[str, float]:
    return {
        "accuracy": float((net(validation.floats).argmax(1) == validation.labels).float().mean())
    }


def low_times(recipe: Recipe, rng: np.random.Generator, n: int) -> Tensor:
    """Times (n,) drawn towards the low levels that purification uses."""
    drawn = 1 + np.floor(recipe.t_max * rng.random(n) ** recipe.t_power)
    return torch.from_numpy(drawn).long().clamp(1, recipe.t_max)


def denoise_loss(net: nn.Module, pools: dict[str, Images], recipe: Recipe, step: int) -> Tensor:
    """E || eps - eps_theta(x_t, t) ||^2 (Ho et al. 2020, Eq 14), t drawn towards the low levels
    that purification uses.
    """
    rng = rng_of(recipe, step)
    x0 = denoiser_batch(pools, recipe, rng)
    t = low_times(recipe, rng, len(x0))
    eps = torch.from_numpy(rng.standard_normal(x0.shape, dtype=np.float32))
    xt = q_xt_x0(x0, t, eps, linear_schedule())
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
        predicted = net(xt, t)
    return F.mse_loss(predicted.float(), eps)


@torch.no_grad()
def denoise_metrics(net: nn.Module, validation: Images, recipe: Recipe) -> dict[str, float]:
    x0, schedule = validation.floats * 2 - 1, linear_schedule()
    eps = torch.from_numpy(np.random.default_rng(0).standard_normal(x0.shape, dtype=np.float32))
    result = {}
    for level in (0.05, 0.1, 0.2, 0.4):
        t = torch.full((len(x0),), round(level * schedule.T))
        result[f"mse_{level}"] = float(F.mse_loss(net(q_xt_x0(x0, t, eps, schedule), t), eps))
    return result


def times_map(recipe: Recipe, rng: np.random.Generator, n: int, size: tuple[int, int]) -> Tensor:
    """Maps of times (n, 1, h, w): each has two levels drawn as for `denoise_loss`, the first in a
    random share of blocks of 1, 2, 4 or 8 pixels; one map in five has a single level.
    """
    maps = np.empty((n, 1, *size), dtype=np.int64)
    for i in range(n):
        levels = np.clip(
            1 + np.floor(recipe.t_max * rng.random(2) ** recipe.t_power), 1, recipe.t_max
        )
        side, share = int(rng.choice((1, 2, 4, 8))), rng.choice((0.0, rng.random()), p=(0.2, 0.8))
        blocks = rng.random([-(-length // side) for length in size]) < share
        maps[i, 0] = np.where(
            np.kron(blocks, np.ones((side, side), dtype=bool))[: size[0], : size[1]], *levels
        )
    return torch.from_numpy(maps)


def denoise_map_loss(net: nn.Module, pools: dict[str, Images], recipe: Recipe, step: int) -> Tensor:
    """`denoise_loss` with a time for every pixel."""
    rng = rng_of(recipe, step)
    x0 = denoiser_batch(pools, recipe, rng)
    t = times_map(recipe, rng, len(x0), (x0.shape[-2], x0.shape[-1]))
    eps = torch.from_numpy(rng.standard_normal(x0.shape, dtype=np.float32))
    xt = diffuse_map(x0, t, eps)
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
        predicted = net(xt, t)
    return F.mse_loss(predicted.float(), eps)


def diffuse_map(x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """Eq 1 with a time for every pixel (n, 1, h, w)."""
    abar = linear_schedule().abar[t]
    return abar.sqrt().to(x0) * x0 + (1 - abar).sqrt().to(x0) * eps


@torch.no_grad()
def denoise_map_metrics(net: nn.Module, validation: Images, recipe: Recipe) -> dict[str, float]:
    """Errors at one level, and where half of the pixels have 0.2 and the others 0.05: of all of
    these, and of a map that names the mean time for every pixel.
    """
    rng, x0 = np.random.default_rng(1), validation.floats * 2 - 1
    t = torch.from_numpy(np.where(rng.random((len(x0), 1, *x0.shape[-2:])) < 0.5, 200, 50))
    eps = torch.from_numpy(rng.standard_normal(x0.shape, dtype=np.float32))
    xt, blind = diffuse_map(x0, t, eps), torch.full((len(x0),), 125)
    mixed = {
        "mse_mixed": float(F.mse_loss(net(xt, t), eps)),
        "mse_mixed_blind": float(F.mse_loss(net(xt, blind), eps)),
    }
    return denoise_metrics(net, validation, recipe) | mixed


def noise_of(recipe: Recipe, step: int | str, n: int) -> Noise:
    return Noise(f"{recipe.name} {recipe.seed}", [f"{step} {i}" for i in range(n)], [0] * n)


def ascend(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    start: Tensor,
    ball: PGD,
    steps: int,
) -> Tensor:
    """`steps` ascent steps on the cross-entropy from `start`, each followed by the projection to
    the ball around `images`.
    """
    x = start
    for _ in range(steps):
        x = x.detach().requires_grad_()
        loss = F.cross_entropy(predict(x).float(), labels, reduction="sum")
        x = ball.project(x.detach() + ball.ascent(torch.autograd.grad(loss, x)[0]), images)
    return x.detach()


def attacked(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    recipe: DefenceRecipe,
    step: int,
) -> Tensor:
    """The attack inside training from a random start; one step of 1.25 eps is FGSM-RS (Wong et al.
    2020, Alg 3).
    """
    ids = noise_of(recipe, step, len(images)).images
    start = perturb_randomly(
        images, ids, recipe.norm, recipe.eps, f"{recipe.name} {recipe.seed}", corner=False
    )
    return ascend(
        predict,
        images,
        labels,
        start,
        PGD(recipe.norm, recipe.eps, step=recipe.step * recipe.eps),
        recipe.inner,
    )


def accuracies(
    predict: Callable[[Tensor], Tensor], validation: Images, recipe: DefenceRecipe, n: int
) -> dict[str, float]:
    """Accuracy on clean images and under 10 steps of PGD, which shows catastrophic overfitting, on
    the first `n` images.
    """
    images, labels = validation.floats[:n], validation.labels[:n]
    x_adv = ascend(
        predict, images, labels, images, PGD(recipe.norm, recipe.eps, step=recipe.eps / 4), 10
    )
    with torch.no_grad():
        correct = {
            name: (predict(x).argmax(1) == labels).float()
            for name, x in (("accuracy", images), ("pgd10", x_adv))
        }
    return {name: float(c.mean()) for name, c in correct.items()}


def adversarial_loss(
    net: nn.Module, pools: dict[str, Images], recipe: DefenceRecipe, step: int
) -> Tensor:
    """The cross-entropy of attacked images (Madry et al. 2018, Eq 2.1)."""
    x, y = classifier_batch(
        pools, recipe, rng_of(recipe, step), recipe.augment[recipe.cycle(step)[0]]
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
        logits = net(attacked(net, x, y, recipe, step))
    return F.cross_entropy(logits.float(), y)


def adversarial_metrics(
    net: nn.Module, validation: Images, recipe: DefenceRecipe
) -> dict[str, float]:
    """Of all validation images, as many at once as memory holds where they are photographs."""
    parts = [validation[rows] for rows in torch.arange(len(validation)).split(64)]
    found = [accuracies(net, part, recipe, len(part)) for part in parts]
    return {
        name: sum(len(p) * f[name] for p, f in zip(parts, found)) / len(validation)
        for name in found[0]
    }


def me_net_loss(
    net: nn.Module, pools: dict[str, Images], recipe: DefenceRecipe, step: int
) -> Tensor:
    """The cross-entropy of images masked and estimated (Yang et al. 2019)."""
    x, y = classifier_batch(
        pools, recipe, rng_of(recipe, step), recipe.augment[recipe.cycle(step)[0]]
    )
    x = recipe.settings().training_images(x, noise_of(recipe, step, len(x)))
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
        logits = net(x.contiguous(memory_format=torch.channels_last))
    return F.cross_entropy(logits.float(), y)


@torch.no_grad()
def me_net_metrics(net: nn.Module, validation: Images, recipe: DefenceRecipe) -> dict[str, float]:
    x = recipe.settings().purify(validation.floats, noise_of(recipe, "validation", len(validation)))
    return {"accuracy": float((net(x).argmax(1) == validation.labels).float().mean())}


def likelihood_loss(net: nn.Module, pools: dict[str, Images], recipe: Recipe, step: int) -> Tensor:
    """Bits per channel value (Salimans et al. 2017)."""
    levels = ((denoiser_batch(pools, recipe, rng_of(recipe, step)) + 1) * 127.5).round()
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
        parameters = net(levels)
    return pixeldefend.bits_per_dimension(parameters.float(), levels)


@torch.no_grad()
def likelihood_metrics(net: nn.Module, validation: Images, recipe: Recipe) -> dict[str, float]:
    levels = validation.pixels.float()
    return {
        "bits": float(
            np.mean(
                [
                    float(pixeldefend.bits_per_dimension(net(part), part))
                    for part in levels.split(32)
                ]
            )
        )
    }


@cache
def fixed(name: str) -> nn.Module:
    """Finished weights that a recipe trains against."""
    return benches.load_network(name)


def atop_loss(net: nn.Module, pools: dict[str, Images], recipe: DefenceRecipe, step: int) -> Tensor:
    r"""Reconstruction and classification of images that fool the classifier alone,
    :math:`\|g(x^{adv}) - x\|_1 + s\, \ell(F(g(x^{adv})), y)` (after Lin et al. 2024; differences:
    `atop.AToP`)."""
    x, y = classifier_batch(
        pools, recipe, rng_of(recipe, step), recipe.augment[recipe.cycle(step)[0]]
    )
    classifier, settings, noise = (
        fixed(recipe.classifier),
        recipe.settings(),
        noise_of(recipe, step, len(x)),
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
        x_adv = attacked(classifier, x, y, recipe, step)
        repaired = settings.purify(x_adv, noise, net)
        logits = classifier(repaired)
    return 2 * F.l1_loss(repaired.float(), x) + atop.CLASSIFICATION_SHARE * F.cross_entropy(
        logits.float(), y
    )


def atop_metrics(
    net: nn.Module, validation: Images, recipe: DefenceRecipe, n: int = 128
) -> dict[str, float]:
    classifier, settings = fixed(recipe.classifier), recipe.settings()
    noise = noise_of(recipe, "validation", min(n, len(validation)))
    return accuracies(lambda z: classifier(settings.purify(z, noise, net)), validation, recipe, n)


ADVERSARIAL_UNIT, MOST_ADVERSARIAL = 0.03, 0.3  # of the noise: lambda_unit and lambda_max


def adversarial_share(t: Tensor, x0: Tensor) -> Tensor:
    r"""The share of the noise that is adversarial at t (n, 1, 1, 1), :math:`\lambda_t =
    \mathrm{clip}(\lambda_{unit} \sqrt{\bar\alpha_t} / \sqrt{1 - \bar\alpha_t}, 0,
    \lambda_{max})`: the more, the less noise there is (Liu et al. 2025).
    """
    signal, sigma = linear_schedule().signal_and_noise(t, x0)
    return (ADVERSARIAL_UNIT * signal / sigma).clamp(0, MOST_ADVERSARIAL)


def ranked(direction: Tensor, noise: Tensor) -> Tensor:
    """Every channel's `noise` in the order of its `direction`, both (n, c, h, w): rank-based
    Gaussian mapping, which keeps the noise normal.
    """
    rank = direction.flatten(2).argsort(2).argsort(2)
    return noise.flatten(2).sort(2).values.gather(2, rank).reshape(noise.shape)


def addt_loss(net: nn.Module, pools: dict[str, Images], recipe: DefenceRecipe, step: int) -> Tensor:
    r"""The denoiser's loss on noise of which a part is made against the classifier,
    :math:`\|\sqrt{1 - \lambda_t^2}\,\epsilon + \lambda_t \delta - \epsilon_\theta(x_t, t)\|^2`
    (ADDT, Liu et al. 2025).

    :math:`\delta` begins as noise and takes `inner` steps of classifier-guided optimisation: the
    gradients of the cross-entropy of the estimate :math:`\hat x_0` are summed, and fresh noise is
    put in their order (`ranked`). The release takes 5 steps and trains for days from a public
    network; here 2, for minutes. The times are those of this project's denoisers.
    """
    rng = rng_of(recipe, step)
    x, y = classifier_batch(pools, recipe, rng, 0.0)
    x0, t, schedule = 2 * x - 1, low_times(recipe, rng, len(x)), linear_schedule()
    share, classifier = adversarial_share(t, x0), fixed(recipe.classifier)
    normal = lambda: torch.from_numpy(rng.standard_normal(x0.shape, dtype=np.float32))
    mixed = lambda delta: (1 - share**2).sqrt() * normal() + share * delta
    delta, direction = normal(), torch.zeros_like(x0)
    for _ in range(recipe.inner):
        delta.requires_grad_()
        xt = q_xt_x0(x0, t, mixed(delta), schedule)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            estimate = x0_xt(xt, t, net(xt, t).float(), schedule)
            logits = classifier((estimate + 1) / 2)
        loss = F.cross_entropy(logits.float(), y, reduction="sum")
        direction = direction + torch.autograd.grad(loss, delta)[0]
        delta = ranked(direction, normal())
    eps = mixed(delta.detach())
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
        predicted = net(q_xt_x0(x0, t, eps, schedule), t)
    return F.mse_loss(predicted.float(), eps)


def addt_metrics(
    net: nn.Module, validation: Images, recipe: DefenceRecipe, n: int = 64
) -> dict[str, float]:
    """The denoiser's error, and the accuracy behind one call at t = 0.1, clean and attacked through
    it under known noise.
    """
    classifier, schedule, n = fixed(recipe.classifier), linear_schedule(), min(n, len(validation))
    t, noise = torch.full((n,), schedule.index(0.1)), noise_of(recipe, "validation", n)

    def repaired(z: Tensor) -> Tensor:
        xt = q_xt_x0(2 * z - 1, t, noise("start", z), schedule)
        return classifier((x0_xt(xt, t, net(xt, t), schedule) + 1) / 2)

    return denoise_metrics(net, validation, recipe) | accuracies(repaired, validation, recipe, n)


TASKS = {
    "classify": (classify_loss, classify_metrics),
    "denoise": (denoise_loss, denoise_metrics),
    "denoise-map": (denoise_map_loss, denoise_map_metrics),
    "adversarial": (adversarial_loss, adversarial_metrics),
    "me-net": (me_net_loss, me_net_metrics),
    "likelihood": (likelihood_loss, likelihood_metrics),
    "atop": (atop_loss, atop_metrics),
    "addt": (addt_loss, addt_metrics),
}
CLASSIFIER_TASKS = ("classify", "adversarial", "me-net")
KEEP_HIGHEST = {"adversarial": "pgd10"}


def kept_entry(recipe: Recipe, log: list[dict]) -> dict:
    """The log entry whose weights are kept: the first of the highest metric if the task has one in
    `KEEP_HIGHEST`, or else the last.
    """
    metric = KEEP_HIGHEST.get(recipe.task)
    return max(log, key=lambda entry: entry[metric]) if metric else log[-1]


# ---- the loop ------------------------------------------------------------------------------------


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then half a cosine to zero, in every cycle (Loshchilov & Hutter 2017)."""
    cycle, progress = recipe.cycle(step)
    peak = recipe.lr * 0.5**cycle
    if progress < recipe.warmup:
        return peak * progress / recipe.warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - recipe.warmup) / (1 - recipe.warmup)))


def optimizer(recipe: Recipe, net: nn.Module) -> torch.optim.Optimizer:
    if recipe.task in CLASSIFIER_TASKS:
        return torch.optim.SGD(
            net.parameters(),
            recipe.lr,
            momentum=0.9,
            nesterov=True,
            weight_decay=recipe.weight_decay,
        )
    return torch.optim.Adam(net.parameters(), recipe.lr, betas=(0.9, 0.99))


def copied(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def save_atomically(state: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def earlier_cycles(recipe: Recipe, weights: Path) -> dict | None:
    """The card of finished weights that the first cycles of `recipe` made, if that is how they were
    made.

    At the end of a cycle the learning rate is zero: the weights and a fresh optimiser continue the
    run.
    """
    if not (path := weights / f"{recipe.name}.json").exists():
        return None
    card = json.loads(path.read_text())
    done = len(card["recipe"]["cycles"])
    shorter = asdict(replace(recipe, cycles=recipe.cycles[:done], augment=recipe.augment[:done]))
    return (
        card
        if done < len(recipe.cycles) and card["recipe"] == json.loads(json.dumps(shorter))
        else None
    )


def train(
    recipe: Recipe,
    folder: str | None = None,
    every: int = 250,
    progress: bool = True,
    runs: Path = RUNS,
    weights: Path = WEIGHTS,
) -> tuple[nn.Module, list[dict]]:
    """Run or continue a recipe; returns the network to keep (see `kept_entry`; averaged if the
    recipe says so) and its log, an entry per `every` steps.

    It continues from its checkpoint in `runs`, or else from weights in `weights` that earlier
    cycles of the same recipe made, or else starts from the weights in `weights` that the recipe
    names, if it names any.
    """
    pools, validation = sources(recipe, folder)
    loss_of, metrics_of = TASKS[recipe.task]
    torch.manual_seed(recipe.seed)
    net: Any = build(recipe.network)
    checkpoint = runs / f"{recipe.name}.pt"
    if recipe.task in CLASSIFIER_TASKS:
        net = net.to(memory_format=torch.channels_last)
    average, opt, step, log, seconds = build(recipe.network), optimizer(recipe, net), 0, [], 0.0
    if not checkpoint.exists() and (card := earlier_cycles(recipe, weights)):
        net.load_state_dict(load_file(weights / f"{recipe.name}.safetensors"))
        step, log, seconds = card["images_seen"] // recipe.batch, card["curve"], card["seconds"]
    elif not checkpoint.exists() and isinstance(recipe, DefenceRecipe) and recipe.start:
        # a network that extends the one it starts from keeps its own initial values where the other
        # has none
        net.load_state_dict(
            net.state_dict() | benches.load_network(recipe.start, folder=weights).state_dict()
        )
    average.load_state_dict(net.state_dict())
    kept = copied(average)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["recipe"] != asdict(recipe):
            raise ValueError(f"{checkpoint} belongs to another recipe; move it away to start over")
        (
            net.load_state_dict(state["net"]),
            average.load_state_dict(state["average"]),
            opt.load_state_dict(state["opt"]),
        )
        step, log, seconds, kept = (
            state["step"],
            state["log"],
            state["seconds"],
            state.get("kept", state["average"]),
        )
    total, losses, started = recipe.steps[-1], [], time.time()
    bar = progress_bar(total, recipe.name, not progress, initial=step, mininterval=5)
    while step < total:
        net.train()
        for group in opt.param_groups:
            group["lr"] = learning_rate(recipe, step)
        loss = loss_of(net, pools, recipe, step)
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        opt.step()
        step += 1
        update_average(
            average, net, min(recipe.ema, (1 + step) / (10 + step)) if recipe.ema else 0.0
        )
        losses.append(loss.item())
        bar.update()
        if step % every == 0 or step == total:
            average.eval()
            entry = {
                "step": step,
                "images": step * recipe.batch,
                "loss": float(np.mean(losses)),
                **metrics_of(average, validation, recipe),
            }
            log.append(entry | {"seconds": round(seconds + time.time() - started, 1)})
            bar.set_postfix(
                {k: f"{v:.4f}" for k, v in entry.items() if k not in ("step", "images")}
            )
            if kept_entry(recipe, log) is log[-1]:
                kept = copied(average)
            state = {
                "recipe": asdict(recipe),
                "net": net.state_dict(),
                "average": average.state_dict(),
                "opt": opt.state_dict(),
            }
            state |= {"kept": kept} if recipe.task in KEEP_HIGHEST else {}
            save_atomically(
                state | {"step": step, "log": log, "seconds": seconds + time.time() - started},
                checkpoint,
            )
            losses = []
    bar.close()
    average.load_state_dict(kept)
    return average.eval(), log


@torch.no_grad()
def update_average(average: nn.Module, net: nn.Module, decay: float) -> None:
    for a, p in zip(average.parameters(), net.parameters()):
        a.lerp_(p, 1 - decay)
    for a, b in zip(average.buffers(), net.buffers()):
        a.copy_(b)


def last_checkpoint(recipe: Recipe, runs: Path = RUNS) -> tuple[nn.Module, list[dict]]:
    """The network to keep and the log as of the last checkpoint of an unfinished run."""
    state = torch.load(runs / f"{recipe.name}.pt", weights_only=True)
    net = build(recipe.network)
    net.load_state_dict(state.get("kept", state["average"]))
    return net.eval(), state["log"]


def export(
    recipe: Recipe, net: nn.Module, log: list[dict], folder: str | None, target: Path = WEIGHTS
) -> Path:
    """``weights/NAME.safetensors`` and its card: data, recipe, images seen, time, curve, sha256."""
    target.mkdir(exist_ok=True)
    path = target / f"{recipe.name}.safetensors"
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, path)
    pools, _ = sources(recipe, folder)
    digest = {
        key: hashlib.sha256("".join(sorted(p.ids)).encode()).hexdigest() for key, p in pools.items()
    }
    card = {
        "name": recipe.name,
        "network": recipe.network,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "parameters": sum(p.numel() for p in net.parameters()),
        "recipe": asdict(recipe),
        "data": {
            key: {"images": len(p), "sha256 of sorted image ids": digest[key]}
            for key, p in pools.items()
        },
        "made from": {name: benches.card(name)["sha256"] for name in recipe.made_from},
        "kept": {k: v for k, v in kept_entry(recipe, log).items() if k not in ("loss", "seconds")},
        "images_seen": log[-1]["images"],
        "seconds": log[-1]["seconds"],
        "machine": (
            f"{platform.machine()}, {torch.get_num_threads()} thread, torch"
            f" {torch.__version__.split('+')[0]}"
        ),
        "curve": log,
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")
    return path


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="hetpure train", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--data", help="folder of the parquet files (default: the usual search)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--export-only",
        action="store_true",
        help="write the weights of the last checkpoint instead of training on",
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    recipe = RECIPES[args.recipe]
    net, log = last_checkpoint(recipe) if args.export_only else train(recipe, args.data)
    print(f"wrote {export(recipe, net, log, args.data)}")
