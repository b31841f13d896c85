"""Tasks, measurements, the comparison at equal KL, and the report."""

from __future__ import annotations

from saesteer.evals.compare import compare
from saesteer.evals.concept_eval import ConceptScores, evaluate_concepts
from saesteer.evals.curves import Advantage, Curve, Point, advantage_at_equal_kl
from saesteer.evals.first_letters import LetterAbsorption, first_letters
from saesteer.evals.in_distribution import SiteShift, in_distribution
from saesteer.evals.lens_eval import LensAgreement, lens_agreement
from saesteer.evals.lm_eval import lm_eval_model
from saesteer.evals.report import join_results, write_report
from saesteer.evals.results import Report
from saesteer.evals.sae_eval import SaeScores, evaluate_sae
from saesteer.evals.safety import RefusalChange, SafetyAudit, safety_audit
from saesteer.evals.tasks import Task, builtin_tasks, load_task
from saesteer.evals.watch import held_out_scorer

__all__ = [
    "Advantage",
    "ConceptScores",
    "Curve",
    "LensAgreement",
    "LetterAbsorption",
    "Point",
    "RefusalChange",
    "Report",
    "SaeScores",
    "SafetyAudit",
    "SiteShift",
    "Task",
    "advantage_at_equal_kl",
    "builtin_tasks",
    "compare",
    "evaluate_concepts",
    "evaluate_sae",
    "first_letters",
    "held_out_scorer",
    "in_distribution",
    "join_results",
    "lens_agreement",
    "lm_eval_model",
    "load_task",
    "safety_audit",
    "write_report",
]
