"""Who takes part in a comparison: the user's methods and plans, and controls nobody may leave out.

Fitting is one loop over one interface; controls are methods like any other, and a method with
several seeds is one entry with several plans.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, count
from typing import Any

from saesteer.data.contrast import Contrast
from saesteer.errors import TaskError
from saesteer.evals.sweep import Entry
from saesteer.evals.tasks import Task
from saesteer.methods.base import Method
from saesteer.methods.feature_steering import FeatureSteering
from saesteer.methods.prompting import Prompting
from saesteer.methods.random_direction import RandomDirection
from saesteer.methods.random_feature import RandomFeature
from saesteer.models.model import Model
from saesteer.models.sites import Site
from saesteer.saes.sae import SAE
from saesteer.steer import Plan

Tick = Callable[[str], None]
RESERVED = ("unsteered", "random direction", "random feature")
"""Names that the report gives a meaning; a user's plan of such a name gets a number."""


def check_methods(methods: Sequence[object]) -> None:
    """Refuse what can't be compared.

    Raises:
        TaskError: nothing to compare, or something that is neither a method nor a plan.
    """
    if isinstance(methods, (Method, Plan)) or not methods:
        raise TaskError("methods is not a list with at least one method or plan; write [CAA()].")
    for index, method in enumerate(methods):
        if not isinstance(method, (Method, Plan)):
            got = method.__name__ if isinstance(method, type) else repr(method)[:60]
            hint = f"write {got}()" if isinstance(method, type) else "give a Method such as CAA()"
            raise TaskError(
                f"methods[{index}] is {got}; expected a method or a ready Plan: {hint}."
            )


def check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """The controls' seeds.

    Raises:
        TaskError: there is none.
    """
    if not seeds:
        raise TaskError("seeds is empty; a comparison with controls needs at least one.")
    return tuple(seeds)


def fit_entries(
    model: Model,
    contrast: Contrast,
    methods: Sequence[Method | Plan],
    site: Site | None,
    tick: Tick,
    *,
    asked: bool = True,
) -> list[Entry]:
    """The user's methods, fitted, in their order; a ready plan is taken as it is.

    Args:
        asked: the user named `site`, so that a method which can't act there refuses it; else only
            methods that take a site are told.
    """
    entries: list[Entry] = []
    for method in methods:
        if isinstance(method, Plan):
            entries.append(Entry(method.name, "plan", (method,)))
        else:
            tick(f"fit {method.name}")
            entries.append(_fit(model, contrast, [method], site, asked))
    return _named_apart(entries)


def control_entries(
    model: Model,
    task: Task,
    present: Sequence[Entry],
    sae: SAE | None,
    site: Site | None,
    seeds: Sequence[int],
    tick: Tick,
) -> list[Entry]:
    """Prompting unless it is there already, random directions, and a random feature of `sae`.

    Doses are matched later, so norms are all 1 here and no vector is fitted twice.
    """
    contrast = task.contrast
    controls: list[Entry] = []
    if all(entry.family != "prompt" for entry in present):
        controls.append(_fit(model, contrast, [Prompting()], site))
    tick("fit controls")
    directions = [RandomDirection(seed, norm=1.0) for seed in seeds]
    controls.append(_fit(model, contrast, directions, site))
    if sae is not None:
        controls.append(_fit(model, contrast, [RandomFeature(sae, seeds[0], norm=1.0)], site))
    return controls


def common_site(
    methods: Sequence[Method | Plan], sae: SAE | None, site: Site | None
) -> tuple[SAE | None, Site | None]:
    """The SAE and the site that the comparison is about, where the call did not name them.

    Dense vectors and controls act where the features do: at the SAE's site, else where the first
    ready plan acts; None leaves methods their own default.
    """
    found = sae or next(
        (m.sae for m in methods if isinstance(m, (FeatureSteering, RandomFeature))), None
    )
    if site is not None or found is not None:
        return found, site or (found.site if found is not None else None)
    plans = [method for method in methods if isinstance(method, Plan)]
    sites = [place for plan in plans for place in plan_sites(plan)]
    return None, sites[0] if sites else None


def plan_sites(plan: Plan) -> list[Site]:
    """Where a plan edits activations, in its own order."""
    return [edit.intervention.site for edit in plan.edits]


def sites_of(entries: Sequence[Entry]) -> list[str]:
    """The places that any of the entries edits, in order of first use."""
    places = (site for entry in entries for plan in entry.plans for site in plan_sites(plan))
    return list(dict.fromkeys(str(site) for site in places))


def _fit(
    model: Model,
    contrast: Contrast,
    methods: Sequence[Any],
    site: Site | None,
    asked: bool = False,
) -> Entry:
    first = methods[0]
    place = site if asked or first.takes_site else None
    plans = tuple(method.fit(model, contrast, place) for method in methods)
    return Entry(first.name, first.family, plans, first.has_strength)


def _named_apart(entries: Sequence[Entry]) -> list[Entry]:
    """Entries with names that occur once: the second of a name is "name (2)".

    A ready plan leaves the name of prompting to the control.
    """
    named: list[Entry] = []
    for entry in entries:
        taken = {*RESERVED, *(one.name for one in named)}
        if entry.family != "prompt":
            taken.add(Prompting().name)
        names = chain([entry.name], (f"{entry.name} ({n})" for n in count(2)))
        named.append(replace(entry, name=next(name for name in names if name not in taken)))
    return named
