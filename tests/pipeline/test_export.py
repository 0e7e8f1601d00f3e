"""Exports run where this package is not, and say how far they are from the network."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from supertickets.errors import ConfigError, InputError, RunError
from supertickets.evaluate import fingerprint
from supertickets.export import FORMATS, export_ticket
from supertickets.seeds import generator
from supertickets.spaces import ModelConfig, build_model
from supertickets.ticket import Ticket


def need_onnx() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=generator(4, "images"))


def elsewhere(script: str, *arguments: object) -> str:
    """Run a script in a process that cannot import this package, even if it tried."""
    block = (
        'import sys\nfor name in ("supertickets", "supertickets_ext"): sys.modules[name] = None\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", block + textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_records_say_what_was_written(ticket, tmp_path) -> None:
    need_onnx()
    records = export_ticket(ticket, tmp_path / "out")
    assert [record["format"] for record in records] == list(FORMATS)
    assert {record["path"] for record in records} == {p.name for p in (tmp_path / "out").iterdir()}
    for record in records:
        assert record["bytes"] == (tmp_path / "out" / record["path"]).stat().st_size
        assert 0 <= record["max_abs_error"] < 1e-4
        assert f"density {ticket.density:.4g}" in record["note"]
    # the same operators on the same numbers
    assert [record["max_abs_error"] for record in records[:2]] == [0, 0]


def test_the_state_dict_has_ordinary_keys(ticket, tmp_path) -> None:
    export_ticket(ticket, tmp_path, ("state-dict",))
    loaded = load_file(tmp_path / "state_dict.safetensors")
    assert fingerprint(loaded) == fingerprint(ticket.tensors)
    plain = build_model(ModelConfig(options={"width": 8}), num_classes=10, channels=1, seed=0)
    plain.load_state_dict(loaded)


def test_torch_export_runs_in_a_process_without_the_package(ticket, tmp_path) -> None:
    export_ticket(ticket, tmp_path, ("torch.export",))
    x = images(7)
    torch.save(x, tmp_path / "x.pt")
    said = elsewhere(
        """
        import torch
        program = torch.export.load(sys.argv[1] + "/model.pt2")
        operators = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
        assert all(name.startswith("aten.") for name in operators), operators
        x = torch.load(sys.argv[1] + "/x.pt", weights_only=True)
        module = program.module()
        with torch.no_grad():
            torch.save([module(x), module(x[:1])], sys.argv[1] + "/y.pt")
        print(len(operators))
        """,
        tmp_path,
    )
    assert int(said) > 3
    many, one = torch.load(tmp_path / "y.pt", weights_only=True)
    with torch.no_grad():
        torch.testing.assert_close(many, ticket.to_dense()(x), rtol=0, atol=1e-6)
        torch.testing.assert_close(one, ticket.to_dense()(x[:1]), rtol=0, atol=1e-6)


def test_onnx_runs_in_onnxruntime_alone(ticket, tmp_path) -> None:
    need_onnx()
    export_ticket(ticket, tmp_path, ("onnx",))
    x = images(5)
    (tmp_path / "x.bin").write_bytes(x.numpy().tobytes())
    said = elsewhere(
        """
        sys.modules["torch"] = None
        import numpy, onnx, onnxruntime
        model = onnx.load(sys.argv[1] + "/model.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
        x = numpy.fromfile(sys.argv[1] + "/x.bin", dtype="float32").reshape(5, 1, 8, 8)
        session = onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx")
        for value in session.run(["logits"], {"image": x})[0].ravel():
            print(float(value))
        """,
        tmp_path,
    )
    given = torch.tensor([float(line) for line in said.split()]).reshape(5, 10)
    with torch.no_grad():
        # batch norm is folded into the weights: other roundings
        torch.testing.assert_close(given, ticket.to_dense()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("format_name", ["torch.export", "onnx"])
def test_files_hold_no_path_of_this_machine(ticket, tmp_path, format_name) -> None:
    if format_name == "onnx":
        need_onnx()
    (record,) = export_ticket(ticket, tmp_path, (format_name,))
    data = (tmp_path / record["path"]).read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in data
    assert str(Path(torch.__file__).parent).encode() not in data


@pytest.mark.parametrize(("name", "stages"), [("resnet20", 3), ("resnet18", 4)])
def test_nets_with_shortcuts_export(tmp_path, name, stages) -> None:
    need_onnx()
    options = {"width": 4, "num_blocks": [1] * stages}
    config = ModelConfig(name=name, options=options)
    model = build_model(config, num_classes=3, channels=3, seed=0)
    architecture = {
        "space": "plain",
        "name": name,
        "options": options,
        "num_classes": 3,
        "channels": 3,
        "image_size": (32, 32),
    }
    records = export_ticket(Ticket.from_model(model, architecture), tmp_path)
    assert len(records) == 3


class Users(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x) -> torch.Tensor:
        return self.conv(x).relu().mean((2, 3))


class Breaking(Users):
    def forward(self, x) -> torch.Tensor:
        return super().forward(x) * (2 if float(x.sum()) > 0 else 1)


USERS = {
    "space": "import",
    "name": "someones.module:Users",
    "num_classes": 2,
    "channels": 1,
    "image_size": (8, 8),
}


def test_a_users_network_exports_with_its_own_example(tmp_path) -> None:
    model = Users()
    ticket = Ticket.from_model(model, USERS)
    records = export_ticket(
        ticket, tmp_path, ("torch.export",), model=Users(), example=torch.ones(2, 1, 12, 9)
    )
    assert records[0]["max_abs_error"] == 0
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    x = torch.randn(3, 1, 12, 9, generator=generator(0, "x"))
    torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=1e-6)


def test_a_network_that_cannot_be_traced_leaves_no_file(tmp_path) -> None:
    ticket = Ticket.from_model(Breaking(), USERS)
    with pytest.raises(RunError, match=r"torch.export cannot trace the network"):
        export_ticket(ticket, tmp_path, ("torch.export",), model=Breaking())
    assert not list(tmp_path.iterdir())


def test_a_custom_operator_is_refused(tmp_path) -> None:
    """A file that holds one would not load elsewhere."""
    library = torch.library.Library("users_export_test", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: 2 * x, "CompositeExplicitAutograd")
    torch.library.register_fake("users_export_test::twice", torch.empty_like, lib=library)

    class Custom(Users):
        def forward(self, x) -> torch.Tensor:
            return torch.ops.users_export_test.twice(super().forward(x))

    ticket = Ticket.from_model(Custom(), USERS)
    with pytest.raises(RunError, match="custom operator users_export_test::twice"):
        export_ticket(ticket, tmp_path, ("torch.export",), model=Custom())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_before_any_work(ticket, tmp_path, monkeypatch, package) -> None:
    need_onnx()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RunError, match=rf"installed: {package}; .* supertickets\[onnx\]"):
        export_ticket(ticket, tmp_path)
    assert not list(tmp_path.iterdir())


def test_bad_arguments_are_named(ticket, tmp_path) -> None:
    with pytest.raises(ConfigError, match="no export format 'onxn'; did you mean 'onnx'"):
        export_ticket(ticket, tmp_path, ("state-dict", "onxn"))
    with pytest.raises(InputError, match=r"must be \[N, 1, H, W\].*got \[1, 3, 8, 8\]"):
        export_ticket(ticket, tmp_path, ("state-dict",), example=torch.zeros(1, 3, 8, 8))
    assert not list(tmp_path.iterdir())


def test_the_ticket_is_left_alone(ticket, tmp_path) -> None:
    before = fingerprint(ticket.tensors)
    export_ticket(ticket, tmp_path, ("state-dict", "torch.export"))
    assert fingerprint(ticket.tensors) == before
