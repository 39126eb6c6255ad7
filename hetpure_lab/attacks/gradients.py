"""What an attack differentiates: the defence itself or a stand-in, the loss averaged over its
noise, and how good a stand-in is.

A *defence* is a module ``(images, ids, copies) -> logits``: `hetpure_core.Purified`, or
`Undefended` for the bare classifier. An attack never sees the noise that scores it: it draws with
its own seed (`reseeded`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetpure_core import Noise, Plan, Purified, Schedule, attention_maps, released_maps, soft_mask
from hetpure_lab.common import microbatch
from hetpure_lab.common.specs import check_choice
from hetpure_lab.defences.interface import Defended, Undefended, capabilities
from hetpure_lab.networks.precision import Bfloat16

Purifier = Any  # settings with mask, plan and calls: see `defences.interface`
GRADIENTS = (
    "exact",
    "surrogate",
    "surrogate-masked",
    "bpda",
    "mask-soft",
    "mask-straight-through",
    "undefended",
)
PRECISIONS = ("float32", "bf16")
LOSSES = ("ce", "margin", "dlr", "hinge", "wrong")
HINGE = 1.0  # a margin in logits behind which a purification counts as lost
# first words of the names under which the core draws noise
DRAWS = ("start", "known", "renoise", "reverse", "mask")


# ---- the defence, and modules that stand in for it -----------------------------------------------


class Standin(nn.Module):
    """A defence in all but its ``purify`` (votes included), which a subclass defines."""

    def __init__(self, defence: Defended):
        super().__init__()
        self.defence, self.answer = defence, copy.copy(defence)
        self.answer.purify = self.purify

    def forward(
        self, images: Tensor, ids: Sequence | None = None, copies: Sequence | None = None
    ) -> Tensor:
        return self.answer(images, ids, copies)

    def purify(self, images: Tensor, noise: Noise, mask: Tensor | None = None) -> Tensor:
        raise NotImplementedError


class StraightThrough(Standin):
    """BPDA: the defence forwards, the identity through its purifier backwards (Athalye et al.
    2018). Book: ch04, eq-bpda.
    """

    def purify(self, images: Tensor, noise: Noise, mask: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            purified = self.defence.purify(images, noise)
        return images + (purified - images).detach()


class MaskAware(Standin):
    """The defence with a mask that has a derivative: soft in both directions, or (`hard`) the
    defence's own mask forwards and the soft
    one's derivative backwards. Book: ch04, eq-mask-aware."""

    def __init__(self, defence: Purified, hard: bool):
        super().__init__(defence)
        self.hard = hard

    def purify(self, images: Tensor, noise: Noise, mask: Tensor | None = None) -> Tensor:
        mask = smooth_mask(self.defence, images)
        if self.hard:
            mask = mask + (self.defence.mask(images, noise) - mask).detach()
        return self.defence.purify(images, noise, mask)


@dataclass(frozen=True)
class HeldNoise(Noise):
    """Noise whose draws named in `held` are the same in every copy and whatever seed it began with:
    that of `key` and the image.
    """

    held: tuple[str, ...] = ()
    key: int | str = 0
    began: int | str = 0  # a purifier that runs several loops appends their number to the seed

    def __call__(self, draw: str, like: Tensor) -> Tensor:
        if draw.split()[0] in self.held or "all" in self.held:
            loop = str(self.seed).removeprefix(str(self.began))
            return Noise(f"frozen {self.key}{loop}", self.images, [0] * len(self.images))(
                draw, like
            )
        return super().__call__(draw, like)


class Frozen(Purified):
    """A defence part of whose noise is frozen and so known to the attacker: `draws` joins some of
    `DRAWS` with '+', or is ``all`` that
    any purifier draws.

    With all of it frozen the defence is deterministic: the "deterministic white box" of Liu et al.
    2025. Noise is frozen per image.
    """

    def __init__(self, defence: Purified, draws: str):
        options = {
            "schedule": defence.schedule,
            "taps": defence.tap_modules,
            "votes": defence.votes,
            "seed": defence.seed,
        }
        super().__init__(
            defence.classifier,
            defence.denoiser,
            defence.purifier,
            checkpointing=defence.checkpointing,
            **options,
        )
        self.held, self.key = held_draws(draws), defence.seed

    def hold(self, noise: Noise) -> HeldNoise:
        """`noise` with the frozen draws held."""
        return HeldNoise(
            noise.seed, noise.images, noise.copies, self.held, self.key, began=noise.seed
        )

    def mask(self, images: Tensor, noise: Noise) -> Tensor | None:
        return super().mask(images, self.hold(noise))

    def plan(self, images: Tensor, noise: Noise, mask: Tensor | None = None) -> Plan:
        return super().plan(images, self.hold(noise), mask)


