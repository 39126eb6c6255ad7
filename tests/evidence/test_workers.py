"""Work is spread over processes, given up by dead ones, cut to fit memory - and the results are the
same.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from distributed import Client

from hetpure_core import HetPure, Purified
from hetpure_lab import attacks, data, evidence
from hetpure_lab.attacks import PGD
from hetpure_lab.common import microbatch
from hetpure_lab.cost.planner import LiveBytes
from hetpure_lab.defences.mimic import MimicDiffusion
from hetpure_lab.evidence import Experiment, records, workers

# ---- memory --------------------------------------------------------------------------------------


@pytest.fixture
def defence(classifier, denoiser) -> Purified:
    return Purified(classifier, denoiser, HetPure(tau=0.5, steps=4))


@pytest.fixture(autouse=True)
def forget_what_fitted(monkeypatch):
    monkeypatch.setattr(microbatch, "_rows", {})
    monkeypatch.setattr(microbatch, "_ceiling", {})


def test_running_out_of_memory_halves_the_rows_and_changes_no_result(defence, images, monkeypatch):
    attack, y, ids, cpu = (
        PGD(iterations=2, eot=4, confirm=2, confirm_every=1),
        torch.tensor([0, 1, 2, 3]),
        range(4),
        torch.device("cpu"),
    )
    expected, _ = attack.run(defence, images, y, ids)
    inner, sizes = Purified.forward, []

    def small(self, x, *rest):
        sizes.append(len(x))
        if len(x) > 5:
            raise torch.OutOfMemoryError("a card that holds 5 rows")
        return inner(self, x, *rest)

    monkeypatch.setattr(Purified, "forward", small)
    found, _ = microbatch.recovering(lambda: attack.run(defence, images, y, ids), cpu)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert sizes[0] == 16 and microbatch.rows(cpu) == 4
    sizes.clear()
    microbatch.recovering(lambda: attack.run(defence, images, y, ids), cpu)
    assert max(sizes) == 4  # what fits is remembered


def test_an_image_that_does_not_fit_at_all_is_an_error():
    def never():
        raise torch.OutOfMemoryError("no")

    with pytest.raises(torch.OutOfMemoryError):
        microbatch.recovering(never, torch.device("cpu"))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    tries = []

    def wrong():
        tries.append(1)
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        microbatch.recovering(wrong, torch.device("cpu"))
    assert len(tries) == 1


STARVED = """
import resource, torch
from pathlib import Path
from hetpure_lab.common import microbatch
from hetpure_lab.attacks.gradients import Undefended, loss_and_gradient

# A megabyte and a half per row, for which only PyTorch's allocator is asked.
class Hungry(torch.nn.Module):
    def forward(self, x):
        scales = torch.linspace(0.1, 2, 120)[None, :, None, None, None]
        return (x[:, None] * scales).sin().mean((2, 3, 4))

torch.set_num_threads(1)
defence, cpu = Undefended(Hungry()), torch.device("cpu")
x = torch.rand(2, 3, 32, 32)
work = lambda: loss_and_gradient(defence, x, torch.tensor([3, 5]), range(2), range(32))
microbatch._rows["cpu"] = 2
expected = work()
microbatch._rows.clear()
lines = Path("/proc/self/status").read_text().splitlines()
(data,) = (line.split()[1] for line in lines if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (1024 * int(data) + 100 * 2**20,) * 2)
try:
    work()
except RuntimeError as error:
    print(type(error).__name__, microbatch.ran_out(error))
for a, b in zip(microbatch.recovering(work, cpu), expected):
    torch.testing.assert_close(a, b)
