"""`dial lengths TIER FILE`: which length configurations of a tier are worth their MACs, searched for on some rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dial.cli.arguments import Command
from dial.cli.models import device_of

if TYPE_CHECKING:
    from dial.inference.length_search import Evaluation, Evolution
    from dial.tiers.fronts import Individual
    from dial.tiers.tier import Tier

DRAWN = 200  # rows, where there are so many and nobody says


@dataclass(kw_only=True)
class LengthsCommand(Command):
    """Search for length configurations on the front of MACs and quality, by evolution.

    TIER is a folder that `dial fit` left, best with `configs/model/length_adaptive.yaml`. The front lies there then,
    in lengths.json, and `{path: TIER, lengths: 0.5}` is a tier that takes half of the MACs. A killed command goes on.

    Attributes:
        tier: folder of a classifier
        file: labelled rows: .csv, .tsv, .jsonl or .parquet; take training rows. Questions also as SQuAD's .json
        columns: column of the text, or of both; of questions default: question context
        label_column: default: label; of questions answers, answer or label
        metric: default: that of the tier's fit
        rows: drawn from FILE; default: 200, or all where it has fewer
        population: configurations of a generation
        generations: after the first
        mutation: probability with which a layer is drawn anew
        length_drop: share that a layer drops at most in the first generation
        seed: of all draws
        batch_size: rows computed at once
        device: cpu, cuda, cuda:1, ...; default: a GPU if there is one
        replace: start anew; a search in the folder gives way
    """

    PROGRAM = "dial lengths"

    tier: Annotated[str, "TIER"] = field(kw_only=False)
    file: Annotated[str, "FILE"] = field(kw_only=False)
    columns: Sequence[str] = ()
    label_column: str | None = None
    metric: str | None = None
    rows: Annotated[int | None, "N"] = None
    population: Annotated[int, "N"] = 20
    generations: Annotated[int, "N"] = 15
    mutation: Annotated[float, "P"] = 0.5
    length_drop: Annotated[float, "SHARE"] = 0.2
    seed: Annotated[int, "N"] = 0
    batch_size: Annotated[int, "N"] = 32
    device: str = "auto"
    replace: bool = False

    def __call__(self) -> int:
        """Run the command; returns the exit code."""
        from dial.claims import alone
        from dial.inference.length_search import Evaluation, Evolution
        from dial.tiers.tier import weights_digest

        if self.batch_size < 1:
            raise ValueError(f"`--batch-size` must be at least 1, but got {self.batch_size}.")
        tier = self._tier()
        search = Evolution(
            int(tier.model.config.num_hidden_layers),
            *(self.population, self.generations, self.mutation, self.length_drop, self.seed),
        )
        units, label, about = self._rows(tier)
        about |= {"tier": tier.fingerprint, "weights": weights_digest(tier.model), "max_length": tier.max_length}
        about |= asdict(search)
        del about["generations"]  # a search may go on for more of them
        evaluation = partial(Evaluation, tier, units, label, about["metric"], self.batch_size)
        refusal = (
            f"`TIER` {self.tier} must be of no other `dial lengths`, but one is at work there; wait for it, or end it."
        )
        with alone(Path(self.tier).expanduser() / ".lengths.lock", refusal):
            return self._search(search, evaluation, about)

    def _search(self, search: Evolution, evaluation: Callable[[], Evaluation], about: dict[str, Any]) -> int:
        """Go on with the search in the folder, or begin one; returns the exit code."""
        from dial.tiers.fronts import pareto, write_search

        generation, done = self._earlier(about)
        if generation > self.generations:
            print(f"the search is done: {self.tier}/lengths.json; give --replace for another one")
            return 0
        for individuals in search.run(evaluation(), done, generation):
            write_search(Path(self.tier).expanduser(), individuals, about, generation + 1)
            front = pareto(individuals)
            print(
                f"generation {generation} of {self.generations}: {len(individuals)} configurations, {len(front)} on "
                f"the front, best {front[-1].quality:.4f} at {100 * front[-1].macs:.1f} % of the MACs",
                flush=True,
            )
            generation += 1
        print(report(pareto(individuals), about["metric"]))
        return 0

    def _tier(self) -> Tier:
        """The tier, with its own names of labels.

        Raises:
            ValueError: no folder of a classifier, or one in which no tokens can be dropped.
        """
        from transformers import AutoConfig

        from datamodules.labels import ANY_TEXT
        from dial.models.lengths import Lengths
        from dial.tiers.loading import load_tier
        from dial.tiers.places import check_place
        from dial.tiers.reading import read_card
        from dial.tiers.span_loading import extracts
        from dial.tiers.tier import own_names

        if not Path(self.tier).expanduser().is_dir():
            raise ValueError(f"`TIER` must be a folder that `dial fit` left, but there is none at {self.tier}.")
        place = check_place(self.tier, "TIER")
        names = read_card(place).get("label_names")
        if names is None:
            config = AutoConfig.from_pretrained(place, trust_remote_code=False)
            names = [] if config.num_labels == 1 else own_names(config)
            names = [ANY_TEXT] if extracts(config, [ANY_TEXT]) else names
        tier = load_tier(place, "tier", list(names or []), "TIER")
        if tier.generates:
            raise ValueError(f"`TIER` must be an encoder for tokens to be dropped, but {self.tier} writes.")
        whole = Lengths((1.0,) * int(tier.model.config.num_hidden_layers))
        tier.drop_tokens(whole, "TIER", "use this one with all its tokens")
        tier.drop_tokens(None)
        return tier.to(device_of(self.device)).eval()

    def _rows(self, tier: Tier) -> tuple[list[Any], Any, dict[str, Any]]:
        """Rows drawn from the file, their labels, and what identifies them.

        Raises:
            ValueError: too few rows, no labels, or a question without room for its context.
        """
        import numpy as np

        from dial.claims import fingerprint
        from dial.cli.calibrate import check_readable

        path = Path(self.file).expanduser()
        units, label = self._questions(tier, path) if tier.writes else self._texts(tier, path)
        if not units:
            raise ValueError(f"`FILE` must have rows to search on, but {self.file} has none; give another file.")
        count = min(DRAWN, len(units)) if self.rows is None else self.rows
        if not 1 <= count <= len(units):
            raise ValueError(f"`--rows` must be from 1 to the {len(units)} of {self.file}, but got {count}.")
        metric = self.metric or str(next(iter(tier.card.get("metrics", [])), tier.task.metrics[0]))
        tier.task.check_metric(metric)
        drawn = np.sort(np.random.default_rng(self.seed).permutation(len(units))[:count])
        some = [units[row] for row in drawn]
        check_readable([tier], some, drawn)
        content = " ".join([fingerprint(path), *self.columns, self.label_column or ""])
        about = {"file": str(self.file), "content": content, "rows": count, "metric": metric}
        return some, [label[row] for row in drawn], about

    def _texts(self, tier: Tier, path: Path) -> tuple[list[Any], Sequence[Any]]:
        """Texts or pairs, and their labels."""
        from dial.cli.calibrate import LABEL, read_rows

        columns = self.columns or ("text",)
        units, label = read_rows(path, columns, self.label_column or LABEL, tier.label_names, least=1)
        assert label is not None  # a label column was named
        return units, list(label)

    def _questions(self, tier: Any, path: Path) -> tuple[list[Any], Sequence[Any]]:
        """Questions with their contexts, and the right answers to each."""
        from dial.cli.questions import read_file

        rows = read_file(path, self.columns, self.label_column, tier.no_answer)
        assert rows.text_b is not None and rows.targets is not None
        return list(zip(rows.text, rows.text_b, strict=True)), rows.targets

    def _earlier(self, about: dict[str, Any]) -> tuple[int, list[Individual]]:
        """The generation that comes next, and the individuals of those before.

        Raises:
            ValueError: another search lies there.
        """
        from dial.tiers.fronts import read_search

        found = read_search(Path(self.tier).expanduser())
        if found is None or self.replace:
            return 0, []
        # Rows are told by their content: a file may have been moved. `max_length`, which counts in the tier's
        # fingerprint, was not always written.
        before = {"max_length": about["max_length"], **found[0]}
        other = ", ".join(name for name in about if before.get(name) != about[name] and name != "file")
        if other:
            raise ValueError(f"`TIER` holds a search with another {other}; give --replace to search anew.")
        return found[1], found[2]


def report(front: Sequence[Individual], metric: str) -> str:
    """The front as a table."""
    from dial.report.tables import percent
    from dial.report.tables import table as aligned

    header = ["MACs %", f"{metric} %", "lengths"]
    rows = [
        [percent(one.macs), percent(one.quality), " ".join(f"{value:g}" for value in one.lengths.plain())]
        for one in front
    ]
    return "\n".join(["The front (shares of a row's tokens behind each layer):", aligned(header, rows, left=0)])
