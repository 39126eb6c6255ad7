"""Adversarial images as real pixels: 8-bit differences packed into records, images rebuilt from
them and written as PNG files.
"""

from __future__ import annotations

import base64
import csv
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from hetpure_lab.data import Images


def pack(delta: Tensor) -> str:
    """int8 differences as text."""
    return base64.b85encode(zlib.compress(delta.numpy().tobytes(), 9)).decode()


def unpack(text: str, shape: Sequence[int]) -> Tensor:
    """The int8 differences of a record."""
    return torch.frombuffer(
        bytearray(zlib.decompress(base64.b85decode(text))), dtype=torch.int8
    ).reshape(*shape)


def with_records(images: Images, records: dict[str, dict]) -> Images:
    """Those of `images` that have a record, in their order."""
    return images[
        torch.tensor([i for i, key in enumerate(images.ids) if key in records], dtype=torch.long)
    ]


def adversarial_images(images: Images, records: dict[str, dict]) -> Tensor:
    """The 8-bit adversarial images uint8 (n, 3, h, w) of those `images` that have a record, in the
    order of `images`.
    """
    attacked = with_records(images, records)
    deltas = torch.stack(
        [unpack(records[key]["delta"], images.pixels.shape[1:]) for key in attacked.ids]
    )
    return (attacked.pixels.short() + deltas).to(torch.uint8)


def export(images: Images, records: dict[str, dict], folder: Path) -> list[Path]:
    """Write the adversarial images as lossless ``IMAGE-ID.png`` files, with their true labels in
    ``labels.csv``.

    Raises `ValueError` if an image of the records is not among `images`: differences mean nothing
    without their image.
    """
    attacked = with_records(images, records)
    if missing := set(records) - set(attacked.ids):
        raise ValueError(
            f"{len(missing)} of {len(records)} images are not in {images.source}, such as"
            f" {min(missing)}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{key}.png" for key in attacked.ids]
    for path, pixels in zip(paths, adversarial_images(images, records)):
        Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(path)
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("image", "label"), *zip(attacked.ids, attacked.labels.tolist())]
        )
    return paths
