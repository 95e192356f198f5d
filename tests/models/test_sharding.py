"""Weights that two ranks share: what each computes is what a model that is whole computes, in the same calls."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from dial.models.sharding import layers_of, load_shards, recompute_layers, share, whole_weights, without_weights
from dial.tiers.tokens import Tokeniser
from tests.models.writers import tiny_t5
from tests.tiers import small
from tests.tiers.writers import FREE, writer

RANKS = 2
ROWS = ((3, 15), (1, 0))  # rows of each rank, from one on: other numbers of rows, of other lengths


def encoding_of(tier: Any, rank: int) -> dict[str, torch.Tensor]:
    rows, start = ROWS[rank]
    tokeniser = Tokeniser(tier)
    return tokeniser.collate(tokeniser(small.texts(64)[start : start + rows]))


def tier_of(beams: int) -> Any:
    """A writer with a head, whose answers end after few or many pieces."""
    tier = writer("swift", FREE, 1, "vocabulary", beams=beams, max_new_tokens=12)
    tier.model.generation_config.early_stopping = True
    return tier


def answers_of(tier: Any, encoding: dict[str, torch.Tensor]) -> tuple[list[str], list[int], list[float]]:
    energies: list[torch.Tensor] = []
    with torch.no_grad():
        state = tier.run(encoding, lambda *asked: energies.append(asked[3]["energy"]), scores=True)
        written = tier.write(encoding, torch.arange(len(energies[0])), state)
    return written.texts, written.generated.tolist(), energies[0].tolist()


def work(rank: int, folder: Path) -> None:
    """What one rank does; it leaves what it saw, or nothing where it fails or waits for ever."""
    from torch.distributed import init_process_group
    from torch.distributed.device_mesh import init_device_mesh

    torch.set_num_threads(1)
    init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=RANKS)
    mesh, seen = init_device_mesh("cpu", (RANKS,)), {}
    for beams in (1, 2):
        tier, calls = tier_of(beams), []
        tier.model.get_decoder().register_forward_hook(lambda *_, calls=calls: calls.append(1))
        encoding = encoding_of(tier, rank)
        expected = answers_of(tier, encoding)
        alone = len(calls)
        calls.clear()
        tier.share(mesh)
        seen[f"{beams}"] = (expected, answers_of(tier, encoding), alone, len(calls))
    seen["gradients"] = gradients(mesh, rank)
    seen["checkpoint"] = through_a_checkpoint(mesh, folder)
    torch.save(seen, folder / f"seen{rank}")


def gradients(mesh: Any, rank: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The mean over both ranks' batches: of a whole model, and by ranks that share one and compute layers anew."""
    whole, shared = tiny_t5(dropout_rate=0.0).train(), tiny_t5(dropout_rate=0.0).train()
    batches = [torch.randint(3, 60, (2, 6), generator=torch.Generator().manual_seed(r)) for r in range(RANKS)]
    sum(whole(input_ids=ids, labels=ids).loss for ids in batches).div(RANKS).backward()  # type: ignore[union-attr]
    recompute_layers(shared)
    share(shared, mesh)
    shared(input_ids=batches[rank], labels=batches[rank], use_cache=False).loss.backward()
    found = {name: parameter.grad.full_tensor() for name, parameter in shared.named_parameters()}
    return {name: parameter.grad for name, parameter in whole.named_parameters()}, found


def through_a_checkpoint(mesh: Any, folder: Path) -> dict[str, torch.Tensor]:
    """Weights gathered from shards that were read from the shards of another model."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    one, other = tiny_t5(1), tiny_t5(2)
    for model in (one, other):
        share(model, mesh)
    checkpoint.save({"state_dict": get_model_state_dict(one)}, checkpoint_id=folder / "checkpoint")
    load_shards(other, folder / "checkpoint")
    return whole_weights(other)


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    context = torch.multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(rank, folder), daemon=True) for rank in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    hung = [process.pid for process in processes if process.is_alive()]
    for process in processes:
        process.kill()
    assert not hung, "ranks wait for each other"
    return [torch.load(folder / f"seen{rank}", weights_only=False) for rank in range(RANKS)]


@pytest.mark.parametrize("beams", ["1", "2"])
def test_ranks_with_other_rows_write_what_each_would_alone_in_as_many_calls(seen, beams) -> None:
    for (texts, pieces, energies), (shared_texts, shared_pieces, shared_energies), _, _ in (r[beams] for r in seen):
        assert shared_texts == texts and shared_pieces == pieces
        assert shared_energies == pytest.approx(energies, abs=1e-6)
    alone, together = ([rank[beams][k] for rank in seen] for k in (2, 3))
    assert alone[0] != alone[1], "rows that end after as many pieces show nothing"
    assert together == [max(alone)] * RANKS


def test_gradients_are_the_mean_over_ranks_also_where_layers_are_computed_anew(seen) -> None:
    for rank in seen:
        whole, shared = rank["gradients"]
        assert whole.keys() == shared.keys()
        largest = max(float(value.abs().max()) for value in whole.values())
        for name, value in whole.items():
            torch.testing.assert_close(shared[name], value, rtol=1e-3, atol=4e-6 * largest)


def test_weights_go_through_a_checkpoint_of_shards(seen) -> None:
    expected = tiny_t5(1).state_dict()
    assert seen[0]["checkpoint"].keys() == expected.keys() and seen[1]["checkpoint"] == {}
    assert all(torch.equal(seen[0]["checkpoint"][name], value) for name, value in expected.items())


def test_layers_are_those_of_both_halves() -> None:
    model = tiny_t5(layers=2)
    assert layers_of(model) == [*model.encoder.block, *model.decoder.block]


def test_a_copy_without_weights_is_like_the_model_and_shares_as_it_does() -> None:
    model = tiny_t5(tie_word_embeddings=True)
    bare, before = without_weights(model), copy.deepcopy(model.state_dict())
    assert {name: value.shape for name, value in bare.state_dict().items()} == {k: v.shape for k, v in before.items()}
    assert all(parameter.is_meta for parameter in bare.parameters())
    assert bare.shared.weight is bare.encoder.embed_tokens.weight
    bare.load_state_dict(before, assign=True)
    ids = torch.tensor([[5, 6, 1]])
    assert torch.equal(
        bare(input_ids=ids, decoder_input_ids=ids).logits, model(input_ids=ids, decoder_input_ids=ids).logits
    )
