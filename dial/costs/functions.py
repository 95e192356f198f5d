"""Cost functions: MACs of a stage's path by sequence length, and what they add up to in a cascade.

Counting is done once per path and a handful of lengths (``macs.py``); everything here is arithmetic in float64, without
torch. Integers up to 2**53 are exact.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dial.files import write_json
from dial.stages.stage import Stage

Float = NDArray[np.float64]
SCHEMA = 1
FLOP_SUFFIX = "flop"
Kind = Literal["answer", "decide", "reference"]
Length = Literal["true", "padded"] | int


@dataclass(frozen=True)
class CostFunction:
    """MACs per example as a function of its length in tokens and, where it is answered by a text, of that one's.

    Attributes:
        coefficients: (a, b, c) of ``a + b * length + c * length**2``, or None.
        counts: a count for every known length, where no quadratic holds (token dropping is piecewise), or None.
        writing: (a, b, c, d, e) of ``a + b * length + (c + d * length) * generated + e * generated**2``, what a decoder
            adds that takes so many steps (cross-attention, its own cache and the head to the vocabulary are in it);
            None where nothing is generated.
        window: tokens of a window, where a longer input is read in several, all full but the last, each of which costs
            what the first two say; None where it is read at once.

    Raises:
        ValueError: unless exactly one of the first two is given.

    Example:
        >>> CostFunction(coefficients=(1.0, 2.0, 0.5))([2, 4])
        array([ 7., 17.])
        >>> CostFunction(coefficients=(1.0, 2.0, 0.5), writing=(0.0, 1.0, 10.0, 0.0, 0.0))([2, 4], generated=[0, 3])
        array([ 7., 51.])
        >>> CostFunction(coefficients=(1.0, 2.0, 0.5), window=4)([2, 4, 10])
        array([ 7., 17., 41.])
    """

    coefficients: tuple[float, float, float] | None = None
    counts: Mapping[int, int] | None = None
    writing: tuple[float, float, float, float, float] | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        if (self.coefficients is None) == (self.counts is None):
            raise ValueError("CostFunction takes either coefficients or counts; got both or neither.")

    def __call__(self, lengths: ArrayLike, generated: ArrayLike | None = None) -> Float:
        """MACs for lengths of any shape; an empty text (length 0) is read, and charged, as one token.

        Args:
            lengths: tokens that are read.
            generated: steps of the decoder, 0 where it did not run; not asked for where nothing is generated.

        Raises:
            ValueError: for a negative length, or one that was never counted where no quadratic holds; without
                ``generated`` where a text answers.
        """
        return self.reading(lengths) + self.written(lengths, generated)

    def reading(self, lengths: ArrayLike) -> Float:
        """MACs of what depends on the lengths alone."""
        tokens = np.asarray(lengths)
        if tokens.size and tokens.min() < 0:
            raise ValueError(f"lengths must be 0 or more tokens; got {tokens.min()}.")
        tokens = np.maximum(tokens, 1)
        if self.window is None or not (tokens > self.window).any():
            return self._at_once(tokens)
        last = last_window(tokens, self.window)
        full = (tokens - last) // self.window
        return full * self._at_once(np.array(self.window)) + self._at_once(last)

    def _at_once(self, tokens: NDArray[Any]) -> Float:
        """MACs of an input, or of one window of it."""
        if self.coefficients is not None:
            a, b, c = self.coefficients
            x = tokens.astype(np.float64)
            return a + x * (b + x * c)
        assert self.counts is not None
        distinct, where = np.unique(tokens, return_inverse=True)
        if missing := [int(n) for n in distinct if int(n) not in self.counts]:
            raise ValueError(
                f"lengths must be among the {len(self.counts)} that were counted, as this cost is no quadratic in the "
                f"length; got also {missing[:8]}. Pass all of them to fit_cost."
            )
        return np.array([self.counts[int(n)] for n in distinct], dtype=np.float64)[where].reshape(tokens.shape)

    def written(self, lengths: ArrayLike, generated: ArrayLike | None) -> Float:
        """MACs of generating an answer; 0 where nothing is generated."""
        if self.writing is None:
            return np.zeros(np.shape(lengths))
        if generated is None:
            raise ValueError(
                "generated must tell the pieces that were written for each row, as an answer here is a text; got none."
            )
        a, b, c, d, e = self.writing
        n, t = np.maximum(np.asarray(lengths, dtype=np.float64), 1), np.asarray(generated, dtype=np.float64)
        return np.where(t > 0, a + b * n + t * (c + d * n + e * t), 0.0)

    def by_length(self, size: int) -> Float:
        """MACs of reading lengths 0 to ``size - 1``, NaN where one was never counted."""
        if self.counts is None:
            return self.reading(np.arange(size))
        longest = size if self.window is None else max(size, self.window + 1)
        table = np.full(longest, np.nan)
        for length, macs in self.counts.items():
            if length < longest:
                table[length] = macs
        if self.window is not None:
            tokens = np.arange(self.window + 1, size)
            last = last_window(tokens, self.window)
            table[self.window + 1 :] = (tokens - last) // self.window * table[self.window] + table[last]
        return table[:size]

    def to_json(self) -> dict[str, Any]:
        """A value that ``json`` writes and :meth:`from_json` reads back unchanged."""
        writing: dict[str, Any] = {} if self.writing is None else {"writing": list(self.writing)}
        writing |= {} if self.window is None else {"window": self.window}
        if self.coefficients is not None:
            return {"coefficients": list(self.coefficients)} | writing
        assert self.counts is not None
        return {"counts": {str(length): macs for length, macs in sorted(self.counts.items())}} | writing

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "CostFunction":
        """Read what :meth:`to_json` gave.

        Raises:
            ValueError: where neither three coefficients nor counts are there.
        """
        writing: Any = tuple(map(float, value["writing"])) if "writing" in value else None
        window = int(value["window"]) if "window" in value else None
        if len(value.get("coefficients", ())) == 3:
            a, b, c = map(float, value["coefficients"])
            return cls(coefficients=(a, b, c), writing=writing, window=window)
        if "counts" in value:
            counts = {int(length): macs for length, macs in value["counts"].items()}
            return cls(counts=counts, writing=writing, window=window)
        raise ValueError(f"A cost function must have three 'coefficients' or 'counts'; got {dict(value)!r}.")


def last_window(lengths: Any, window: int) -> Any:
    """Tokens of the last window of inputs of some lengths, where all before it are full.

    >>> last_window(np.array([3, 4, 9]), 4)
    array([3, 4, 1])
    """
    return (lengths - 1) % window + 1


@dataclass(frozen=True)
class RowWork:
    """What a tier did for each of ``N`` rows: all that the cost of a row depends on, beside the tier's functions.

    What else a tier may do for a row (dropped tokens) belongs here, and the functions read it. Of a row that is read in
    several windows tokens are those of all of them together; the function knows how long a window is.

    Attributes:
        tokens: ``(N,)`` of the row itself.
        padded: ``(N,)`` with the padding of its batch, or one number for all.
        generated: ``(N,)`` steps that the decoder took for the row itself, the end of the text included, 0 where it did
            not run; None where the tier generates nothing.
    """

    tokens: NDArray[np.int64]
    padded: ArrayLike = ()
    generated: ArrayLike | None = None

    def charged(self, convention: str | int) -> NDArray[np.int64]:
        """The length ``(N,)`` that a row is charged at.

        Args:
            convention: ``true`` (the example's own tokens; the padding of its batch is executed by an encoder, but not
                charged), ``padded`` (the longest row of its batch, which is what an encoder executes; a packed LSTM
                executes the true length), or a number: the fixed length of the papers, 128 for GLUE, whatever the
                input.

        Raises:
            ValueError: for another convention.

        Example:
            >>> RowWork(np.array([7, 9]), 9).charged("padded"), RowWork(np.array([7, 9])).charged(128)
            (array([9, 9]), array([128, 128]))
        """
        tokens = np.asarray(self.tokens, dtype=np.int64)
        if convention == "true":
            return tokens
        fixed = isinstance(convention, int) and not isinstance(convention, bool) and convention >= 1
        if convention != "padded" and not fixed:
            raise ValueError(
                f"length convention must be 'true', 'padded' or a number of tokens from 1; got {convention!r}."
            )
        return np.broadcast_to(np.asarray(convention if fixed else self.padded, dtype=np.int64), tokens.shape)


def charged_lengths(
    convention: str | int, true: Mapping[str, NDArray[Any]], padded: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[np.int64]]:
    """The lengths that a convention charges, per tier (N,); see :meth:`RowWork.charged`.

    Args:
        convention: ``true``, ``padded`` or a number.
        true: per tier the tokens of each example (N,).
        padded: per tier the padded lengths (N,).
    """
    known = padded if convention == "padded" else true
    return {tier: RowWork(lengths, padded.get(tier, ())).charged(convention) for tier, lengths in known.items()}


@dataclass(frozen=True)
class ModelCosts:
    """Cost functions of all exits of all tiers.

    Attributes:
        answer: tier -> exit -> cost of the tier's path to that exit and the answer there, earlier exits' heads included
            where the path runs them.
        decide: the same up to the decision, for exits where deciding takes less than answering (E-LANG's energy head on
            a T5 encoder decides before any decoding); an exit that is absent decides by its answer.
        reference: tier -> what it is compared with, where that is not its own last exit: for a multi-exit model the
            encoder without exits, and unpruned.
    """

    answer: Mapping[str, Mapping[int, CostFunction]]
    decide: Mapping[str, Mapping[int, CostFunction]] = field(default_factory=dict)
    reference: Mapping[str, CostFunction] = field(default_factory=dict)

    def stage_macs(
        self,
        stages: Sequence[Stage],
        lengths: Mapping[str, ArrayLike],
        generated: Mapping[str, ArrayLike] | None = None,
    ) -> tuple[Float, Float]:
        """MACs per example up to the decision at each stage, and of answering there.

        A row that reaches a tier has been through the last of the given exits of every earlier tier and has left each
        after its decision (E-LANG, Eq. 16: everything that ran is charged, heads included).

        Args:
            stages: in order of execution.
            lengths: per tier the charged length of each example (N,).
            generated: per tier that writes its answers the pieces of each example (N,).

        Returns:
            ``decide_macs`` (N, S) and ``macs`` (N, S).

        Raises:
            ValueError: naming a tier or an exit without cost function, or a tier without lengths or with another number
                of examples.
        """
        decide: list[Float] = []
        answer: list[Float] = []
        spent: Float | float = 0.0
        for position, stage in enumerate(stages):
            if position and stage.tier != stages[position - 1].tier:
                spent = decide[-1]
            tokens, pieces = self._lengths(stage.tier, lengths), (generated or {}).get(stage.tier)
            if answer and len(tokens) != len(answer[0]):
                raise ValueError(f"lengths must be of {len(answer[0])} examples; got {len(tokens)} for {stage.tier!r}.")
            answer.append(spent + self.function(stage.tier, stage.index)(tokens, pieces))
            decide.append(spent + self.function(stage.tier, stage.index, "decide")(tokens, pieces))
        return np.stack(decide, axis=1), np.stack(answer, axis=1)

    def of_tiers(self, tiers: Sequence[str]) -> "ModelCosts":
        """The functions of these tiers alone."""
        answer, decide = ({tier: part[tier] for tier in tiers if tier in part} for part in (self.answer, self.decide))
        return ModelCosts(answer, decide, {tier: self.reference[tier] for tier in tiers if tier in self.reference})

    def alone(self, tier: str, lengths: ArrayLike, generated: ArrayLike | None = None) -> Float:
        """MACs per example (N,) of one tier without routing: of its reference, else of its path to the last exit."""
        return self.function(tier, max(self.answer.get(tier, {}), default=0), "reference")(lengths, generated)

    def columns(
        self,
        stages: Sequence[Stage],
        lengths: Mapping[str, NDArray[Any]],
        padded: Mapping[str, NDArray[Any]],
        convention: str | int = "true",
        reference: str | None = None,
        generated: Mapping[str, ArrayLike] | None = None,
    ) -> dict[str, Any]:
        """The costs that a stage table holds: ``decide_macs`` and ``macs`` (N, S), and ``macs_reference`` (N,).

        Args:
            stages: in order of execution.
            lengths: per tier the tokens of each example (N,).
            padded: per tier the padded lengths (N,).
            convention: at which length a row is charged.
            reference: tier whose cost alone is the reference; default: the last.
            generated: per tier that writes its answers the pieces of each example (N,).

        Raises:
            ValueError: a tier without lengths or cost functions.
        """
        charged, reference = charged_lengths(convention, lengths, padded), reference or stages[-1].tier
        decide, macs = self.stage_macs(stages, charged, generated)
        alone = self.alone(reference, self._lengths(reference, charged), (generated or {}).get(reference))
        return {"decide_macs": decide, "macs": macs, "macs_reference": alone}

    def function(self, tier: str, index: int, kind: Kind = "answer") -> CostFunction:
        """The cost function of one exit of a tier.

        Args:
            tier: its name.
            index: position of the exit.
            kind: of ``answer`` there, of ``decide`` there, or of the ``reference`` that the last exit is compared with.

        Raises:
            ValueError: there is none; names all that there are.
        """
        if kind == "reference" and tier in self.reference:
            return self.reference[tier]
        if kind == "decide" and index in self.decide.get(tier, {}):
            return self.decide[tier][index]
        if index not in self.answer.get(tier, {}):
            have = ", ".join(f"{name}/{k}" for name, exits in self.answer.items() for k in exits)
            raise ValueError(f"costs must have every stage's tier and exit ({have}); got a stage {tier}/{index}.")
        return self.answer[tier][index]

    def to_json(self) -> dict[str, Any]:
        """A value that ``json`` writes and :meth:`from_json` reads back unchanged."""
        parts = {"answer": self.answer, "decide": self.decide}
        reference = {tier: cost.to_json() for tier, cost in self.reference.items()}
        return {"schema": SCHEMA, "unit": "MACs per example", "reference": reference} | {
            name: {tier: {str(k): cost.to_json() for k, cost in exits.items()} for tier, exits in part.items()}
            for name, part in parts.items()
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ModelCosts":
        """Read what :meth:`to_json` gave.

        Raises:
            ValueError: for another schema.
        """
        if value.get("schema") != SCHEMA:
            raise ValueError(f"costs.json must have schema {SCHEMA}; got {value.get('schema')!r}. Run the sweep again.")
        answer, decide = (
            {
                tier: {int(k): CostFunction.from_json(cost) for k, cost in exits.items()}
                for tier, exits in value.get(name, {}).items()
            }
            for name in ("answer", "decide")
        )
        reference = {tier: CostFunction.from_json(cost) for tier, cost in value.get("reference", {}).items()}
        return cls(answer, decide, reference)

    def save(self, path: str | Path) -> None:
        """Write ``costs.json``, whole or not at all."""
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "ModelCosts":
        """Read a saved ``costs.json``."""
        return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))

    @staticmethod
    def _lengths(tier: str, lengths: Mapping[str, ArrayLike]) -> NDArray[Any]:
        if tier not in lengths:
            raise ValueError(f"lengths must have every stage's tier; got {', '.join(lengths) or 'none'}, not {tier!r}.")
        return np.asarray(lengths[tier])


def macs_of(text: str, argument: str = "budgets") -> float:
    """A budget in MACs, or in FLOPs with the suffix ``flop``.

    Args:
        text: as it is typed.
        argument: what the user calls it.

    Raises:
        ValueError: it is neither.

    Example:
        >>> macs_of("2e9"), macs_of("4e9flop")
        (2000000000.0, 2000000000.0)
    """
    number, factor = (text[: -len(FLOP_SUFFIX)], 0.5) if text.lower().endswith(FLOP_SUFFIX) else (text, 1.0)
    try:
        return factor * float(number)
    except ValueError:
        raise ValueError(
            f"`{argument}` must be MACs such as 2e9, or FLOPs such as 4e9flop, but got {text!r}."
        ) from None
