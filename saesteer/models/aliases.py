"""TransformerLens's names of models (`gpt2-small`), which published SAEs carry, as the hub's."""

from __future__ import annotations

import os
import runpy
from importlib.util import find_spec
from pathlib import Path


def hub_name(ref: str) -> str:
    """`google/gemma-2-2b` for `gemma-2-2b`; a path and what is no such name as it is.

    Only the file of names is read: transformer-lens takes seconds to import.
    """
    if "/" in ref or os.path.exists(ref):
        return ref
    library = find_spec("transformer_lens")
    assert library is not None
    assert library.origin is not None
    known = runpy.run_path(str(Path(library.origin).with_name("supported_models.py")))
    aliases = known["MODEL_ALIASES"].items()
    names = {alias.lower(): name for name, others in aliases for alias in others}
    return names.get(ref.lower(), ref)
