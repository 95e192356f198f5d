"""Multi-exit encoders against the stock ones: exits on top of their hidden states, rows that really leave."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dial.models import MultiExitForSequenceClassification
from dial.models.exits import find_final_norm, find_layers
from tests.models.multi_exits import ENCODERS, LENGTH, LENGTHS, OTHERS, ROWS, multi_exit, stock, tokens

PRE_NORM = ["modernbert", "xlm-roberta-xl", "roberta-prelayernorm", "eurobert"]


def masks(kind: str) -> Tensor | None:
    """No mask, the usual one, or one for each pair of positions, whose rows differ (each token sees 4 neighbours)."""
    mask = tokens()[1]
    if kind == "none":
        return None
    if kind == "2-d":
        return mask
    near = (torch.arange(LENGTH).unsqueeze(1) - torch.arange(LENGTH)).abs() <= torch.arange(1, ROWS + 1).view(-1, 1, 1)
    seen = (mask.unsqueeze(1).bool() & near) | torch.eye(LENGTH, dtype=torch.bool)
    return torch.zeros(ROWS, 1, LENGTH, LENGTH).masked_fill(~seen.unsqueeze(1), torch.finfo(torch.float32).min)


def leave(plan: list[int], seen: list[tuple[int, list[int], Tensor]]) -> Any:
    """A rule by which row ``i`` leaves at exit ``plan[i]``; notes what it is asked."""

    def go_on(index: int, rows: Tensor, logits: Tensor) -> Tensor:
        seen.append((index, rows.tolist(), logits))
        return torch.tensor([plan[row] > index for row in rows.tolist()])

    return go_on


@pytest.mark.parametrize("name", [*ENCODERS, *OTHERS])
@torch.no_grad()
def test_exits_read_the_stock_hidden_states(name: str) -> None:
    encoder = stock(name)
    model = MultiExitForSequenceClassification.from_encoder(encoder, [1, 3, 4], ["a", "b", "c"]).eval()
    ids, mask = tokens()
    states: list[Tensor] = []
    layers = encoder.get_submodule(find_layers(encoder, 4))
    layers[0].register_forward_pre_hook(
        lambda _m, args, kwargs: states.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    for layer in layers:
        layer.register_forward_hook(lambda _m, _a, out: states.append(out if isinstance(out, Tensor) else out[0]))
    last = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    output = model(ids, mask, output_hidden_states=True)
    assert output.logits.shape == (ROWS, 3, 3) and len(output.hidden_states) == 5
    for ours, theirs in zip(output.hidden_states, states, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    norm = find_final_norm(encoder, find_layers(encoder, 4))
    assert (norm is not None) == (name in PRE_NORM)
    normed = encoder.get_submodule(norm) if norm else nn.Identity()
    torch.testing.assert_close(normed(states[4]), last, atol=1e-5, rtol=1e-5)  # else it is not the final norm
    for index, layer in enumerate([1, 3, 4]):
        linear = model.heads[index].linear
        expected = normed(states[layer])[:, 0] @ linear.weight.T + linear.bias
        torch.testing.assert_close(output.logits[:, index], expected, atol=1e-5, rtol=1e-5)
    assert model(ids, mask).hidden_states is None


def test_every_exit_of_a_pre_norm_encoder_has_a_norm_of_its_own() -> None:
    model = multi_exit("modernbert")
    norms = [head.norm for head in model.heads]
    assert len({id(norm.weight) for norm in norms}) == 4 and norms[0].eps == 1e-3
    assert not any("final_norm" in key for key in model.state_dict())
    assert all(head.norm is None for head in multi_exit("bert").heads)


@pytest.mark.parametrize("name", list(ENCODERS))
def test_every_weight_learns(name: str) -> None:
    model = multi_exit(name, pooler=True).train()
    ids, mask = tokens()
    model(ids, mask, torch.zeros_like(ids)).logits.square().sum().backward()
    assert [key for key, weight in model.named_parameters() if weight.grad is None] == []


def test_gradient_checkpointing_changes_nothing() -> None:
    model, (ids, mask) = multi_exit(), tokens()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
            model.train()
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        model.zero_grad()
        output = model(ids, mask, output_hidden_states=True)
        (output.logits.square().sum() + output.hidden_states[2].square().sum()).backward()
        gradients.append(model.layers[0].output.dense.weight.grad.clone())
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("name", "pooler"), [("modernbert", True), ("bert", True), ("bert", False)])
@pytest.mark.parametrize("how", ["autocast", "encoder"])
@torch.no_grad()
def test_exits_compute_in_float32_above_a_bfloat16_encoder(name: str, pooler: bool, how: str) -> None:
    model, (ids, mask) = multi_exit(name, pooler=pooler), tokens()
    if how == "encoder":
        model.encoder.bfloat16()
    seen: list[tuple[int, list[int], Tensor]] = []
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how == "autocast"):
        output = model(ids, mask, output_hidden_states=True)
        model.run({"input_ids": ids, "attention_mask": mask}, leave([0] * ROWS, seen))
        assert torch.is_autocast_enabled("cpu") == (how == "autocast")
    assert output.logits.dtype == seen[0][2].dtype == torch.float32
    head, expected = model.heads[0], output.hidden_states[1][:, 0].float()
    if head.norm is not None:
        expected = head.norm(expected)
    if pooler:
        expected = torch.tanh(head.dense(expected))
    for found in (output.logits[:, 0], seen[0][2]):
        torch.testing.assert_close(found, head.linear(expected), atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_exits_drop_what_they_read_while_training() -> None:
    model, (ids, mask) = multi_exit(dropout=0.0), tokens()
    for head in model.heads:
        head.dropout.p = 1.0
    seen: list[tuple[int, list[int], Tensor]] = []
    for training in (True, False):
        model.train(training)
        model.run({"input_ids": ids, "attention_mask": mask}, leave([0] * ROWS, seen))
    torch.testing.assert_close(seen[0][2], model.heads[0].linear.bias.expand(ROWS, 3))
    assert not torch.allclose(seen[1][2], seen[0][2])


@pytest.mark.parametrize("kind", ["none", "2-d", "4-d"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", list(ENCODERS))
@torch.no_grad()
def test_run_equals_the_full_pass(name: str, attention: str, kind: str) -> None:
    model = multi_exit(name, exits=[1, 3, 4])
    model.set_attn_implementation(attention)
    assert model.encoder.config._attn_implementation == attention
    encoding = {"input_ids": tokens()[0], "attention_mask": masks(kind)}
    full = model(**encoding).logits
    if kind != "none":
        assert not torch.allclose(full, model(tokens()[0]).logits, atol=1e-3)  # the mask does something
    plan = [2, 0, 1, 2, 0, 2]
    seen: list[tuple[int, list[int], Tensor]] = []
    model.run(encoding, leave(plan, seen))
    assert [(index, rows) for index, rows, _ in seen] == [(0, [0, 1, 2, 3, 4, 5]), (1, [0, 2, 3, 5]), (2, [0, 3, 5])]
    for index, rows, logits in seen:
        for row, output in zip(rows, logits, strict=True):
            torch.testing.assert_close(output, full[row, index], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", list(OTHERS))
@torch.no_grad()
def test_run_equals_the_full_pass_of_other_encoders(name: str) -> None:
    model, (ids, mask) = multi_exit(name, exits=[1, 2, 4]), tokens()
    full = model(ids, mask).logits
    seen: list[tuple[int, list[int], Tensor]] = []
    model.run({"input_ids": ids, "attention_mask": mask}, leave([0, 2, 1, 2, 0, 2], seen))
    assert [len(rows) for _, rows, _ in seen] == [6, 4, 3]
    for index, rows, logits in seen:
        torch.testing.assert_close(logits, full[rows, index], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("name", [*ENCODERS, *OTHERS])
@torch.no_grad()
def test_rows_without_padding_need_no_mask(name: str, pooling: str) -> None:
    model, (ids, mask) = multi_exit(name, pooling=pooling), tokens()
    alike = LENGTHS == LENGTH
    full = model(ids[alike], mask[alike]).logits
    seen: list[tuple[int, list[int], Tensor]] = []
    model.run({"input_ids": ids[alike]}, leave([1, 3], seen))
    assert [rows for _, rows, _ in seen] == [[0, 1], [0, 1], [1], [1]]
    for index, rows, logits in seen:
        torch.testing.assert_close(logits, full[rows, index], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_rows_that_left_are_in_no_later_layer() -> None:
    model, (ids, mask) = multi_exit(exits=[1, 2, 4]), tokens()
    computed: list[tuple[int, int]] = []
    for index, layer in enumerate(model.layers):
        layer.intermediate.register_forward_hook(lambda _m, _a, out, k=index + 1: computed.append((k, len(out))))
    hooks = [len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in model.layers]
    encoding = {"input_ids": ids, "attention_mask": mask}
    model.run(encoding, leave([0, 2, 1, 2, 0, 0], []))
    assert computed == [(1, 6), (2, 3), (3, 2), (4, 2)]
    computed.clear()
    model.run(encoding, leave([0, 1, 1, 0, 0, 0], []))
    assert computed == [(1, 6), (2, 2)]  # nobody is left for the others
    assert [len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in model.layers] == hooks
    computed.clear()
    model(ids, mask)
    assert computed == [(1, 6), (2, 6), (3, 6), (4, 6)]


@torch.no_grad()
def test_a_single_row_and_an_empty_batch() -> None:
    model, (ids, mask) = multi_exit("modernbert"), tokens()
    full = model(ids[:1], mask[:1]).logits
    seen: list[tuple[int, list[int], Tensor]] = []
    model.run({"input_ids": ids[:1], "attention_mask": mask[:1]}, leave([2], seen))
    assert [index for index, _, _ in seen] == [0, 1, 2]
    torch.testing.assert_close(seen[2][2], full[:, 2])
    model.run({"input_ids": ids[:0], "attention_mask": mask[:0]}, lambda *_: pytest.fail("there is no row"))


@torch.no_grad()
def test_an_error_in_the_rule_leaves_no_hook_behind() -> None:
    model, (ids, _) = multi_exit(), tokens()
    with pytest.raises(ZeroDivisionError):
        model.run({"input_ids": ids}, lambda *_: 1 / 0)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.layers)
