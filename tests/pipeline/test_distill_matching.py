"""Teacher, rho, loss and look-ahead: each against its definition."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supertickets.distill.board import Entry
from supertickets.distill.lookahead import lookahead_gradient
from supertickets.distill.loss import distillation_loss, soft_cross_entropy
from supertickets.distill.matching import MatchingNetwork, choose, match, quiet_forward
from supertickets.errors import InputError
from supertickets.seeds import generator

CLASSES, IMAGES = 5, 4


def make_entries(count: int = 3) -> list[Entry]:
    rng = generator(1, "entries")
    return [
        Entry(
            (number, number),
            0.5,
            10,
            images=torch.randn(IMAGES, 2, 3, 3, generator=rng),
            outputs=torch.randn(IMAGES, CLASSES, generator=rng).softmax(1),
        )
        for number in range(count)
    ]


def make_student() -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Dropout(0.5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, CLASSES),
    )
    rng = generator(2, "student")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=rng))
    return model.train()


def make_network(seed: int = 3) -> MatchingNetwork:
    network = MatchingNetwork(IMAGES, CLASSES)
    with torch.no_grad():
        network.linear.weight.copy_(
            torch.randn(network.linear.weight.shape, generator=generator(seed, "theta"))
        )
        network.linear.bias.fill_(0.3)
    return network


@pytest.mark.parametrize("seed", range(4))
def test_rho_is_that_of_the_chosen_entry_with_its_sign(seed: int) -> None:
    entries, student, network = make_entries(), make_student(), make_network(seed)
    with quiet_forward(student):
        choice = match(network, student, entries)
        images = torch.cat([entry.images for entry in entries if entry.images is not None])
        own = student(images).softmax(1).view(3, -1)
    theta, bias = network.linear.weight[0], network.linear.bias[0]
    z = [
        (theta @ (own[i] - entry.outputs.flatten()) + bias).item()
        for i, entry in enumerate(entries)
        if entry.outputs is not None
    ]
    assert choice.index == z.index(max(z))
    assert float(choice.rho) == pytest.approx(1 / (1 + torch.tensor(-max(z)).exp().item()))
    assert not choice.rho.requires_grad


def test_matching_leaves_no_trace() -> None:
    student = make_student()
    before = copy.deepcopy(student.state_dict())
    modes = [module.training for module in student.modules()]
    state = torch.get_rng_state()
    with quiet_forward(student):
        match(make_network(), student, make_entries())
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in student.modules()] == modes
    for key, value in student.state_dict().items():
        assert torch.equal(value, before[key]), key
    student(torch.randn(4, 2, 3, 3))  # the statistics are kept again
    assert not torch.equal(student[1].running_mean, before["1.running_mean"])


def test_a_new_network_takes_the_best_entry_at_half_weight() -> None:
    student = make_student()
    with quiet_forward(student):
        choice = match(MatchingNetwork(IMAGES, CLASSES), student, make_entries())
    assert choice.index == 0
    assert float(choice.rho) == 0.5


def test_a_nan_is_no_best_match() -> None:
    network, entries = make_network(), make_entries()
    assert entries[0].outputs is not None
    entries[0].outputs[0, 0] = float("nan")
    student = make_student()
    with quiet_forward(student):
        choice = match(network, student, entries)
    assert choice.index != 0
    assert torch.isfinite(choice.rho)


def test_fixed_teachers() -> None:
    entries = [Entry(path, 0.5, 1) for path in ((0, 1, 2), (1, 1, 1), (2, 2, 2))]
    rng, cpu = generator(0, "teacher"), torch.device("cpu")
    assert choose("top1", (1, 1, 1), entries, generator=rng, device=cpu).index == 0
    assert choose("l1", (2, 1, 1), entries, generator=rng, device=cpu).index == 1
    assert choose("l1", (0, 2, 2), entries, generator=rng, device=cpu).index == 0
    drawn = {
        choose("random", (0,) * 3, entries, generator=rng, device=cpu).index for _ in range(50)
    }
    assert drawn == {0, 1, 2}
    assert float(choose("random", (0,) * 3, entries, generator=rng, device=cpu).rho) == 0.5
    with pytest.raises(InputError, match="the board is empty"):
        choose("top1", (0,), [], generator=rng, device=cpu)
    with pytest.raises(InputError, match="every entry needs images and outputs"):
        match(make_network(), make_student(), entries)


def test_rho_zero_is_plain_training_bit_for_bit() -> None:
    logits = torch.randn(6, CLASSES, generator=generator(0, "logits"))
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    targets = torch.randn(6, CLASSES, generator=generator(1, "targets")).softmax(1)

    def gradient(rho: float | None) -> Tensor:
        leaf = logits.clone().requires_grad_()
        plain = F.cross_entropy(leaf, labels, label_smoothing=0.1)
        loss = plain
        if rho is not None:
            soft = soft_cross_entropy(leaf, targets)
            loss = distillation_loss(plain, soft, torch.tensor(rho))
        loss.backward()
        assert leaf.grad is not None
        return torch.cat([loss.detach().reshape(1), leaf.grad.flatten()])

    assert torch.equal(gradient(0.0), gradient(None))
    assert not torch.equal(gradient(0.5), gradient(None))


def test_the_weights_are_as_written_and_rho_gets_no_gradient() -> None:
    rho = torch.tensor(0.8, requires_grad=True)
    cross, soft = (torch.tensor(v, requires_grad=True) for v in (3.0, 5.0))
    distillation_loss(cross, soft, rho).backward()
    assert cross.grad is not None
    assert soft.grad is not None
    assert cross.grad.item() == pytest.approx(0.6)
    assert soft.grad.item() == pytest.approx(0.4)
    assert rho.grad is None


def test_a_teacher_like_the_student_gives_its_entropy_and_gets_no_gradient() -> None:
    logits = torch.randn(7, CLASSES, generator=generator(0, "logits")).double()
    teacher = logits.softmax(1).requires_grad_()
    student = logits.clone().requires_grad_()
    entropy = -(teacher * teacher.log()).sum(1).mean()
    loss = soft_cross_entropy(student, teacher)
    # log_softmax is taken in float32, whose rounding is 6e-8
    assert loss.item() == pytest.approx(entropy.item(), rel=1e-6)
    loss.backward()
    assert teacher.grad is None
    # the student is at the minimum
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-7
    soft = soft_cross_entropy(logits, (logits / 4).softmax(1), temperature=4)
    flat = (logits / 4).softmax(1)
    assert soft.item() == pytest.approx(16 * -(flat * flat.log()).sum(1).mean().item(), rel=1e-6)


class _Problem:
    """A student, a teacher's outputs, and images that were held out; all in float64."""

    def __init__(self, teacher: str) -> None:
        rng = generator(5, "problem")
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, CLASSES))
        self.model.double()
        rule = torch.randn(8, CLASSES, generator=rng, dtype=torch.float64)
        self.x1, self.x2 = (
            torch.randn(40, 8, generator=rng, dtype=torch.float64) for _ in range(2)
        )
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=rng).double())
        right = F.one_hot((self.x1 @ rule).argmax(1), CLASSES).double()
        self.y2 = (self.x2 @ rule).argmax(1)
        self.targets = right if teacher == "right" else right.roll(1, dims=1)

    def distillation(self) -> Tensor:
        return -(self.targets * self.model(self.x1).log_softmax(1)).sum(1).mean()

    def held_out(self) -> Tensor:
        return F.cross_entropy(self.model(self.x2), self.y2)

    def gradient(self, rho: Tensor, lr: float) -> Tensor:
        parameters = list(self.model.parameters())
        return lookahead_gradient(parameters, self.distillation, self.held_out, rho, lr=lr)


