"""Figures of a run, kept in a file or in wandb."""

from saesteer.tracking.trackers import (
    JsonlTracker,
    NoTracker,
    Tracker,
    Trackers,
    WandbTracker,
    finishing,
)

__all__ = ["JsonlTracker", "NoTracker", "Tracker", "Trackers", "WandbTracker", "finishing"]
