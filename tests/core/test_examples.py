"""Every public name has an example that runs, and says what it refuses."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re

import pytest

import hetpure_core
import hetpure_lab as hp

ERRORS = re.compile(r"`\w*Error`|[Nn]o error|nothing is refused")


@pytest.fixture(scope="module")
def entries(root) -> dict[str, str]:
    """The sections of the page by name."""
    page = (root / "tests" / "core" / "examples.md").read_text()
    _, *parts = re.split(r"^## ", page, flags=re.MULTILINE)
    return {part.split("\n", 1)[0]: part for part in parts}


def test_the_examples_of_the_method_file_run(root):
    page = str(root / "tests" / "core" / "examples.md")
    failed, tried = doctest.testfile(page, module_relative=False, optionflags=doctest.ELLIPSIS)
    assert tried >= len(hetpure_core.__all__) and not failed


def test_every_public_name_of_the_method_file_has_an_example_and_says_its_errors(entries):
    assert set(entries) == set(hetpure_core.__all__)
    wrong = [
        name for name, text in entries.items() if ">>> " not in text or not ERRORS.search(text)
    ]
    assert not wrong


@pytest.mark.parametrize("name", hetpure_core.__all__)
def test_every_class_and_function_of_the_method_file_is_documented(name):
    thing = getattr(hetpure_core, name)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert len(inspect.getdoc(thing) or "") > 30


PUBLIC = sorted(set(hp.__all__) - {"__version__"})


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_of_the_lab_has_an_example_that_runs_and_says_its_errors(name):
    public = importlib.import_module("hetpure_lab.public")
    function = getattr(public, name)
    text = inspect.getdoc(function) or ""
    assert ERRORS.search(text), f"{name} does not say what it raises"
    (found,) = doctest.DocTestFinder(recurse=False).find(function, name, module=public)
    assert found.examples, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    found.globs = {"hp": hp}
    said: list[str] = []
    failed, tried = runner.run(found, out=said.append)
    assert tried and not failed, "".join(said)


@pytest.mark.parametrize("module", ["hetpure_core", "hetpure_lab.common.extras"])
def test_doctests_of_other_modules_run(module):
    assert not doctest.testmod(importlib.import_module(module)).failed
