"""The live page of the book: ``hetpure live`` packs its parts into ``book/_static/live/``.

The page (``book/live.md``, its scripts in ``book/live/``) runs the networks of the small CIFAR-10
bench in the reader's browser, without a server or a network, from ``file://`` too. `graphs` exports
them, onnxruntime-web comes from `npm`. Everything is packed into one script, since a page opened
from a file may load nothing else. Where a part is missing, the script holds the reason instead, and
the page says it beside a still picture.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import hetpure_core
from hetpure_core import Uniform
from hetpure_lab import data as lab_data
from hetpure_lab.common.paths import ROOT
from hetpure_lab.networks import benches, small
from hetpure_lab.report import graphs, npm

SOURCES = ROOT / "book" / "live"
TARGET = ROOT / "book" / "_static" / "live"
BENCH = "cifar10-small"
PAGE = ("method.js", "engine.js", "draw.js", "page.js", "attack.js", "start.js")
WORKER = ("method.js", "worker.js")
RUNTIME = npm.Package(
    "onnxruntime-web",
    "1.30.0",
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    ("dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"),
)


def packed(bench_name: str = BENCH) -> dict:
    """Everything the page needs, as JSON: binary parts are gzipped and written in base64. Raises
    `NpmError` or `ExportError`.
    """
    runtime = npm.unpack(RUNTIME, npm.fetch(RUNTIME))
    bench = benches.load(bench_name)
    exported = {name: graphs.export(one) for name, one in graphs.functions(bench).items()}
    models, weights = graphs.share(exported)
    binary = {
        "ort": runtime["ort.wasm.bundle.min.mjs"],
        "wasm": runtime["ort-wasm-simd-threaded.wasm"],
        "weights": weights,
    }
    return {
        "packs": {name: _squeezed(content) for name, content in (binary | models).items()},
        "graphs": list(models),
        "runtime": f"{RUNTIME.name} {RUNTIME.version}",
        "worker": script(WORKER),
        "classes": bench.classes,
        "samples": samples(bench.dataset),
        "method": {
            name: getattr(bench.method, name) for name in ("t_l", "t_s", "tau", "U", "steps")
        },
        "uniform": {name: getattr(Uniform(), name) for name in ("t", "steps")},
        "networks": {name: {"sha256": sha} for name, sha in bench.weights.items()},
    }


def script(names: Sequence[str]) -> str:
    """Scripts of the page, one after the other."""
    return "\n".join((SOURCES / name).read_text() for name in names)


def _squeezed(content: bytes) -> dict[str, int | str]:
    squeezed = gzip.compress(content, 9, mtime=0)
    return {
        "bytes": len(content),
        "gzip": len(squeezed),
        "base64": base64.b64encode(squeezed).decode(),
    }


def samples(dataset: str) -> list[dict]:
    """The images that Foolbox ships: pixels (h, w, 3) as bytes in base64, label, and the digest
    that names an image everywhere.
    """
    images = lab_data.shipped(dataset)
    return [
        {
            "id": id_,
            "label": int(label),
            "pixels": base64.b64encode(p.permute(1, 2, 0).contiguous().numpy().tobytes()).decode(),
        }
        for id_, label, p in zip(images.ids, images.labels, images.pixels)
    ]


def state(bench_name: str = BENCH) -> str:
    """A digest of all that the packed script is made from: if it has not changed, nothing is
    exported again.
    """
    networks = [
        benches.card(benches.network_name(bench_name, part))["sha256"]
        for part in ("classifier", "denoiser")
    ]
    code = [Path(module.__file__) for module in (graphs, small, hetpure_core)]
    files = [Path(__file__), *code, *(SOURCES / name for name in WORKER)]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    parts = [*networks, *digests, torch.__version__]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def write(folder: Path = TARGET) -> str:
    """Bring the page's files in `folder` up to date and say in a sentence what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(SOURCES / "live.css", folder / "live.css")
    (folder / "live.js").write_text(f"(() => {{\n{script(PAGE)}}})();\n")
    target, now = folder / "packed.js", state()
    if target.exists() and target.open().readline() == _head(now):
        return f"live page: {target} is up to date"
    try:
        content = packed()
    except (npm.NpmError, graphs.ExportError) as error:
        target.write_text(packed_script({"unavailable": str(error)}))
        return f"live page: a still picture only, since {error}"
    target.write_text(packed_script(content, now))
    size, sent = target.stat().st_size / 1e6, compressed(content) / 1e6
    return f"live page: {target}, {size:.1f} MB ({sent:.1f} MB compressed)"


def packed_script(content: dict, made_from: str = "") -> str:
    """The packed script; what it was made from stands in its first line."""
    return f"{_head(made_from)}window.hetpureLive = {json.dumps(content)};\n"


def _head(made_from: str) -> str:
    return f"// {made_from}\n"


STANDALONE = """\
<!doctype html>
<html lang="en" data-theme="light">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Attack it yourself</title>
<link rel="stylesheet" href="live.css"><link rel="icon" href="data:,"></head>
<body><p id="hetpure-live-status" role="status">This page needs JavaScript.</p>
<div id="hetpure-live"></div><div id="hetpure-still"></div>
<script defer src="live.js"></script></body>
</html>
"""


def standalone(folder: Path) -> str:
    """The live part as a page of its own, ``index.html`` in `folder`, outside the book."""
    said = write(folder)
    (folder / "index.html").write_text(STANDALONE)
    return said


def compressed(content: dict) -> int:
    """Bytes that a server which compresses sends for the packed script, nearly: base64 shrinks back
    to what it stands for.
    """
    return sum(pack["gzip"] for pack in content["packs"].values())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="hetpure live", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--standalone",
        type=Path,
        metavar="FOLDER",
        help="write a page of its own there, outside the book",
    )
    folder = parser.parse_args(argv).standalone
    print(standalone(folder) if folder else write(), file=sys.stderr)
