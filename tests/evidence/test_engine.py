"""Evidence: what was acknowledged is there, nothing counts twice, and a killed run continues where
it was.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hetpure_core import HetPure, vote
from hetpure_lab import attacks, data, evidence
from hetpure_lab.attacks import ATTACKS, PGD
from hetpure_lab.common import specs
from hetpure_lab.common.paths import ROOT
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import Experiment, command, engine, manifest, pixels, records, select
from hetpure_lab.evidence.outcomes import RULES, Outcomes, column_record
from hetpure_lab.networks import benches

FAST = "pgd:iterations=1,eot=1,confirm=0"


@pytest.fixture(scope="module")
def images():
    return data.embedded_sample(data.DATASETS["cifar10"])


def test_specs_round_trip_and_refuse_nonsense():
    assert specs.parse("hetpure:tau=0.5,U=3,blocks=0+2", DEFENCES)[1].blocks == (0, 2)
    assert specs.parse("pgd:eps=4/255", ATTACKS)[1].eps == 4 / 255
    assert specs.parse("none", DEFENCES) == ("none", None)
    for bad in ("nothing", "uniform:tau=0.5", "hetpure:t_l=0.1,t_s=0.2", "none:t=1"):
        with pytest.raises(ValueError):
            specs.parse(bad, DEFENCES)


@pytest.mark.parametrize(
    "text", ["pgd:eps=2/255", "pgd:norm=L2,eps=0.5", "pgd:eps=1/510", "pgd", "pgd:eps=4/255,eot=4"]
)
def test_radii_are_shown_as_people_write_them_and_mean_the_same(text):
    written = specs.normal(text, ATTACKS)
    assert (
        specs.normal(specs.readable(written), ATTACKS)
        == written
        == specs.normal(specs.readable(text), ATTACKS)
    )
    assert specs.readable(written) == (text if "510" not in text else written)
    assert specs.readable("hetpure:steps=2,U=3") == "hetpure:steps=2,U=3"


@pytest.mark.parametrize(
    "ball", ["eps=0", "eps=1/510", "eps=0.6", "norm=L2,eps=0", "norm=L2,eps=0.003"]
)
def test_a_radius_that_8_bits_cannot_hold_is_refused_before_any_work(ball, images, tmp_path):
    with pytest.raises(ValueError, match="radius is from 1/255"):
        evidence.run(Experiment("none", f"pgd:{ball}"), images, progress=False, results=tmp_path)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_an_experiment_is_its_settings_not_its_wording():
    assert Experiment("hetpure", FAST).key == Experiment("hetpure:tau=0.8,U=10", FAST).key
    assert (
        len({Experiment(d, FAST).key for d in ("hetpure", "hetpure:tau=0.7", "uniform", "none")})
        == 4
    )


def test_records_are_complete_and_reproducible(images, tmp_path):
    experiment = Experiment("uniform:steps=2", FAST, K=3)
    first = evidence.run(
        experiment, images[torch.arange(5)], progress=False, batch=2, results=tmp_path / "a"
    )
    again = evidence.run(
        experiment,
        images[torch.tensor([4, 2, 0, 1, 3])],
        progress=False,
        batch=5,
        results=tmp_path / "b",
    )
    for key, record in first.items():
        assert {k: record[k] for k in ("adversarial", "clean", "null")} == {
            k: again[key][k] for k in ("adversarial", "clean", "null")
        }
        assert {
            "config",
            "source",
            "code",
            "commit",
            "libraries",
            "device",
            "seconds",
            "denoiser_calls",
        } <= set(record)
    row = evidence.summary(experiment.path(tmp_path / "a"))
    assert (row["n"], row["K"], row["norm"], row["defence"]) == (
        5,
        3,
        "Linf",
        "uniform:t=0.1,steps=2",
    )


def test_only_missing_images_run(images, tmp_path, monkeypatch):
    experiment, seen = Experiment("none", FAST), []
    inner = engine.recorded
    monkeypatch.setattr(
        engine,
        "recorded",
        lambda e, d, a, rows, *rest: seen.extend(rows.ids) or inner(e, d, a, rows, *rest),
    )
    evidence.run(experiment, images.take(3), progress=False, results=tmp_path)
    evidence.run(experiment, images.take(5), progress=False, results=tmp_path)
    assert sorted(seen) == sorted(images.take(5).ids)


def test_adversarial_images_can_be_rebuilt(images, tmp_path):
    found = evidence.run(
        Experiment("none", "pgd:iterations=3,eot=1"), images, progress=False, results=tmp_path
    )
    rebuilt = evidence.adversarial_images(images, found)
    difference = rebuilt.short() - images.pixels.short()
    assert rebuilt.dtype == torch.uint8 and 0 < difference.abs().max() <= 8


def test_exported_pngs_are_the_stored_images(images, tmp_path):
    found = evidence.run(
        Experiment("none", "pgd:iterations=3,eot=1"), images, progress=False, results=tmp_path
    )
    paths = pixels.export(images, found, tmp_path / "png")
    assert [p.stem for p in paths] == images.ids and len(set(images.ids)) == len(images)
    for i, path in enumerate(paths):
        read_back = (
            torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1).short()
            - images.pixels[i].short()
        )
        assert torch.equal(read_back, pixels.unpack(found[path.stem]["delta"], (3, 32, 32)).short())
        assert read_back.abs().max() <= 8
    rows = (tmp_path / "png/labels.csv").read_text().splitlines()
    assert rows[1:] == [f"{key},{label}" for key, label in zip(images.ids, images.labels.tolist())]
    with pytest.raises(ValueError, match="1 of 20 images are not in"):
        pixels.export(images[torch.arange(19)], found, tmp_path / "part")


def test_objects_name_an_experiment_as_well_as_specs_do():
    assert Experiment(HetPure(tau=0.5), PGD(iterations=1, eot=1, confirm=0)) == Experiment(
        "hetpure:tau=0.5", "pgd:iterations=1,eot=1,confirm=0"
    )
    assert Experiment(None, PGD()).defence == "none"
    with pytest.raises(ValueError, match="of no known kind"):
        Experiment(3, PGD())


def test_a_record_says_what_made_it(images, tmp_path):
    """Also how often the denoiser ran: 2 steps in one gradient (4 if recomputed), and in 3 x 2
    purifications.
    """
    (record,) = evidence.run(
        Experiment("uniform:steps=2", FAST, K=2), images.take(1), progress=False, results=tmp_path
    ).values()
    assert record["denoiser_calls"] in (2 + 3 * 2 * 2, 4 + 3 * 2 * 2)
    assert (
        record["code"]["hetpure_core.py"]
        == hashlib.sha256((ROOT / "hetpure_core.py").read_bytes()).hexdigest()[:12]
    )
    assert record["libraries"]["torch"] == torch.__version__.split("+")[0]
    assert record["config"]["weights"].keys() == {
        "cifar10-small-classifier",
        "cifar10-small-denoiser",
    }


def test_code_is_described_as_it_was_imported(monkeypatch):
    """An edit during a run must not end up in the records of the code that runs."""
    before = evidence.provenance()
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"edited")
    assert evidence.provenance() == before


# ---- writers that are stopped, in company, or out of space ---------------------------------------


def test_torn_line_is_dropped_and_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "r.jsonl"
    records.append(path, [{"image": "a", "v": 1}])
    with path.open("ab") as file:
        file.write(b'{"image": "b", "v"')
    records.append(path, [{"image": "c", "v": 3}, {"image": "a", "v": 9}])
    with pytest.warns(UserWarning, match="r.jsonl, line 2: not a whole record"):
        found = records.read(path)
    assert {k: r["v"] for k, r in found.items()} == {"a": 1, "c": 3}


WRITER = """
import resource, sys
from pathlib import Path
from hetpure_lab.evidence import records
path, name, batches, limit = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
for k in range(batches):
    batch = [f"{name} {k} {i}" for i in range(3)]
    try:
        records.append(path, [{"image": image, "fill": image * 200} for image in batch])
    except OSError as error:
        print("error", error, flush=True)
        break
    print(*batch, sep=chr(10), flush=True)
