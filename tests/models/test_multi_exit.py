"""Multi-exit encoders against the stock ones: exits on top of their hidden states, rows that really leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
)

from dial.models import MultiExitConfig, MultiExitForSequenceClassification, elasticbert_key_map
from dial.models.exits import find_final_norm, find_layers

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "pad_token_id": 0}
SIZES |= {"intermediate_size": 24, "initializer_range": 0.3, "max_position_embeddings": 24}
SPECIAL = {"cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "minilm": {**SIZES, "model_type": "bert", "num_attention_heads": 4},
    "roberta": {**SIZES, "type_vocab_size": 1},
    "electra": {**SIZES, "embedding_size": 8},
    "distilbert": {"vocab_size": 40, "dim": 16, "n_layers": 4, "n_heads": 2, "hidden_dim": 24, "pad_token_id": 0}
    | {"initializer_range": 0.3, "max_position_embeddings": 24},
    "modernbert": {**SIZES, **SPECIAL, "local_attention": 4, "global_attn_every_n_layers": 2, "norm_eps": 1e-3},
}
OTHERS: dict[str, dict[str, Any]] = {  # further shapes of arguments and norms; not all of them have sdpa
    "xlm-roberta-xl": SIZES,
    "roberta-prelayernorm": SIZES,
    "eurobert": {**SIZES, "head_dim": 8},
    "mpnet": SIZES,
    "deberta-v2": {**SIZES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm"},
}
PRE_NORM = ["modernbert", "xlm-roberta-xl", "roberta-prelayernorm", "eurobert"]
ROWS, LENGTH = 6, 9
LENGTHS = torch.tensor([9, 4, 6, 2, 7, 9])


def settings_of(name: str) -> dict[str, Any]:
    return {"model_type": name, **(ENCODERS | OTHERS)[name]}


def stock(name: str, **settings: Any) -> Any:
    """A random stock encoder, without pooler."""
    values = settings_of(name) | settings
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    pooler = (
        {}
        if name in ("electra", "distilbert", "modernbert", "deberta-v2", "eurobert")
        else {"add_pooling_layer": False}
    )
    encoder = AutoModel.from_config(config, **pooler).eval()
    for weight in encoder.parameters():
        if weight.ndim == 1:  # norms are all alike at first
            weight.data += 0.3 * torch.randn_like(weight)
    return encoder


def multi_exit(name: str = "bert", exits: list[int] | None = None, **settings: Any) -> Any:
    config = MultiExitConfig(encoder=settings_of(name), exits=exits, num_labels=3, **settings)
    return MultiExitForSequenceClassification(config).eval()


def tokens() -> tuple[Tensor, Tensor]:
    ids = torch.randint(3, 40, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(LENGTH) < LENGTHS.unsqueeze(1)).long()
    return ids * mask, mask


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


# ---- all exits in one pass ----


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


# ---- rows that leave ----


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


@torch.no_grad()
def test_the_first_exits_share_the_weights() -> None:
    model, (ids, mask) = multi_exit("modernbert", exits=[1, 3, 4]), tokens()
    part = model.first_exits(2)
    assert len(part.layers) == 3 and len(part.heads) == 2 and len(model.layers) == 4 and len(model.heads) == 3
    torch.testing.assert_close(part(ids, mask).logits, model(ids, mask).logits[:, :2])
    model.layers[0].mlp.Wi.weight.zero_()
    torch.testing.assert_close(part(ids, mask).logits, model(ids, mask).logits[:, :2])


# ---- from pretrained models, and as folders ----


@torch.no_grad()
def test_a_classifier_with_pooler_becomes_the_last_exit(tmp_path: Path) -> None:
    classifier = BertForSequenceClassification(
        BertConfig(**SIZES, num_labels=3, id2label={0: "x", 1: "y", 2: "z"})
    ).eval()
    classifier.save_pretrained(tmp_path)
    ids, mask = tokens()
    for source in (classifier, str(tmp_path)):
        model = MultiExitForSequenceClassification.from_encoder(source, [2, 4], pooler=True).eval()
        torch.testing.assert_close(model(ids, mask).logits[:, 1], classifier(ids, mask).logits)
        assert model.config.id2label == {0: "x", 1: "y", 2: "z"} and model.config.exits == [2, 4]
        assert not torch.equal(model.heads[0].linear.weight, model.heads[1].linear.weight)
    plain = MultiExitForSequenceClassification.from_encoder(classifier).eval()
    assert plain.config.exits == [1, 2, 3, 4]
    assert not torch.equal(plain.heads[-1].linear.weight, classifier.classifier.weight)  # that one reads pooled states
    cut = MultiExitForSequenceClassification.from_encoder(classifier, pooler=True, layers=3)
    assert len(cut.layers) == 3 and cut.config.exits == [1, 2, 3]
    assert not torch.equal(cut.heads[-1].dense.weight, classifier.bert.pooler.dense.weight)  # of layer 4, not 3


@torch.no_grad()
def test_robertas_head_becomes_the_last_exit() -> None:
    config = AutoConfig.for_model("roberta", **ENCODERS["roberta"], num_labels=2)
    classifier = AutoModelForSequenceClassification.from_config(config).eval()
    model = MultiExitForSequenceClassification.from_encoder(classifier, pooler=True).eval()
    torch.testing.assert_close(model(*tokens()).logits[:, -1], classifier(*tokens()).logits)
    other = MultiExitForSequenceClassification.from_encoder(classifier, label_names=[], pooler=True)
    assert other.heads[-1].linear.weight.shape == (1, 16)  # another task: a new head


@torch.no_grad()
def test_exits_of_a_multi_exit_model_are_kept() -> None:
    first = multi_exit(exits=[2, 4], intermediate=[5, 6, 7, 8], embedding_rank=3)
    model = MultiExitForSequenceClassification.from_encoder(first, [1, 2, 4]).eval()
    torch.testing.assert_close(model(*tokens()).logits[:, 1:], first(*tokens()).logits)
    cut = MultiExitForSequenceClassification.from_encoder(first, layers=2, exits=[2]).eval()
    torch.testing.assert_close(cut(*tokens()).logits, first(*tokens()).logits[:, :1])
    assert cut.config.intermediate == [5, 6]
    assert MultiExitForSequenceClassification.from_encoder(first, pooling="mean").config.exits == [2, 4]
    assert MultiExitForSequenceClassification.from_encoder(first, layers=2).config.exits == [2]
    pooled = multi_exit(exits=[2, 4], pooler=True)
    fewer = MultiExitForSequenceClassification.from_encoder(pooled, [4]).eval()
    torch.testing.assert_close(fewer(*tokens()).logits, pooled(*tokens()).logits[:, 1:])


@pytest.mark.parametrize("name", list(ENCODERS))
@torch.no_grad()
def test_it_goes_through_the_auto_classes(name: str, tmp_path: Path) -> None:
    slender = {"heads": [1, 2, 1, 2], "intermediate": [5, 24, 7, 1], "embedding_rank": 3}
    model = multi_exit(name, exits=[2, 4], pooler=True, **slender)
    whole = multi_exit(name, exits=[2, 4], pooler=True)
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in whole.parameters())
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, MultiExitConfig) and config.exits == [2, 4] and config.pooler and config.num_labels == 3
    assert [config.heads, config.intermediate, config.embedding_rank] == list(slender.values())
    assert config.num_hidden_layers == 4 and config.hidden_size == 16 and config.pad_token_id == 0
    again, report = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    encoding = dict(zip(("input_ids", "attention_mask"), tokens(), strict=True))
    assert torch.equal(again.eval()(**encoding).logits, model(**encoding).logits)
    eager = AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert eager.encoder.config._attn_implementation == "eager"
    torch.testing.assert_close(eager(**encoding).logits, model(**encoding).logits, atol=1e-5, rtol=1e-5)


def test_the_folder_of_a_cut_model_is_read_to_an_exit(tmp_path: Path) -> None:
    model = multi_exit(exits=[1, 3, 4], heads=[1, 2, 1, 2])
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    config.num_hidden_layers = 3
    assert config.exits == [1, 3] and config.heads == [1, 2, 1]
    part = AutoModelForSequenceClassification.from_pretrained(tmp_path, config=config).eval()
    with torch.no_grad():
        torch.testing.assert_close(part(*tokens()).logits, model(*tokens()).logits[:, :2])
    with pytest.raises(ValueError, match=r"`layers` of a multi-exit model must be one of its exits 1, 3, but got 2\."):
        config.num_hidden_layers = 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exits": [0, 4]}, r"`exits` must be layers from 1 to 4, but got \[0, 4\]"),
        ({"exits": [2, 5]}, r"`exits` must be layers from 1 to 4, but got \[2, 5\]"),
        ({"exits": []}, r"`exits` must be layers from 1 to 4, but got \[\]"),
        ({"exits": [1, 3]}, r"`exits` must end with the last layer 4, .* but got \[1, 3\]; add 4\."),
        ({"exits": [3, 1, 4]}, r"`exits` must be in ascending order, each layer once, but got \[3, 1, 4\]"),
        ({"exits": [3, 4, 4]}, r"`exits` must be in ascending order"),
        ({"heads": [1, 0, 1, 1]}, r"`heads` must be one number from 1 to 2 for each of 4 layers, but got"),
        ({"heads": [1, 3, 1, 1]}, r"`heads` must be one number from 1 to 2"),
        ({"intermediate": [3, 3]}, r"`intermediate` must be one number from 1 to 24 for each of 4 layers"),
        ({"embedding_rank": 0}, r"`embedding_rank` must be from 1 to 16, but got 0"),
        ({"encoder": {"hidden_size": 3}}, r"`encoder` must have a `model_type` that transformers knows .* got None"),
        ({"encoder": {"model_type": "t5"}}, r"`encoder` must be an encoder whose layers run in sequence.* got 't5'"),
        ({"encoder": {"model_type": "multi_exit"}}, r"`encoder` must have a `model_type`"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiExitConfig(**{"encoder": settings_of("bert"), **settings})


@pytest.mark.parametrize("name", ["albert", "xlnet", "bilstm"])
def test_an_encoder_without_layers_in_sequence_is_refused(name: str) -> None:
    sizes = {"bilstm": {"vocab_size": 30}, "xlnet": {"vocab_size": 40, "d_model": 16, "n_layer": 4, "n_head": 2}}
    config = MultiExitConfig(encoder={"model_type": name, **sizes.get(name, SIZES)})
    with pytest.raises(ValueError, match=r"`encoder` must .* take another encoder"):
        MultiExitForSequenceClassification(config)(*tokens())


@pytest.mark.parametrize("layers", [0, 5])
def test_layers_outside_the_depth_are_refused(layers: int) -> None:
    with pytest.raises(ValueError, match=f"`layers` must be from 1 to 4, but got {layers}"):
        MultiExitForSequenceClassification.from_encoder(stock("bert"), layers=layers)


# ---- ElasticBERT ----


def elastic_weights(classifiers: int = 0) -> dict[str, Tensor]:
    """A synthetic checkpoint of the published form: BERT's layers, a pooler after each, heads of the pretraining."""
    encoder = BertModel(BertConfig(**SIZES), add_pooling_layer=False)
    weights = {f"elasticbert.{key}": value for key, value in encoder.state_dict().items()}
    weights["elasticbert.embeddings.position_ids"] = torch.arange(24).unsqueeze(0)
    for layer in range(4):
        weights[f"elasticbert.encoder.pooler.{layer}.dense.weight"] = torch.randn(16, 16)
        weights[f"elasticbert.encoder.pooler.{layer}.dense.bias"] = torch.randn(16)
    for index in range(classifiers):
        weights[f"classifiers.{index}.weight"] = torch.randn(3, 16)
        weights[f"classifiers.{index}.bias"] = torch.randn(3)
    weights["cls.predictions.bias"] = torch.randn(40)
    return weights


