"""Attacks that run side by side, one image each: they see what they would see alone, and the
networks see full batches.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hetpure_core import HetPure, Purified
from hetpure_lab.attacks import AutoAttack
from hetpure_lab.attacks.abreast import side_by_side
from hetpure_lab.attacks.threat import once
from hetpure_lab.common import microbatch


class Square(nn.Module):
    """Logits whose gradient is known: twice the pixels of a row, at its number of copies."""

    def __init__(self):
        super().__init__()
        self.rows: list[int] = []

    def forward(self, images, ids, copies):
        self.rows.append(len(images))
        return images.flatten(1).square() * torch.tensor(copies).double()[:, None]


def handing_out(works):
    left = list(works)

    def more(most):
        taken, left[:] = left[:most], left[most:]
        return taken

    return more


def climbing(value: float, steps: int):
    """A program that asks for `steps` gradients, adding each and a draw of the global generator."""

    def work(defence):
        torch.manual_seed(int(value * 8))
        x = torch.full((1, 1, 1, 2), value, dtype=torch.float64)
        for _ in range(steps):
            z = x.clone().requires_grad_()
            total = sum(defence(z, ["a"], [c + 1]).sum() for c in range(2))
            x = x + 0.1 * torch.autograd.grad(total, z)[0] + torch.rand(1)
        with torch.no_grad():
            return x.flatten().tolist(), defence(x, ["a"], [1]).flatten().tolist()

    return work


def test_programs_get_their_own_answers_gradients_and_random_numbers():
    works = [climbing(0.25 * k, steps) for k, steps in enumerate((3, 1, 2, 4, 0))]
    alone = [next(side_by_side(Square(), handing_out([work]), 1))[1] for work in works]
    defence, before = Square(), torch.get_rng_state()
    found = dict(side_by_side(defence, handing_out(works), 3))
    assert [found[place] for place in range(5)] == alone
    # by hand, without any thread
    plain = Square()
    assert [work(plain) for work in works] == alone
    torch.set_rng_state(before)
    assert max(defence.rows) == 3 and sum(defence.rows) == sum(plain.rows) == 2 * 10 + 5
    assert 3 * len(defence.rows) < 2 * len(plain.rows)  # five works on three places


def test_a_program_that_asks_for_its_gradient_late_gets_it():
    def late(defence):
        z = torch.ones(1, 1, 1, 2, dtype=torch.float64, requires_grad=True)
        first = defence(z, ["a"], [1])
        second = defence(z, ["a"], [3])
        return torch.autograd.grad(first.sum() + second.sum(), z)[0].flatten().tolist()

    works = [late, climbing(0.5, 2), late]
    found = dict(side_by_side(Square(), handing_out(works), 3))
    assert found[0] == found[2] == [8.0, 8.0]


def test_an_error_ends_all_of_them_and_leaves_no_thread():
    import threading

    def broken(defence):
        defence(torch.zeros(1, 1, 1, 2, dtype=torch.float64), ["a"], [1])
        raise ValueError("not today")

    before = threading.active_count()
    with pytest.raises(ValueError, match="not today"):
        list(side_by_side(Square(), handing_out([climbing(0.5, 5), broken]), 2))
    waiting = side_by_side(Square(), handing_out([climbing(0.5, 0), climbing(0.5, 9)]), 2)
    next(waiting)
    waiting.close()
    assert threading.active_count() == before


def test_packaged_autoattack_fills_its_batches_and_changes_no_image(
    classifier, denoiser, monkeypatch
):
    """Alone, side by side, and with more waiting than run at once; the networks see full
    batches.
    """
    defence = Purified(classifier.float(), denoiser.float(), HetPure(0.3, 0.1, U=2, steps=2))
    generator = torch.Generator().manual_seed(3)
    x = 0.2 + 0.6 * torch.rand(6, 3, 8, 8, generator=generator)
    ids = list("abcdef")
    y = defence(x, ids, [1] * 6).argmax(1)  # so that many are attacked
    attack, sizes, purify = AutoAttack(iterations=3, eot=2, eps=0.1), [], Purified.purify
    monkeypatch.setattr(
        Purified,
        "purify",
        lambda self, images, *rest: sizes.append(len(images)) or purify(self, images, *rest),
    )
    alone = [attack.run(defence, x[i : i + 1], y[i : i + 1], ids[i : i + 1]) for i in range(6)]
    calls = len(sizes)
    assert set(sizes) == {1}
    sizes.clear()
    together, spent = attack.run(defence, x, y, ids)
    assert torch.allclose(together, torch.cat([found for found, _ in alone]), atol=1e-6)
    assert spent.tolist() == [int(n) for _, n in alone]
    assert max(sizes) == 6 and sum(sizes) == calls and len(sizes) < calls / 3
    sizes.clear()
    refilled = {
        int(found.places): found.x
        for found in attack.each(defence, once(x, y, ids), 0, lambda k: None, 2)
    }
    assert torch.allclose(torch.cat([refilled[i] for i in range(6)]), together, atol=1e-6)
    assert max(sizes) == 2
    monkeypatch.setattr(microbatch, "rows", lambda device: 4)
    sizes.clear()
    attack.run(defence, x, y, ids)
    assert max(sizes) == 4
