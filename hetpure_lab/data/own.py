"""Images of your own: a folder of pictures, a parquet file, CIFAR-100's layout.

Each gives `Images`; with `as_data_set` they are also a data set by name, for benches and commands.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hetpure_lab.common import extras
from hetpure_lab.data.images import DATASETS, DataError, DataSet, Images
from hetpure_lab.data.layouts import ArraysOnly, eight_bit, whole_labels
from hetpure_lab.data.sources import photograph

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")


def pictures(folder: str | Path, size: int) -> tuple[Images, tuple[str, ...]]:
    """Pictures in a folder per class, cut to a square and scaled to `size` pixels; and the classes.

    Labels follow the names of the folders in order. Pictures that lie in `folder` itself are of one
    class. Raises `DataError` for a folder without pictures, or a file that is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder")
    places = sorted(p for p in folder.iterdir() if p.is_dir()) or [folder]
    files = [(f, k) for k, p in enumerate(places) for f in sorted(p.iterdir()) if _is_picture(f)]
    if not files:
        raise DataError(f"{folder} has no pictures ({', '.join(PICTURES)}), nor folders of them")
    pixels = [_square(file.read_bytes(), file, size) for file, _ in files]
    lossless = [file.suffix.lower() in (".png", ".bmp", ".ppm") for file, _ in files]
    labels = np.array([label for _, label in files])
    return _images(pixels, labels, lossless, str(folder.name)), tuple(p.name for p in places)


def parquet(
    files: str | Path | Sequence[str | Path],
    n_classes: int,
    size: int,
    image: str = "image",
    label: str = "label",
) -> Images:
    """Rows of parquet files: `image` holds encoded pictures (bytes, or {bytes, path}), `label`
    whole numbers below `n_classes`. Raises `DataError` that names the file, row or column.
    """
    import pandas as pd

    with extras.wanted():
        import pyarrow  # noqa: F401

    paths = [Path(f) for f in ([files] if isinstance(files, str | Path) else files)]
    try:
        table = pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)
    except Exception as error:
        raise DataError(f"{paths[0]} cannot be read as parquet: {error}") from error
    if missing := [name for name in (image, label) if name not in table]:
        there = ", ".join(map(str, table))
        raise DataError(f"{paths[0]} has no column {missing[0]!r}; it has: {there}")
    labels = whole_labels(table[label].to_numpy(), paths[0])
    raw = [row["bytes"] if isinstance(row, dict) else row for row in table[image]]
    pixels = [_square(b, f"{paths[0]}, row {i}", size) for i, b in enumerate(raw)]
    lossless = [bytes(b[:4]) == b"\x89PNG" for b in raw]
    return _images(pixels, labels, lossless, paths[0].name, n_classes)


def cifar100(folder: str | Path, split: str = "test", coarse: bool = False) -> Images:
    """CIFAR-100 as its authors pack it (``cifar-100-python/test``), with 100 or 20 (`coarse`)
    labels.
    """
    folder = Path(folder)
    file = next(
        (f for f in (folder / "cifar-100-python" / split, folder / split) if f.is_file()), None
    )
    if file is None:
        raise DataError(f"no file cifar-100-python/{split} under {folder}")
    try:
        with file.open("rb") as opened:
            found = ArraysOnly(opened, encoding="bytes").load()
        data = found[b"data"].reshape(-1, 3, 32, 32)
        labels = whole_labels(found[b"coarse_labels" if coarse else b"fine_labels"], file)
    except DataError as error:
        raise DataError(f"{file} {error}") from error
    except Exception as error:
        raise DataError(f"{file} cannot be read as CIFAR-100: {error!r}") from error
    pixels = [np.moveaxis(row, 0, 2) for row in data]
    n_classes = 20 if coarse else 100
    return _images(pixels, labels, [True] * len(labels), f"cifar100/{split}", n_classes)


def as_data_set(name: str, images: Images, classes: Sequence[str]) -> DataSet:
    """The same images as the data set `name`, for every split."""
    size, label = images.pixels.shape[-1], int(images.labels.max())
    if label >= len(classes):
        raise DataError(f"label {label} has no class: {len(classes)} are named")
    return DATASETS.add(
        name, DataSet(name, len(classes), size, "", read=lambda *_: images, classes=tuple(classes))
    )


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in PICTURES


def _square(content: bytes, where: object, size: int) -> np.ndarray:
    try:
        return photograph(eight_bit(Image.open(io.BytesIO(content)), content[:26]), size)
    except Exception as error:
        raise DataError(f"{where}: the image cannot be decoded: {error}") from error


def _images(
    pixels: Sequence[np.ndarray],
    labels: np.ndarray,
    lossless: Sequence[bool],
    source: str,
    n_classes: int | None = None,
) -> Images:
    if not len(labels):
        raise DataError(f"{source} has no images")
    if n_classes and len(bad := labels[(labels < 0) | (labels >= n_classes)]):
        raise DataError(f"{source}: label {int(bad[0])} is out of range 0..{n_classes - 1}")
    stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return Images(stacked, torch.from_numpy(labels), torch.tensor(lossless), source)
