"""Numbers of the public reference implementations, reproduced under weights that anyone can rebuild
(``shared/parity/README.md``).

Set ``HETPURE_PARITY`` to check against another folder of fixtures.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from conftest import FOLDER, OTHER, fixture, input_images, normal, weight
from torch import Tensor, nn

from hetpure_core import HetPure, linear_schedule, run, tapped
from hetpure_lab.networks.small import build


@cache
def filled(name: str) -> nn.Module:
    network = build(name)
    network.load_state_dict({k: weight(k, v) for k, v in network.state_dict().items()})
    return network.eval()


def official_cases() -> list:
    if OTHER or FOLDER.is_dir():
        return [pytest.param(c, id=c["name"]) for c in fixture("official_method")[0]["cases"]]
    return [
        pytest.param(
            None,
            marks=pytest.mark.skip(reason=f"the parity fixtures are not here: no folder {FOLDER}"),
        )
    ]


class ReleasedDraws:
    """The noise of one case, numbered in the order in which the released code draws."""

    def __init__(self, case: str):
        self.case, self.k = case, 0

    def __call__(self, draw: str, like: Tensor) -> Tensor:
        self.k += 1
        return normal(f"noise:{self.case}:{self.k - 1}", tuple(like.shape))

    def eps(self, x: Tensor, t: Tensor) -> Tensor:
        """The fixture's denoiser, on zero-based times. After each call the released code makes a
        draw, times a sigma of 0.
        """
        self.k += 1
        return 0.5 * torch.tanh(x) * (1 + (t - 1).reshape(-1, 1, 1, 1) / 1000) + 0.1 * torch.roll(
            x, 1, -1
        )


@pytest.mark.parametrize("case", official_cases())
def test_official_method(case):
    """The `released` reading is the public code: same times, same number of draws, same mask, same
    purified images.
    """
    spec, arrays = fixture("official_method")
    mask, purified = arrays[case["key"] + "_mask"], arrays[case["key"] + "_purified"]
    images = arrays["x01"] if "x01" in arrays else input_images("official", tuple(purified.shape))
    method = HetPure(
        **{k: case[k] for k in ("t_l", "t_s", "tau", "U", "steps")}, reading="released"
    )
    classifier, schedule, draws = (
        filled(spec["classifier"]),
        linear_schedule(),
        ReleasedDraws(case["name"]),
    )

    ours = method.mask(images, classifier, classifier.taps(), draws)
    torch.testing.assert_close(ours, mask, rtol=0, atol=1e-4)
    ours = run(2 * images - 1, method.plan(2 * images - 1, ours, draws.eps, draws, schedule))
    torch.testing.assert_close(ours, purified, rtol=0, atol=1e-4)

    stage_1, stage_2 = method.grid(schedule)
    counted = {"timesteps": [t - 1 for t in stage_1 + stage_2[1:]], "noise_draws": draws.k}
    assert counted == {k: case.get(k, v) for k, v in counted.items()}


@pytest.mark.skipif(
    not (FOLDER / "wrn_28_10.npz").exists(), reason=f"no fixture wrn_28_10 in {FOLDER}"
)
def test_wrn_28_10():
    """Our WRN-28-10 is RobustBench's: parameters by name, shape and number, logits, and the
    activations at the four taps.
    """
    spec, arrays = fixture("wrn_28_10")
    network = filled("wrn_28_10")
    assert [
        [k, list(v.shape), str(v.dtype).removeprefix("torch.")]
        for k, v in network.state_dict().items()
    ] == spec["state_dict"]
    floats = sum(v.numel() for v in network.state_dict().values() if v.is_floating_point())
    assert floats == spec["parameters"]  # the fixture counts running means and variances as well

    with torch.no_grad(), tapped(network.taps()) as activations:
        logits = network(input_images("wrn_28_10", (len(arrays["logits"]), 3, 32, 32)))
    theirs = [arrays["logits"]] + [arrays[f"sumsq_block{b}"] for b in (1, 2, 3, 4)]
    for ours, reference in zip(
        [logits] + [a.square().sum(1) for a in activations], theirs, strict=True
    ):
        torch.testing.assert_close(
            ours, reference, rtol=0, atol=1e-4 * reference.abs().max().item()
        )
