"""Nobody can bend a record: whatever is planted in a file is found, and named."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hetpure_lab import data, evidence
from hetpure_lab.evidence import Experiment, entering, manifest, pixels, records, rescore, verify
from hetpure_lab.evidence.manifest import Entry

EXPERIMENT = Experiment(
    "uniform:steps=1", "pgd:iterations=1,eot=1,confirm=0,norm=L2,eps=0.5,step=0.4", K=4
)
OTHER = Experiment("uniform:steps=1", "pgd:iterations=1,eot=1,confirm=0", K=4)


@pytest.fixture(scope="module")
def images():
    return data.embedded_sample(data.DATASETS["cifar10"])[torch.arange(3)].named("test")


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """Results with two experiments, entered by the engine."""
    results = tmp_path_factory.mktemp("results")
    for experiment in (EXPERIMENT, OTHER):
        evidence.run(experiment, images, progress=False, results=results)
    return results


@pytest.fixture
def results(whole, tmp_path):
    """A copy to bend."""
    shutil.copytree(whole, tmp_path / "results")
    return tmp_path / "results"


def bend(results: Path, change) -> Path:
    """The file with its second record as `change` returns it; a list is several lines, None leaves
    it out.
    """
    path = EXPERIMENT.path(results)
    rows = list(evidence.read(path).values())
    changed = change(json.loads(json.dumps(rows[1])))
    rows[1:2] = changed if isinstance(changed, list) else [changed]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def column(record: dict, name: str, **changes) -> dict:
    return record | {name: record[name] | changes}


def longer(record: dict, factor: int) -> dict:
    delta = pixels.unpack(record["delta"], (3, 32, 32)).short() * factor
    return record | {"delta": pixels.pack(delta.clamp(-127, 127).to(torch.int8))}


def another_eps(record: dict) -> dict:
    return record | {
        "config": record["config"] | {"attack": record["config"]["attack"] | {"eps": 0.25}}
    }


def wrong_label(record: dict) -> dict:
    return record | {"label": (record["label"] + 1) % 10}


def wrong_labels(record: dict) -> dict:
    """All of a column, with votes that fit them."""
    return column(record, "null", labels=4 * [7], hard={"4": 7}, soft={"4": 7})


PLANTED = {
    "a label": (wrong_label, "label: . and the data say|label: ., and the data say"),
    "a label that is no class": (lambda r: r | {"label": 10}, r"label: 10 is out of range 0\.\.9"),
    "no label": (lambda r: r | {"label": None}, "no label but None"),
    "predicted labels": (wrong_labels, "null: . of 4 labels come out differently"),
    "a hard vote": (
        lambda r: column(r, "adversarial", hard={"4": (r["adversarial"]["hard"]["4"] + 1) % 10}),
        "adversarial: the hard vote",
    ),
    "a soft vote": (
        lambda r: column(r, "clean", soft={"4": (r["clean"]["soft"]["4"] + 1) % 10}),
        "clean: the soft vote of 4 comes out",
    ),
    "a longer delta": (lambda r: longer(r, 8), "outside the l2 ball of 0.5"),
    "a delta that is none": (lambda r: r | {"delta": "nonsense"}, "delta: cannot be unpacked"),
    "a smaller radius": (another_eps, "configuration: its key is .*, and the file's is"),
    "another bench": (
        lambda r: r | {"config": r["config"] | {"bench": "svhn-small"}},
        "bench: svhn-small in a file of cifar10-small",
    ),
    "an unknown bench": (
        lambda r: r | {"config": r["config"] | {"bench": "mine"}},
        "bench: unknown bench 'mine'",
    ),
    "other weights": (
        lambda r: r | {"config": r["config"] | {"weights": {}}},
        "configuration: its key is",
    ),
    "an unknown image": (lambda r: r | {"image": "0123456789abcdef"}, "image: it is none of"),
    "other data": (lambda r: r | {"data": "0123456789abcdef"}, "is of other data"),
    "a duplicate": (lambda r: [r, r], "a duplicate of line 2"),
    "a conflicting duplicate": (lambda r: [r, wrong_label(r)], "a conflicting duplicate of line 2"),
    "no columns": (lambda r: {"image": "x"}, "no configuration"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_named(name, results, images):
    change, says = PLANTED[name]
    path = bend(results, change)
    verdict, _ = verify.file(path, images, None)
    about = [str(fault) for fault in verdict.faults]
    assert any(re.search(says, text) for text in about), about
    (changed,) = manifest.differences(results)
    assert changed.file == path.relative_to(results).as_posix() and changed.changed


def test_a_foreign_record_is_named(results, images):
    foreign, *_ = evidence.read(OTHER.path(results)).values()
    verdict, _ = verify.file(bend(results, lambda r: foreign), images, ())
    assert any(
        "configuration: its key is" in fault.says and fault.number == 2 for fault in verdict.faults
    )


def test_nothing_is_wrong_with_what_the_engine_wrote(results, images):
    for experiment in (EXPERIMENT, OTHER):
        verdict, now = verify.file(experiment.path(results), images, None)
        assert not verdict.faults and not verdict.unchecked and verdict.scored == len(now) == 3
    assert not manifest.differences(results)


def test_without_data_the_rest_is_checked_and_it_is_said_what_is_not(results):
    verdict, _ = verify.file(bend(results, lambda r: longer(r, 8)), None, None)
    assert (
        "outside the l2 ball" in verdict.faults[0].says
        and "the data are not here" in verdict.unchecked[0]
    )
    verdict, _ = verify.file(bend(results, wrong_label), None, None)
    assert not verdict.faults[1:] and verdict.scored == 0


def test_a_radius_is_not_compared_across_norms(results, images):
    """An l2 ball of 0.5 may hold single differences that are far outside 0.5/255."""
    records_of = evidence.read(EXPERIMENT.path(results)).values()
    assert max(int(pixels.unpack(r["delta"], (3, 32, 32)).abs().max()) for r in records_of) > 1


# ---- the manifest --------------------------------------------------------------------------------


def test_a_cut_a_removed_and_a_new_file_are_named(results):
    path, other = EXPERIMENT.path(results), OTHER.path(results)
    text = path.read_bytes()
    path.write_bytes(text[: text.rindex(b"\n", 0, -1) + 1])
    shutil.copy(other, other.with_name("copy.jsonl"))
    other.unlink()
    says = {Path(d.file).name: d.says for d in manifest.differences(results)}
    assert (
        "was cut" in says[path.name]
        and says[other.name] == "is gone"
        and "never entered" in says["copy.jsonl"]
    )


def test_a_torn_line_is_named_and_closed_by_the_next_record(results, images):
    path = EXPERIMENT.path(results)
    with path.open("ab") as file:
        file.write(b'{"image": "b", "v"')
    verdict, _ = verify.file(path, images, ())
    assert "not a whole record" in verdict.faults[0].says
    records.append(
        path, [wrong_label(next(iter(evidence.read(OTHER.path(results)).values())))], results
    )
    assert not manifest.differences(results)  # a torn line is nobody's record


def test_lines_that_no_engine_entered_are_entered_once_they_are_verified(
    results, images, monkeypatch
):
    monkeypatch.setattr(verify, "_images", lambda *_: images)
    path, entry = EXPERIMENT.path(results), "cifar10-small/" + EXPERIMENT.path(results).name
    rows, new = list(evidence.read(path).values()), path.with_suffix(".new")
    known = manifest.read(results)[entry]
    records.append(new, rows[:2])
    manifest.enter(results, {entry: new.read_bytes()})
    records.append(new, rows[2:])
    new.replace(path)  # as if the last had come from another machine
    (left,) = manifest.differences(results)
    assert not left.changed and "1 lines behind" in left.says
    monkeypatch.setattr(entering, "RESULTS", results)
    with pytest.warns(UserWarning, match="nobody entered"):
        records.append(path, rows[:1], results)  # the engine vouches for its own lines only
    path.write_bytes(path.read_bytes()[: path.read_bytes().rindex(b"\n", 0, -1) + 1])
    assert entering.main(["--enter", "--n-images", "0"]) == 0 and entering.main([]) == 0
    assert manifest.read(results)[entry].lines == known.lines
    bent = bend(results, wrong_label)
    assert entering.main([str(bent), "--enter"]) == 1
    assert not entering.verified(OTHER.path(results), 0) and manifest.differences(results)


def test_a_changed_file_is_entered_only_on_purpose_and_never_with_a_fault(
    results, images, monkeypatch, capsys
):
    monkeypatch.setattr(verify, "_images", lambda *_: images)
    monkeypatch.setattr(entering, "RESULTS", results)
    path = bend(results, lambda r: r | {"seconds": 0.1})
    assert (
        entering.main(["--enter", "--n-images", "0"]) == 1
        and "--replace" in capsys.readouterr().out
    )
    assert entering.main(["--enter", "--replace", "--n-images", "0"]) == 0
    bend(results, lambda r: longer(r, 8))
    assert entering.main(["--enter", "--replace", "--n-images", "0", str(path)]) == 1
    assert "outside the l2 ball" in capsys.readouterr().out
    with pytest.raises(ValueError, match="give --enter"):
        entering.main(["--replace"])


def test_a_damaged_manifest_is_one_sentence(results):
    (results / manifest.NAME).write_text('{"a": {"bytes": 1}}')
    with pytest.raises(ValueError, match="manifest.json is damaged"):
        manifest.differences(results)


def test_an_entry_stands_for_the_beginning_of_a_file():
    assert Entry.of(b"a\nb\n") == Entry(4, 2, hashlib.sha256(b"a\nb\n").hexdigest())


WRITER = """
import sys
from pathlib import Path
from hetpure_lab.evidence import records
results = Path(sys.argv[1])
for k in range(40):
    record = {"image": f"{k}", "fill": "x" * 999}
    records.append(results / "bench" / f"{sys.argv[2]}.jsonl", [record], results)
