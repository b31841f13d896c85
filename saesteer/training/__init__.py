"""Training sparse autoencoders: the step, the trainer around it, and checkpoints."""

from saesteer.training.sae import train_sae
from saesteer.training.trainer import SAETrainer, StopRequest

__all__ = ["SAETrainer", "StopRequest", "train_sae"]
