"""Published checkpoints: their origin, their checks, and reading them without executing anything in
them.

    hetpure fetch                    # all files, their licences, and which are on this machine
    hetpure fetch edm-cifar10-vp     # download (or continue), check, print licence and origin

    hetpure fetch --again svhn-ddpm  # forget the trusted file, fetch and trust anew

Nothing is downloaded unless asked. Files lie in ``$HETPURE_CHECKPOINTS``, else in
``~/.cache/hetpure/checkpoints``. A file without a published digest is trusted on first use,
once it was read as its network: its sha256 is then kept in ``weights/published.json`` with the day
and the user's name, and later files must agree.
"""

from __future__ import annotations

import getpass
import io
import json
import os
import pickle
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, _utils, nn

from hetpure_lab.common.download import DownloadError, download, sha256
from hetpure_lab.common.paths import CACHE, CHECKOUT, WEIGHTS
from hetpure_lab.networks import published

RECORDED = (WEIGHTS if CHECKOUT else CACHE) / "published.json"


class CheckpointError(DownloadError):
    """A checkpoint that is unknown, absent, damaged, of another network, or that would execute
    code.
    """


@dataclass(frozen=True)
class Checkpoint:
    """One published file. Without `url` it has to be fetched by hand from `origin`.

    `sha256` is the published digest or its published beginning, `size` the published number of
    bytes; "" and 0 if nobody states them. `inside` are the keys that lead to the weights, `prefix`
    the beginning of their names, `average` whether the file's moving average replaces them
    (score_sde), `kind` the format: ``torch`` or ``pickle`` (EDM's pickled objects).
    """

    network: str
    file: str
    origin: str
    licence: str
    url: str = ""
    sha256: str = ""
    size: int = 0
    inside: tuple[str | int, ...] = ()
    prefix: str = ""
    average: bool = False
    kind: str = "torch"


def _drive(key: str) -> str:
    return f"https://drive.usercontent.google.com/download?id={key}&export=download&confirm=t"


_NVIDIA = "NVIDIA Source Code License (DiffPure): research and evaluation only"
_LK = (
    "https://github.com/ml-postech/robust-evaluation-of-diffusion-based-purification (weights not"
    " public: its issue 3)"
)

CATALOGUE = {
    "robustbench-standard": Checkpoint(
        "wrn_28_10",
        "Standard.pt",
        "https://github.com/RobustBench/robustbench (CIFAR-10, Standard)",
        "MIT (RobustBench); none stated for the weights",
        url=_drive("1t98aEuzeTL8P7Kpd5DIrCoCL21BNZUhC"),
        sha256="6ed1c75dad63e8ebdbef365020dd1a7eee5e79cf8a1438bd3bdc3b9c7aab3d44",
        inside=("state_dict",),
        prefix="module.",
    ),
    "diffpure-dm-wrn-70-16": Checkpoint(
        "dm_wrn_70_16",
        "dm-wrn-70-16-weights-best.pt",
        "https://drive.google.com/drive/folders/1OeuFx2r26xeHncs8bGuqgY6ns_N77Avi (DiffPure,"
        " wideresnet-70-16)",
        _NVIDIA,
        inside=("model_state_dict",),
        prefix="module.0.",
    ),
    "diffpure-wrn-70-16-dropout": Checkpoint(
        "wrn_70_16",
        "wrn-70-16-dropout-weights.pt",
        "https://drive.google.com/drive/folders/1istqcnPNXJ-TQFdxRqNJuInzOtlYOG1b (DiffPure,"
        " wrn-70-16-dropout)",
        _NVIDIA,
        prefix="module.",
    ),
    "edm-cifar10-vp": Checkpoint(
        "edm_ddpmpp",
        "edm-cifar10-32x32-uncond-vp.pkl",
        "https://github.com/NVlabs/edm",
        "CC BY-NC-SA 4.0",
        url="https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/edm-cifar10-32x32-uncond-vp.pkl",
        inside=("ema",),
        kind="pickle",
    ),
    "edm-cifar10-ve": Checkpoint(
        "edm_ncsnpp",
        "edm-cifar10-32x32-uncond-ve.pkl",
        "https://github.com/NVlabs/edm",
        "CC BY-NC-SA 4.0",
        url="https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/edm-cifar10-32x32-uncond-ve.pkl",
        inside=("ema",),
        kind="pickle",
    ),
    "score-sde-vp": Checkpoint(
        "score_sde_ddpmpp",
        "checkpoint_8.pth",
        "https://github.com/yang-song/score_sde_pytorch (vp/cifar10_ddpmpp_deep_continuous)",
        "Apache-2.0",
        url=_drive("16_-Ahc6ImZV5ClUc0vM5Iivf8OJ1VSif"),
        prefix="module.",
        average=True,
    ),
    "svhn-wrn-28-10": Checkpoint(
        "svhn_wrn_28_10", "svhn-wrn-28-10.pt", _LK, "MIT (Lee & Kim)", inside=("params",)
    ),
    "svhn-ddpm": Checkpoint(
        "svhn_ddpm", "svhn-ddpm.pth", _LK, "MIT (Lee & Kim)", inside=(0,), prefix="module."
    ),
    "guided-diffusion-256": Checkpoint(
        "adm_256",
        "256x256_diffusion_uncond.pt",
        "https://github.com/openai/guided-diffusion",
        "MIT",
        url="https://openaipublic.blob.core.windows.net/diffusion/jul-2021/256x256_diffusion_uncond.pt",
        sha256="a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1",
        size=2_211_383_297,
    ),
    "resnet-50-v1": Checkpoint(
        "resnet_50",
        "resnet50-0676ba61.pth",
        "https://pytorch.org/vision (ResNet50_Weights.IMAGENET1K_V1)",
        "BSD-3-Clause (torchvision)",
        url="https://download.pytorch.org/models/resnet50-0676ba61.pth",
        sha256="0676ba61",
    ),
    "resnet-50-v2": Checkpoint(
        "resnet_50",
        "resnet50-11ad3fa6.pth",
        "https://pytorch.org/vision (ResNet50_Weights.IMAGENET1K_V2)",
        "BSD-3-Clause (torchvision)",
        url="https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
        sha256="11ad3fa6",
    ),
}


