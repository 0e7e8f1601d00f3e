"""What one training does to a model, and what it leaves alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supertickets.errors import InputError, RunError
from supertickets.training import Callback, TrainConfig, TrainResult, TrainState, train
from supertickets.training.checkpoint import digest
from tests.pipeline.training_job import RandomDrop, TinyLoader, make_net, score, without_times


def simple(**options: Any) -> TrainConfig:
    return TrainConfig(**{"epochs": 2, "lr": 0.05, "weight_decay": 0.0, **options})


class Spy(Callback):
    """Calls a function after every optimizer step."""

    def __init__(self, look: Any) -> None:
        self.look = look

    def step_end(self, state: TrainState) -> None:
        self.look(state)


def test_equals_a_plain_pytorch_loop_bit_for_bit() -> None:
    config = TrainConfig(epochs=3, lr=0.05, nesterov=True, schedule="constant")
    model, plain, loader = make_net(), make_net(), TinyLoader()
    result = train(model, loader, config)

    optimizer = torch.optim.SGD(
        plain.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    for epoch in range(3):
        loader.set_epoch(epoch)
        summed = 0.0
        for images, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(plain(images), labels)
            loss.backward()
            optimizer.step()
            summed += loss.item() * len(labels)
        assert result.history[epoch]["loss"] == pytest.approx(summed / 52, rel=1e-12)
    assert digest(model.state_dict()) == digest(plain.state_dict())


def test_history_has_a_row_per_epoch() -> None:
    result = train(
        make_net(), TinyLoader(), simple(epochs=3), evaluate=score, callbacks=[RandomDrop()]
    )
    assert [row["epoch"] for row in result.history] == [1, 2, 3]
    assert [row["lr"] for row in result.history] == pytest.approx([0.05, 0.0375, 0.0125])
    assert [row["dropped"] for row in result.history] == [7, 14, 21]
    columns = {
        "epoch",
        "loss",
        "lr",
        "seconds",
        "validation_accuracy",
        "validation_loss",
        "dropped",
    }
    assert all(row.keys() == columns for row in result.history)
    assert all(type(value) in (int, float) for row in result.history for value in row.values())
    assert result.wall_s == sum(row["seconds"] for row in result.history)


def test_it_learns() -> None:
    result = train(make_net(), TinyLoader(400), simple(epochs=8), evaluate=score)
    assert result.history[-1]["validation_accuracy"] > 0.9


@pytest.mark.parametrize("accumulate", [2, 3, 7, 50])
def test_accumulation_is_one_large_batch(accumulate: int) -> None:
    # 52 samples in batches of 8 end with a batch of 4, and with a group that is not full.
    parts, whole = make_net(bn=False), make_net(bn=False)
    split = train(parts, TinyLoader(52, 8), simple(accumulate=accumulate))
    large = train(whole, TinyLoader(52, 8 * accumulate), simple())
    for first, second in zip(parts.parameters(), whole.parameters(), strict=True):
        # The same sum in another order.
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)
    for one, other in zip(split.history, large.history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_clipping_bounds_the_gradient_norm() -> None:
    norms: dict[float, list[float]] = {}
    for clip in (0.0, 0.2):
        seen: list[float] = norms.setdefault(clip, [])

        def look(state: TrainState, seen: list[float] = seen) -> None:
            gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
            seen.append(torch.stack([g.square().sum() for g in gradients]).sum().sqrt().item())

        train(make_net(), TinyLoader(), simple(clip_norm=clip), callbacks=[Spy(look)])
    assert max(norms[0.0]) > 0.3
    assert max(norms[0.2]) == pytest.approx(0.2, rel=1e-4)


def test_label_smoothing_is_in_the_loss() -> None:
    model, loader = make_net(), TinyLoader(8)
    images, labels = next(iter(loader))
    expected = F.cross_entropy(model(images), labels, label_smoothing=0.3).item()
    result = train(make_net(), loader, simple(epochs=1, label_smoothing=0.3))
    assert result.history[0]["loss"] == pytest.approx(expected, rel=1e-6)


def test_bfloat16_computes_low_and_keeps_float32() -> None:
    seen: list[torch.dtype] = []
    model = make_net()
    model[0].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    result = train(model, TinyLoader(), simple(precision="bfloat16"))
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    full = train(make_net(), TinyLoader(), simple())
    assert result.history[1]["loss"] == pytest.approx(full.history[1]["loss"], rel=0.05)


def test_only_the_given_parameters_are_trained() -> None:
    model = make_net()
    model[5].weight.requires_grad_(False)
    model[1].eval()
    flags = [p.requires_grad for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    during: list[list[bool]] = []
    spy = Spy(lambda state: during.append([p.requires_grad for p in state.model.parameters()]))

    train(model, TinyLoader(), simple(), parameters=iter([model[5].weight]), callbacks=[spy])

    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"5.weight", "1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert during[0] == [False, False, False, True, False]
    assert [p.requires_grad for p in model.parameters()] == flags
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())


def test_same_seed_same_bits_and_no_trace_in_the_global_generator() -> None:
    def go(seed: int) -> str:
        model = make_net(dropout=0.5)
        train(model, TinyLoader(), simple(), seed=seed)
        return digest(model.state_dict())

    torch.manual_seed(123)
    state = torch.get_rng_state()
    first = go(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(456)
    assert go(1) == first
    assert go(2) != first


class Scripted:
    """Gives planned accuracies, and remembers what it was called on."""

    def __init__(self, accuracies: list[float]) -> None:
        self.accuracies = accuracies
        self.models: list[str] = []

    def __call__(self, model: nn.Module) -> Mapping[str, float]:
        self.models.append(digest(model.state_dict()))
        return {"validation_accuracy": self.accuracies[len(self.models) - 1]}


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [
        ([0.1, 0.7, 0.5, 0.7], 2),
        ([0.9, 0.2, 0.3, 0.1], 1),
        ([float("nan"), 0.2, 0.1, float("nan")], 2),
    ],
)
@pytest.mark.parametrize("ema_decay", [0.0, 0.8])
def test_the_best_epoch_is_kept(accuracies: list[float], best: int, ema_decay: float) -> None:
    scripted, model, drop = Scripted(accuracies), make_net(), RandomDrop()
    config = simple(epochs=4, keep="best", ema_decay=ema_decay, bn_recalibration_batches=1)
    result = train(model, TinyLoader(), config, evaluate=scripted, callbacks=[drop])
    assert result.best_epoch == best
    assert digest(model.state_dict()) == scripted.models[best - 1]
    assert drop.dropped == best * 7
    assert len(set(scripted.models)) == 4


def test_the_last_epoch_is_kept_unless_asked_otherwise() -> None:
    scripted, model = Scripted([0.9, 0.1]), make_net()
    result = train(model, TinyLoader(), simple(ema_decay=0.9), evaluate=scripted)
    assert result.best_epoch == 1
    assert digest(model.state_dict()) == scripted.models[1]


def test_moving_average_is_what_is_scored_and_kept() -> None:
    weights: list[Tensor] = []
    start = make_net()[5].weight.detach()
    model = make_net()
    spy = Spy(lambda state: weights.append(state.model[5].weight.detach().clone()))
    train(model, TinyLoader(), simple(ema_decay=0.5), callbacks=[spy])
    average = start
    for update, weight in enumerate(weights):
        decay = min(0.5, (1 + update) / (10 + update))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(model[5].weight.detach(), average)
    assert not torch.equal(model[5].weight, weights[-1])


def test_average_and_recalibration_leave_the_training_itself_alone() -> None:
    plain: list[str] = []
    kept: list[str] = []
    for digests, options in (
        (plain, {}),
        (kept, {"ema_decay": 0.9, "bn_recalibration_batches": 2}),
    ):
        spy = Spy(lambda state, seen=digests: seen.append(digest(state.model.state_dict())))
        train(make_net(), TinyLoader(), simple(**options), evaluate=score, callbacks=[spy])
    assert plain == kept


def test_an_own_loss_replaces_the_built_in_one() -> None:
    def loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return model(images).square().mean()

    result = train(make_net(), TinyLoader(), simple(epochs=6), loss=loss)
    assert result.history[-1]["loss"] < 0.2 * result.history[0]["loss"]
    with pytest.raises(InputError, match="label_smoothing belongs to the built-in loss"):
        train(make_net(), TinyLoader(), simple(label_smoothing=0.1), loss=loss)


class Diary(Callback):
    """Writes down every call."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def begin(self, state: TrainState) -> None:
        self.lines.append(f"begin of {state.config.epochs} x {state.steps_per_epoch}")

    def epoch_begin(self, state: TrainState) -> None:
        figures = ",".join(sorted(state.figures))
        self.lines.append(f"epoch {state.epoch} training={state.model.training} after {figures}")

    def step_end(self, state: TrainState) -> None:
        assert state.loss > 0
        self.lines.append(f"step {state.step}")

    def epoch_end(self, state: TrainState) -> Mapping[str, float]:
        self.lines.append(f"end {state.epoch} {','.join(state.figures)}")
        return {"pages": len(self.lines)}