def held_draws(draws: str) -> tuple[str, ...]:
    """``start+known`` or ``all`` as a tuple of draw names."""
    names = tuple(draws.split("+"))
    for name in names:
        check_choice("frozen draw", name, (*DRAWS, "all"))
    return names


Defence = Defended | StraightThrough | MaskAware  # what an attack differentiates


def seen_by_the_attack(defence: Defended, gradient: str) -> Defence:
    """The module whose gradient the attack takes: the defence itself (``exact``), or a stand-in.

    - ``surrogate`` is the released code's: its own order of operations on its coarsest grid, where
      stage 1 has a single step and the mask no effect. ``surrogate-masked`` keeps the defence's
      reading with the fewest steps of which two are in stage 1. For uniform purification they run 2
      and half of the steps; rivals name their own, where they have one.
    - ``bpda`` is `StraightThrough`. ``mask-soft`` and ``mask-straight-through`` are `MaskAware`:
      exact, and through the mask as well; for a purifier whose mask does not depend on the image
      they are ``exact``.
    - ``undefended`` is the bare classifier: what the attack finds transfers or does not.
    """
    check_choice("gradient", gradient, GRADIENTS)
    if isinstance(defence, Undefended) or gradient == "exact":
        return defence
    if gradient == "undefended":
        return Undefended(defence.classifier)
    if gradient == "bpda":
        return StraightThrough(defence)
    if capabilities(defence.purifier).own_networks:
        kind = type(defence.purifier).__name__
        raise ValueError(
            f"the gradient {gradient!r} is for diffusion purifiers; {kind} has: exact, bpda,"
            " undefended"
        )
    if gradient.startswith("mask"):
        return (
            MaskAware(defence, gradient == "mask-straight-through")
            if looks_at_the_image(defence.purifier)
            else defence
        )
    return with_purifier(defence, coarser(defence.purifier, gradient, defence.schedule))


def coarser(purifier: Purifier, gradient: str, schedule: Schedule) -> Purifier:
    """A purifier with fewer steps, as `seen_by_the_attack` says. Raises `ValueError` where it
    declares none.
    """
    if shorter := capabilities(purifier).shorter:
        return shorter(purifier, gradient, schedule)
    raise ValueError(
        f"{type(purifier).__name__} has no surrogate; attack it with gradient=exact or"
        " gradient=bpda"
    )


def reseeded(defence: Defended, seed: int | str) -> Defended:
    """The same defence drawing other noise; the networks are shared."""
    return (
        defence
        if isinstance(defence, Undefended)
        else with_purifier(defence, defence.purifier, seed)
    )


def in_precision(defence: Defended, precision: str) -> Defended:
    """The same defence with its denoiser's convolutions and products in ``bf16``, or in
    ``float32`` as it is.

    Raises `ValueError` for a defence without a denoiser.
    """
    check_choice("precision", precision, PRECISIONS)
    if precision == "float32":
        return defence
    if not isinstance(getattr(defence, "denoiser", None), nn.Module):
        kind = type(getattr(defence, "purifier", defence)).__name__
        raise ValueError(f"precision={precision} is about a denoiser, and {kind} has none")
    other = copy.copy(defence)
    other._modules = dict(defence._modules)  # a copy of a module shares them with it
    other.denoiser = Bfloat16(defence.denoiser)
    return other


def with_purifier(defence: Purified, purifier: Purifier, seed: int | str | None = None) -> Purified:
    """The same networks behind another purifier, or the same one with another seed."""
    other = copy.copy(defence)
    other.purifier, other.seed = purifier, defence.seed if seed is None else seed
    return other


# ---- the mask as a smooth function of the image --------------------------------------------------


def looks_at_the_image(purifier: Purifier | None) -> bool:
    """Whether the purifier's mask is a threshold on attention."""
    return capabilities(purifier).attention and purifier.mask_kind in (
        "attention",
        "top-fraction",
        "inverted",
    )


