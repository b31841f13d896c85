"""TransformerLens's names of models (`gpt2-small`), which published SAEs carry, as the hub's."""

from __future__ import annotations

import os
import warnings


def hub_name(ref: str) -> str:
    """`google/gemma-2-2b` for `gemma-2-2b`; a path and what is no such name as it is.

    Only names without a slash are looked up: transformer-lens takes seconds to import.
    """
    if "/" in ref or os.path.exists(ref):
        return ref
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformer_lens.supported_models import MODEL_ALIASES
    names = {alias.lower(): name for name, aliases in MODEL_ALIASES.items() for alias in aliases}
    return names.get(ref.lower(), ref)
