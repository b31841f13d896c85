"""Rules over concepts: read, checked, compiled to tensors, and turned into gated edits."""

from saesteer.rules.book import RuleBook
from saesteer.rules.miss import Change, NearMiss
from saesteer.rules.proof import Leaf, Proof
from saesteer.rules.reading import RuleReading
from saesteer.rules.written import atoms, compare, never, program

__all__ = [
    "Change",
    "Leaf",
    "NearMiss",
    "Proof",
    "RuleBook",
    "RuleReading",
    "atoms",
    "compare",
    "never",
    "program",
]
