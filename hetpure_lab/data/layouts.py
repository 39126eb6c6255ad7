"""Data sets as people have them on disk besides the hub's parquet files, and the 512-image subsets
of the literature.

| data set | layout |
|---|---|
| CIFAR-10 | ``cifar-10-batches-py/``: pickles, read without executing anything in them |
| SVHN | ``train_32x32.mat``, ``test_32x32.mat`` (cropped digits; label 10 is the digit 0) |
| ImageNet | a folder per class (``val/n01440764/*.JPEG``), or the hub's parquet files |

Photographs go through Resize 256 and CenterCrop 224.

The subsets are ``RandomState(0).choice(n, 512, replace=False)`` over the official test split in its
own order (ImageNet: by class folder, then by file name), as Lee & Kim and the paper's release draw
them; ``subsets.json`` lists them, so that nothing depends on NumPy's generator. Ask for them as
split ``test512``. Of ImageNet's 50,000 images no others are ever read.
"""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from hetpure_lab.common import extras
from hetpure_lab.data.images import DataError, DataSet, Images

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

SUBSETS = Path(__file__).with_name("subsets.json")


def shards(files: Iterable[Path]) -> list[Path]:
    """The files ``NAME-NNNNN-of-NNNNN.parquet`` of one split, in order. Raises `DataError` unless
    they are one whole set.
    """
    numbers = {file: re.fullmatch(r".*-(\d+)-of-(\d+)\.parquet", file.name) for file in files}
    found = sorted((int(m[2]), int(m[1]), file) for file, m in numbers.items() if m)
    if len(totals := sorted({total for total, _, _ in found})) > 1:
        sets = " and of ".join(map(str, totals))
        raise DataError(
            f"{found[0][2].parent} holds two sets of shards, of {sets}: keep the one that is meant"
        )
    if found and (missing := sorted(set(range(totals[0])) - {k for _, k, _ in found})):
        split, folder = found[0][2].name.partition("-")[0], found[0][2].parent
        raise DataError(
            f"{folder} lacks {len(missing)} of {totals[0]} shards of {split}, such as number"
            f" {missing[0]}"
        )
    return [file for _, _, file in found]


def whole_labels(values: Iterable, where: object) -> np.ndarray:
    """Labels as int64 (n,). Raises `DataError` for any that is no whole number, rather than cut
    it.
    """
    labels = np.asarray(values)
    if labels.dtype.kind in "iu":
        return labels.astype(np.int64)
    for row, label in enumerate(labels.tolist()):
        if (
            isinstance(label, bool)
            or not isinstance(label, int | float)
            or label != label
            or label != int(label)
        ):
            raise DataError(f"{where}, row {row}: a label is a whole number, not {label!r}")
    return labels.astype(np.int64)


def eight_bit(image: Image.Image, head: bytes = b"") -> Image.Image:
    """`image` as RGB. Raises `ValueError` for an image of more than 8 bits per colour; `head` are
    the first 26 bytes of its file.
    """
    png_depth = head[24] if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) > 24 else 8
    if png_depth > 8 or image.mode.startswith(("I", "F")):
        raise ValueError("it has more than 8 bits per colour, which would be cut")
    return image.convert("RGB")


def find(folder: Path, dataset: DataSet, split: str) -> Images | None:
    """The images of `split` if `folder` (or its subfolder named after the data set) holds them in
    an original layout.
    """
    reader = dataset.read or READERS.get(dataset.name)
    places = (folder, folder / dataset.folder)
    return next(
        (
            images
            for place in places
            if reader and (images := reader(place, dataset, split)) is not None
        ),
        None,
    )


@cache
def subsets() -> dict[str, dict]:
    """By data set: the number of images that is drawn `of`, and the 512 positions."""
    return json.loads(SUBSETS.read_text())


def literature_subset(images: Images, dataset: DataSet) -> Images:
    """The literature's 512 of the official test images, which ImageNet's reader has chosen
    already.
    """
    if dataset.name not in subsets():
        raise DataError(
            f"the literature has no subset of {dataset.name}; it has: {', '.join(subsets())}"
        )
    if images.subset:
        return images
    chosen = subsets()[dataset.name]
    if len(images) != chosen["of"]:
        raise DataError(
            f"the literature's subset is of the {chosen['of']} official test images;"
            f" {images.source} has {len(images)}"
        )
    return images[torch.tensor(chosen["index"])]


