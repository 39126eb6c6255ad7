"""How many rows go through the networks at once: as many as memory holds, and half of them whenever
it runs out.

A row is one image under one draw of noise. Rows do not influence each other, so their number
changes cost and not results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetpure_core import Purified
from hetpure_lab.common.measure import LiveBytes

MOST = {"cpu": 32, "cuda": 1024}  # rows; larger batches are no faster
# rows; with fewer, storing activations instead of recomputing them saves little
WORTH_KEEPING = {"cpu": 4, "cuda": 16}
CPU_BUDGET = 2**30  # bytes for one gradient, so that several processes fit side by side

Result = TypeVar("Result")
_rows: dict[str, int] = {}  # what this process has found to fit, by device type
_ceiling: dict[str, int] = {}  # what is left of it since memory ran out
# by classifier: what `fit` found
_fitted: WeakKeyDictionary[nn.Module, dict[tuple, tuple[int, bool]]] = WeakKeyDictionary()


def rows(device: torch.device) -> int:
    """The rows that this process puts through at once."""
    return _rows.get(device.type, MOST[_kind(device)])


@contextmanager
def fixed(count: int, device: torch.device) -> Iterator[None]:
    """Exactly `count` rows at once on this kind of device inside the block: for measuring."""
    before = dict(_rows)
    _rows[device.type] = count
    try:
        yield
    finally:
        _rows.clear()
        _rows.update(before)


def _kind(device: torch.device) -> str:
    """The kind of device whose limits hold: all but CUDA devices count as a CPU."""
    return "cuda" if device.type == "cuda" else "cpu"


def recovering(work: Callable[[], Result], device: torch.device) -> Result:
    """The result of `work`, begun again with half the rows whenever memory runs out; the smaller
    number stays.
    """
    while True:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not can_halve(error, device):
                raise
        halve(device)


def can_halve(error: Exception, device: torch.device) -> bool:
    """Whether fewer rows at once may help."""
    return rows(device) > 1 and ran_out(error)


def halve(device: torch.device) -> None:
    """Half the rows at once from now on."""
    _rows[device.type] = _ceiling[device.type] = rows(device) // 2
    torch.cuda.empty_cache()


def ran_out(error: Exception) -> bool:
    """Whether it says that memory ran out; PyTorch's allocator on a CPU has no class of its own for
    that.
    """
    return isinstance(
        error, torch.OutOfMemoryError | MemoryError
    ) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def fit(defence: nn.Module, image: Tensor) -> None:
    """Choose the rows, and whether a `Purified` stores or recomputes activations, by the measured
    gradient of one `image` (1, 3, h, w).

    Storing them is faster, if enough rows fit; the gradients are equal. It is measured once for
    each defence, device and image size; no more rows are chosen than memory was found to hold
    since.
    """
    known, kind = _fitted.setdefault(cast(nn.Module, defence.classifier), {}), image.device.type
    key = (
        type(defence),
        repr(getattr(defence, "purifier", None)),
        str(image.device),
        tuple(image.shape[1:]),
        CPU_BUDGET,
    )
    if key not in known:
        known[key] = _measured(defence, image)
    found, checkpointing = known[key]
    _rows[kind] = min(found, _ceiling.get(kind, found))
    if isinstance(defence, Purified):
        defence.checkpointing = checkpointing


def _measured(defence: nn.Module, image: Tensor) -> tuple[int, bool]:
    """The choice of `choose` for the defence on that device."""
    room, purified = budget(image.device), defence if isinstance(defence, Purified) else None
    if purified:
        purified.checkpointing = True
    recomputed, kept = _bytes_of_gradient(defence, image), room
    if purified and _most_to_keep(purified, image, recomputed) < room:  # then it is safe to try
        purified.checkpointing = False
        kept = _bytes_of_gradient(defence, image)
    return choose(room, recomputed, kept, _kind(image.device))


def _most_to_keep(defence: Purified, image: Tensor, recomputed: int) -> int:
    """An upper bound of the bytes of a gradient of `image` that recomputes nothing.

    A call keeps no more than the peak with recomputation, or three passes of the denoiser,
    whichever is less; one pass is its own, the others are room for the classifier under guidance.
    """
    given: list[tuple] = []  # images may be purified at another size than theirs
    with (
        torch.no_grad(),
        cast(nn.Module, defence.denoiser).register_forward_pre_hook(
            lambda _module, inputs: given.append(inputs)
        ),
    ):
        defence(image, ["the image that is measured"])
    if not given:  # a purifier that never calls the denoiser has nothing to recompute
        return recomputed
    x, t = given[0]
    with LiveBytes() as meter:
        defence.denoiser(x.detach().clone().requires_grad_(), t)
    return recomputed + min(recomputed, 3 * meter.peak) * defence.purifier.calls(defence.schedule)


def choose(room: float, recomputed: float, kept: float, kind: str) -> tuple[int, bool]:
    """How many rows to put through at once, and whether to recompute activations, from the bytes of
    a row either way; by kind of device.
    """
    checkpointing = room // kept < WORTH_KEEPING[kind]
    return (
        int(max(1, min(room // (recomputed if checkpointing else kept), MOST[kind]))),
        checkpointing,
    )


def budget(device: torch.device) -> int:
    """The bytes that one gradient may take there."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else CPU_BUDGET


def _bytes_of_gradient(defence: nn.Module, image: Tensor) -> int:
    with LiveBytes() as meter:
        x = image.detach().clone().requires_grad_()
        logits = defence(x, ["the image that is measured"])
        torch.autograd.grad(F.cross_entropy(logits, logits.argmax(-1)), x)
    return meter.peak
