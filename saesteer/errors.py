"""Every error a user can meet, in one tree.

The command line turns any of these into one line on stderr and exit status 2; nothing else is
caught, so a traceback always means a fault of ours.

    SaesteerError
    ├── ConfigError        a config file, key or value
    ├── ModelError         a model that can't be found, read or verified
    ├── SiteError          a place that a model does not have
    ├── SaeError           an SAE that can't be found, read or verified
    │   └── DimensionError     an SAE and a model of different widths
    ├── FeatureError       a feature that an SAE does not have
    ├── DataError          text or activations that can't be used
    │   ├── ContrastError      a contrast set that can't be used
    │   └── TextEndedError     less text than a run needs
    ├── PlanError          a plan that can't be built, carried out or loaded
    ├── RuleError          a rule file that can't be read or means nothing
    ├── TaskError          a comparison task that does not exist or can't be scored
    ├── CheckpointError    a checkpoint that is missing, damaged or of another run
    ├── PeerError          another process of the same run has ended
    ├── NetworkError       something that had to be fetched and could not be
    └── OutputError        a place that can't be written
"""

from __future__ import annotations

from pathlib import Path


def none_such(given: object, what: str, reader: str) -> str:
    """Says that something is no `what`, and how `reader` makes one of it where it may be a name."""
    told = f"a {type(given).__name__} is no {what}"
    named = isinstance(given, str | Path)
    return f"{told}; read it: saesteer.{reader}({str(given)[:80]!r})." if named else f"{told}."


class SaesteerError(Exception):
    """Root of every error raised on purpose; its text is one line meant for the user."""


class ConfigError(SaesteerError):
    """A config file, key or value is wrong; the text lists all faults found, with their paths."""


class ModelError(SaesteerError):
    """A model can't be found, read or verified."""


class SiteError(SaesteerError):
    """A site does not exist in this model, or its name can't be read."""


class SaeError(SaesteerError):
    """An SAE can't be found, read or verified."""


class DimensionError(SaeError):
    """An SAE and an activation disagree on d_model."""


class FeatureError(SaesteerError):
    """A feature index lies outside the SAE."""


class DataError(SaesteerError):
    """Text, tokens or activations can't be used."""


class ContrastError(DataError):
    """A contrast set is empty, one-sided or malformed."""


class TextEndedError(DataError):
    """Text ended before a run did."""


class PlanError(SaesteerError):
    """A plan can't be built, carried out, saved or loaded."""


class RuleError(SaesteerError):
    """A rule file can't be parsed, or names what it does not define."""


class TaskError(SaesteerError):
    """A comparison task does not exist or can't be scored."""


class CheckpointError(SaesteerError):
    """A checkpoint is missing, damaged, or belongs to another run."""


class PeerError(SaesteerError):
    """Another process of the same run has ended or can't be reached."""


class NetworkError(SaesteerError):
    """Something had to be fetched and could not be."""


class OutputError(SaesteerError):
    """An output file or folder can't be written."""
