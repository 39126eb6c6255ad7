"""Data: the parquet layout, the search order, the embedded sample, and every way in which a file can be wrong."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hetpure_lab import data
from hetpure_lab.data import DATASETS, DataError, sources


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_split(folder, n=5, labels=None, size=32, column="img", split="test"):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    rows = [{"bytes": encoded(p, "JPEG" if i == 0 else "PNG"), "path": f"{i}"} for i, p in enumerate(pixels)]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{split}-00000-of-00001.parquet"
    pd.DataFrame({column: rows, "label": list(range(n)) if labels is None else labels}).to_parquet(file)
    return pixels, file


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No data anywhere in the search order."""
    monkeypatch.setattr(sources, "ROOT", tmp_path / "checkout" / "project")
    monkeypatch.setattr(sources, "CACHE", tmp_path / "cache")
    monkeypatch.delenv("HETPURE_DATA", raising=False)
    return tmp_path


@pytest.mark.parametrize("place", ["", "cifar10", "cifar10/plain_text"])
def test_reads_the_hub_layouts_bit_for_bit(tmp_path, place):
    pixels, _ = write_split(tmp_path / place)
    images = data.load("cifar10", "test", tmp_path)
    assert torch.equal(images.pixels[1:], torch.from_numpy(pixels[1:]).permute(0, 3, 1, 2))
    assert images.labels.tolist() == [0, 1, 2, 3, 4]
    assert images.lossless.tolist() == [False, True, True, True, True]


def test_search_order(nowhere, monkeypatch, capsys):
    assert len(data.load("cifar10")) == 20  # the embedded sample is the last resort
    assert "20 images from the CIFAR-10 sample in Foolbox" in capsys.readouterr().err
    for n, place in ((2, nowhere / "cache"), (3, nowhere / "checkout" / "shared" / "data"), (4, nowhere / "environment")):
        write_split(place / "cifar10", n)
        if n == 4:
            monkeypatch.setenv("HETPURE_DATA", str(place))
        assert len(data.load("cifar10")) == n
        assert f"{n} images from cifar10/test" in capsys.readouterr().err
    write_split(nowhere / "explicit", 5)
    assert len(data.load("cifar10", data=nowhere / "explicit")) == 5


def test_embedded_sample_is_lossless_cifar10():
    sample = data.embedded_sample(DATASETS["cifar10"])
    assert sample.pixels.shape == (20, 3, 32, 32) and sample.lossless.all() and len(set(sample.ids)) == 20
    assert sample.labels.tolist()[:4] == [3, 8, 8, 0]  # cat, ship, ship, airplane: the test set's well-known beginning


def test_ids_follow_pixels_not_rows(tmp_path):
    write_split(tmp_path)
    images = data.load("cifar10", data=tmp_path, quiet=True)
    order = torch.tensor([3, 1, 4])
    assert images[order].ids == [images.ids[i] for i in order]


def test_take_is_nested_and_says_how_many_there_are(tmp_path):
    write_split(tmp_path)
    images = data.load("cifar10", data=tmp_path, quiet=True)
    assert images.take(2).ids == images.take(4).ids[:2]
    with pytest.raises(DataError, match="from 1 to 5"):
        images.take(6)


def damaged(tmp_path):
    _, file = write_split(tmp_path)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def undecodable(tmp_path):
    _, file = write_split(tmp_path)
    table = pd.read_parquet(file)
    table.at[2, "img"] = {"bytes": b"not an image", "path": ""}
    table.to_parquet(file)


@pytest.mark.parametrize(
    "prepare, message",
    [
        (damaged, "damaged or truncated"),
        (undecodable, "row 2: the image cannot be decoded"),
        (lambda p: write_split(p, labels=[0, 1, 2, 3, 10]), r"label 10 is out of range 0\.\.9"),
        (lambda p: write_split(p, labels=[0, 1, 2, 3, -1]), "label -1 is out of range"),
        (lambda p: write_split(p, size=28), "expected 32x32 pixels, found 28x28"),
        (lambda p: write_split(p, column="picture"), "needs the columns"),
        (lambda p: None, "no test-NNNNN-of-NNNNN.parquet under"),
    ],
)
def test_wrong_files_are_refused_with_the_reason(tmp_path, prepare, message):
    prepare(tmp_path)
    with pytest.raises(DataError, match=message):
        data.load("cifar10", data=tmp_path)


