"""Plans from and for other libraries, and plans shared through a model hub."""

from __future__ import annotations

from saesteer.steer.exchange.card import Card
from saesteer.steer.exchange.files import ENDINGS, read_plan, write_plan
from saesteer.steer.exchange.hub import fetch_plan, push_to_hub

__all__ = ["ENDINGS", "Card", "fetch_plan", "push_to_hub", "read_plan", "write_plan"]