def test_the_closed_form_agrees_with_finite_differences_and_with_autograd() -> None:
    problem, lr = _Problem("right"), 0.7
    theta = torch.linspace(-1, 1, 6, dtype=torch.float64, requires_grad=True)
    features = torch.randn(6, generator=generator(9, "features"), dtype=torch.float64)
    weights = dict(problem.model.named_parameters())
    gradients = torch.autograd.grad(problem.distillation(), list(weights.values()))

    def ahead(theta: Tensor) -> Tensor:
        rho = torch.sigmoid(theta @ features)
        moved = {n: w - lr * rho * g for (n, w), g in zip(weights.items(), gradients, strict=True)}
        logits = torch.func.functional_call(problem.model, moved, (problem.x2,))
        return F.cross_entropy(logits, problem.y2)

    (exact,) = torch.autograd.grad(ahead(theta), theta)
    rho = torch.sigmoid(theta @ features)
    before = copy.deepcopy(problem.model.state_dict())
    (slope,) = torch.autograd.grad(rho, theta)
    closed = problem.gradient(rho.detach(), lr) * slope
    for key, value in problem.model.state_dict().items():
        assert torch.equal(value, before[key]), key
    torch.testing.assert_close(closed, exact, rtol=1e-9, atol=0)
    step = 1e-5
    for index in range(6):
        with torch.no_grad():
            up, down = theta.clone(), theta.clone()
            up[index] += step
            down[index] -= step
            difference = (ahead(up) - ahead(down)) / (2 * step)
        assert closed[index].item() == pytest.approx(difference.item(), rel=1e-3)


@pytest.mark.parametrize(("teacher", "rises"), [("right", True), ("shuffled", False)])
def test_a_right_teacher_raises_rho_and_a_wrong_one_lowers_it(teacher: str, rises: bool) -> None:
    problem = _Problem(teacher)
    z = torch.zeros((), dtype=torch.float64, requires_grad=True)
    descent = torch.optim.SGD([z], lr=10.0)
    for _ in range(200):
        rho = torch.sigmoid(z)
        (slope,) = torch.autograd.grad(rho, z)
        z.grad = problem.gradient(rho.detach(), 1.0) * slope
        descent.step()
    rho = torch.sigmoid(z).item()
    assert (rho > 0.7) if rises else (rho < 0.3)
