"""Texts, contrasts, tokens and streams of activations."""

from saesteer.data.contrast import Contrast, Example
from saesteer.data.text import iterate_texts

__all__ = ["Contrast", "Example", "iterate_texts"]
