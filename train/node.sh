#!/usr/bin/env bash
# One machine with 8 GPUs: a process a GPU, each with an eighth of the text and of every batch. With
# `variants` for 8 SAEs or more in the config, each SAE lives on one GPU instead. Not yet run on GPUs.
# Every process tokenises the whole text, 0.36 M tokens/s on one core: a small model on many GPUs waits
# for that, unless activations lie in a cache (cache.path=DIR), which the first process fills alone.
# SIGTERM saves and ends within torchrun's 30 s; run again to go on, with any number of GPUs that
# divides batch_size. Fewer: GPUS=4 train/node.sh. None: GPUS=2 train/node.sh --device cpu.
set -euo pipefail
exec torchrun --standalone --nproc-per-node="${GPUS:-8}" -m saesteer \
    train sae configs/sae/smollm2-135m.yaml --out runs/smollm2-resid_post.9-node --resume \
    --device cuda batch_size=16384 rows_per_pass=64 reuse=1 lr=1.7e-3 "$@"
