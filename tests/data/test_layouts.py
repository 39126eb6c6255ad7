"""Original layouts: CIFAR-10 pickles, SVHN .mat, ImageNet folders and parquet files, and the
literature's subsets.
"""

from __future__ import annotations

import io
import os
import pickle
import struct

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from scipy.io import savemat

from hetpure_lab import data
from hetpure_lab.data import DATASETS, DataError, layouts

RNG = np.random.default_rng(0)


def jpeg(width: int, height: int, colour: tuple[int, int, int] = (200, 30, 60)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "JPEG")
    return buffer.getvalue()


# ---- CIFAR-10 ------------------------------------------------------------------------------------


class Python2(pickle._Pickler):
    """Writes every string as Python 2 did, as the official files have them."""

    def save_string(self, text):
        content = text if isinstance(text, bytes) else text.encode()
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(text)

    dispatch = pickle._Pickler.dispatch | {bytes: save_string, str: save_string}


def write_batch(file, n=3, labels=None, rows=None):
    pixels = RNG.integers(0, 256, (n if rows is None else rows, 3072), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as opened:
        Python2(opened, protocol=2).dump(
            {"data": pixels, "labels": list(range(n)) if labels is None else labels}
        )
    return pixels


@pytest.mark.parametrize("place", ["cifar-10-batches-py", "cifar10/cifar-10-batches-py"])
def test_cifar10_pickles_are_read_bit_for_bit(tmp_path, place):
    pixels = write_batch(tmp_path / place / "test_batch")
    images = data.load("cifar10", "test", tmp_path, quiet=True)
    assert torch.equal(images.pixels, torch.from_numpy(pixels).reshape(-1, 3, 32, 32))
    assert images.labels.tolist() == [0, 1, 2] and images.lossless.all()


def test_cifar10_training_batches_are_joined_in_order(tmp_path):
    pixels = [write_batch(tmp_path / f"data_batch_{i}", n=i) for i in range(1, 6)]
    images = data.load("cifar10", "train", tmp_path, quiet=True)
    assert torch.equal(images.pixels.flatten(1), torch.from_numpy(np.concatenate(pixels)))


class Malicious:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_a_cifar10_pickle_that_wants_to_run_something_is_refused_and_nothing_runs(tmp_path):
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": Malicious(tmp_path / "mark")}))
    with pytest.raises(DataError, match="mkdir.*nothing was executed"):
        data.load("cifar10", "test", tmp_path)
    assert not (tmp_path / "mark").exists()


def test_a_cifar10_pickle_cannot_change_the_function_that_reads_it(tmp_path):
    change = pickle.dumps((None, {"planted": 1, "__defaults__": (1,)}), 2)[2:-1]
    (tmp_path / "test_batch").write_bytes(
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n" + change + b"b."
    )
    with pytest.raises(DataError):
        data.load("cifar10", "test", tmp_path)
    assert (
        not hasattr(layouts._empty_array, "planted") and layouts._empty_array.__defaults__ is None
    )


@pytest.mark.parametrize(
    "prepare, message",
    [
        (lambda f: f.write_bytes(b"\x80\x02}"), "damaged or truncated"),
        (lambda f: f.write_bytes(pickle.dumps({b"fine_labels": [1]})), "damaged or truncated"),
        (lambda f: write_batch(f, rows=2), "expected 3 rows of 3072 bytes"),
        (lambda f: write_batch(f, labels=[0, 1, 10]), "label 10 is out of range"),
        (
            lambda f: write_batch(f, labels=[0, 1, 1.5]),
            "its labels, row 2: a label is a whole number, not 1.5",
        ),
    ],
)
def test_wrong_cifar10_batches_are_refused_with_the_reason(tmp_path, prepare, message):
    prepare(tmp_path / "test_batch")
    with pytest.raises(DataError, match=message):
        data.load("cifar10", "test", tmp_path)


# ---- SVHN ----------------------------------------------------------------------------------------


def test_svhn_mat_files_are_read_and_ten_is_the_digit_zero(tmp_path):
    pixels = RNG.integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    savemat(
        tmp_path / "test_32x32.mat",
        {"X": pixels, "y": np.array([[1], [10], [9], [10]], dtype=np.uint8)},
    )
    images = data.load("svhn", "test", tmp_path, quiet=True)
    assert images.labels.tolist() == [1, 0, 9, 0]
    assert torch.equal(images.pixels[2], torch.from_numpy(pixels[:, :, :, 2]).permute(2, 0, 1))


def test_wrong_svhn_files_are_refused(tmp_path):
    (tmp_path / "test_32x32.mat").write_bytes(b"not a mat file")
    with pytest.raises(DataError, match="cannot be read as SVHN"):
        data.load("svhn", "test", tmp_path)
    savemat(
        tmp_path / "test_32x32.mat", {"X": np.zeros((28, 28, 3, 2), np.uint8), "y": np.ones((2, 1))}
    )
    with pytest.raises(DataError, match="32x32"):
        data.load("svhn", "test", tmp_path)


# ---- ImageNet ------------------------------------------------------------------------------------


@pytest.mark.parametrize("width, height", [(400, 300), (300, 400), (224, 224), (640, 128)])
def test_photographs_are_resized_by_the_shorter_side_and_cropped_in_the_middle(width, height):
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    image = Image.fromarray(np.stack([across, down, 0 * down], -1).astype(np.uint8))
    cut = layouts.photograph(image).astype(float)
    assert cut.shape == (224, 224, 3)
    # the ramps keep their middle, and their slope per pixel falls with the enlargement
    for channel, side in ((0, width), (1, height)):
        ramp = cut[:, :, channel].mean(channel)
        assert abs(ramp.mean() - 127.5) < 1.5
        assert np.isclose(np.diff(ramp).mean(), 255 / (256 * side / min(width, height)), rtol=0.03)


def test_imagenet_class_folders_give_labels_by_their_order(tmp_path, monkeypatch):
    dataset = data.DataSet("imagenet-224", 3, 224, "")
    monkeypatch.setitem(DATASETS, "imagenet-224", dataset)
    for k, name in enumerate(("n01", "n02", "n03")):
        (tmp_path / "imagenet" / "val" / name).mkdir(parents=True)
        (tmp_path / "imagenet" / "val" / name / f"ILSVRC2012_val_{9 - k}.JPEG").write_bytes(
            jpeg(300, 260, (80 * k, 0, 0))
        )
    images = data.load("imagenet-224", "validation", tmp_path, quiet=True)
    assert (
        images.labels.tolist() == [0, 1, 2]
        and images.pixels.shape == (3, 3, 224, 224)
        and not images.lossless.any()
    )
    assert images.pixels[:, 0].float().mean((1, 2)).argsort().tolist() == [0, 1, 2]
    (tmp_path / "imagenet" / "val" / "n04").mkdir()
    with pytest.raises(DataError, match="4 class folders"):
        data.load("imagenet-224", "validation", tmp_path)


def test_imagenet_parquet_files_are_put_into_the_order_of_class_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(layouts, "subsets", lambda: {"imagenet-224": {"of": 4, "index": [3, 0]}})
    rows = [(2, "b"), (7, "a"), (2, "a"), (0, "z")]
    for k, part in enumerate((rows[:1], rows[1:])):
        table = {
            "image": [{"bytes": jpeg(256, 256), "path": p} for _, p in part],
            "label": [label for label, _ in part],
        }
        pd.DataFrame(table).to_parquet(tmp_path / f"validation-{k:05}-of-00002.parquet")
    images = data.load("imagenet-224", "validation", tmp_path, quiet=True)
    assert images.labels.tolist() == [7, 0] and "the literature's 2 of 4" in images.source


def test_only_chosen_photographs_are_read_and_decoded(tmp_path, monkeypatch):
    """The others would not decode, and lie in other groups of rows: of those only labels and paths
    are read.
    """
    monkeypatch.setattr(layouts, "subsets", lambda: {"imagenet-224": {"of": 6, "index": [4, 1]}})
    contents = [jpeg(256, 256, (50 * i, 0, 0)) if i in (1, 4) else b"no image" for i in range(6)]
    table = {
        "image": [{"bytes": c, "path": f"{i}.JPEG"} for i, c in enumerate(contents)],
        "label": [5, 5, 6, 6, 7, 7],
    }
    pd.DataFrame(table).to_parquet(tmp_path / "validation-00000-of-00001.parquet", row_group_size=1)
    read = []

    class Watched(parquet.ParquetFile):
        def read_row_group(self, i, columns):
            read.append((i, tuple(columns)))
            return super().read_row_group(i, columns)

    monkeypatch.setattr(parquet, "ParquetFile", Watched)
    images = data.load("imagenet-224", "validation", tmp_path, quiet=True)
    assert images.labels.tolist() == [7, 5] and images.pixels[:, 0].float().mean(
        (1, 2)
    ).round().tolist() == [200, 50]
    assert [i for i, columns in read if "image.bytes" in columns] == [1, 4]


def test_imagenets_reader_has_chosen_the_literatures_subset_already(tmp_path, monkeypatch):
    monkeypatch.setattr(layouts, "subsets", lambda: {"imagenet-224": {"of": 3, "index": [2, 0]}})
    rows = {"image": [{"bytes": jpeg(256, 256), "path": p} for p in "abc"], "label": [1, 2, 3]}
    pd.DataFrame(rows).to_parquet(tmp_path / "validation-00000-of-00001.parquet")
    assert data.load("imagenet-224", "test512", tmp_path, quiet=True).labels.tolist() == [3, 1]
    monkeypatch.setattr(layouts, "subsets", lambda: {"imagenet-224": {"of": 4, "index": [2, 0]}})
    with pytest.raises(DataError, match="of the 4 official test images"):
        data.load("imagenet-224", "test512", tmp_path)


def test_a_photograph_that_cannot_be_decoded_is_named(tmp_path):
    pd.DataFrame({"image": [{"bytes": b"no", "path": "x.JPEG"}], "label": [1]}).to_parquet(
        tmp_path / "validation-00000-of-00001.parquet"
    )
    with pytest.raises(DataError, match=r"x\.JPEG: the image cannot be decoded"):
        data.load("imagenet-224", "validation", tmp_path)


# ---- subsets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "svhn", "imagenet-224"])
def test_subset_lists_are_the_literatures_draw(name):
    chosen = layouts.subsets()[name]
    assert (
        chosen["index"]
        == np.random.RandomState(0).choice(chosen["of"], 512, replace=False).tolist()
    )


def test_test512_is_the_subset_in_its_order_and_needs_the_official_split(tmp_path, monkeypatch):
    write_batch(tmp_path / "test_batch", n=4)
    with pytest.raises(DataError, match="of the 10000 official test images"):
        data.load("cifar10", "test512", tmp_path)
    monkeypatch.setattr(layouts, "subsets", lambda: {"cifar10": {"of": 4, "index": [3, 1]}})
    assert data.load("cifar10", "test512", tmp_path, quiet=True).labels.tolist() == [3, 1]
    with pytest.raises(DataError, match="no subset of cinic10"):
        layouts.literature_subset(
            data.load("cifar10", "test", tmp_path, quiet=True), DATASETS["cinic10"]
        )
