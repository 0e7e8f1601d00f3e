"""Recipes: every wrong key and value is named before any work starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from supertickets.config import (
    Recipe,
    is_override,
    known_keys,
    load_recipe,
    recipe_names,
    validate_recipe,
)
from supertickets.errors import ConfigError


@pytest.mark.parametrize("name", recipe_names())
def test_embedded_recipe_is_valid_and_has_its_own_name(name) -> None:
    assert load_recipe(recipe=name).name == name


def test_main_job_searches_the_four_sparsities() -> None:
    recipe = load_recipe()
    assert recipe.jackpot.sparsities == (0.8, 0.9, 0.95, 0.98)
    assert recipe.exported_sparsity == 0.9
    assert recipe.data.name == "digits"


def test_yaml_round_trip_gives_an_equal_recipe(tmp_path) -> None:
    recipe = load_recipe(overrides=["jackpot.sparsities=[0.5]", "data.workers=2", "seed=7"])
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.to_yaml())
    assert load_recipe(file) == recipe


def test_known_keys_are_exactly_those_of_the_written_recipe() -> None:
    def leaves(tree, prefix="") -> Iterator[str]:
        for key, value in tree.items():
            if isinstance(value, dict) and key != "options":
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}"

    assert set(known_keys()) == set(leaves(yaml.safe_load(Recipe().to_yaml())))


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("jackpot.epoch", "jackpot.epochs"),
        ("jackpott.epochs", "jackpot"),
        ("train.sparsities", "jackpot.sparsities"),
        ("sparsities", "jackpot.sparsities"),
        ("data.validation_fractoin", "data.validation_fraction"),
        ("report.enable", "report.enabled"),
    ],
)
def test_unknown_key_names_itself_and_the_nearest(key, nearest) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(overrides=[f"{key}=1"])
    message = str(caught.value)
    assert f"did you mean {nearest!r}" in message
    assert repr(key if "jackpott" not in key else "jackpott") in message


def test_unknown_key_near_to_none_lists_its_section() -> None:
    with pytest.raises(ConfigError, match="known in export: formats, if_installed, sparsity"):
        load_recipe(overrides=["export.zzz=1"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("jackpot.epochs=many", ["jackpot.epochs", "integer", "'many'"]),
        ("jackpot.epochs=0", ["jackpot.epochs", "greater than or equal to 1", "0"]),
        ("train.optimizer=sdg", ["train.optimizer", "'sgd'", "'sdg'"]),
        ("train.lr=.nan", ["train.lr", "finite", "nan"]),
        ("jackpot.sparsities=[0.9, 1.0]", ["jackpot.sparsities", "[0, 1)", "1.0"]),
        ("jackpot.sparsities=[-0.1]", ["jackpot.sparsities", "[0, 1)", "-0.1"]),
        ("jackpot.sparsities=[0.9, 0.9]", ["jackpot.sparsities", "once", "[0.9, 0.9]"]),
        ("jackpot.sparsities=[]", ["jackpot.sparsities", "at least 1"]),
        ("jackpot.sparsity=0.9", ["jackpot", "sparsities"]),
        ("jackpot=3", ["jackpot", "3"]),
        ("export.sparsity=0.5", ["export.sparsity", "0.98", "0.5"]),
        ("export.formats=[onxx]", ["export.formats.0", "'onnx'", "'onxx'"]),
        ("device=tpu", ["device", "cuda:<index>", "'tpu'"]),
        ("name=../up", ["name", "'../up'"]),
        ("seed=-1", ["seed", "-1"]),
        ("data.name=folder", ["data.path", "'folder'"]),
        ("model.name=resnet21", ["model.name", "'resnet21'", "did you mean 'resnet"]),
        ("model.options.widht=8", ["model.options", "widht", "'width'"]),
    ],
)
def test_wrong_value_names_key_expected_and_given(override, words) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(overrides=[override])
    for word in words:
        assert word in str(caught.value)


def test_every_wrong_key_gets_a_line() -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(overrides=["seeed=1", "train.lr=-1", "jackpot.epochs=x"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    for key in ("'seeed'", "train.lr", "jackpot.epochs"):
        assert sum(key in line for line in lines) == 1


def test_options_give_way_to_overrides_and_the_last_override_wins() -> None:
    overrides = ["jackpot.epochs=5", "jackpot.epochs=6"]
    recipe = load_recipe(overrides=overrides, options={"jackpot.epochs": 4, "seed": None})
    assert recipe.jackpot.epochs == 6
    assert recipe.seed == 0


def test_override_values_are_yaml() -> None:
    recipe = load_recipe(overrides=["jackpot.lr=1e-2", "export.formats=[onnx]", "data.path=null"])
    assert recipe.jackpot.lr == 0.01
    assert recipe.export.formats == ("onnx",)
    assert recipe.data.path is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("jackpot.epochs", "expected key=value"),
        ("=5", "expected key=value"),
        ("name.first=a", "'name' holds no keys"),
        ("jackpot.epochs=[1", "cannot read the value '[1'"),
    ],
)
def test_malformed_override(override, words) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(overrides=[override])
    assert words in str(caught.value)


def test_another_name_starts_its_section_from_defaults(tmp_path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("model: {name: digits, options: {width: 8}}\ntrain: {lr: 0.2}\n")
    same = load_recipe(file, options={"model.name": "digits"})
    assert same.model.options == {"width": 8}
    other = load_recipe(file, overrides=["model.name=resnet20"])
    assert other.model.options == {}
    assert other.train.lr == 0.2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"jackpot: [1, 2", "line 1"),
        (b"seed: 1\nname: a\nseed: 2\n", "line 3: not valid YAML: the key 'seed' stands twice"),
        (b"- 1\n- 2\n", "expected a mapping of keys, got list"),
        (b"\xff\xfe\x00", "cannot read"),
    ],
)
def test_unreadable_file_is_named(tmp_path, content, words) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_recipe(file)
    assert "mine.yaml" in str(caught.value)
    assert words in str(caught.value)


def test_empty_file_is_all_defaults(tmp_path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("# nothing\n")
    assert load_recipe(file) == Recipe()


def test_missing_file_and_unknown_recipe() -> None:
    with pytest.raises(ConfigError, match=r"found none at 'no\.yaml'"):
        load_recipe(Path("no.yaml"))
    with pytest.raises(ConfigError, match="no embedded recipe 'digit'; did you mean 'digits'"):
        load_recipe(recipe="digit")


def test_search_options_at_one_sparsity() -> None:
    section = validate_recipe({"jackpot": {"sparsities": [0.5, 0.7], "epochs": 3}}).jackpot
    options = section.at(0.7)
    assert (options.sparsity, options.epochs) == (0.7, 3)
    assert "sparsity" not in section.model_dump()


def test_exported_sparsity_is_the_one_nearest_to_ninety_percent() -> None:
    assert load_recipe(overrides=["jackpot.sparsities=[0.5, 0.88, 0.99]"]).exported_sparsity == 0.88


def test_override_is_told_from_a_path(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    assert is_override("jackpot.epochs=5")
    assert not is_override("a=b")
    assert not is_override("runs/x/ticket")
    assert not is_override("./a=c")
