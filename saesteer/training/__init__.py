"""Training sparse autoencoders: coders, learners, the trainer around them, and checkpoints."""

from saesteer.training.distributed import World, join_world
from saesteer.training.sae import train_sae
from saesteer.training.signals import StopRequest
from saesteer.training.trainer import SAETrainer

__all__ = ["SAETrainer", "StopRequest", "World", "join_world", "train_sae"]