def test_callbacks_see_the_training_in_order() -> None:
    diary = Diary()

    def evaluate(model: nn.Module) -> Mapping[str, float]:
        diary.lines.append("evaluate")
        return {"score": 1.0}

    train(make_net(), TinyLoader(20), simple(accumulate=2), evaluate=evaluate, callbacks=[diary])
    assert diary.lines == [
        "begin of 2 x 2",
        "epoch 0 training=True after ",
        "step 1",
        "step 2",
        "end 0 epoch,loss,lr",
        "evaluate",
        "epoch 1 training=True after epoch,loss,lr,pages,score",
        "step 3",
        "step 4",
        "end 1 epoch,loss,lr",
        "evaluate",
    ]


class Spoil(Callback):
    """Makes a weight infinite after a number of steps."""

    def __init__(self, after: int) -> None:
        self.after = after

    def step_end(self, state: TrainState) -> None:
        if state.step == self.after:
            with torch.no_grad():
                state.model[5].bias[1] = float("inf")  # type: ignore[index, union-attr, operator]


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (9, "train: the loss is nan in epoch 2 of 3, step 3 of 7; .* still holds epoch 1"),
        (14, "train: '5.bias' is not finite in epoch 2 of 3, step 7 of 7; .* still holds epoch 1"),
        (
            3,
            "the loss is nan in epoch 1 of 3, step 4 of 7; a lower lr or clip_norm may help$",
        ),
    ],
)
def test_divergence_names_the_place_and_keeps_the_checkpoint(
    tmp_path: Path, after: int, message: str
) -> None:
    def go(spoil: int) -> TrainResult:
        spoiled = [Spoil(spoil)]
        config = simple(epochs=3)
        return train(make_net(), TinyLoader(), config, callbacks=spoiled, checkpoint=tmp_path)

    with pytest.raises(RunError, match=message):
        go(after)
    whole = train(make_net(), TinyLoader(), simple(epochs=3), callbacks=[Spoil(-1)])
    assert without_times(go(-1).history) == without_times(whole.history)


