"""The BiLSTM against an unrolled cell, and what padding must not change."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from dial.models import BiLSTMConfig, BiLSTMForSequenceClassification, bilstm


@pytest.fixture
def model() -> BiLSTMForSequenceClassification:
    config = BiLSTMConfig(vocab_size=20, embedding_size=5, hidden_size=4, classifier_size=6, num_labels=3)
    return BiLSTMForSequenceClassification(config).eval()


def unrolled(model: BiLSTMForSequenceClassification, words: list[int]) -> Tensor:
    """Logits of one text, cell by cell."""
    weights = dict(model.bilstm.lstm.named_parameters())
    inputs = [model.bilstm.embeddings.weight[word] for word in words]
    for layer in range(2):
        outputs = []
        for suffix, steps in (("", range(len(words))), ("_reverse", reversed(range(len(words))))):
            hidden = cell = torch.zeros(4)
            states = [torch.zeros(0)] * len(words)
            for step in steps:
                gates = weights[f"weight_ih_l{layer}{suffix}"] @ inputs[step] + weights[f"bias_ih_l{layer}{suffix}"]
                gates = gates + weights[f"weight_hh_l{layer}{suffix}"] @ hidden + weights[f"bias_hh_l{layer}{suffix}"]
                write, forget, new, show = gates.split(4)
                cell = forget.sigmoid() * cell + write.sigmoid() * new.tanh()
                hidden = show.sigmoid() * cell.tanh()
                states[step] = hidden
            outputs.append(states)
        inputs = [torch.cat(pair) for pair in zip(*outputs, strict=True)]
    text = torch.cat([inputs[-1][:4], inputs[0][4:]])  # forward state after the last word, backward after the first
    return model.classifier(torch.relu(model.dense(text)))


def encode(texts: list[list[int]], width: int) -> dict[str, Tensor]:
    ids = torch.tensor([text + [0] * (width - len(text)) for text in texts], dtype=torch.long).view(len(texts), width)
    mask = torch.tensor([[1] * len(t) + [0] * (width - len(t)) for t in texts], dtype=torch.long).view(
        len(texts), width
    )
    return {"input_ids": ids, "attention_mask": mask}


def test_it_has_the_papers_number_of_parameters() -> None:
    model = BiLSTMForSequenceClassification(BiLSTMConfig(num_labels=2))
    assert sum(parameter.numel() for parameter in model.parameters()) == 685_022


def test_it_equals_an_unrolled_cell(model: BiLSTMForSequenceClassification) -> None:
    texts = [[3, 4, 5, 6], [7], [8, 9, 3]]
    with torch.no_grad():
        logits = model(**encode(texts, 4)).logits
        for row, text in zip(logits, texts, strict=True):
            torch.testing.assert_close(row, unrolled(model, text), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("width", [4, 5, 40])
def test_padding_never_changes_a_logit(model: BiLSTMForSequenceClassification, width: int) -> None:
    texts = [[3, 4, 5, 6], [7], [], [8, 9, 3]]
    with torch.no_grad():
        padded = model(**encode(texts, width)).logits
        alone = torch.cat([model(**encode([text], len(text))).logits for text in texts])
        rubbish = encode(texts, width)
        rubbish["input_ids"] = rubbish["input_ids"].where(rubbish["attention_mask"].bool(), torch.tensor(11))
        rubbish["input_ids"][2, 0] = 0  # an empty text is read as one padding token
        torch.testing.assert_close(padded, alone, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(padded, model(**rubbish).logits, atol=1e-6, rtol=1e-5)


def test_training_and_answering_read_alike(model: BiLSTMForSequenceClassification) -> None:
    """Rows are packed in training; on a CPU rows of different lengths are answered without packing."""
    for texts in ([[3, 4, 5, 6], [7], [], [8, 9, 3]], [[3, 4], [7, 8]]):
        encoding = encode(texts, max(map(len, texts)))
        with torch.no_grad():
            answered, trained = model.eval()(**encoding).logits, model.train()(**encoding).logits
        torch.testing.assert_close(answered, trained, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("texts", [[[3, 4, 5, 6], [7]], [[3, 4], [7, 8]], [[3, 4, 5]]])
def test_without_bf16_instructions_rows_are_read_in_float32(model, texts, learning, monkeypatch) -> None:
    """oneDNN refuses an LSTM in bf16 on processors with AVX2 alone, of padded, whole and single rows."""
    monkeypatch.setattr(bilstm, "has_bf16", lambda: False)
    rows = encode(texts, max(map(len, texts)))
    reader = model.train(learning).bilstm
    with torch.set_grad_enabled(learning):
        expected = reader(**rows).pooler_output
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = reader(**rows).pooler_output
            assert torch.is_autocast_enabled("cpu")
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
    if learning:
        found.sum().backward()
        assert all(weight.grad.dtype == torch.float32 for weight in reader.lstm.parameters())


def test_rows_of_one_length_are_read_by_the_layers_as_they_stand(model, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError("unpacked")

    monkeypatch.setattr(type(model.bilstm), "_without_packing", never)
    with torch.no_grad():
        model(**encode([[3, 4], [7, 8]], 2))
        with pytest.raises(AssertionError, match="unpacked"):
            model(**encode([[3, 4], [7]], 2))


def test_a_batch_of_empty_texts_works(model: BiLSTMForSequenceClassification) -> None:
    empty = torch.zeros((2, 0), dtype=torch.long)
    with torch.no_grad():
        logits = model(input_ids=empty, attention_mask=empty).logits
        torch.testing.assert_close(logits[0], unrolled(model, [0]), atol=1e-6, rtol=1e-5)


def test_without_mask_every_position_counts(model: BiLSTMForSequenceClassification) -> None:
    with torch.no_grad():
        torch.testing.assert_close(
            model(torch.tensor([[3, 0]])).logits[0], unrolled(model, [3, 0]), atol=1e-6, rtol=1e-5
        )


def test_it_goes_through_the_auto_classes(model: BiLSTMForSequenceClassification, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, BiLSTMConfig) and config.classifier_size == 6 and config.num_labels == 3
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    encoding = encode([[3, 4, 5], [6]], 3)
    with torch.no_grad():
        assert torch.equal(again(**encoding).logits, model(**encoding).logits)
        encoder = AutoModel.from_pretrained(tmp_path).eval()
        assert torch.equal(encoder(**encoding).pooler_output, model.bilstm(**encoding).pooler_output)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_a_trace_of_one_length_serves_others(model: BiLSTMForSequenceClassification) -> None:
    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.model(input_ids, attention_mask=attention_mask).logits

    one, other = encode([[3, 4, 5]], 3), encode([[6, 7, 8, 9, 3], [4]], 5)
    traced = torch.jit.trace(Logits(), (one["input_ids"], one["attention_mask"]))
    with torch.no_grad():
        torch.testing.assert_close(traced(*other.values()), model(**other).logits, atol=1e-6, rtol=1e-5)


def test_every_weight_learns(model: BiLSTMForSequenceClassification) -> None:
    model.train()
    model(**encode([[3, 4], [5]], 2), labels=torch.tensor([0, 2])).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    assert not model.bilstm.embeddings.weight.grad[0].any()  # padding stays where it is
