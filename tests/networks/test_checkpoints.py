"""Checkpoints: transfers that break, files that are not what they say, and files that want to run
something.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pickle
import sys
import threading
import types
from datetime import date
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from torch import nn

from hetpure_lab.common.download import DownloadError, download
from hetpure_lab.data import DATASETS
from hetpure_lab.networks import benches, checkpoints, fetch, published
from hetpure_lab.networks.checkpoints import (
    CATALOGUE,
    Checkpoint,
    CheckpointError,
    TensorsOnly,
    read,
    tensors,
    verify,
)


class Tiny(nn.Module):
    """A network with a parameter in a child and a buffer of its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(2, dtype=torch.float64))
        self.inner = nn.Linear(3, 2)

    def forward(self, x):
        return self.inner(x) * self.scale


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache, a catalogue with one entry for the tiny network, and no digests recorded."""
    monkeypatch.setenv("HETPURE_CHECKPOINTS", str(tmp_path / "cache"))
    monkeypatch.setattr(checkpoints, "RECORDED", tmp_path / "published.json")
    monkeypatch.setitem(published.NETWORKS, "tiny", Tiny)
    (tmp_path / "cache").mkdir()
    return partial(entry, monkeypatch)


def entry(monkeypatch, **settings):
    """Put the checkpoint ``tiny`` with these settings into the catalogue; returns where its file
    belongs.
    """
    monkeypatch.setitem(
        CATALOGUE, "tiny", Checkpoint("tiny", "tiny.pt", "nowhere", "none", **settings)
    )
    return checkpoints.path_of("tiny")


# ---- transfer ------------------------------------------------------------------------------------

CONTENT = os.urandom(3 << 20)


class Server(SimpleHTTPRequestHandler):
    """Serves `content` with ranges, in `chunked` answers if asked to; breaks off the first answer
    after `cut` bytes, and keeps the
    headers it was asked with."""

    cut, asked, tag, kind, chunked, protocol_version = (
        0,
        [],
        '"one"',
        "application/octet-stream",
        False,
        "HTTP/1.1",
    )
    content, encoding, shift, sized = CONTENT, "", 0, True

    def do_GET(self):
        cls = type(self)
        cls.asked.append(self.headers.get("Range"))
        start = (
            int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if self.headers.get("Range")
            else 0
        )
        start = start if self.headers.get("If-Range", cls.tag) == cls.tag else 0
        self.close_connection = True
        if start >= len(cls.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(cls.content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", cls.kind)
        if start:
            self.send_header(
                "Content-Range",
                f"bytes {start + cls.shift}-{len(cls.content) - 1}/{len(cls.content)}",
            )
        if cls.encoding:
            self.send_header("Content-Encoding", cls.encoding)
        if cls.chunked or cls.sized:
            self.send_header(
                *(
                    ("Transfer-Encoding", "chunked")
                    if cls.chunked
                    else ("Content-Length", str(len(cls.content) - start))
                )
            )
        self.send_header("ETag", cls.tag)
        self.end_headers()
        sent = cls.content[start : cls.cut or None]
        self.wfile.write(
            b"%x\r\n%b\r\n" % (len(sent), sent) + b"0\r\n\r\n" * (not cls.cut)
            if cls.chunked
            else sent
        )
        cls.cut = 0

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Fresh", (Server,), {"asked": []})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    handler.url = f"http://127.0.0.1:{http.server_port}/file"
    yield handler
    http.shutdown()
    http.server_close()


def test_an_interrupted_transfer_continues_where_it_broke(server, tmp_path):
    server.cut = 1 << 20
    with pytest.raises(DownloadError, match=f"interrupted after {1 << 20}"):
        download(server.url, tmp_path / "file", progress=False)
    assert not (tmp_path / "file").exists()
    download(server.url, tmp_path / "file", len(CONTENT), progress=False)
    assert (tmp_path / "file").read_bytes() == CONTENT and [p.name for p in tmp_path.iterdir()] == [
        "file"
    ]
    assert server.asked == [None, f"bytes={1 << 20}-"]


def test_a_file_that_changed_on_the_server_is_begun_again(server, tmp_path):
    (tmp_path / "file.part").write_bytes(b"of the old file")
    (tmp_path / "file.part.tag").write_text('"zero"')
    download(server.url, tmp_path / "file", progress=False)
    assert (tmp_path / "file").read_bytes() == CONTENT


def left_over(folder, content):
    """What an interrupted transfer of the server's file would have left."""
    (folder / "file.part").write_bytes(content)
    (folder / "file.part.tag").write_text('"one"')


