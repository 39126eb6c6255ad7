"""Nothing that was measured has changed: keys of experiments, answers and gradients of every
defence.

The copies are of the commit before the lab became packages. Answers are rounded, so that another
processor may differ in the last digits; on the machine that made them they are equal to the bit.
"""

from __future__ import annotations

import argparse
import json
import shlex
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from hetpure_lab import data, defences
from hetpure_lab.attacks import logits_of, loss_and_gradient
from hetpure_lab.evidence import backlog
from hetpure_lab.networks import benches

KEYS = "tests/golden/keys.txt"
ANSWERS = "tests/golden/defences.json"


@cache
def setting():
    """The small CIFAR-10 bench and two images that everybody has: Foolbox ships them."""
    images = data.load("cifar10", "sample", quiet=True)
    return benches.load("cifar10-small"), images.floats[:2], images.labels[:2], images.ids[:2]


def test_every_experiment_keeps_its_key(root):
    parser = argparse.ArgumentParser()
    backlog.add_experiment(parser)
    wrong = []
    for line in (root / KEYS).read_text().splitlines():
        key, words = line.split(" ", 1)
        found = backlog.experiment_of(parser.parse_args(shlex.split(words))).key
        wrong += [words] if found != key else []
    assert not wrong


@cache
def answers() -> dict[str, dict]:
    return json.loads((Path(__file__).parents[1] / ANSWERS).read_text())


@pytest.mark.parametrize("spec", answers())
def test_every_defence_gives_the_answers_and_gradients_that_it_gave(spec):
    bench, x, y, ids = setting()
    defence, kept = defences.build(spec, bench), answers()[spec]
    logits = logits_of(defence, x, ids, range(2))
    np.testing.assert_allclose(logits.numpy(), kept["logits"], atol=2e-3)
    if "gradient" in kept:
        _, gradient = loss_and_gradient(defence, x, y, ids, [0])
        norms = gradient.flatten(1).norm(dim=1).numpy()
        np.testing.assert_allclose(norms, kept["gradient norm"], rtol=1e-2)
        some = gradient.flatten(1).numpy()[:, ::389]
        np.testing.assert_allclose(some, kept["gradient"], atol=2e-2 * norms.max())
