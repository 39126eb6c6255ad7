"""The measurements of a GPU, with the CPU in its place: what they compute is tested, their numbers
are not.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from hetpure_core import HetPure
from hetpure_lab import cli, data
from hetpure_lab.cost import gpu
from hetpure_lab.networks import benches

CPU = torch.device("cpu")


def test_a_device_agrees_with_itself_and_a_difference_is_said():
    found = gpu.equality(data.shipped("cifar10")[torch.arange(2)], CPU)
    assert gpu.complaints(found) == []
    assert all(
        about["records"] == about["of"] == 2 and about["logits"] == 0 for about in found.values()
    )
    found["hetpure"] |= {"logits": 2 * gpu.LOGITS, "records": 1}
    assert [sentence.partition(":")[0] for sentence in gpu.complaints(found)] == [
        "hetpure",
        "hetpure",
    ]


def test_records_that_differ_in_an_integer_are_not_the_same():
    record = {
        key: 0 for key in ("image", "label", "iterations", "delta", "adversarial", "clean", "null")
    }
    assert gpu.same(record, dict(record, seconds=3))
    assert not any(gpu.same(record, record | {key: 1}) for key in record)


def test_throughput_is_measured_for_every_batch():
    bench = benches.load("cifar10-small")
    rows = list(gpu.throughput(bench, [1, 2]))
    assert [row["rows"] for row in rows] == [1, 2] and all(
        row["gradients_per_s"] > 0 for row in rows
    )
    assert gpu.memory(bench)["predicted"] > 0


def test_a_cell_at_small_size_costs_about_what_the_planner_predicts(monkeypatch):
    """The rate comes from predictions, so gradients test how work is counted; a factor of two is
    left for a busy machine.
    """
    bench, counted = (benches.load("cifar10-small") for _ in range(2))
    networks = iter((bench.classifier, bench.denoiser))
    monkeypatch.setattr(gpu, "random_network", lambda name, device: next(networks))
    t = torch.full((1,), 100, device="meta")
    costs = gpu.planner.Costs(
        gpu.planner.count(counted.classifier.to("meta"), 32),
        gpu.planner.count(counted.denoiser.to("meta"), 32, t),
        32,
    )
    monkeypatch.setattr(gpu.planner, "costs", lambda name: costs)
    found = gpu.cell(CPU, 4, HetPure(steps=3))
    assert (
        0.5 < found["measured_s_per_image_iteration"] / found["predicted_s_per_image_iteration"] < 2
    )


def test_random_networks_have_no_dead_layer():
    network = gpu.random_network("wrn_28_10", CPU)
    assert all(p.abs().sum() > 0 for p in network.parameters()) and not network.training


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_command_says_so(capsys, tmp_path):
    for device in ("cuda", "cpu"):
        assert cli.main(["gpu", "--device", device, "--to", str(tmp_path / "gpu.json")]) == 2
        assert "GPU" in capsys.readouterr().err
    assert not (tmp_path / "gpu.json").exists()
    made = subprocess.run(
        [sys.executable, "-m", "hetpure_lab", "gpu"], capture_output=True, text=True
    )
    assert made.returncode == 2 and "Traceback" not in made.stderr
