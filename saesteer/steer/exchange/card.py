"""The page that goes along with a shared plan: model, site, method, data, dose and scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from saesteer.steer.plan import Plan


@dataclass(frozen=True)
class Card:
    """What a plan can't say about itself.

    Attributes:
        method: how it was fitted, by the method's name and settings.
        data: what it was fitted on.
        dose: relative dose ‖Δh‖/‖h‖ at which the scores were measured.
        scores: figures by name, with the split they come from in the name.
        model: the name on the hub of the model it is for; else the one that it is stamped with.
        licence: of the plan, as an SPDX name in small letters.
    """

    method: str = "not stated"
    data: str = "not stated"
    dose: float | None = None
    scores: Mapping[str, float | str] = field(default_factory=dict)
    model: str | None = None
    licence: str = "apache-2.0"

    def render(self, plan: Plan, repo: str) -> str:
        """The card of a plan as Markdown with the hub's front matter."""
        import yaml

        model = self.model or plan.stamp.get("model")
        head = {"library_name": "saesteer", "tags": ["activation-steering", "saesteer-plan"]}
        head |= {"license": self.licence} | ({"base_model": model} if model else {})
        sites = dict.fromkeys(str(edit.intervention.site) for edit in plan.edits)
        facts = {
            "Model": model or "not stated",
            "Fingerprint of its weights": plan.stamp.get("weights", "none"),
            "Sites": ", ".join(sites) or "none",
            "Method": self.method,
            "Data": self.data,
            "Strength": f"{plan.strength:g}",
            "Relative dose": "not measured" if self.dose is None else f"{self.dose:.3g}",
        }
        lines = [f"| {key} | {_cell(value)} |" for key, value in facts.items()]
        scored = [f"| {_cell(k)} | {_cell(_figure(v))} |" for k, v in self.scores.items()]
        changes = (*plan.edits, *plan.weight_edits)
        edits = [f"1. {change.label}, strength {change.strength:g}" for change in changes]
        edits += [f"1. {control.label}" for control in plan.controls]
        edits += [f"1. in front of the prompt: {act}" for act in plan.prompt_edits]
        return "\n".join(
            [
                f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n# {plan.name}\n",
                "A steering plan of saesteer.\n\n| | |\n|---|---|",
                *lines,
                "\n## Edits\n",
                *edits,
                "\n## Scores\n",
                *(["| score | value |\n|---|---|", *scored] if scored else ["None given."]),
                f'\n```python\nplan = saesteer.Plan.load("hub:{repo}", model)\n```\n',
            ]
        )


def _figure(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
