"""Plain nets, users' nets, and weights from files."""

from __future__ import annotations

import pickle
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from supertickets.errors import ConfigError, InputError
from supertickets.evaluate import fingerprint
from supertickets.seeds import generator
from supertickets.spaces import (
    ModelConfig,
    build_model,
    example_input,
    load_weights,
    plain_names,
)

SMALL = {
    "digits": {"width": 4},
    "resnet20": {"width": 4},
    "resnet20x2": {"num_blocks": [1, 1, 2]},
    "resnet32": {"width": 4},
    "resnet32x2": {"num_blocks": [1, 1, 1]},
    "vgg19_bn": {"width": 4},
    "resnet18": {"width": 4},
    "resnet50": {"width": 4, "small_input": True},
}


def digits(seed: int = 0, **options: int) -> nn.Module:
    return build_model(ModelConfig(options=options), num_classes=10, channels=1, seed=seed)


@pytest.mark.parametrize("name", plain_names())
def test_every_net_maps_images_to_logits_and_learns(name) -> None:
    config = ModelConfig(name=name, options=SMALL[name])
    model = build_model(config, num_classes=7, channels=3, seed=0)
    images = torch.randn(4, 3, 32, 32, generator=generator(0, "images"))
    logits = model(images)
    assert logits.shape == (4, 7)
    F.cross_entropy(logits, torch.arange(4)).backward()
    idle = [k for k, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


@pytest.mark.parametrize("name", plain_names())
def test_nets_hold_only_torch_leaves_and_end_in_the_classifier(name) -> None:
    config = ModelConfig(name=name, options=SMALL[name])
    model = build_model(config, num_classes=7, channels=3, seed=0)
    leaves = [module for module in model.modules() if not list(module.children())]
    assert all(type(leaf).__module__.startswith("torch.nn.modules") for leaf in leaves)
    linears = [module for module in leaves if isinstance(module, nn.Linear)]
    assert linears[-1].out_features == 7
    convs = [module for module in leaves if isinstance(module, nn.Conv2d)]
    norms = [module for module in leaves if isinstance(module, nn.BatchNorm2d)]
    assert len(convs) == len(norms)


@pytest.mark.parametrize(
    ("name", "stages"),
    [("resnet20", (16, 32, 64)), ("resnet20x2", (32, 64, 128)), ("resnet32x2", (32, 64, 128))],
)
def test_cifar_nets_have_the_papers_widths(name, stages) -> None:
    model = build_model(ModelConfig(name=name), num_classes=10, channels=3, seed=0)
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert convs[0].out_channels == stages[0]
    assert tuple(sorted({conv.out_channels for conv in convs})) == stages
    assert all(conv.kernel_size == (3, 3) for conv in convs)  # shortcuts have no parameters


def test_parameter_free_shortcut_subsamples_and_sets_zero_channels() -> None:
    config = ModelConfig(name="resnet20", options={"width": 4, "num_blocks": [1, 1, 1]})
    model = build_model(config, num_classes=2, channels=3, seed=0).eval()
    block = model.get_submodule("layer2.0")
    with torch.no_grad():
        block.get_submodule("bn2").weight.zero_()  # leaves the shortcut alone
        x = torch.rand(2, 4, 6, 6, generator=generator(0, "x"))
        out = block(x)
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2])
    assert not out[:, :2].any()
    assert not out[:, 6:].any()


def test_equal_seeds_give_equal_weights_and_the_global_generator_is_untouched() -> None:
    before = torch.get_rng_state()
    first, again, other = digits(5), digits(5), digits(6)
    assert torch.equal(torch.get_rng_state(), before)
    assert fingerprint(first.state_dict()) == fingerprint(again.state_dict())
    assert fingerprint(first.state_dict()) != fingerprint(other.state_dict())


