"""Words that a masked language model would put in place of another one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from datamodules.augmentation.split_text import SplitText, is_word
from datamodules.quiet import quiet

ROWS = 64  # masked copies of a text computed at a time


@dataclass
class MaskedLM:
    """Candidates of words that the model's tokenizer keeps in one piece.

    Each such word of a text is masked, one at a time, and the model's most probable words are taken in which the
    tokenizer sees one piece, too, and which begin a word. The model is loaded on first use, and computes in one thread,
    so that results depend on the text alone.

    Args:
        path: folder or hub id of a masked language model with its head and tokenizer.
        count: candidates of each word.

    Raises:
        ValueError: at first use, as :func:`load_masked_lm` says.
    """

    path: str
    count: int

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return load_masked_lm(self.path)

    def __getstate__(self) -> dict[str, Any]:
        """Without the model, which each process loads."""
        return {"path": self.path, "count": self.count}

    def check(self) -> None:
        """Load the model, so that one that does not serve shows before any work is done."""
        self._loaded  # noqa: B018

    @cached_property
    def _words(self) -> tuple[Any, list[str]]:
        """Ids of the pieces that are whole words, and the words."""
        import torch

        _, tokenizer = self._loaded
        special, ids, words = set(tokenizer.all_special_ids), [], []
        for i in range(len(tokenizer)):
            word = tokenizer.decode([i]).strip() if i not in special else ""
            if word.isalpha() and len(word) > 0:
                ids.append(i)
                words.append(word)
        # A piece inside of words reads as a word, too, but is none to the tokenizer.
        pieces = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
        whole = [i for i, piece in enumerate(pieces) if piece == [ids[i]]]
        return torch.tensor([ids[i] for i in whole]), [words[i] for i in whole]

    def candidates(self, split: SplitText) -> dict[int, tuple[str, ...]]:
        """Most probable words by the number of the word that they may replace; of words in one piece alone."""
        import torch

        model, tokenizer = self._loaded
        limit = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512) - 2)
        encoded = tokenizer(split.text, return_offsets_mapping=True, truncation=True, max_length=limit)
        pieces: dict[int, list[int]] = {}
        starts = {character: word for word, span in enumerate(split.spans) for character in range(*span)}
        for position, (begin, end) in enumerate(encoded.pop("offset_mapping")):
            if end > begin and (word := starts.get(end - 1)) is not None:  # a piece may begin with the space before it
                pieces.setdefault(word, []).append(position)
        unknown = tokenizer.unk_token_id
        single = {word: at[0] for word, at in pieces.items() if len(at) == 1 and encoded["input_ids"][at[0]] != unknown}
        masked = [(word, at) for word, at in single.items() if is_word(split.words[word])]
        ids, names = self._words
        found: dict[int, tuple[str, ...]] = {}
        for start in range(0, len(masked), ROWS):
            part = masked[start : start + ROWS]
            rows = {name: torch.tensor([values] * len(part)) for name, values in encoded.items()}
            positions = torch.tensor([position for _, position in part])
            rows["input_ids"][torch.arange(len(part)), positions] = tokenizer.mask_token_id
            with one_thread(), torch.inference_mode(), at_positions(model, positions):
                logits = model(**rows).logits[:, 0, ids]
            best = logits.topk(min(self.count + 1, len(names))).indices.tolist()
            for (word, _), others in zip(part, best, strict=True):
                own = split.words[word].lower()
                found[word] = tuple(names[i] for i in others if names[i].lower() != own)[: self.count]
        return found


@contextmanager
def at_positions(model: Any, positions: Any) -> Iterator[None]:
    """Let a model's head see one position of each row ``(B,)`` only: over the vocabulary it costs more than all layers.

    Within this context logits are ``(B, 1, V)``.
    """

    def keep(module: Any, arguments: Any, output: Any) -> Any:
        hidden = output.last_hidden_state
        output.last_hidden_state = hidden[range(len(positions)), positions][:, None]
        return output

    handle = model.base_model.register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread within this context: how sums are split changes their last digits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load_masked_lm(path: str) -> tuple[Any, Any]:
    """A masked language model in float32 and evaluation mode, and its tokenizer.

    Raises:
        ValueError: it cannot be loaded, its weights lack the head, or its tokenizer has no mask or gives no places.
    """
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    remedy = "Name a pretrained one, such as bert-base-uncased."
    try:
        with quiet():
            model, about = AutoModelForMaskedLM.from_pretrained(
                path, output_loading_info=True, dtype=torch.float32, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise ValueError(
            f"`masked_lm` must be a masked language model with its tokenizer, but {path} cannot be loaded as one "
            f"({reason}). {remedy}"
        ) from error
    if missing := sorted(about["missing_keys"]):
        raise ValueError(
            f"`masked_lm` must have a head that predicts words, but {path} lacks weights of it ({missing[0]} and "
            f"{len(missing) - 1} more). {remedy}"
        )
    if tokenizer.mask_token_id is None or not tokenizer.is_fast:
        lacks = "no mask token" if tokenizer.mask_token_id is None else "no places of its pieces in the text"
        raise ValueError(
            f"`masked_lm` must have a tokenizer that masks words, but that of {path} has {lacks}. {remedy}"
        )
    return model.eval(), tokenizer
