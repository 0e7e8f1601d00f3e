"""A ticket folder that is not what it says is refused, and the message says why."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from supertickets.errors import InputError, TicketError
from supertickets.ticket import Ticket

KEY = "features.3.weight"
MASK, VALUES = f"mask.{KEY}", f"values.{KEY}"


@pytest.fixture
def folder(ticket, tmp_path) -> Path:
    ticket.save_pretrained(tmp_path / "ticket")
    return tmp_path / "ticket"


def edit_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the stored tensors and make length and hash fit, as a forger would."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    put_bytes(folder, save(tensors))


def put_bytes(folder: Path, data: bytes) -> None:
    (folder / "model.safetensors").write_bytes(data)
    stamp = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    edit_config(folder, lambda config: config.update(tensor_file=stamp))


def refused(folder: Path, message: str) -> None:
    with pytest.raises(TicketError, match=message) as caught:
        Ticket.from_pretrained(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file(folder, name) -> None:
    (folder / name).unlink()
    refused(folder, f"{name} is missing")


def test_a_missing_folder(tmp_path) -> None:
    refused(tmp_path / "none", "no such folder")


def test_a_truncated_file(folder) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    refused(folder, "bytes, expected .* truncated")


def test_a_flipped_bit(folder) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    refused(folder, "SHA-256 of model.safetensors")


def test_swapped_files(ticket, folder, tmp_path) -> None:
    ticket.tensors["classifier.bias"] += 1
    ticket.save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    refused(folder, "belongs to another ticket")


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", '{"schema_version": NaN}', "[" * 100_000, "\udcff"]
)
def test_a_damaged_config(folder, text) -> None:
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(folder, "config.json (is damaged, not valid JSON|holds a)")


@pytest.mark.parametrize("version", [0, 2, "1", None, True, 1.5, [1]])
def test_another_version(folder, version) -> None:
    edit_config(folder, lambda config: config.update(schema_version=version))
    refused(folder, rf"schema_version {re.escape(repr(version))}, this version .* reads 1")


def test_a_newer_version_says_upgrade(folder) -> None:
    edit_config(folder, lambda config: config.update(schema_version=7))
    refused(folder, "upgrade supertickets")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("task"), "task: Field required"),
        (lambda c: c.update(code="import os"), "code: Extra inputs"),
        (lambda c: c["metrics"].pop("macs"), "no score goes without its macs"),
        (lambda c: c["masks"][0].update(kept=-1), r"masks\.0\.kept"),
        (lambda c: c["masks"][0].update(layout="dense"), r"masks\.0\.layout"),
        (lambda c: c["masks"].append(c["masks"][0]), "mask of 'features.3.weight' twice"),
        (lambda c: c["masks"].pop(0), "unexpected entry '(mask|values).features.3.weight'"),
        (lambda c: c["masks"][0].update(key="x.weight"), "lacks the mask or values of 'x.weight'"),
        (lambda c: c["masks"][0].update(kept=3), "declared to keep 3 weights"),
        (lambda c: c["masks"][0].update(shape=[16, 8, 3]), "which needs 48 bytes"),
        (lambda c: c["masks"][0].update(shape=[2**31] * 4), "mask of .* needs .* bytes"),
        (lambda c: c["masks"][0].update(shape=[2**40]), r"masks\.0\.shape\.0"),
        (lambda c: c["architecture"].update(channels=0), r"architecture\.channels"),
        (lambda c: c["tensor_file"].update(sha256="x"), r"tensor_file\.sha256"),
    ],
)
def test_a_config_that_does_not_hold(folder, change, message) -> None:
    edit_config(folder, change)
    refused(folder, message)


def test_an_empty_mask_of_overflowing_sizes(folder) -> None:
    def change(config) -> None:
        config["masks"][0].update(shape=[0, 2**31, 2**31, 2**31], kept=0)

    edit_config(folder, change)
    edit_tensors(
        folder,
        lambda t: t.update({MASK: torch.zeros(0, dtype=torch.uint8), VALUES: torch.zeros(0)}),
    )
    refused(folder, "no tensor can be")


def _more_ones(tensors) -> None:
    tensors[MASK][0] ^= 1


def _padding_bits(tensors) -> None:
    tensors[MASK] = torch.cat([tensors[MASK][:-1], torch.tensor([255], dtype=torch.uint8)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_more_ones, r"is declared to keep \d+ weights, but has \d+ ones"),
        (lambda t: t.update({VALUES: t[VALUES][:-1]}), "declared to keep"),
        (lambda t: t.update({VALUES: t[VALUES].int()}), "declared to keep"),
        (lambda t: t.update({VALUES: t[VALUES] * torch.nan}), "features.3.weight holds NaN"),
        (lambda t: t.update({MASK: t[MASK].float()}), "has torch.float32"),
        (lambda t: t.pop(MASK), "lacks the mask or values"),
        (lambda t: t.update({"loose": torch.ones(1)}), "unexpected entry 'loose'"),
        (lambda t: t.update({f"tensor.{KEY}": torch.ones(1)}), "unexpected entry"),
        (lambda t: t["tensor.classifier.bias"].fill_(torch.inf), "classifier.bias holds NaN"),
    ],
)
def test_forged_tensors(folder, change, message) -> None:
    edit_tensors(folder, change)
    refused(folder, message)


def test_bits_beyond_the_last_weight(ticket, folder, tmp_path) -> None:
    ticket.masks = {"classifier.bias": torch.ones(10, dtype=torch.bool)}
    ticket.save_pretrained(tmp_path / "t")
    name = "mask.classifier.bias"
    edit_tensors(
        tmp_path / "t", lambda t: t.update({name: torch.tensor([255, 7], dtype=torch.uint8)})
    )
    refused(tmp_path / "t", "bits set beyond its 10 weights")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("tensor.classifier.bias"), r"1 missing \(classifier.bias\)"),
        (lambda t: t.update({"tensor.classifier.bias": torch.zeros(9)}), r"is \[9\], expected"),
        (
            lambda t: t.update({"tensor.classifier.bias": torch.zeros(10, dtype=torch.int32)}),
            "of another kind",
        ),
    ],
)
def test_tensors_that_do_not_fit_the_architecture(folder, change, message) -> None:
    edit_tensors(folder, change)
    loaded = Ticket.from_pretrained(folder)
    with pytest.raises(TicketError, match=message):
        loaded.to_dense()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "os.system"}, "no plain net 'os.system'"),
        ({"options": {"width": 10**9}}, "options.width"),
        ({"options": {"wide": 3}}, "no option 'wide'"),
        ({"name": "resnet50", "options": {"width": 4096}}, "does not fit"),  # no memory is taken
        ({"space": "import", "name": "antigravity:fly"}, "nothing is imported"),
        ({"space": "nowhere"}, "cannot be built"),
        ({"num_classes": None}, "needs num_classes"),
    ],
)
def test_a_hostile_architecture_builds_nothing(folder, change, message) -> None:
    edit_config(folder, lambda config: config["architecture"].update(change))
    loaded = Ticket.from_pretrained(folder)
    with pytest.raises(TicketError, match=message):
        loaded.to_dense()


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("a pickle ran code",)


def test_a_pickle_in_the_place_of_the_tensors_is_not_run(folder, capsys) -> None:
    put_bytes(folder, pickle.dumps(Trap()))
    refused(folder, "not a safetensors file")
    assert "a pickle ran code" not in capsys.readouterr().out


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_damage_gives_another_error_or_another_ticket(tmp_path_factory, saved, data) -> None:
    """Cut or change either file anywhere: the load says so, or nothing that matters changed."""
    files, tensors = saved
    folder = tmp_path_factory.mktemp("damaged")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    name = data.draw(st.sampled_from(["config.json", "model.safetensors"]))
    content = bytearray(files[name])
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at] ^= data.draw(st.integers(1, 255))
    (folder / name).write_bytes(content)
    try:
        loaded = Ticket.from_pretrained(folder)
        loaded.to_dense()
    except InputError:
        return
    assert name == "config.json"  # a digit of a metric, a letter of a name
    assert loaded.tensors.keys() == tensors.keys()
    assert all(torch.equal(loaded.tensors[key], tensors[key]) for key in tensors)


@pytest.fixture
def saved(folder, ticket) -> tuple[dict[str, bytes], dict[str, torch.Tensor]]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}, ticket.tensors
