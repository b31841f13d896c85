"""python train/sample_text.py --out data/samples --parts 25 [--rows 320] [--first 0] [--seconds 80]

Text sampled from the model itself, for training an SAE on registers that free text at hand lacks
(web pages, news, chat). The model is its own best sample of what it will meet while it generates,
and its samples carry no third party's licence. Each part is `--rows` documents of `--length`
tokens: openings drawn from `openings.json` (their slots filled at random), continued at
temperatures 0.7, 0.85 and 1.0 in turn; no top-k, so that rare tokens occur. A part is whole or not
there: run again to go on. Part i is drawn from seed i, so parts can be made on several machines, or
by several processes. About 900 tokens/s on two cores; a GPU replays CUDA graphs (see `decoding`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from decoding import Decoder, Start
from rich.progress import track
from torch import Tensor

from saesteer import Model, load_model

TEMPERATURES = (0.7, 0.85, 1.0)
DOCUMENT_END = "<|endoftext|>"
OPENINGS = Path(__file__).with_name("openings.json")


def drawn_openings(n: int, seed: int) -> list[str]:
    """Openings, with something drawn for `{month}` and other slots."""
    draw, given = random.Random(seed), json.loads(OPENINGS.read_text(encoding="utf-8"))
    slots: dict[str, list[str]] = given["slots"]
    slot = re.compile("{(" + "|".join(slots) + ")}")
    return [
        slot.sub(lambda found: draw.choice(slots[found[1]]), text)
        for text in draw.choices(given["openings"], k=n)
    ]


def prepared(model: Model, rows: int, length: int, seed: int) -> Start:
    """What part `seed` starts from."""
    texts = drawn_openings(rows, seed)
    return Start.of(model.tokenizer(texts, add_special_tokens=False)["input_ids"], length, seed)


def write_part(model: Model, path: Path, ids: Tensor) -> None:
    """Write one part's `[rows, length]` token ids as JSON lines, whole or not at all."""
    pieces = [p for row in model.tokenizer.batch_decode(ids) for p in row.split(DOCUMENT_END)]
    scratch = path.with_suffix(".writing")
    scratch.write_text("".join(json.dumps({"text": p}) + "\n" for p in pieces if p.strip()))
    os.replace(scratch, path)


def write_parts(
    model: Model, parts: dict[int, Path], rows: int, length: int, until: float = float("inf")
) -> int:
    """Sample `parts`, by seed, up to the one that ends past `until` (`time.monotonic`).

    Reading the next part's openings and writing the last part's text go on beside the sampling.

    Returns:
        The number of tokens drawn.
    """
    decoder, seeds, drawn = Decoder(model, rows, length, TEMPERATURES), list(parts), 0
    written: Future[None] | None = None
    with ThreadPoolExecutor(2) as beside:
        upcoming = [beside.submit(prepared, model, rows, length, seeds[0])] if seeds else []
        for i, seed in enumerate(track(seeds, description="sampling")):
            start = upcoming.pop().result()
            if i + 1 < len(seeds):
                upcoming.append(beside.submit(prepared, model, rows, length, seeds[i + 1]))
            ids = decoder.sample(start)
            drawn += ids.numel()
            if written is not None:
                written.result()
            written = beside.submit(write_part, model, parts[seed], ids)
            if time.monotonic() > until:
                break
            if i == 0:
                decoder.capture()
        if written is not None:
            written.result()
    return drawn


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", type=int, default=25)
    parser.add_argument("--first", type=int, default=0, help="number of the first part")
    parser.add_argument("--rows", type=int, help="documents a part; default 256, on CUDA 4096")
    parser.add_argument("--length", type=int, default=160)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="then begin no part")
    return parser.parse_args()


def main() -> None:
    """Sample the parts that are not there yet."""
    began, args = time.monotonic(), _options()
    args.out.mkdir(parents=True, exist_ok=True)
    model = load_model(args.model, dtype="fastest")
    rows = args.rows or (4096 if model.device.type == "cuda" else 256)
    paths = {
        seed: args.out / f"part-{seed:03d}.jsonl"
        for seed in range(args.first, args.first + args.parts)
    }
    missing = {seed: path for seed, path in paths.items() if not path.exists()}
    loaded = time.monotonic()
    drawn = write_parts(model, missing, rows, args.length, until=began + args.seconds)
    took = time.monotonic() - loaded
    print(f"{drawn} tokens in {took:.1f} s, {drawn / took:.0f} a second")


if __name__ == "__main__":
    main()
