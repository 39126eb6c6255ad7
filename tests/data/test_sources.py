"""Data: the parquet layout, the search order, the embedded sample, and every way in which a file
can be wrong.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hetpure_lab import data
from hetpure_lab.data import DATASETS, DataError, NoData, sources


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_split(folder, n=5, labels=None, size=32, column="img", split="test"):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    rows = [
        {"bytes": encoded(p, "JPEG" if i == 0 else "PNG"), "path": f"{i}"}
        for i, p in enumerate(pixels)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{split}-00000-of-00001.parquet"
    pd.DataFrame({column: rows, "label": list(range(n)) if labels is None else labels}).to_parquet(
        file
    )
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
    for n, place in (
        (2, nowhere / "cache"),
        (3, nowhere / "checkout" / "shared" / "data"),
        (4, nowhere / "environment"),
    ):
        write_split(place / "cifar10", n)
        if n == 4:
            monkeypatch.setenv("HETPURE_DATA", str(place))
        assert len(data.load("cifar10")) == n
        assert f"{n} images from cifar10/test" in capsys.readouterr().err
    write_split(nowhere / "explicit", 5)
    assert len(data.load("cifar10", data=nowhere / "explicit")) == 5


def test_the_sample_is_a_split_and_stands_in_for_another_only_where_that_is_asked_for(
    nowhere, capsys
):
    with pytest.raises(
        NoData,
        match=(
            "no test-NNNNN.* of cifar10 under .*the split 'sample' has the images that a package"
            " ships"
        ),
    ):
        data.load("cifar10")
    sample = data.load("cifar10", "sample")
    assert len(sample) == 20 and sample.split == "sample" and sample.digest
    assert "20 images from the CIFAR-10 sample in Foolbox" in capsys.readouterr().err
    assert (
        data.load_or_sample("cifar10").ids == sample.ids
        and data.load_or_sample("cifar10").split == "sample"
    )
    assert "the CIFAR-10 sample in Foolbox" in capsys.readouterr().err
    with pytest.raises(DataError, match="no folder"):
        data.load_or_sample("cifar10", data=nowhere / "mistyped")


def test_a_folder_that_is_named_is_the_only_one_looked_at(nowhere, monkeypatch):
    write_split(nowhere / "cache" / "cifar10", 3)
    for place, message in (
        (nowhere / "mistyped", "HETPURE_DATA=.*mistyped is no folder"),
        (nowhere, "under HETPURE_DATA="),
    ):
        monkeypatch.setenv("HETPURE_DATA", str(place))
        with pytest.raises(DataError, match=message):
            data.load("cifar10")
    monkeypatch.setenv("HETPURE_DATA", str(nowhere / "cache"))
    with pytest.raises(NoData, match=r"no foo-NNNNN-of-NNNNN.parquet of cifar10 .*\(there: test\)"):
        data.load("cifar10", "foo")


def test_a_split_has_one_digest_whatever_its_order_and_another_with_other_images_or_labels(
    tmp_path,
):
    write_split(tmp_path / "a")
    whole = data.load("cifar10", data=tmp_path / "a", quiet=True)
    assert whole[torch.tensor([4, 2])].digest == whole.digest  # a part says of what
    assert whole[torch.tensor([4, 2, 0, 1, 3])].named("test").digest == whole.digest
    assert whole[torch.arange(4)].named("test").digest != whole.digest
    write_split(tmp_path / "b", labels=[0, 1, 2, 3, 3])
    assert data.load("cifar10", data=tmp_path / "b", quiet=True).digest != whole.digest


def test_embedded_sample_is_lossless_cifar10():
    sample = data.embedded_sample(DATASETS["cifar10"])
    assert (
        sample.pixels.shape == (20, 3, 32, 32)
        and sample.lossless.all()
        and len(set(sample.ids)) == 20
    )
    # cat, ship, ship, airplane: the test set's well-known beginning
    assert sample.labels.tolist()[:4] == [3, 8, 8, 0]


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


def shards(folder, present, total):
    _, file = write_split(folder / "elsewhere")
    whole = file.read_bytes()
    for k in present:
        (folder / f"test-{k:05}-of-{total:05}.parquet").write_bytes(whole)


def deep(folder, mode):
    """A picture of 16 bits per colour: grey ones have a mode of their own, of coloured ones Pillow
    keeps 8 bits without a word.
    """
    _, file = write_split(folder)
    if mode == "RGB":
        chunk = lambda kind, content: (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )
        head = struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0)
        rows = zlib.compress(32 * (b"\0" + 32 * 6 * b"\x12"))
        content = (
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
        )
    else:
        content = encoded(np.full((32, 32), 4000, np.uint16))
    table = pd.read_parquet(file)
    table.at[1, "img"] = {"bytes": content, "path": ""}
    table.to_parquet(file)


@pytest.mark.parametrize(
    "prepare, message",
    [
        (lambda p: shards(p, (0, 1), 3), "lacks 1 of 3 shards of test, such as number 2"),
        (lambda p: (shards(p, (0,), 1), shards(p, (0, 1), 2)), "two sets of shards, of 1 and of 2"),
        (
            lambda p: write_split(p, labels=[0, 1, 2.5, 3, 4]),
            "row 2: a label is a whole number, not 2.5",
        ),
        (
            lambda p: write_split(p, labels=[0, 1, None, 3, 4]),
            "row 2: a label is a whole number, not nan",
        ),
        (
            lambda p: write_split(p, labels=list("abcde")),
            "row 0: a label is a whole number, not 'a'",
        ),
        (lambda p: write_split(p, n=0), "has no images"),
        (
            lambda p: deep(p, "I;16"),
            "row 1: the image cannot be decoded: it has more than 8 bits per colour",
        ),
        (
            lambda p: deep(p, "RGB"),
            "row 1: the image cannot be decoded: it has more than 8 bits per colour",
        ),
        (damaged, "damaged or truncated"),
        (undecodable, "row 2: the image cannot be decoded"),
        (lambda p: write_split(p, labels=[0, 1, 2, 3, 10]), r"label 10 is out of range 0\.\.9"),
        (lambda p: write_split(p, labels=[0, 1, 2, 3, -1]), "label -1 is out of range"),
        (lambda p: write_split(p, size=28), "expected 32x32 pixels, found 28x28"),
        (lambda p: write_split(p, column="picture"), "needs the columns"),
        (lambda p: None, "no test-NNNNN-of-NNNNN.parquet of cifar10 under"),
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
    with pytest.raises(NoData):
        data.load("cifar10")
    with pytest.raises(DataError, match="no network.*fetch it by hand"):
        data.load("cifar10", download=True)


def test_a_finished_download_is_used_again(nowhere, monkeypatch):
    calls = []

    def fetch(url, target, check):
        calls.append(url)
        _, file = write_split(nowhere / "server", 3)
        target.parent.mkdir(parents=True)
        target.write_bytes(file.read_bytes())

    monkeypatch.setattr("hetpure_lab.data.sources.download", fetch)
    assert len(data.load("cifar10", download=True)) == len(data.load("cifar10", download=True)) == 3
    assert len(calls) == 1 and calls[0].startswith("https://")


# ---- photographs and other data sets -------------------------------------------------------------


def test_photographs_are_scaled_and_cut_not_squashed(tmp_path):
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 20:60] = 255  # the middle square is white, both sides are black
    rows = [{"bytes": encoded(wide), "path": "0"}]
    pd.DataFrame({"image": rows, "label": [999]}).to_parquet(
        tmp_path / "validation-00000-of-00001.parquet"
    )
    # its test set is the validation split
    images = data.load("imagenet", data=tmp_path, quiet=True)
    assert (
        images.pixels.shape == (1, 3, 128, 128)
        and images.pixels[..., 8:-8].min() == 255
        and images.labels.tolist() == [999]
    )


def test_imagenet_is_found_in_the_hub_layout(nowhere, monkeypatch):
    write_split(
        nowhere / "environment" / "imagenet" / "data",
        3,
        size=160,
        column="image",
        split="validation",
    )
    monkeypatch.setenv("HETPURE_DATA", str(nowhere / "environment"))
    assert (
        len(data.load("imagenet", "validation", quiet=True))
        == len(data.load("imagenet", "test", quiet=True))
        == 3
    )


def test_embedded_photographs_keep_their_labels():
    sample = data.embedded_sample(DATASETS["imagenet"])
    assert sample.pixels.shape == (20, 3, 128, 128) and not sample.lossless.any()
    assert sample.labels.tolist()[:3] == [243, 559, 438]  # bull mastiff, folding chair, beaker


def test_absent_svhn_says_what_to_do(nowhere):
    with pytest.raises(
        NoData,
        match=(
            r"give its folder, set HETPURE_DATA, or let .*download=True.*no package ships a sample"
        ),
    ):
        data.load("svhn")


def test_stand_in_digits_say_that_they_are_not_svhn():
    digits = data.stand_in_digits()
    assert (
        digits.pixels.shape == (20, 3, 32, 32)
        and set(digits.labels.tolist()) <= set(range(10))
        and digits.lossless.all()
    )
    assert "MNIST" in digits.source and "stand-in for SVHN" in digits.source


def test_rows_that_the_networks_have_seen_are_left_out_of_the_official_test_file(
    tmp_path, monkeypatch
):
    pixels, _ = write_split(tmp_path, 6, column="image")
    monkeypatch.setitem(
        DATASETS,
        "svhn-unseen",
        replace(DATASETS["svhn-unseen"], trained_on=range(2, 5), official=6),
    )
    kept = data.load("svhn-unseen", data=tmp_path, quiet=True)
    assert kept.labels.tolist() == [0, 1, 5] and torch.equal(
        kept.pixels[2], torch.from_numpy(pixels[5]).permute(2, 0, 1)
    )
    # networks from elsewhere have seen none of them
    assert len(data.load("svhn", data=tmp_path, quiet=True)) == 6
    with pytest.raises(DataError, match="no subset of svhn-unseen"):
        data.load("svhn-unseen", "test512", data=tmp_path)  # it holds images that were trained on
    monkeypatch.setitem(DATASETS, "svhn-unseen", replace(DATASETS["svhn-unseen"], official=7))
    # another file of that name is read whole
    assert len(data.load("svhn-unseen", data=tmp_path, quiet=True)) == 6
