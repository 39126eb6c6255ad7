"""Attacks on a defence: PGD with expectation over transformation, on the exact gradient of whatever the defence runs.

A *defence* is a module ``(images, ids, copies) -> logits``: `hetpure_core.Purified`, or `Undefended` for the bare classifier. An
attack never sees the noise that scores it: it draws with its own seed. Sources: Madry et al. 2018 (PGD), Athalye et al. 2018 (EOT).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetpure_core import HetPure, Noise, Purified, Schedule, Uniform, check_images
from hetpure_lab import microbatch

NORMS = ("Linf", "L2")
GRADIENTS = ("exact", "surrogate", "surrogate-masked", "bpda")


class Undefended(nn.Module):
    """The bare classifier with a defence's signature."""

    def __init__(self, classifier: nn.Module):
        super().__init__()
        self.classifier, self.seed = classifier.eval().requires_grad_(False), 0

    def forward(self, images: Tensor, ids: Sequence | None = None, copies: Sequence | None = None) -> Tensor:
        check_images(images)
        return self.classifier(images)


class StraightThrough(nn.Module):
    """BPDA: the defence forwards, the identity through its purifier backwards (Athalye et al. 2018). Book: ch04, eq-bpda."""

    def __init__(self, defence: Purified):
        super().__init__()
        self.defence = defence

    def forward(self, images: Tensor, ids: Sequence | None = None, copies: Sequence | None = None) -> Tensor:
        check_images(images)
        with torch.no_grad():
            purified = self.defence.purify(images, self.defence.noise(len(images), ids, copies))
        return self.defence.classifier(images + (purified - images).detach())


Defence = Purified | Undefended | StraightThrough


def seen_by_the_attack(defence: Defence, gradient: str) -> Defence:
    """The module whose gradient the attack takes: the defence itself (``exact``), or a stand-in.

    ``surrogate`` is the released code's: its own order of operations on its coarsest grid, where stage 1 has a single step and the mask no
    effect. ``surrogate-masked`` keeps the defence's reading with the fewest steps of which two are in stage 1. For uniform
    purification they run 2 and half of the steps. ``bpda`` is `StraightThrough`.
    """
    if isinstance(defence, Undefended) or gradient == "exact":
        return defence
    if gradient == "bpda":
        return StraightThrough(defence)
    return with_purifier(defence, coarser(defence.purifier, gradient, defence.schedule))


