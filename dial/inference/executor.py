"""Runs a staged model for real: sure rows stop, the others are gathered until the next tier's batch is full."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from dial.costs.counting import RowCosts, padded_lengths
from dial.costs.functions import RowWork
from dial.inference.compaction import Compaction, Policy
from dial.inference.prefetch import prefetched
from dial.inference.queues import POOL, InOrder, Row, TierQueue
from dial.inference.staged import StagedModel
from dial.inference.work import Answer, Work, check_batch_sizes, is_out_of_memory
from dial.inference.writing import WritingQueue
from dial.machine import limited_threads
from dial.tiers.batching import Encoding
from dial.tiers.contract import GoOn, Written
from dial.tiers.tier import Tier
from dial.tiers.tokens import UnreadableRowError, check_unit
from dial.tradeoff.rule import Router, Rule

__all__ = ["Answer", "Executor", "Work", "is_out_of_memory"]

TOGETHER = 32_768  # tokens whose hidden states are kept at once where rows of several batches are put together anew
CHUNK = 512  # rows that are read and tokenised ahead at a time
logger = logging.getLogger(__name__)


class Executor:
    """Answers rows with the stages of a model, at any batch size, in the order in which they came.

    Every tier has a queue and a batch size. Rows that a tier defers wait for the next one until a pool of whole batches
    is there, so that rows of similar length meet; inside a multi-exit tier rows leave after their layer. At most
    ``max_pending`` rows are under way or wait for a row before them: then the oldest go on in whatever batch there is.
    Rows that stay at a tier that writes wait for others of its pool, until a whole batch of them can be written.
    A row is tokenised for a tier only once it gets there. A tier that may answer no row, as all its thresholds are plus
    infinity, does not run. Where the score that decides is one of finished answers, each tier but the last writes for
    all rows that reach it, and they are charged so. The answers are those of the table's replay.

    Args:
        network: on the device where it is to run; put into eval mode.
        rule: with values for exactly its stages.
        batch_sizes: rows per batch, for all tiers or by name; default: the ``batch_size`` of a tier's view, else 32.
        max_pending: rows.
        group_by_length: whether a pool is sorted by length before it is cut into batches.
        costs: what rows cost, if that is to be known.
        compaction: ``always`` takes rows that left out of the batch at once; ``measured`` only where that is measured
            to be faster (a GPU may compute a small batch no faster than a large one). On a CPU both are ``always``.

    Attributes:
        threads: of torch, for tiers that are computed by fewer than all; by name.

    Raises:
        ValueError: stages of another model, an unknown tier, or a number below 1.
    """

    def __init__(
        self,
        network: StagedModel,
        rule: Rule,
        batch_sizes: int | Mapping[str, int] | None = None,
        max_pending: int = 8192,
        group_by_length: bool = True,
        costs: RowCosts | None = None,
        compaction: Policy = "always",
    ) -> None:
        names = tuple(stage.name for stage in network.stages)
        if rule.stages != names:
            raise ValueError(
                f"`rule` must be for the stages {', '.join(names)}, but it is for {', '.join(rule.stages)}."
            )
        if not isinstance(max_pending, int) or max_pending < 1:
            raise ValueError(f"`max_pending` must be a whole number from 1 up, but got {max_pending!r}.")
        self.network, self.rule, self.costs = network.eval(), rule, costs
        self.tiers = list(network.tiers)
        self.batch_sizes = check_batch_sizes(batch_sizes, self.tiers)
        self.threads: dict[str, int | None] = {}
        self.max_pending, self.group_by_length = max_pending, group_by_length
        self.device = next(network.parameters()).device
        self.work = {tier.name: Work() for tier in self.tiers}
        self._tokenisers = [tier.tokeniser() for tier in self.tiers]
        self._keys = [tier.encoding_key for tier in self.tiers]
        left_out = rule.left_out([stage.tier for stage in network.stages])
        self._at_work = [index for index, tier in enumerate(self.tiers) if tier.name not in left_out]
        self._offsets = np.cumsum([0, *(len(tier.exits) for tier in self.tiers)]).tolist()
        self._with_scores = [
            bool(tier.model_scores) and (rule.given_by_tiers or rule.score in tier.model_scores) for tier in self.tiers
        ]
        late = rule.reads_score and rule.score in network.late_scores
        self._late = [late and tier is not self.tiers[-1] for tier in self.tiers]
        self._gathers = [tier.generates and not late for tier, late in zip(self.tiers, self._late, strict=True)]
        # Rows of different lengths would be computed apart: better that a batch is of one length from the start.
        self._equal_length = {tier.name for tier in self.tiers if tier.batching.equal_length}
        self._compactions = [Compaction.of(tier, compaction, self.device) for tier in self.tiers]

    def run(self, rows: Iterable[Any], prefetch: bool = False, numbered: bool = False) -> Iterator[Answer]:
        """Answer rows, in their order; how many are read ahead is bounded by ``max_pending``.

        Args:
            rows: texts, or pairs of texts.
            prefetch: read and tokenise in another thread while the models run; for long inputs.
            numbered: each row comes as ``(id, text or pair)``; ids are what ``random`` routes by.

        Raises:
            ValueError: a row is neither, or a tier gives an output that is not finite. Whatever was read before a
                broken row, or before an error that ``rows`` raises, is answered first.
        """
        queues = [TierQueue(self.batch_sizes[tier.name], self._pool(tier.name)) for tier in self.tiers]
        order: InOrder[Answer] = InOrder()
        read, failure = 0, None
        pairs = rows if numbered else enumerate(rows)
        first = self._at_work[0]
        chunks = self._chunks(pairs, CHUNK if prefetch else queues[first].pool)
        with prefetched(chunks, prefetch) as source:
            while True:
                try:
                    chunk = next(source, None)
                except Exception as error:
                    chunk, failure = None, error
                if chunk is None:
                    break
                while read > order.given and read + len(chunk) - order.given > self.max_pending:
                    oldest = min(range(len(queues)), key=lambda i: queues[i].oldest)
                    yield from self._step(queues, oldest, order, oldest_first=True)
                queues[first].add(chunk)
                read += len(chunk)
                yield from self._advance(queues, order)
        for index, queue in enumerate(queues):
            while len(queue):
                yield from self._step(queues, index, order, rest=True)
        if failure is not None:
            raise failure

    def _chunks(self, rows: Iterable[tuple[int, Any]], size: int) -> Iterator[list[Row]]:
        """Rows with the tokens of the first tier at work, some at a time; those before a broken one are given."""
        source, position = iter(rows), 0
        size = max(1, min(size, self.max_pending))
        while True:
            failure, chunk = None, []
            try:
                for identity, unit in islice(source, size):
                    chunk.append(Row(position, identity, check_unit(unit, f"row {identity}")))
                    position += 1
            except Exception as error:
                failure = error
            failure = self._tokenise(self._at_work[0], chunk) or failure
            if chunk:
                yield chunk
            if failure is not None:
                raise failure
            if len(chunk) < size:
                return

    def _pool(self, name: str) -> int:
        """Rows of a tier that are taken together: a single batch where there is nothing to group."""
        size = self.batch_sizes[name]
        if size == 1 or not self._grouped(name):
            return size
        return max(size, min(POOL * size, self.max_pending // (2 * len(self.tiers)) // size * size))

    def _at_once(self, index: int, rows: list[Row]) -> int:
        """How many of the first rows are run at once: a batch, or several where the tier puts rows together anew."""
        size, count = self.batch_sizes[self.tiers[index].name], 0
        if size == 1 or not self.tiers[index].regroups:
            return size
        tokens = 0
        while count < len(rows) and tokens < TOGETHER:
            tokens += sum(len(row.tokens[self._keys[index]].ids) for row in rows[count : count + size])
            count += size
        return count

    def _batches(self, index: int, rows: Any) -> list[Any]:
        """Rows that are run at once, or an array with an entry for each, batch by batch as they are padded."""
        tier = self.tiers[index]
        size = self.batch_sizes[tier.name] if tier.regroups else len(rows)
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _grouped(self, name: str) -> bool:
        return self.group_by_length or name in self._equal_length

    def _advance(self, queues: list[TierQueue], order: InOrder[Answer]) -> Iterator[Answer]:
        """Run every tier for which enough rows wait."""
        for index, queue in enumerate(queues):
            while queue.ready:
                yield from self._step(queues, index, order)

    def _step(
        self,
        queues: list[TierQueue],
        index: int,
        order: InOrder[Answer],
        oldest_first: bool = False,
        rest: bool = False,
    ) -> Iterator[Answer]:
        """Run a tier on a pool of the rows that wait for it; give what can be given."""
        rows = queues[index].take(oldest_first, rest)
        failure = self._tokenise(index, rows)
        if failure is not None:
            raise failure
        key, name = self._keys[index], self.tiers[index].name
        if self._grouped(name):
            rows.sort(key=lambda row: len(row.tokens[key].ids))
        start, writing = 0, WritingQueue(self.tiers[index], partial(self._write, index))
        while start < len(rows):
            batch = rows[start : start + self._at_once(index, rows[start:])]
            if name in self._equal_length:
                length = len(batch[0].tokens[key].ids)
                batch = [row for row in batch if len(row.tokens[key].ids) == length]  # the first ones: they are sorted
            start += len(batch)
            for part, router, given in self._compute(index, batch):
                if not self._gathers[index]:
                    self._settle(index, part, router, given, queues, order)
                    continue
                writing.add(part, router, given)
                for settled in writing.settled(self.batch_sizes[name], rest=start == len(rows)):
                    self._settle(index, *settled, queues, order)
            queues[index].batch_size = self.batch_sizes[name]
        yield from order.ready()

    def _tokenise(self, index: int, rows: list[Row]) -> ValueError | None:
        """Tokens for a tier; a row that it cannot read is taken out, with those behind it, and what it says."""
        key = self._keys[index]
        missing = [row for row in rows if key not in row.tokens]
        try:
            found = self._tokenisers[index]([row.unit for row in missing])
        except UnreadableRowError as error:
            first = missing[error.place]
            del rows[rows.index(first) :]
            return self._tokenise(index, rows) or ValueError(f"row {first.id} {error.problem}.")
        for row, tokens in zip(missing, found, strict=True):
            row.tokens[key] = tokens
        needs = self.tiers[index].batching
        for row in missing if needs.shortest > 1 else ():
            if len(row.tokens[key].ids) < needs.shortest:
                del rows[rows.index(row) :]
                return needs.too_short(f"row {row.id}", len(row.tokens[key].ids), self.tiers[index].name)
        return None

    def _compute(self, index: int, rows: list[Row]) -> Iterator[tuple[list[Row], Router, Any]]:
        """Run a tier on a batch, see :meth:`_run`; in parts where its memory does not suffice.

        Raises:
            ValueError: not even one row fits.
        """
        try:
            done = self._run(index, rows)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            done = None
        if done is not None:
            yield rows, *done
            return
        # Outside of the except block, whose error holds the frames and with them the tensors that filled the memory.
        self._halve(index, len(rows), len(rows[0].tokens[self._keys[index]].ids))
        start = 0
        while start < len(rows):  # the first part may lower it further
            part = rows[start : start + self.batch_sizes[self.tiers[index].name]]
            start += len(part)
            yield from self._compute(index, part)

    def _halve(self, index: int, rows: int, tokens: int) -> None:
        """Lower a tier's batch size after so many rows did not fit; refuse where that was a single one."""
        name = self.tiers[index].name
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if rows == 1:
            raise ValueError(
                f"`{name}` runs out of memory with one row of {tokens} tokens; lower its `max_length`, or free memory."
            )
        size = (rows + 1) // 2
        if size < self.batch_sizes[name]:
            self.batch_sizes[name] = size
            logger.warning("%s ran out of memory with %d rows; its batch size is now %d.", name, rows, size)

    def _write(self, index: int, state: Any, rows: int) -> list[Written]:
        """What a tier writes for rows that were read; in parts where its memory does not suffice."""
        tier, every = self.tiers[index], torch.arange(rows, device=self.device)
        start = time.perf_counter()
        try:
            with torch.inference_mode(), limited_threads(self.threads.get(tier.name)):
                written = [tier.write({}, every, state)]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            written = []
        self.work[tier.name].seconds += time.perf_counter() - start
        if not written:
            self._halve(index, rows, tier.width_of(state))
            for part in every.split(self.batch_sizes[tier.name]):
                written += self._write(index, tier.take_states(state, part), len(part))
        return written

    def _run(self, index: int, rows: list[Row]) -> tuple[Router, Any]:
        """One batch, or several at once, through one tier; nothing outside of the returned router remembers it.

        With it, where the tier writes: what its encoder gave, which the rows that stay are written from; what it wrote
        for them at once, where no decoder makes that dear; or, where finished answers decide, for all rows.
        """
        tier, key, offset = self.tiers[index], self._keys[index], self._offsets[index]
        tokens = [row.tokens[key] for row in rows]
        encodings = [self._tokenisers[index].collate(part, self.device) for part in self._batches(index, tokens)]
        encoding, memory = encodings[0], None
        if self.rule.memory and rows[0].memory is not None:
            memory = np.array([row.memory for row in rows])
        router = self.rule.router(np.array([row.id for row in rows]), memory)
        start = time.perf_counter()
        with torch.inference_mode(), limited_threads(self.threads.get(tier.name)):
            go_on = self._compactions[index].wrap(router, offset, encoding)
            given: Any = None
            if len(encodings) > 1:
                tier.run_together(encodings, go_on, self._with_scores[index])
            elif self._late[index]:
                given = self._write_and_decide(tier, encoding, go_on)
            else:
                given = tier.run(encoding, go_on, self._with_scores[index])
            if tier.answers_later and not (self._late[index] or self._gathers[index]):
                given = self._answer(tier, encoding, router, given)
        work = self.work[tier.name]
        work.seconds += time.perf_counter() - start
        work.rows, work.batches = work.rows + len(rows), work.batches + len(encodings)
        work.tokens += sum(len(row.ids) for row in tokens)
        work.padded += sum(each["input_ids"].numel() for each in encodings)
        return router, given if tier.writes else None

    def _answer(self, tier: Tier, encoding: Encoding, router: Router, state: Any) -> Written | None:
        """The answers of the rows that stay, of a tier that decides before it answers; None where outputs hold them."""
        if router.deferred.all():
            return None
        stayed = torch.from_numpy(np.flatnonzero(~router.deferred)).to(self.device)
        if tier.writes:
            return tier.write(encoding, stayed, state)
        decided = torch.from_numpy(router.outputs).to(self.device)[stayed]
        router.outputs[stayed.cpu()] = tier.answer(encoding, stayed, decided, state).float().cpu().numpy()
        return None

    @staticmethod
    def _write_and_decide(tier: Tier, encoding: Encoding, go_on: GoOn) -> Written:
        """What a tier writes for all rows, by whose scores it is then decided which of them go on."""
        asked: list[Any] = []
        state = tier.run(encoding, lambda *given: asked.extend(given), scores=True)
        exit_index, rows, outputs, own = asked
        written = tier.write(encoding, rows, state, scores=True)
        go_on(exit_index, rows, outputs, {**own, **written.scores})
        return written

    def _settle(
        self,
        index: int,
        rows: list[Row],
        router: Router,
        written: Written | None,
        queues: list[TierQueue],
        order: InOrder[Answer],
    ) -> None:
        """Hand out the answers of a batch, and put the rows that go on into the next queue."""
        stayed, leaving = np.flatnonzero(~router.deferred), np.flatnonzero(router.deferred)
        generated = np.zeros(len(rows), dtype=np.int64)
        if written is not None:
            late = self._late[index]
            generated[np.arange(len(rows)) if late else stayed] = written.generated.cpu().numpy()
            written = written.take(stayed) if late else written
        macs = self._charge(index, rows, router, stayed, leaving, generated if self.tiers[index].generates else None)
        predictions, probabilities = router.answers(stayed)
        if written is not None:
            predictions = self.network.task.read(written.texts)
            unknown = np.full(len(stayed), np.nan)
            probabilities = unknown if written.probability is None else written.probability
            limited = written.limited.tolist()
            spans = [None] * len(stayed) if written.spans is None else list(map(tuple, written.spans.tolist()))
        columns = (stayed, router.stage[stayed], predictions, probabilities, router.score[stayed], macs[stayed])
        answers = zip(*(c.tolist() for c in columns), strict=True)
        for place, (i, stage, prediction, probability, score, cost) in enumerate(answers):
            row = rows[i]
            reference = row.reference if self.costs is not None else float("nan")
            found = (stage, prediction, probability, score, cost, reference, router.outputs[i])
            first = len(row.tokens[self._keys[self._at_work[0]]].ids)
            text = () if written is None else (written.texts[place], limited[place], int(generated[i]), spans[place])
            order.put(row.position, Answer(row.id, *found, self._truncated(index, row), first, *text))
        if len(leaving):
            going = [rows[i] for i in leaving.tolist()]
            for row, i in zip(going, leaving, strict=True):
                row.spent = float(macs[i])
                if self.rule.memory:
                    row.memory = router.memory[i]
            queues[next(later for later in self._at_work if later > index)].add(going)

    def _charge(
        self,
        index: int,
        rows: list[Row],
        router: Router,
        stayed: np.ndarray,
        leaving: np.ndarray,
        generated: np.ndarray | None,
    ) -> np.ndarray:
        """MACs ``(R,)`` that were spent on each row up to here, NaN where costs are not known.

        Args:
            index: position of the tier.
            rows: R that were run at once.
            router: of them.
            stayed: positions of the rows that are answered here.
            leaving: of the others.
            generated: ``(R,)`` steps of the decoder, 0 where it did not run; None of a tier that does not write.
        """
        costs, macs = self.costs, np.full(len(rows), np.nan)
        if costs is None:
            return macs
        lengths = np.array([len(row.tokens[self._keys[index]].ids) for row in rows])
        window = self.tiers[index].window
        padded = np.concatenate([padded_lengths(part, window) for part in self._batches(index, lengths)])

        def work(some: Any) -> RowWork:
            return RowWork(lengths[some], padded[some], None if generated is None else generated[some])

        # Its text is what the reference would write, and its windows those that the reference would read.
        is_reference = index == costs.reference and (generated is not None or self.tiers[index].window is not None)
        if index == self._at_work[0] or is_reference:
            for row, reference in zip(rows, costs.alone(work(slice(None)), index).tolist(), strict=True):
                row.reference = reference
        spent = np.array([row.spent for row in rows])
        exits = router.stage - self._offsets[index]
        macs[stayed] = spent[stayed] + costs.answer(index, exits[stayed], work(stayed))
        macs[leaving] = spent[leaving] + costs.passing(index, work(leaving), self._late[index])
        return macs

    def _truncated(self, index: int, row: Row) -> tuple[str, ...]:
        """Tiers that ran, up to this one, and read the row cut to their maximum length."""
        ran = (position for position in self._at_work if position <= index)
        return tuple(self.tiers[p].name for p in ran if row.tokens[self._keys[p]].truncated)
