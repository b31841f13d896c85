"""What `saesteer compare` needs to know where answers are right or wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from annotated_types import Ge

from saesteer.config.text import CLOSED, Count, Whole
from saesteer.errors import ConfigError

TaskKind = Literal["prontoqa", "rail2country", "proverqa", "beavertails"]
Source = Literal["auto", "hub", "generated"]
_OWN: Mapping[str, tuple[TaskKind, ...]] = {
    "names": ("prontoqa", "rail2country", "proverqa"),
    "n_fit": ("prontoqa", "proverqa"),
    "keep": ("prontoqa",),
    "source": ("rail2country",),
    "safe": ("beavertails",),
    "unsafe": ("beavertails",),
    "folds": ("beavertails",),
}
"""Keys that not every kind of task has."""


@dataclass(frozen=True)
class AnswerTaskConfig:
    """Problems, and what readers of them are fitted on.

    Attributes:
        kind: prontoqa reads chains of "every A is a B", proverqa facts and rules about people,
            rail2country flags in trains of coloured wagons, beavertails whether a reply is
            harmful.
        test: a file in the published format: JSON for prontoqa and proverqa (there also several,
            with commas between), CSV for rail2country, JSONL or JSON for beavertails. None
            generates problems, which beavertails can't.
        n_test: so many problems of each file; of generated ones so many in all, before twins, and
            of trains of each kind. All for None.
        fit_dtype: of the model that reads what is fitted on; the fastest is bfloat16 where the
            device has units for it, else float32.
        seed: of generating and fitting.
        names: SAEs at other sites, read beside `sae`: by prontoqa's and proverqa's readers to tell
            names apart, by rail2country's for colours.
        n_fit: generated problems that prontoqa's and proverqa's readers are fitted on.
        keep: a folder for prontoqa's fitted readers, so that a second run need not fit them.
        source: where rail2country's problems come from without a file; auto takes the published
            ones where the hub is in reach and generates them otherwise.
        safe, unsafe: beavertails' pairs as two JSON lists of input and output, instead of `test`.
        folds: into which beavertails' prompts are dealt; each is answered by readers of the others.

    Raises:
        ConfigError: a key of another kind of task.
    """

    __pydantic_config__ = CLOSED

    kind: TaskKind
    test: str | None = None
    n_test: Count | None = None
    fit_dtype: str = "fastest"
    seed: int = 0
    names: list[str] | None = None
    n_fit: Count = 4000
    keep: str | None = None
    source: Source = "auto"
    safe: str | None = None
    unsafe: str | None = None
    folds: Annotated[int, Ge(2)] = 10

    def __post_init__(self) -> None:
        """Refuse keys that would be ignored."""
        foreign = [
            f"task.{one.name} belongs to kind {' or '.join(_OWN[one.name])}, not to {self.kind}"
            for one in fields(self)
            if self.kind not in _OWN.get(one.name, (self.kind,))
            and getattr(self, one.name) != one.default
        ]
        if foreign:
            raise ConfigError(f"{'; '.join(foreign)}.")


@dataclass(frozen=True)
class AnswerConfig:
    """A comparison of ways to answer problems; `dtype` is the language model's."""

    __pydantic_config__ = CLOSED

    task: AnswerTaskConfig
    model: str = "smollm2-135m-instruct"
    sae: str = "smollm2-135m-instruct/resid_post.9"
    batch_size: Count = 8
    dtype: str = "float32"
    device: str | None = None
    samples: Whole = field(default=5)