def test_a_part_that_is_whole_is_not_fetched_again(server, tmp_path):
    left_over(tmp_path, CONTENT)
    download(server.url, tmp_path / "file", len(CONTENT), progress=False)
    assert (tmp_path / "file").read_bytes() == CONTENT and server.asked == [
        f"bytes={len(CONTENT)}-"
    ]


@pytest.mark.parametrize("size", [0, len(CONTENT), len(CONTENT) + 4])
def test_a_part_that_is_longer_than_the_file_is_begun_again(server, tmp_path, size):
    """Even if it is as long as the published file: then the server has another."""
    left_over(tmp_path, CONTENT + b"more")
    if size > len(CONTENT):
        with pytest.raises(
            DownloadError, match=f"offers {len(CONTENT)} bytes, but the published file has {size}"
        ):
            download(server.url, tmp_path / "file", size, progress=False)
        assert not (tmp_path / "file").exists()
    else:
        download(server.url, tmp_path / "file", size, progress=False)
        assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT) + 4}-", None]


def test_a_chunked_transfer_that_breaks_is_continued(server, tmp_path):
    server.chunked, server.cut = True, 2 << 20
    with pytest.raises(DownloadError, match=f"interrupted after {2 << 20}.*same command continues"):
        download(server.url, tmp_path / "file", progress=False)
    download(server.url, tmp_path / "file", len(CONTENT), progress=False)
    assert (tmp_path / "file").read_bytes() == CONTENT and server.asked == [
        None,
        f"bytes={2 << 20}-",
    ]


def test_the_published_size_decides_where_the_server_states_none(server, tmp_path):
    server.chunked = True
    for size, message in (
        (len(CONTENT) - 1, "were not kept"),
        (len(CONTENT) + 1, "interrupted after"),
    ):
        with pytest.raises(DownloadError, match=message):
            download(server.url, tmp_path / "file", size, progress=False)
        assert not (tmp_path / "file").exists()


def test_a_web_page_or_a_file_of_another_size_is_not_kept(server, tmp_path):
    with pytest.raises(DownloadError, match="published file has 5"):
        download(server.url, tmp_path / "file", 5, progress=False)
    server.kind = "text/html"
    with pytest.raises(DownloadError, match="web page"):
        download(server.url, tmp_path / "file", progress=False)
    assert not (tmp_path / "file").exists()


def test_an_encoding_or_a_range_that_was_not_asked_for_is_refused(server, tmp_path):
    server.encoding = "gzip"
    with pytest.raises(DownloadError, match="encoded as gzip"):
        download(server.url, tmp_path / "file", progress=False)
    server.encoding, server.shift = "", 5
    left_over(tmp_path, CONTENT[:100])
    with pytest.raises(DownloadError, match="instead of the bytes from 100 on"):
        download(server.url, tmp_path / "file", progress=False)
    assert not (tmp_path / "file").exists()
    server.shift = 0
    download(server.url, tmp_path / "file", progress=False)
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("content", [b" <!DOCTYPE html><p>Sign in</p>", CONTENT[:1000]])
def test_what_is_not_the_file_is_neither_kept_nor_trusted_and_can_be_replaced(
    server, cache, content
):
    """An error page under any content type, and half of a file of which the server does not say how
    long it is.
    """
    path, server.content, server.sized = cache(url=server.url), content, False
    with pytest.raises(DownloadError, match=r"something else than tiny\.pt.*not kept"):
        checkpoints.fetch("tiny", progress=False)
    assert not path.exists() and not list(path.parent.iterdir()) and not checkpoints.recorded()
    server.content = saved(Tiny())
    assert checkpoints.fetch("tiny", progress=False) == path and checkpoints.recorded()


