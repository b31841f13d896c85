"""Language models: loading, sites, recording and the hooks under them."""

from saesteer.models.fastest import fastest_dtype
from saesteer.models.hooks import HookPoint, install, installed, remove
from saesteer.models.layout import Layout, layout_of
from saesteer.models.load import as_model, best_device, load_model, load_skeleton
from saesteer.models.model import Model, TokenBatch, pad_rows
from saesteer.models.prompts import Chat, Prompt, as_prompts, is_single
from saesteer.models.record import logits, record
from saesteer.models.sites import KINDS, Site
from saesteer.models.weights import Weights, check_change

__all__ = [
    "KINDS",
    "Chat",
    "HookPoint",
    "Layout",
    "Model",
    "Prompt",
    "Site",
    "TokenBatch",
    "Weights",
    "as_model",
    "as_prompts",
    "best_device",
    "check_change",
    "fastest_dtype",
    "install",
    "installed",
    "is_single",
    "layout_of",
    "load_model",
    "load_skeleton",
    "logits",
    "pad_rows",
    "record",
    "remove",
]
