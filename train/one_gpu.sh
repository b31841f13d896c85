#!/usr/bin/env bash
# One CUDA device: larger batches, no reuse of activations, since the model is no longer the bottleneck.
# 62.9 M tokens; not yet timed. The tokenizer makes 0.36 M tokens/s on one core, so three minutes at
# the least. lr goes with the square root of the batch.
set -euo pipefail
exec saesteer train sae configs/sae/smollm2-135m.yaml --out runs/smollm2-resid_post.9-gpu --resume \
    --device cuda batch_size=8192 rows_per_pass=128 reuse=1 lr=1.2e-3 "$@"