"""


def writer(path: Path, name: str, batches: int, limit: int = 0) -> subprocess.Popen:
    """A process that appends batches of three records, and says which it was told are safe."""
    command = [sys.executable, "-c", WRITER, str(path), name, str(batches), str(limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)


def whole(path: Path) -> dict[str, dict]:
    """All records, after checking that each is what its writer wrote."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = records.read(path)
    assert all(r["fill"] == image * 200 for image, r in found.items())
    return found


def test_what_was_acknowledged_survives_twenty_kills_at_random_instants(tmp_path):
    path, rng, acknowledged = tmp_path / "r.jsonl", np.random.default_rng(0), set()
    for k in range(20):
        process = writer(path, f"writer {k}", 10**6)
        acknowledged.add(process.stdout.readline().strip())
        time.sleep(0.02 * rng.random())
        process.send_signal(signal.SIGKILL)
        acknowledged |= set(process.stdout.read().split("\n")[:-1])
        assert process.wait() == -signal.SIGKILL
        assert acknowledged <= set(whole(path))
    lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
    assert len(lines) == len(whole(path)) >= 60  # nothing twice
    records.append(path, [{"image": "the next", "fill": "the next" * 200}])
    assert "the next" in whole(path)


STOPPED = """
import os, signal, sys
from pathlib import Path
from hetpure_lab.evidence import manifest, records
results, where = Path(sys.argv[1]), sys.argv[2]
def stop(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def torn(file, text):
    os.write(file, text[: len(text) - 7])
    stop()
records.append(results / "bench" / "r.jsonl", [{"image": "first"}], results)
if where == "announced":
    records._write = stop
elif where == "half written":
    records._write = torn
elif where == "written":
    records._enter = stop
else:
    manifest._write = stop
records.append(results / "bench" / "r.jsonl", [{"image": "second"}, {"image": "third"}], results)
"""


