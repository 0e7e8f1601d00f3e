"""Tickets keep everything, whole, in a folder that loads without the library."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from supertickets.errors import InputError, RunError, TicketError
from supertickets.evaluate import fingerprint, model_cost
from supertickets.masks import pack_mask, unpack_mask
from supertickets.seeds import generator
from supertickets.spaces import ModelConfig, build_model, example_input
from supertickets.ticket import Ticket

KEY = "features.3.weight"


@pytest.fixture
def folder(ticket, tmp_path) -> Path:
    ticket.save_pretrained(tmp_path / "ticket")
    return tmp_path / "ticket"


def images(count: int = 5) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=generator(9, "images"))


def outputs(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(images())


def masked_model(ticket: Ticket, *, scores: bool = False) -> nn.Module:
    """The ticket's network with masked layers whose pruned weights are not zero."""
    from supertickets.masked_modules import put_masks_

    model = ticket.to_dense()
    for key, mask in ticket.masks.items():
        with torch.no_grad():
            weight = model.get_parameter(key)
            weight[~mask] = -1.5
    model = put_masks_(model, ticket.masks)
    if scores:
        layer = model.get_submodule(KEY.removesuffix(".weight"))
        layer.scores = nn.Parameter(torch.rand_like(layer.weight))
    return model.eval()


def test_save_and_load_give_the_same_bits(ticket, folder) -> None:
    loaded = Ticket.from_pretrained(folder)
    assert fingerprint(loaded.tensors) == fingerprint(ticket.tensors)
    assert fingerprint(loaded.masks) == fingerprint(ticket.masks)
    assert loaded.class_names == tuple("0123456789")
    assert (loaded.task, loaded.provenance, loaded.metrics) == (
        ticket.task,
        ticket.provenance,
        ticket.metrics,
    )
    assert torch.equal(outputs(loaded.to_dense()), outputs(ticket.to_dense()))
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }


def test_saving_twice_gives_the_same_files(ticket, folder, tmp_path) -> None:
    Ticket.from_pretrained(folder).save_pretrained(tmp_path / "again")
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_config_describes_every_mask_and_the_cost_of_every_score(ticket, folder) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["schema_version"] == 1
    assert [entry["key"] for entry in config["masks"]] == list(ticket.masks)
    for entry in config["masks"]:
        mask = ticket.masks[entry["key"]]
        assert entry["shape"] == list(mask.shape)
        assert entry["kept"] == int(mask.sum())
        assert entry["layout"] == "unstructured"
    cost = model_cost(ticket.to_dense(), example_input(1, (8, 8)))
    metrics = config["metrics"]
    assert metrics["test_accuracy"] == 0.5
    for name in ("density", "macs", "effective_macs", "uniform_macs", "parameters", "nonzeros"):
        assert metrics[name] == getattr(cost, name) == ticket.figures[name]
    assert ticket.density == cost.density < 0.2
    assert config["architecture"]["image_size"] == [8, 8]
    assert config["provenance"]["seed"] == 3