# ---- CIFAR-10 ------------------------------------------------------------------------------------


class ArraysOnly(pickle.Unpickler):
    """Builds NumPy arrays and plain containers; everything else that a pickle may name is refused
    before it is called.
    """

    def find_class(self, module: str, name: str) -> object:
        if (
            module.replace("numpy._core", "numpy.core") == "numpy.core.multiarray"
            and name == "_reconstruct"
        ):
            # of its own: a pickle may set attributes of what it is given
            return lambda *args: _empty_array(*args)
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise DataError(
            f"asks for {module}.{name}, which is no array: refused, nothing was executed"
        )


def _empty_array(kind: type, shape: tuple[int, ...], dtype: bytes) -> np.ndarray:
    if kind is not np.ndarray:
        raise DataError(f"asks for an array of type {kind}: refused")
    return np.ndarray(shape, dtype.decode())


def read_cifar10(folder: Path, dataset: DataSet, split: str) -> Images | None:
    """The python version of CIFAR-10."""
    folder = folder / "cifar-10-batches-py" if (folder / "cifar-10-batches-py").is_dir() else folder
    names = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}.get(
        split, []
    )
    if not names or not all((folder / name).exists() for name in names):
        return None
    batches = [_batch(folder / name) for name in names]
    pixels = torch.from_numpy(np.concatenate([data.reshape(-1, 3, 32, 32) for data, _ in batches]))
    return _images(
        pixels,
        np.concatenate([labels for _, labels in batches]),
        dataset,
        f"{dataset.name}/{split} ({folder.name})",
    )


def _batch(file: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with file.open("rb") as opened:
            found = ArraysOnly(opened, encoding="bytes").load()
        data, labels = found[b"data"], whole_labels(found[b"labels"], "its labels")
    except DataError as error:
        raise DataError(f"{file} {error}") from error
    except Exception as error:
        raise DataError(
            f"{file} cannot be read as a CIFAR-10 batch (damaged or truncated?): {error!r}"
        ) from error
    if getattr(data, "dtype", None) != np.uint8 or data.shape != (len(labels), 3072):
        raise DataError(
            f"{file}: expected {len(labels)} rows of 3072 bytes, found"
            f" {getattr(data, 'shape', type(data).__name__)}"
        )
    return data, labels


# ---- SVHN ----------------------------------------------------------------------------------------


def read_svhn(folder: Path, dataset: DataSet, split: str) -> Images | None:
    """The cropped digits: `X` (32, 32, 3, n) and `y` (n, 1)."""
    from scipy.io import loadmat

    if not (file := folder / f"{split}_32x32.mat").exists():
        return None
    try:
        found = loadmat(file, variable_names=["X", "y"])
        pixels, labels = (
            torch.from_numpy(found["X"]).permute(3, 2, 0, 1).contiguous(),
            whole_labels(found["y"].reshape(-1), file),
        )
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{file} cannot be read as SVHN's cropped digits (damaged or truncated?): {error}"
        ) from error
    if pixels.dtype != torch.uint8 or pixels.shape != (len(labels), 3, 32, 32):
        raise DataError(
            f"{file}: expected {len(labels)} images of 32x32 8-bit pixels, found"
            f" {tuple(pixels.shape)} {pixels.dtype}"
        )
    return _images(
        pixels, np.where(labels == 10, 0, labels), dataset, f"{dataset.name}/{split} ({file.name})"
    )


# ---- ImageNet ------------------------------------------------------------------------------------


def photograph(image: Image.Image, resize: int = 256, crop: int = 224) -> np.ndarray:
    """Resize the shorter side to `resize` (bilinear, antialiased), then cut the centre: (crop,
    crop, 3) uint8.
    """
    image = image.convert("RGB")
    short = min(image.size)
    image = image.resize(
        (int(resize * image.width / short), int(resize * image.height / short)),
        Image.Resampling.BILINEAR,
    )
    left, top = (round((side - crop) / 2) for side in image.size)
    return np.asarray(image.crop((left, top, left + crop, top + crop)))


def read_imagenet(folder: Path, dataset: DataSet, split: str) -> Images | None:
    """Class folders or parquet files; of the official 50,000 validation images only the
    literature's subset is decoded.
    """
    names = ("val", "validation") if split == "validation" else (split,)
    for place in (folder / name for name in names):
        if place.is_dir() and (classes := sorted(p for p in place.iterdir() if p.is_dir())):
            return _from_folders(classes, place, dataset, split)
    for place in (folder, folder / "data"):
        if files := shards(place.glob(f"{split}-*-of-*.parquet")):
            return _from_parquet(files, dataset, split)
    return None


