"""The measured cost of a gradient: denoiser calls, bytes held by live tensors, seconds."""

from __future__ import annotations

import ctypes
import gc
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hetpure_core import Purified


class LiveBytes(TorchDispatchMode):
    """`peak`: the most bytes that tensors made inside the block had in memory at any one time, on
    any device.
    """

    def __init__(self):
        super().__init__()
        self.live: dict[int, int] = {}
        self.peak = self.now = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        storages = lambda tree: {
            t.untyped_storage()._cdata: t.untyped_storage()
            for t in tree_leaves(tree)
            if isinstance(t, Tensor)
        }
        given, result = storages((args, kwargs)), function(*args, **(kwargs or {}))
        for key, storage in storages(result).items():
            if key not in given:  # a view of a weight is not made here
                self._watch(storage)
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self.live:
            self.live[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self._forget, storage._cdata)
            self.peak = max(self.peak, self.now)

    def _forget(self, key: int) -> None:
        self.now -= self.live.pop(key)


@dataclass(frozen=True)
class Cost:
    """One exact gradient: denoiser `calls` of the purification, `passes` of the denoiser forwards
    (recomputed ones too), bytes `held` between forward and backward pass, the `peak` of live bytes,
    and `seconds` of processor time; weights and input are not counted.

    The first four are exact and the same on any machine. `process` is the growth in bytes of what
    the device's allocator (GPU) or the operating system (Linux) gave the process; None elsewhere.
    """

    calls: int
    passes: int
    held: int
    peak: int
    seconds: float
    process: int | None


def measure(
    defended: Purified, images: Tensor, labels: Tensor, ids: Sequence, repeats: int = 1
) -> Cost:
    """The cost of one gradient of the cross-entropy; `seconds` is the best of `repeats`, measured
    apart from the counting.
    """
    passes: list[int] = []
    hook = cast(nn.Module, defended.denoiser).register_forward_pre_hook(lambda *_: passes.append(1))
    with LiveBytes() as meter:
        loss = _loss(defended, images, labels, ids)
        held = meter.now
        torch.autograd.grad(*loss)
    hook.remove()
    del loss
    with _ProcessBytes(images.device) as process:
        seconds = min(
            _seconds(
                lambda: torch.autograd.grad(*_loss(defended, images, labels, ids)), images.device
            )
            for _ in range(repeats)
        )
    return Cost(
        defended.purifier.calls(defended.schedule),
        len(passes),
        held,
        meter.peak,
        seconds,
        process.grown,
    )


def fastest(
    work: Callable[[], object], repeats: int = 3, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of the fastest run after a first one: the cost of undisturbed work."""
    timings = []
    for _ in range(repeats + 1):
        started = clock()
        work()
        timings.append(clock() - started)
    return min(timings[1:])


def _loss(
    defended: Purified, images: Tensor, labels: Tensor, ids: Sequence
) -> tuple[Tensor, Tensor]:
    x = images.detach().clone().requires_grad_()
    return F.cross_entropy(defended(x, ids), labels), x


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """This process's processor time on a CPU, where other processes do not count; CUDA events on a
    GPU.
    """
    if device.type != "cuda":
        started = time.process_time()
        run()
        return time.process_time() - started
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end) / 1000


class _ProcessBytes:
    """`grown`: by how much the process's peak memory rose inside the block; None where nobody
    counts it.
    """

    def __init__(self, device: torch.device):
        self.device, self.grown = device, None

    def __enter__(self) -> _ProcessBytes:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        elif RESET.exists():
            if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # not every libc has it
                trim(0)  # freed pages go back first, or what is measured would reuse them unseen
            RESET.write_text("5")  # sets the peak back to what is resident now
            self.before = _resident("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.grown = torch.cuda.max_memory_allocated(self.device) - self.before
        elif RESET.exists():
            self.grown = _resident("VmHWM") - self.before


RESET = Path("/proc/self/clear_refs")


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))
