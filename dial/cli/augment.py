"""`dial augment`: new training texts out of those of a data set, written to one file, once."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from dial.cli.arguments import Command

if TYPE_CHECKING:
    from datamodules.augmentation.generation import Generated
    from datamodules.augmentation.methods import MaskingTagsNgrams, WordReplacement
    from datamodules.base import SequenceDataModule
    from datamodules.rows import Rows

SECONDS = 5.0  # between two lines of progress
DATA = "--data"


@dataclass(kw_only=True)
class AugmentCommand(Command):
    """Write new training texts, made of those of a data set, for a student to learn from what its teacher says of them.

    The data set is given as for `dial fit`: --data configs/data/sst2.yaml --data.source FOLDER ... Its training rows
    alone are used. `dial fit` with the same arguments and --data.augmentation FILE trains on both. The same seed gives
    the same file, whatever the number of processes.

    Attributes:
        out: the file, .parquet
        method: tinybert replaces words (Jiao et al. 2020); tang masks, replaces by part of speech and cuts to n-grams
            (Tang et al. 2019)
        copies: new texts of each row, at most; repeats are left out
        vectors: tinybert: file of word vectors (GloVe text, or parquet), for similar words
        masked_lm: tinybert: masked language model (folder or hub id), for words that it has in one piece
        probability: tinybert: of each word to be replaced
        candidates: tinybert: words to choose among
        vocabulary: tinybert: words of the vectors' file to choose among, its first ones
        masking: tang: probability of each word to be masked
        replacement: tang: of each word to be replaced by another one of its part of speech
        sampling: tang: of a text to be cut to an n-gram
        seed: of all that is random
        processes: that work at a time; default: one for each core
    """

    PROGRAM = "dial augment"
    PARAMETERS: ClassVar = {"embeddings": "vectors"}

    out: Annotated[str, "FILE"]
    method: Literal["tinybert", "tang"] = "tinybert"
    copies: Annotated[int, "N"] = 20
    vectors: Annotated[str | None, "FILE"] = None
    masked_lm: Annotated[str | None, "FOLDER"] = None
    probability: Annotated[float, "P"] = 0.4
    candidates: Annotated[int, "K"] = 15
    vocabulary: Annotated[int, "V"] = 50_000
    masking: Annotated[float, "P"] = 0.1
    replacement: Annotated[float, "P"] = 0.1
    sampling: Annotated[float, "P"] = 0.25
    seed: Annotated[int, "N"] = 0
    processes: Annotated[int | None, "N"] = None
    data: Sequence[str] = field(default=(), metadata={"option": False})

    @classmethod
    def main(cls, words: Sequence[str], **given: Any) -> int:
        """See :meth:`Command.main`; what begins with ``--data`` is read as `dial fit` reads it."""
        own, data = without_data(words)
        return super().main(own, **given, data=data)

    def __call__(self) -> int:
        """Run the command; returns the exit code."""
        out = Path(self.out).expanduser()
        self._check(out)
        from datamodules.augmentation.file import about_rows
        from datamodules.augmentation.generation import Generation, in_order, sources
        from dial.cli.interrupts import Interrupts
        from dial.machine import usable_cores

        method = self._words() if self.method == "tinybert" else self._tags()
        data = data_module(self.data)
        rows = rows_of(data)
        settings = self.settings()
        about = about_rows(rows, data.label_names, settings)
        if out.exists():
            return finished(out, about)
        processes = self.processes or usable_cores()
        with Interrupts():
            self._prepare(method, rows, processes)
            generated = in_order(Generation(method, self.seed), sources(rows), processes)
            count = write_file(out, told(generated, len(rows)), rows, about)
        print(f"{count:,} new texts of {len(rows):,} rows ({count / len(rows):.1f} each) written to {out}")
        return 0

    def _check(self, out: Path) -> None:
        """Refuse what cannot be, before anything is read.

        Raises:
            ValueError: names the argument.
        """
        if out.suffix != ".parquet":
            raise ValueError(f"`out` must be a file ending in .parquet, but got {self.out!r}.")
        for name in ("probability", "masking", "replacement", "sampling"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be a probability from 0 to 1, but got {getattr(self, name)}.")
        if self.masking + self.replacement > 1:
            raise ValueError(
                f"`masking` and `replacement` must sum to 1 at most, as a word is masked or replaced, but got "
                f"{self.masking} and {self.replacement}."
            )
        for name in ("copies", "candidates", "vocabulary", "processes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, but got {value}.")
        if self.seed < 0:
            raise ValueError(f"`seed` must be at least 0, but got {self.seed}.")
        given = [f"`{name}`" for name in ("vectors", "masked_lm") if getattr(self, name) is not None]
        if self.method == "tinybert" and not given:
            raise ValueError(
                "`vectors` or `masked_lm` must be given for `--method tinybert`, whose words come from there, but got "
                "neither. Name a file of word vectors, such as GloVe's, a masked language model, or both."
            )
        if self.method == "tang" and given:
            raise ValueError(f"{given[0]} is for `--method tinybert`, but got it with tang. Leave it out.")

    def settings(self) -> dict[str, Any]:
        """What the texts depend on, beside the rows: files by their content."""
        from dial.claims import contents, fingerprint

        settings = {name: getattr(self, name) for name in ("method", "copies", "seed")}
        if self.method == "tang":
            return settings | {name: getattr(self, name) for name in ("masking", "replacement", "sampling")}
        vectors = None if self.vectors is None else Path(self.vectors).expanduser()
        model = None if self.masked_lm is None else Path(self.masked_lm).expanduser()
        settings |= {name: getattr(self, name) for name in ("probability", "candidates", "vocabulary")}
        settings["vectors"] = None if vectors is None else fingerprint(vectors)
        settings["masked_lm"] = contents(model) if model is not None and model.is_dir() else self.masked_lm
        return settings

    def _words(self) -> WordReplacement:
        """TinyBERT's method, its model loaded and its vectors' file looked at."""
        from datamodules.augmentation.masked_lm import MaskedLM
        from datamodules.augmentation.methods import WordReplacement

        model = None
        if self.vectors is not None:
            from dial.models.words import word_vectors_width

            word_vectors_width(Path(self.vectors).expanduser())
        if self.masked_lm is not None:
            model = MaskedLM(str(Path(self.masked_lm).expanduser()), self.candidates)
            model.check()
        return WordReplacement(self.copies, self.probability, masked_lm=model)

    def _tags(self) -> MaskingTagsNgrams:
        """Tang's method, its tagger loaded where words are replaced."""
        from datamodules.augmentation.methods import MaskingTagsNgrams
        from datamodules.augmentation.tags import Tagger

        method = MaskingTagsNgrams(self.copies, self.masking, self.replacement, self.sampling)
        if self.replacement:
            method.tagger = Tagger()
            method.tagger.check()
        return method

    def _prepare(self, method: WordReplacement | MaskingTagsNgrams, rows: Rows, processes: int) -> None:
        """What a method needs of all rows: similar words of their words, or their words by part of speech."""
        from datamodules.augmentation.generation import chunks, in_order
        from datamodules.augmentation.methods import CountTags, TagWords, WordReplacement, words_of
        from datamodules.augmentation.neighbours import neighbours_of

        if isinstance(method, WordReplacement):
            if self.vectors is not None:
                from dial.models.words import first_word_vectors

                names, vectors = first_word_vectors(Path(self.vectors).expanduser(), self.vocabulary)
                words = set(words_of(rows.units()))
                method.neighbours = neighbours_of(words, names, vectors, self.candidates, processes)
                print(f"{len(method.neighbours):,} of {len(words):,} words of the texts have vectors", file=sys.stderr)
        elif method.tagger is not None:
            counts: Counter[tuple[str, str]] = Counter()
            for part in in_order(CountTags(method.tagger), chunks(rows.units()), processes):
                counts.update(part)
            method.tag_words = TagWords.of(counts)
            print(f"{len(counts):,} words under {len(method.tag_words.words)} parts of speech", file=sys.stderr)


