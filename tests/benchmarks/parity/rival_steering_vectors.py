"""steering-vectors' side: train on the pairs, and steer; runs in an environment of its own."""

import json
import sys
from pathlib import Path

import steering_vectors
import torch
import transformers
from safetensors.torch import save_file

folder = Path(sys.argv[1])
told = json.loads((folder / "told.json").read_text())
model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model").eval()
tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_file=str(folder / "model" / "tokenizer.json"), pad_token="<pad>"
)
vector = steering_vectors.train_steering_vector(
    model, tokenizer, [tuple(pair) for pair in told["pairs"]], layers=told["layers"]
)
torch.save(vector.layer_activations, folder / "vectors.pt")
ids = torch.tensor(told["ids"])
with torch.no_grad(), vector.apply(model, multiplier=told["multiplier"]):
    logits = model(ids).logits
held = {str(k): v.contiguous() for k, v in vector.layer_activations.items()}
save_file({**held, "logits": logits}, folder / "rival.safetensors")
versions = {"transformers": transformers.__version__, "torch": torch.__version__}
(folder / "versions.json").write_text(json.dumps(versions))
