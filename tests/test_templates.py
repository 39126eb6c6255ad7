"""The templates of CONTRIBUTING: plug-ins that run as they stand, and a chapter."""

from __future__ import annotations

import os
import subprocess
import sys

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError


def test_the_templates_of_purifier_attack_and_bench_run_together(root, tmp_path):
    plugins = [f"--plugin={file}" for file in sorted((root / "templates").glob("*.py"))]
    assert len(plugins) == 3
    words = ["run", "--bench", "template-bench", "--defence", "template-one-call:t=0.05"]
    words += ["--attack", "template-step:eot=2", "--split", "sample", "--n-images", "2", "--K", "2"]
    env = os.environ | {"PYTHONPATH": str(root), "HETPURE_RESULTS": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "hetpure_lab", *words, *plugins],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "template-bench").glob("template-one-call*.jsonl")
    assert file.read_text().count('"image"') == 2


def run(root, tmp_path, **parameters):
    target = tmp_path / "out.ipynb"
    papermill.execute_notebook(
        root / "templates" / "chapter.ipynb",
        target,
        {"n_images": 2} | parameters,
        progress_bar=False,
        cwd=str(tmp_path),
    )
    return nbformat.read(target, as_version=4)


def test_the_chapter_template_runs_shows_pictures_a_table_and_a_check(root, tmp_path):
    made = run(root, tmp_path, defence="uniform:t=0.05,steps=1")
    outputs = [o for cell in made.cells for o in cell.get("outputs", [])]
    kinds = {kind for o in outputs for kind in o.get("data", {})}
    assert {"image/png", "text/html"} <= kinds
    said = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    assert "✓ a row does not depend on its neighbours" in said
    assert any("accuracy, n = 2" in o.get("data", {}).get("text/html", "") for o in outputs)


def test_the_chapter_template_refuses_what_a_chapter_refuses(root, tmp_path):
    with pytest.raises(PapermillExecutionError, match="unknown parameter taw"):
        run(root, tmp_path, taw=1)


def test_the_chapter_template_has_stable_ids_no_outputs_and_says_where_it_goes(root):
    notebook = nbformat.read(root / "templates" / "chapter.ipynb", as_version=4)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids) and all(part.isalpha() for part in ids)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    assert "_toc.yml" in notebook.cells[0].source
    assert "templates/chapter.ipynb" in (root / "CONTRIBUTING.md").read_text()
