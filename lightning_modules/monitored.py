"""What is monitored of a model whose answers are texts."""


def monitored(value: float, loss: float) -> float:
    """What early stopping and the choice of the checkpoint go by: the metric, and the loss while no answer is right.

    A model from scratch may answer nothing right for many epochs, in which its loss falls all the same: to stop there,
    as the metric stands still, would end its training before it has begun.

    Args:
        value: the metric that is monitored, at most 0 where the answers are worth nothing.
        loss: mean, 0 or more.

    Returns:
        The metric where it is above 0, else a number from -1 to 0 that rises as the loss falls.

    Example:
        >>> monitored(0.3, 2.0), monitored(0.0, 1.0), monitored(0.0, 3.0)
        (0.3, -0.5, -0.75)
    """
    return value if value > 0 else -loss / (1 + loss)
