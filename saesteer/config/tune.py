"""What `saesteer tune` needs to know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import MinLen

from saesteer.config.run import WandbConfig
from saesteer.config.text import CLOSED, Count, Positive
from saesteer.errors import ConfigError


@dataclass(frozen=True)
class BudgetConfig:
    """What a chosen point may cost on the validation prompts.

    Attributes:
        of: "kl", nats per token, or "perplexity" of the generated texts under the unsteered model.
        at_most: the largest cost that may be chosen.
    """

    __pydantic_config__ = CLOSED

    of: Literal["kl", "perplexity"] = "kl"
    at_most: float = 2.0

    def __post_init__(self) -> None:
        """Check the bound.

        Raises:
            ConfigError: nothing could keep within it.
        """
        if not self.at_most > (0 if self.of == "kl" else 1):
            raise ConfigError(
                f"budget: {self.of} of at most {self.at_most} leaves nothing to choose."
            )


@dataclass(frozen=True)
class TuneConfig:
    """Methods, their settings and sites, of which one point is chosen on the validation part.

    Attributes:
        task: a built-in name or a task file; its test part is never read.
        methods: each a name, or a name with its settings, as in a comparison; the same method may
            stand here several times with other settings.
        sites: where each method that takes a site is tried; the method's own default if empty. The
            others are tried once: features where their SAE reads, some at places of their own.
        doses: grid of relative doses, mean ‖Δh‖/‖h‖ on texts of the unsteered model, run upwards
            until the budget is spent and never beyond the largest.
        n_validation: prompts; all for null.
    """

    __pydantic_config__ = CLOSED

    task: str
    methods: Annotated[list[str | dict[str, Any]], MinLen(1)]
    sites: list[str] = field(default_factory=list)
    model: str = "smollm2-135m-instruct"
    sae: str | None = "smollm2-135m-instruct/resid_post.9"
    doses: Annotated[list[Positive], MinLen(1)] = field(
        default_factory=lambda: [0.05, 0.1, 0.15, 0.22, 0.3]
    )
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    n_validation: Count | None = None
    max_new_tokens: Count = 32
    dtype: str = "float32"
    device: str | None = None
    wandb: WandbConfig = field(default_factory=WandbConfig)
