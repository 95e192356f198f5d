"""Training losses: pure functions from tensors to one scalar, or to one for each exit."""

from dial.losses.certainty import certainty_loss, certainty_target
from dial.losses.in_place import in_place_distillation
from dial.losses.layerwise import at_exits, exit_distillation, hidden_mse
from dial.losses.logits_mse import logits_mse
from dial.losses.soft_cross_entropy import soft_cross_entropy
from dial.losses.target_pieces import bag_loss, position_loss
from dial.losses.task import task_loss
from dial.losses.transformer import attention_mse, hidden_cosine

__all__ = [
    "at_exits",
    "attention_mse",
    "bag_loss",
    "certainty_loss",
    "certainty_target",
    "exit_distillation",
    "hidden_cosine",
    "hidden_mse",
    "in_place_distillation",
    "logits_mse",
    "position_loss",
    "soft_cross_entropy",
    "task_loss",
]
