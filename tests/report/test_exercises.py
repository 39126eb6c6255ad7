"""Every exercise has a folded solution; its code runs in the chapter, its claims hold here."""

from __future__ import annotations

import re

import nbformat
import pytest
import torch
from conftest import ROOT

from hetpure_core import (
    HetPure,
    Noise,
    activation_map,
    linear_schedule,
    min_max,
    spatial_softmax,
    threshold_mask,
)
from hetpure_lab.defences import assemble
from hetpure_lab.defences.diffap import RandomSampling

CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
BLOCK = re.compile(
    r"^(?P<fence>`{3,4})\{(?P<kind>exercise|solution)\} ?(?P<of>[\w-]*)\n"
    r":label: (?P<label>[\w-]+)\n(?P<folded>:class: dropdown\n)?\n(?P<body>.*?)\n(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)


def blocks(path) -> list[re.Match]:
    """The exercises and solutions of a chapter, in order."""
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    return list(BLOCK.finditer(text.partition("## Exercises")[2]))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_every_exercise_is_followed_by_its_folded_solution_and_labels_count(path):
    chapter, found = int(path.name[:2]), blocks(path)
    assert found and len(found) % 2 == 0
    for n, (exercise, solution) in enumerate(zip(found[::2], found[1::2]), 1):
        assert (exercise["kind"], exercise["label"]) == ("exercise", f"ex-{chapter}-{n}")
        assert solution["kind"] == "solution" and solution["folded"]
        assert (solution["of"], solution["label"]) == (exercise["label"], f"sol-{chapter}-{n}")


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_the_code_of_a_solution_is_a_cell_of_its_chapter(path):
    cells = nbformat.read(path, as_version=4).cells
    run = [c.source for c in cells if "solution" in c.metadata.get("tags", ())]
    for block in blocks(path):
        for code in re.findall(r"```python\n(.*?)\n```", block["body"], re.DOTALL):
            assert any(cell.startswith(code) for cell in run), (
                f"no cell of {path.name} runs {code[:40]}"
            )


# ---- chapter 2 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0, 100.0])
def test_no_temperature_lets_a_softmax_attend_two_pixels(temperature):
    maps = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    assert (spatial_softmax(maps / temperature) > 0.5).sum((2, 3)).max() <= 1


@pytest.mark.parametrize("p", [1, 2, 5])
def test_a_threshold_of_powers_converts_to_one_of_roots(p):
    roots = 0.3 + torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    low, high = roots.amin((2, 3), keepdim=True), roots.amax((2, 3), keepdim=True)
    tau = 0.7
    converted = ((low**p + tau * (high**p - low**p)) ** (1 / p) - low) / (high - low)
    assert torch.equal(
        threshold_mask(min_max(roots**p), tau), (min_max(roots) > converted).double()
    )


def test_a_constant_changes_nothing_for_the_first_power_alone():
    a = torch.rand(2, 6, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    maps = [[min_max(activation_map(x, p)) for x in (a, a + 0.5)] for p in (1, 2)]
    assert torch.allclose(*maps[0]) and not torch.allclose(*maps[1])
    order = [m.flatten(1).argsort(1) for m in maps[1]]
    assert not torch.equal(*order)


# ---- chapter 3 -----------------------------------------------------------------------------------


def test_without_resampling_repetition_takes_one_call_a_step():
    schedule, settings = linear_schedule(), HetPure(U=1, reading="multi-step")
    first, second = (len(times) - 1 for times in settings.grid(schedule))
    assert settings.calls(schedule) == first + second


def test_without_a_mask_nothing_remembers_the_state_before_the_last_merge(
    classifier, denoiser, images
):
    """What the network said in stage 1 is thrown away: two networks that differ there agree."""

    def late_only(x, t):
        strong = (t > HetPure().t_s * 1000 + HetPure().U)[:, None, None, None]
        return torch.where(strong, torch.zeros_like(x), denoiser(x, t))

    ids = [str(i) for i in range(len(images))]
    outside = torch.zeros(len(images), 1, *images.shape[2:], dtype=images.dtype)
    ends = []
    for network in (denoiser, late_only):
        defended = assemble(HetPure(), classifier, network)
        with torch.no_grad():
            ends.append(defended.purify(images, Noise(0, ids, [0] * len(ids)), outside))
    assert torch.allclose(*ends)


# ---- chapter 11 ----------------------------------------------------------------------------------


def test_guidance_that_cancels_the_estimate_is_no_defence(classifier, denoiser, images):
    schedule = linear_schedule()
    settings = RandomSampling(t=0.1, steps=1)
    cancelling = float(schedule.abar[schedule.index(0.1)]) ** -0.5
    defended = assemble(RandomSampling(t=0.1, steps=1, guidance=cancelling), classifier, denoiser)
    ids = [str(i) for i in range(len(images))]
    x = images.clone().requires_grad_()
    noise = Noise(0, ids, [0] * len(ids))
    assert torch.allclose(defended.purify(x, noise), x, atol=1e-5)
    through = torch.autograd.grad(defended.purify(x, noise).sum(), x)[0]
    assert torch.allclose(through, torch.ones_like(x), atol=1e-5)
    plain = assemble(settings, classifier, denoiser).purify(images, noise)
    assert not torch.allclose(plain, images, atol=1e-2)
