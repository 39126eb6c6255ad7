"""One progress bar for all long work: where it is seen, and what hides it."""

from __future__ import annotations

import io

import pytest

from hetpure_lab.common import progress


@pytest.fixture
def seen(monkeypatch) -> io.StringIO:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    shown = io.StringIO()
    monkeypatch.setattr(progress, "stream", lambda: shown)
    return shown


def test_a_bar_counts_things_and_totals(seen):
    assert list(progress.bar([1, 2, 3], "things")) == [1, 2, 3]
    with progress.bar(4, "a total", unit="image") as bar:
        bar.update(4)
    said = seen.getvalue()
    assert "things: 100%" in said and "3/3" in said and "a total: 100%" in said and "4/4" in said


@pytest.mark.parametrize("hidden", ["quiet", "environment"])
def test_a_bar_is_hidden_on_demand_and_by_the_environment(hidden, seen, monkeypatch):
    if hidden == "environment":
        monkeypatch.setenv("TQDM_DISABLE", "1")
    assert list(progress.bar([1], "things", quiet=hidden == "quiet")) == [1] and not seen.getvalue()


def test_all_long_work_has_this_bar(root):
    """Nobody else makes one, so that each is seen in the shell that started a notebook."""
    made = [
        path.name
        for path in (root / "hetpure_lab").rglob("*.py")
        if "tqdm(" in path.read_text() and path.name != "progress.py"
    ]
    assert not made
