"""A ticket on another task: what is kept is kept to the bit, and the rows beside it are fair."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from supertickets.cli import app
from supertickets.data import DataConfig, ImageData, load_data
from supertickets.data.shapes import ShapesConfig
from supertickets.errors import ConfigError, InputError, TicketError
from supertickets.evaluate import measure_split, model_cost
from supertickets.masked_modules import put_masks_
from supertickets.prune import find_jackpot
from supertickets.prune.config import JackpotConfig
from supertickets.seeds import generator
from supertickets.spaces import ModelConfig, build_model, example_input
from supertickets.ticket import Ticket
from supertickets.training import TrainConfig
from supertickets.transfer import ControlTickets, TransferConfig, carry, control_rows, transfer
from supertickets.transfer.controls import CONTROLS, shuffled_masks
from tests.pipeline.task_data import write_ade20k, write_camvid, write_cityscapes, write_coco

FEW = ShapesConfig(count=90)
BRIEF = TrainConfig(epochs=2, batch_size=16, lr=0.05)
TASKS = ("classification", "segmentation", "keypoints")


def shapes(task: str) -> ImageData:
    return load_data(DataConfig(name="shapes", task=task, shapes=FEW, image_size=16))


def make_ticket(
    data: ImageData, name: str = "resnet20", seed: int = 3, density: float = 0.3, **options: Any
) -> Ticket:
    """A ticket of fresh weights in which all but the outputs' layer is masked by chance."""
    space = "hrnet" if name.startswith("hrnet") else "plain"
    if space == "plain" and data.task != "classification":
        options["task"] = data.task
    config = ModelConfig(space=space, name=name, options=options)
    net = build_model(config, num_classes=data.num_classes, channels=data.channels, seed=seed)
    with torch.no_grad():
        net(torch.randn(8, data.channels, *data.image_size, generator=generator(seed, "pixels")))
    layers = [n for n, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))][:-1]
    masks = {}
    for layer in layers if density < 1 else ():
        weight = net.get_parameter(f"{layer}.weight")
        masks[f"{layer}.weight"] = (
            torch.rand(weight.shape, generator=generator(seed, layer)) < density
        )
    return Ticket.from_model(
        put_masks_(net, masks),
        {
            "space": space, "name": name, "options": options, "num_classes": data.num_classes,
            "channels": data.channels, "image_size": data.image_size,
        },
        task=data.task,
        class_names=data.class_names,
    )  # fmt: skip


@pytest.fixture(scope="module")
def cls() -> ImageData:
    return shapes("classification")


@pytest.fixture(scope="module")
def seg() -> ImageData:
    return shapes("segmentation")


@pytest.fixture(scope="module")
def pose() -> ImageData:
    return shapes("keypoints")


@pytest.fixture(scope="module")
def ticket(cls) -> Ticket:
    return make_ticket(cls, width=4)


def test_weights_and_masks_are_carried_and_outputs_are_new(ticket, seg) -> None:
    carried = carry(ticket, seg, seed=0)
    state = carried.model.state_dict()
    assert len(carried.reused) + len(carried.new) == len(state) - len(carried.masks)
    for key in carried.reused:
        assert torch.equal(state[key], ticket.tensors[key])
    assert {key.split(".")[0] for key in carried.new} == {"head"}
    assert carried.masks.keys() == ticket.masks.keys()
    for key, mask in carried.masks.items():
        assert torch.equal(mask, ticket.masks[key])
    assert carried.model.eval()(torch.zeros(2, 3, 16, 16)).shape == (2, 7, 16, 16)


def test_a_head_of_maps_goes_on_to_the_next_task_without_its_outputs(seg, pose) -> None:
    source = make_ticket(seg, width=4)
    carried = carry(source, pose, seed=0)
    assert set(carried.new) == {"head.classifier.weight", "head.classifier.bias"}
    assert "head.join.weight" in carried.masks
    assert carried.model.eval()(torch.zeros(1, 3, 16, 16)).shape == (1, 5, 16, 16)


