"""Steering: interventions, where, gates, schedules, plans and their traces."""

from __future__ import annotations

from saesteer.steer.affine_maps import affine
from saesteer.steer.condition import PromptCondition, condition_score
from saesteer.steer.control import Backtrack, Control, Refuse, Step, Stop
from saesteer.steer.edit import Edit
from saesteer.steer.feature_edits import ablate, clamp, feature_add, feature_shift, scale
from saesteer.steer.feature_edits import replace_by as replace
from saesteer.steer.frame import Frame
from saesteer.steer.gate import Always, ColumnHistory, Explains, FollowsRows, Gate
from saesteer.steer.intervention import Intervention, add, add_scaled, project_out
from saesteer.steer.kinds import register_kind
from saesteer.steer.kl_dials import KlDials
from saesteer.steer.latch import Latched, latched
from saesteer.steer.low_rank import low_rank
from saesteer.steer.plan import Plan
from saesteer.steer.probe_falls import ProbeFalls, TakeBackAndSteer
from saesteer.steer.prompts import PromptEdit
from saesteer.steer.schedule import ReadingSchedule, Schedule, constant, decay, dial, key_of, linear
from saesteer.steer.session import unsteered
from saesteer.steer.trace import Trace
from saesteer.steer.weights import WeightEdit
from saesteer.steer.where import Where, all, chat, first, generated, last, positions, prompt, spans

__all__ = [
    "Always",
    "Backtrack",
    "ColumnHistory",
    "Control",
    "Edit",
    "Explains",
    "FollowsRows",
    "Frame",
    "Gate",
    "Intervention",
    "KlDials",
    "Latched",
    "Plan",
    "ProbeFalls",
    "PromptCondition",
    "PromptEdit",
    "Refuse",
    "ReadingSchedule",
    "Schedule",
    "Step",
    "Stop",
    "TakeBackAndSteer",
    "Trace",
    "WeightEdit",
    "Where",
    "ablate",
    "add",
    "add_scaled",
    "affine",
    "all",
    "chat",
    "clamp",
    "condition_score",
    "constant",
    "decay",
    "dial",
    "feature_add",
    "feature_shift",
    "first",
    "generated",
    "key_of",
    "last",
    "low_rank",
    "latched",
    "linear",
    "positions",
    "project_out",
    "prompt",
    "register_kind",
    "replace",
    "scale",
    "spans",
    "unsteered",
]