@pytest.mark.parametrize(("prefix", "classifiers"), [("elasticbert.", 4), ("", 4), ("elasticbert.", 2)])
@torch.no_grad()
def test_elasticberts_keys_are_mapped(prefix: str, classifiers: int) -> None:
    weights = elastic_weights(classifiers)
    model = multi_exit("bert", pooler=True)
    given = {key.replace("elasticbert.", prefix): value for key, value in weights.items()}
    missing, unexpected = model.load_state_dict(elasticbert_key_map(given), strict=False)
    assert not unexpected and len(missing) == 2 * (4 - classifiers)
    encoder = BertModel(BertConfig(**SIZES), add_pooling_layer=False).eval()
    encoder.load_state_dict({k.removeprefix("elasticbert."): v for k, v in weights.items()}, strict=False)
    ids, mask = tokens()
    states = encoder(ids, mask, output_hidden_states=True).hidden_states
    logits = model(ids, mask).logits
    for index in range(classifiers):
        layer = 4 - classifiers + index
        pooler = [weights[f"elasticbert.encoder.pooler.{layer}.dense.{part}"] for part in ("weight", "bias")]
        pooled = torch.tanh(states[layer + 1][:, 0] @ pooler[0].T + pooler[1])
        expected = pooled @ weights[f"classifiers.{index}.weight"].T + weights[f"classifiers.{index}.bias"]
        torch.testing.assert_close(logits[:, layer], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("safe", [True, False])
@torch.no_grad()
def test_a_published_elasticbert_is_read_from_its_folder(safe: bool, tmp_path: Path) -> None:
    import json

    from safetensors.torch import save_file

    weights = elastic_weights(classifiers=4)
    settings = {**SIZES, "model_type": "elasticbert", "max_output_layers": 4, "num_output_layers": 1}
    settings |= {"architectures": ["ElasticBertModel"], "position_embedding_type": "absolute", "num_labels": 3}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    if safe:
        save_file(weights, tmp_path / "model.safetensors")
    else:
        torch.save(weights, tmp_path / "pytorch_model.bin")
    reference = multi_exit("bert", pooler=True)
    reference.load_state_dict(elasticbert_key_map(weights))
    model = MultiExitForSequenceClassification.from_encoder(str(tmp_path), [2, 4], ["a", "b", "c"], pooler=True).eval()
    torch.testing.assert_close(model(*tokens()).logits, reference(*tokens()).logits[:, [1, 3]])
    plain = MultiExitForSequenceClassification.from_encoder(str(tmp_path), label_names=["a", "b"], layers=2).eval()
    assert plain.heads[0].dense is None and len(plain.layers) == 2 and plain.config.encoder["model_type"] == "bert"
    ours = plain(*tokens(), output_hidden_states=True).hidden_states
    torch.testing.assert_close(ours[2], reference(*tokens(), output_hidden_states=True).hidden_states[2])
    plain.save_pretrained(tmp_path / "made")
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "made").config.exits == [1, 2]


def test_other_weights_are_no_elasticbert(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`state_dict` must be that of an ElasticBERT .* but it has distilbert\.x"):
        elasticbert_key_map({"distilbert.x": torch.zeros(1)})
    CONFIG_MAPPING["elasticbert"](**SIZES).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`path` must have model\.safetensors or pytorch_model\.bin"):
        MultiExitForSequenceClassification.from_encoder(str(tmp_path))
    weights = elastic_weights()
    del weights["elasticbert.encoder.layer.1.output.dense.weight"]
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"not those of its configuration, first .*layer\.1\.output\.dense\.weight"):
        MultiExitForSequenceClassification.from_encoder(str(tmp_path))
