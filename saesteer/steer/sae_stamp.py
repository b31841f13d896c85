"""What a saved edit says of the SAE that it was made from."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import final

from saesteer.saes.sae import SAE

_FINGERPRINTS: weakref.WeakKeyDictionary[SAE, str] = weakref.WeakKeyDictionary()


@final
@dataclass(frozen=True)
class SaeStamp:
    """Which SAE an edit was made from."""

    name: str
    fingerprint: str

    @staticmethod
    def of(sae: SAE) -> SaeStamp:
        """The stamp of `sae`; its weights are hashed once."""
        if sae not in _FINGERPRINTS:
            _FINGERPRINTS[sae] = sae.fingerprint()
        return SaeStamp(sae.name, _FINGERPRINTS[sae])