@pytest.mark.parametrize("where", ["announced", "half written", "written", "entering"])
def test_a_run_that_is_killed_while_it_appends_leaves_a_manifest_that_mends_itself(where, tmp_path):
    """Lines announced and not yet entered are the engine's own: the next append enters them, and
    nobody is told that they are foreign.
    """
    command = [sys.executable, "-c", STOPPED, str(tmp_path), where]
    assert subprocess.run(command, env=os.environ).returncode == -signal.SIGKILL
    path = tmp_path / "bench" / "r.jsonl"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a torn line
        found = set(records.read(path))
    whole = {"announced": 1, "half written": 2}.get(where, 3)
    assert len(found) == whole and "first" in found
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        records.append(path, [{"image": "next"}], tmp_path)
    assert manifest.differences(tmp_path) == []
    assert not any((tmp_path / ".announced").iterdir())


def test_two_writers_at_once_lose_and_mix_nothing(tmp_path):
    path = tmp_path / "r.jsonl"
    # the third repeats the first: its lines do not count again
    processes = [writer(path, name, 150) for name in ("a", "b", "a")]
    said = [set(p.communicate()[0].split("\n")[:-1]) for p in processes]
    assert set(whole(path)) == set.union(*said) and len(set.union(*said)) == 2 * 150 * 3
    assert len([line for line in path.read_text().splitlines() if line]) == 3 * 150 * 3


def test_nobody_can_tear_a_line_between_the_look_at_the_end_and_the_write(tmp_path, monkeypatch):
    path, inner, shut_out = tmp_path / "r.jsonl", records._write, []
    records.append(path, [{"image": "a", "v": 1}])

    def write(file, text):
        with path.open("ab") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # what a writer leaves that runs into a full disk
                os.write(other.fileno(), b'{"image": "torn')
            except BlockingIOError:
                shut_out.append(True)
        inner(file, text)

    monkeypatch.setattr(records, "_write", write)
    records.append(path, [{"image": "b", "v": 2}])
    assert shut_out and set(records.read(path)) == {"a", "b"}


