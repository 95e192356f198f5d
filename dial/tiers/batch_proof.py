"""Proof, when a tier is loaded, that a row's answer does not depend on the batch that it is in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import transformers
from torch import Tensor

from datamodules.encoding import default_cache_dir
from datamodules.quiet import quiet
from dial.files import write_json
from dial.machine import key_of
from dial.models import MultiExitConfig
from dial.tiers.batching import Batching, Encoding
from dial.tiers.model_inputs import PAIR, WHOLE, accepted_inputs, embedding_size, longest, match_inputs
from dial.tiers.tier import Tier
from dial.tiers.tokens import Tokeniser, Tokens

LONGER = (1, 4, 11)  # tokens beyond the shortest row that holds a word: odd and even, as models may read them in pairs
LARGEST = 1 << 16  # ids to draw from, where the model has no table of words


class ProbeRows:
    """Rows for a tier.

    Args:
        tier: with its tokenizer.
        seed: of the words.

    Attributes:
        frame: ids before and after the words.
        empty: tokens of a row without words; a model needs at least one.
        limit: tokens that the model has positions for.
    """

    def __init__(self, tier: Tier, seed: int = 0) -> None:
        tokenizer, config = tier.tokenizer, tier.model.config
        size = embedding_size(tier.model) or LARGEST
        known = tokenizer.all_special_ids
        self.frame = _frame(tokenizer([PAIR[0]], **WHOLE)["input_ids"][0], set(known) - {tokenizer.unk_token_id})
        # Padding first, and the end of a text: models that look for these among the ids do so wherever they stand.
        named = [getattr(config, f"{kind}_token_id", None) for kind in ("pad", "eos", "sep", "bos", "cls")]
        special = [i for i in (*named, *known) if isinstance(i, int) and 0 <= i < size]
        words = sorted({i for i in tokenizer.get_vocab().values() if i < size} - set(special))
        self._words = np.array(words or range(size))
        self._special = np.array(list(dict.fromkeys(special)) or [0])
        self._types = _types(tokenizer) if "token_type_ids" in accepted_inputs(tier.model) else None
        self._random = np.random.default_rng(seed)
        self.empty = max(1, sum(map(len, self.frame)))
        self.limit, _ = longest(tokenizer, tier.model, LARGEST)

    def lengths(self, shortest: int) -> list[int]:
        """Three lengths to try, where the model takes no rows of fewer than ``shortest`` tokens."""
        return [min(self.limit, max(self.empty + 1, shortest) + more) for more in LONGER]

    def row(self, length: int, special: bool = False) -> Tokens:
        """A row of ``length`` tokens.

        Args:
            length: tokens, those of the frame among them.
            special: put tokens among its words that are none, as a text may that mentions them.
        """
        before, after = self.frame
        words = self._random.choice(self._words, max(0, length - len(before) - len(after)))
        if special:
            words[1::2] = np.resize(self._special, len(words[1::2]))
        ids = [*before, *words.tolist(), *after][:length]
        if self._types is None:
            return Tokens(ids, None)
        return Tokens(ids, [self._types[0]] * (length // 2) + [self._types[-1]] * (length - length // 2))


def _frame(ids: list[int], special: set[int]) -> tuple[list[int], list[int]]:
    """Special ids before and after the words of a text."""
    words = [position for position, token in enumerate(ids) if token not in special]
    return (list(ids[: words[0]]), list(ids[words[-1] + 1 :])) if words else ([], [])


def _types(tokenizer: Any) -> list[int] | None:
    """Token types of the two texts of a pair, as the tokenizer gives them."""
    encoded = tokenizer(*([text] for text in PAIR), **WHOLE)
    return sorted(set(encoded["token_type_ids"][0]) & {0, 1}) or [0] if "token_type_ids" in encoded else None


SCHEMA = 2
ORDER = (0, 1, 2, 1, 2)  # which of the three lengths each of the rows has
BATCHES = ((0, 1, 2, 3, 4), (0, 1))
EQUAL_ROWS = 64
SHORT = 8  # a model that computes no row of so few tokens more than a text without words has is not taken
# Of what rows differ by, and of the logits themselves: above the noise of float32, far below what one token changes.
OF_SPREAD, OF_SCALE = 1e-4, 2e-5


def check_padding(tier: Tier, argument: str, padded_before: bool = False) -> None:
    """Refuse a model that reads padding: the rows of a batch, which differ in length, are read at once.

    Args:
        tier: whose batching is settled.
        argument: how the user calls it.
        padded_before: whether padding stands before the text, which is read there.

    Raises:
        ValueError: it does.
    """
    if tier.batching.equal_length or padded_before:
        raise ValueError(
            f"`{argument}` must not read padding, but the encoder of {tier.view.path} does; give another model."
        )


def settle(tier: Tier, argument: str, place: str | None = None, cache_dir: str | Path | None = None) -> Tier:
    """Match a tier's tokenizer with its model, and find out how its rows may be batched; before any text is read.

    Rows are padded on the right, or, where that changes answers, on the left; where both do, only rows of one length
    are computed together. Each of these is tried: rows of three lengths alone, as transformers answers them, against
    the same rows in batches of two sizes, and rows of one length alone against a batch of 64: always all of them, as
    what is found must not depend on how busy the machine is. It is remembered by the tier's fingerprint.

    Args:
        tier: with its tokenizer, in float32.
        argument: how the user calls it.
        place: where model and tokenizer come from; default: the path of the tier's view.
        cache_dir: where proofs are kept; default ``$DIAL_CACHE``, else ``~/.cache/dial``.

    Returns:
        The tier.

    Raises:
        ValueError: tokenizer and model do not fit, or answers depend on the batch in any case; names ``argument``.
    """
    path, model, side_before = place or tier.view.path, tier.model, tier.tokenizer.padding_side
    pad = match_inputs(tier.tokenizer, model, argument, path)
    _settle_attention(model, tier.max_length, argument, path)
    ends = model.config.eos_token_id if model.config.is_encoder_decoder and not tier.generates else None
    plain = Batching(
        pad_id=None if pad == tier.tokenizer.pad_token_id else pad, end_id=int(ends) if isinstance(ends, int) else None
    )
    proof = _Proof(tier, plain, argument, path)
    file = proof.file(Path(default_cache_dir() if cache_dir is None else cache_dir))
    side, tier.batching = _read(file) or _write(file, *proof.find())
    if tier.drops_rows and tier.batching.equal_length:
        raise ValueError(
            f"`{argument}` must not read padding where rows leave at exits, but {type(model.encoder).__name__} in "
            f"{path} does; train it without exits (class_path: Classifier), or take another encoder."
        )
    tier.tokenizer.padding_side = side
    if side != side_before:
        tier.tokenizer.init_kwargs["padding_side"] = side  # what is saved
    return tier


def _settle_attention(model: Any, max_length: int, argument: str, path: str) -> None:
    """BigBird changes its attention for good at the first short batch; where all batches are short, change it now.

    Raises:
        ValueError: rows may be so long that the answer to one depends on what came before.
    """
    config = model.base_model.config
    if getattr(config, "attention_type", None) != "block_sparse":
        return
    limit = (5 + 2 * config.num_random_blocks) * config.block_size
    if max_length > limit:
        raise ValueError(
            f"`{argument}` must keep at most {limit} tokens (`max_length: {limit}`), but it keeps {max_length}: the "
            f"block-sparse attention of {path} turns into full attention at the first batch of fewer; or set "
            "`attention_type` in its config.json to original_full."
        )
    for module in model.modules():
        if hasattr(module, "set_attention_type"):
            module.set_attention_type("original_full")
    config.attention_type = "original_full"
    if isinstance(model.config, MultiExitConfig):
        model.config.encoder["attention_type"] = "original_full"


class _Proof:
    """Tries how a tier's rows may be batched.

    Args:
        tier: what is tried.
        plain: what is known about its batches without trying.
        argument: how the user calls the tier.
        path: where it came from.
    """

    def __init__(self, tier: Tier, plain: Batching, argument: str, path: str) -> None:
        self.tier, self.plain, self.argument, self.path = tier, plain, argument, path
        self.accepted = accepted_inputs(tier.model)
        self.rows = ProbeRows(tier)
        self._reason = ""

    def file(self, cache_dir: Path) -> Path:
        """Where what was found is remembered: by all that it depends on."""
        tokenizer = self.tier.tokenizer
        about = {
            "schema": SCHEMA,
            "tier": self.tier.fingerprint,
            "rows": [self.rows.frame, self.rows.limit, len(tokenizer), sorted(tokenizer.model_input_names)],
            "plain": asdict(self.plain),
            "versions": [torch.__version__, transformers.__version__],
        }
        return cache_dir / "batching" / f"{key_of(about)}.json"

    def find(self) -> tuple[str, Batching]:
        """The side to pad on, and what batches need.

        Raises:
            ValueError: nothing makes answers independent of the batch.
        """
        with _undisturbed(self.tier.model):
            shortest = self._shortest()
            lengths = self.rows.lengths(shortest)
            rows = [self.rows.row(lengths[kind], special=index == 3) for index, kind in enumerate(ORDER)]
            expected = self._alone(rows)
            unmasked = self._agrees(self.plain, rows, expected, [[1], [3]])
            plain = replace(self.plain, masked=not unmasked, shortest=shortest)
            for side in ("right", "left"):
                self.tier.tokenizer.padding_side = side
                if self._agrees(plain, rows, expected, BATCHES):
                    return side, plain
            self.tier.tokenizer.padding_side = "right"
            equal = replace(plain, equal_length=True)
            if self._agrees(equal, rows, expected, BATCHES) and self._equal_rows_agree(equal, lengths[1]):
                return "right", equal
        self._refuse()

    def _shortest(self) -> int:
        """Tokens of the shortest row that the model computes: 1, unless it fails on a text without words.

        Raises:
            ValueError: it computes none.
        """
        for length in range(self.rows.empty, self.rows.empty + SHORT):
            try:
                self._alone([self.rows.row(length)])
            except ValueError:
                if length == self.rows.empty + SHORT - 1:
                    raise
            else:
                break
        return 1 if length == self.rows.empty else length

    def _equal_rows_agree(self, batching: Batching, length: int) -> bool:
        """Whether rows of one length are answered in a batch of 64 as alone."""
        rows = [self.rows.row(length) for _ in range(EQUAL_ROWS)]
        return close(self._answers(batching, rows), self._alone(rows))

    def _alone(self, rows: Sequence[Tokens]) -> Tensor:
        """Outputs ``(R, ...)`` of each row alone, as transformers computes them: with a mask, without padding."""
        found = []
        for row in rows:
            encoding = {"input_ids": torch.tensor([row.ids]), "attention_mask": torch.ones(1, len(row.ids)).long()}
            if row.types is not None:
                encoding["token_type_ids"] = torch.tensor([row.types])
            try:
                found.append(self._compute(encoding))
            except Exception as error:
                reason = " ".join(str(error).split())[:200]
                raise ValueError(
                    f"`{self.argument}` must compute a row of {len(row.ids)} tokens, but "
                    f"{type(self.tier.model).__name__} in {self.path} does not: {reason or type(error).__name__}."
                ) from error
        outputs = torch.cat(found)
        if not torch.isfinite(outputs).all():
            raise ValueError(
                f"`{self.argument}` must give finite outputs, but {type(self.tier.model).__name__} in {self.path} does "
                "not; check its weights."
            )
        return outputs

    def _agrees(
        self, batching: Batching, rows: Sequence[Tokens], expected: Tensor, batches: Sequence[Sequence[int]]
    ) -> bool:
        """Whether rows in batches are answered as expected."""
        try:
            return all(
                close(self._answers(batching, [rows[i] for i in b]), expected[list(b)], expected) for b in batches
            )
        except Exception as error:  # whatever a model says of a batch, it does not take it
            self._reason = " ".join(str(error).split())[:200]
            return False

    def _answers(self, batching: Batching, rows: Sequence[Tokens]) -> Tensor:
        return batching.answer(self._compute, Tokeniser(self.tier).collate(rows))

    def _compute(self, encoding: Encoding) -> Tensor:
        device = next(self.tier.model.parameters()).device
        inputs = {key: value.to(device) for key, value in encoding.items() if key in self.accepted}
        return self.tier.probe(inputs).double().cpu()

    def _refuse(self) -> NoReturn:
        """Says of what kind the model is, and why no batching was found in which rows do not change each other."""
        kind, config = type(self.tier.model).__name__, self.tier.model.config
        if self._reason and getattr(config, "pad_token_id", None) is None:
            raise ValueError(
                f"`{self.argument}` must have a padding token in its configuration, but {self.path} has none "
                f"({self._reason}); set `pad_token_id` in its config.json, the tokenizer's is "
                f"{self.tier.tokenizer.pad_token_id}."
            )
        raise ValueError(
            f"`{self.argument}` must answer a row alike in every batch, but {kind} in {self.path} does not, not even "
            f"where all rows are of one length{f' ({self._reason})' if self._reason else ''}; take another model."
        )


def close(found: Tensor, expected: Tensor, among: Tensor | None = None) -> bool:
    """Whether outputs ``(R, ...)`` differ by no more than float32 explains.

    Args:
        found: outputs.
        expected: what they ought to be.
        among: outputs ``(N, ...)`` of several rows, which tell how far rows lie apart; default: those expected.
    """
    among = expected if among is None else among
    spread = among.std(dim=0, correction=0).mean()
    return bool((found - expected).abs().max() <= OF_SPREAD * spread + OF_SCALE * among.abs().max())


@contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    """Evaluation without gradients and messages; mode and random state are as before afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), quiet():
            yield
    finally:
        model.train(training)


def _read(file: Path) -> tuple[str, Batching] | None:
    """What was found earlier; None if nothing, or nothing readable."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return str(content["side"]), Batching(**content["batching"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(file: Path, side: str, batching: Batching) -> tuple[str, Batching]:
    """Remember what was found, where the disk allows it."""
    with suppress(OSError):
        write_json(file, {"side": side, "batching": asdict(batching)})
    return side, batching
