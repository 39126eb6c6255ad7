"""A record names the sources that decided it, and no others."""

from __future__ import annotations

import subprocess
import sys
import types

from hetpure_lab.evidence import Experiment, code
from hetpure_lab.report import regenerate


def used(defence: str, attack: str = "pgd") -> set[str]:
    return set(code.of(Experiment(defence, attack).classes))


def test_an_experiment_depends_on_its_own_purifier_and_attack_only():
    shared = used("none")
    assert {
        "hetpure_core.py",
        "hetpure_lab/attacks/pgd.py",
        "hetpure_lab/networks/benches.py",
    } <= shared
    more = used("lorid") - shared
    assert "hetpure_lab/defences/lorid.py" in more and all(
        name.startswith("hetpure_lab/defences/") for name in more
    )
    assert used("hetpure") == shared  # it lives in the core
    assert not any(name.endswith("registry.py") for name in used("adp", "square"))
    assert "hetpure_lab/attacks/autoattack.py" in used("none", "square") - shared


def test_another_purifier_changes_nothing_and_an_edit_of_ones_own_does(monkeypatch):
    before = code.of(Experiment("lorid", "pgd").classes)
    monkeypatch.setitem(code.CODE, "hetpure_lab/defences/mine.py", "new")
    monkeypatch.setitem(code.TEXTS, "hetpure_lab/defences/mine.py", b"")
    assert code.of(Experiment("lorid", "pgd").classes) == before
    monkeypatch.setitem(code.CODE, "hetpure_lab/defences/lorid.py", "edited")
    assert code.of(Experiment("lorid", "pgd").classes) != before


def test_a_plug_in_counts_with_its_file(tmp_path, monkeypatch):
    module = types.ModuleType("my_purifier")
    module.__file__ = str(tmp_path / "my_purifier.py")
    (tmp_path / "my_purifier.py").write_text("class Mine: pass\n")
    exec((tmp_path / "my_purifier.py").read_text(), module.__dict__)
    monkeypatch.setitem(sys.modules, "my_purifier", module)
    assert len(code.of([module.Mine])["my_purifier"]) == 12


def test_live_results_are_kept_apart_by_all_sources_that_decide_them(monkeypatch):
    before = code.fingerprint()
    assert regenerate.LIVE.name == before
    for source in (
        "hetpure_lab/attacks/pgd.py",
        "hetpure_lab/evidence/engine.py",
        "hetpure_lab/defences/lorid.py",
    ):
        assert code.fingerprint(code.CODE | {source: "edited"}) != before


def test_records_are_read_and_listed_without_loading_torch():
    script = (
        "import sys\nfrom hetpure_lab.evidence import claims, listing, manifest, records\nassert"
        " 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