def smooth_mask(defence: Purified, images: Tensor, temperature: float = 0.05) -> Tensor:
    """The soft mask (n, 1, h, w), with gradient, that tends to the defence's mask as `temperature`
    falls to 0. Book: ch02, eq-soft.

    Raises `ValueError` for a purifier whose mask does not depend on the image.
    """
    purifier = defence.purifier
    if not looks_at_the_image(purifier):
        raise ValueError(f"{purifier} has no mask that depends on the image")
    taps = (
        defence.tap_modules
        if purifier.blocks is None
        else [defence.tap_modules[b] for b in purifier.blocks]
    )
    released = purifier.reading == "released"
    maps = (
        released_maps(images, defence.classifier, taps)
        if released
        else attention_maps(images, defence.classifier, taps, purifier.p)
    )
    tau = purifier.tau
    if purifier.mask_kind == "top-fraction":
        score = maps.detach().amax(1).flatten(1).sort(1, descending=True).values
        count = int(purifier.fraction * score.shape[1])
        tau = score[:, count - 1].reshape(-1, 1, 1, 1) if count else float("inf")
    mask = soft_mask(maps, tau, temperature)
    return 1 - mask if purifier.mask_kind == "inverted" else mask


# ---- losses and gradients, averaged over the noise -----------------------------------------------


def loss_values(logits: Tensor, labels: Tensor, loss: str) -> Tensor:
    r"""What the attack raises: logits (..., n, classes) and labels (n,) to (..., n).

    ``ce`` is the cross-entropy, ``margin`` is :math:`\max_{k \ne y} z_k - z_y` (Carlini & Wagner
    2017), and ``dlr`` the margin over the distance of the largest logit to the third (Croce & Hein
    2020), which needs three classes. Two are made for averages over noise, of which only the
    purifications that are still right need to be moved: ``hinge`` is the margin up to 1, and
    ``wrong`` is the probability :math:`1 - p_y`, a smooth count of the errors.
    """
    check_choice("loss", loss, LOSSES)
    labels = labels.expand(logits.shape[:-1])
    if loss == "ce":
        return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").reshape(
            labels.shape
        )
    true = logits.gather(-1, labels[..., None])
    if loss == "wrong":
        return 1 - (true - logits.logsumexp(-1, keepdim=True)).exp()[..., 0]
    margin = (logits.scatter(-1, labels[..., None], -torch.inf).amax(-1, keepdim=True) - true)[
        ..., 0
    ]
    if loss in ("margin", "hinge"):
        return margin.clamp(max=HINGE) if loss == "hinge" else margin
    if logits.shape[-1] < 3:
        raise ValueError(f"the dlr loss needs at least 3 classes, not {logits.shape[-1]}")
    largest = logits.topk(3).values
    return margin / (largest[..., 0] - largest[..., 2] + 1e-12)


def pick(ids: Sequence, index: Tensor) -> list:
    return [ids[i] for i in index.tolist()]


Copies = Sequence[int] | Sequence[Sequence[int]]  # of all images, or equally many of each


def by_image(n: int, copies: Copies) -> list[Sequence[int]]:
    """The numbers of the copies of every one of n images."""
    return [copies] * n if all(isinstance(c, int) for c in copies[:1]) else list(copies)


def rows_of(
    n: int, copies: Copies, device: torch.device
) -> list[tuple[Tensor, list[int], list[int]]]:
    """All (image, copy) pairs of n images in chunks that fit into memory: image indices, on the
    device and here, and copy numbers.
    """
    pairs = [(i, c) for i, mine in enumerate(by_image(n, copies)) for c in mine]
    size = microbatch.rows(device)
    chunks = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    numbers = [([i for i, _ in chunk], [c for _, c in chunk]) for chunk in chunks]
    return [(torch.tensor(images, device=device), images, copies) for images, copies in numbers]


def sharing_masks(
    defence: Defence, images: Tensor, ids: Sequence
) -> Callable[[Tensor, Tensor, list[int], list[int]], Tensor]:
    """`defence` as a function of rows (r, 3, h, w) and what `rows_of` says of them, to logits.

    A mask that depends on the image alone is the same in every purification: it is found once per
    image.
    """
    # others may look at a scaled image
    plain = isinstance(defence, Purified) and type(defence).purify is Purified.purify
    if not (plain and looks_at_the_image(defence.purifier)):
        return lambda x, index, numbers, copies: defence(x, [ids[i] for i in numbers], copies)
    masks = defence.mask(images, defence.noise(len(images), ids))
    return lambda x, index, numbers, copies: defence(
        x, [ids[i] for i in numbers], copies, masks[index]
    )


def loss_and_gradient(
    defence: Defence,
    images: Tensor,
    labels: Tensor,
    ids: Sequence,
    copies: Copies,
    loss: str = "ce",
) -> tuple[Tensor, Tensor]:
    r"""The loss :math:`\frac1N \sum_j \ell(F(x; \epsilon_j), y)` over `copies` j (n,), and its
    gradient in x (n, 3, h, w).
    """
    value, gradient, logits = (
        images.new_zeros(len(images)),
        torch.zeros_like(images),
        sharing_masks(defence, images, ids),
    )
    for index, *rows in rows_of(len(images), copies, images.device):
        x = images[index].detach().requires_grad_()
        each = loss_values(logits(x, index, *rows), labels[index], loss)
        gradient.index_add_(0, index, torch.autograd.grad(each.sum(), x)[0])
        value.index_add_(0, index, each.detach())
    N = len(by_image(len(images), copies)[0]) if len(images) else 1
    return value / N, gradient / N