@pytest.mark.parametrize(("source", "target"), [(0, 1), (0, 2), (1, 2), (2, 1), (1, 0)])
def test_hrnet_goes_between_all_tasks(source, target, cls, seg, pose) -> None:
    data = (cls, seg, pose)
    short = ("cls", "seg", "pose")
    blocks = {"stages.0.1.0": {"3": 5}, "head.join": {"5": 7}, "head.widen.1": {"3": 4}}
    kept = {
        k: v for k, v in blocks.items() if not k.startswith("head.widen" if source else "head.join")
    }
    first = make_ticket(data[source], f"hrnet-small-{short[source]}", blocks=kept)
    carried = carry(first, data[target], seed=0)
    again = carry(first, data[target], seed=0)
    assert carried.architecture == again.architecture
    state = carried.model.state_dict()
    assert state["stages.0.1.0.operations.3.expand.weight"].shape[0] == 5
    for key in carried.reused:
        assert torch.equal(state[key], first.tensors[key])
    both_maps = source and target
    heads = {".".join(key.split(".")[:2]) for key in carried.new}
    assert heads == {"classifier.weight", "classifier.bias"} if both_maps else len(heads) > 2
    assert not any(key.startswith(("stem", "stages", "fusions")) for key in carried.new)
    rebuilt = Ticket.from_model(carried.model, carried.architecture, task=data[target].task)
    images = torch.randn(2, 3, 16, 16, generator=generator(0, "x"))
    assert torch.allclose(rebuilt.to_dense()(images), carried.model.eval()(images), atol=1e-5)


