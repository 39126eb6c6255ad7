"""Real images in the Hugging Face parquet layout or their original one (`layouts`), and Foolbox's samples when nothing else is there.

Search order for a data set: the path given, ``$HETPURE_DATA``, ``../shared/data`` beside the checkout, the user's cache
(``~/.cache/hetpure``), then a download if and only if asked for; last the embedded sample. `load` prints one line that says what
was found. Images are identified by the sha256 of their pixels, so that a row's position never carries meaning.
"""

from __future__ import annotations

import io
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from hetpure_lab.common.download import DownloadError, download
from hetpure_lab.common.paths import CACHE, ROOT
from hetpure_lab.data import layouts
from hetpure_lab.data.images import DATASETS, DataError, DataSet, Images, NoData


def load(name: str, split: str = "test", data: str | Path | None = None, download: bool = False, quiet: bool = False) -> Images:
    """The images of `split` of data set `name`; says on stderr which source was used and how many images it has.

    Raises `DataError` for an unknown name, a path without such a split, a damaged file, or a label out of range.
    """
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    dataset, whole = DATASETS[name], split.removesuffix("512")  # "test512" is the literature's subset of "test"
    images = unseen(_find(dataset, dataset.test if whole == "test" else whole, data, download), dataset, whole)
    if whole != split:
        images = layouts.literature_subset(images, dataset)
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
    if not dataset.hub:
        raise DataError(f"{dataset.name} has no download address; give its folder")
    target = CACHE / dataset.folder / f"{split}-00000-of-00001.parquet"
    url = f"{dataset.hub}/{target.name}"
    print(f"data: downloading {url}", file=sys.stderr)
    try:
        download(url, target)
    except DownloadError as error:
        raise DataError(f"{error}; or fetch it by hand into {target.parent}") from error
    return target


def embedded_sample(dataset: DataSet) -> Images:
    """The 20 real images that ship with Foolbox (label: the last number of the file name).

    CIFAR-10: lossless test images. ImageNet: photographs with labels out of all thousand classes. Of other data sets there are none.
    """
    if dataset.folder not in ("cifar10", "imagenet"):
        hub = f", or let hetpure_lab.data.sources({dataset.name!r}, download=True) fetch it" if dataset.hub else ""
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
