"""Real images in the Hugging Face parquet layout or their original one (`layouts`), and the samples
that Foolbox ships.

A data set is looked for in the folder given, or in ``$HETPURE_DATA``, and nowhere else if one of
them is; otherwise in ``../shared/data`` beside the checkout and in the user's cache
(``~/.cache/hetpure``). It is downloaded if and only if asked for. `load` prints one line about
the images it found. The images that a package ships are the split ``sample``: they stand in for
another split only where `load_or_sample` is asked for that. Images are identified by the sha256 of
their pixels, so that a row's position never carries meaning.
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

from hetpure_lab.common import extras
from hetpure_lab.common.download import DownloadError, download
from hetpure_lab.common.paths import CACHE, ROOT
from hetpure_lab.data import layouts
from hetpure_lab.data.images import DATASETS, DataError, DataSet, Images, NoData, Shipped

SAMPLE = "sample"  # the split of the few images that a package ships


def load(
    name: str,
    split: str = "test",
    data: str | Path | None = None,
    download: bool = False,
    quiet: bool = False,
) -> Images:
    """The images of `split` of data set `name`; says on stderr which source was used and how many
    images it has.

    `split` is one that the files have (``test``, ``train``, ``validation``; ``test`` of ImageNet is
    its validation split), one with 512 appended for the literature's subset of it, or ``sample``
    for the images that a package ships. Raises `DataError` for an unknown name or a damaged file, a
    label out of range, and `NoData` where there is no such split.
    """
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    if not re.fullmatch(r"\w+", split):
        raise DataError(f"a split is a plain name such as 'test', not {split!r}")
    # "test512" is the literature's subset of "test"
    dataset, whole = DATASETS[name], split.removesuffix("512")
    if split == SAMPLE:
        images = shipped(name)
    else:
        official = dataset.test if whole == "test" else whole
        images = unseen(_find(dataset, official, data, download), dataset, whole)
    if whole != split:
        images = layouts.literature_subset(images, dataset)
    images = images.named(split)
    if not quiet:
        print(f"data: {len(images)} images from {images.source}", file=sys.stderr)
    return images


def load_or_sample(
    name: str, split: str = "test", data: str | Path | None = None, quiet: bool = False
) -> Images:
    """The images of `split`, or the sample that a package ships where the split is found nowhere:
    for demonstrations.

    The sample says so in its `split` and `source`, and on stderr. Raises `DataError` as `load` does
    for files that are found but wrong.
    """
    try:
        return load(name, split, data, quiet=quiet)
    except NoData:
        if data:
            raise
        return load(name, SAMPLE, quiet=quiet)


def unseen(images: Images, dataset: DataSet, split: str) -> Images:
    """The official test images without the training images of the small bench's networks; other
    images as they are.
    """
    if split != "test" or len(images) != dataset.official:
        return images
    seen = torch.zeros(len(images), dtype=torch.bool)
    seen[list(dataset.trained_on)] = True
    return images[~seen]


def _find(dataset: DataSet, split: str, data: str | Path | None, download: bool) -> Images:
    if given := data or os.environ.get("HETPURE_DATA"):
        name = "" if data else "HETPURE_DATA="
        if not Path(given).is_dir():
            raise DataError(
                f"{name}{given} is no folder; give one that holds {dataset.name}, or unset it for"
                " the usual search"
            )
        if (images := _read(Path(given), dataset, split)) is not None:
            return images
        if data or not download:
            raise NoData(
                _nothing(
                    f"{name}{given} or {Path(given) / dataset.folder}", Path(given), dataset, split
                )
            )
    for folder in () if given else (ROOT.parent / "shared" / "data", CACHE):
        if (images := _read(folder, dataset, split)) is not None:
            return images
    if download:
        return read_parquet([_download(dataset, split)], dataset, split)
    hub = (
        f", or let hetpure_lab.data.load({dataset.name!r}, download=True) fetch it"
        if dataset.hub
        else ""
    )
    where = _nothing(
        f"{ROOT.parent / 'shared' / 'data'} or {CACHE}",
        ROOT.parent / "shared" / "data",
        dataset,
        split,
    )
    sample = (
        "the split 'sample' has the images that a package ships"
        if dataset.folder in SHIPPED
        else "no package ships a sample"
    )
    raise NoData(f"{where}; give its folder, set HETPURE_DATA{hub}; {sample}")


def _nothing(where: str, folder: Path, dataset: DataSet, split: str) -> str:
    """That there is no such split, and which others there are."""
    others = sorted(
        {
            file.name.partition("-")[0]
            for place in _places(folder, dataset)
            for file in place.glob("*-*-of-*.parquet")
        }
    )
    there = f" (there: {', '.join(others)})" if others else ""
    return (
        f"no {split}-NNNNN-of-NNNNN.parquet of {dataset.name} under {where}, nor original"
        f" files{there}"
    )


def _places(folder: Path, dataset: DataSet) -> list[Path]:
    return [
        folder,
        *(
            folder / dataset.folder / layout
            for layout in ("", "plain_text", "cropped_digits", "data")
        ),
    ]


def _read(folder: Path, dataset: DataSet, split: str) -> Images | None:
    """The split in an original layout or as parquet files under `folder`, if it is there."""
    if (images := layouts.find(folder, dataset, split)) is not None:
        return images
    for place in _places(folder, dataset):
        if files := layouts.shards(place.glob(f"{split}-*-of-*.parquet")):
            return read_parquet(files, dataset, split)
    return None


def read_parquet(files: list[Path], dataset: DataSet, split: str) -> Images:
    """Parquet files with an image column of {bytes, path} and an integer `label`, as the Hugging
    Face hub serves them.
    """
    import pandas as pd

    with extras.wanted():
        import pyarrow  # noqa: F401

    try:
        table = pd.concat([pd.read_parquet(f) for f in files], ignore_index=True)
    except Exception as error:
        raise DataError(
            f"{files[0]} cannot be read as parquet (damaged or truncated?): {error}"
        ) from error
    column = next((c for c in ("img", "image") if c in table), None)
    if column is None or "label" not in table:
        raise DataError(
            f"{files[0]} needs the columns 'img' or 'image', and 'label'; it has"
            f" {', '.join(map(str, table))}"
        )
    if not len(table):
        raise DataError(f"{files[0]} has no images")
    labels = torch.from_numpy(layouts.whole_labels(table["label"].to_numpy(), files[0]))
    if len(bad := labels[(labels < 0) | (labels >= dataset.n_classes)]):
        raise DataError(
            f"{files[0]}: label {int(bad[0])} is out of range 0..{dataset.n_classes - 1}"
        )
    pixels = np.stack([_decode(row, i, files[0], dataset) for i, row in enumerate(table[column])])
    lossless = torch.tensor([row["bytes"][:4] == b"\x89PNG" for row in table[column]])
    return Images(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        labels,
        lossless,
        f"{dataset.name}/{split} ({files[0].name})",
    )


def _decode(row: dict, i: int, file: Path, dataset: DataSet) -> np.ndarray:
    try:
        image = layouts.eight_bit(Image.open(io.BytesIO(row["bytes"])), row["bytes"][:26])
    except Exception as error:
        raise DataError(f"{file}, row {i}: the image cannot be decoded: {error}") from error
    if dataset.photographs:
        return photograph(image, dataset.size)
    if image.size != (dataset.size, dataset.size):
        raise DataError(
            f"{file}, row {i}: expected {dataset.size}x{dataset.size} pixels, found"
            f" {image.width}x{image.height}"
        )
    return np.asarray(image)


def photograph(image: Image.Image, size: int) -> np.ndarray:
    """The middle square of a photograph at `size` pixels, its proportions kept: (size, size, 3)."""
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))


def _download(dataset: DataSet, split: str) -> Path:
    """One parquet file into the user's cache, with a progress bar; an interrupted transfer is
    continued, and only a whole file is kept.
    """
    if not dataset.hub:
        raise DataError(f"{dataset.name} has no download address; give its folder")
    target = CACHE / dataset.folder / f"{split}-00000-of-00001.parquet"
    url = f"{dataset.hub}/{target.name}"
    print(f"data: downloading {url}", file=sys.stderr)
    try:
        download(url, target, check=lambda file: read_parquet([file], dataset, split))
    except DownloadError as error:
        raise DataError(f"{error}; or fetch it by hand into {target.parent}") from error
    return target


SHIPPED = ("cifar10", "imagenet")  # data sets of which Foolbox ships some images


def embedded_sample(dataset: DataSet) -> Shipped:
    """The 20 real images that ship with Foolbox (label: the last number of the file name).

    CIFAR-10: lossless test images. ImageNet: photographs with labels out of all thousand classes.
    Of other data sets there are none.
    """
    if dataset.folder not in SHIPPED:
        raise NoData(f"no package ships a sample of {dataset.name}")
    if dataset.folder == "imagenet":
        return _from_foolbox(
            "imagenet", replace(dataset, photographs=True), "the ImageNet sample in Foolbox"
        )
    return _from_foolbox("cifar10", dataset, "the CIFAR-10 sample in Foolbox")


def stand_in_digits() -> Shipped:
    """Twenty MNIST digits that ship with Foolbox, scaled to 32 pixels: something for an SVHN
    demonstration to run on, not SVHN.
    """
    return _from_foolbox(
        "mnist",
        replace(DATASETS["svhn"], photographs=True),
        "the MNIST sample in Foolbox, a stand-in for SVHN",
    )


def shipped(name: str) -> Shipped:
    """Foolbox's sample of data set `name`, also where the machine has more images; for SVHN, digits
    stand in.

    Pictures in the book are of these: everyone sees the same, and they may be passed on.
    """
    return stand_in_digits() if DATASETS[name].folder == "svhn" else embedded_sample(DATASETS[name])


def _from_foolbox(prefix: str, dataset: DataSet, source: str) -> Shipped:
    with extras.wanted():
        import foolbox

    files = sorted(
        f
        for f in (Path(foolbox.__file__).parent / "data").glob(f"{prefix}_*")
        if f.suffix in (".png", ".jpg")
    )
    pixels = np.stack(
        [_decode({"bytes": f.read_bytes()}, i, f, dataset) for i, f in enumerate(files)]
    )
    labels = torch.tensor([int(f.stem.split("_")[-1]) for f in files])
    lossless = torch.tensor([f.suffix == ".png" for f in files])
    return Shipped(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels, lossless, source
    )
