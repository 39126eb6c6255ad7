"""What `make bench` compares is comparable: processor time, equal steps, and no image that counts
as decided before it is.
"""

from __future__ import annotations

import json
import time

import pytest
import torch

from hetpure_core import HetPure, linear_schedule
from hetpure_lab import evidence
from hetpure_lab.attacks import PGD
from hetpure_lab.common import microbatch
from hetpure_lab.cost import benchmark
from hetpure_lab.data import Images
from hetpure_lab.evidence import Experiment
from hetpure_lab.networks.benches import Bench
from hetpure_lab.report import attack_cost


@pytest.fixture
def tiny(classifier, denoiser) -> Bench:
    """The method at two steps on tiny networks."""
    networks = classifier.float(), denoiser.float()
    return Bench(
        "tiny",
        "none",
        tuple("abcde"),
        *networks,
        HetPure(tau=0.5, steps=2),
        linear_schedule(),
        {},
        torch.device("cpu"),
    )


@pytest.fixture
def pixels8(monkeypatch) -> Images:
    monkeypatch.setattr(microbatch, "_rows", {})
    values = torch.randint(30, 220, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )
    return Images(values, torch.arange(4), torch.ones(4, dtype=torch.bool), "random pixels")


def test_waiting_costs_no_processor_time_and_works_are_told_apart():
    def spin():
        until = time.process_time() + 0.03
        while time.process_time() < until:
            pass

    waiting, working = benchmark.cpu_seconds(lambda: time.sleep(0.05), spin, repeats=1)
    assert waiting < 0.02 and 0.03 <= working < 0.05


def test_the_released_loop_takes_the_same_step_as_ours(tiny, pixels8):
    x, y, attack = pixels8.floats.double(), pixels8.labels, PGD(norm="L2", eps=0.5, step=0.2, eot=3)
    tiny.classifier.double(), tiny.denoiser.double()
    theirs, ours = benchmark.behind(tiny, checkpointing=False), benchmark.behind(tiny)
    released = benchmark.released_iteration(theirs, x, x, y, attack)
    assert (
        torch.allclose(released, benchmark.our_iteration(ours, x, x, y, attack), atol=1e-12)
        and (released - x).abs().max() > 0.01
    )
    # as the released loop, it takes gradients of the images only
    assert all(p.grad is None for p in theirs.parameters())


def test_undecided_images_are_charged_the_whole_budget(tiny, pixels8, monkeypatch):
    monkeypatch.setattr(
        PGD,
        "run",
        lambda self, defence, x, *_: (x, torch.tensor([5, benchmark.LOOK, 10, benchmark.LOOK])),
    )
    found = benchmark.released_loop_over_ours(tiny, pixels8)
    assert (
        found["iterations_over_spent"] == pytest.approx(200 / ((5 + 200 + 10 + 200) / 4))
        and found["undecided"] == 2
    )
    assert found["equal_result_over_ours"] == min(
        each["ratio"] for each in found["equal_result_by_defence"].values()
    )
    assert found["released_loop_over_ours"] == pytest.approx(
        found["released_loop_per_iteration"] * found["iterations_over_spent"]
    )


def test_precisions_are_compared_on_the_same_images(tmp_path):
    from conftest import records_of

    assert "Not measured yet: `hetpure run" in attack_cost.precision(tmp_path)
    for attack, rates in (("pgd", [0.0, 0.5, 1.0]), ("pgd:precision=bf16", [0.5, 0.5, 1.0])):
        made = records_of("hetpure", attack, rates, [1.0] * 3, [1.0] * 3).records.values()
        evidence.append(Experiment("hetpure", attack).path(tmp_path), list(made))
    said = attack_cost.precision(tmp_path)
    assert "| 66.7 | 50.0 | 16.7 [" in said and said.count("\n") == 3


def test_an_equal_result_is_one_that_leaves_no_more_of_the_same_images(tmp_path):
    """Of three attacks the cheapest that is as strong counts: 200 iterations of 20 over 10 of 8."""
    from conftest import records_of

    for attack, rates, spent in (
        ("pgd:iterations=200,eot=20", [0.0, 0.5], 50),
        ("pgd:iterations=20,eot=4", [0.0, 1.0], 5),
        ("pgd:iterations=40,eot=8", [0.5, 0.0], 10),
        ("pgd:iterations=40,eot=8,norm=L2", [0.0, 0.0], 1),
    ):
        made = records_of("hetpure", attack, rates, [1.0, 1.0], [1.0, 1.0]).records.values()
        rows = [record | {"iterations": spent} for record in made]
        evidence.append(Experiment("hetpure", attack).path(tmp_path), rows)
    found = benchmark.equal_result(2.0, 1.0, 0.1, tmp_path)
    assert found["equal_result_by_defence"]["hetpure"]["attack"] == "pgd:iterations=40"
    assert found["equal_result_over_ours"] == pytest.approx(
        200 * 2 * (20 / 8) / (10 * (8 / 8 + 0.1))
    )
    about = found["equal_result_by_defence"]["hetpure"]
    assert about["gradients_ratio"] == pytest.approx(200 * 20 / (10 * 8))
    assert about["minus_whole"][0] == pytest.approx(0)
    equal = attack_cost.equal(tmp_path)
    assert "| 25.0 | PGD" in equal.replace("  ", " ") and "| 80 | 50.0 | 2 |" in equal
    assert "No defence has records" in attack_cost.equal(tmp_path / "nothing")
    assert (
        benchmark.equal_result(2.0, 1.0, 0.1, tmp_path / "nothing")["equal_result_over_ours"]
        is None
    )


def test_the_command_writes_where_it_is_told(tmp_path, monkeypatch, capsys):
    """With its parts replaced, since they measure for minutes."""
    parts = ("exact_over_floor", "released_loop_over_ours", "dask_2_over_1")
    for part in parts:
        monkeypatch.setattr(benchmark, part, lambda *_, part=part: {part: 2.0})
    monkeypatch.setattr(benchmark, "saved_bytes", lambda bench, steps: steps)
    benchmark.main(["--to", str(tmp_path / "new" / "bench.json")])
    found = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert all(found[part] == 2.0 for part in parts) and found["saved_bytes_40_over_10"] == 4
    assert 0 <= found["minutes"] < 2 and "exact_over_floor: 2" in capsys.readouterr().out
