"""activation-steering's side: which prompts meet a condition; runs in an environment of its own.

The package is on no registry. Where a checkout was installed, its own layer decides; elsewhere
`restated` does: what that layer computes, in words of this file, from reading the published code.
"""

import json
import sys
from pathlib import Path

import torch
import transformers

try:
    from activation_steering.leash_layer import LeashLayer
except ImportError:
    LeashLayer = None

folder = Path(sys.argv[1])
told = json.loads((folder / "told.json").read_text())
model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model").eval()
blocks = model.model.layers


def restated(layer, vector, over, larger, threshold, ids):
    """Similarity and decision for one prompt.

    The input of block `layer` in the first pass, row 0 alone: its mean over all positions or its
    last one, m. The projection onto the vector goes through tanh, and the cosine of m with that is
    held against the threshold: "larger" means that the threshold has to be the larger of the two.
    """
    seen = []
    hook = blocks[layer].register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with torch.no_grad():
        model(ids)
    hook.remove()
    row = seen[0][0]
    summary = row.mean(0) if over == "mean" else row[-1]
    onto = torch.outer(vector, vector) / (vector @ vector)
    squashed = (onto @ summary).tanh()
    score = float(summary @ squashed / (summary.norm() * squashed.norm()))
    return score, score < threshold if larger else score > threshold


def packaged(layer, vector, over, larger, threshold, ids):
    """The same, asked of the package's layer."""
    LeashLayer.reset_class()
    onto = torch.outer(vector, vector) / (vector @ vector)
    leash = LeashLayer(blocks[layer], layer)
    leash.steer(
        None,
        onto,
        threshold,
        use_ooi_preventive_normalization=False,
        condition_comparator_threshold_is="larger" if larger else "smaller",
        condition_threshold_comparison_mode=over,
    )
    LeashLayer.condition_layers, LeashLayer.behavior_layers = {layer: True}, {layer: False}
    inner, blocks[layer] = blocks[layer], leash
    with torch.no_grad():
        model.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=0)
    blocks[layer] = inner
    return LeashLayer.condition_similarities[0][layer], bool(LeashLayer.condition_met[0])


decide = restated if LeashLayer is None else packaged
answers = []
for point in told["points"]:
    vector = torch.tensor(point["vector"])
    setting = (point["layer"], vector, point["over"], point["larger"], point["threshold"])
    answers.append([decide(*setting, torch.tensor([ids])) for ids in told["prompts"]])
result = {
    "answers": answers,
    "decided_by": decide.__name__,
    "transformers": transformers.__version__,
    "torch": torch.__version__,
}
(folder / "answers.json").write_text(json.dumps(result))