def find(name: str) -> Checkpoint:
    """The checkpoint called `name`."""
    if name not in CATALOGUE:
        raise CheckpointError(f"unknown checkpoint {name!r}; known: {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def folder() -> Path:
    """Where checkpoints lie on this machine."""
    return Path(os.environ.get("HETPURE_CHECKPOINTS", CACHE / "checkpoints"))


def path_of(name: str) -> Path:
    """Where the file is, or has to be put."""
    return folder() / find(name).file


# ---- download and check --------------------------------------------------------------------------


def fetch(name: str, progress: bool = True, again: bool = False) -> Path:
    """The checked file, downloaded if it is not here yet; licence and origin go to stderr.

    With `again` a file that is here, and its recorded digest, make way for a new one once that was
    read.
    """
    about, path = find(name), path_of(name)
    print(f"{name}: {about.file} from {about.origin}; licence: {about.licence}", file=sys.stderr)
    if again or not path.exists():
        if not about.url and not path.exists():
            raise CheckpointError(
                f"{name} has no direct address: fetch it by hand from {about.origin} and save it as"
                f" {path}"
            )
        if about.url:
            download(about.url, path, about.size, progress, lambda part: readable(name, part))
        if again:
            forget(name)
    readable(name, path)
    verify(name, path)
    return path


def forget(name: str) -> None:
    """Trust another file from now on: the next that is read."""
    trusted = {key: value for key, value in _trusted().items() if key != name}
    RECORDED.write_text(json.dumps(trusted, indent=1, sort_keys=True) + "\n")


def _trusted() -> dict[str, str | dict]:
    """The record: by checkpoint its digest, or the digest with who trusted it and when."""
    try:
        return json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    except ValueError as error:
        raise CheckpointError(
            f"{RECORDED} is damaged ({error}); restore it or delete it"
        ) from error


def recorded() -> dict[str, str]:
    """Digests of files used so far, by checkpoint."""
    return {
        name: about if isinstance(about, str) else about["sha256"]
        for name, about in _trusted().items()
    }


def trust(name: str) -> str:
    """Who trusted a file of that name and when, in a few words; "" if nobody did."""
    about = _trusted().get(name)
    if about is None:
        return ""
    if isinstance(about, str):
        return f"sha256 {about[:16]}..., recorded before days were"
    why = "as published" if about["published"] else "on first use"
    return f"sha256 {about['sha256'][:16]}... {why}, on {about['on']} by {about['by']}"


def verify(name: str, path: Path) -> str:
    """The file's sha256, after comparing size and digest with the published ones, or else with the
    record of its first use.

    A new file is recorded: only call this for one that was read (`readable`).
    """
    about = find(name)
    _right_size(about, path)
    return settle(name, path, about.sha256)


def readable(name: str, path: Path) -> dict[str, Tensor]:
    """The weights in a file, which is not trusted by that. Raises `CheckpointError` unless they fit
    the network `name`.
    """
    about = find(name)
    _right_size(about, path)
    if about.sha256:
        _compare(path, sha256(path), about.sha256, "published")
    network, state = published.on_meta(about.network), read(name, path)
    if complaint := misfit(network, state):
        raise CheckpointError(f"{path} is not a {about.network}: {complaint}")
    return state


def _right_size(about: Checkpoint, path: Path) -> None:
    if about.size and path.stat().st_size != about.size:
        raise CheckpointError(
            f"{path} has {path.stat().st_size} bytes instead of {about.size}: truncated, or another"
            " file. Delete it"
        )


def settle(name: str, path: Path, published: str = "") -> str:
    """The file's sha256, after comparing it with the `published` one, or else with the one recorded
    on first use; it is recorded.
    """
    digest, expected = sha256(path), published or recorded().get(name, "")
    _compare(
        path,
        digest,
        expected,
        "published" if published else f"recorded on first use: {trust(name)}",
        "" if published else name,
    )
    if name not in recorded():
        about = {
            "sha256": digest,
            "published": bool(published),
            "on": date.today().isoformat(),
            "by": user(),
        }
        RECORDED.parent.mkdir(parents=True, exist_ok=True)
        RECORDED.write_text(json.dumps(_trusted() | {name: about}, indent=1, sort_keys=True) + "\n")
        if not published:
            print(
                f"{name}: nobody publishes its sha256; trusting {digest} from now on (kept in"
                f" {RECORDED.name})",
                file=sys.stderr,
            )
    return digest


def _compare(path: Path, digest: str, expected: str, why: str, name: str = "") -> None:
    if not digest.startswith(expected):
        way_out = f"; if this file is the right one: hetpure fetch --again {name}" if name else ""
        raise CheckpointError(
            f"{path} is damaged or another file: sha256 {digest[:16]}... instead of"
            f" {expected[:16]}... ({why}). Delete it{way_out}"
        )


def user() -> str:
    """The name of who uses this machine."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have none
        return "unknown"


# ---- reading without executing -------------------------------------------------------------------


class Inert:
    """Stands for any object of a pickle that is no tensor or container: keeps its state, has no
    behaviour.
    """

    state: object = None

    def __init__(self, *_: object):
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state


def _persistent(meta: Mapping) -> Inert:
    """EDM's persistent objects carry their class as source text, which is dropped unread."""
    found = Inert()
    found.state = meta["state"]
    return found


class _Mapping(dict):
    def __setstate__(self, state: object) -> None:
        pass


_ALLOWED = {
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "torch._utils._rebuild_tensor_v2": _utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch.storage._load_from_bytes": lambda b: torch.load(
        io.BytesIO(b), map_location="cpu", weights_only=True
    ),
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    "dnnlib.util.EasyDict": _Mapping,
    "numpy.dtype": Inert,
    "numpy.core.multiarray.scalar": Inert,
    "numpy._core.multiarray.scalar": Inert,
}