@torch.no_grad()
def logits_of(defence: Defence, images: Tensor, ids: Sequence, copies: Copies) -> Tensor:
    """Logits of independent purifications: (copies of an image, n, classes)."""
    each = sharing_masks(defence, images, ids)
    logits = torch.cat(
        [
            each(images[index], index, *rows)
            for index, *rows in rows_of(len(images), copies, images.device)
        ]
    )
    return logits.unflatten(0, (len(images), -1)).transpose(0, 1)


def mean_loss(
    defence: Defence,
    images: Tensor,
    labels: Tensor,
    ids: Sequence,
    copies: Copies,
    loss: str = "ce",
) -> Tensor:
    """The loss of `loss_and_gradient` without its gradient (n,)."""
    return loss_values(logits_of(defence, images, ids, copies), labels, loss).mean(0)


def confirmed(
    defence: Defence,
    images: Tensor,
    labels: Tensor,
    ids: Sequence,
    copies: Copies,
    at_once: int = 4,
) -> Tensor:
    """Which images are misclassified in every one of `copies` purifications (n,); none is looked at
    again once it was right.

    `at_once` copies are drawn at a time, on a GPU as many as fill it: it is faster with more than
    needed than with too few.
    """
    wrong = torch.ones(len(images), dtype=torch.bool, device=images.device)
    left, start, each = wrong.nonzero().flatten(), 0, by_image(len(images), copies)
    while len(left) and start < len(each[0]):
        size = (
            max(at_once, microbatch.rows(images.device) // len(left)) if images.is_cuda else at_once
        )
        looks = [mine[start : start + size] for mine in pick(each, left)]
        logits = logits_of(defence, images[left], pick(ids, left), looks)
        wrong[left] = (logits.argmax(-1) != labels[left]).all(0)
        left, start = wrong.nonzero().flatten(), start + size
    return wrong


# ---- how far a stand-in's gradient is from the exact one -----------------------------------------


def summands(
    defence: Defence,
    images: Tensor,
    labels: Tensor,
    ids: Sequence,
    copies: Sequence[int],
    loss: str = "ce",
) -> Tensor:
    """One gradient per purification, flattened: (n, len(copies), pixels)."""
    return torch.stack(
        [loss_and_gradient(defence, images, labels, ids, [c], loss)[1].flatten(1) for c in copies],
        1,
    )


def squared_signal(summands: Tensor) -> Tensor:
    r"""Unbiased :math:`\lVert g \rVert^2` of the mean gradient from independent summands (..., S,
    pixels): (...).
    """
    S = summands.shape[-2]
    return (summands.sum(-2).square().sum(-1) - summands.square().sum((-2, -1))) / (S * (S - 1))


@dataclass(frozen=True)
class Agreement:
    r"""A gradient beside the exact one, per image (n,). Book: ch04, eq-disattenuated.

    `cosine` of the two averages as measured; `corrected` for the noise of both (nan where noise
    hides all signal); `pooled` the same with numerator and lengths summed over images; `snr` of one
    purification's gradient, :math:`\lVert h \rVert^2 / \operatorname{tr} \Sigma`.
    """

    cosine: Tensor
    corrected: Tensor
    pooled: float
    snr: Tensor


def agreement(exact: Tensor, other: Tensor) -> Agreement:
    """Compare `summands` (n, S, pixels) of the exact gradient and of another one, under independent
    noise.
    """
    g, h = (X / X.square().sum(2).mean(1).sqrt()[:, None, None] for X in (exact, other))
    inner, g_squared, h_squared = (
        (g.mean(1) * h.mean(1)).sum(1),
        squared_signal(g),
        squared_signal(h),
    )

    def over_lengths(inner: Tensor, *squared: Tensor) -> Tensor:
        product = torch.where(
            (squared[0] > 0) & (squared[1] > 0), squared[0] * squared[1], torch.nan
        )
        return inner / product.sqrt()

    return Agreement(
        F.cosine_similarity(g.mean(1), h.mean(1)),
        over_lengths(inner, g_squared, h_squared),
        float(over_lengths(inner.sum(), g_squared.sum(), h_squared.sum())),
        h_squared / (1 - h_squared),
    )
