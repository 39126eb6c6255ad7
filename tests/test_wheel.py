"""The project away from its checkout: as a wheel, and as the archive that chapters fetch on Colab.

The wheel is built as ``python -m build`` does, from the files that are tracked, unpacked into an
empty folder, and used in a working folder that is somebody else's repository.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

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


INSTALLED = (
    "hetpure_core.py",
    "hetpure_lab/",
    "weights/",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)


def files(root: Path, wanted: tuple[str, ...]) -> list[str]:
    """The names of the repository's files that begin so."""
    if not (root / ".git").exists():
        pytest.skip("which files are tracked is known in a checkout only")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=root, capture_output=True, text=True, check=True).stdout
    return [n for n in names.split("\0") if n.startswith(wanted) and (root / n).is_file()]


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory) -> Path:
    """The wheel, built from a copy of the tracked files."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in files(root, INSTALLED):
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


ONLY = """
import sys
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

left, allowed = sys.argv[2].split(","), set()
while left:
    name = canonicalize_name(left.pop())
    if name in allowed:
        continue
    allowed.add(name)
    try:
        needs = map(Requirement, distribution(name).requires or [])
    except PackageNotFoundError:
        continue
    left += [r.name for r in needs if r.marker is None or r.marker.evaluate({"extra": ""})]
there = packages_distributions()
barred = {top for top, names in there.items() if not {*map(canonicalize_name, names)} & allowed}
barred -= {"hetpure_core", "hetpure_lab"}

class Bar:
    '''A finder that does not find what is barred.'''

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in barred:
            return self.finder.find_spec(name, path, target)

for name in [name for name in sys.modules if name.partition(".")[0] in barred]:
    del sys.modules[name]
sys.meta_path[:] = map(Bar, sys.meta_path)
sys.argv = ["use", sys.argv[1]]
exec(sys.stdin.read())
"""


def only(packages: list[str], code: str, installed: Path, work: Path) -> str:
    """What `code` prints where these packages and what they require are all that can be
    imported.
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HETPURE", "PYTHON"))}
    env |= {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ONLY, str(installed), ",".join(packages)],
        input=code,
        cwd=work,
        env=env | {"XDG_CACHE_HOME": str(work / "cache")},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_core_needs_torch_alone(root, tmp_path):
    code = (
        "import torch\nfrom hetpure_core import Uniform, purify\n"
        "x = torch.rand(1, 3, 8, 8)\n"
        "print(purify(x, lambda x: x.mean((2, 3)), lambda x, t: 0 * x, Uniform(steps=1)).shape)"
    )
    assert "[1, 3, 8, 8]" in only(["torch"], code, root, tmp_path)


def test_the_base_dependencies_are_enough_and_each_is_needed(wheel, root, tmp_path):
    """For the command and the three lines, with nothing else; and the code imports each itself."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    names = [Requirement(line).name for line in project["dependencies"]]
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    said = only(names, USE, installed, tmp_path)
    assert "of 25 checks" in said.lower() and len(names) < 10
    direct = {
        a.partition(".")[0]
        for file in [root / "hetpure_core.py", *(root / "hetpure_lab").rglob("*.py")]
        for node in ast.walk(ast.parse(file.read_text()))
        for a in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert {{"pillow": "PIL"}.get(name, name) for name in names} <= direct


def test_what_the_base_leaves_out_are_extras(root):
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert {"lab", "book", "test", "scale", "clients"} <= extras["optional-dependencies"].keys()


# ---- chapters without a checkout -----------------------------------------------------------------

FROM = {  # the first cell that reads records; those before it that are run declare and import
    "05_cifar10": "cell-027",
    "10_cost": "cell-034",
    "11_rivals": "cell-068",
    "14_premise": "cell-004",
    "15_candidate": "literal",
}

SLOW = ["14_premise, cell-009", "14_premise, cell-014", "14_premise, cell-016"]
INTERVAL = r"\d\.\d\s\[\d"
SAYS = {  # what some cells show from records, and cannot show without any
    "05_cifar10, cell-027": INTERVAL,
    "10_cost, cell-034": r">\d\.\d\d<",
    "11_rivals, cell-068": INTERVAL,
    "11_rivals, answer": "than the method",
    "14_premise, cell-018": INTERVAL,
    "14_premise, cell-021": INTERVAL,
    "15_candidate, certificates": INTERVAL,
    "15_candidate, certified-said": INTERVAL,
    "15_candidate, frozen": "frozen 2",
    "15_candidate, verdict": INTERVAL,
}
RECORDS = (
    "results/bench.json",
    "results/candidate.json",
    "results/queue.txt",
    "results/certificates/",
    "results/cifar10-small-ffdnet/",
    "results/cifar10-small-map/",
    *(f"results/cifar10-small/{name}--" for name in ("hetpure", "none", "uniform-t=0.1")),
)

# Runs cells of chapters as a kernel does, and writes what each shows: a stop at the first error.
CELLS = """
import ast, json, sys
import matplotlib
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

def texts(result, caught):
    for data in [shell.display_formatter.format(result)[0], *(o.data for o in caught.outputs)]:
        empty = data.get("text/plain", "None").startswith(("None", "Empty DataFrame"))
        yield "" if empty else "\\n".join(map(str, data.values()))
    yield caught.stdout

