"""What tokens do in ProverQA's sentences, and how a row of roles becomes a claim's outline.

Each role is a concept with a score at every token; the highest above its threshold is the token's
role. They are fitted together, as one multinomial regression, so that their margins are log-odds of
one another. Two more concepts stand for themselves. One tells at which token a claim begins that no
"then" announces ("Anyone who sings / is happy"), and is fitted and asked in such sentences alone.
The other tells that a token goes on with the word of the token before: a word has the role of its
last token, where all of it is known ("am-uses", "No-el").
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
TURN, CONTINUES = "turn", "continues"
CONCEPTS = (*ROLES, TURN, CONTINUES)
"""What is read: the roles compete at every token, the others count each for themselves."""
N_FEATURES = 96
"""Features chosen for each role; all roles weigh those of all."""
C = 0.1
"""Inverse strength of the regressions' regularisation."""
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


@final
@dataclass(frozen=True)
class TokenLabels:
    """What each of some tokens is: the number of its role; whether a claim turns up there, -1 in
    sentences that need no telling; whether it goes on with a word.
    """

    roles: Int[Tensor, " tokens"]
    turn: Int[Tensor, " tokens"]
    inside: Int[Tensor, " tokens"]


def outline(margins: Margins, sentence: Sequence[int]) -> Outline | None:
    """What a sentence's tokens say together; None without a claim.

    Words before the person, or before the "if", only say who is meant.

    Args:
        margins: of the sentence's tokens.
    """
    sure = margins[:, : len(ROLES)].log_softmax(-1)
    sure = _by_word(sure, margins[:, CONCEPTS.index(CONTINUES)])
    roles = [ROLES[i] for i in sure.argmax(-1).tolist()]
    person = _person(sure, roles)
    for index in person:
        roles[index] = "person"
    opens = [person.stop, *(i + 1 for i, role in enumerate(roles) if role == "if")]
    begin = max(opens[:2])
    parts = _literals(
        sentence, roles, begin, _split(margins[:, CONCEPTS.index(TURN)], roles, begin)
    )
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


def _by_word(sure: Margins, continues: Float[Tensor, " tokens"]) -> Margins:
    """The same with every token's row that of its word's last token."""
    rows = list(sure)
    for index in range(len(rows) - 1, 0, -1):
        if float(continues[index]) > 0:
            rows[index - 1] = rows[index]
    return torch.stack(rows)


def _split(turn: Float[Tensor, " tokens"], roles: Sequence[Role], begin: int) -> int:
    """The index of the first token that no longer belongs to the condition."""
    content = [i for i, role in enumerate(roles) if role == "content" and i >= begin]
    if "if" not in roles or len(content) < 2:
        return begin
    first, last = content[0], content[-1]
    if "then" in roles[first:last]:
        return roles.index("then", first)
    return max(range(first + 1, last + 1), key=lambda i: float(turn[i]))


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
    resid: Float[Tensor, "tokens width"], labels: TokenLabels, site: Site, sae: SAE | None
) -> tuple[Concept, ...]:
    """One concept for each of `CONCEPTS`, over latents or, without an SAE, activations.

    Raises:
        ContrastError: a role that never occurs, or a concept that holds nowhere or everywhere.
    """
    here = {ROLES[i] for i in labels.roles.unique().tolist()}
    if len(here) < len(ROLES):
        missing = ", ".join(role for role in ROLES if role not in here)
        raise ContrastError(f"no token is {missing}; give texts in which every role is.")
    tasks = ((ROLES, labels.roles), ((TURN,), labels.turn), ((CONTINUES,), labels.inside))
    concepts: list[Concept] = []
    for names, told in tasks:
        concepts += _fitted(names, resid[told >= 0], told[told >= 0], site, sae)
    return tuple(concepts)


def _fitted(
    names: Sequence[str], resid: Tensor, labels: Tensor, site: Site, sae: SAE | None
) -> list[Concept]:
    """Concepts that compete, or one that holds where the label is 1."""
    if labels.unique().numel() < 2:
        raise ContrastError(f"no text tells where {names[0]} holds and where not.")
    if sae is None:
        weights, biases = _regression(resid.float(), labels)
        told = zip(names, weights, biases.tolist(), strict=True)
        return [Concept(name, ProbeReadout(site, w, b), 0.0) for name, w, b in told]
    features = _chosen(resid, labels, sae)
    columns = sae.slice(features).to(dtype=torch.float32)
    weights, biases = _regression(columns.read(resid.float()), labels)
    return [
        Concept(name, FeatureReadout(tuple(features), tuple(w)), -b)
        for name, w, b in zip(names, weights.tolist(), biases.tolist(), strict=True)
    ]


def _chosen(resid: Tensor, labels: Tensor, sae: SAE) -> list[int]:
    latents = sae.encode(resid[:N_CHOOSE].float()).float()
    found = labels[:N_CHOOSE]
    chosen: dict[int, None] = {}
    for index in found.unique().tolist():
        chosen |= dict.fromkeys(most_separating(latents, found == index, N_FEATURES))
    return sorted(chosen)


def _regression(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and biases of a multinomial regression over scaled columns; one row for 0 and 1."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    centre, scale = rows.mean(0), rows.std(0).clamp_min(1e-3)
    fit = LogisticRegression(C=C, max_iter=100, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # separable rows go on for ever
        fit.fit(((rows - centre) / scale).numpy(), labels.numpy())
    weights = torch.from_numpy(fit.coef_).float() / scale
    return weights, torch.from_numpy(fit.intercept_).float() - weights @ centre
