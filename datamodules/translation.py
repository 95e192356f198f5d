"""Translation: WMT16 (Bojar et al. 2016) and Multi30k (Elliott et al. 2016), from the hub or a folder of files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from datamodules.labels import ANY_TEXT
from datamodules.row_formats import open_rows
from datamodules.rows import Rows
from datamodules.sources import Columns, read_columns, read_hub
from datamodules.t5_forms import translation_prefix
from datamodules.text_to_text import TextToText, form_of
from datamodules.text_to_text_files import rows_of_pairs

NESTED = "translation"  # the column in which WMT has a text by language


@dataclass(frozen=True)
class Corpus:
    """A corpus of the hub.

    Attributes:
        repository: where it is.
        configurations: by pair of languages; none where there is one only.
        languages: codes.
    """

    repository: str
    configurations: bool
    languages: tuple[str, ...]


CORPORA = {
    "wmt16": Corpus("wmt/wmt16", True, ("en", "cs", "de", "fi", "ro", "ru", "tr")),
    "multi30k": Corpus("bentrevett/multi30k", False, ("en", "de")),
}


class TranslationDataModule(TextToText):
    """Sentences of one language and their translations into another.

    Args:
        corpus: wmt16 or multi30k.
        source_language: code of the language that is read.
        target_language: code of the language that is written.
        source: ``hub``, or a folder with a file for each of train, validation and test, whose name begins so
            (``test.parquet``, ``train-00000-of-00001.parquet``): parquet, JSON lines or CSV with a column for each
            language, or with a column ``translation`` that has both.
        prefix: put in front of every source; default as T5 was trained, ``"translate English to Romanian: "``.
        kwargs: see :class:`~datamodules.text_to_text.TextToText` and :class:`SequenceDataModule`.

    Raises:
        ValueError: for an unknown corpus or language, or a folder that does not exist.
    """

    metrics = ["bleu", "chrf"]  # noqa: RUF012

    def __init__(
        self,
        corpus: Literal["wmt16", "multi30k"],
        source_language: str = "en",
        target_language: str = "de",
        source: str = "hub",
        prefix: str | None = None,
        **kwargs: Any,
    ) -> None:
        if corpus not in CORPORA:
            raise ValueError(f"`corpus` must be one of {', '.join(CORPORA)}, but got {corpus!r}.")
        self.corpus, languages = CORPORA[corpus], CORPORA[corpus].languages
        for argument, code in (("source_language", source_language), ("target_language", target_language)):
            if code not in languages:
                raise ValueError(f"`{argument}` of {corpus} must be one of {', '.join(languages)}, but got {code!r}.")
        self.languages = (source_language, target_language)
        pairs = self.corpus.configurations  # all of them with English
        if source_language == target_language or (pairs and "en" not in self.languages):
            pair = "English and another language" if pairs else "two languages"
            raise ValueError(
                f"`target_language` of {corpus} must make {pair} with the source, but got {source_language!r} to "
                f"{target_language!r}. Name another."
            )
        if source != "hub" and not Path(source).expanduser().is_dir():
            raise ValueError(f"`source` must be 'hub' or a folder that exists, but got {source!r}. Check the path.")
        super().__init__(**kwargs)
        self.source = source
        self.prefix = translation_prefix(source_language, target_language) if prefix is None else prefix
        self.task = f"{corpus} {source_language}-{target_language}"

    @property
    def label_names(self) -> list[str]:
        """Free text."""
        return [ANY_TEXT]

    @property
    def source_form(self) -> str | None:
        """The prefix and the text."""
        return form_of(self.prefix)

    @property
    def target(self) -> str:
        """Code of the language that is written."""
        return self.languages[1]

    def has(self, role: str) -> bool:
        """Train, validation and test rows come from the corpus, the last two where a folder has them."""
        if role == "test" and self._fractions["test"]:
            return False
        return role == "train" or (role in ("validation", "test") and (self.source == "hub" or bool(self._files(role))))

    def read(self, role: str) -> Rows:
        """Read an official split.

        Raises:
            ValueError: there is none, or several files could be it; a sentence is no text or empty.
        """
        columns, where = self._columns(role)
        first, second = self.languages
        return rows_of_pairs(columns, first, [second], [ANY_TEXT], where, self.prefix)

    def _columns(self, role: str) -> tuple[Columns, str]:
        """Columns of a role, from the hub or a file, with what errors call their place."""
        if self.source == "hub":
            repository, pairs = self.corpus.repository, self.corpus.configurations
            pair = "-".join(sorted(self.languages, key=lambda code: code == "en")) if pairs else None
            columns = read_hub(repository, pair, role, [NESTED] if pairs else self.languages)
            return self._flat(columns), f"{repository} ({pair or 'all'}, {role})"
        files = self._files(role)
        if len(files) != 1:
            found = ", ".join(path.name for path in files) or "none"
            raise ValueError(
                f"`source` must have one file whose name begins with {role}, but {self.source} has {found}. "
                f"{'Leave one' if files else 'Add it'}."
            )
        names = open_rows(files[0], "source").names
        if NESTED in names:
            return self._flat(read_columns(files[0], [NESTED], "source")), str(files[0])
        return read_columns(files[0], self.languages, "source", self.languages), str(files[0])

    def _flat(self, columns: Columns) -> Columns:
        if NESTED not in columns:
            return columns
        return {code: [(each or {}).get(code) for each in columns[NESTED]] for code in self.languages}

    def _files(self, role: str) -> list[Path]:
        folder = Path(self.source).expanduser()
        suffixes = (".parquet", ".jsonl", ".json", ".csv", ".tsv")
        return sorted(path for path in folder.glob(f"{role}*") if path.is_file() and path.suffix in suffixes)
