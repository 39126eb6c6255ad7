"""Other libraries' networks as the denoisers and classifiers that `hetpure_core` asks for.

A denoiser here is ``eps(x_t, t)``: noisy images (n, c, h, w) in the [-1, 1] scale and times t in
1..T, to the noise. Others count times from 0, take a noise level, predict something else, or return
an object. Each adapter is a module around the network, so that devices, digests and gradients work;
the network itself is not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hetpure_core import Schedule

PREDICTIONS = ("noise", "v", "x0")


def schedule(alphas_cumprod: Tensor | Sequence[float]) -> Schedule:
    r"""A schedule from the list that other libraries keep, :math:`\bar\alpha_1, ..., \bar\alpha_T`.

    Of a `diffusers` scheduler: ``schedule(scheduler.alphas_cumprod)``. Raises `ValueError` unless
    it falls strictly between 1 and 0.
    """
    abar = torch.as_tensor(alphas_cumprod).double().flatten()
    if not len(abar) or not abar.isfinite().all() or abar[0] >= 1:
        raise ValueError("alphas_cumprod is a list that falls strictly from below 1 towards 0")
    return Schedule(torch.cat([torch.ones(1, dtype=torch.float64), abar]))


def answer(output: Any) -> Tensor:
    """The tensor in a network's result: itself, ``.sample``, ``.logits``, or a tuple's first."""
    for name in ("sample", "logits"):
        if hasattr(output, name) and not isinstance(output, Tensor):
            return getattr(output, name)
    return output[0] if isinstance(output, tuple) else output


class Denoiser(nn.Module):
    r"""A network that is asked at a time index: `UNet2DModel` of diffusers, guided-diffusion, ...

    `predicts`: the ``noise``; ``v`` :math:`= \sqrt{\bar\alpha}\, \epsilon - \sqrt{1 - \bar\alpha}\,
    x_0`; or ``x0``. `first` is the index that the network knows the first time by (0 in diffusers).
    Channels of a learned variance, after the image, are dropped. `label` is the class of a
    class-conditional network, for all images; `keyword` its argument's name.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule | None = None,
        predicts: str = "noise",
        first: int = 0,
        label: int | None = None,
        keyword: str = "class_labels",
    ):
        super().__init__()
        if predicts not in PREDICTIONS:
            raise ValueError(f"unknown predicts {predicts!r}; known: {', '.join(PREDICTIONS)}")
        if predicts != "noise" and schedule is None:
            raise ValueError(f"a network that predicts {predicts} needs its schedule")
        self.network, self.schedule, self.predicts = network, schedule, predicts
        self.first, self.label, self.keyword = first, label, keyword

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        options = {}
        if self.label is not None:
            options[self.keyword] = torch.full((len(x),), self.label, device=x.device)
        found = answer(self.network(x, t - 1 + self.first, **options))[:, : x.shape[1]]
        if self.predicts == "noise" or self.schedule is None:
            return found
        signal, sigma = self.schedule.signal_and_noise(t, x)
        if self.predicts == "v":
            return sigma * x + signal * found
        return (x - signal * found) / sigma


class KarrasDenoiser(nn.Module):
    r"""A network that removes noise of a level, :math:`D(y; \sigma)` of images in [-1, 1] (EDM).

    :math:`\epsilon = (y - D(y; \sigma)) / \sigma` at :math:`y = x_t / \sqrt{\bar\alpha_t}`,
    :math:`\sigma = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}`.
    """

    def __init__(self, network: nn.Module, schedule: Schedule):
        super().__init__()
        self.network, self.schedule = network, schedule

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        signal, noise = self.schedule.signal_and_noise(t, x)
        y, sigma = x / signal, (noise / signal).expand(len(x), 1, 1, 1)
        return (y - answer(self.network(y, sigma.flatten()))) / sigma


class Classifier(nn.Module):
    """Images in [0, 1] to logits by somebody's network: timm, torchvision, Hugging Face.

    `mean` and `std` are its input normalisation per channel (timm: ``network.default_cfg``), `size`
    the side that it wants. `taps` are the modules whose outputs the attention mask reads, or their
    names; without any they are looked for (`find_taps`) when a purifier asks. Tokens (n, k, c) of a
    transformer become maps (n, c, h, w), tokens without a place (class, registers) left out.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        size: int | None = None,
        taps: Sequence[nn.Module | str] = (),
    ):
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        if len(mean) != len(std) or not all(s > 0 for s in std):
            raise ValueError(
                f"mean and std are one number per channel, std positive: {mean}, {std}"
            )
        self.network, self.size = network, size
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1), persistent=False)
        named = dict(network.named_modules())
        if unknown := [tap for tap in taps if isinstance(tap, str) and tap not in named]:
            few = ", ".join(list(named)[1:13])
            raise ValueError(f"the network has no module {unknown[0]!r}; it has: {few}, ...")
        chosen = [named[tap] if isinstance(tap, str) else tap for tap in taps]
        places = [Place() for _ in chosen]
        self.places = nn.ModuleList(places)
        for module, place in zip(chosen, places):
            module.register_forward_hook(place.look)

    def forward(self, images: Tensor) -> Tensor:
        if self.size and images.shape[-1] != self.size:
            size = (self.size, self.size)
            images = nn.functional.interpolate(images, size, mode="bilinear", antialias=True)
        return answer(self.network((images - self.mean) / self.std))

    def taps(self) -> list[nn.Module]:
        """The modules that the attention mask reads. Raises `ValueError` if none was named."""
        if not self.places:
            likely = ", ".join(find_taps(self.network)) or "none found"
            raise ValueError(f"name the taps of this classifier, such as: {likely}")
        return list(self.places)


class Place(nn.Module):
    """Where a tapped module's output passes by as maps (n, c, h, w): a hook calls it."""

    def forward(self, activation: Tensor) -> Tensor:
        return as_maps(activation)

    def look(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self(answer(output))


def as_maps(activation: Tensor) -> Tensor:
    """Activations (n, c, h, w) as they are; tokens (n, k, c) as (n, c, h, w) of the last h * h <=
    k.

    Raises `ValueError` for other shapes.
    """
    if activation.ndim == 4:
        return activation
    if activation.ndim != 3:
        raise ValueError(f"a tap gave {tuple(activation.shape)}, neither maps nor tokens")
    side = int(activation.shape[1] ** 0.5)
    tokens = activation[:, activation.shape[1] - side**2 :]
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def find_taps(network: nn.Module, image: Tensor | None = None, most: int = 3) -> list[str]:
    """Names of modules that could serve as taps: the last of each size of maps, or blocks of
    tokens.

    With an `image` (1, c, h, w) the network is run once; without, blocks are known by their names.
    """
    if image is None:
        stages = [n for n, _ in network.named_modules() if n.count(".") == 1 and n[-1].isdigit()]
        stages = stages or [n for n, _ in network.named_children()]
        return stages[-most:]
    sizes: dict[tuple[int, ...], str] = {}

    def note(name: str) -> Callable[..., None]:
        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            found = answer(output)
            if (
                isinstance(found, Tensor)
                and found.ndim in (3, 4)
                and found.numel() > found.shape[0]
            ):
                shape = tuple(found.shape[2:]) if found.ndim == 4 else (found.shape[1], 0)
                if min(found.shape[1:]) > 1:
                    sizes[shape if found.ndim == 4 else (*shape, len(sizes))] = name

        return look

    hooks = [m.register_forward_hook(note(n)) for n, m in network.named_modules() if n]
    try:
        with torch.no_grad():
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(sizes.values()))[-most:]
