#!/usr/bin/env bash
# Two cores, no GPU: the shipped SAE in about an hour and a half. Ctrl-C saves; run again to go on.
set -euo pipefail
exec saesteer train sae configs/sae/smollm2-135m.yaml --out runs/smollm2-resid_post.9 --resume "$@"
