"""Has a backend compute a tier: exports it once, proves that it answers as torch does, and keeps what came of it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.encoding import default_cache_dir
from datamodules.scratch import scratch
from dial.files import write_json
from dial.machine import has_bf16, instructions, key_of
from dial.tiers.backends.export import HIDDEN, NoExportError, export, quietly, raise_of_machine, reason_of
from dial.tiers.backends.graphs import GRAPHS, Graph
from dial.tiers.backends.names import PACKAGES
from dial.tiers.backends.pruning import mark_used, prune
from dial.tiers.batch_proof import BATCHES, ORDER, ProbeRows, close
from dial.tiers.batching import Encoding
from dial.tiers.tier import Tier, model_digest
from dial.tiers.tokens import Tokeniser

SCHEMA = 5
FOLDER, ABOUT = "exports", "about.json"
LONG = 40  # tokens of a row that is longer than those of the traced batch by far
logger = logging.getLogger(__name__)


def attach(tier: Tier, backend: str, dtype: str = "float32", cache_dir: str | Path | None = None) -> bool:
    """Have a backend compute a tier from now on.

    The export lies beside the tier's files, or where these cannot be written in the cache. It is found by the weights,
    the longest row, the versions of all libraries, the processor's instructions and, for int8, the numbers; bf16 is
    made from float32 when a file is opened. An export counts only after it has answered as torch does in float32, rows
    alone, in padded batches up to the longest, and with rows dropped at the exits. Where one is made, old ones go
    (:func:`~dial.tiers.backends.pruning.prune`).

    Args:
        tier: in float32, on a CPU, its batching settled.
        backend: ``openvino`` or ``onnxruntime``; installed.
        dtype: one of those that the backend computes in.
        cache_dir: default ``$DIAL_CACHE``, else ``~/.cache/dial``.

    Returns:
        Whether it does; where the model cannot be exported torch computes it on, which is said once.

    Raises:
        ValueError: no folder for the export can be written, or it is damaged as soon as it is written.
    """
    if dtype == "bfloat16" and not has_bf16():
        _say(f"{backend} computes in float32 where bfloat16 was asked for: this processor has no instructions for it.")
        dtype = "float32"
    key = _key(tier, backend, dtype)
    beside = Path(tier.view.path).expanduser()
    places = [beside / FOLDER] if beside.is_dir() else []
    places.append(Path(default_cache_dir() if cache_dir is None else cache_dir) / FOLDER)
    found = _found(places, key, backend, dtype)
    if found is None:
        _make(tier, backend, dtype, places, key)
        found = _found(places, key, backend, dtype)
    if found is None:
        raise ValueError(
            f"`backend` {backend} needs a disk that keeps its export, but that in {places[-1]} is damaged."
        )
    if isinstance(found, str):
        _say(f"torch computes {tier.name}, as {backend} cannot: {found}.")
        return False
    tier.compute_with(found)
    return True


@contextmanager
def in_torch(tier: Tier) -> Iterator[None]:
    """Torch computes a tier within this context, and what did so before behind it."""
    parts = tier.parts
    tier.compute_with(None)
    try:
        yield
    finally:
        tier.compute_with(parts)


@cache
def _say(text: str) -> None:
    logger.warning("%s", text)


def _key(tier: Tier, backend: str, dtype: str) -> str:
    """What an export depends on."""
    versions = {name: version(name) for name in ("torch", "transformers", *PACKAGES[backend])}
    quantised = "int8" if dtype == "int8" else "float32"
    batching = [tier.batching.masked, tier.batching.equal_length, tier.tokenizer.padding_side]
    about = [SCHEMA, backend, quantised, versions, instructions(), batching, _longest(tier, ProbeRows(tier))]
    return f"{backend}-{quantised}-{key_of(model_digest(tier.model), *about)}"


def _found(places: Sequence[Path], key: str, backend: str, dtype: str) -> list[Graph] | str | None:
    """The graphs of the first whole export, or why there is none; None where that was not tried yet."""
    for folder in (place / key for place in places):
        if (about := _about(folder)) is not None:
            mark_used(folder)
            return about["refused"] or [GRAPHS[backend](folder / name, dtype) for name in about["files"]]
    return None


def _about(folder: Path) -> dict[str, Any] | None:
    """What is known of an export, or of why there is none; None if there is nothing, or a file of it is damaged."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        whole = all(_digest(folder / name) == digest for name, digest in about["files"].items())
        return dict(about) if whole and (about["refused"] or about["files"]) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _files(folder: Path, count: int) -> list[Path]:
    return [folder / f"segment{index}.onnx" for index in range(count)]


def _make(tier: Tier, backend: str, dtype: str, places: Sequence[Path], key: str) -> None:
    """Export and prove, in the first place that can be written; what is there is whole.

    Of several processes one does so, and the others wait for it. What is damaged is moved aside first: a process that
    has its files open reads them on.

    Raises:
        ValueError: none of them can be written.
    """
    failure: OSError | None = None
    for place in places:
        try:
            with _claim(place, key), scratch(place / key, folder=True) as made:
                if _about(place / key) is not None:  # another process was quicker
                    return
                new, old = made / "new", made / "old"
                new.mkdir()
                refused = _try(tier, backend, dtype, new)
                files = {} if refused else {file.name: _digest(file) for file in _files(new, len(tier.exits))}
                about = {"refused": refused, "files": files, "tier": tier.name, "backend": backend, "dtype": dtype}
                write_json(new / ABOUT, about)
                with suppress(FileNotFoundError):
                    (place / key).rename(old)
                new.rename(place / key)
            prune(place)
            return
        except OSError as error:
            failure = error
    raise ValueError(
        f"`backend` {backend} needs a folder for its export, but neither {' nor '.join(map(str, places))} can be "
        f"written ({failure}); set DIAL_CACHE to one that can."
    )


