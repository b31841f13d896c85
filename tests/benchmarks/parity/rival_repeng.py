"""repeng's side: train both variants and export one; runs in an environment of its own."""

import json
import sys
from pathlib import Path

import torch
import transformers
from repeng import ControlVector, DatasetEntry
from safetensors.numpy import save_file

folder = Path(sys.argv[1])
told = json.loads((folder / "told.json").read_text())
model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model").eval()
tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_file=str(folder / "model" / "tokenizer.json"), pad_token="<pad>"
)
entries = [DatasetEntry(positive=a, negative=b) for a, b in told["pairs"]]
held = {}
for method in ("pca_diff", "pca_center"):
    vector = ControlVector.train(model, tokenizer, entries, method=method)
    held |= {f"{method}.{layer}": v.copy() for layer, v in vector.directions.items()}
    vector.export_gguf(folder / f"{method}.gguf")
save_file(held, folder / "rival.safetensors")
again = ControlVector.import_gguf(folder / "ours.gguf")
save_file({str(k): v.copy() for k, v in again.directions.items()}, folder / "back.safetensors")
versions = {"transformers": transformers.__version__, "torch": torch.__version__}
(folder / "versions.json").write_text(json.dumps(versions))
