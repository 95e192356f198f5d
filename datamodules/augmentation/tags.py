"""Parts of speech, by a tagger whose model comes with its package."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from datamodules.augmentation.split_text import SplitText

MODEL = "morphmodel_en.pgz"


@dataclass
class Tagger:
    """HanTa's tagger of English (Wartena 2019), with the tags of the British National Corpus.

    The model is part of the package, and loaded on first use.

    Raises:
        ValueError: at first use, where the package is not installed.
    """

    @cached_property
    def _tagger(self) -> Any:
        """The tagger, with an error that says how to install it."""
        try:
            from HanTa.HanoverTagger import HanoverTagger
        except ImportError as error:
            raise ValueError(
                "`replacement` needs a tagger of parts of speech, but HanTa is not installed. Run "
                "`pip install -c constraints.txt -e '.[pos]'`, or set --replacement 0."
            ) from error
        return HanoverTagger(MODEL)

    def __getstate__(self) -> dict[str, Any]:
        """Without the model, which each process loads."""
        return {}

    def check(self) -> None:
        """Load the model, so that a missing package shows before any work is done."""
        self._tagger  # noqa: B018

    def tags(self, split: SplitText) -> list[str]:
        """Tag of each word of a text; punctuation marks are seen, and left out."""
        tokens, words = split.tokens
        if not words:
            return []
        tagged = self._tagger.tag_sent(tokens, taglevel=1)
        return [str(tagged[i][-1]) for i in words]
