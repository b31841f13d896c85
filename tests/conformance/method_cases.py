"""Every method with small settings, fitted to tiny models, for the laws of methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from donor import donor
from laws import ARCHES, PROMPTS

from saesteer import methods
from saesteer.data.contrast import Contrast
from saesteer.methods import Method
from saesteer.models import Model
from saesteer.saes import SAE
from saesteer.steer import Plan

SITE = "resid_post.2"
LETTERS = Contrast.from_texts(
    [f"aa ee {i} aaa" for i in range(10)], [f"zz xx {i} zzz" for i in range(10)], name="letters"
)
OTHERS = Contrast.from_texts(
    [f"aa xx {i} mmm" for i in range(10)], [f"zz ee {i} ooo" for i in range(10)], name="others"
)
LONG = Contrast.from_texts([PROMPTS[1]] * 10, [PROMPTS[0], PROMPTS[2]] * 5, name="long")
"""A condition that the second of the laws' prompts meets and not all the others do."""

CASES: Mapping[str, Callable[[SAE], Method]] = {
    "WorldModel": lambda _: methods.WorldModel(),
    "CommandV": lambda _: methods.CommandV(*donor()),
    "BindingIDs": lambda _: methods.BindingIDs(swap=("short", "something")),
    "RefusalCliff": lambda _: methods.RefusalCliff(top_k=2),
    "HNeurons": lambda _: methods.HNeurons(share=0.02),
    "ExpertNeurons": lambda _: methods.ExpertNeurons(),
    "LanguageArithmetics": lambda _: methods.LanguageArithmetics(share=0.05),
    "ToxificationReversal": lambda _: methods.ToxificationReversal(),
    "GACT": lambda _: methods.GACT(),
    "BroadSkills": lambda _: methods.BroadSkills(),
    "PersonaVectors": lambda _: methods.PersonaVectors(),
    "NLITI": lambda _: methods.NLITI(top_k=3),
    "ActAdd": lambda _: methods.ActAdd(),
    "AurA": lambda _: methods.AurA(),
    "BreakingBadTokens": methods.BreakingBadTokens,
    "BreakingBadTokens-input": lambda sae: methods.BreakingBadTokens(sae, "input", n_features=1),
    "BreakingBadTokens-token": lambda sae: methods.BreakingBadTokens(sae, "token"),
    "CAA": lambda _: methods.CAA(),
    "CASAL": lambda _: methods.CASAL(n_steps=10, lr=0.02),
    "CASAL-attention": lambda _: methods.CASAL(n_steps=10, lr=0.02, part="attention"),
    "CAST": lambda _: methods.CAST(condition=LONG),
    "CAST-last": lambda _: methods.CAST(condition=LONG, over="last"),
    "Controller": lambda _: methods.Controller(n_steps=10, n_hidden=16),
    "DirectionalAblation": lambda _: methods.DirectionalAblation(n_candidates=2),
    "DynamicActivationComposition": lambda _: methods.DynamicActivationComposition([OTHERS]),
    "FASB": lambda _: methods.FASB(tau=1.0, n_back=2),
    "EigenShift": lambda _: methods.EigenShift(),
    "FeatureSteering": lambda sae: methods.FeatureSteering(sae, n_candidates=2),
    "ITI": lambda _: methods.ITI(top_k=3),
    "LinEAS": lambda _: methods.LinEAS(n_steps=5, lr=0.05),
    "LinearAcT": lambda _: methods.LinearAcT(),
    "LinearProbe": lambda _: methods.LinearProbe(),
    "LoReFT": lambda _: methods.LoReFT(n_steps=5),
    "MassMean": lambda _: methods.MassMean(whiten=True),
    "MoTE": lambda _: methods.MoTE(),
    "ROME": lambda _: methods.ROME(n_steps=5),
    "RandomDirection": lambda _: methods.RandomDirection(),
    "RandomFeature": methods.RandomFeature,
    "OutputScore": lambda sae: methods.OutputScore(sae, n_candidates=3),
    "LFSteering": lambda sae: methods.LFSteering(sae, n_features=24),
    "SAETS": lambda sae: methods.SAETS(
        sae, n_vectors=6, n_tokens=4, dose=2.0, prompts=["aa", "zz"]
    ),
    "SCAR": lambda sae: methods.SCAR(sae, latent=3),
    "ActivationReasoning": methods.ActivationReasoning,
    "ActivationReasoning-global": lambda sae: methods.ActivationReasoning(
        sae, "steer :- not shown. steer :- opposite.", "single", "global"
    ),
    "ReFTr1": lambda _: methods.ReFTr1(n_steps=5),
    "RePS": lambda _: methods.RePS(n_steps=3),
    "RepE": lambda _: methods.RepE(layers=[1, 2]),
    "DirectionalAblation-RepIt": lambda _: methods.DirectionalAblation(
        others=[OTHERS], n_candidates=2
    ),
}
"""Prompting is not among them: it edits no activation that decoding could disagree about."""

FUSED = "its experts are fused, so there are no neurons to hook and no matrix of one MLP"
UNREACHABLE = {
    **{
        (name, "mixtral"): FUSED
        for name in ("AurA", "CASAL", "ExpertNeurons", "HNeurons", "LanguageArithmetics", "ROME")
    },
    **{("MoTE", arch): "it has no router" for arch in ARCHES if arch != "mixtral"},
}
"""Cases on architectures that lack what they act on, with the reason."""
FIRST = [
    "ActAdd",
    "AurA",
    "BreakingBadTokens",
    "BreakingBadTokens-input",
    "BreakingBadTokens-token",
    "CAA",
    "CAST",
    "CAST-last",
    "DirectionalAblation",
    "DynamicActivationComposition",
    "FeatureSteering",
    "ITI",
    "LinearAcT",
    "LinearProbe",
    "MassMean",
    "RepE",
]
"""Methods that all others are compared with: in the default run on parallel blocks too."""


def is_fast(name: str, arch: str) -> bool:
    """Whether a case is of the default run; the full run has all."""
    return arch == "llama" or (arch == "neox" and name in FIRST)


def grid() -> list[tuple[str, str]]:
    """Every method on every architecture that has what it needs."""
    return [(n, a) for n in CASES for a in ARCHES if (n, a) not in UNREACHABLE]


@cache
def fitted(name: str, model: Model, make_sae: Callable[..., SAE]) -> Plan:
    """The method's plan for a tiny model, fitted once."""
    sae: Any = make_sae(model, SITE)
    return CASES[name](sae).fit(model, LETTERS, SITE)
