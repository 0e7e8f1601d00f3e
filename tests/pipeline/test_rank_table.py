"""Tables of accuracies, and the sizes of all networks in the real one."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from supertickets.errors import DataError
from supertickets.evaluate import model_cost
from supertickets.rank import correlate, from_nats_bench, read_table, sizes
from supertickets.seeds import generator
from supertickets.spaces import cell_space

TABLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "nasbench201.csv.gz"
ONE = "|nor_conv_1x1~0|+|skip_connect~0|nor_conv_3x3~1|+|none~0|none~1|none~2|"
TWO = ONE.replace("nor_conv_1x1", "avg_pool_3x3")


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_columns_of_numbers_are_accuracies(tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", "index,arch,note,top1", f"0,{ONE},good,93.5", f"1,{TWO},,10")
    table = read_table(file)
    assert table.accuracies == {"top1": (93.5, 10.0)}
    assert table.space == "nasbench201"
    space = cell_space("nasbench201")
    assert table.of(space.parse(TWO)) == {"top1": 10.0}
    assert table.of(space.parse(TWO.replace("none~2", "skip_connect~2"))) is None


def test_a_compressed_table_reads_the_same(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "t.csv.gz", "wt") as file:
        file.write(f"arch,top1\n{ONE},93.5\n")
    assert read_table(tmp_path / "t.csv.gz").accuracies == {"top1": (93.5,)}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["cell,top1", f"{ONE},1"], "expected a column 'arch', got"),
        (["arch,top1", f"{ONE},1", "|conv~0|,2"], "line 3: nasbench201: expected"),
        (["arch,top1", "resnet20,1"], "line 2: expected a NAS-Bench-201 string"),
        (["arch,top1", f"{ONE},1", f"{TWO},high"], "line 3: column 'top1': expected a number"),
        (["arch,top1", f"{ONE},1", f"{ONE},2"], "stands twice"),
        (["arch,top1"], "expected rows"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, lines: list[str], words: str) -> None:
    with pytest.raises(DataError) as error:
        read_table(write(tmp_path / "t.csv", *lines))
    assert words in str(error.value)


def test_a_mistyped_column_gets_the_nearest(tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", "arch,top1", f"{ONE},1")
    with pytest.raises(DataError, match="no column 'top'; did you mean 'top1'"):
        read_table(file, ["top"])


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path / "t.csv.gz")


class _Api:
    """What of nats_bench's object is used."""

    cells = (ONE, TWO)

    def __len__(self) -> int:
        return len(self.cells)

    def arch(self, index: int) -> str:
        return self.cells[index]

    def get_more_info(self, index: int, dataset: str, hp: str, is_random: bool) -> dict[str, float]:
        assert (dataset, hp, is_random) == ("cifar10", "200", False)
        return {"test-accuracy": 90.0 + index}


def test_an_api_of_nats_bench_is_a_table() -> None:
    table = from_nats_bench(_Api(), ["cifar10"])
    assert table.accuracies == {"cifar10": (90.0, 91.0)}
    with pytest.raises(DataError, match="no data set 'cifar'"):
        from_nats_bench(_Api(), ["cifar"])


def test_sizes_that_add_up_are_those_of_the_built_network() -> None:
    space = cell_space("nasbench201")
    for seed in range(2):
        cell = space.sample(generator(seed, "test"))
        net = space.network(cell, num_classes=10, channels=3)
        cost = model_cost(net, torch.zeros(1, 3, 32, 32))
        (size,) = sizes([cell])
        assert (size.parameters, size.macs) == (cost.parameters, cost.macs)


@pytest.mark.skipif(not TABLE.is_file(), reason="the table of NAS-Bench-201 is not on this machine")
def test_parameters_of_all_cells_agree_with_accuracy_as_published() -> None:
    table = read_table(TABLE)
    found = sizes(table.candidates)
    assert (found[13714].parameters, found[13714].macs) == (1_073_466, 153_272_960)
    assert (found[3558].parameters, found[3558].macs) == (858_426, 121_815_680)
    parameters = [float(size.parameters) for size in found]
    macs = [float(size.macs) for size in found]
    for column, published in (("c10_test_200e", 0.578), ("c100_test_200e", 0.553)):
        for counts in (parameters, macs):
            tau = correlate(counts, table.accuracies[column], bootstrap=2).kendall.value
            assert tau == pytest.approx(published, abs=0.0015)
