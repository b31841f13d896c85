"""python train/sample_text.py --out data/samples --parts 25 [--rows 320] [--first 0]

Text sampled from the model itself, for training an SAE on registers that free text at hand lacks
(web pages, news, chat). The model is its own best sample of what it will meet while it generates,
and its samples carry no third party's licence. Each part is `--rows` documents of `--length`
tokens: openings drawn from `openings.json` (their slots filled at random), continued at
temperatures 0.7, 0.85 and 1.0 in turn; no top-k, so that rare tokens occur. A part is whole or not
there: run again to go on. Part i is drawn from seed i, so parts can be made on several machines, or
by several processes that keep one GPU busy. About 1,000 tokens/s on two cores.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import random
import re
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor
from transformers import AttentionInterface, DynamicCache

from saesteer import Model, load_model

TEMPERATURES = (0.7, 0.85, 1.0)
DOCUMENT_END = "<|endoftext|>"
OPENINGS = Path(__file__).with_name("openings.json")


def grouped_attention(
    _module: torch.nn.Module, q: Tensor, k: Tensor, v: Tensor, _mask: Tensor | None, **kwargs: float
) -> tuple[Tensor, None]:
    """Attention of one new token a row: the query heads that share a key are read as a matrix.

    Ten times as fast on a CPU as repeating keys and values for every head. Rows must be of equal
    length, and the pass one token long.
    """
    batch, heads, _, width = q.shape
    groups = k.shape[1]
    scores = q.view(batch, groups, heads // groups, width) @ k.transpose(-1, -2)
    mixed = (scores * kwargs["scaling"]).softmax(-1) @ v
    return mixed.reshape(batch, 1, heads, width), None


@torch.inference_mode()
def sample_rows(model: Model, openings: list[list[int]], length: int, seed: int) -> Tensor:
    """`[rows, length]` token ids: each row's opening, continued by the model."""
    rows, device = len(openings), model.device
    generator = torch.Generator(device).manual_seed(seed)
    heat = torch.tensor(TEMPERATURES, device=device).repeat(-(-rows // len(TEMPERATURES)))[:rows]
    ids = torch.zeros(rows, length, dtype=torch.long)
    given = torch.zeros(rows, length, dtype=torch.bool)
    for row, opening in enumerate(openings):
        opening = opening[:length]
        ids[row, : len(opening)] = torch.tensor(opening)
        given[row, : len(opening)] = True
    ids, given = ids.to(device), given.to(device)
    cache = {_cache_name(model): DynamicCache(config=model.hf.config)}
    for step in range(length - 1):
        out = model.hf(input_ids=ids[:, step, None], use_cache=True, **cache)
        chances = (out.logits[:, -1].float() / heat[:, None]).softmax(-1).cumsum(-1)
        point = torch.rand(rows, 1, generator=generator, device=device) * chances[:, -1:]
        drawn = torch.searchsorted(chances, point).clamp(max=chances.shape[1] - 1)[:, 0]
        ids[:, step + 1] = torch.where(given[:, step + 1], ids[:, step + 1], drawn)
    return ids.cpu()


def _cache_name(model: Model) -> str:
    """What this version of transformers calls the KV cache."""
    parameters = inspect.signature(model.hf.forward).parameters
    return "cache" if "cache" in parameters else "past_key_values"


def drawn_openings(n: int, seed: int) -> list[str]:
    """Openings, with something drawn for `{month}` and other slots."""
    draw, given = random.Random(seed), json.loads(OPENINGS.read_text(encoding="utf-8"))
    slots: dict[str, list[str]] = given["slots"]
    slot = re.compile("{(" + "|".join(slots) + ")}")
    return [
        slot.sub(lambda found: draw.choice(slots[found[1]]), text)
        for text in draw.choices(given["openings"], k=n)
    ]


def write_part(model: Model, path: Path, rows: int, length: int, seed: int) -> None:
    """Sample one part and write it as JSON lines, whole or not at all."""
    texts = drawn_openings(rows, seed)
    openings = model.tokenizer(texts, add_special_tokens=False)["input_ids"]
    ids = sample_rows(model, openings, length, seed)
    pieces = [p for row in model.tokenizer.batch_decode(ids) for p in row.split(DOCUMENT_END)]
    scratch = path.with_suffix(".writing")
    scratch.write_text("".join(json.dumps({"text": p}) + "\n" for p in pieces if p.strip()))
    os.replace(scratch, path)


def main() -> None:
    """Sample the parts that are not there yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", type=int, default=25)
    parser.add_argument("--first", type=int, default=0, help="number of the first part")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--length", type=int, default=160)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model = load_model(args.model, dtype="bfloat16")
    AttentionInterface.register("grouped", grouped_attention)
    model.hf.set_attn_implementation("grouped")
    for seed in track(range(args.first, args.first + args.parts), description="sampling"):
        path = args.out / f"part-{seed:03d}.jsonl"
        if not path.exists():
            write_part(model, path, args.rows, args.length, seed)


if __name__ == "__main__":
    main()
