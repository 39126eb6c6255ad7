"""Gradients inside a purification: towards the input, the classifier's features or a smaller
residual.

Guidance is the gradient of a sum over the pixels of *one* image, so an image's fate does not depend
on its batch; the public code of GDMP, MimicDiffusion and contrastive guidance takes means over the
batch. While an attack records a gradient, guidance is itself differentiated (second derivatives),
from a graph that the backward pass builds anew: none is kept.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hetpure_lab.defences.sampling import Scene


class Guidance(torch.autograd.Function):
    """The gradient in x of a loss per image, itself differentiable once.

    The graph of the loss is never kept: the backward pass builds it again. Kept inside a recomputed
    segment of a long chain, it would have that segment recomputed for every gradient taken in it.
    """

    @staticmethod
    def forward(ctx, loss: Callable[..., Tensor], x: Tensor, *seen: Tensor) -> Tensor:
        ctx.loss = loss
        ctx.save_for_backward(x, *seen)
        with (
            torch.enable_grad(),
            torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, lambda saved: saved),
        ):
            return _slope(loss, x.detach().requires_grad_(), *seen)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, direction: Tensor) -> tuple[Tensor | None, ...]:
        inputs = [saved.detach().requires_grad_() for saved in ctx.saved_tensors]
        with torch.enable_grad():
            slope = _slope(ctx.loss, *inputs, create_graph=True)
        return None, *torch.autograd.grad(slope, inputs, direction, allow_unused=True)


def _slope(
    loss: Callable[..., Tensor], x: Tensor, *seen: Tensor, create_graph: bool = False
) -> Tensor:
    return torch.autograd.grad(loss(x, *seen).sum(), x, create_graph=create_graph)[0]


def guidance(loss: Callable[..., Tensor], x: Tensor, *seen: Tensor) -> Tensor:
    """The gradient in x of ``loss(x, *seen)`` (n,); where gradients are recorded it is
    differentiable in x and in all that is `seen`.

    What `loss` captures otherwise is taken as constant.
    """
    return Guidance.apply(loss, x, *seen)


def residual(scene: Scene, t: int, x: Tensor, z: Tensor | float = 0.0) -> Tensor:
    r"""How far the denoiser moves an image, :math:`\tfrac12 \|D(x + \sigma_t z; \sigma_t) - x\|^2`
    (n,): one call.
    """
    noisy = x + scene.sigma(t) * z
    denoised = noisy - scene.sigma(t) * scene.unscaled_noise(noisy, t)
    return (denoised - x).square().sum((1, 2, 3)) / 2
