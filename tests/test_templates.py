"""The templates of CONTRIBUTING: each is a plug-in that runs as it stands."""

from __future__ import annotations

import os
import subprocess
import sys


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
