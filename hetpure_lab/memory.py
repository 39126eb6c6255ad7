"""Memory, counted exactly: the bytes of all tensors alive, whatever the hardware."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """`peak`: the most bytes that tensors made inside the block had in memory at any one time, on any device."""

    def __init__(self):
        super().__init__()
        self.live: dict[int, int] = {}
        self.peak = self.now = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._watch(tensor.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self.live:
            self.live[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self._forget, storage._cdata)
            self.peak = max(self.peak, self.now)

    def _forget(self, key: int) -> None:
        self.now -= self.live.pop(key)
