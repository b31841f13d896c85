"""The result of `saesteer sae eval` as tables; each is empty where its part was not asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Rows = list[Mapping[str, Any]]


def scores(result: Mapping[str, Any]) -> Rows:
    """The figures on text."""
    plain = {name: value for name, value in result.items() if not isinstance(value, dict)}
    return [{"score": name, "value": value} for name, value in plain.items()]


def texts(result: Mapping[str, Any]) -> Rows:
    """The tokens that each of several paths gave."""
    found = result["texts"]
    return [{"text": path, "tokens": n} for path, n in found.items()] if len(found) > 1 else []


def density(result: Mapping[str, Any]) -> Rows:
    """Latents by log10 of the share of tokens on which they fire, empty bins left out."""
    edges, counts = result["density"]["log10_edges"], result["density"]["counts"]
    return [
        {"log10 frequency": f"{low:.2f} to {high:.2f}", "latents": count}
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
        if count
    ]


def probing(result: Mapping[str, Any]) -> Rows:
    """Accuracy of probes on k latents, on k of the random twin, and on the residual."""
    return [
        {
            "concept": concept["concept"],
            "k": probe["k"],
            "accuracy": _with_ci(probe, "accuracy"),
            "AUROC": probe["auroc"],
            "random SAE": _with_ci(probe["control"], "accuracy"),
            "difference": _with_ci(probe, "above_control"),
            "residual": concept["dense"]["accuracy"],
        }
        for concept in result.get("concepts", {}).get("probing", ())
        for probe in concept["sparse"]
    ]


def absorption(result: Mapping[str, Any]) -> Rows:
    """Absorption of concepts, and of first letters together."""
    judged = list(result.get("concepts", {}).get("absorption", ()))
    if "first_letters" in result:
        letters = result["first_letters"]["letters"]
        main = [latent for letter in letters for latent in letter["main"]]
        judged.append({**result["first_letters"], "concept": "first letters", "main": main})
    return [
        {
            "concept": row["concept"],
            "own latents": len(row["main"]),
            "judged": row["n_judged"],
            "silent": row["silent"],
            "absorbed": row["absorbed"],
            "absorption fraction": row["absorption_fraction"],
        }
        for row in judged
    ]


def perturbation(result: Mapping[str, Any]) -> Rows:
    """Fall in accuracy of a concept's own probe and of the others'."""
    return [
        {"latents ablated": step["k"], "own fall": step["own"], "others' fall": step["others"],
         "TPP": step["tpp"]}
        for step in result.get("concepts", {}).get("perturbation", ())
    ]  # fmt: skip


def sae_lens(result: Mapping[str, Any]) -> Rows:
    """Our figures beside sae-lens's."""
    found = result.get("sae_lens", {"ours": {}})
    return [
        {"every token": name, "saesteer": value, "sae-lens": found["sae_lens"][name]}
        for name, value in found["ours"].items()
    ]


TABLES = (scores, texts, density, probing, absorption, perturbation, sae_lens)


def _with_ci(row: Mapping[str, Any], name: str) -> str:
    low, high = row[f"{name}_ci"]
    return f"{row[name]:.2f} ({low:.2f} to {high:.2f})"
