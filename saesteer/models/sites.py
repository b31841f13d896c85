"""Where in a model an activation lives, as a value that names it the same way everywhere.

A site is `kind.layer`, as in `resid_post.9`; a single attention head is `head_out.layer.head`.
TransformerLens names (`blocks.9.hook_resid_post`) are read as the same sites, and so are Hugging
Face's modules where what goes in or comes out is a site in every model that has them
(`model.layers.9`, `model.layers.9.self_attn.o_proj.input`).

`resid_mid` is read where the MLP's norm reads it, so an edit there reaches the MLP branch alone, as
at TransformerBridge's `hook_resid_mid`; `attn_out` and `resid_post` edit the stream itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from saesteer.errors import SiteError

KINDS = (
    *("resid_pre", "head_out", "attn_out", "resid_mid"),
    *("mlp_in", "router_in", "neurons", "mlp_out", "resid_post"),
)
"""Site kinds in the order in which a block computes them; `mlp_in` is behind the MLP's norm, and
`router_in` is what a router of experts alone reads of it."""

_LENS_KINDS = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "attn.hook_z": "head_out",
    "mlp.hook_in": "mlp_in",
    "mlp.gate.hook_in": "router_in",
    "mlp.hook_post": "neurons",
    "hook_in": "resid_pre",  # TransformerBridge's names; those above are written
    "hook_out": "resid_post",
}
_UNCLEAR = {
    "hook_mlp_in": "it is before the MLP's norm in TransformerLens and behind it in Gemma Scope 2; "
    "use resid_mid.{0} or mlp_in.{0}",
    "ln2.hook_normalized": "it is before the norm's gain, where no site is; mlp_in.{0} is behind",
    "attn.hook_out": "some models have a norm behind it; use blocks.{0}.hook_attn_out",
    "mlp.hook_out": "some models have a norm behind it; use blocks.{0}.hook_mlp_out",
}
"""TransformerLens names that are no sites, or not the same ones everywhere."""
_HF_KINDS = {
    None: "resid_post",
    "input": "resid_pre",
    "self_attn.o_proj.input": "head_out",
    "pre_feedforward_layernorm": "mlp_in",
    "mlp.input": "mlp_in",
    "mlp.down_proj.input": "neurons",
    "post_feedforward_layernorm": "mlp_out",
}
"""Outputs of a block's modules, with or without `.output` behind, and inputs."""
_LENS = re.compile(r"blocks\.(\d+)\.(.+)")
_HF = re.compile(r"(?:\w+\.)*(?:layers|h)\.(\d+)(?:\.(.+))?")
_OWN = re.compile(r"([a-z_]+)\.(\d+)(?:\.(\d+))?")
_FORM = f"write KIND.LAYER such as resid_post.9, with KIND one of {', '.join(KINDS)}"


@dataclass(frozen=True)
class Site:
    """One place in a model: a layer (0-based), a kind of `KINDS`, and for `head_out` maybe a head.

    `head_out` without a head means all heads side by side, `[batch, pos, n_heads * d_head]`.
    """

    layer: int
    kind: str
    head: int | None = None

    def __post_init__(self) -> None:
        """Check the kind.

        Raises:
            SiteError: none of `KINDS`, or a head of something else than `head_out`.
        """
        if self.kind not in KINDS or (self.head is not None and self.kind != "head_out"):
            raise SiteError(f"{str(self)!r} is not a site; {_FORM}.")

    def __str__(self) -> str:
        head = "" if self.head is None else f".{self.head}"
        return f"{self.kind}.{self.layer}{head}"

    @property
    def order(self) -> tuple[int, int]:
        """Sort key: the order in which a forward pass reaches sites."""
        return self.layer, KINDS.index(self.kind)

    @property
    def whole(self) -> Site:
        """The site without its head: what one hook sees."""
        return self if self.head is None else Site(self.layer, self.kind)

    @property
    def lens_name(self) -> str:
        """The TransformerLens hook name of this site, as sae-lens files carry it."""
        lens = next(name for name, kind in _LENS_KINDS.items() if kind == self.kind)
        return f"blocks.{self.layer}.{lens}"

    @staticmethod
    def parse(ref: str | Site) -> Site:
        """Read `resid_post.9`, `head_out.9.3`, or a name of TransformerLens or Hugging Face.

        Raises:
            SiteError: it is none of these, or means different places in different models.
        """
        if isinstance(ref, Site):
            return ref
        if not isinstance(ref, str):
            raise SiteError(f"{ref!r} is not a site; {_FORM}.")
        lens, hf = _LENS.fullmatch(ref), _HF.fullmatch(ref.removesuffix(".output"))
        for found, kinds in ((lens, _LENS_KINDS), (hf, _HF_KINDS)):
            if found and found[2] in kinds:
                return Site(int(found[1]), kinds[found[2]])
        if lens and lens[2] in _UNCLEAR:
            raise SiteError(f"{ref!r} is not a site: {_UNCLEAR[lens[2]].format(lens[1])}.")
        own = _OWN.fullmatch(ref)
        if own and own[1] in KINDS and (own[3] is None or own[1] == "head_out"):
            return Site(int(own[2]), own[1], None if own[3] is None else int(own[3]))
        raise SiteError(f"{ref!r} is not a site; {_FORM}.")
