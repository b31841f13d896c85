"""Tasks, measurements, the comparison at equal KL, and the report."""

from __future__ import annotations

from saesteer.evals.compare import compare
from saesteer.evals.curves import Advantage, Curve, Point, advantage_at_equal_kl
from saesteer.evals.report import join_results, write_report
from saesteer.evals.results import Report
from saesteer.evals.sae_eval import SaeScores, evaluate_sae
from saesteer.evals.tasks import Task, builtin_tasks, load_task
from saesteer.evals.watch import held_out_scorer

__all__ = [
    "Advantage",
    "Curve",
    "Point",
    "Report",
    "Task",
    "advantage_at_equal_kl",
    "SaeScores",
    "builtin_tasks",
    "compare",
    "evaluate_sae",
    "held_out_scorer",
    "join_results",
    "load_task",
    "write_report",
]
