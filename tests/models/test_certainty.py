"""Models that learn to exit: certainty beside the logits, dropping rows, folders, costs."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from dial.models import MultiExitForSequenceClassification
from tests.models.encoders import encoder, tokens


@pytest.fixture(params=["bert", "modernbert"])  # with the encoder's own norms, and with one for each exit
def model(request: pytest.FixtureRequest) -> MultiExitForSequenceClassification:
    made = MultiExitForSequenceClassification.from_encoder(
        encoder(request.param), label_names=["a", "b"], certainty=True
    )
    torch.nn.init.normal_(made.certainty.linear.weight)
    for head in made.heads:
        torch.nn.init.normal_(head.linear.weight)
        if head.norm is not None:
            torch.nn.init.normal_(head.norm.weight)
    return made.eval()


@torch.no_grad()
def test_one_layer_reads_the_hidden_state_of_every_exit(model: MultiExitForSequenceClassification) -> None:
    output = model(**tokens(), output_hidden_states=True)
    assert output.certainty.shape == (3, 2)
    weight, bias = model.certainty.linear.weight[0], model.certainty.linear.bias[0]
    for index, head in enumerate(model.heads):
        seen = output.hidden_states[index + 1][:, 0]
        seen = seen if head.norm is None else head.norm(seen)
        for row in range(3):
            expected = sum(float(w * x) for w, x in zip(weight, seen[row], strict=True)) + float(bias)
            assert output.certainty[row, index].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@torch.no_grad()
def test_run_gives_what_the_whole_pass_gives(model: MultiExitForSequenceClassification) -> None:
    encoding, whole = tokens(rows=4), model(**tokens(rows=4))
    seen: list[tuple[int, list[int]]] = []

    def go_on(index: int, rows: Tensor, logits: Tensor, certainty: Tensor) -> Tensor:
        torch.testing.assert_close(certainty, whole.certainty[rows, index], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(logits, whole.logits[rows, index], atol=1e-5, rtol=1e-4)
        seen.append((index, rows.tolist()))
        return rows != 1

    model.run(encoding, go_on, certainty=True)
    assert seen == [(0, [0, 1, 2, 3]), (1, [0, 2, 3])]
    model.run(encoding, lambda index, rows, logits: rows >= 0)  # who does not ask need not take it


def test_only_a_detached_certainty_leaves_the_encoder_alone(model: MultiExitForSequenceClassification) -> None:
    for detached in (False, True):
        model.zero_grad()
        model.certainty_detached = detached
        model(**tokens()).certainty.sum().backward()
        gradients = [p.grad for p in model.encoder.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
        assert bool(gradients) != detached
        assert model.certainty.linear.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_it_is_saved_copied_and_added(model: MultiExitForSequenceClassification, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    expected = model(**tokens()).certainty
    torch.testing.assert_close(again(**tokens()).certainty, expected)
    fewer = MultiExitForSequenceClassification.from_encoder(again, exits=[2])
    torch.testing.assert_close(fewer.eval()(**tokens()).certainty[:, 0], expected[:, 1])
    without = MultiExitForSequenceClassification.from_encoder(again, certainty=False)
    assert without.certainty is None and without.eval()(**tokens()).certainty is None
    without.add_certainty()
    assert without.config.certainty and without(**tokens()).certainty.shape == (3, 2)