class TensorsOnly(pickle.Unpickler):
    """Builds tensors, plain containers and `Inert` objects; everything else that a pickle may name
    is refused before it is called.
    """

    def find_class(self, module: str, name: str) -> object:
        if module.startswith("torch.nn.modules."):
            return Inert
        if f"{module}.{name}" not in _ALLOWED:
            raise CheckpointError(
                f"the file asks for {module}.{name}, which is no tensor: refused, nothing was"
                " executed"
            )
        found = _ALLOWED[f"{module}.{name}"]
        # a file may set attributes of what it is given: its own
        return found if isinstance(found, type) else lambda *args: found(*args)


def tensors(module: object) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of an `Inert` module and its children, as `state_dict` would list them."""
    state = module.state if isinstance(module, Inert) and isinstance(module.state, dict) else {}
    for kind in ("_parameters", "_buffers"):
        yield from (
            (name, value.detach())
            for name, value in state.get(kind, {}).items()
            if value is not None
        )
    for name, child in state.get("_modules", {}).items():
        yield from ((f"{name}.{rest}", value) for rest, value in tensors(child))


def _numpy_scalars() -> list:
    """Plain data that training scripts leave beside weights (accuracies as NumPy numbers)."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64")]
    return [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, *kinds]


def _read(about: Checkpoint, path: Path) -> object:
    try:
        if about.kind == "pickle":
            with path.open("rb") as file:
                return TensorsOnly(file).load()
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise CheckpointError(
                f"{path} holds more than tensors: refused, nothing was executed"
                f" ({str(error).splitlines()[0]})"
            ) from error
        raise CheckpointError(
            f"{path} cannot be read (truncated, or no checkpoint?): {str(error).splitlines()[0]}"
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read (truncated, or no checkpoint?): {str(error).splitlines()[0]}"
        ) from error