def test_unknown_names_are_refused():
    with pytest.raises(DataError, match="unknown data set 'cifar11'"):
        data.load("cifar11")
    with pytest.raises(DataError, match="plain name"):
        data.load("cifar10", "../test", "anywhere")


def test_nothing_is_downloaded_unless_asked(nowhere, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    assert len(data.load("cifar10")) == 20
    with pytest.raises(DataError, match="no network.*fetch it by hand"):
        data.load("cifar10", download=True)


def test_a_finished_download_is_used_again(nowhere, monkeypatch):
    calls = []

    def fetch(url, target):
        calls.append(url)
        _, file = write_split(nowhere / "server", 3)
        target.parent.mkdir(parents=True)
        target.write_bytes(file.read_bytes())

    monkeypatch.setattr("hetpure_lab.data.sources.download", fetch)
    assert len(data.load("cifar10", download=True)) == len(data.load("cifar10", download=True)) == 3
    assert len(calls) == 1 and calls[0].startswith("https://")


# ---- photographs and other data sets ---------------------------------------------------------------------------------------


def test_photographs_are_scaled_and_cut_not_squashed(tmp_path):
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 20:60] = 255  # the middle square is white, both sides are black
    rows = [{"bytes": encoded(wide), "path": "0"}]
    pd.DataFrame({"image": rows, "label": [999]}).to_parquet(tmp_path / "validation-00000-of-00001.parquet")
    images = data.load("imagenet", data=tmp_path, quiet=True)  # its test set is the validation split
    assert images.pixels.shape == (1, 3, 128, 128) and images.pixels[..., 8:-8].min() == 255 and images.labels.tolist() == [999]


def test_imagenet_is_found_in_the_hub_layout(nowhere, monkeypatch):
    write_split(nowhere / "environment" / "imagenet" / "data", 3, size=160, column="image", split="validation")
    monkeypatch.setenv("HETPURE_DATA", str(nowhere / "environment"))
    assert len(data.load("imagenet", "validation", quiet=True)) == len(data.load("imagenet", "test", quiet=True)) == 3


def test_embedded_photographs_keep_their_labels():
    sample = data.embedded_sample(DATASETS["imagenet"])
    assert sample.pixels.shape == (20, 3, 128, 128) and not sample.lossless.any()
    assert sample.labels.tolist()[:3] == [243, 559, 438]  # bull mastiff, folding chair, beaker


def test_absent_svhn_says_what_to_do(nowhere):
    with pytest.raises(DataError, match=r"no package ships a sample: give its folder, set HETPURE_DATA, or let .*download=True"):
        data.load("svhn")


def test_stand_in_digits_say_that_they_are_not_svhn():
    digits = data.stand_in_digits()
    assert digits.pixels.shape == (20, 3, 32, 32) and set(digits.labels.tolist()) <= set(range(10)) and digits.lossless.all()
    assert "MNIST" in digits.source and "stand-in for SVHN" in digits.source


def test_rows_that_the_networks_have_seen_are_left_out_of_the_official_test_file(tmp_path, monkeypatch):
    pixels, _ = write_split(tmp_path, 6, column="image")
    monkeypatch.setitem(DATASETS, "svhn-unseen", replace(DATASETS["svhn-unseen"], trained_on=range(2, 5), official=6))
    kept = data.load("svhn-unseen", data=tmp_path, quiet=True)
    assert kept.labels.tolist() == [0, 1, 5] and torch.equal(kept.pixels[2], torch.from_numpy(pixels[5]).permute(2, 0, 1))
    assert len(data.load("svhn", data=tmp_path, quiet=True)) == 6  # networks from elsewhere have seen none of them
    with pytest.raises(DataError, match="no subset of svhn-unseen"):
        data.load("svhn-unseen", "test512", data=tmp_path)  # it holds images that were trained on
    monkeypatch.setitem(DATASETS, "svhn-unseen", replace(DATASETS["svhn-unseen"], official=7))
    assert len(data.load("svhn-unseen", data=tmp_path, quiet=True)) == 6  # another file of that name is read whole