def test_weights_do_not_depend_on_what_was_drawn_before() -> None:
    torch.rand(7)
    first = fingerprint(digits().state_dict())
    torch.rand(9)
    assert fingerprint(digits().state_dict()) == first


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "resnet33"}, "no plain net 'resnet33'; did you mean 'resnet32'?"),
        ({"options": {"widht": 8}}, "digits has no option 'widht'; did you mean 'width'?"),
        ({"options": {"width": 0}}, "model.options.width of digits"),
        ({"options": {"width": "8"}}, "got '8'"),
        ({"options": {"width": 10**9}}, "less than or equal to 4096"),
        ({"name": "resnet20", "options": {"num_blocks": [1, 2]}}, "num_blocks"),
        ({"name": "resnet50", "options": {"bottleneck": False}}, "no option 'bottleneck'"),
        ({"space": "import", "name": "resnet20"}, "package.module:factory"),
        ({"nmae": "resnet20"}, "nmae"),
    ],
)
def test_bad_config_is_refused_by_name(config, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ModelConfig(**config)


def test_plain_net_needs_sizes() -> None:
    with pytest.raises(ConfigError, match="'digits' needs num_classes and channels"):
        build_model(ModelConfig(), num_classes=None, channels=1, seed=0)
    with pytest.raises(ConfigError, match="num_classes of digits must be at least 1, got 0"):
        build_model(ModelConfig(), num_classes=0, channels=1, seed=0)


def test_example_input_is_always_the_same() -> None:
    assert example_input(3, (5, 4)).shape == (1, 3, 5, 4)
    assert torch.equal(example_input(3, (5, 4)), example_input(3, (5, 4)))
    with pytest.raises(InputError, match="at least 1"):
        example_input(0, (5, 4))


@pytest.fixture
def user_module(tmp_path, monkeypatch) -> str:
    """A file beside the recipe, found through the working folder."""
    name = f"usernet_{tmp_path.name}"
    Path(tmp_path / f"{name}.py").write_text(
        "from torch import nn\n"
        "def make(num_classes, hidden=3):\n"
        "    layers = nn.Linear(4, hidden), nn.Linear(hidden, num_classes)\n"
        "    return nn.Sequential(nn.Flatten(), *layers)\n"
        "ready = nn.Linear(2, 2)\n"
        "def broken():\n    raise KeyError('inside')\n"
        "def wrong():\n    return 5\n"
        "number = 5\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    return name


def test_a_users_net_gets_options_and_the_sizes_it_asks_for(user_module) -> None:
    config = ModelConfig(space="import", name=f"{user_module}:make", options={"hidden": 6})
    model = build_model(config, num_classes=9, channels=1, seed=0)
    assert [tuple(p.shape) for p in model.parameters()] == [(6, 4), (6,), (9, 6), (9,)]
    again = build_model(config, num_classes=9, channels=1, seed=0)
    assert fingerprint(model.state_dict()) == fingerprint(again.state_dict())


def test_a_users_ready_module_is_copied(user_module) -> None:
    config = ModelConfig(space="import", name=f"{user_module}:ready")
    first = build_model(config, num_classes=None, channels=None, seed=0)
    second = build_model(config, num_classes=None, channels=None, seed=0)
    assert first is not second


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (":mkae", {}, "has no 'mkae'; did you mean 'make'?"),
        (":make", {"hiden": 1}, "unexpected keyword argument 'hiden'"),
        (":broken", {}, "KeyError('inside')"),
        (":wrong", {}, "gave an object of type int, expected a torch.nn.Module"),
        (":number", {}, "is of type int, expected a callable"),
        (":ready", {"x": 1}, "takes no options"),
        ("_nowhere:make", {}, "cannot import"),
    ],
)
def test_a_users_net_that_fails_is_named(user_module, factory, options, message) -> None:
    config = ModelConfig(space="import", name=f"{user_module}{factory}", options=options)
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_model(config, num_classes=2, channels=1, seed=0)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {f"module.{k}": v for k, v in s.items()}])
def test_weights_load_from_both_kinds_of_file(tmp_path, suffix, wrap) -> None:
    source, path = digits(1, width=4), tmp_path / f"w{suffix}"
    state = wrap(source.state_dict())
    if suffix == ".pt":
        torch.save({"state_dict": state, "epoch": 3}, path)
    else:
        save_file(state, path)
    model = build_model(
        ModelConfig(options={"width": 4}, weights=path), num_classes=10, channels=1, seed=0
    )
    assert fingerprint(model.state_dict()) == fingerprint(source.state_dict())


def test_weights_without_batch_counters_load(tmp_path) -> None:
    state = {k: v for k, v in digits(1).state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "w.pt")
    model = digits(0)
    load_weights(model, tmp_path / "w.pt")
    assert torch.equal(model.state_dict()["features.0.weight"], state["features.0.weight"])


def test_all_that_does_not_fit_is_said_at_once_and_nothing_is_loaded(tmp_path) -> None:
    model = digits(0, width=4)
    before = fingerprint(model.state_dict())
    state = digits(1, width=4).state_dict()
    del state["classifier.bias"]
    state["extra"] = torch.zeros(1)
    state["features.0.weight"] = torch.zeros(4, 3, 3, 3)
    state["features.3.weight"][0, 0, 0, 0] = float("nan")
    state["features.1.weight"] = torch.ones(4, dtype=torch.int64)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError) as caught:
        load_weights(model, tmp_path / "w.safetensors")
    for part in (
        "w.safetensors does not fit the model",
        "1 missing (classifier.bias)",
        "1 unexpected (extra)",
        "features.0.weight is [4, 3, 3, 3], expected [4, 1, 3, 3]",
        "features.1.weight is torch.int64, expected torch.float32",
        "1 holding NaN or infinity (features.3.weight)",
    ):
        assert part in str(caught.value)
    assert fingerprint(model.state_dict()) == before


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("a pickle ran code",)


def test_a_pickle_of_code_is_refused_and_not_run(tmp_path, capsys) -> None:
    torch.save({"w": Trap()}, tmp_path / "new.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap(), protocol=2))
    for name in ("new.pt", "plain.pt"):
        with pytest.raises(InputError, match="could run code, so it is refused"):
            load_weights(digits(), tmp_path / name)
    assert "a pickle ran code" not in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:5]])
def test_damaged_weight_files_are_named(tmp_path, suffix, damage) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(digits().state_dict(), path)
    else:
        save_file(digits().state_dict(), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=rf"weights .*w\{suffix}.*damaged(, or not a|.*\(.+\))"):
        load_weights(digits(), path)


def test_missing_weights_and_non_tensors_are_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"none\.pt: no such file"):
        load_weights(digits(), tmp_path / "none.pt")
    torch.save({"features.0.weight": 3}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"'features.0.weight' is of type int"):
        load_weights(digits(), tmp_path / "w.pt")
    torch.save([1, 2], tmp_path / "w.pt")
    with pytest.raises(InputError, match="found type list"):
        load_weights(digits(), tmp_path / "w.pt")


def test_the_digits_net_learns_the_real_digits() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    raw = datasets.load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    labels = torch.tensor(raw.target)
    order = torch.randperm(len(images), generator=generator(0, "split"))
    train, test = order[:1400], order[1400:]
    model = digits(0)
    assert 100_000 <= sum(p.numel() for p in model.parameters()) <= 200_000
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
    for epoch in range(8):
        shuffled = train[torch.randperm(len(train), generator=generator(0, "order", epoch))]
        for batch in shuffled.split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        right = (model(images[test]).argmax(1) == labels[test]).float().mean()
    assert right >= 0.98
