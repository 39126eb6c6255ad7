"""What the host does for one gradient on a device: how often it waits or copies, and what it
draws.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import hetpure_core
from hetpure_core import HetPure, Noise, Purified, Uniform, draws_of, linear_schedule
from hetpure_lab.attacks.gradients import loss_and_gradient

# a host waits for their result
READS = {
    "_local_scalar_dense",
    "nonzero",
    "equal",
    "is_nonzero",
    "unique",
    "_unique2",
    "masked_select",
}


class HostWork(TorchDispatchMode):
    """Counts what makes a host wait for a device, or moves data between them. Nothing is computed
    on the device `meta`: what would be
    read from it is taken for true, and what else needs a value raises."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split(".")[0]
        away = any(isinstance(a, Tensor) and a.device.type == "meta" for a in args)
        if name in READS and away:
            self.counts[name] += 1
            return True
        out = function(*args, **(kwargs or {}))
        devices = {
            a.device.type for a in (*args, out) if isinstance(a, Tensor) and a.dim() + a.numel() > 1
        }
        if name in ("_to_copy", "copy_", "_copy_from") and len(devices) > 1:
            self.counts[name] += 1
        return out


def test_host_work_is_noticed():
    with HostWork() as work:
        x = torch.ones(4).to("meta")
        assert bool(x.sum() > 0) and x.amax().item()
        x.copy_(torch.zeros(4))
    assert work.counts == {"_to_copy": 1, "_local_scalar_dense": 2, "copy_": 1}


@pytest.fixture
def away(classifier, denoiser) -> tuple[nn.Module, nn.Module]:
    return classifier.float().to("meta"), denoiser.float().to("meta")


PURIFIERS = {
    "method": HetPure(),
    "ddpm": HetPure(sampler="ddpm"),
    "released": HetPure(steps=20, reading="released", U=3),
    "uniform": Uniform(0.1, 20, "ddpm"),
}


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("purifier", PURIFIERS.values(), ids=PURIFIERS)
def test_a_gradient_waits_for_the_device_a_few_times(purifier, checkpointing, away):
    """At most one check and one transfer of noise; an attack adds the transfer of its indices."""
    defended = Purified(*away, purifier, checkpointing=checkpointing)
    x = torch.empty(5, 3, 8, 8, device="meta", requires_grad=True)
    with HostWork() as work:
        torch.autograd.grad(defended(x, range(5)).sum(), x)
    assert work.counts["_local_scalar_dense"] == 1 and work.counts.total() <= 2 + (
        purifier == PURIFIERS["released"]
    )
    labels = torch.zeros(5, dtype=torch.long, device="meta")
    with HostWork() as work:
        loss_and_gradient(defended, x.detach(), labels, range(5), [0, 1])
    assert work.counts["_local_scalar_dense"] == 1 and work.counts.total() <= 4


@pytest.mark.parametrize("ahead", [1, 3, 32])
@pytest.mark.parametrize(
    "purifier", [*PURIFIERS.values(), Uniform(0.2, 40, "ddpm")], ids=[*PURIFIERS, "segments"]
)
def test_noise_that_is_drawn_ahead_is_the_same_noise(
    purifier, ahead, images, classifier, denoiser, monkeypatch
):
    """Bit for bit, forwards and backwards, whatever the number of draws in a piece."""
    monkeypatch.setattr(hetpure_core, "AHEAD", ahead)
    defended, answers = Purified(classifier, denoiser, purifier), []
    mask = defended.mask(images, defended.noise(4, range(4)))
    for wrap in (
        lambda noise: noise,
        lambda noise: hetpure_core._ahead(
            noise, [*draws_of(purifier, linear_schedule(), images.shape)]
        ),
    ):
        x = images.clone().requires_grad_()
        purified = defended.purify(x, wrap(Noise(3, range(4), [0, 1, 2, 0])), mask)
        answers += [purified, torch.autograd.grad(purified.square().sum(), x)[0]]
    assert torch.equal(answers[0], answers[2]) and torch.equal(answers[1], answers[3])
