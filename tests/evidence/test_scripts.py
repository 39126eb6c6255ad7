"""The scripts for Slurm and for several GPUs, as far as a machine without either can check them:
with stand-ins of `sbatch`, `srun` and `nvidia-smi` that do what their manuals say.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hetpure_lab.evidence import records

TEMPLATES = Path(__file__).parents[2] / "templates"
# sbatch: options of the command line go before those in the script; the script runs in one process
SBATCH = r"""#!/bin/bash
declare -A given
while [[ $1 == --* ]]; do given[${1%%=*}]=${1#*=}; shift; done
while read -r _ option; do
    name=${option%%=*}
    [[ -n ${given[$name]:-} ]] || given[$name]=${option#*=}
done < <(grep '^#SBATCH ' "$1")
export SLURM_NTASKS=${given[--ntasks]} SLURM_CPUS_PER_TASK=${given[--cpus-per-task]}
export SLURM_SUBMIT_DIR=$PWD SLURM_JOB_ID=1
script=$1; shift
cd / && exec bash "$script" "$@"
"""
# srun: the command once per task, all at the same time
SRUN = r"""#!/bin/bash
while [[ $1 == --* ]]; do shift; done
code=0; tasks=()
for ((task = 0; task < SLURM_NTASKS; task++)); do
    SLURM_PROCID=$task "$@" & tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task" || code=$?; done
exit $code
"""
RUN = "--defence uniform:t=0.05,steps=1 --attack pgd:iterations=1,eot=1,confirm=0 --split sample"
RUN = [*RUN.split(), "--n-images", "6", "--K", "2", "--batch", "1"]
FATE = ("label", "iterations", "delta", "adversarial", "clean", "null", "config")


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def bin(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.mark.parametrize("script", sorted(TEMPLATES.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_bash_that_can_be_run(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)


def test_two_tasks_of_a_slurm_job_share_an_experiment(bin, tmp_path, monkeypatch):
    """No image is done twice, and every record is what one process makes."""
    program(bin / "sbatch", SBATCH), program(bin / "srun", SRUN)
    log = tmp_path / "tasks"
    command = program(
        bin / "hetpure",
        f'#!/bin/bash\necho "$SLURM_PROCID $OMP_NUM_THREADS $PWD" >> {log}\n'
        f'exec {sys.executable} -m hetpure_lab "$@"\n',
    )
    monkeypatch.setenv("HETPURE", str(command))

    def found(name, *words):
        monkeypatch.setenv("HETPURE_RESULTS", str(tmp_path / name))
        subprocess.run(words, check=True, cwd=tmp_path, capture_output=True, timeout=300)
        (path,) = (tmp_path / name).glob("*/*.jsonl")
        return [line.record for line in records.lines(path.read_bytes()) if line.record]

    shared = found("slurm", "sbatch", str(TEMPLATES / "slurm.sh"), *RUN)
    assert sorted(log.read_text().splitlines()) == [f"{task} 1 {tmp_path}" for task in (0, 1)]
    alone = {r["image"]: r for r in found("alone", str(command), "run", *RUN)}
    assert len(shared) == len(alone) == 6 and {r["image"] for r in shared} == set(alone)
    assert all([r[f] for f in FATE] == [alone[r["image"]][f] for f in FATE] for r in shared)


def test_every_gpu_has_a_process_that_sees_no_other(bin, tmp_path, monkeypatch):
    program(bin / "nvidia-smi", "#!/bin/bash\nprintf '0\\n1\\n2\\n'\n")
    log = tmp_path / "seen"
    says = "import json, os, sys; print(json.dumps([os.environ['CUDA_VISIBLE_DEVICES'], sys.argv]))"
    stub = f'#!/bin/bash\n{sys.executable} -c "{says}" "$@" >> {log}\n'
    monkeypatch.setenv("HETPURE", str(program(bin / "hetpure", stub)))
    words = ["--defence", "hetpure", "--attack", "pgd"]
    subprocess.run([TEMPLATES / "gpus.sh", *words], check=True)
    seen = dict(json.loads(line) for line in log.read_text().splitlines())
    assert sorted(seen) == ["0", "1", "2"]
    assert all(argv[1:] == ["run", *words, "--device", "cuda"] for argv in seen.values())
    log.unlink()
    monkeypatch.setenv("GPUS", "2")
    subprocess.run([TEMPLATES / "gpus.sh", *words], check=True)
    assert len(log.read_text().splitlines()) == 1
    # one that fails stops no other, and is not hidden
    failing = '#!/bin/bash\n[[ $CUDA_VISIBLE_DEVICES != 1 ]] && echo "$CUDA_VISIBLE_DEVICES" >> '
    program(bin / "hetpure", f"{failing}{log}\n")
    monkeypatch.setenv("GPUS", "0 1 2")
    log.unlink()
    assert subprocess.run([TEMPLATES / "gpus.sh", *words]).returncode == 1
    assert sorted(log.read_text().split()) == ["0", "2"]
