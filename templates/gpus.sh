#!/bin/bash
# One experiment by all GPUs of this machine: a process for each, which sees no other GPU. The
# processes share the images without being told how.
#
#   templates/gpus.sh --defence hetpure --attack pgd --n-images 128
#   GPUS="0 2" templates/gpus.sh --defence hetpure --attack pgd
set -euo pipefail
gpus="${GPUS:-$(nvidia-smi --query-gpu=index --format=csv,noheader)}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
processes=()
for gpu in $gpus; do
    CUDA_VISIBLE_DEVICES="$gpu" "${HETPURE:-.venv/bin/hetpure}" run "$@" --device cuda &
    processes+=($!)
done
trap 'kill "${processes[@]}" 2>/dev/null || true' INT TERM
failed=0
for process in "${processes[@]}"; do
    wait "$process" || failed=1
done
exit "$failed"
