"""A purification with given noise and a given mask leaves PyTorch, and goes through the transforms
of `torch.func`.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hetpure_core import GivenNoise, HetPure, Noise, Purified, Uniform, draws_of, linear_schedule

IDS = ["ship", 7, 40, "frog"]
PURIFIERS = {
    "method": HetPure(tau=0.5, steps=4),
    "method-ddpm": HetPure(tau=0.5, steps=4, sampler="ddpm"),
    "released": HetPure(tau=0.5, steps=20, reading="released", U=3),
    "multi-step": HetPure(tau=0.5, steps=4, reading="multi-step", U=2),
    "uniform": Uniform(0.1, 3, "ddpm"),
}
every_purifier = pytest.mark.parametrize("purifier", PURIFIERS.values(), ids=PURIFIERS)


class Defence(nn.Module):
    """What a reader would export: images, mask and noise to logits."""

    def __init__(self, defended: Purified):
        super().__init__()
        self.defended = defended

    def forward(self, images: Tensor, mask: Tensor, noise: dict[str, Tensor]) -> Tensor:
        mask = mask if isinstance(self.defended.purifier, HetPure) else None
        return self.defended.classifier(self.defended.purify(images, GivenNoise(noise), mask))


@pytest.fixture
def single(images, classifier, denoiser) -> tuple[Tensor, nn.Module, nn.Module]:
    """In single precision, with networks as they are after training."""
    return images.float(), classifier.float().eval(), denoiser.float().eval()


def given(defended: Purified, images: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Images, their mask, and the noise that their purification under `IDS` draws."""
    noise = defended.noise(len(images), IDS[: len(images)])
    mask = defended.mask(images, noise)
    shapes = draws_of(defended.purifier, defended.schedule, images.shape)
    tensors = {draw: noise(draw, torch.empty(shape)).to(images) for draw, shape in shapes.items()}
    return images, torch.ones_like(images[:, :1]) if mask is None else mask, tensors


@every_purifier
def test_given_noise_replays_a_purification(purifier, images, classifier, denoiser):
    """With the draws that are listed, in the order of their use, the logits are those of the keyed
    noise, bit for bit.
    """
    defended = Purified(classifier, denoiser, purifier)
    images, mask, noise = given(defended, images)
    used = []

    class Noted(Noise):
        def __call__(self, draw, like):
            used.append((draw, tuple(like.shape)))
            return super().__call__(draw, like)

    defended.purify(images, Noted(0, IDS, [0] * 4), mask if isinstance(purifier, HetPure) else None)
    assert used == list(draws_of(purifier, linear_schedule(), images.shape).items())
    ready = copy.deepcopy(defended)
    ready.classifier.eval()
    assert torch.equal(Defence(ready)(images, mask, noise), defended(images, IDS))


def test_noise_that_is_missing_or_misshapen_is_named(images, classifier, denoiser):
    defended = Purified(classifier, denoiser, Uniform(0.1, 2))
    with pytest.raises(
        ValueError,
        match=(
            r"the draw 'start' needs noise of the shape \(4, 3, 8, 8\); given: 'begin' \(1, 3,"
            r" 8, 8\)"
        ),
    ):
        defended.purify(images, GivenNoise({"begin": images[:1]}))
    with pytest.raises(ValueError, match=r"given: 'start' \(1, 3, 8, 8\)"):
        defended.purify(images, GivenNoise({"start": images[:1]}))


@every_purifier
def test_a_purification_exports(purifier, single):
    """`torch.export`, with gradients on and the networks still trainable; other inputs of the same
    shapes give what they give here.
    """
    images, classifier, denoiser = single
    defended = Purified(classifier, denoiser, purifier)
    module, inputs = Defence(defended).eval(), given(defended, images[:2])
    program = torch.export.export(module, inputs).module()
    others = (images[2:], 1 - inputs[1], {draw: eps.flip(0) for draw, eps in inputs[2].items()})
    for x in (inputs, others):
        torch.testing.assert_close(program(*x), module(*x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "purifier", [PURIFIERS["method"], PURIFIERS["uniform"]], ids=["method", "uniform"]
)
def test_a_purification_runs_in_onnxruntime(purifier, single, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    images, classifier, denoiser = single
    defended = Purified(classifier, denoiser, purifier)
    module, inputs = Defence(defended).eval(), given(defended, images)
    torch.onnx.export(module, (*inputs, {}), tmp_path / "defence.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "defence.onnx")
    tensors = [inputs[0], inputs[1], *inputs[2].values()]
    names = [i.name for i in session.get_inputs()]
    if len(names) < len(tensors):  # an unused mask is no input
        tensors = [tensors[0], *tensors[2:]]
    (logits,) = session.run(None, {name: t.numpy() for name, t in zip(names, tensors, strict=True)})
    np.testing.assert_allclose(logits, module(*inputs).detach().numpy(), rtol=0, atol=1e-5)


@every_purifier
def test_torch_func_takes_the_same_gradient(purifier, images, classifier, denoiser):
    """`grad` and `jacrev` of the defence itself, with checkpoints asked for, whose tensor hooks
    they do not have.
    """
    defended = Purified(classifier, denoiser, purifier)
    loss = lambda x: defended(x, IDS).square().sum()
    x = images.clone().requires_grad_()
    expected = torch.autograd.grad(loss(x), x)[0]
    torch.testing.assert_close(torch.func.grad(loss)(images), expected, rtol=0, atol=1e-12)
    jacobian = torch.func.jacrev(lambda x: defended(x, IDS[:1]))(images[:1])
    rows = [
        torch.autograd.grad(defended(z := images[:1].clone().requires_grad_(), IDS[:1])[0, k], z)[0]
        for k in range(5)
    ]
    torch.testing.assert_close(jacobian[0], torch.stack(rows), rtol=0, atol=1e-12)


def test_vmap_says_that_it_does_not_work(images, classifier, denoiser):
    defended = Purified(classifier, denoiser, Uniform(0.1, 2))
    for use in (
        lambda x: defended(x[None], IDS[:1]),
        torch.func.grad(lambda x: defended(x[None], IDS[:1]).sum()),
        lambda x: defended.purify(x[None], Noise(0, IDS[:1], [0])),
    ):
        with pytest.raises(ValueError, match="vmap does not work here: pass a batch"):
            torch.func.vmap(use)(images)
