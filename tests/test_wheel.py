"""The wheel away from the checkout: it carries networks and cards, and runs in any folder.

It is built as ``python -m build`` does, from the files that are tracked, unpacked into an empty
folder, and used in a working folder that is somebody else's repository.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

USE = """
import json, sys
from pathlib import Path
import hetpure_lab
import hetpure_lab as hp
from hetpure_lab.cli import main
from hetpure_lab.common import paths

assert not paths.CHECKOUT and Path(hetpure_lab.__file__).is_relative_to(sys.argv[1])
sample = ["--split", "sample"]
assert main(["--version"]) == 0
assert main(["check", "--bench", "cifar10-small", *sample, "--n-images", "4", "--json"]) == 0
attack = ["--attack", "pgd:iterations=1,eot=1", "--n-images", "2", "--K", "2"]
assert main(["run", "--defence", "uniform:t=0.1,steps=1", *attack, *sample]) == 0
assert main(["audit", "--defence", "uniform:t=0.1,steps=1", "--records-only"]) == 0
assert main(["pages"]) == 2 and main(["queue"]) == 2

bench, images = hp.load_bench("cifar10-small"), hp.load_images("cifar10", n=2, split="sample")
options = {"K": 2, "progress": False}
mine, noise = (hp.evaluate(hp.defend(bench, p), "noise", images, **options)
               for p in (lambda x: x, "uniform:t=0.1,steps=1"))
print(hp.compare(mine, noise).word)
(file,) = Path("results/cifar10-small").glob("*.jsonl")
from hetpure_lab.evidence.records import read
print(json.dumps([next(iter(read(file).values()))["commit"], len(read(file))]))
"""


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory) -> Path:
    """The wheel, built from a copy of the tracked files."""
    if not (root / ".git").exists():
        pytest.skip("which files are tracked is known in a checkout only")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    wanted = (
        "hetpure_core.py",
        "hetpure_lab/",
        "weights/",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    )
    names = subprocess.run(listed, cwd=root, capture_output=True, text=True, check=True).stdout
    for name in filter(lambda name: name.startswith(wanted), names.split("\0")):
        if (root / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "."]
    done = subprocess.run([*build, "-w", str(target)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = target.glob("hetpure-*.whl")
    return found


def test_the_wheel_has_all_packages_networks_and_cards(wheel, root):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"hetpure_core.py", "hetpure_lab/py.typed", "hetpure_lab/data/subsets.json"} <= names
    for file in (root / "weights").iterdir():
        assert f"hetpure_lab/weights/{file.name}" in names
    for file in (root / "hetpure_lab").rglob("*.py"):
        assert file.relative_to(root).as_posix() in names
    assert not any(name.startswith(("tests/", "results/", "chapters/")) for name in names)


def test_the_wheel_works_in_an_empty_folder_of_somebody_elses_repository(wheel, tmp_path):
    installed, work = tmp_path / "installed", tmp_path / "work"
    zipfile.ZipFile(wheel).extractall(installed)
    work.mkdir()
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True, capture_output=True)
    theirs = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=tmp_path, capture_output=True, text=True
    ).stdout.strip()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HETPURE", "PYTHON", "GIT"))}
    env |= {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    env |= {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", USE, str(installed)],
        cwd=work,
        env=env,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    commit = done.stdout.splitlines()[-1]
    assert commit.startswith('["hetpure 0.') and theirs not in commit and commit.endswith("2]")
    assert not (installed / "results").exists() and (work / "results").is_dir()


def test_the_core_has_few_dependencies_and_the_rest_are_extras(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert {"lab", "book", "test", "scale"} <= extras.keys()
    needed = " ".join(project["dependencies"])
    heavy = ("matplotlib", "seaborn", "papermill", "nbconvert", "ipykernel", "dask", "playwright")
    assert not [name for name in heavy if name in needed] and len(project["dependencies"]) <= 13
