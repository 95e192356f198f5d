"""Energy heads on disk, beside the tier or apart from it, and the refusal of one that belongs to something else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save

from dial.files import atomic_write, read_json, readable, write_json
from dial.models.energy_head import EnergyHead, HeadConfig, build_head

WEIGHTS, CONFIG = "energy_head.safetensors", "energy_head.json"
REMEDY = "train a head for it: `dial fit --config configs/model/energy_head.yaml`"


def save_head(head: EnergyHead, folder: str | Path) -> None:
    """Write a head's weights and configuration; other files of the folder, such as a tier's, stay.

    Args:
        head: any.
        folder: made where it is not there.
    """
    folder = Path(folder)
    weights = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    with atomic_write(folder / WEIGHTS) as temporary:
        temporary.write_bytes(save(weights))  # `save_file` puts another file there, which nobody holds
    write_json(folder / CONFIG, head.config.to_json())  # last: a folder with it has the weights too


def has_head(folder: str | Path) -> bool:
    """Whether a head was saved there."""
    return (Path(folder) / CONFIG).is_file()


def load_head(folder: str | Path, argument: str = "head") -> EnergyHead:
    """Read a saved head, in eval mode; :func:`check_head` says whether it belongs to what is at hand.

    Args:
        folder: where :func:`save_head` wrote it.
        argument: how the user calls it.

    Raises:
        ValueError: there is none, or it is damaged; names ``argument``.
    """
    folder = Path(folder)
    if not has_head(folder):
        raise ValueError(f"`{argument}` must be a folder with {CONFIG}, but {folder} has none; {REMEDY}.")
    with readable(folder / CONFIG, argument, "Train the head again."):
        head = build_head(HeadConfig(**read_json(folder / CONFIG, argument)))  # type: ignore[arg-type]
    try:
        head.load_state_dict(load_file(folder / WEIGHTS))
    except Exception as error:  # readers of damaged files raise whatever they meet
        reason = " ".join(str(error).split())[:150].rstrip(".")
        raise ValueError(
            f"`{argument}`: the weights of the energy head in {folder} cannot be read: {reason}; train it again."
        ) from error
    return head.eval()


def check_head(
    head: EnergyHead,
    encoder: str,
    label_words: Sequence[str] | None = None,
    vocabulary: str | None = None,
    argument: str = "head",
) -> None:
    """Refuse a head that was trained for something else.

    Args:
        head: as it was loaded.
        encoder: fingerprint of the encoder at hand.
        label_words: of the data at hand in the order of its integers; None where answers are free text.
        vocabulary: fingerprint of the tokenizer at hand, which matters to a head over the vocabulary.
        argument: how the user calls the head.

    Raises:
        ValueError: another encoder, other label words or another vocabulary; names ``argument``.
    """
    config = head.config
    if config.encoder != encoder:
        raise ValueError(
            f"`{argument}` must be trained on this tier's encoder ({encoder}), but got one of another encoder "
            f"({config.encoder}: other weights, or another number of layers); {REMEDY}."
        )
    if config.kind == "classes":
        if label_words is None:
            raise ValueError(
                f"`{argument}` must be a head over the vocabulary, as answers are free text, but got one of the label "
                f"words {', '.join(config.label_words)}; {REMEDY}."
            )
        if tuple(label_words) != config.label_words:
            raise ValueError(
                f"`{argument}` must have the label words {', '.join(label_words)} in this order, but got one of "
                f"{', '.join(config.label_words)}; {REMEDY}."
            )
    elif config.vocabulary != vocabulary:
        raise ValueError(
            f"`{argument}` must be trained with this tier's tokenizer (pieces {vocabulary}), but got one of other "
            f"pieces ({config.vocabulary}); {REMEDY}."
        )
