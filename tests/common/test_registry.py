"""Registries, and settings as text: what may be named, what is refused, and in which words."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from dataclasses import dataclass, field
from typing import Literal

import pytest

from hetpure_lab.common import plugins, specs
from hetpure_lab.common.registry import Part, Registry, Unknown


@dataclass(frozen=True)
class Every:
    """A setting of every type that text can give."""

    t: float = 0.1
    n: int = 3
    flag: bool = False
    word: str = "a"
    kind: Literal["round", "square"] = "round"
    levels: tuple[int, ...] = (1, 2)
    pair: tuple[float, int] = (0.5, 2)
    rate: float | None = None
    blocks: tuple[int, ...] | None = field(default=None)


KNOWN = {"every": Every, "none": None}


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("every", Every()),
        ("every:t=8/255,n=-1", Every(t=8 / 255, n=-1)),
        ("every:flag=yes", Every(flag=True)),
        ("every:flag=0,rate=1e-3", Every(rate=1e-3)),
        ("every:kind=square,rate=none", Every(kind="square")),
        ("every:levels=5,pair=1/4+7", Every(levels=(5,), pair=(0.25, 7))),
        ("every:levels=,blocks=0+2", Every(levels=(), blocks=(0, 2))),
    ],
)
def test_text_makes_settings_of_their_types_and_settings_make_that_text(text, settings):
    assert specs.parse(text, KNOWN) == ("every", settings)
    assert specs.parse(specs.describe(settings, KNOWN), KNOWN)[1] == settings


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("every:t=8/0", "t is a number such as 0.5 or 8/255, not '8/0'"),
        ("every:t=1e400", "t is a number"),
        ("every:t=nan", "t is a number"),
        ("every:n=1.5", "n is a whole number, not '1.5'"),
        ("every:flag=maybe", "flag is a truth value: 1, true or yes, 0, false or no, not 'maybe'"),
        ("every:kind=oval", "unknown kind 'oval'; known: round, square"),
        ("every:pair=1", "pair has 2 values joined by '.', not '1'"),
        ("every:levels=1+x", "levels is a whole number, not 'x'"),
        ("every:rate=much", r"rate is a number .*, not 'much' \(or none\)"),
        ("every:t", "settings are written name=value, not 't'"),
        ("every:n=1,n=2", "n is set twice"),
        ("every:tau=1", "every has no setting tau; it has: t, n, flag"),
        ("none:t=1", "none has no setting t; it has: none"),
        ("some", "unknown 'some'; known: every, none"),
    ],
)
def test_bad_settings_are_a_sentence(text, says):
    with pytest.raises(ValueError, match=says):
        specs.parse(text, KNOWN)


CELL = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Cell:
    t: float = 0.5
    rate: float | None = None
    sizes: tuple[int, ...] = (1,)
"""


@pytest.mark.parametrize("first", ["", "from __future__ import annotations"])
def test_a_dataclass_of_a_cell_works_with_and_without_postponed_annotations(first, monkeypatch):
    cell = types.ModuleType("cell")
    monkeypatch.setitem(sys.modules, "cell", cell)
    exec(compile(first + CELL, "cell", "exec", dont_inherit=True), vars(cell))
    text = "cell:t=0.25,rate=1/2,sizes=2+3"
    found = specs.parse(text, {"cell": cell.Cell})[1]
    assert found == cell.Cell(0.25, 0.5, (2, 3))
    assert specs.describe(found, {"cell": cell.Cell}) == "cell:t=0.25,rate=0.5,sizes=2+3"


def test_a_setting_without_default_must_be_given():
    @dataclass
    class Needs:
        n: int

    assert specs.parse("needs:n=2", {"needs": Needs})[1] == Needs(2)
    assert specs.describe(Needs(2), {"needs": Needs}) == "needs:n=2"
    with pytest.raises(ValueError, match="needs needs a value of n"):
        specs.parse("needs", {"needs": Needs})


def test_a_registry_orders_refuses_and_says_what_it_knows():
    shapes: Registry[type] = Registry("shape", order=["b", "a"])
    for name in ("c", "a", "b"):
        shapes.add(name, type(name, (), {"__qualname__": name}))
    assert list(shapes) == ["b", "a", "c"] and len(shapes) == 3 and "d" not in shapes
    with pytest.raises(ValueError, match="unknown shape 'd'; known: b, a, c"):
        shapes["d"]
    with pytest.raises(KeyError):
        shapes["d"]
    assert issubclass(Unknown, ValueError) and shapes.get("d") is None
    with pytest.raises(ValueError, match="the shape 'a' is taken by"):
        shapes.add("a", int)
    shapes.add("a", shapes["a"])  # a cell that is run again
    for bad in ("A", "a:b", "a,b", "a=b", "", "-a"):
        with pytest.raises(ValueError, match="lower-case letters and digits"):
            shapes.add(bad, int)
    few = Part(shapes, lambda name: name != "b")
    assert list(few) == ["a", "c"] and few | {"z": 1} == {**few, "z": 1} and "b" not in few


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        ("import nothing_of_that_name", "needs the module 'nothing_of_that_name'"),
        ("1 / 0", "cannot be imported: ZeroDivisionError"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_a_sentence(content, says, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    file = tmp_path / "broken_plugin.py"
    if content is not None:
        file.write_text(content)
    with pytest.raises(plugins.PluginError, match=says):
        plugins.use(str(file))
    assert "broken_plugin" not in sys.modules and plugins.named() == []


def test_a_plugin_of_that_name_that_is_nowhere_is_a_sentence():
    with pytest.raises(plugins.PluginError, match="there is no plug-in 'nowhere.at_all'"):
        plugins.use("nowhere.at_all")


def test_an_installed_plugin_is_known_and_a_broken_one_stops_nobody(tmp_path):
    """The entry-point group, as pip would leave it on disk."""
    (tmp_path / "installed_plugin.py").write_text(
        "from hetpure_lab.common.registry import Registry\n"
        "from hetpure_lab.data import DATASETS, DataSet\n"
        "DATASETS.add('installed', DataSet('installed', 2, 8, ''))\n"
    )
    about = tmp_path / "installed_plugin-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: installed-plugin\nVersion: 1.0\n")
    points = "[hetpure.plugins]\nmine = installed_plugin\nbroken = gone_plugin\n"
    (about / "entry_points.txt").write_text(points)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    code = "from hetpure_lab.data import DATASETS; print(*DATASETS)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "installed" in done.stdout.split()
    assert "the plug-in gone_plugin is left out" in done.stderr
