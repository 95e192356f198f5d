"""How a tier reads texts: its tokens, and the key of its encodings, which all determines that changes them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from string import Formatter
from typing import Any, Protocol

import torch
from torch import Tensor

from datamodules.row_tokens import RowTokeniser, Unit, UnreadableRowError, has_plain_backend
from datamodules.row_tokens import RowTokens as Tokens

__all__ = ["ReadsText", "Tokeniser", "Tokens", "Unit", "UnreadableRowError", "check_unit", "encoding_key"]

# Settings of a saved tokenizer that say where it came from, or that are part of the key in another place.
NO_MATTER = (
    "_name_or_path name_or_path is_local local_files_only backend tokenizer_file vocab_file processor_class auto_map "
    "chat_template special_tokens_map_file model_max_length padding_side truncation_side model_input_names "
    "transformers_version files_loaded clean_up_tokenization_spaces"
).split()
# What tokenizers are known to differ on: case, accents, forms of one letter, scripts without spaces, digits, spaces.
PROBES = (
    "The Quick brown FOX isn't here, 12,345.67 times!",
    "naïve café Ångström Straße İstanbul \u0065\u0301",
    "ﬁne ½ Ⅳ ＡＢＣ ｶﾀｶﾅ №",
    "自然言語処理は面白い。日本語のテキスト",
    "Привет мир مرحبا بالعالم नमस्ते สวัสดี",
    "  two  spaces\tand\nlines\u00a0\u200b\u2028end ",
    "e-mail@example.org http://a.b/c?d=e #tag 🙂👍🏽",
    "antidisestablishmentarianism xqzjvk aaaaaaaaaaaaaaaa",
    "<s> </s> [CLS] [SEP] [MASK] <pad> <unk> <|endoftext|>",
    "",
)


def encoding_key(tokenizer: Any, max_length: int) -> str:
    """Twelve hexadecimal digits that what a tokenizer does determines, wherever its files lie.

    Two tiers whose tokenizers give the same ids share a key, so that texts are encoded for them once. A fast tokenizer
    is its backend. Of one that Python code is part of all that it would save counts (switches such as
    ``do_lower_case``, added tokens, the files of its sub-word model), and what it makes of a few texts: that may depend
    on a dictionary that is installed beside it.

    Args:
        tokenizer: of transformers, fast or slow.
        max_length: tokens kept of a text or pair.
    """
    backend = _backend(tokenizer)
    content = backend if backend is not None and has_plain_backend(tokenizer) else [backend, *_in_python(tokenizer)]
    settings = {
        "max_length": max_length,
        "special": {str(key): str(value) for key, value in tokenizer.special_tokens_map.items()},
        "inputs": sorted(tokenizer.model_input_names),
        "sides": [tokenizer.padding_side, tokenizer.truncation_side],
    }
    if getattr(tokenizer, "split_special_tokens", False):
        settings["split_special_tokens"] = True
    text = json.dumps([content, settings], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]


def _backend(tokenizer: Any) -> Any:
    """The backend as plain values; None where there is none, or where it calls Python, which it cannot write."""
    if not getattr(tokenizer, "is_fast", False):
        return None
    try:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
    except Exception:  # the bindings raise no narrower class
        return None
    # Calls leave their padding and truncation behind in the backend.
    return {key: value for key, value in content.items() if key not in ("padding", "truncation")}


def _in_python(tokenizer: Any) -> list[Any]:
    """What a tokenizer is beyond its backend: its class, what it saves, and what it makes of a few texts."""
    return [type(tokenizer).__name__, _saved(tokenizer), [_ids(tokenizer, text) for text in PROBES]]


def _saved(tokenizer: Any) -> dict[str, Any]:
    """Settings, and digests of the files that a tokenizer saves; its vocabulary where it cannot save any."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            tokenizer.save_pretrained(folder)
        except (NotImplementedError, OSError, ValueError, TypeError):
            found["vocabulary"] = tokenizer.get_vocab()
            found["settings"] = _settings(tokenizer.init_kwargs)
        for path in sorted(Path(folder).rglob("*")):
            if path.name == "tokenizer_config.json":
                found["settings"] = _settings(json.loads(path.read_text(encoding="utf-8")))
            elif path.is_file() and path.suffix != ".jinja":
                found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _settings(saved: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in saved.items() if key not in NO_MATTER}


def _ids(tokenizer: Any, text: str) -> Any:
    try:
        return list(tokenizer([text], padding=False, truncation=False, verbose=False)["input_ids"][0])
    except Exception as error:  # a text that it refuses is something that it does, too
        return type(error).__name__


class ReadsText(Protocol):
    """What a tier is to its tokeniser."""

    name: str
    tokenizer: Any
    max_length: int
    source_form: str | None


def check_unit(unit: Any, name: str) -> Unit:
    """The text, or the pair as a tuple.

    Args:
        unit: what came.
        name: how the user calls it.

    Raises:
        ValueError: it is neither.

    Example:
        >>> check_unit(["a film", "it was good"], "row 3")
        ('a film', 'it was good')
        >>> check_unit(None, "row 3")
        Traceback (most recent call last):
            ...
        ValueError: row 3 must be a text or a pair of texts, but got None.
    """
    found = [unit] if isinstance(unit, str) else list(unit) if isinstance(unit, tuple | list) else []
    if all(isinstance(text, str) for text in found) and len(found) == (1 if isinstance(unit, str) else 2):
        try:
            for text in found:
                text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name} must be a text or a pair of texts, but has half of a surrogate pair.") from None
        return unit if isinstance(unit, str) else (found[0], found[1])
    shown = repr(unit)
    raise ValueError(
        f"{name} must be a text or a pair of texts, but got {shown if len(shown) < 60 else shown[:57] + '...'}."
    )


class Tokeniser(RowTokeniser):
    """Encodes rows for one tier: a batch at a time, no cache.

    Args:
        tier: whose tokenizer and maximum length count.
    """

    def __init__(self, tier: ReadsText) -> None:
        super().__init__(tier.tokenizer, tier.max_length)
        self.form, self.name = tier.source_form, tier.name
        self._fields = len({field for _, field, _, _ in Formatter().parse(self.form or "") if field is not None})

    def __call__(self, units: Sequence[Unit]) -> list[Tokens]:
        """Tokens of each row, in the form that the tier reads.

        Raises:
            ValueError: the form needs a pair and a row is a single text, or the other way round.
        """
        return super().__call__(units if self.form is None else [self._formed(unit) for unit in units])

    def _formed(self, unit: Unit) -> str:
        """The unit in the form that the tier was trained with: one text, its fields named."""
        assert self.form is not None
        texts = (unit,) if isinstance(unit, str) else unit
        if len(texts) != self._fields:
            wanted, came = ("pairs of", "a single one") if self._fields == 2 else ("single", "a pair")
            raise ValueError(
                f"`{self.name}` reads {wanted} texts, as {self.form!r}, but got {came}; name "
                f"{'two columns' if self._fields == 2 else 'one column'}."
            )
        return self.form.format(*texts)

    def collate(self, rows: Sequence[Tokens], device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Tensors ``(B, T)`` padded to the longest row.

        There is an ``attention_mask`` only where something is padded: an encoder that gets one looks at it to find that
        out, which shows in the time of a single row and waits for a GPU.
        """
        batch = self.padding.batch(rows, masked=False)
        return {key: value.to(device, non_blocking=True) for key, value in batch.items()}
