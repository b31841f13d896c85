"""What tokens do in ProverQA's sentences, and how a row of roles becomes a claim's outline.

Each role is a concept with a score at every token; the highest above its threshold is the token's
role. The concepts are fitted together, as one multinomial regression, so that their margins are
log-odds of one another. One more concept tells at a predicate's words whether they are claimed or a
condition. It is fitted on sentences without a "then", and asked there alone: the split lies where
the words before it are likeliest to be of the condition and those after it of the claim.
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
CLAIMED = "claimed"
CONCEPTS = (*ROLES, CLAIMED)
"""What is read: the roles compete at every token, the last one counts at content alone."""
N_FEATURES = 96
"""Features chosen for each role; all roles weigh those of all."""
C, C_CLAIMED = 0.1, 0.02
"""Inverse strengths of the two regressions' regularisation."""
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
    """What a sentence's tokens say together; None without a claim.

    Words before the person, or before the "if", only say who is meant.

    Args:
        margins: of the sentence's tokens.
    """
    sure = margins[:, :-1].log_softmax(-1)
    roles = [ROLES[i] for i in sure.argmax(-1).tolist()]
    person = _person(sure, roles)
    for index in person:
        roles[index] = "person"
    opens = [person.stop, *(i + 1 for i, role in enumerate(roles) if role == "if")]
    begin = max(opens[:2])
    parts = _literals(sentence, roles, begin, _split(margins[:, -1], roles, begin))
    if not parts[1].literals:
        return None
    return Outline(tuple(sentence[i] for i in person), *parts)


def _literals(
    sentence: Sequence[int], roles: Sequence[Role], begin: int, split: int
) -> tuple[Part, Part]:
    """Condition and claim: a literal goes on until a joint, a negation or the split."""
    parts = (Part(), Part())
    here, is_open, negated = int(split <= begin), False, False
    for index in range(begin, len(roles)):
        match roles[index]:
            case "content":
                if int(index >= split) != here:
                    here, is_open = int(index >= split), False
                if not is_open:
                    parts[here].literals.append([])
                    parts[here].positive.append(not negated)
                parts[here].literals[-1].append(sentence[index])
                is_open, negated = True, False
            case "negation":
                is_open, negated = False, True
            case "and" | "or" | "exclusive" | "inclusive" as joint:
                parts[here].joints.add(joint)
                is_open, negated = False, False
            case _:
                pass
    return parts


def _split(
    claimed: Float[Tensor, " tokens"], roles: Sequence[Role], begin: int
) -> int:
    """The index of the first token that no longer belongs to the condition."""
    if "if" not in roles:
        return begin
    if "then" in roles[begin:]:
        return roles.index("then", begin)
    content = [i for i, role in enumerate(roles) if role == "content" and i >= begin]
    if len(content) < 2:
        return begin
    lean = claimed[content]
    at = [float(lean[i:].sum() - lean[:i].sum()) for i in range(1, len(content))]
    return content[1 + at.index(max(at))]


def _person(sure: Margins, roles: Sequence[Role]) -> range:
    """The first run of tokens that name someone; none where the sentence is about everyone.

    A name's first token may be a word of its own ("No-el"), so the run begins where the sentence
    or the condition does. A sentence about nobody and not about everyone must name someone too.
    """
    named = sure[:, ROLES.index("person")]
    if "everyone" in roles:
        everyone = sure[:, ROLES.index("everyone")]
        if "person" not in roles or float(everyone.max()) >= float(named.max()):
            return range(0)
    start = roles.index("person") if "person" in roles else int(named[:6].argmax())
    stop = start + 1
    while stop < len(roles) and roles[stop] == "person":
        stop += 1
    while start > 0 and roles[start - 1] not in ("if", "then", "everyone"):
        start -= 1
    return range(start, stop)


def fit_roles(
    resid: Float[Tensor, "tokens width"],
    roles: Int[Tensor, " tokens"],
    claimed: Int[Tensor, " tokens"],
    site: Site,
    sae: SAE | None,
) -> tuple[Concept, ...]:
    """One concept for each of `CONCEPTS`, over latents or, without an SAE, activations.

    Args:
        claimed: 1 or 0 at the content of sentences without a "then", -1 elsewhere.

    Raises:
        ContrastError: a role that never occurs.
    """
    missing = [role for i, role in enumerate(ROLES) if not (roles == i).any()]
    if missing:
        raise ContrastError(f"no token is {', '.join(missing)}; give texts in which every role is.")
    told = claimed >= 0
    if not told.any() or claimed[told].unique().numel() < 2:
        raise ContrastError('no sentence without a "then" has a condition and a claim.')
    concepts: list[Concept] = []
    tasks = ((ROLES, resid, roles, C), ((CLAIMED,), resid[told], claimed[told], C_CLAIMED))
    for names, rows, labels, c in tasks:
        features = [] if sae is None else _chosen(rows, labels, sae)
        read = rows.float()
        if sae is not None:
            read = sae.slice(features).to(dtype=torch.float32).read(read)
        weights, biases = _regression(read, labels, c)
        for name, weight, bias in zip(names, weights, biases.tolist(), strict=True):
            if sae is None:
                concepts.append(Concept(name, ProbeReadout(site, weight, bias), 0.0))
            else:
                readout = FeatureReadout(tuple(features), tuple(weight.tolist()))
                concepts.append(Concept(name, readout, -bias))
    return tuple(concepts)


def _chosen(resid: Tensor, labels: Tensor, sae: SAE) -> list[int]:
    latents = sae.encode(resid[:N_CHOOSE].float()).float()
    found = labels[:N_CHOOSE]
    chosen: dict[int, None] = {}
    for index in found.unique().tolist():
        chosen |= dict.fromkeys(most_separating(latents, found == index, N_FEATURES))
    return sorted(chosen)


def _regression(rows: Tensor, labels: Tensor, c: float) -> tuple[Tensor, Tensor]:
    """Weights and biases of a multinomial regression over scaled columns; one row for two labels.

    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    centre, scale = rows.mean(0), rows.std(0).clamp_min(1e-3)
    fit = LogisticRegression(C=c, max_iter=100, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # separable rows go on for ever
        fit.fit(((rows - centre) / scale).numpy(), labels.numpy())
    weights = torch.from_numpy(fit.coef_).float() / scale
    return weights, torch.from_numpy(fit.intercept_).float() - weights @ centre
