"""Real images in the Hugging Face parquet layout or their original one (`layouts`), and Foolbox's samples when nothing else is there.

Search order for a data set: the path given, ``$HETPURE_DATA``, ``../shared/data`` beside the checkout, the user's cache
(``~/.cache/hetpure``), then a download if and only if asked for; last the embedded sample. `load` prints one line that says what
was found. Images are identified by the sha256 of their pixels, so that a row's position never carries meaning.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hetpure"


class DataError(ValueError):
    """A data set that is absent, damaged or not what it says."""


class NoData(DataError):
    """A data set that was found nowhere."""


@dataclass(frozen=True)
class DataSet:
    """Where a data set's files are and what a row must look like. `hub` is its address on the Hugging Face hub.

    With `photographs` the images may have any size: the shorter side is scaled to `size` and the middle is cut out. `test` is the
    name of the split that serves as the test set; `trained_on` are the rows of the `official` number of test images that the networks of
    the small bench have seen: they are left out.
    """

    name: str
    n_classes: int
    size: int
    hub: str
    photographs: bool = False
    test: str = "test"
    trained_on: range = range(0)
    official: int = 0

    @property
    def folder(self) -> str:
        """The name of its folder, which several sizes or selections of one data set share."""
        return self.name.partition("-")[0]


_SVHN = "https://huggingface.co/datasets/ufldl-stanford/svhn/resolve/main/cropped_digits"

# Where there is no address, files are not fetched: their folder must be given.
DATASETS = {
    "cifar10": DataSet("cifar10", 10, 32, "https://huggingface.co/datasets/uoft-cs/cifar10/resolve/main/plain_text"),
    "cinic10": DataSet("cinic10", 10, 32, ""),
    "svhn": DataSet("svhn", 10, 32, _SVHN),
    "svhn-unseen": DataSet("svhn-unseen", 10, 32, _SVHN, trained_on=range(2010, 10_000), official=26_032),
    "imagenet": DataSet("imagenet", 1000, 128, "", photographs=True, test="validation"),
    "imagenet-224": DataSet("imagenet-224", 1000, 224, "", test="validation"),
}


@dataclass(frozen=True)
class Images:
    """`pixels` uint8 (n, 3, h, w), `labels` int64 (n,), `lossless` bool (n,), one line saying where they are from, and whether they are the
    literature's `subset` of a larger set, of which no others were read.
    """

    pixels: Tensor
    labels: Tensor
    lossless: Tensor
    source: str
    subset: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> Images:
        return replace(self, pixels=self.pixels[index], labels=self.labels[index], lossless=self.lossless[index])

    @cached_property
    def ids(self) -> list[str]:
        """The first 16 hex digits of the sha256 of each image's pixels, rows of RGB bytes from the top left."""
        return [hashlib.sha256(p.permute(1, 2, 0).contiguous().numpy().tobytes()).hexdigest()[:16] for p in self.pixels]

    @property
    def floats(self) -> Tensor:
        """The pixels as float32 in [0, 1]."""
        return self.pixels.float() / 255

    def take(self, n: int, seed: int = 0) -> Images:
        """`n` images in a seeded random order; the first m of n are the same for every n >= m."""
        if not 1 <= n <= len(self):
            raise DataError(f"n_images must be from 1 to {len(self)} ({self.source} has {len(self)} images), not {n}")
        return self[torch.from_numpy(np.random.RandomState(seed).permutation(len(self))[:n])]


def load(name: str, split: str = "test", data: str | Path | None = None, download: bool = False, quiet: bool = False) -> Images:
    """The images of `split` of data set `name`; says on stderr which source was used and how many images it has.

    Raises `DataError` for an unknown name, a path without such a split, a damaged file, or a label out of range.
    """
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    dataset, whole = DATASETS[name], split.removesuffix("512")  # "test512" is the literature's subset of "test"
    images = unseen(_find(dataset, dataset.test if whole == "test" else whole, data, download), dataset, whole)
    if whole != split:
        from hetpure_lab.layouts import literature_subset

        images = literature_subset(images, dataset)
    if not quiet:
        print(f"data: {len(images)} images from {images.source}", file=sys.stderr)
    return images


def unseen(images: Images, dataset: DataSet, split: str) -> Images:
    """The official test images without those that the small bench's networks were trained on; other images as they are."""
    if split != "test" or len(images) != dataset.official:
        return images
    seen = torch.zeros(len(images), dtype=torch.bool)
    seen[list(dataset.trained_on)] = True
    return images[~seen]


def _find(dataset: DataSet, split: str, data: str | Path | None, download: bool) -> Images:
    if data:
        if (images := _read(Path(data), dataset, split)) is None:
            raise DataError(f"no {split}-NNNNN-of-NNNNN.parquet under {data} or {Path(data) / dataset.folder}, nor original files")
        return images
    for folder in (os.environ.get("HETPURE_DATA"), ROOT.parent / "shared" / "data", CACHE):
        if folder and (images := _read(Path(folder), dataset, split)) is not None:
            return images
    if download:
        return read_parquet([_download(dataset, split)], dataset, split)
    return embedded_sample(dataset)


