#!/usr/bin/env bash
# One CUDA device: larger batches. The SAE's step takes 5 ms at 8,192 tokens and 10,752 latents on an
# H100; three such runs side by side, which shared the card, drew 0.31 M tokens/s each, held up by
# Python reading text (the tokenizer has since been given many pieces at once, not timed on a GPU
# yet). lr goes with the square root of the batch.
set -euo pipefail
exec saesteer train sae configs/sae/smollm2-135m.yaml --out runs/smollm2-resid_post.9-gpu --resume \
    --device cuda batch_size=8192 rows_per_pass=64 reuse=5 lr=8e-4 "$@"
