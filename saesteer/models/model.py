"""A Hugging Face model with its tokenizer and layout; it adds little and hides nothing.

Everything in saesteer that takes a `Model` takes a bare Hugging Face model too (`as_model`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from saesteer.errors import DataError, ModelError, SiteError
from saesteer.models.fingerprint import weights_fingerprint
from saesteer.models.layout import Layout
from saesteer.models.limits import check_count, check_generation, is_whole
from saesteer.models.offload import device_of
from saesteer.models.prompts import Chat, Prompt, as_prompts, is_single
from saesteer.models.sites import Site
from saesteer.shown import shown


@shown
@dataclass(frozen=True)
class TokenBatch:
    """Rows of token ids with their validity, both `[batch, pos]`; the mask is boolean.

    Attributes:
        position_ids: where rows hold several documents, the places within those; else the mask's.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor | None = None

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on another device."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            position_ids=None if self.position_ids is None else self.position_ids.to(device),
        )

    @property
    def lengths(self) -> Tensor:
        """Valid tokens per row, `[batch]`."""
        return self.attention_mask.sum(-1)


@dataclass(eq=False)
class Model:
    """A causal language model ready to be read and steered.

    Attributes:
        hf: the Hugging Face module itself.
        tokenizer: its tokenizer.
        name: what it was loaded as; used in messages and manifests, never as identity.
        layout: where its sites are.
        prompt_edits: functions applied in order to each prompt of `generate`, put by plans.
    """

    hf: Any
    tokenizer: Any
    name: str
    layout: Layout
    known_fingerprint: str | None = None
    prompt_edits: list[Callable[[Prompt], Prompt]] = field(default_factory=list)

    def __repr__(self) -> str:
        kind, size = type(self.hf).__name__, f"{self.n_layers} layers of width {self.d_model}"
        return f"<Model {self.name}: {kind}, {size}, {self.dtype} on {self.device}>"

    @property
    def device(self) -> torch.device:
        """Where token ids go: the device that the input embedding computes on."""
        return device_of(self.hf)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.hf.parameters()).dtype

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.layout.n_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.layout.d_model

    def check_site(self, ref: str | Site) -> Site:
        """Parse a site and make sure that this model has it.

        Raises:
            SiteError: naming the layers that exist.
        """
        site = Site.parse(ref)
        if not 0 <= site.layer < self.n_layers:
            raise SiteError(
                f"layer {site.layer} does not exist (site {site}); "
                f"{self.name} has layers 0-{self.n_layers - 1}."
            )
        self.layout.point(site)
        return site

    def fingerprint(self) -> str:
        """What identifies the weights (`weights_fingerprint`), 16 hex digits; cached."""
        return self.known_fingerprint or self._weights_fingerprint

    @cached_property
    def _weights_fingerprint(self) -> str:
        return weights_fingerprint(self.hf)

    def tokenize(
        self, prompts: Prompt | Sequence[Prompt], padding_side: str = "left"
    ) -> TokenBatch:
        """Token ids of texts or chats; the chat template is applied to chats and only to them.

        Raises:
            DataError: no prompt, nothing to tokenize, half a character, or no chat template.
        """
        rows = [self._ids(prompt) for prompt in as_prompts(prompts)]
        if not rows or any(not row for row in rows):
            raise DataError("a prompt without tokens: give at least one word of text.")
        return pad_rows(rows, self.pad_id, padding_side).to(self.device)

    def need_tokenizer(self) -> Any:
        """The tokenizer.

        Raises:
            ModelError: it has none.
        """
        if self.tokenizer is None:
            raise ModelError(
                f"{self.name} has no tokenizer; pass one to load_model(tokenizer=...)."
            )
        return self.tokenizer

    @property
    def has_chat_template(self) -> bool:
        """Whether chats can be put to it."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    def as_prompt(self, text: str) -> Prompt:
        """A user's message where the model has a chat template, else the text itself."""
        return [{"role": "user", "content": text}] if self.has_chat_template else text

    def render(self, chat: Chat) -> str:
        """A chat as its template writes it, up to where the answer begins.

        Raises:
            DataError: the tokenizer has no chat template.
        """
        if not self.has_chat_template:
            raise DataError(
                f"{self.name} has no chat template; pass plain text instead of messages."
            )
        template: Any = self.tokenizer.apply_chat_template
        return str(template(list(chat), tokenize=False, add_generation_prompt=True))

    def forward(
        self, batch: TokenBatch, *, base_only: bool = False, last: int | None = None
    ) -> Tensor:
        """One pass without a cache; logits `[batch, pos, vocab]`, or hidden states of the base.

        Position ids follow the mask, so a padded row is computed as it would be alone.

        Args:
            last: only the logits of so many last positions, which saves most of a wide vocabulary.
        """
        batch = batch.to(self.device)
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "use_cache": False}
        if batch.position_ids is not None:
            inputs["position_ids"] = batch.position_ids
        elif not bool(batch.attention_mask.all()):
            inputs["attention_mask"] = batch.attention_mask.long()
            inputs["position_ids"] = (batch.attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        if last is not None:
            inputs["logits_to_keep"] = last
        output = (self.layout.base if base_only else self.hf)(**inputs)
        return cast(Tensor, output[0] if base_only else output.logits)

    @torch.no_grad()
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        max_new_tokens: int = 64,
        batch_size: int = 16,
        **options: Any,
    ) -> str | list[str]:
        """New text for one prompt (a str or a chat) or for several; greedy unless told otherwise.

        Args:
            prompts: a text, a chat (list of messages), or a list of either.
            options: anything that `transformers` takes, such as do_sample, num_beams, temperature.
        """
        texts = [
            self.tokenizer.decode(row, skip_special_tokens=True)
            for _, new in self.generate_ids(
                prompts, max_new_tokens=max_new_tokens, batch_size=batch_size, **options
            )
            for row in new
        ]
        return texts[0] if is_single(prompts) and len(texts) == 1 else texts

    @torch.no_grad()
    def generate_ids(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        max_new_tokens: int = 64,
        batch_size: int = 16,
        logits: list[Tensor] | None = None,
        **options: Any,
    ) -> Iterator[tuple[TokenBatch, Tensor]]:
        """Batches of (prompt tokens, new token ids `[rows, new]`), in the order of the prompts.

        Args:
            logits: gets, for each batch, the model's own logits for every new token,
                `[rows, new, vocab]`, before any sampling rule.

        Raises:
            DataError: no prompt, nothing to a batch, no new tokens, or more with the prompt than
                the model can read.
        """
        check_count("batch_size", batch_size, error=DataError)
        options = {"do_sample": False, "pad_token_id": self.pad_id, **options}
        if logits is not None:
            options |= {"return_dict_in_generate": True, "output_logits": True}
        edited = [self._edit_prompt(prompt) for prompt in as_prompts(prompts)]
        for start in range(0, len(edited), batch_size):
            batch = self.tokenize(edited[start : start + batch_size])
            check_generation(self, batch.input_ids.shape[1], max_new_tokens)
            out = self.hf.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask.long(),
                max_new_tokens=max_new_tokens,
                **options,
            )
            if logits is not None:
                logits.append(torch.stack(out.logits, dim=1))
                out = out.sequences
            yield batch, out[:, batch.input_ids.shape[1] :]

    @property
    def pad_id(self) -> int:
        """The id used for padding: the tokenizer's, else its end of text."""
        for name in ("pad_token_id", "eos_token_id"):
            if (found := getattr(self.tokenizer, name, None)) is not None:
                return int(found)
        return 0

    @cached_property
    def special_ids(self) -> Tensor:
        """Ids of BOS, EOS, padding and added tokens that are marked special, sorted, `[n]`."""
        if self.tokenizer is None:
            return torch.empty(0, dtype=torch.long)
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        marked = {i for i, token in added.items() if getattr(token, "special", False)}
        return torch.tensor(sorted({*self.tokenizer.all_special_ids, *marked}), dtype=torch.long)

    def _edit_prompt(self, prompt: Prompt) -> Prompt:
        for edit in self.prompt_edits:
            prompt = edit(prompt)
        return prompt

    def _ids(self, prompt: Prompt) -> list[int]:
        tokenizer, plain = self.need_tokenizer(), isinstance(prompt, str)
        text = prompt if isinstance(prompt, str) else self.render(prompt)
        if not is_whole(text):
            raise DataError(f"{text[:40]!a} holds half a character, which no tokenizer can read.")
        return list(tokenizer(text, add_special_tokens=plain)["input_ids"])


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int, side: str = "left") -> TokenBatch:
    """Rows of ids padded to one length on `side` ("left" or "right").

    Raises:
        DataError: another side, or no rows.
    """
    if side not in ("left", "right") or not rows:
        raise DataError(f"{len(rows)} rows to pad on {side!r}: give one or more, left or right.")
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[index, where] = torch.tensor(row, dtype=torch.long)
        mask[index, where] = True
    return TokenBatch(ids, mask)