print(microbatch.rows(cpu))
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux limits the memory that a process maps"
)
def test_a_process_that_the_system_gives_no_more_memory_goes_on_with_fewer_rows(root):
    done = subprocess.run(
        [sys.executable, "-c", STARVED], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    raised, rows = done.stdout.splitlines()
    assert raised == "RuntimeError True" and 1 <= int(rows) < microbatch.MOST["cpu"]


def test_rows_are_chosen_so_that_they_fit(defence, images, monkeypatch):
    """With room activations are stored, with less they are recomputed, with little there are fewer
    rows; what is used stays within.
    """
    used = {}
    for budget in (10**9, 10**6, 10**5):
        monkeypatch.setattr(microbatch, "CPU_BUDGET", budget)
        microbatch.fit(defence, images[:1])
        n = microbatch.rows(images.device)
        with LiveBytes() as meter:
            x = images[:1].repeat(n, 1, 1, 1).requires_grad_()
            torch.autograd.grad(defence(x, range(n)).sum(), x)
        used[budget] = (n, defence.checkpointing)
        assert meter.peak <= 1.1 * budget
    assert (
        used[10**9] == (microbatch.MOST["cpu"], False)
        and used[10**5][1]
        and 1 <= used[10**5][0] < used[10**6][0]
    )


def test_what_saves_no_memory_is_not_recomputed(defence, images, monkeypatch):
    """Guidance through the whole chain holds its activations either way; recomputing them would
    only cost time.
    """
    guided = Purified(defence.classifier, defence.denoiser, MimicDiffusion(steps=10))
    recomputed = microbatch._bytes_of_gradient(guided, images[:1])
    monkeypatch.setattr(microbatch, "CPU_BUDGET", 6 * recomputed)
    assert recomputed * guided.purifier.calls(guided.schedule) > microbatch.CPU_BUDGET
    microbatch.fit(guided, images[:1])
    assert not guided.checkpointing


def test_a_bare_classifier_is_fitted_too(defence, images, monkeypatch):
    bare, found = attacks.Undefended(defence.classifier), {}
    for budget in (10**9, 10**4):
        monkeypatch.setattr(microbatch, "CPU_BUDGET", budget)
        microbatch.fit(bare, images[:1])
        found[budget] = microbatch.rows(images.device)
    assert found[10**9] == microbatch.MOST["cpu"] > found[10**4]


def test_memory_is_linear_in_the_batch(defence, images):
    peaks = []
    for n in (8, 16, 32):
        with LiveBytes() as meter:
            x = images[:1].repeat(n, 1, 1, 1).requires_grad_()
            torch.autograd.grad(defence(x, range(n)).sum(), x)
        peaks.append(meter.peak)
    assert peaks[2] - peaks[1] == pytest.approx(2 * (peaks[1] - peaks[0]), rel=0.05)


def lines(path):
    """The records of a file, each line of it."""
    return [line.record for line in records.lines(path.read_bytes()) if line.record]


# ---- processes -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client():
    """A real cluster of two processes with one thread each."""
    with workers.local(2, dashboard_address=None) as cluster, Client(cluster) as client:
        yield client


def test_workers_and_shards_change_no_record(client, tmp_path):
    """In other batches and in the order in which two processes finish."""
    images = data.embedded_sample(data.DATASETS["cifar10"]).take(5)
    experiment = Experiment("uniform:t=0.05,steps=1", PGD(iterations=1, eot=2, confirm=0), K=3)
    alone = evidence.run(experiment, images, progress=False, results=tmp_path / "alone")
    spread = evidence.run(
        experiment, images, batch=2, progress=False, results=tmp_path / "spread", client=client
    )
    fate = ("label", "iterations", "delta", "adversarial", "clean", "null", "config", "code")
    assert {k: [r[f] for f in fate] for k, r in spread.items()} == {
        k: [r[f] for f in fate] for k, r in alone.items()
    }
    assert len(lines(experiment.path(tmp_path / "spread"))) == len(images)
    with pytest.raises(ValueError, match="not both"):
        evidence.run(experiment, images, bench=object(), client=client, results=tmp_path)


def test_workers_have_one_thread_and_keep_freed_memory(client):
    assert list(client.nthreads().values()) == [1, 1]
    assert set(client.run(os.getenv, "MALLOC_TRIM_THRESHOLD_").values()) == {None}
    with workers.local(1, processes=False, dashboard_address=None) as cluster:
        assert len(cluster.workers) == 1  # not one per core


def test_a_killed_worker_costs_the_shard_it_had_in_hand(client, tmp_path):
    def work(i, folder):
        import os
        from pathlib import Path

        time.sleep(0.1)
        (Path(folder) / f"{i} {os.getpid()} {time.time_ns()}").touch()
        return i

    def kill_when_busy(victim):
        while not list(tmp_path.glob(f"* {victim} *")):
            time.sleep(0.02)
        time.sleep(0.05)
        os.kill(victim, signal.SIGKILL)

    victim, *_ = client.run(os.getpid).values()
    threading.Thread(target=kill_when_busy, args=(victim,), daemon=True).start()
    assert sorted(workers.each(client, work, [(i, str(tmp_path)) for i in range(20)])) == list(
        range(20)
    )
    done = list(tmp_path.iterdir())
    assert str(victim) not in map(str, client.run(os.getpid).values())
    assert len(done) <= 20 + 2  # the one in hand, and one that was done but not yet fetched


def test_records_survive_a_worker_killed_in_the_middle_of_an_experiment(client, tmp_path):
    images = data.embedded_sample(data.DATASETS["cifar10"]).take(6)
    experiment = Experiment("uniform:t=0.05,steps=1", PGD(iterations=1, eot=2, confirm=0), K=3)
    path, victim = experiment.path(tmp_path / "spread"), next(iter(client.run(os.getpid).values()))

    def kill_after_the_first_record():
        while not path.exists():
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)

    thread = threading.Thread(target=kill_after_the_first_record, daemon=True)
    thread.start()
    spread = evidence.run(
        experiment, images, batch=1, progress=False, results=tmp_path / "spread", client=client
    )
    thread.join(timeout=10)
    alone = evidence.run(experiment, images, progress=False, results=tmp_path / "alone")
    assert {k: (r["delta"], r["adversarial"]) for k, r in spread.items()} == {
        k: (r["delta"], r["adversarial"]) for k, r in alone.items()
    }
    assert len(lines(path)) == len(images) and str(victim) not in map(
        str, client.run(os.getpid).values()
    )


def test_an_error_in_one_shard_comes_after_the_others_are_done(client):
    found = workers.each(client, lambda i: 6 // i, [(1,), (0,), (2,), (3,)])
    good = []
    with pytest.raises(ZeroDivisionError):
        for value in found:
            good.append(value)
    assert sorted(good) == [2, 3, 6]


def test_a_scheduler_that_is_not_there_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 0.1)
    with pytest.raises(ValueError, match="no Dask scheduler answers at tcp://127.0.0.1:1"):
        workers.connect("tcp://127.0.0.1:1")