matplotlib.use("agg")
shell, said = InteractiveShell.instance(), {}
shell.displayhook.write_output_prompt = shell.displayhook.write_format_data = lambda *_: None
for chapter, first in json.loads(sys.argv[2]).items():
    shell.reset()
    cells = json.load(open(f"{sys.argv[1]}/{chapter}.ipynb", encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    ids = [cell["id"] for cell in code]
    head = next(i for i, c in enumerate(code) if "notebook.start" in "".join(c["source"]))
    start = max(head + 1, ids.index(first))
    for i, cell in [*enumerate(code[: head + 1]), *enumerate(code[start:], start)]:
        name, source = f"{chapter}, {cell['id']}", "".join(cell["source"])
        if name in json.loads(sys.argv[4]):
            continue
        with capture_output() as caught:
            done = shell.run_cell(source, store_history=True)
        if not done.success:
            sys.exit(f"{name}: {caught.stdout[-3000:]}")
        shown = list(texts(done.result, caught))
        if "matplotlib.pyplot" in sys.modules:
            import matplotlib.pyplot as plt
            shown += ["figure"] * len(plt.get_fignums())
            plt.close("all")
        if i > head and isinstance(ast.parse(source).body[-1], ast.Expr):
            said[name] = "".join(shown)
import hetpure_lab
json.dump({"where": hetpure_lab.__file__, "said": said}, open(sys.argv[3], "w"))
"""


def required(root: Path, extras: set[str]) -> set[str]:
    """The distributions here that the project requires with `extras`, and what these require."""
    about = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    left = [*about["dependencies"]]
    left += [line for extra in extras for line in about["optional-dependencies"][extra]]
    found: dict[str, set[str]] = {}
    while left:
        needed = Requirement(left.pop())
        if needed.name in found and needed.extras <= found[needed.name]:
            continue
        wanted = found.setdefault(needed.name, {""})
        wanted |= needed.extras
        try:
            rest = map(Requirement, metadata.distribution(needed.name).requires or [])
        except metadata.PackageNotFoundError:  # of another system
            continue
        holds = lambda r, of: r.marker is None or any(r.marker.evaluate({"extra": e}) for e in of)
        left += [str(r).partition(";")[0] for r in rest if holds(r, wanted)]
    return set(found)


@pytest.fixture
def elsewhere(root, tmp_path) -> Path:
    """The Python of a fresh environment that has what the install cell asks for, but not the
    project.
    """
    venv.create(tmp_path / "fresh", symlinks=True)
    packages = tmp_path / "packages"
    packages.mkdir()
    cell = (root / "templates" / "chapter.ipynb").read_text("utf-8")
    extras = set(re.findall(r"\{checkout\}\[([\w,]+)\]", cell)[0].split(","))
    here = Path(sysconfig.get_paths()["purelib"])
    for name in {"pip", "setuptools"} | required(root, extras):
        try:
            tops = {path.parts[0] for path in metadata.distribution(name).files or []}
        except metadata.PackageNotFoundError:
            continue
        for top in tops - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(here / top)
    (site,) = (tmp_path / "fresh").glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(f"{packages}\n")
    return tmp_path / "fresh" / "bin" / "python"


def shown_by(python: Path, root: Path, work: Path, **settings: str) -> tuple[Path, dict[str, str]]:
    """Where the package was found, and what the cells of `FROM` show in an empty folder."""
    work.mkdir()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HETPURE", "PYTHON", "PIP"))}
    env |= {"XDG_CACHE_HOME": str(work / "cache"), "IPYTHONDIR": str(work / "ipython")}
    env |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "HETPURE_BUDGET": "smoke"}
    # what the cell installs is here already, and nothing is downloaded
    env |= {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    words = [python, "-c", CELLS, root / "chapters", json.dumps(FROM), work / "said.json"]
    words += [json.dumps(SLOW)]
    done = subprocess.run(
        words, cwd=work, env=env | settings, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((work / "said.json").read_text())
    silent = [cell for cell, said in found["said"].items() if not said.strip()]
    assert not silent, "a cell shows nothing"
    return Path(found["where"]), found["said"]


def test_the_install_cell_brings_all_records(elsewhere, root, tmp_path):
    """Of the experiments some are enough here."""
    archive = tmp_path / "release.zip"
    names = files(root, (*INSTALLED, "book/_rivals/", *RECORDS))
    with zipfile.ZipFile(archive, "w") as into:
        for name in names:
            into.write(root / name, f"hetpure-0.1.0/{name}")
    work = tmp_path / "work"
    where, said = shown_by(elsewhere, root, work, HETPURE_SOURCE=archive.as_uri())
    checkout = work / "hetpure" / "hetpure-0.1.0"
    assert where.is_relative_to(checkout) and all((checkout / name).is_file() for name in names)
    for cell, numbers in SAYS.items():
        assert re.search(numbers, said[cell]) and "Not measured yet" not in said[cell], cell


def test_without_records_every_cell_says_so(elsewhere, wheel, root, tmp_path):
    """In an installation from a wheel; the install cell finds it and does nothing."""
    site = next((tmp_path / "fresh").glob("lib/python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    where, said = shown_by(elsewhere, root, tmp_path / "work")
    assert where.is_relative_to(site) and not (tmp_path / "work" / "hetpure").exists()
    for cell, numbers in SAYS.items():
        assert not re.search(numbers, said[cell]), f"{cell} has a number from nowhere"