def test_an_infinite_gradient_is_not_clipped_into_weights() -> None:
    def loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return model(images).square().sum().mul(0).sqrt()  # finite, with a NaN gradient

    model = make_net()
    weight = model[5].weight.detach().clone()
    with pytest.raises(RunError, match="the gradient norm is nan in epoch 1 of 2, step 1 of 7"):
        train(model, TinyLoader(), simple(clip_norm=1.0), loss=loss)
    assert torch.equal(model[5].weight, weight)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_bad_arguments_are_named() -> None:
    model, loader = make_net(), TinyLoader()
    with pytest.raises(InputError, match="keep='best' needs evaluate"):
        train(model, loader, simple(keep="best"))
    with pytest.raises(InputError, match="needs 'validation_accuracy'; figures are a, epoch, loss"):
        train(model, loader, simple(keep="best"), evaluate=lambda m: {"a": 1.0})
    with pytest.raises(InputError, match="loader gives no batches"):
        train(model, TinyLoader(0), simple())
    with pytest.raises(InputError, match="2 of the given parameters are not in the model"):
        train(model, loader, simple(), parameters=make_net()[5].parameters())
    with pytest.raises(InputError, match="no parameter to optimise"):
        train(model, loader, simple(), parameters=[])
    with pytest.raises(InputError, match="'random-drop' is used twice"):
        train(model, loader, simple(), callbacks=[RandomDrop(), RandomDrop()])
    with pytest.raises(InputError, match="two figures of an epoch are named 'loss'"):
        train(model, loader, simple(), evaluate=lambda m: {"loss": 1.0})
    with pytest.raises(InputError, match="two figures of an epoch are named 'seconds'"):
        train(model, loader, simple(), evaluate=lambda m: {"seconds": 1.0})
    for narrow in (nn.Linear(36, 2), nn.Linear(36, 8 * 3)):
        outputs = nn.Sequential(nn.Flatten(), narrow, nn.Unflatten(1, (-1, 2)), nn.Flatten(0, 1))
        with pytest.raises(InputError, match=r"gives \[\d+, 2\] for 8 images with labels up to 2"):
            train(outputs, loader, simple())
