"""A8 and what stands beside a jackpot: tickets, resuming, comparison rows, the one-call entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from supertickets.data import DataConfig, ImageData, Loader, load_data
from supertickets.errors import InputError
from supertickets.evaluate import fingerprint
from supertickets.prune import (
    Jackpot,
    JackpotConfig,
    comparison_rows,
    expected_overlap,
    find_jackpot,
    jackpot,
    magnitude_masks,
    maskable_layers,
    total_overlap,
)
from supertickets.ticket import Ticket
from supertickets.training import TrainConfig, train
from tests.pipeline.digits_net import trained_digits_net

CONFIG = JackpotConfig(sparsity=0.8, epochs=4, batch_size=128)
ARCHITECTURE = {
    "space": "plain",
    "name": "digits",
    "options": {"width": 8},
    "num_classes": 10,
    "channels": 1,
    "image_size": [8, 8],
}


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data(DataConfig(name="digits"))


@pytest.fixture(scope="module")
def trained(data: ImageData) -> nn.Module:
    return trained_digits_net(data, epochs=5)


@pytest.fixture(scope="module")
def found(trained: nn.Module, data: ImageData) -> Jackpot:
    return find_jackpot(trained, data, CONFIG, progress=False)


def _logits(model: nn.Module, data: ImageData) -> Tensor:
    model.eval()
    with torch.no_grad():
        return torch.cat([model(images) for images, _ in data.loader("test", batch_size=256)])


def test_a_saved_ticket_gives_identical_logits(
    found: Jackpot, data: ImageData, tmp_path: Path
) -> None:
    found.to_ticket(ARCHITECTURE, class_names=data.class_names).save_pretrained(tmp_path / "t")
    loaded = Ticket.from_pretrained(tmp_path / "t")
    assert torch.equal(_logits(loaded.to_masked(), data), _logits(found.model, data))
    for name, mask in found.masks.items():
        assert torch.equal(loaded.masks[f"{name}.weight"], mask)


def test_a_ticket_says_where_it_came_from(
    found: Jackpot, trained: nn.Module, data: ImageData
) -> None:
    provenance = found.to_ticket(ARCHITECTURE).provenance
    assert provenance["source_sha256"] == fingerprint(dict(trained.named_parameters()))
    assert provenance["config"] == CONFIG.model_dump(mode="json")
    assert provenance["seed"] == 0
    assert provenance["retrained"] is False


def test_a_tuned_ticket_needs_tuning(found: Jackpot) -> None:
    with pytest.raises(InputError, match="tune_epochs=0"):
        found.to_ticket(ARCHITECTURE, tuned=True)


class _CutOff(ImageData):
    """The same data, until the power goes in the third epoch."""

    def loader(self, split: Any, **options: Any) -> Loader:
        loader = super().loader(split, **options)
        if split == "train":
            original = loader.set_epoch

            def set_epoch(epoch: int) -> None:
                if epoch == 2:
                    raise KeyboardInterrupt
                original(epoch)

            loader.set_epoch = set_epoch  # type: ignore[method-assign]
        return loader


@pytest.mark.parametrize("restriction", ["none", "ratio"])
def test_a_search_that_was_cut_off_ends_bit_identical(
    restriction: str, trained: nn.Module, data: ImageData, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"restriction": restriction, "tune_epochs": 1})
    options: dict[str, Any] = {"checkpoint": tmp_path, "progress": False, "seed": 5}
    with pytest.raises(KeyboardInterrupt):
        find_jackpot(trained, _CutOff(**vars(data)), config, **options)
    resumed = find_jackpot(trained, data, config, **options)
    whole = find_jackpot(trained, data, config, seed=5, progress=False)
    assert fingerprint(resumed.model.state_dict()) == fingerprint(whole.model.state_dict())
    assert fingerprint(resumed.tuned.state_dict()) == fingerprint(whole.tuned.state_dict())
    assert resumed.steps == whole.steps
    assert resumed.best_epoch == whole.best_epoch
    for mine, theirs in zip(resumed.history, whole.history, strict=True):
        assert {**mine, "seconds": 0} == {**theirs, "seconds": 0}


def test_the_layer_rows_add_up(found: Jackpot, trained: nn.Module) -> None:
    magnitude = magnitude_masks(maskable_layers(trained), found.rates)
    assert [row["name"] for row in found.layers] == list(found.masks)
    for row in found.layers:
        mask = found.masks[row["name"]]
        assert row["shape"] == list(mask.shape)
        assert row["kept"] == int(mask.sum())
        assert row["effective_macs"] * mask.numel() == row["macs"] * row["kept"]
    assert found.overlap_magnitude == pytest.approx(total_overlap(found.masks, magnitude))
    assert found.overlap_expected == pytest.approx(expected_overlap(found.masks))


def test_the_comparison_rows_share_the_rates_and_say_how_they_were_made(
    found: Jackpot, trained: nn.Module, data: ImageData
) -> None:
    before = fingerprint(trained.state_dict())
    rows = {row["name"]: row for row in comparison_rows(trained, data, found, progress=False)}
    assert list(rows) == [
        "dense",
        "jackpot",
        "random-start",
        "magnitude-bn",
        "magnitude",
        "random",
    ]
    assert rows["dense"]["density"] == 1
    sparse = [row for name, row in rows.items() if name != "dense"]
    assert len({(row["density"], row["effective_macs"]) for row in sparse}) == 1
    assert not any(row["retrained"] for row in rows.values())
    one_pass = len(data.loader("train", batch_size=CONFIG.batch_size))
    assert {n: row["bn_batches"] for n, row in rows.items() if row["bn_batches"]} == {
        "magnitude-bn": one_pass,
        "random": one_pass,
    }
    best = max(row["validation_accuracy"] for row in found.history)
    assert rows["jackpot"]["validation_accuracy"] == best
    assert rows["jackpot"]["test_accuracy"] > rows["random"]["test_accuracy"] + 0.2
    assert fingerprint(trained.state_dict()) == before


def test_a_tuned_jackpot_gets_a_row_that_says_retrained(
    trained: nn.Module, data: ImageData, found: Jackpot
) -> None:
    config = CONFIG.model_copy(update={"tune_epochs": 1})
    tuned = find_jackpot(trained, data, config, progress=False)
    rows = comparison_rows(trained, data, tuned, random_start=found, progress=False)
    row = next(row for row in rows if row["name"] == "jackpot-tuned")
    assert row["retrained"] is True
    assert row["epochs"] == 5


class UsersNet(nn.Module):
    """A network as a user would write it: linear layers, no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, 64)
        self.out = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(images.flatten(1))))