def read(name: str, path: Path) -> dict[str, Tensor]:
    """The weights in the file, under the network's own names."""
    about = find(name)
    found: Any = _read(about, path)
    if about.average:
        return _averaged(found, about, path)
    for key in about.inside:
        try:
            found = found[key]
        except (KeyError, IndexError, TypeError):
            break  # some copies of the file hold the weights alone
    state = dict(tensors(found)) if about.kind == "pickle" else found
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(v, Tensor) for v in state.values())
    ):
        raise CheckpointError(
            f"{path} holds no weights under {'/'.join(map(str, about.inside)) or 'its top level'}"
        )
    return {key.removeprefix(about.prefix): value for key, value in state.items()}


def _averaged(found: Any, about: Checkpoint, path: Path) -> dict[str, Tensor]:
    """score_sde's file: buffers from `model`, parameters from the moving average, which is a list
    in the order of the parameters.
    """
    try:
        state = {key.removeprefix(about.prefix): value for key, value in found["model"].items()}
        average = found["ema"]["shadow_params"]
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} has no moving average beside its weights") from error
    names = [key for key, _ in published.on_meta(about.network).named_parameters()]
    if len(names) != len(average):
        raise CheckpointError(
            f"{path} averages {len(average)} parameters; {about.network} has {len(names)}"
        )
    return state | dict(zip(names, average))


def demand(*names: str) -> None:
    """Raise `CheckpointError` unless all files are here, naming every absent one with its origin
    and the way to get it.
    """
    if not (absent := [name for name in names if not path_of(name).exists()]):
        return
    lines = [f"{len(absent)} of {len(names)} checkpoints missing", *map(described, absent)]
    raise CheckpointError("\n".join([*lines, f"get with: hetpure fetch {' '.join(absent)}"]))


def described(name: str) -> str:
    """A checkpoint in a line: file, size, origin, licence, and where it belongs."""
    about = find(name)
    weights = sum(p.numel() for p in published.on_meta(about.network).parameters()) * 4
    size = f"{about.size / 1e6:,.0f} MB" if about.size else f"about {weights / 1e6:,.0f} MB"
    how = "" if about.url else "; no direct address: fetch it by hand"
    return (
        f"  {name}: {about.file} ({size}) from {about.origin}; licence: {about.licence}{how}; its"
        f" place is {path_of(name)}"
    )


def load(name: str, device: torch.device | str = "cpu") -> nn.Module:
    """The network with the file's weights, in eval mode and frozen. The file must be here: see
    `fetch`.
    """
    demand(name)
    path, network = path_of(name), published.on_meta(find(name).network)
    state = readable(name, path)
    verify(name, path)
    types = {key: value.dtype for key, value in network.state_dict().items()}
    network.load_state_dict(
        {key: value.detach().to(types[key]) for key, value in state.items()}, assign=True
    )
    return network.eval().requires_grad_(False).to(device)


def misfit(network: nn.Module, state: Mapping[str, Tensor]) -> str:
    """How `state` fails to fit, in a few words; "" if it fits."""
    ours = network.state_dict()
    missing, surplus = [k for k in ours if k not in state], [k for k in state if k not in ours]
    shapes = [
        f"{k} {tuple(state[k].shape)} for {tuple(v.shape)}"
        for k, v in ours.items()
        if k in state and state[k].shape != v.shape
    ]
    lists = (("missing", missing), ("not expected", surplus), ("other shapes", shapes))
    return "; ".join(
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in lists
        if names
    )