def test_a_wrong_file_put_there_by_hand_is_not_trusted_either(cache):
    path = cache()
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(CheckpointError, match="refused|cannot be read"):
        checkpoints.fetch("tiny", progress=False)
    assert not checkpoints.recorded()
    path.write_bytes(saved(Tiny()))
    checkpoints.load("tiny")
    assert f"on first use, on {date.today()} by {checkpoints.user()}" in checkpoints.trust("tiny")


def test_trust_is_given_anew_on_purpose_only(cache, capsys):
    path = cache()
    path.write_bytes(saved(Tiny()))
    checkpoints.fetch("tiny", progress=False)
    path.write_bytes(saved(Tiny()))  # other weights
    with pytest.raises(CheckpointError, match="hetpure fetch --again tiny"):
        checkpoints.fetch("tiny", progress=False)
    fetch.main(["--again", "tiny"])
    assert (
        checkpoints.recorded() == {"tiny": checkpoints.sha256(path)}
        and "trusted: sha256" in capsys.readouterr().out
    )
    with pytest.raises(ValueError, match="needs the name"):
        fetch.main(["--again"])


def saved(network: nn.Module) -> bytes:
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    return file.getvalue()


def test_fetch_prints_licence_and_origin_and_downloads_once(server, cache, capsys):
    path, server.content = cache(url=server.url), saved(Tiny())
    assert (
        checkpoints.fetch("tiny", progress=False)
        == checkpoints.fetch("tiny", progress=False)
        == path
    )
    said = capsys.readouterr().err
    assert (
        "licence: none" in said and "from nowhere" in said and "nobody publishes its sha256" in said
    )
    assert len(server.asked) == 1


def test_without_an_address_fetch_says_where_to_put_the_file(cache):
    path = cache()
    with pytest.raises(CheckpointError, match=f"by hand from nowhere and save it as {path}"):
        checkpoints.fetch("tiny")


# ---- what the file is ----------------------------------------------------------------------------


def test_a_swapped_file_is_found_by_its_published_and_by_its_recorded_digest(cache):
    path = cache(sha256="00")
    path.write_bytes(b"something")
    with pytest.raises(CheckpointError, match="instead of 00"):
        verify("tiny", path)
    cache()
    verify("tiny", path)
    path.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="recorded on first use"):
        verify("tiny", path)


def test_a_truncated_file_is_refused(cache):
    path = cache()
    torch.save(Tiny().state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        checkpoints.load("tiny")
    path = cache(size=10**6)
    with pytest.raises(CheckpointError, match="instead of 1000000"):
        verify("tiny", path)


def test_a_file_of_another_network_is_named_for_what_differs(cache):
    path = cache()
    torch.save(
        {"scale": torch.ones(2), "inner.weight": torch.ones(5, 3), "head.bias": torch.ones(1)}, path
    )
    with pytest.raises(
        CheckpointError,
        match=r"not a tiny: 1 missing \(inner.bias\); 1 not expected \(head.bias\); 1 other shapes",
    ):
        checkpoints.load("tiny")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "best": np.float64(0.9)},
    ],
)
def test_weights_are_found_inside_training_states_and_come_frozen(cache, wrap):
    path, source = cache(inside=("state_dict",), prefix="module."), Tiny()
    torch.save(wrap(source.state_dict()), path)
    network, x = checkpoints.load("tiny"), torch.rand(4, 3)
    assert torch.equal(network(x), source(x))
    assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_the_moving_average_replaces_the_parameters_in_their_order(cache):
    path, source, average = cache(prefix="module.", average=True), Tiny(), Tiny()
    state = {f"module.{k}": v for k, v in source.state_dict().items()}
    torch.save(
        {
            "model": state,
            "ema": {"shadow_params": [p.detach() for p in average.parameters()]},
            "step": 3,
        },
        path,
    )
    assert torch.equal(checkpoints.load("tiny").inner.weight, average.inner.weight)