def _users_net(data: ImageData) -> UsersNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = UsersNet()
    loader = data.loader("train", batch_size=64)
    train(model, loader, TrainConfig(epochs=5, batch_size=64, lr=0.05), progress=False)
    return model


def test_one_call_turns_a_users_model_into_a_ticket(data: ImageData) -> None:
    model = _users_net(data)
    ticket = jackpot(model, data, 0.75, epochs=3, batch_size=64, progress=False)
    assert list(ticket.masks) == ["hidden.weight"]
    assert int(ticket.masks["hidden.weight"].sum()) == 64 * 64 // 4
    dense = ticket.to_dense(UsersNet())
    assert torch.equal(dense.hidden.weight, model.hidden.weight * ticket.masks["hidden.weight"])
    assert torch.equal(dense.out.weight, model.out.weight)
    assert ticket.metrics["retrained"] is False
    assert ticket.metrics["test_accuracy"] <= 1
    assert ticket.density == pytest.approx((1024 + 640) / (4096 + 640))


@pytest.mark.parametrize(
    ("sparsity", "options", "message"),
    [
        (1.0, {}, r"sparsity must be in \[0, 1\), got 1.0"),
        (0.9, {"epoch": 3}, "unknown option 'epoch'; did you mean 'epochs'"),
        (0.9, {"restriction": "ration"}, "restriction: .*got 'ration'"),
        (0.9, {"keep_dense": ["hiden"]}, "'hiden'.*did you mean 'hidden'"),
        (0.9, {"keep_dense": ["hidden", "out"]}, "no maskable layer"),
    ],
)
def test_one_call_refuses_wrong_input_by_name(
    sparsity: float, options: dict[str, Any], message: str, data: ImageData
) -> None:
    with pytest.raises(InputError, match=message):
        jackpot(UsersNet(), data, sparsity, progress=False, **options)
