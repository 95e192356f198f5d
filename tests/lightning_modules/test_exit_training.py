"""Training of exits that learn when to exit, and in bf16, on a tiny BERT of three layers."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from dial.tiers.loading import load_tier, save_tier
from lightning_modules import MultiExit
from lightning_modules.policies import GradientEquilibrium, LayerWeighted, TwoStage

LABELS = ["negative", "positive"]
SGD = partial(torch.optim.SGD, lr=0.05)


@pytest.fixture(scope="session")
def encoder(make_tiny_bert) -> Path:
    return make_tiny_bert(layers=3, seed=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


@pytest.fixture(scope="session")
def number(make_tiny_bert) -> Path:
    return make_tiny_bert(layers=3, seed=1, labels=("score",))


@pytest.fixture
def make(encoder) -> Callable[..., MultiExit]:
    """Function: a module, attached to a stand-in for a trainer, that keeps what it logs in `logged`."""

    def build(**settings: object) -> MultiExit:
        module = MultiExit(**{"path": str(encoder), "max_length": 32, "label_names": LABELS, **settings})
        module._trainer = SimpleNamespace(world_size=1, datamodule=None, callbacks=[])
        module.logged = {}
        module.log = lambda name, value, **_: module.logged.update({name: value.item()})
        module.on_fit_start()
        return module.eval()

    return build


def batch_of(module: MultiExit, labels: Tensor) -> dict:
    ids = torch.randint(5, 20, (len(labels), 6), generator=torch.Generator().manual_seed(0))
    encoding = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    return {
        "sample_id": torch.arange(len(labels)),
        "label": labels,
        "encodings": {module.tier.encoding_key: encoding},
    }


def naive(module: MultiExit, batch: dict) -> list[float]:
    """Mean squared error of the certainty at each exit, by a loop over rows."""
    output = module.tier.outputs(next(iter(batch["encodings"].values())))
    found = []
    for stage in range(output.logits.shape[1]):
        errors = []
        for row, label in enumerate(batch["label"].tolist()):
            values = output.logits[row, stage].tolist()
            if isinstance(label, float):
                target = 1 - math.tanh(abs(values[0] - label))
            else:
                target = float(max(range(len(values)), key=values.__getitem__) == label)
            errors.append((1 / (1 + math.exp(-output.certainty[row, stage].item())) - target) ** 2)
        found.append(sum(errors) / len(errors))
    return found


def test_the_certainty_s_error_is_added_to_each_exit_s_loss(make) -> None:
    module = make(certainty="joint", policy=LayerWeighted())
    batch = batch_of(module, torch.tensor([0, 1, 1, 0]))
    with torch.no_grad():
        loss, logits = module.training_step(batch, 0).item(), module(batch["encodings"])
        own = [torch.nn.functional.cross_entropy(logits[:, e], batch["label"]).item() for e in range(3)]
        errors = naive(module, batch)
    expected = sum((e + 1) * (a + b) for e, (a, b) in enumerate(zip(own, errors, strict=True))) / 6
    assert loss == pytest.approx(expected, rel=1e-5)
    assert module.logged["train/certainty"] == pytest.approx(sum(errors) / 3, rel=1e-5)


def test_numbers_have_a_certainty_too(make, number) -> None:
    module = make(path=str(number), label_names=[], metrics=["pearson"], certainty="joint")
    batch = batch_of(module, torch.tensor([0.5, 4.0, 2.25]))
    with torch.no_grad():
        loss, outputs = module.training_step(batch, 0).item(), module(batch["encodings"])[..., 0]
        own = [((outputs[:, e] - batch["label"]) ** 2).mean().item() for e in range(3)]
        assert loss == pytest.approx(sum(own) + sum(naive(module, batch)), rel=1e-5)


def test_detached_it_leaves_every_gradient_but_its_own_as_it_was(make) -> None:
    without = make(policy=GradientEquilibrium())
    gradients = {}
    for certainty in ("joint", "detached"):
        module = make(certainty=certainty, policy=GradientEquilibrium())
        module.load_state_dict(without.state_dict(), strict=False)
        batch = batch_of(module, torch.tensor([0, 1, 1, 0]))
        module.training_step(batch, 0).backward()
        gradients[certainty] = {n: p.grad for n, p in module.named_parameters()}
        assert gradients[certainty]["network.tiers.0.model.certainty.linear.weight"].abs().sum() > 0
    without.training_step(batch, 0).backward()
    for name, parameter in without.named_parameters():
        torch.testing.assert_close(gradients["detached"][name], parameter.grad, msg=name)
        # What an exit answers is the same function; only the encoder hears of its certainty.
        same = torch.equal(gradients["joint"][name], gradients["detached"][name])
        unused = parameter.grad.abs().sum() == 0
        assert same == ("heads" in name or bool(unused)), name


def test_a_model_that_learnt_to_exit_goes_on_and_others_start(make, tmp_path) -> None:
    first = make(certainty="joint")
    save_tier(tmp_path / "tier", first.tier, {})
    again = make(path=str(tmp_path / "tier"))
    assert again.tier.model_scores == ("learned",) and again._trained and not again.tier.model.certainty_detached
    plain = make()
    save_tier(tmp_path / "plain", plain.tier, {})
    started = make(path=str(tmp_path / "plain"), certainty="detached")
    assert started.tier.model_scores == ("learned",) and not started._trained and started.tier.model.certainty_detached
    assert make(path=str(tmp_path / "plain"))._trained
    assert load_tier(str(tmp_path / "plain"), "plain", LABELS).model_scores == ()


def test_two_stages_train_it_in_both(make) -> None:
    policy = TwoStage()
    module = make(certainty="joint", policy=policy)
    batch = batch_of(module, torch.tensor([0, 1, 1, 0]))
    names = {id(p): n for n, p in module.named_parameters()}
    for stage in (0, 1):
        policy.enter(stage)
        assert not any("certainty" in names[id(p)] for p in policy.frozen())
        module.zero_grad()
        module.training_step(batch, 0).backward()
        assert module.tier.model.certainty.linear.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("hidden_weight", [0.0, 0.5])
def test_bf16_trains_as_full_precision_does(make, fit, make_tiny_bert, encoder, hidden_weight) -> None:
    """Exits, certainty and the losses of hidden states compute in fp32 under bf16-mixed; the encoder does not."""
    teacher = make_tiny_bert(layers=3, seed=5)
    seen: dict[str, list[dict[str, float]]] = {}
    kinds: list[torch.dtype] = []
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(2)
        module = MultiExit(
            path=str(encoder), max_length=32, label_names=LABELS, teacher=str(teacher), distillation_weight=0.5,
            hidden_weight=hidden_weight, certainty="joint", policy=GradientEquilibrium(), optimizer=SGD,
        )  # fmt: skip
        logged: list[dict[str, float]] = []
        module.log = lambda name, value, logged=logged, **_: logged.append({name: value.item()})
        module.tier.model.layers[0].register_forward_hook(
            lambda _m, _a, out: kinds.append((out if isinstance(out, Tensor) else out[0]).dtype)
        )
        hooked = module.tier.model.heads[0].register_forward_hook(lambda _m, _a, out: kinds.append(out.dtype))
        fit(module, steps=3, precision=precision)
        hooked.remove()
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in module.parameters())
        seen[precision] = logged
    assert [list(entry) for entry in seen["32-true"]] == [list(entry) for entry in seen["bf16-mixed"]]
    assert ("train/hidden" in {name for entry in seen["bf16-mixed"] for name in entry}) == bool(hidden_weight)
    for full, half in zip(seen["32-true"], seen["bf16-mixed"], strict=True):
        assert list(half.values()) == pytest.approx(list(full.values()), rel=0.03)
    assert set(kinds[1::2]) == {torch.float32}  # what exits say
