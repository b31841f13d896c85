"""What `saesteer compare` needs to know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import MinLen

from saesteer.config.run import WandbConfig
from saesteer.config.text import CLOSED, Count, Positive


@dataclass(frozen=True)
class CompareConfig:
    """Methods on one or several tasks.

    Attributes:
        tasks: built-in names (sentiment, politeness, refusal, ocean) or task files.
        methods: each a name, or a name with its settings: `{ActAdd: {positive: " good"}}`,
            `{rules: FILE}`, `{plan: FOLDER}`. The first one is the report's reference.
        site: where dense vectors act; the SAE's if left out. A method with an SAE of another site
            refuses it.
        doses: common grid of relative doses, ‖Δh‖/‖h‖.
        kl_budget: nats per token that a chosen strength may cost.
        n_validation, n_test: prompts of each split; all for null.
        dtype: of the language model.
    """

    __pydantic_config__ = CLOSED

    tasks: Annotated[list[str], MinLen(1)]
    methods: Annotated[list[str | dict[str, Any]], MinLen(1)]
    model: str = "smollm2-135m-instruct"
    sae: str | None = "smollm2-135m-instruct/resid_post.9"
    site: str | None = None
    doses: Annotated[list[Positive], MinLen(1)] = field(
        default_factory=lambda: [0.05, 0.1, 0.15, 0.22, 0.3]
    )
    kl_budget: Positive = 2.0
    n_validation: Count | None = None
    n_test: Count | None = None
    max_new_tokens: Count = 32
    seeds: Annotated[list[int], MinLen(1)] = field(default_factory=lambda: [0, 1, 2])
    dtype: str = "float32"
    device: str | None = None
    wandb: WandbConfig = field(default_factory=WandbConfig)