def _read(folder: Path, dataset: DataSet, split: str) -> Images | None:
    """The split in an original layout or as parquet files under `folder`, if it is there."""
    from hetpure_lab import layouts

    if not re.fullmatch(r"\w+", split):
        raise DataError(f"a split is a plain name such as 'test', not {split!r}")
    if (images := layouts.find(folder, dataset, split)) is not None:
        return images
    for place in (folder, *(folder / dataset.folder / layout for layout in ("", "plain_text", "cropped_digits", "data"))):
        if files := sorted(place.glob(f"{split}-*-of-*.parquet")):
            return read_parquet(files, dataset, split)
    return None


def read_parquet(files: list[Path], dataset: DataSet, split: str) -> Images:
    """Parquet files with an image column of {bytes, path} and an integer `label`, as the Hugging Face hub serves them."""
    import pandas as pd

    try:
        table = pd.concat([pd.read_parquet(f) for f in files], ignore_index=True)
    except Exception as error:
        raise DataError(f"{files[0]} cannot be read as parquet (damaged or truncated?): {error}") from error
    column = next((c for c in ("img", "image") if c in table), None)
    if column is None or "label" not in table:
        raise DataError(f"{files[0]} needs the columns 'img' or 'image', and 'label'; it has {', '.join(map(str, table))}")
    labels = torch.tensor(table["label"].to_numpy(np.int64))
    if len(bad := labels[(labels < 0) | (labels >= dataset.n_classes)]):
        raise DataError(f"{files[0]}: label {int(bad[0])} is out of range 0..{dataset.n_classes - 1}")
    pixels = np.stack([_decode(row, i, files[0], dataset) for i, row in enumerate(table[column])])
    lossless = torch.tensor([row["bytes"][:4] == b"\x89PNG" for row in table[column]])
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels, lossless, f"{dataset.name}/{split} ({files[0].name})")


def _decode(row: dict, i: int, file: Path, dataset: DataSet) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(row["bytes"])).convert("RGB")
    except Exception as error:
        raise DataError(f"{file}, row {i}: the image cannot be decoded: {error}") from error
    if dataset.photographs:
        return photograph(image, dataset.size)
    if image.size != (dataset.size, dataset.size):
        raise DataError(f"{file}, row {i}: expected {dataset.size}x{dataset.size} pixels, found {image.width}x{image.height}")
    return np.asarray(image)


def photograph(image: Image.Image, size: int) -> np.ndarray:
    """The middle square of a photograph at `size` pixels, its proportions kept: (size, size, 3)."""
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))


def _download(dataset: DataSet, split: str) -> Path:
    """One parquet file into the user's cache, with a progress bar; an interrupted transfer is continued, and only a whole file is kept."""
    from hetpure_lab import checkpoints

    if not dataset.hub:
        raise DataError(f"{dataset.name} has no download address; give its folder")
    target = CACHE / dataset.folder / f"{split}-00000-of-00001.parquet"
    url = f"{dataset.hub}/{target.name}"
    print(f"data: downloading {url}", file=sys.stderr)
    try:
        checkpoints.download(url, target)
    except checkpoints.CheckpointError as error:
        raise DataError(f"{error}; or fetch it by hand into {target.parent}") from error
    return target


def embedded_sample(dataset: DataSet) -> Images:
    """The 20 real images that ship with Foolbox (label: the last number of the file name).

    CIFAR-10: lossless test images. ImageNet: photographs with labels out of all thousand classes. Of other data sets there are none.
    """
    if dataset.folder not in ("cifar10", "imagenet"):
        hub = f", or let hetpure_lab.data.load({dataset.name!r}, download=True) fetch it" if dataset.hub else ""
        raise NoData(f"{dataset.name} was not found, and no package ships a sample: give its folder, set HETPURE_DATA{hub}")
    if dataset.folder == "imagenet":
        return _from_foolbox("imagenet", replace(dataset, photographs=True), "the ImageNet sample in Foolbox")
    return _from_foolbox("cifar10", dataset, "the CIFAR-10 sample in Foolbox")


def stand_in_digits() -> Images:
    """Twenty MNIST digits that ship with Foolbox, scaled to 32 pixels: something for an SVHN demonstration to run on, not SVHN."""
    return _from_foolbox("mnist", replace(DATASETS["svhn"], photographs=True), "the MNIST sample in Foolbox, a stand-in for SVHN")


def shipped(name: str) -> Images:
    """What Foolbox ships for data set `name`, whatever else is on the machine: its sample, or digits that stand in for SVHN.

    Pictures in the book are of these: everyone sees the same, and they may be passed on.
    """
    return stand_in_digits() if DATASETS[name].folder == "svhn" else embedded_sample(DATASETS[name])


def _from_foolbox(prefix: str, dataset: DataSet, source: str) -> Images:
    import foolbox

    files = sorted(f for f in (Path(foolbox.__file__).parent / "data").glob(f"{prefix}_*") if f.suffix in (".png", ".jpg"))
    pixels = np.stack([_decode({"bytes": f.read_bytes()}, i, f, dataset) for i, f in enumerate(files)])
    labels = torch.tensor([int(f.stem.split("_")[-1]) for f in files])
    lossless = torch.tensor([f.suffix == ".png" for f in files])
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels, lossless, source)