def test_unknown_and_absent_checkpoints_are_named(cache):
    with pytest.raises(CheckpointError, match="unknown checkpoint 'tiny2'"):
        checkpoints.find("tiny2")
    cache()
    with pytest.raises(CheckpointError, match="hetpure fetch tiny"):
        checkpoints.load("tiny")


def test_an_absent_bench_says_what_is_missing_how_large_whose_and_how_to_get_it(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("HETPURE_CHECKPOINTS", str(tmp_path))
    with pytest.raises(benches.BenchError) as raised:
        benches.load("cifar10-paper")
    said = str(raised.value)
    assert (
        "2 of 2 checkpoints missing" in said
        and "hetpure fetch robustbench-standard edm-cifar10-vp" in said
    )
    for words in (
        "Standard.pt (about 146 MB)",
        "edm-cifar10-32x32-uncond-vp.pkl (about 223 MB)",
        "CC BY-NC-SA",
        "NVlabs/edm",
        str(tmp_path),
    ):
        assert words in said
    with pytest.raises(benches.BenchError, match="no direct address: fetch it by hand"):
        benches.load("cifar10-paper-wrn70")


def test_every_checkpoint_is_of_a_known_network_and_states_its_licence():
    assert all(
        c.network in published.NETWORKS and c.licence and c.origin for c in CATALOGUE.values()
    )
    assert len({c.file for c in CATALOGUE.values()}) == len(CATALOGUE)


# ---- what the file would do ----------------------------------------------------------------------


class Malicious:
    """A pickle that creates a file when it is read."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_a_file_that_wants_to_run_something_is_refused_and_nothing_runs(cache, tmp_path, kind):
    path, mark = cache(kind=kind), tmp_path / "mark"
    content = {"ema": Malicious(mark)}
    torch.save(content, path) if kind == "torch" else path.write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match="nothing was executed"):
        checkpoints.load("tiny")
    assert not mark.exists()
    torch.load(path, weights_only=False) if kind == "torch" else pickle.loads(path.read_bytes())
    assert mark.exists()  # the same bytes do harm when read plainly: the test is not empty


def test_code_hidden_in_a_storage_is_refused_too(tmp_path):
    mark, inner = tmp_path / "mark", io.BytesIO()
    torch.save(Malicious(mark), inner, _use_new_zipfile_serialization=False)

    class Hidden:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (inner.getvalue(),)

    with pytest.raises(Exception, match="[Uu]nsupported|weights_only|Weights only"):
        TensorsOnly(io.BytesIO(pickle.dumps(Hidden()))).load()
    assert not mark.exists()


def planting(module: str, name: str) -> bytes:
    """A pickle that sets attributes of what it is given under that name."""
    state = (None, {"planted": 1, "__doc__": "changed", "__defaults__": (1,)})
    return f"c{module}\n{name}\n".encode() + pickle.dumps(state, 2)[2:-1] + b"b."


def test_a_file_cannot_change_what_it_is_given():
    def victim():
        """Unchanged."""

    class Naive(pickle.Unpickler):
        def find_class(self, module, name):
            return victim

    Naive(io.BytesIO(planting("any", "thing"))).load()
    # the bytes do it where nothing prevents them
    assert victim.planted and victim.__doc__ == "changed"
    for path, thing in checkpoints._ALLOWED.items():
        before = thing.__doc__, getattr(thing, "__defaults__", None)
        with contextlib.suppress(CheckpointError, TypeError, AttributeError):
            TensorsOnly(io.BytesIO(planting(*path.rsplit(".", 1)))).load()
        assert (thing.__doc__, getattr(thing, "__defaults__", None)) == before and not hasattr(
            thing, "planted"
        ), path


@pytest.fixture
def persistence(monkeypatch, tmp_path):
    """EDM's way of pickling a class together with its source text; reading it there would execute
    the text.
    """
    module = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("the class was rebuilt")

    _reconstruct_persistent_obj.__module__, _reconstruct_persistent_obj.__qualname__ = (
        module.__name__,
        "_reconstruct_persistent_obj",
    )
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, module.__name__, module)

    class Persistent(nn.Module):
        def __reduce__(self):
            source = f"import os; os.mkdir({str(tmp_path / 'mark')!r})"
            return module._reconstruct_persistent_obj, (
                {"type": "class", "version": 6, "module_src": source, "state": self.__dict__},
            )

    return Persistent


def test_edm_pickles_give_their_tensors_and_their_source_is_never_run(cache, persistence, tmp_path):
    network, inner = persistence(), persistence()
    inner.inner = nn.ModuleDict({"8x8_conv": nn.Conv2d(2, 3, 1)})
    inner.register_buffer("freqs", torch.arange(4.0))
    network.model, network.skip_scale = inner, np.sqrt(0.5)
    path = cache(kind="pickle", inside=("ema",))
    path.write_bytes(pickle.dumps({"ema": network, "loss_fn": persistence()}))
    state = read("tiny", path)
    assert set(state) == {"model.inner.8x8_conv.weight", "model.inner.8x8_conv.bias", "model.freqs"}
    assert torch.equal(state["model.inner.8x8_conv.weight"], inner.inner["8x8_conv"].weight)
    assert not (tmp_path / "mark").exists()


def test_inert_objects_have_no_tensors():
    assert dict(tensors(TensorsOnly(io.BytesIO(pickle.dumps(nn.ReLU()))).load())) == {}


# ---- as a bench ----------------------------------------------------------------------------------


def test_a_paper_bench_is_made_of_its_checkpoints_and_cards_them(cache, monkeypatch):
    monkeypatch.setitem(
        benches.BENCHES,
        "tiny-paper",
        dataclasses.replace(benches.PAPER["cifar10-paper"], classifier="tiny", denoiser="tiny"),
    )
    path = cache()
    for call in (lambda: benches.load("tiny-paper"), lambda: benches.card("tiny-paper-denoiser")):
        with pytest.raises(benches.BenchError, match="hetpure fetch tiny"):
            call()
    torch.save(Tiny().state_dict(), path)
    bench = benches.load("tiny-paper+bf16")
    assert (
        bench.name == "tiny-paper+bf16"
        and bench.dataset == "cifar10"
        and not bench.classifier.training
    )
    assert (
        bench.weights["tiny-paper-classifier"]
        == checkpoints.sha256(path)
        == benches.card("tiny-paper+bf16-classifier")["sha256"]
    )
    assert benches.card("tiny-paper-classifier")["licence"] == "none"


def test_a_record_of_a_published_network_stands_unless_another_was_used_here(cache):
    path, name = cache(), "cifar10-paper+bf16-denoiser"
    zoo_name = "robustbench/cifar10/Linf/Somebody2021"
    assert all(benches.is_current(n, "0123") for n in (name, "imagenet-paper-classifier", zoo_name))
    digests = dict.fromkeys((benches.checkpoint_of(name), zoo_name), "4567")
    checkpoints.RECORDED.write_text(json.dumps(digests))
    for n in (name, zoo_name):
        assert benches.is_current(n, "45") and not benches.is_current(n, "01")
    assert not benches.is_current("cifar10-small-classifier", "01") and not path.exists()


def test_a_network_that_no_paper_bench_has_is_an_error_of_its_own():
    with pytest.raises(benches.BenchError, match="no card .*cifar10-paper-atop"):
        benches.card("cifar10-paper-atop")


def test_every_paper_bench_names_known_checkpoints_and_data():
    for paper in benches.PAPER.values():
        assert {paper.classifier, paper.denoiser} <= set(CATALOGUE) and len(
            paper.classes
        ) == DATASETS[paper.dataset].n_classes
