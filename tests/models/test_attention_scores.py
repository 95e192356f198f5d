"""Scores read by hooks, against the attention that the stock model gives out itself."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
)

from dial.models.attention_scores import AttentionScores
from dial.models.exits import find_layers

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
CONFIGS = [
    BertConfig(**SIZES, initializer_range=0.5),
    RobertaConfig(**SIZES, initializer_range=0.5),
    ElectraConfig(**SIZES, embedding_size=8, initializer_range=0.5),
    MPNetConfig(**SIZES, initializer_range=0.5),
    DistilBertConfig(vocab_size=50, dim=16, n_layers=3, n_heads=2, hidden_dim=32, initializer_range=0.5),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_their_softmax_is_the_model_s_attention(config, implementation) -> None:
    if config.model_type == "mpnet" and implementation == "sdpa":
        implementation = "eager"  # it has no other
    model = AutoModel.from_config(config, attn_implementation=implementation).eval()
    reference = AutoModel.from_config(config, attn_implementation="eager").eval()
    reference.load_state_dict(model.state_dict())
    if config.model_type == "mpnet":  # shared by all layers; 0.5 would hardly show beside the products
        with torch.no_grad():
            for each in (model, reference):
                each.encoder.relative_attention_bias.weight.copy_(torch.arange(64.0).view(32, 2).sin() * 2)
    ids = torch.randint(5, 50, (2, 7))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    layers = list(model.get_submodule(find_layers(model, 3)))
    reader = AttentionScores(layers, [1, 3], "path")
    with reader.watch():
        model(input_ids=ids, attention_mask=mask)
    expected = reference(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
    hidden = (1 - mask)[:, None, None, :].bool()
    for number in (1, 3):
        scores = reader.scores(number).masked_fill(hidden, float("-inf"))
        torch.testing.assert_close(scores.softmax(-1), expected[number - 1], atol=1e-6, rtol=1e-5)
        assert reader.heads(number) == 2
    before = reader.scores(1)
    model(input_ids=ids.flip(0), attention_mask=mask)  # the hooks are gone
    assert torch.equal(reader.scores(1), before)


def test_other_families_are_refused() -> None:
    config = ModernBertConfig(**{**SIZES, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2})
    layers: nn.ModuleList = AutoModel.from_config(config).layers
    with pytest.raises(ValueError, match=r"`teacher` must be an encoder .* but got ModernBertEncoderLayer; .*weight 0"):
        AttentionScores(layers, [1], "teacher")
