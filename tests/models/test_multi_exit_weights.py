"""Where multi-exit encoders have their weights from, and what they leave in a folder; ElasticBERT among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
)

from dial.models import MultiExitConfig, MultiExitForSequenceClassification, elasticbert_key_map
from tests.models.multi_exits import ENCODERS, SIZES, multi_exit, settings_of, stock, tokens


@torch.no_grad()
def test_the_first_exits_share_the_weights() -> None:
    model, (ids, mask) = multi_exit("modernbert", exits=[1, 3, 4]), tokens()
    part = model.first_exits(2)
    assert len(part.layers) == 3 and len(part.heads) == 2 and len(model.layers) == 4 and len(model.heads) == 3
    torch.testing.assert_close(part(ids, mask).logits, model(ids, mask).logits[:, :2])
    model.layers[0].mlp.Wi.weight.zero_()
    torch.testing.assert_close(part(ids, mask).logits, model(ids, mask).logits[:, :2])


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