def coarser(purifier: HetPure | Uniform, gradient: str, schedule: Schedule) -> HetPure | Uniform:
    """A purifier with fewer steps, as `seen_by_the_attack` says."""
    if isinstance(purifier, Uniform):
        return replace(purifier, steps=2 if gradient == "surrogate" else max(1, purifier.steps // 2))
    if gradient == "surrogate":
        return replace(purifier, reading="released", steps=10)
    fewer = (replace(purifier, steps=n) for n in range(2, purifier.steps + 1))
    return next((p for p in fewer if len(p.grid(schedule)[0]) > 2), purifier)


def reseeded(defence: Purified | Undefended, seed: int | str) -> Purified | Undefended:
    """The same defence drawing other noise; the networks are shared."""
    return defence if isinstance(defence, Undefended) else with_purifier(defence, defence.purifier, seed)


def with_purifier(defence: Purified, purifier: HetPure | Uniform, seed: int | str | None = None) -> Purified:
    """The same networks behind another purifier, or the same one with another seed."""
    options = {"schedule": defence.schedule, "taps": defence.tap_modules, "votes": defence.votes, "checkpointing": defence.checkpointing}
    return Purified(defence.classifier, defence.denoiser, purifier, seed=defence.seed if seed is None else seed, **options)


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on the cross-entropy averaged over `eot` purifications (PGD+EOT).

    `eps` and `step` in [0, 1] units of the `norm`; `keep` is the iterate returned: ``last`` (the paper's) or ``best`` by EOT loss.
    ``l2_step="sign"`` is the released code's l2 step (a sign step, then projection), ``normalised`` the steepest ascent.
    With `confirm` > 0, every `confirm_every` iterations an image is set aside once that many purifications on fresh noise are all
    wrong: what remains of the budget goes to the others. `gradient` says what is differentiated, see `seen_by_the_attack`; the failures
    are always those of the defence itself. Paper: §5.1. Book: ch04, eq-pgd.
    """

    norm: str = "Linf"
    eps: float = 8 / 255
    iterations: int = 20
    eot: int = 8
    step: float = 0.007
    random_start: bool = False
    keep: str = "last"
    l2_step: str = "normalised"
    confirm: int = 16
    confirm_every: int = 5
    gradient: str = "exact"

    def __post_init__(self):
        choices = {"norm": NORMS, "keep": ("last", "best"), "l2_step": ("sign", "normalised"), "gradient": GRADIENTS}
        for name, known in choices.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
        if self.eps < 0 or self.step <= 0 or self.iterations < 0 or self.eot < 1 or self.confirm < 0 or self.confirm_every < 1:
            raise ValueError(f"eps, iterations and confirm must not be negative; step, eot and confirm_every must be positive: {self}")

    def run(
        self,
        defence: Purified | Undefended,
        images: Tensor,
        labels: Tensor,
        ids: Sequence,
        seed: int = 0,
        tick: Callable[[int], None] = lambda k: None,
    ) -> tuple[Tensor, Tensor]:
        """Adversarial images in the ball around `images`, and the iterations spent on each (n,).

        `tick(k)` is called with the number of image-iterations done or saved, for progress bars.
        """
        attacked, check = seen_by_the_attack(reseeded(defence, f"attack {seed}"), self.gradient), reseeded(defence, f"confirm {seed}")
        x = self.start(images, ids, seed)
        best, best_loss = x.clone(), torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)
        active, spent = torch.arange(len(x), device=x.device), torch.zeros(len(x), dtype=torch.long, device=x.device)
        for k in range(self.iterations):
            if self.confirm and k and k % self.confirm_every == 0:
                wrong = confirmed(check, x[active], labels[active], pick(ids, active), range(k * self.confirm, (k + 1) * self.confirm))
                tick(int(wrong.sum()) * (self.iterations - k))
                active = active[~wrong]
            if not len(active):
                break
            copies = range(k * self.eot, (k + 1) * self.eot)
            loss, gradient = loss_and_gradient(attacked, x[active], labels[active], pick(ids, active), copies)
            better = active[loss > best_loss[active]]
            best[better], best_loss[active] = x[better], torch.maximum(best_loss[active], loss)
            x[active] = self.project(x[active] + self.ascent(gradient), images[active])
            spent[active] += 1
            tick(len(active))
        return (best if self.keep == "best" else x), spent

    def start(self, images: Tensor, ids: Sequence, seed: int) -> Tensor:
        """The first iterate: the image itself, or a random point of the ball, keyed by image."""
        if not self.random_start:
            return images.clone()
        return perturb_randomly(images, ids, self.norm, self.eps, f"start {seed}", corner=False)

    def ascent(self, gradient: Tensor) -> Tensor:
        if self.norm == "Linf" or self.l2_step == "sign":
            return self.step * gradient.sign()
        return self.step * gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-12).reshape(-1, 1, 1, 1)

    def project(self, x: Tensor, images: Tensor) -> Tensor:
        """The nearest point in the ball, then in [0, 1]."""
        delta = x - images
        if self.norm == "Linf":
            delta = delta.clamp(-self.eps, self.eps)
        else:
            delta = delta * (self.eps / delta.flatten(1).norm(dim=1).clamp(min=self.eps)).reshape(-1, 1, 1, 1)
        return (images + delta).clamp(0, 1)


@dataclass(frozen=True)
class BPDA(PGD):
    """PGD+EOT with the identity for the purifier's gradient; defaults are the paper's. Paper: §5.1, Table 5. Book: ch04, eq-bpda."""

    iterations: int = 100
    eot: int = 20
    gradient: str = "bpda"


ATTACKS = {"pgd": PGD, "bpda": BPDA}

PRESETS = {
    "paper": PGD(iterations=200, eot=20, step=0.007, confirm=0),
    "paper-l2": PGD(norm="L2", eps=0.5, iterations=200, eot=20, step=0.007, l2_step="sign", confirm=0),
}


def pick(ids: Sequence, index: Tensor) -> list:
    return [ids[i] for i in index.tolist()]


def rows_of(n: int, copies: Sequence[int], device: torch.device) -> list[tuple[Tensor, list[int]]]:
    """All (image, copy) pairs of n images in chunks that fit into memory: image indices and copy numbers."""
    pairs = [(i, c) for i in range(n) for c in copies]
    size = microbatch.rows(device)
    chunks = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    return [(torch.tensor([i for i, _ in chunk], device=device), [c for _, c in chunk]) for chunk in chunks]


def loss_and_gradient(defence: Defence, images: Tensor, labels: Tensor, ids: Sequence, copies: Sequence[int]) -> tuple[Tensor, Tensor]:
    r"""The loss :math:`\frac1N \sum_j \ell(F(x; \epsilon_j), y)` over `copies` j (n,), and its gradient in x (n, 3, h, w)."""
    loss, gradient = images.new_zeros(len(images)), torch.zeros_like(images)
    for index, copy in rows_of(len(images), copies, images.device):
        x = images[index].detach().requires_grad_()
        each = F.cross_entropy(defence(x, pick(ids, index), copy), labels[index], reduction="none")
        gradient.index_add_(0, index, torch.autograd.grad(each.sum(), x)[0])
        loss.index_add_(0, index, each.detach())
    return loss / len(copies), gradient / len(copies)


@torch.no_grad()
def logits_of(defence: Defence, images: Tensor, ids: Sequence, copies: Sequence[int]) -> Tensor:
    """Logits of independent purifications: (len(copies), n, classes)."""
    logits = torch.cat([defence(images[index], pick(ids, index), copy) for index, copy in rows_of(len(images), copies, images.device)])
    return logits.unflatten(0, (len(images), len(copies))).transpose(0, 1)


def confirmed(defence: Defence, images: Tensor, labels: Tensor, ids: Sequence, copies: Sequence[int], at_once: int = 4) -> Tensor:
    """Which images are misclassified in every one of `copies` purifications (n,); none is looked at again once it was right."""
    wrong = torch.ones(len(images), dtype=torch.bool, device=images.device)
    for start in range(0, len(copies), at_once):
        left = wrong.nonzero().flatten()
        if len(left):
            logits = logits_of(defence, images[left], pick(ids, left), copies[start : start + at_once])
            wrong[left] = (logits.argmax(-1) != labels[left]).all(0)
    return wrong


def perturb_randomly(images: Tensor, ids: Sequence, norm: str, eps: float, seed: int | str, corner: bool = True) -> Tensor:
    """The null control: a random perturbation of norm `eps`, keyed by image, clipped to [0, 1]; ``corner=False`` draws inside the ball."""
    noise = Noise(seed, ids, [0] * len(images))
    direction = noise("direction", images)
    if norm == "Linf":
        direction = direction.sign() if corner else 2 * torch.special.ndtr(direction) - 1
    else:
        direction = direction / direction.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    return (images + eps * direction).clamp(0, 1)


def to_8_bit(x_adv: Tensor, images: Tensor, norm: str, eps: float) -> Tensor:
    """The adversarial image as real pixels: int8 differences (n, 3, h, w) in 1/255, inside the ball. `images` must be 8-bit too."""
    delta = (x_adv - images) * 255
    if norm == "Linf":
        bound = int(eps * 255 + 1e-4)
        return delta.round().clamp(-bound, bound).to(torch.int8)
    return delta.trunc().to(torch.int8)  # towards the image: rounding never leaves the l2 ball