def test_a_full_disk_is_an_error_and_keeps_what_was_acknowledged(tmp_path):
    """The limit on the size of files gives a short write, as a disk does that fills up."""
    path = tmp_path / "r.jsonl"
    said = writer(path, "w", 100, limit=40_000).communicate()[0].split("\n")[:-1]
    assert (
        said[-1].startswith("error")
        and "r.jsonl" in said[-1]
        and "the last 3 records were not stored" in said[-1]
    )
    assert path.stat().st_size == 40_000
    with pytest.warns(UserWarning, match="not a whole record"):
        found = records.read(path)
    assert set(said[:-1]) <= set(found) and len(found) < len(said) - 1 + 3
    records.append(path, [{"image": "after", "fill": "after" * 200}])  # there is space again
    assert set(whole(path)) == set(found) | {"after"}


RUNNER = """
import sys, torch
from pathlib import Path
from hetpure_lab import data, evidence
torch.set_num_threads(1)
images = data.embedded_sample(data.DATASETS["cifar10"])
print("ready", flush=True)
experiment = evidence.Experiment("none", "pgd:iterations=12,eot=1,confirm=0")
evidence.run(experiment, images, batch=1, progress=False, results=Path(sys.argv[1]))
"""


def test_a_killed_run_goes_on_where_it_was(images, tmp_path):
    experiment = Experiment("none", "pgd:iterations=12,eot=1,confirm=0")
    path = experiment.path(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(tmp_path)], stdout=subprocess.PIPE, env=os.environ
    )
    process.stdout.readline()
    while not path.exists() or not path.stat().st_size:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(evidence.read(path)) < len(images)
    evidence.run(experiment, images, progress=False, results=tmp_path)
    lines = [line.record["image"] for line in records.lines(path.read_bytes()) if line.record]
    assert sorted(lines) == sorted(images.ids)  # every image once: nothing lost, nothing twice


def test_images_that_another_process_finished_meanwhile_are_skipped(images, tmp_path, monkeypatch):
    experiment, seen, inner = Experiment("none", FAST), [], engine.recorded
    theirs = evidence.shard(experiment, images.take(3)[torch.tensor([2])])

    def recorded(e, d, a, rows, *rest):
        if not seen:
            records.append(experiment.path(tmp_path), theirs)
        seen.extend(rows.ids)
        return inner(e, d, a, rows, *rest)

    monkeypatch.setattr(engine, "recorded", recorded)
    evidence.run(experiment, images.take(3), batch=1, progress=False, results=tmp_path)
    assert seen == images.take(3).ids[:2]


# ---- what follows from outcomes ------------------------------------------------------------------


def outcomes(correct: np.ndarray) -> Outcomes:
    labels = np.full(len(correct), 3)
    return Outcomes(labels, {"adversarial": np.where(correct, 3, 5)})


