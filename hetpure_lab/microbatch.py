"""How many rows go through the networks at once: as many as memory holds, and half of them whenever it runs out.

A row is one image under one draw of noise. Rows do not influence each other, so their number changes cost and not results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetpure_core import Purified
from hetpure_lab.measure import LiveBytes

MOST = {"cpu": 64, "cuda": 1024}  # larger batches are no faster
CPU_BUDGET = 512 * 2**20  # bytes for one gradient, so that several processes fit side by side
WORTH_KEEPING = 16  # rows: with fewer, storing activations instead of recomputing them saves little

Result = TypeVar("Result")
_rows: dict[str, int] = {}  # what this process has found to fit, by device type


def rows(device: torch.device) -> int:
    """The rows that this process puts through at once."""
    return _rows.get(device.type, MOST.get(device.type, 64))


def recovering(work: Callable[[], Result], device: torch.device) -> Result:
    """The result of `work`, begun again with half the rows whenever memory runs out; the smaller number stays for what follows."""
    while True:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if rows(device) == 1 or not ran_out(error):
                raise
        _rows[device.type] = rows(device) // 2
        torch.cuda.empty_cache()


def ran_out(error: Exception) -> bool:
    """Whether it says that memory ran out; PyTorch's allocator on a CPU has no class of its own for that."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def fit(defence: nn.Module, image: Tensor) -> None:
    """Choose the rows, and whether a `Purified` stores or recomputes activations, by the measured gradient of one `image` (1, 3, h, w).

    Storing them is faster, if enough rows fit; the gradients are equal.
    """
    room, most, purified = budget(image.device), MOST.get(image.device.type, 64), isinstance(defence, Purified)
    if purified:
        defence.checkpointing = True
    recomputed, kept = _bytes_of_gradient(defence, image), room
    if purified and recomputed * defence.purifier.calls(defence.schedule) < room:  # then it is safe to try
        defence.checkpointing = False
        kept = _bytes_of_gradient(defence, image)
    _rows[image.device.type], checkpointing = choose(room, recomputed, kept, most)
    if purified:
        defence.checkpointing = checkpointing


def choose(room: float, recomputed: float, kept: float, most: int) -> tuple[int, bool]:
    """How many rows to put through at once, and whether to recompute activations, from the bytes of a row either way."""
    checkpointing = room // kept < WORTH_KEEPING
    return int(max(1, min(room // (recomputed if checkpointing else kept), most))), checkpointing


def budget(device: torch.device) -> int:
    """The bytes that one gradient may take there."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else CPU_BUDGET


def _bytes_of_gradient(defence: nn.Module, image: Tensor) -> int:
    with LiveBytes() as meter:
        x = image.detach().clone().requires_grad_()
        logits = defence(x, ["the image that is measured"])
        torch.autograd.grad(F.cross_entropy(logits, logits.argmax(-1)), x)
    return meter.peak