@pytest.mark.parametrize("freeze", [False, True])
def test_density_is_the_same_before_and_after(ticket, seg, freeze) -> None:
    found = transfer(ticket, seg, TransferConfig(freeze=freeze), BRIEF, progress=False)
    carried, figures = found.carried, found.figures
    assert figures["masked_density"] == figures["masked_density_before"]
    kept = sum(int(mask.sum()) for mask in ticket.masks.values())
    assert figures["masked_density"] == kept / sum(m.numel() for m in ticket.masks.values())
    after = Ticket.from_model(carried.model, carried.architecture, task="segmentation")
    for key, mask in ticket.masks.items():
        assert torch.equal(after.masks[key], mask)
        assert (after.tensors[key][~mask] == 0).all()
    same = [torch.equal(after.tensors[key], ticket.tensors[key]) for key in carried.reused]
    if freeze:
        assert all(same)  # batch-norm statistics too
    else:
        trained = [key for key in carried.reused if key.endswith("weight")]
        assert not any(torch.equal(after.tensors[key], ticket.tensors[key]) for key in trained)
    fresh = carry(ticket, seg, seed=0)
    assert not torch.equal(
        carried.model.state_dict()["head.classifier.weight"],
        fresh.model.state_dict()["head.classifier.weight"],
    )
    assert found.history[-1]["loss"] < found.history[0]["loss"]
    assert figures["steps"] == 2 * -(-len(seg.train) // 16)
    assert {"validation_miou", "test_miou", "test_count", "macs", "effective_macs"} <= set(figures)


def test_rows_differ_from_the_ticket_in_one_thing_each(ticket, cls, pose) -> None:
    dense = make_ticket(cls, density=1.0, width=4)
    native = make_ticket(pose, width=4)
    other = make_ticket(cls, seed=9, width=4)
    tickets = ControlTickets(dense=dense, native=native, shuffled_labels=other)
    config = TransferConfig(images=20)
    rows, left_out = control_rows(
        ticket, pose, config, BRIEF, tickets=tickets, seed=5, progress=False
    )
    assert left_out == {}
    by_name = {row["name"]: row for row in rows}
    assert list(by_name) == [name for name in CONTROLS if name != "transferred"]
    found = transfer(ticket, pose, config, BRIEF, seed=5, progress=False).figures
    for name in ("fresh-weights", "shuffled-mask", "random"):
        row = by_name[name]
        assert (row["effective_macs"], row["macs"]) == (found["effective_macs"], found["macs"])
        assert row["density"] == found["density"]
    assert by_name["dense"]["effective_macs"] == found["macs"]
    assert by_name["dense"]["masked_density"] == 1.0
    assert by_name["shuffled-labels"]["masked_density"] == pytest.approx(0.3, abs=0.02)
    assert by_name["native"]["steps"] == 0
    trained = [row for name, row in by_name.items() if name != "native"]
    assert {(row["steps"], row["images"]) for row in trained} == {(found["steps"], 20)}
    net = native.to_masked()
    assert by_name["native"]["test_ap"] == measure_split(net, pose, "test", batch_size=16)["ap"]


def test_rows_start_as_they_say(ticket, cls, seg) -> None:
    dense = make_ticket(cls, density=1.0, width=4)
    fresh = carry(ticket, seg, seed=0, weights={}).model.state_dict()
    key = "layer2.0.conv1.weight"
    assert torch.equal(fresh["layer2.0.conv1.mask"], ticket.masks[key])
    assert not torch.equal(fresh[key] * ticket.masks[key], ticket.tensors[key])
    masks = shuffled_masks(ticket.masks, 0)
    for name, mask in ticket.masks.items():
        assert masks[name].sum() == mask.sum()
        assert not torch.equal(masks[name], mask)
    shuffled = carry(ticket, seg, seed=0, weights=dense.tensors, masks=masks).model.state_dict()
    assert torch.equal(shuffled[key], dense.tensors[key])  # the weights behind the masks
    assert torch.equal(shuffled["layer2.0.conv1.mask"], masks[key])
    assert carry(ticket, seg, seed=0, masks={}).masks == {}


def test_a_random_architecture_gets_the_tickets_exact_macs(ticket, cls, seg) -> None:
    other = make_ticket(cls, "resnet20", density=1.0, width=6)
    tickets = ControlTickets(random=other)
    quick = TrainConfig(epochs=1, batch_size=32)
    rows, left_out = control_rows(
        ticket, seg, TransferConfig(images=4), quick, tickets=tickets, progress=False
    )
    target = model_cost(carry(ticket, seg, seed=0).model, example_input(3, (16, 16)))
    (random,) = [row for row in rows if row["name"] == "random"]
    assert random["macs"] > target.macs
    assert random["effective_macs"] == pytest.approx(target.effective_macs, rel=0.01)
    assert left_out.keys() == {"shuffled-mask", "native", "dense", "shuffled-labels"}
    assert all("transfer." in reason for reason in left_out.values())
    tiny = ControlTickets(random=make_ticket(cls, density=1.0, width=1))
    with pytest.raises(InputError, match=r"transfer\.random: its architecture has [\d,]+ MACs"):
        control_rows(ticket, seg, TransferConfig(images=4), quick, tickets=tiny, progress=False)


def test_a_transfer_goes_on_from_its_checkpoint(ticket, seg, tmp_path) -> None:
    options = (ticket, seg, TransferConfig(), BRIEF)
    whole = transfer(*options, progress=False)
    transfer(*options, checkpoint=tmp_path, progress=False)
    again = transfer(*options, checkpoint=tmp_path, progress=False)
    for key, value in whole.carried.model.state_dict().items():
        assert torch.equal(value, again.carried.model.state_dict()[key])
    assert again.figures == whole.figures


def build_maps(num_classes: int, channels: int, task: str = "classification") -> nn.Module:
    """A user's own network that knows tasks."""
    body = [nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU()]
    pool = [nn.AdaptiveAvgPool2d(1)] if task == "classification" else []
    end = [nn.Flatten()] if task == "classification" else []
    return nn.Sequential(*body, *pool, nn.Conv2d(8, num_classes, 1), *end)


def test_a_users_own_network_is_named_by_the_user(cls, seg) -> None:
    name = f"{__name__}:build_maps"
    config = ModelConfig(space="import", name=name)
    net = build_model(config, num_classes=6, channels=3, seed=0)
    own = Ticket.from_model(
        net,
        {
            "space": "import", "name": name, "options": {}, "num_classes": 6, "channels": 3,
            "image_size": (16, 16),
        },
    )  # fmt: skip
    with pytest.raises(InputError, match=f"give it with --model {name}"):
        carry(own, seg, seed=0)
    carried = carry(own, seg, seed=0, model=config)
    assert carried.model(torch.zeros(1, 3, 16, 16)).shape == (1, 7, 16, 16)
    assert set(carried.reused) == {"0.weight", "0.bias"}


def test_what_does_not_fit_is_named(ticket, cls, seg, pose) -> None:
    digits = load_data(DataConfig())
    with pytest.raises(
        InputError, match=r"expects images of 3 channel\(s\), but the data set digits"
    ):
        carry(ticket, digits, seed=0)
    plain = make_ticket(digits, "digits", width=4)
    with pytest.raises(ConfigError, match=r"'digits' gives no feature maps for segmentation; nets"):
        carry(plain, replace(seg, channels=1), seed=0)
    with pytest.raises(InputError, match=r"transfer\.images: the train split of shapes has \d+"):
        transfer(ticket, seg, TransferConfig(images=5000), BRIEF, progress=False)

    def rows(**tickets: Ticket) -> None:
        control_rows(
            ticket, seg, TransferConfig(images=4), TrainConfig(epochs=1),
            tickets=ControlTickets(**tickets), progress=False,
        )  # fmt: skip

    with pytest.raises(InputError, match="expected a ticket for segmentation with 7 outputs, got"):
        rows(native=make_ticket(pose, width=4))
    with pytest.raises(InputError, match="expected a ticket without masks, got one with 19"):
        rows(dense=ticket)
    with pytest.raises(InputError, match=r"'conv1\.weight' .* missing or of another shape"):
        rows(dense=make_ticket(cls, density=1.0, width=5))
    with pytest.raises(InputError, match="images of classes are expected, but shapes is for segm"):
        find_jackpot(nn.Conv2d(3, 7, 1), seg, JackpotConfig())


# --- command line -----------------------------------------------------------------------


def call(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def answer(*arguments: str | Path) -> dict[str, Any]:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_digits_0_to_4_become_5_to_9(tmp_path) -> None:
    low = answer(
        "train", "--runs", tmp_path, "--name", "low", "--out", tmp_path / "low-ticket",
        "data.classes=['0','1','2','3','4']", "train.epochs=3", "threads=1",
    )  # fmt: skip
    assert low["stages"][0]["figures"]["test_count"] < 200
    command = (
        "transfer", tmp_path / "low-ticket", "--runs", tmp_path, "--images", "100", "--freeze",
        "data.classes=['9','8','7','6','5']", "train.epochs=2", "--out", tmp_path / "high",
    )  # fmt: skip
    given = answer(*command)
    (stage,) = given["stages"]
    figures = stage["figures"]
    assert figures["images"] == 100
    assert (figures["new"], figures["freeze"]) == (["classifier.weight", "classifier.bias"], True)
    assert answer(*command)["stages"][0]["skipped"]
    high = Ticket.from_pretrained(tmp_path / "high")
    assert high.class_names == ("9", "8", "7", "6", "5")
    assert high.provenance["source"]["task"] == "classification"
    checked = answer("evaluate", tmp_path / "high")
    assert checked["same_as_recorded"] is True
    assert checked["test_accuracy"] == figures["test_accuracy"]


def test_a_ticket_is_scored_by_its_own_task_and_refused_for_another(tmp_path) -> None:
    few = ("data.shapes.count=90", "data.image_size=16", "train.epochs=1", "threads=1")
    made = answer(
        "train", "--data", "shapes", "--model", "resnet20", "model.options.width=4",
        "data.task=segmentation", "--runs", tmp_path, "--out", tmp_path / "seg", *few,
    )  # fmt: skip
    figures = made["stages"][0]["figures"]
    assert "test_miou" in figures
    assert "test_accuracy" not in figures
    scored = answer("evaluate", tmp_path / "seg")
    assert (scored["task"], scored["metric"]) == ("segmentation", "miou")
    assert scored["same_as_recorded"] is True
    same = ("evaluate", tmp_path / "seg", "--data", "shapes", *few[:2])
    assert answer(*same)["test_miou"] == scored["test_miou"]
    other = call(*same, "data.task=keypoints")
    assert other.exit_code == 2
    assert "it is for segmentation, but the data set shapes is asked for keypoints" in other.stderr
    digits = call("evaluate", tmp_path / "seg", "--data", "digits")
    assert digits.exit_code == 2
    assert "asked for classification; supertickets transfer" in digits.stderr
    moved = answer(
        "transfer", tmp_path / "seg", "--task", "pose", "--runs", tmp_path, "--controls", *few[2:]
    )
    figures = moved["stages"][0]["figures"]
    assert (figures["source_task"], figures["task"]) == ("segmentation", "keypoints")
    assert [row["name"] for row in figures["rows"]] == ["transferred", "fresh-weights", "random"]
    wrong = call("transfer", tmp_path / "seg", "--task", "segmentatoin")
    assert wrong.exit_code == 2
    assert "did you mean 'segmentation'" in wrong.stderr


@pytest.mark.parametrize(
    ("name", "write", "size"),
    [
        ("cityscapes", write_cityscapes, "[16,32]"),
        ("ade20k", write_ade20k, "16"),
        ("camvid", write_camvid, "null"),
        ("coco", write_coco, "[32,24]"),
    ],
)
def test_a_users_copy_needs_a_path_alone(tmp_path, name, write, size) -> None:
    if name == "coco":
        pytest.importorskip("pycocotools.cocoeval")
    write(tmp_path / name)
    made = answer(
        "train", "--data", name, "--path", tmp_path / name, "--model", "resnet20",
        "model.options.width=2", f"data.image_size={size}", "train.epochs=1",
        "train.batch_size=2", "threads=1", "--runs", tmp_path, "--out", tmp_path / "ticket",
    )  # fmt: skip
    metric = "ap" if name == "coco" else "miou"
    figures = made["stages"][0]["figures"]
    scored = answer("evaluate", tmp_path / "ticket")
    assert scored[f"test_{metric}"] == figures[f"test_{metric}"]
    assert scored["same_as_recorded"] is True


def test_an_unknown_task_in_a_ticket_is_refused(ticket, tmp_path) -> None:
    ticket.save_pretrained(tmp_path / "ticket")
    file = tmp_path / "ticket" / "config.json"
    content = json.loads(file.read_text())
    content["task"] = "segmentatoin"
    file.write_text(json.dumps(content))
    with pytest.raises(TicketError, match="no such task; did you mean 'segmentation'"):
        Ticket.from_pretrained(tmp_path / "ticket")


@pytest.mark.parametrize("task", TASKS)
def test_shuffled_labels_keep_images_and_counts_but_not_pairs(task) -> None:
    config = DataConfig(name="shapes", task=task, shapes=FEW, image_size=16)
    plain = load_data(config)
    mixed = load_data(config.model_copy(update={"shuffled_labels": True}))
    assert torch.equal(plain.train.images, mixed.train.images)
    assert torch.equal(plain.test.labels, mixed.test.labels)
    before, after = (
        split.labels if task == "classification" else split.targets.flatten(1).sum(1)
        for split in (plain.train, mixed.train)
    )
    assert not torch.equal(before, after)
    assert torch.equal(before.sort().values, after.sort().values)