@contextmanager
def _claim(place: Path, key: str) -> Iterator[None]:
    """Alone with an export of a place, which is made; waits for the process that is."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / f".{key}.lock").open("w") as handle:
        with suppress(OSError):  # a file system without locks: then each exports for itself, and one is kept
            fcntl.flock(handle, fcntl.LOCK_EX)  # until it is closed
        yield


def _try(tier: Tier, backend: str, dtype: str, folder: Path) -> str | None:
    """Write the files of an export that answers as the tier does; why it is none, otherwise."""
    training = tier.training
    tier.eval()
    files = _files(folder, len(tier.exits))
    try:
        with quietly(), torch.inference_mode(False), torch.no_grad():
            write_segments(tier.segments(), _probe(tier)[-1], files)
            reason = _differs(tier, [GRAPHS[backend](file, "float32") for file in files])
            if reason is None and dtype == "int8":
                for file in files:
                    quantise(file)
    except NoExportError as error:
        reason = str(error)
    except Exception as error:  # whatever a library says of a graph, it does not take it
        raise_of_machine(error)
        reason = reason_of(error)
    finally:
        tier.compute_with(None)
        tier.train(training)
    if reason is not None:
        for file in files:
            file.unlink(missing_ok=True)
    return reason


def write_segments(parts: Sequence[nn.Module], example: Encoding, files: Sequence[Path]) -> None:
    """Export a model's segments one after another.

    Args:
        parts: see :meth:`~dial.tiers.contract.TierContract.segments`.
        example: a batch with a mask, tensors ``(B, T)``.
        files: one for each.

    Raises:
        NoExportError: there are no segments, or one cannot be exported.
    """
    if len(parts) != len(files):
        raise NoExportError("it has no parts that could be exported")
    given: dict[str, Tensor] = dict(example)
    for part, file in zip(parts, files, strict=True):
        export(part, given, file)
        given[HIDDEN] = part(**given)


def quantise(file: Path) -> None:
    """Have an ONNX file multiply in 8 bits, in place: weights with a scale for each output, inputs with one a tensor.

    A row's answer then depends a little on its neighbours: the largest value of the whole batch sets the scale.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it advises a pre-processing that changes nothing here
    try:
        quantize_dynamic(file, file, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)
    finally:
        logging.disable(level)


def _longest(tier: Tier, rows: ProbeRows) -> int:
    """Tokens of the longest row that the tier reads."""
    return min(tier.max_length, rows.limit)


def _probe(tier: Tier) -> list[Encoding]:
    """Batches for a tier: rows alone, in padded batches of several sizes, or of equal length where padding is read.

    Among them are rows longer than the last batch, from which the graph is traced, up to the longest that the tier
    reads: a trace may keep what its example's length gave, such as DeBERTa's buckets of distances.
    """
    rows = ProbeRows(tier)
    lengths, longest = rows.lengths(tier.batching.shortest), _longest(tier, rows)
    every = [rows.row(lengths[kind], special=index == 3) for index, kind in enumerate(ORDER)]
    every += [rows.row(max(lengths[0], min(length, longest))) for length in (LONG, longest)]
    tokeniser = Tokeniser(tier)
    batches = [[0], [2], [5], [6, 1], [5, 1], *BATCHES[1:], *BATCHES[:1]]
    if tier.batching.equal_length:
        batches = [[0], [2], [5], [6], [2, 4], [1, 3]]
    found = [tier.batching.arranged(tokeniser.collate([every[i] for i in batch])) for batch in batches]
    names = [name for name in tier.example(1) if name in found[0] or name == "attention_mask"]
    return [{name: each.get(name, torch.ones_like(each["input_ids"])) for name in names} for each in found]


def _differs(tier: Tier, graphs: Sequence[Graph]) -> str | None:
    """Why graphs do not answer as the tier does in torch; None where they do."""
    batches = _probe(tier)
    tier.compute_with(None)
    expected = [_answers(tier, batch) for batch in batches]
    tier.compute_with(graphs)
    among = torch.cat([outputs for outputs, _ in expected])
    for batch, (outputs, passed) in zip(batches, expected, strict=True):
        found, also = _answers(tier, batch)
        pairs = [(found, outputs), *zip(also, passed, strict=True)]
        if any(a.shape != b.shape or not close(a, b, among.flatten(0, 1)) for a, b in pairs):
            return f"its export answers otherwise than torch in batches of {tuple(batch['input_ids'].shape)}"
    return None if all(graph.used for graph in graphs) else "its answers do not come from the parts that it names"


def _answers(tier: Tier, encoding: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Outputs ``(B, E, C)`` of all rows, and of each exit where every second row leaves at each exit."""
    dropped: list[Tensor] = []

    def go_on(exit_index: int, rows: Tensor, outputs: Tensor) -> Tensor:
        dropped.append(outputs.double())
        return torch.arange(len(rows)) % 2 == 0

    tier.run(dict(encoding), go_on)
    return tier(dict(encoding)).double(), dropped