def without_data(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line without the data set's arguments, and these.

    >>> without_data(["--data", "a.yaml", "--copies", "3", "--data.source=b"])
    (['--copies', '3'], ['--data', 'a.yaml', '--data.source=b'])
    >>> without_data(["--data.source", "--copies", "3"])
    (['--copies', '3'], ['--data.source'])
    """
    own: list[str] = []
    data: list[str] = []
    remaining = deque(words)
    while remaining:
        word = remaining.popleft()
        if word.partition("=")[0] == DATA or word.startswith(f"{DATA}."):
            data.append(word)
            if "=" not in word and remaining and not remaining[0].startswith("--"):  # an option is no value
                data.append(remaining.popleft())
        else:
            own.append(word)
    return own, data


def data_module(words: Sequence[str]) -> SequenceDataModule:
    """The data module that a command line means.

    Raises:
        ValueError: there is none, or an argument of it is not allowed.
    """
    from argparse import ArgumentError

    from jsonargparse import ArgumentParser

    import datamodules
    from datamodules.base import SequenceDataModule
    from dial.cli.parsing import one_line

    if not words:
        raise ValueError(f"`{DATA}` must name a data set, such as configs/data/sst2.yaml, but it was left out.")
    for name in datamodules.__all__:
        getattr(datamodules, name)  # imported on first use; now YAML can name it
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SequenceDataModule, "data", required=True)
    try:
        made: SequenceDataModule = parser.instantiate_classes(parser.parse_args(list(words))).data
    except ArgumentError as error:
        raise ValueError(one_line(str(error), "augment")) from error
    return made


def rows_of(data: SequenceDataModule) -> Rows:
    """The training rows, as texts are made of them.

    Raises:
        ValueError: they have an augmentation already, or are no texts of a class or number.
    """
    if data.augmentation is not None:
        raise ValueError("`--data.augmentation` must be left out where one is written, but it was given.")
    rows = data.rows("train")
    if rows.targets is not None:
        raise ValueError("`--data` must be of texts with a class or a number, but its answers are texts.")
    return rows


def finished(out: Path, about: dict[str, Any]) -> int:
    """Say that a file is there, if it is what the command would write; returns the exit code.

    Raises:
        ValueError: it is something else.
    """
    from datamodules.augmentation.file import AugmentationFile
    from dial.claims import check_same

    remedy = "name another file, or remove it"
    before = AugmentationFile(out, "out").about
    check_same(f"`out` {out} holds texts that were made otherwise", before, json.loads(json.dumps(about)), remedy)
    print(f"{out} holds the texts of this command; remove it to make them again")
    return 0


def write_file(out: Path, generated: Iterable[Generated], rows: Rows, about: dict[str, Any]) -> int:
    """Write the file, whole or not at all; returns the number of new texts.

    Raises:
        ValueError: nothing came of it.
    """
    from datamodules.augmentation.file import write
    from dial.files import atomic_write

    with atomic_write(out) as temporary:
        count = write(temporary, generated, rows, about)
        if not count:
            raise ValueError(
                f"`{DATA}` must have texts that can be changed, but nothing new came of {len(rows)} rows. Raise the "
                "probabilities, or give vectors of these texts' words."
            )
    return count


def told(generated: Iterable[list[Generated]], rows: int) -> Iterator[Generated]:
    """What comes, row by row; every few seconds a line says how far it is."""
    begin = last = time.monotonic()
    done = texts = 0
    for chunk in generated:
        yield from chunk
        done += len(chunk)
        texts += sum(len(row.units) for row in chunk)
        if (now := time.monotonic()) - last >= SECONDS:
            last, pace = now, done / (now - begin)
            left = (rows - done) / pace / 60
            print(
                f"{done:,} of {rows:,} rows, {texts:,} texts, {pace:,.0f} rows/s, {left:.1f} minutes left",
                file=sys.stderr,
            )
