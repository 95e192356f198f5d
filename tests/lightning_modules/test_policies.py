"""Policies against one backward pass for each exit."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.policies import ExitPolicy, GradientEquilibrium, JointSum, LayerWeighted, TwoStage
from lightning_modules.policies.policy import Parts

DEPTH = 4
EXITS = [[1, 2, 3, 4], [2, 4], [3, 4], [4], [1, 4]]


class Toy(nn.Module):
    """Embeddings, four layers, heads at some of them."""

    def __init__(self, exits: Sequence[int]) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict(
            {
                "embeddings": nn.Embedding(7, 5),
                "layers": nn.ModuleList([nn.Linear(5, 5) for _ in range(DEPTH)]),
                "norm": nn.LayerNorm(5),
            }
        )
        self.heads = nn.ModuleList([nn.Linear(5, 3) for _ in exits])
        self.exits = list(exits)

    def losses(self, ids: Tensor, labels: Tensor) -> Tensor:
        hidden, found = self.encoder["embeddings"](ids), []
        for number, layer in enumerate(self.encoder["layers"], 1):
            hidden = torch.tanh(layer(hidden)) + hidden
            if number in self.exits:
                seen = self.encoder["norm"](hidden) if number == DEPTH else hidden
                head = self.heads[self.exits.index(number)]
                found.append(nn.functional.cross_entropy(head(seen), labels))
        return torch.stack(found)

    @property
    def parts(self) -> Parts:
        return Parts.of(self.encoder, list(self.encoder["layers"]), list(self.heads), self.exits)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return torch.randint(7, (6,)), torch.randint(3, (6,))


def of_each_exit(toy: Toy, batch: tuple[Tensor, Tensor]) -> list[dict[str, Tensor]]:
    """Gradients of every parameter by one backward pass for each exit; zeros where none arrives."""
    found = []
    for exit_index in range(len(toy.exits)):
        toy.zero_grad()
        toy.losses(*batch)[exit_index].backward()
        found.append({n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in toy.named_parameters()})
    toy.zero_grad()
    return found


def layer_of(name: str) -> int | None:
    """Layer of a parameter, embeddings being in the first and the last norm in the last; None for heads."""
    if name.startswith("heads"):
        return None
    if "layers" in name:
        return int(name.split(".")[2]) + 1
    return 1 if "embeddings" in name else DEPTH


@pytest.mark.parametrize("exits", EXITS)
@pytest.mark.parametrize("count", ["exits", "layers"])
def test_equilibrium_is_eq_3_for_any_set_of_exits(exits: list[int], count: str, batch) -> None:
    toy = Toy(exits)
    separate = of_each_exit(toy, batch)
    policy = GradientEquilibrium(count)
    policy.attach(toy.parts)
    policy.loss(toy.losses(*batch)).backward()
    policy.balance()
    for name, parameter in toy.named_parameters():
        layer, expected = layer_of(name), torch.zeros_like(parameter)
        for exit_layer, gradients in zip(exits, separate, strict=True):
            if layer is None:
                expected += gradients[name]
            elif exit_layer >= layer:
                divisor = len([e for e in exits if e >= layer]) if count == "exits" else DEPTH - layer + 1
                expected += gradients[name] / divisor
        torch.testing.assert_close(parameter.grad, expected, atol=1e-6, rtol=1e-5)


def test_the_released_code_is_the_paper_only_where_every_layer_has_an_exit() -> None:
    def divisors(count: str, exits: list[int]) -> list[int]:
        return [GradientEquilibrium(count).divisor(k, exits, DEPTH) for k in range(1, DEPTH + 1)]

    assert divisors("exits", [1, 2, 3, 4]) == divisors("layers", [1, 2, 3, 4]) == [4, 3, 2, 1]
    assert divisors("exits", [3, 4]) == [2, 2, 2, 1] and divisors("layers", [3, 4]) == [4, 3, 2, 1]


def test_equilibrium_holds_when_gradients_are_accumulated(batch) -> None:
    once, twice = Toy([1, 2, 3, 4]), Toy([1, 2, 3, 4])
    twice.load_state_dict(once.state_dict())
    for toy, passes in ((once, 1), (twice, 3)):
        policy = GradientEquilibrium()
        policy.attach(toy.parts)
        for _ in range(passes):
            policy.loss(toy.losses(*batch)).backward()
        policy.balance()
    for one, three in zip(once.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(three.grad, 3 * one.grad)


def test_equilibrium_refuses_another_count() -> None:
    with pytest.raises(ValueError, match=r"`policy.count` must be one of exits, layers, but got 'paper'"):
        GradientEquilibrium("paper")


@pytest.mark.parametrize("exits", EXITS)
def test_joint_and_weighted_sums(exits: list[int]) -> None:
    losses = torch.rand(len(exits))
    total = above = below = 0.0
    for layer, value in zip(exits, losses.tolist(), strict=True):
        total, above, below = total + value, above + layer * value, below + layer
    joint, weighted = JointSum(), LayerWeighted()
    for policy in (joint, weighted):
        policy.attach(Toy(exits).parts)
    assert joint.loss(losses).item() == pytest.approx(total, rel=1e-6)
    assert weighted.loss(losses).item() == pytest.approx(above / below, rel=1e-6)


def test_two_stages_freeze_what_they_do_not_train(batch) -> None:
    toy, policy = Toy([1, 3, 4]), TwoStage(share=0.25)
    policy.attach(toy.parts)
    assert policy.stages() == [0.25, 0.75]
    losses = toy.losses(*batch)
    names = {id(p): name for name, p in toy.named_parameters()}

    policy.enter(0)
    assert policy.loss(losses) is losses[-1] or torch.equal(policy.loss(losses), losses[-1])
    assert {names[id(p)] for p in policy.frozen()} == {f"heads.{i}.{n}" for i in (0, 1) for n in ("weight", "bias")}
    policy.enter(1)
    assert policy.loss(losses).item() == pytest.approx(sum(losses.tolist()), rel=1e-6)
    assert {names[id(p)] for p in policy.frozen()} == {n for n in names.values() if not n.startswith("heads")}


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_two_stages_refuse_an_empty_stage(share: float) -> None:
    with pytest.raises(ValueError, match=r"`policy\.share` must lie between 0 and 1"):
        TwoStage(share)


def test_parts_know_what_lies_below_and_above() -> None:
    toy = Toy([2, 4])
    below, above = toy.parts.below, toy.parts.above
    assert [id(p) for p in below] == [id(p) for p in toy.encoder["embeddings"].parameters()]
    assert [id(p) for p in above] == [id(p) for p in toy.encoder["norm"].parameters()]
    assert len(toy.parts.backbone) == len(list(toy.encoder.parameters()))


def test_other_policies_freeze_nothing_and_have_one_stage() -> None:
    for policy in (JointSum(), LayerWeighted(), GradientEquilibrium()):
        assert isinstance(policy, ExitPolicy) and policy.frozen() == [] and policy.stages() == [1.0]
