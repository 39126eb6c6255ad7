"""Images with their identity: pixels, labels and origin; and the form of a data set's rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Optional

import numpy as np
import torch
from torch import Tensor

from hetpure_lab.common.registry import Registry


class DataError(ValueError):
    """A data set that is absent, damaged or mislabelled."""


class NoData(DataError):
    """A data set that was found nowhere."""


Reader = Callable[[Path, "DataSet", str], Optional["Images"]]


@dataclass(frozen=True)
class DataSet:
    """The place of a data set's files and the form of a row. `hub` is its address on the Hugging
    Face hub.

    With `photographs` the images may have any size: the shorter side is scaled to `size` and the
    middle is cut out. `test` is the name of the split that serves as the test set; `trained_on` are
    the rows of the `official` number of test images that the networks of the small bench have seen:
    they are left out.

    `read` finds the images of a split in a folder, for a layout of its own: from the folder, this
    data set and the split's name to `Images`, or None if they are not there. `classes` are their
    names, where somebody gave them.
    """

    name: str
    n_classes: int
    size: int
    hub: str
    photographs: bool = False
    test: str = "test"
    trained_on: range = range(0)
    official: int = 0
    read: Reader | None = None
    classes: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """The name of its folder, which several sizes or selections of one data set share."""
        return self.name.partition("-")[0]


_SVHN = "https://huggingface.co/datasets/ufldl-stanford/svhn/resolve/main/cropped_digits"

# Where there is no address, files are not fetched: their folder must be given.
DATASETS: Registry[DataSet] = Registry(
    "data set",
    {
        "cifar10": DataSet(
            "cifar10",
            10,
            32,
            "https://huggingface.co/datasets/uoft-cs/cifar10/resolve/main/plain_text",
        ),
        "cinic10": DataSet("cinic10", 10, 32, ""),
        "svhn": DataSet("svhn", 10, 32, _SVHN),
        "svhn-unseen": DataSet(
            "svhn-unseen", 10, 32, _SVHN, trained_on=range(2010, 10_000), official=26_032
        ),
        "imagenet": DataSet("imagenet", 1000, 128, "", photographs=True, test="validation"),
        "imagenet-64": DataSet("imagenet-64", 1000, 64, "", photographs=True, test="validation"),
        "imagenet-224": DataSet("imagenet-224", 1000, 224, "", test="validation"),
    },
)


@dataclass(frozen=True)
class Images:
    """`pixels` uint8 (n, 3, h, w), `labels` int64 (n,), `lossless` bool (n,), one line saying where
    they are from, and whether they are the literature's `subset` of a larger set, of which no
    others were read.

    `split` is the name they were asked for by, and `digest` that of the whole split they are part
    of (`digest_of`); both are "" for images that were not loaded by name.
    """

    pixels: Tensor
    labels: Tensor
    lossless: Tensor
    source: str
    subset: bool = False
    split: str = ""
    digest: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> Images:
        return replace(
            self,
            pixels=self.pixels[index],
            labels=self.labels[index],
            lossless=self.lossless[index],
        )

    @cached_property
    def ids(self) -> list[str]:
        """The first 16 hex digits of the sha256 of each image's pixels, rows of RGB bytes from the
        top left.
        """
        return [
            hashlib.sha256(p.permute(1, 2, 0).contiguous().numpy().tobytes()).hexdigest()[:16]
            for p in self.pixels
        ]

    def named(self, split: str) -> Images:
        """The same images as the whole of `split`, with its digest."""
        return replace(self, split=split, digest=digest_of(self))

    @property
    def floats(self) -> Tensor:
        """The pixels as float32 in [0, 1]."""
        return self.pixels.float() / 255

    def take(self, n: int, seed: int = 0) -> Images:
        """`n` images in a seeded random order; the first m of n are the same for every n >= m."""
        if not 1 <= n <= len(self):
            raise DataError(
                f"n_images must be from 1 to {len(self)} ({self.source} has {len(self)} images),"
                f" not {n}"
            )
        order = np.random.RandomState(seed).permutation(len(self))
        return self[torch.as_tensor(order[:n])]


def joined(parts: Sequence[Images]) -> Images:
    """Parts of one split, one behind the other."""
    return replace(
        parts[0],
        pixels=torch.cat([part.pixels for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        lossless=torch.cat([part.lossless for part in parts]),
    )


def digest_of(images: Images) -> str:
    """The first 16 hex digits of a sha256 of all ids with their labels, whatever their order or the
    layout of their files.
    """
    pairs = sorted(zip(images.ids, map(int, images.labels)))
    return hashlib.sha256(repr(pairs).encode()).hexdigest()[:16]


class Shipped(Images):
    """Images that may be passed on: a package ships them, or a formula makes them."""
