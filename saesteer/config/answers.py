"""What `saesteer compare` needs to know where answers are right or wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from saesteer.config.sae import CLOSED


@dataclass(frozen=True)
class AnswerTaskConfig:
    """Problems, and how much generated text is fitted to.

    Attributes:
        kind: prontoqa reads chains of "every A is a B".
        test: a JSON file in the published format; None generates `n_test` problems and a twin each.
        n_test: the first so many problems of the file; all for None.
        names: SAEs at other sites that are read beside the first one to tell names apart.
        n_fit: generated problems that readers are fitted on; never any of the test file.
        fit_dtype: of the model that reads these; bfloat16 is four times as fast where the
            processor has it.
        seed: of generating and fitting.
        keep: a folder for fitted readers, so that a second run need not fit; None keeps none.
    """

    __pydantic_config__ = CLOSED

    kind: Literal["prontoqa"]
    test: str | None = None
    n_test: int | None = None
    names: list[str] = field(default_factory=list)
    n_fit: int = 5400
    fit_dtype: str = "bfloat16"
    seed: int = 0
    keep: str | None = None


@dataclass(frozen=True)
class AnswerConfig:
    """A comparison of ways to answer problems; `dtype` is the language model's."""

    __pydantic_config__ = CLOSED

    task: AnswerTaskConfig
    model: str = "smollm2-135m-instruct"
    sae: str = "smollm2-135m-instruct/resid_post.9"
    batch_size: int = 8
    dtype: str = "float32"
    device: str | None = None
    samples: int = field(default=5)
