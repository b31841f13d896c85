"""What `saesteer train method` needs to know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from saesteer.config.run import WandbConfig
from saesteer.config.text import CLOSED, Count
from saesteer.errors import ConfigError


@dataclass(frozen=True)
class TrainMethodConfig:
    """A learned method, fitted to a contrast.

    Attributes:
        method: a name, or a name with its settings: `{Controller: {n_steps: 400}}`.
        contrast: a file, or a built-in name.
        site: where to act; default the method's own.
        sae: stays empty; no learned method reads features.
        dtype: of the language model.
    """

    __pydantic_config__ = CLOSED

    method: str | dict[str, dict[str, Any]]
    contrast: str
    model: str = "smollm2-135m-instruct"
    site: str | None = None
    sae: str | None = None
    dtype: str = "float32"
    device: str | None = None
    log_every_steps: Count = 1
    checkpoint_every_steps: Count = 50
    keep_checkpoints: Count = 2
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        """Check that there is one method, and no SAE that would be left unread.

        Raises:
            ConfigError: there are none or several, or there is an SAE.
        """
        if self.sae is not None:
            raise ConfigError(f"sae: no learned method reads features; leave {self.sae!r} out.")
        if not isinstance(self.method, str) and len(self.method) != 1:
            raise ConfigError(f"method: {self.method} must be one name with its settings.")

    @property
    def method_name(self) -> str:
        """The method's name."""
        return self.method if isinstance(self.method, str) else next(iter(self.method))

    @property
    def settings(self) -> dict[str, Any]:
        """The method's settings."""
        return {} if isinstance(self.method, str) else self.method[self.method_name]
