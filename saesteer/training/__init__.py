"""Training sparse autoencoders and learned methods: the trainers, their loop, and checkpoints."""

from saesteer.training.distributed import World, join_world
from saesteer.training.method import MethodTrainer, train_method
from saesteer.training.sae import train_sae
from saesteer.training.signals import StopRequest
from saesteer.training.trainer import SAETrainer

__all__ = [
    "MethodTrainer",
    "SAETrainer",
    "StopRequest",
    "World",
    "join_world",
    "train_method",
    "train_sae",
]
