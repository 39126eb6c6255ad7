#!/bin/bash
# One experiment by several Slurm tasks, which share its images without being told how:
#
#   sbatch templates/slurm.sh --defence hetpure --attack pgd --n-images 128
#   sbatch --ntasks=4 --gpus-per-task=1 templates/slurm.sh --defence hetpure --attack pgd --device cuda
#
# Submit it in the checkout, on a file system that all nodes share and that has locks. A task that
# is killed, or a job that reaches its time, costs the images in its hands: submit it again.
#SBATCH --job-name=hetpure
#SBATCH --ntasks=2
#SBATCH --cpus-per-task=1
#SBATCH --mem-per-cpu=4G
#SBATCH --time=04:00:00
#SBATCH --output=hetpure-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$PWD}"
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}" TQDM_DISABLE=1
# the other tasks go on where one ends in an error
exec srun --kill-on-bad-exit=0 "${HETPURE:-.venv/bin/hetpure}" run "$@" --threads "$OMP_NUM_THREADS"