def test_scores_follow_from_outcomes():
    o = outcomes(np.array([[1, 1, 1], [1, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=bool))
    assert o.single("adversarial").value == pytest.approx(0.5)
    assert o.majority("adversarial").value == 0.5 and o.every("adversarial").value == 0.25


def test_votes_of_s_are_those_of_the_first_s_purifications():
    """Records keep the votes that need probabilities; they are the core's votes of the logits."""
    logits = torch.randn(20, 40, 4, generator=torch.Generator().manual_seed(0))
    column = column_record(logits)
    rows = {str(i): {"label": 1} | dict.fromkeys(evidence.COLUMNS, column[i]) for i in range(40)}
    o = Outcomes.of(rows)
    for how in ("hard", "soft"):
        for S in (1, 10, 20):
            expected = vote(logits[:S], how)
            assert o.vote("clean", how, S).tolist() == expected.tolist()
            assert o.accuracy("clean", f"{how}_{S}").value == (expected == 1).double().mean()
    assert o.majority("clean") == o.accuracy("clean", "hard_20")
    assert any(c["hard"]["10"] != c["soft"]["10"] for c in column)


def test_early_records_are_read_as_far_as_they_go():
    """They kept one soft label, of all K."""
    column = {"labels": [1, 2, 2, 2, 2, 2, 2, 2, 2, 1], "soft": 1}
    o = Outcomes.of({"a": {"label": 2} | dict.fromkeys(evidence.COLUMNS, column)})
    assert o.vote("clean", "soft", 10).tolist() == [1] and o.vote("clean", "hard", 10).tolist() == [
        2
    ]
    assert o.accuracy("clean", "soft_20") is None and o.accuracy("clean", "hard_20") is None


def test_every_rule_has_its_controls_beside_it():
    path = next(iter(evidence.files()), None)
    if path is None:
        pytest.skip("no records of the current weights")
    row = evidence.summary(path)
    assert all(f"{column}_{rule}" in row for column in evidence.COLUMNS for rule in RULES)


def test_several_seeds_separate_runs_from_images(images, tmp_path, monkeypatch):
    monkeypatch.setattr(select, "files", lambda results: sorted(results.glob("*/*.jsonl")))
    for seed in (0, 1):
        experiment = Experiment("uniform:steps=1", FAST, K=2, seed=seed)
        evidence.run(experiment, images.take(4), progress=False, results=tmp_path)
    evidence.run(Experiment("none", FAST), images.take(4), progress=False, results=tmp_path)
    (spread,) = evidence.over_seeds("cifar10-small", "clean", tmp_path).values()
    assert (spread.runs, spread.n) == (2, 4)


def meant(config: dict) -> dict:
    """A configuration with the settings that differ from their defaults: older records lack options
    that came later.
    """
    return config | {
        "defence": specs.write(config["defence"], DEFENCES),
        "attack": specs.write(config["attack"], ATTACKS),
    }


def test_committed_records_are_readable_and_what_they_claim():
    for path in sorted(evidence.RESULTS.glob("*/*.jsonl")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = evidence.read(path)
        config = next(iter(found.values()))["config"]
        assert all(meant(r["config"]) == meant(config) for r in found.values()), path
        assert all(
            len(r[c]["labels"]) == config["K"] for r in found.values() for c in evidence.COLUMNS
        ), path
        bound = round(config["attack"]["eps"] * 255) if config["attack"]["norm"] == "Linf" else 127
        side = data.DATASETS[benches.dataset(config["bench"])].size
        assert all(
            evidence.unpack(r["delta"], (3, side, side)).abs().max() <= bound
            for r in found.values()
        ), path


def test_shares_are_checked_and_an_empty_one_does_nothing(capsys):
    for wrong in ("2/2", "0/0"):
        with pytest.raises(ValueError, match="0 <= i < n"):
            command.main(
                [
                    "run",
                    "--defence",
                    "none",
                    "--attack",
                    "noise",
                    "--n-images",
                    "1",
                    "--shard",
                    wrong,
                ]
            )
    words = ["run", "--defence", "none", "--attack", "noise", "--split", "sample"]
    command.main([*words, "--n-images", "1", "--shard", "1/2"])
    assert not capsys.readouterr().out


def test_presets_are_attacks_by_name():
    assert Experiment("none", "paper").config == Experiment("none", attacks.PRESETS["paper"]).config


def test_the_queue_is_made_of_valid_experiments():
    for words in evidence.queue():
        options = dict(zip(words[::2], words[1::2]))
        Experiment(options["--defence"], options["--attack"])


def test_what_the_queue_lacks_is_listed_with_the_images_on_record(images, tmp_path):
    evidence.run(Experiment("none", FAST), images.take(2), progress=False, results=tmp_path)
    line = f"--defence none --attack {FAST} --n-images"
    (tmp_path / "queue.txt").write_text(
        f"# of three lines two are not done\n{line} 2\n{line} 5\n{line} 2 --seed 9\n"
    )
    left = [
        (found, wanted)
        for _, found, wanted in evidence.outstanding(tmp_path / "queue.txt", tmp_path)
    ]
    assert left == [(2, 5), (0, 2)]


def test_a_device_that_is_none_is_told_before_any_work(images, tmp_path):
    with pytest.raises(ValueError, match="unknown device 'tpu'; use cpu, cuda"):
        evidence.run(Experiment("none", FAST), images, device="tpu", results=tmp_path)


def test_the_command_needs_no_home(tmp_path):
    env = {k: v for k, v in os.environ.items() if k not in ("HOME", "USERPROFILE")}
    command = [sys.executable, "-m", "hetpure_lab", "run", "--split", "sample", "--n-images", "1"]
    command += ["--defence", "none", "--attack", "noise"]
    done = subprocess.run(
        command, env=env | {"HETPURE_RESULTS": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0 and '"n": 1' in done.stdout, done.stderr
