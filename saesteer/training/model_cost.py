"""What the language model costs a run: FLOP of its passes, and the memory of one.

End to end (`kl`), every step runs the whole model, then what is above the site again with the
reconstruction in place, and back to it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from saesteer.config import TrainSAEConfig
from saesteer.models import Model
from saesteer.models.replay import n_hidden
from saesteer.training.build import sites_of

PASS_NUMBERS = 24
"""Per token and element of d_model: what a block has at one time, its MLP most of it."""


def model_flop(config: TrainSAEConfig, model: Model) -> float:
    """Of one token that the model reads: through the blocks up to the last site and, end to end,
    from there upwards clean and rebuilt, and back to the activations."""
    blocks, context = model.layout.blocks, config.text.context
    sites = {model.check_site(site) for one in config.each().values() for site in sites_of(one)}
    read = _blocks_flop(model, blocks[: max(site.layer for site in sites) + 1], context)
    if not config.kl:
        return read
    replayed = _blocks_flop(model, blocks[n_hidden(model.check_site(config.site)) :], context)
    back = _blocks_flop(model, _blocks_above(model, config), context, attention=2)
    return read + 2 * replayed + back + 3 * 2.0 * _head(model).numel()


def pass_memory(config: TrainSAEConfig, model: Model, size: int) -> dict[str, float]:
    """Of a pass to the last site, or of an end-to-end step: every block above the site keeps what
    its backward pass needs, and logits lie there twice, with gradients and fp32 logarithms."""
    a_token = float(PASS_NUMBERS * size * model.layout.d_model)
    if not config.kl:
        return {"pass": config.rows_per_pass * config.text.context * a_token}
    above = len(_blocks_above(model, config))
    logits = (3.0 * size + 8) * _head(model).shape[0]
    return {"pass": config.batch_size * (1 + above) * a_token, "logits": config.batch_size * logits}


def _blocks_above(model: Model, config: TrainSAEConfig) -> Sequence[nn.Module]:
    """Blocks that a gradient to the site's activations passes."""
    site = model.check_site(config.site)
    return model.layout.blocks[max(site.layer, n_hidden(site)) :]


def _head(model: Model) -> Tensor:
    """The matrix that makes logits, `[vocab, d_model]`."""
    unembed = model.layout.unembed.weight
    assert isinstance(unembed, Tensor)
    return unembed


def _blocks_flop(
    model: Model, blocks: Sequence[nn.Module], context: int, *, attention: int = 1
) -> float:
    """Of one token through some blocks: 2 per weight used, and attention, which takes twice as much
    backwards."""
    weights = sum(_weights_used(model, p) for block in blocks for p in block.parameters())
    return 2.0 * weights + attention * 4.0 * context * model.layout.d_model * len(blocks)


def _weights_used(model: Model, parameter: Tensor) -> float:
    """Matrices are used whole; experts, which come stacked, only as many as a token is sent to."""
    if parameter.dim() < 3:
        return float(parameter.numel() if parameter.dim() == 2 else 0)
    chosen = getattr(model.hf.config.get_text_config(), "num_experts_per_tok", None)
    return parameter.numel() / parameter.shape[0] * (chosen or parameter.shape[0])
