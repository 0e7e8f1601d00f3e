"""Training a supernet with board and teacher, as a user would, and step by step."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chi2
from torch import Tensor, optim

from supertickets.distill import SupernetConfig, SupernetTraining
from supertickets.distill.matching import quiet_forward
from supertickets.errors import InputError
from supertickets.seeds import generator
from supertickets.spaces import ChoiceSupernet
from supertickets.training import Callback, TrainConfig, TrainState, train
from supertickets.training.checkpoint import digest, snapshot
from tests.pipeline.choice_blocks import block_space
from tests.pipeline.supernet_job import Stripes, config, slice_of, training
from tests.pipeline.test_distributed import launch

SPACE = block_space()


def started(**options: Any) -> tuple[ChoiceSupernet, SupernetTraining, TrainState]:
    """Begin a search whose steps the test makes itself; there is no warm-up."""
    options = {"warmup": 0.0, "rescore_epochs": 0, **options}
    supernet = SPACE.supernet(generator(0, "net"))
    search = SupernetTraining(SPACE, config(**options), *slice_of(), classes=10)
    state = TrainState(
        model=supernet,
        optimizer=optim.SGD(supernet.parameters(), lr=0.1),
        config=TrainConfig(epochs=10, batch_size=16),
        device=torch.device("cpu"),
        seed=3,
        steps_per_epoch=5,
    )
    search.begin(state)
    search.epoch_begin(state)
    return supernet, search, state


def batch(number: int = 0) -> tuple[Tensor, Tensor]:
    loader = Stripes()
    loader.set_epoch(number)
    return next(iter(loader))


def run_step(search: SupernetTraining, state: TrainState, number: int) -> Tensor:
    loss = search.loss(state.model, *batch(number))
    state.optimizer.zero_grad()
    loss.backward()
    state.optimizer.step()
    state.step += 1
    search.step_end(state)
    return loss.detach()


def copies(model: ChoiceSupernet) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("teacher", ["meta", "top1", "none"])
def test_a_step_changes_its_path_alone(teacher: str) -> None:
    supernet, search, state = started(teacher=teacher, meta_interval=1)
    for number in range(12):
        before = copies(supernet)
        run_step(search, state, number)
        path = search.path_at(number)
        own = {f"layers.{layer}.{op}." for layer, op in enumerate(path)}
        for key, value in supernet.state_dict().items():
            shared = key.startswith(("stem.", "head."))
            if not shared and not any(key.startswith(prefix) for prefix in own):
                assert torch.equal(value, before[key]), (path, key)
        moved = {k for k, v in supernet.state_dict().items() if not torch.equal(v, before[k])}
        assert all(any(k.startswith(p) for k in moved) for p in ("stem.", "head.")), path
    assert len(search.board) > 3


def test_statistics_count_the_student_once_and_the_teacher_never() -> None:
    supernet, search, state = started(teacher="meta", meta_interval=1)
    for number in range(6):
        run_step(search, state, number)
    assert int(supernet.stem[1].num_batches_tracked) == 6
    random_state = torch.get_rng_state()
    run_step(search, state, 6)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_choosing_and_looking_ahead_leave_the_student_alone() -> None:
    supernet, search, state = started(teacher="meta", meta_interval=1)
    for number in range(4):
        run_step(search, state, number)
    before = copies(supernet)
    theta = search.matching.linear.weight.detach().clone()
    loss = search.loss(supernet, *batch(4))
    for key, value in before.items():
        if "running" not in key and "num_batches" not in key:
            assert torch.equal(supernet.state_dict()[key], value), key
    learned = search.matching.linear.weight.detach().clone()
    assert not torch.equal(learned, theta)
    for parameter in search.matching.parameters():
        parameter.grad = None
    loss.backward()
    # rho is a number in the loss: only the look-ahead teaches the matching network
    assert all(parameter.grad is None for parameter in search.matching.parameters())


def test_the_matching_network_waits_for_its_interval() -> None:
    _, search, state = started(teacher="meta", meta_interval=4)
    changed = []
    for number in range(9):
        before = search.matching.linear.weight.detach().clone()
        run_step(search, state, number)
        if not torch.equal(search.matching.linear.weight, before):
            changed.append(number)
    assert changed == [4, 8]  # at step 0 there is no board yet


def test_an_entry_keeps_the_outputs_of_its_own_path() -> None:
    supernet, search, state = started(teacher="top1")
    for number in range(8):
        images, labels = batch(number)
        search.loss(supernet, images, labels)
        state.step += 1
        search.step_end(state)
        entry = next((e for e in search.board if e.path == supernet.path), None)
        assert entry is not None
        assert entry.images is not None
        assert entry.outputs is not None
        with torch.no_grad(), quiet_forward(supernet):
            own = supernet(images).softmax(dim=1)[:4]
        assert torch.equal(entry.images, images[:4])
        torch.testing.assert_close(entry.outputs, own, rtol=0, atol=0)
        accuracy = (supernet(images).argmax(1) == labels).float().mean()
        assert entry.seen > 1 or entry.score == pytest.approx(accuracy.item())


def test_without_a_teacher_it_is_plain_training() -> None:
    _, search, state = started(teacher="none")
    plain = SPACE.supernet(generator(0, "net"))
    optimizer = optim.SGD(plain.parameters(), lr=0.1)
    for number in range(6):
        images, labels = batch(number)
        plain.set_path(search.path_at(number))
        loss = F.cross_entropy(plain(images), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert torch.equal(run_step(search, state, number), loss.detach())
    for key, value in plain.state_dict().items():
        assert torch.equal(state.model.state_dict()[key], value), key


def test_no_board_and_no_teacher_during_the_warm_up() -> None:
    supernet = SPACE.supernet(generator(0, "net"))
    search, _ = training(supernet, config(warmup=0.5, teacher="top1"), epochs=4)
    assert min(event.step for event in search.board.events) >= 2 * search.state.steps_per_epoch
    assert search.board.refused["warm-up"] == 2 * search.state.steps_per_epoch


def test_operations_are_drawn_by_the_prior() -> None:
    prior = {"k1": 0.5, "k3": 0.3, "skip": 0.2, "k5": 0.1}
    _, search, _ = started(prior=prior)
    draws = 2000
    counts = [
        Counter(path[layer] for path in map(search.path_at, range(draws))) for layer in (0, 1)
    ]
    for count, weights in zip(counts, ((0.5, 0.3, 0.2), (0.75, 0.25)), strict=True):
        statistic = sum(
            (count[index] - draws * weight) ** 2 / (draws * weight)
            for index, weight in enumerate(weights)
        )
        assert statistic < chi2.isf(1e-4, len(weights) - 1), (count, weights)
    _, uniform, _ = started()
    even = Counter(path[0] for path in map(uniform.path_at, range(draws)))
    assert sum((even[i] - draws / 3) ** 2 / (draws / 3) for i in range(3)) < chi2.isf(1e-4, 2)


def test_the_budget_holds_for_what_is_trained_and_kept() -> None:
    cheap, dear = SPACE.reachable()
    low, high = cheap + (dear - cheap) // 4, dear - (dear - cheap) // 4
    _, search, state = started(min_macs=low, max_macs=high)
    for number in range(20):
        run_step(search, state, number)
        assert low <= SPACE.macs(search.supernet.path) <= high
    assert all(low <= entry.macs <= high for entry in search.board)
    with pytest.raises(InputError, match=f"{cheap:,} to {dear:,}"):
        started(max_macs=cheap - 1)


def test_scores_of_the_slice_end_the_luck_of_a_batch() -> None:
    _, search, state = started(teacher="none", rescore_epochs=1)
    for number in range(5):
        run_step(search, state, number)
    seen = dict(search._latest)
    before = copies(state.model)
    search.epoch_begin(state)
    fresh = search.score(search.board.paths)
    assert [entry.score for entry in search.board] == fresh
    assert all(torch.equal(v, before[k]) for k, v in state.model.state_dict().items())
    differences = [seen[path] - search.score([path])[0] for path, _ in search._latest]
    if len(seen) == len(search._latest):
        assert search._easier == pytest.approx(sum(differences) / len(differences))


class Stop(Callback):
    """Kills a training before an epoch."""

    def epoch_begin(self, state: TrainState) -> None:
        if state.epoch == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize("teacher", ["meta", "random"])
def test_a_search_goes_on_where_it_was_killed(teacher: str, tmp_path: Path) -> None:
    options = config(
        teacher=teacher,
        warmup=0.2,
        meta_interval=2,
        meta_lr=0.1,
        tau_paths=5,
        confirm=teacher == "random",
    )
    whole = SPACE.supernet(generator(0, "net"))
    search, result = training(whole, options, epochs=6)
    killed = SPACE.supernet(generator(0, "net"))
    with pytest.raises(KeyboardInterrupt):
        training(killed, options, epochs=6, checkpoint=tmp_path, extra=[Stop()])
    resumed = SPACE.supernet(generator(0, "net"))
    again, continued = training(
        resumed, options, epochs=6, checkpoint=tmp_path, extra=[type("Stop", (Callback,), {})()]
    )
    assert digest(snapshot(resumed.state_dict())) == digest(snapshot(whole.state_dict()))
    assert digest(snapshot(again.state_dict())) == digest(snapshot(search.state_dict()))
    for row, other in zip(continued.history, result.history, strict=True):
        assert {k: v for k, v in row.items() if k != "seconds"} == {
            k: v for k, v in other.items() if k != "seconds"
        }
    assert {"board_best", "rho", "teachers", "tau"} <= result.history[-1].keys()


def test_two_processes_train_the_same_path_and_keep_the_same_board(tmp_path: Path) -> None:
    from tests.pipeline import supernet_job

    launch(2, supernet_job.__file__, str(tmp_path), cwd=tmp_path)
    first, second = (torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2))
    assert digest(first) == digest(second)
    assert first["never_sampled"]
    assert first["untouched"]
    assert len(first["search"]["board"]["entries"]) > 1


def test_what_does_not_fit_is_named() -> None:
    search = SupernetTraining(SPACE, config(), *slice_of(), classes=10)
    supernet = SPACE.supernet(generator(0, "net"))
    with pytest.raises(InputError, match="needs it among the callbacks"):
        train(supernet, Stripes(), TrainConfig(epochs=1), loss=search.loss, progress=False)
    with pytest.raises(InputError, match="expected a ChoiceSupernet"):
        train(supernet.head, Stripes(), TrainConfig(epochs=1), callbacks=[search], progress=False)
    with pytest.raises(ValueError, match="tau_paths must be 0 or at least 3, got 2"):
        SupernetConfig(tau_paths=2)