def _from_folders(classes: list[Path], place: Path, dataset: DataSet, split: str) -> Images:
    if len(classes) != dataset.n_classes:
        raise DataError(
            f"{place} has {len(classes)} class folders; labels follow from their order only with"
            f" all {dataset.n_classes}"
        )
    rows = [
        (file, label) for label, folder in enumerate(classes) for file in sorted(folder.iterdir())
    ]
    chosen = [rows[i] for i in _chosen(len(rows), dataset)]
    decoded = [_decode(file, file) for file, _ in chosen]
    return _photographs(
        decoded, [label for _, label in chosen], len(rows), dataset, f"{split} ({place})"
    )


def _from_parquet(files: list[Path], dataset: DataSet, split: str) -> Images:
    """Labels and paths of all rows first; then the chosen photographs, from one group of rows at a
    time.
    """
    with extras.wanted():
        from pyarrow.parquet import ParquetFile

    try:
        opened = [ParquetFile(file) for file in files]
        # as class folders, whatever the order of the hub
        rows = sorted(row for k, file in enumerate(opened) for row in _listed(file, k))
    except Exception as error:
        raise DataError(
            f"{files[0]} cannot be read as parquet with the columns 'image' and 'label': {error!r}"
        ) from error
    chosen = [rows[i] for i in _chosen(len(rows), dataset)]
    decoded = {}
    for (k, group), wanted in groupby(
        sorted(chosen, key=lambda row: row[2:]), key=lambda row: row[2:4]
    ):
        contents = opened[k].read_row_group(group, columns=["image.bytes"])["image"]
        decoded |= {
            row: _decode(io.BytesIO(contents[row[-1]]["bytes"].as_py()), f"{files[k]}, {row[1]}")
            for row in wanted
        }
    return _photographs(
        [decoded[row] for row in chosen],
        [row[0] for row in chosen],
        len(rows),
        dataset,
        f"{split} ({files[0].name})",
    )


def _listed(file: ParquetFile, k: int) -> Iterator[tuple[int, str, int, int, int]]:
    """Every row of the k-th file: its label, its path, and where it is (k, group of rows, place in
    that).
    """
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=["image.path", "label"])
        for place, (image, label) in enumerate(
            zip(table["image"].to_pylist(), table["label"].to_pylist())
        ):
            yield label, image["path"] or "", k, group, place


def _chosen(n: int, dataset: DataSet) -> Iterable[int]:
    literature = subsets()[dataset.name]
    return literature["index"] if n == literature["of"] else range(n)


def _decode(source: Path | io.BytesIO, where: object) -> np.ndarray:
    try:
        with open(source, "rb") if isinstance(source, Path) else source as file:
            head = file.read(26)
            file.seek(0)
            return photograph(eight_bit(Image.open(file), head))
    except Exception as error:
        raise DataError(f"{where}: the image cannot be decoded: {error}") from error


def _photographs(
    decoded: list[np.ndarray], labels: list[int], n: int, dataset: DataSet, where: str
) -> Images:
    if not decoded:
        raise DataError(f"{dataset.name}: no images in {where}")
    pixels = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous()
    subset = n == subsets()[dataset.name]["of"]
    which = f"the literature's {len(decoded)}" if subset else "all"
    found = _images(
        pixels,
        np.array(labels),
        dataset,
        f"{dataset.name}/{where}, {which} of {n} images",
        lossless=False,
    )
    return replace(found, subset=subset)


def _images(
    pixels: torch.Tensor, labels: np.ndarray, dataset: DataSet, source: str, lossless: bool = True
) -> Images:
    if not len(labels):
        raise DataError(f"{source} has no images")
    if len(bad := labels[(labels < 0) | (labels >= dataset.n_classes)]):
        raise DataError(f"{source}: label {int(bad[0])} is out of range 0..{dataset.n_classes - 1}")
    return Images(pixels, torch.from_numpy(labels), torch.full((len(labels),), lossless), source)


READERS = {
    "cifar10": read_cifar10,
    "svhn": read_svhn,
    "svhn-unseen": read_svhn,
    "imagenet-224": read_imagenet,
}