"""


def test_writers_of_several_files_keep_one_manifest(tmp_path):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name]) for name in "aab"
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert not manifest.differences(tmp_path)
    assert {entry.lines for entry in manifest.read(tmp_path).values()} == {80, 40}


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_verifies_a_file_and_ends_with_1_if_anything_differs(
    results, images, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(rescore, "NOTES", tmp_path / "rescored.jsonl")
    monkeypatch.setattr(verify, "_images", lambda *_: images)
    path = EXPERIMENT.path(results)
    assert rescore.main([str(path), "--all"]) == 0
    assert "nothing wrong with 3 records, of which 3 were scored again" in capsys.readouterr().out
    assert len(rescore.notes(tmp_path / "rescored.jsonl")) == 3
    bend(results, wrong_label)
    assert rescore.main([str(path), "--n-images", "0"]) == 1
    assert "line 2" in (said := capsys.readouterr().out) and "and the data say" in said
    with pytest.raises(ValueError, match="no file"):
        rescore.main([str(path.with_name("mistyped.jsonl"))])
    with pytest.raises(ValueError, match="must not be negative"):
        rescore.main([str(path), "--n-images", "-1"])


# ---- what is committed ---------------------------------------------------------------------------


def test_committed_records_are_as_they_were_entered():
    assert not (left := manifest.differences(evidence.RESULTS)), (
        f"hetpure manifest --enter verifies and enters: {left[0]}"
    )


def test_a_random_sample_of_committed_records_is_true():
    """Without scoring, which `test_rescore` does; other files at every run."""
    random = rescore.Random()
    for path in random.sample(evidence.files(), min(6, len(evidence.files()))):
        verdict, _ = verify.file(path, verify.images_of(path), ())
        assert not verdict.faults, f"{path.name}: {verdict.faults[0]}"
        assert verdict.looked_at


def test_a_file_that_is_neither_there_nor_entered_is_not_as_entered(tmp_path):
    with pytest.raises(ValueError, match="nothing.jsonl is no file of records under"):
        manifest.differences(tmp_path, [tmp_path / "nothing.jsonl"])
