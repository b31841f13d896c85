"""What tokens do in ProverQA's sentences, and how a row of roles becomes a claim's outline.

Each role is a concept with a score at every token; the highest above its threshold is the token's
role. The concepts are fitted together, as one multinomial regression, so that their margins are
log-odds of one another. Where a sentence has a condition but no "then", the split lies where the
predicates' words are likeliest to be of the condition before it and of the claim after it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saesteer.errors import ContrastError
from saesteer.evals.prover_claims import Op
from saesteer.evals.prover_text import Role
from saesteer.features.concepts import Concept, FeatureReadout, ProbeReadout
from saesteer.features.fitting import most_separating
from saesteer.models.sites import Site
from saesteer.saes.sae import SAE

ROLES: tuple[Role, ...] = get_args(Role)
CONDITION, CLAIM = ROLES.index("condition"), ROLES.index("claim")
N_FEATURES = 96
"""Features chosen for each role; all roles weigh those of all."""
N_CHOOSE = 6000
"""Tokens whose latents are held whole, to choose features by: 200 MB."""
Margins = Float[Tensor, "tokens roles"]


@final
@dataclass
class Part:
    """A condition or a claim: the tokens and signs of its literals, and the joints that occur."""

    literals: list[list[int]] = field(default_factory=list)
    positive: list[bool] = field(default_factory=list)
    joints: set[Role] = field(default_factory=set)

    @property
    def op(self) -> Op:
        """What the joints say, the sign of an exclusive choice first."""
        if "exclusive" in self.joints:
            return "one_of"
        return "any" if self.joints & {"inclusive", "or"} else "all"


@final
@dataclass(frozen=True)
class Outline:
    """One sentence: the tokens of the person, none for everyone; condition and claim."""

    person: tuple[int, ...]
    condition: Part
    claim: Part


def outline(margins: Margins, sentence: Sequence[int]) -> Outline | None:
    """What a sentence's tokens say together; None without a claim, or without anyone it is of.

    Args:
        margins: of the sentence's tokens.
    """
    roles = [ROLES[i] for i in margins.argmax(-1).tolist()]
    split, parts = _split(margins, roles), (Part(), Part())
    here, is_open, negated = int(split == 0), False, False
    for index, (token, role) in enumerate(zip(sentence, roles, strict=True)):
        if role in ("condition", "claim"):
            if int(index >= split) != here:
                here, is_open = int(index >= split), False
            part = parts[here]
            if not is_open:
                part.literals.append([])
                part.positive.append(True)
                is_open = True
            part.literals[-1].append(token)
            part.positive[-1] &= not negated
            negated = False
        elif role == "negation":
            negated = True
        elif role in ("and", "or", "exclusive", "inclusive"):
            parts[here].joints.add(role)
            is_open, negated = False, False
    person = _person(sentence, roles)
    if not parts[1].literals or not (person or "everyone" in roles):
        return None
    return Outline(person, *parts)


def _split(margins: Margins, roles: Sequence[Role]) -> int:
    """The index of the first token that no longer belongs to the condition."""
    if "then" in roles:
        return roles.index("then")
    if "if" not in roles and "everyone" not in roles:
        return 0
    content = [i for i, role in enumerate(roles) if role in ("condition", "claim")]
    if not content:
        return 0
    lean = (margins[content, CONDITION] - margins[content, CLAIM]).cumsum(0)
    best = int((2 * lean - lean[-1]).argmax())
    if float(2 * lean[best] - lean[-1]) <= float(-lean[-1]):
        return 0
    return content[best + 1] if best + 1 < len(content) else len(roles)


def _person(sentence: Sequence[int], roles: Sequence[Role]) -> tuple[int, ...]:
    """The first run of tokens that name someone."""
    if "person" not in roles:
        return ()
    start = stop = roles.index("person")
    while stop < len(roles) and roles[stop] == "person":
        stop += 1
    return tuple(sentence[start:stop])


def fit_roles(
    resid: Float[Tensor, "tokens width"], roles: Int[Tensor, " tokens"], site: Site, sae: SAE | None
) -> tuple[Concept, ...]:
    """One concept for each of `ROLES`, over latents or, without an SAE, activations.

    Raises:
        ContrastError: a role that never occurs.
    """
    missing = [role for i, role in enumerate(ROLES) if not (roles == i).any()]
    if missing:
        raise ContrastError(f"no token is {', '.join(missing)}; give texts in which every role is.")
    if sae is None:
        weights, biases = _regression(resid.float(), roles)
        return tuple(
            Concept(role, ProbeReadout(site, weights[i], float(biases[i])), 0.0)
            for i, role in enumerate(ROLES)
        )
    features = _chosen(resid, roles, sae)
    columns = sae.slice(features).to(dtype=torch.float32)
    weights, biases = _regression(columns.read(resid.float()), roles)
    return tuple(
        Concept(role, FeatureReadout(tuple(features), tuple(weights[i].tolist())), -float(biases[i]))
        for i, role in enumerate(ROLES)
    )


def _chosen(resid: Tensor, roles: Tensor, sae: SAE) -> list[int]:
    latents = sae.encode(resid[:N_CHOOSE].float()).float()
    found = roles[:N_CHOOSE]
    chosen: dict[int, None] = {}
    for index in found.unique().tolist():
        chosen |= dict.fromkeys(most_separating(latents, found == index, N_FEATURES))
    return sorted(chosen)


def _regression(rows: Tensor, roles: Tensor) -> tuple[Tensor, Tensor]:
    """Weights `[roles, columns]` and biases of a multinomial regression over scaled columns."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    centre, scale = rows.mean(0), rows.std(0).clamp_min(1e-3)
    fit = LogisticRegression(C=0.1, max_iter=100, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # separable rows go on for ever
        fit.fit(((rows - centre) / scale).numpy(), roles.numpy())
    weights = torch.from_numpy(fit.coef_).float() / scale
    return weights, torch.from_numpy(fit.intercept_).float() - weights @ centre
