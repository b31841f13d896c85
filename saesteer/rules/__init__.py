"""Rules over concepts: read, checked, compiled to tensors, and turned into gated edits."""

from saesteer.rules.book import RuleBook
from saesteer.rules.proof import Leaf, Proof
from saesteer.rules.reading import RuleReading

__all__ = ["Leaf", "Proof", "RuleBook", "RuleReading"]
