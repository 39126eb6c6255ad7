"""A cluster started by hand, as people start one: `dask scheduler`, two `dask worker`, and
``hetpure run --scheduler``.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import distributed  # noqa: F401  (what takes long to import is no part of what is timed)
import pytest

from hetpure_lab import cli, evidence
from hetpure_lab.evidence import Experiment, records, workers
from hetpure_lab.evidence import command as loaded  # noqa: F401

ATTACK = "pgd:iterations=2,eot=2,confirm=0"
RUN = [
    "run",
    "--defence",
    "uniform:t=0.05,steps=1",
    "--attack",
    ATTACK,
    "--split",
    "sample",
    "--n-images",
    "16",
]
RUN += ["--K", "3", "--batch", "1"]
EXPERIMENT = Experiment("uniform:t=0.05,steps=1", ATTACK, split="sample", K=3)
PLUGIN = """
from dataclasses import dataclass

from hetpure_lab.defences import Capabilities, register


@register("mine", Capabilities(randomised=True))
@dataclass(frozen=True)
class Mine:
    strength: float = 0.1

    def mask(self, images, classifier, taps, noise):
        return None

    def plan(self, x_adv, mask, eps, noise, schedule):
        return [(0, lambda x: x + self.strength * noise("start", x))]

    def calls(self, schedule):
        return 0
"""
FATE = ("label", "iterations", "delta", "adversarial", "clean", "null", "config", "code", "data")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Cluster:
    """Processes that are ended with the test."""

    def __init__(self, folder: Path, scheme: str = "tcp", security: tuple[str, ...] = ()):
        self.folder, self.scheme, self.security, self.started = folder, scheme, security, []

    def dask(self, *words: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "dask", *words, *self.security]
        with (self.folder / "cluster.log").open("ab") as log:
            self.started.append(
                subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, env=os.environ)
            )
        return self.started[-1]

    def __enter__(self) -> Cluster:
        port = free_port()
        self.address = f"{self.scheme}://127.0.0.1:{port}"
        self.dask(
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--no-dashboard",
            "--protocol",
            self.scheme,
        )
        options = (
            "--nthreads",
            "2",
            "--no-nanny",
            "--no-dashboard",
            "--local-directory",
            str(self.folder),
        )
        self.workers = [self.dask("worker", self.address, *options) for _ in range(2)]
        return self

    def __exit__(self, *_) -> None:
        for process in self.started:
            process.kill()
            process.wait()


def started_run(results: Path, *more: str) -> subprocess.Popen:
    env = os.environ | {"HETPURE_RESULTS": str(results)}
    command = [sys.executable, "-m", "hetpure_lab", *RUN, *more]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def until_there_is(path: Path, process: subprocess.Popen, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not ((path.is_file() and path.stat().st_size) or any(path.glob("*/*.jsonl"))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no record in time"
        time.sleep(0.02)


def test_the_command_works_on_a_cluster_and_survives_a_killed_worker(tmp_path):
    """Workers of two threads and somebody's own purifier, which no worker knew; one is killed after
    the first record.
    """
    plugin = tmp_path / "mine_on_a_cluster.py"
    plugin.write_text(PLUGIN)
    own = ("--plugin", str(plugin), "--defence", "mine:strength=0.2")

    def found(folder: Path) -> list[dict]:
        (path,) = folder.glob("*/*.jsonl")
        return [line.record for line in records.lines(path.read_bytes()) if line.record]

    with Cluster(tmp_path) as cluster:
        run = started_run(tmp_path / "spread", "--scheduler", cluster.address, *own)
        until_there_is(tmp_path / "spread", run)
        cluster.workers[0].send_signal(signal.SIGKILL)
        said, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors
    assert started_run(tmp_path / "alone", *own).communicate(timeout=300)
    spread, alone = found(tmp_path / "spread"), {r["image"]: r for r in found(tmp_path / "alone")}
    assert len(spread) == len(alone) == 16 and '"n": 16' in said  # nothing lost, nothing twice
    assert "mine_on_a_cluster" in spread[0]["code"]
    assert all([r[f] for f in FATE] == [alone[r["image"]][f] for f in FATE] for r in spread)


def test_several_processes_share_an_experiment_and_take_over_from_a_killed_one(tmp_path):
    path, env = EXPERIMENT.path(tmp_path), os.environ | {"HETPURE_RESULTS": str(tmp_path)}
    command = [sys.executable, "-m", "hetpure_lab", *RUN]
    processes = [
        subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    until_there_is(path, processes[0])
    processes[1].send_signal(signal.SIGKILL)
    for process in (processes[0], processes[2]):
        said, errors = process.communicate(timeout=300)
        assert process.returncode == 0 and '"n": 16' in said, errors
    processes[1].communicate()
    found = [line.record["image"] for line in records.lines(path.read_bytes()) if line.record]
    assert len(found) == len(set(found)) == 16  # none was done twice


@pytest.mark.parametrize(
    "address, says",
    [
        ("tcp://127.0.0.1:1", "no Dask scheduler answers at tcp://127.0.0.1:1"),
        ("tcp://no-such-host.invalid:8786", "no Dask scheduler answers"),
        ("127.0.0.1:8786", "such as tcp://host:8786"),
        ("tcp://127.0.0.1", "such as tcp://host:8786"),
        ("tls://127.0.0.1:1", "needs --tls-ca"),
    ],
)
def test_a_wrong_address_is_one_sentence_within_five_seconds(address, says, capsys):
    started = time.monotonic()
    assert cli.main([*RUN, "--scheduler", address]) == 2
    assert time.monotonic() - started < 5 and says in capsys.readouterr().err


def test_something_else_that_listens_is_no_scheduler(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        started = time.monotonic()
        assert cli.main([*RUN, "--scheduler", f"tcp://127.0.0.1:{other.getsockname()[1]}"]) == 2
    assert time.monotonic() - started < 5 and "no Dask scheduler answers" in capsys.readouterr().err


def certificates(folder: Path) -> tuple[str, str]:
    """A certificate that is its own authority, and its key."""
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=hetpure",
        "-keyout",
        key,
        "-out",
        cert,
    ]
    try:
        subprocess.run(made, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs openssl, to make a certificate")
    return cert, key


def test_tls_is_used_where_it_is_asked_for_and_strangers_are_refused(tmp_path):
    cert, key = certificates(tmp_path)
    security = ("--tls-ca-file", cert, "--tls-cert", cert, "--tls-key", key)
    with Cluster(tmp_path, "tls", security) as cluster:
        run = started_run(
            tmp_path / "results",
            "--scheduler",
            cluster.address,
            "--tls-ca",
            cert,
            "--tls-cert",
            cert,
            "--tls-key",
            key,
        )
        assert run.communicate(timeout=300) and run.returncode == 0
        assert len(evidence.read(EXPERIMENT.path(tmp_path / "results"))) == 16
        other = tmp_path / "other"
        other.mkdir()
        stranger, its_key = certificates(other)
        with pytest.raises(ValueError, match="no Dask scheduler answers"):
            workers.connect(cluster.address, workers.Tls(cert, stranger, its_key))