def test_masks_are_bits_and_pruned_weights_take_no_room(ticket, folder) -> None:
    mask = ticket.masks[KEY]
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
        bits, values = file.get_tensor(f"mask.{KEY}"), file.get_tensor(f"values.{KEY}")
    flat = mask.reshape(-1)
    assert bits.dtype == torch.uint8
    assert len(bits) == (flat.numel() + 7) // 8
    assert [(int(bits[i // 8]) >> (i % 8)) & 1 for i in range(flat.numel())] == flat.int().tolist()
    assert torch.equal(values, ticket.tensors[KEY].reshape(-1)[flat])
    assert f"tensor.{KEY}" not in names
    assert "tensor.classifier.weight" in names
    stored = (folder / "model.safetensors").stat().st_size
    header = 8 + int.from_bytes((folder / "model.safetensors").read_bytes()[:8], "little")
    assert ticket.bytes == stored - header


def test_the_card_has_the_figures(ticket, folder) -> None:
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: supertickets\n")
    assert f"| macs | {ticket.metrics['macs']} |" in card
    assert "| test_accuracy | 0.5 |" in card
    assert "Ticket.from_pretrained" in card


@pytest.mark.parametrize("shape", [(0,), (), (1,), (7,), (8,), (9,), (3, 0, 2), (5, 3, 2)])
def test_packed_masks_unpack_to_themselves(shape) -> None:
    mask = torch.rand(shape, generator=generator(1, "mask")) < 0.5
    packed = pack_mask(mask)
    assert packed.shape == ((mask.numel() + 7) // 8,)
    assert torch.equal(unpack_mask(packed, shape), mask)


def test_a_mask_for_no_layer_is_named(ticket) -> None:
    from supertickets.masked_modules import put_masks_

    for key in ("none.weight", "features.1.weight", "features.0.bias", "weight"):
        with pytest.raises(InputError, match=f"mask '{key}': the model has no Conv2d or Linear"):
            put_masks_(ticket.to_dense(), {key: torch.ones(8, dtype=torch.bool)})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_survive(architecture, tmp_path, dtype) -> None:
    config = ModelConfig(options={"width": 8})
    model = build_model(config, num_classes=10, channels=1, seed=0).to(dtype)
    Ticket.from_model(model, architecture).save_pretrained(tmp_path / "t")
    loaded = Ticket.from_pretrained(tmp_path / "t").to_dense()
    assert fingerprint(loaded.state_dict()) == fingerprint(model.state_dict())


def test_to_dense_is_plain_and_independent(ticket) -> None:
    dense = ticket.to_dense()
    assert not dense.training
    plain = build_model(ModelConfig(options={"width": 8}), num_classes=10, channels=1, seed=0)
    assert list(dense.state_dict()) == list(plain.state_dict())
    assert all(p.device.type == "cpu" and p.requires_grad for p in dense.parameters())
    before = fingerprint(ticket.tensors)
    with torch.no_grad():
        dense.get_parameter(KEY).add_(1)
    assert fingerprint(ticket.tensors) == before


def test_to_dense_leaves_the_global_generator_alone(ticket) -> None:
    before = torch.get_rng_state()
    ticket.to_dense()
    assert torch.equal(torch.get_rng_state(), before)


def test_masked_and_dense_networks_are_one_function(ticket) -> None:
    masked, dense = ticket.to_masked(), ticket.to_dense()
    assert not masked.training
    torch.testing.assert_close(outputs(masked), outputs(dense), rtol=1e-5, atol=1e-5)
    kinds = {type(m).__name__ for m in masked.modules() if hasattr(m, "mask")}
    assert kinds == {"MaskedConv2d"}


@pytest.mark.parametrize("scores", [False, True])
def test_from_model_takes_masks_and_folds_weights(ticket, architecture, scores) -> None:
    model = masked_model(ticket, scores=scores)
    before = fingerprint(model.state_dict())
    made = Ticket.from_model(model, architecture)
    assert fingerprint(model.state_dict()) == before
    assert fingerprint(made.masks) == fingerprint(ticket.masks)
    assert fingerprint(made.tensors) == fingerprint(ticket.tensors)  # no -1.5, and no -0 either
    assert made.figures == ticket.figures


def test_saved_masked_network_evaluates_identically(ticket, architecture, tmp_path) -> None:
    """A8: save, load, evaluate gives identical logits."""
    model = masked_model(ticket)
    Ticket.from_model(model, architecture).save_pretrained(tmp_path / "t")
    loaded = Ticket.from_pretrained(str(tmp_path / "t"))
    assert torch.equal(outputs(loaded.to_masked()), outputs(model))


class Tiny(nn.Module):
    """A user's net: a masked Linear, a tied weight, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(16, 12)
        self.head = nn.Linear(12, 3)
        self.again = self.head
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x) -> torch.Tensor:
        return self.again(self.body(x.flatten(1))) * self.scale


TINY = {
    "space": "import",
    "name": "someones.module:Tiny",
    "num_classes": 3,
    "channels": 1,
    "image_size": [4, 4],
}


def test_a_users_net_needs_the_model_and_never_causes_an_import(tmp_path) -> None:
    from supertickets.masked_modules import put_masks_

    model = Tiny()
    mask = torch.rand(12, 16, generator=generator(0, "mask")) < 0.4
    put_masks_(model, {"body.weight": mask})
    Ticket.from_model(model, TINY).save_pretrained(tmp_path / "t")
    loaded = Ticket.from_pretrained(tmp_path / "t")
    with pytest.raises(TicketError, match=r"'someones.module:Tiny'.*pass it as model="):
        loaded.to_dense()
    assert "someones" not in sys.modules
    fresh = Tiny()
    untouched = fingerprint(fresh.state_dict())
    x = torch.randn(2, 1, 4, 4, generator=generator(0, "x"))
    torch.testing.assert_close(loaded.to_masked(fresh)(x), model(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loaded.to_dense(fresh)(x), model(x), rtol=1e-6, atol=1e-6)
    assert fingerprint(fresh.state_dict()) == untouched


def test_a_layer_with_two_places_stays_one_layer() -> None:
    from supertickets.masked_modules import put_masks_

    mask = torch.rand(3, 12, generator=generator(0, "mask")) < 0.4
    model = put_masks_(Tiny(), {"head.weight": mask, "again.weight": mask})
    made = Ticket.from_model(model, TINY)
    assert set(made.masks) == {"head.weight", "again.weight"}
    loaded = made.to_masked(Tiny())
    assert loaded.head is loaded.again
    assert torch.equal(loaded.head.mask, mask)


def test_a_network_that_is_one_layer() -> None:
    from supertickets.masked_modules import put_masks_

    mask = torch.rand(4, 1, 3, 3, generator=generator(0, "mask")) < 0.4
    model = put_masks_(nn.Conv2d(1, 4, 3), {"weight": mask})
    made = Ticket.from_model(model, TINY)
    assert torch.equal(made.to_masked(nn.Conv2d(1, 4, 3)).mask, mask)
    assert made.density == int(mask.sum()) / mask.numel()


def test_a_model_that_does_not_fit_is_told_so(ticket) -> None:
    with pytest.raises(TicketError, match=r"'digits' does not fit the model: .*missing"):
        ticket.to_dense(Tiny())


def test_loading_imports_nothing_compiled(folder) -> None:
    """A machine without the compiled library still gets the plain network."""
    script = f"""
        import sys
        sys.modules["supertickets_ext"] = None
        from supertickets.ticket import Ticket
        ticket = Ticket.from_pretrained({str(folder)!r})
        assert ticket.to_dense()(__import__("torch").zeros(1, 1, 8, 8)).shape == (1, 10)
        assert "huggingface_hub" not in sys.modules
        try:
            ticket.to_masked()
        except ImportError:
            print("no library")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "no library\n", done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": None}, "architecture: image_size"),
        ({"extra": 1}, "architecture: extra"),
        ({"channels": 3}, r"fails on an input \[1, 3, 8, 8\]"),
    ],
)
def test_a_bad_architecture_is_named(ticket, architecture, change, message) -> None:
    with pytest.raises(TicketError, match=message):
        Ticket.from_model(ticket.to_dense(), {**architecture, **change})


def test_a_model_with_nan_is_refused(ticket, architecture) -> None:
    model = ticket.to_dense()
    with torch.no_grad():
        model.get_parameter("classifier.bias")[0] = float("nan")
    with pytest.raises(TicketError, match=r"classifier.bias of the model holds NaN"):
        Ticket.from_model(model, architecture)


def _nan_metric(ticket) -> None:
    ticket.metrics["loss"] = float("nan")


def _no_density(ticket) -> None:
    del ticket.metrics["density"]


def _other_provenance(ticket) -> None:
    ticket.provenance["folder"] = Path("x")


def _mask_dtype(ticket) -> None:
    ticket.masks[KEY] = ticket.masks[KEY].float()


def _mask_shape(ticket) -> None:
    ticket.masks[KEY] = ticket.masks[KEY][:1]


def _mask_without_tensor(ticket) -> None:
    ticket.masks["none.weight"] = ticket.masks[KEY]


def _pruned_not_zero(ticket) -> None:
    ticket.tensors[KEY][~ticket.masks[KEY]] = 1


def _infinite(ticket) -> None:
    ticket.tensors["classifier.bias"][0] = float("inf")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_nan_metric, "finite, plain JSON"),
        (_no_density, "no score goes without its density"),
        (_other_provenance, "plain JSON"),
        (_mask_dtype, "mask 'features.3.weight' must be bool"),
        (_mask_shape, r"mask 'features.3.weight' must be .*\[1, 8, 3, 3\], a tensor \[16, 8"),
        (_mask_without_tensor, "'none.weight' .* no tensor"),
        (_pruned_not_zero, "features.3.weight: a pruned weight is not zero"),
        (_infinite, "classifier.bias holds NaN or infinity"),
    ],
)
def test_an_inconsistent_ticket_is_not_written(ticket, folder, spoil, message) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    spoil(ticket)
    with pytest.raises(TicketError, match=message):
        ticket.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_with_other_things_is_not_replaced(ticket, tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(TicketError, match=r"holds other things \(thesis.tex\)"):
        ticket.save_pretrained(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(TicketError, match="expected a folder, found a file"):
        ticket.save_pretrained(tmp_path / "file")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_second_save_replaces_the_first(ticket, folder) -> None:
    ticket.metrics["test_accuracy"] = 0.75
    ticket.save_pretrained(folder)
    assert Ticket.from_pretrained(folder).metrics["test_accuracy"] == 0.75
    assert [path.name for path in folder.parent.iterdir()] == ["ticket"]


FULL_DISK = """
    import sys
    from supertickets.errors import RunError
    from supertickets.ticket import Ticket

    ticket = Ticket.from_pretrained(sys.argv[1])
    ticket.metrics["test_accuracy"] = 0.75
    {limit}
    try:
        ticket.save_pretrained(sys.argv[1])
    except RunError as error:
        print(error)
"""


def save_in_a_process(folder: Path, limit: str) -> str:
    script = textwrap.dedent(FULL_DISK).format(limit=limit)
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_old_ticket(folder: Path) -> None:
    assert Ticket.from_pretrained(folder).metrics["test_accuracy"] == 0.5
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_write_that_fails_half_way_leaves_the_old_ticket(folder) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))"
    said = save_in_a_process(folder, limit)
    assert "cannot be written (File too large); what was there is unchanged" in said
    assert_old_ticket(folder)


def test_a_full_disk_leaves_the_old_ticket(ticket, tmp_path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    ticket.save_pretrained(tmp_path / "elsewhere")
    page = 4096
    pages = sum(-(-f.stat().st_size // page) for f in (tmp_path / "elsewhere").iterdir())
    size = f"size={pages * page * 3 // 2}"  # room for one ticket, not for two
    mount = ["mount", "-t", "tmpfs", "-o", size, "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs more rights")
    try:
        ticket.save_pretrained(disk / "ticket")
        said = save_in_a_process(disk / "ticket", "pass")
        assert "cannot be written (No space left on device)" in said
        assert_old_ticket(disk / "ticket")
        with pytest.raises(RunError, match="No space left on device"):
            ticket.save_pretrained(disk / "second")
        assert [path.name for path in disk.iterdir()] == ["ticket"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
