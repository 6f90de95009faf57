import csv
from pathlib import Path
from typing import get_args

import pytest

import scaling.plan.hardware
from scaling.errors import ScalingError
from scaling.plan.hardware import PRECISIONS, Basis, Hardware, Unit, hardware, rows

FILE = Path(scaling.plan.hardware.__file__).with_name("hardware.csv")


def test_every_row_has_one_name_says_where_it_is_from_and_what_it_rests_on() -> None:
    names = [row.name for row in rows()]
    assert len(set(names)) == len(names) >= 50
    assert all(len(row.source) > 10 and row.basis in get_args(Basis) for row in rows())
    assert {row.unit for row in rows()} == set(get_args(Unit))
    assert {"phone", "board", "jetson", "laptop", "desktop", "server", "gpu"} == {row.kind for row in rows()}
    assert sum(row.basis == "measured" for row in rows()) >= 3


def test_every_row_says_which_of_its_figures_were_compared_with_a_document() -> None:
    for row in rows():
        assert "; checked: " in row.source or "; unchecked: " in row.source, row.name


def test_tensor_cores_times_clock_give_the_dense_rates_of_nvidias_gpus() -> None:
    """A data sheet's sparse figures are twice these. The last number is f16 operations of a tensor core per cycle, with
    sums in f32, of which GeForce cards do half as many as professional ones."""
    silicon = {
        "V100 SXM2 32GB": (640, 1.53, 128), "T4": (320, 1.59, 128), "A100 80GB": (432, 1.41, 512),
        "A10": (288, 1.695, 256), "A40": (336, 1.74, 256), "L4": (240, 2.04, 256), "L40S": (568, 2.52, 256),
        "RTX 3060": (112, 1.777, 128), "RTX 3090": (328, 1.695, 128), "RTX 4060 Ti 16GB": (136, 2.535, 128),
        "RTX 4090": (512, 2.52, 128), "RTX 5090": (680, 2.407, 128), "H100 SXM": (528, 1.98, 1024),
        "Jetson Orin NX 8GB": (32, 0.765, 512), "Jetson AGX Orin 64GB": (64, 1.3, 512),
    }  # fmt: skip
    for name, (cores, gigahertz, each) in silicon.items():
        assert hardware(name).matmul_flops("f16") == pytest.approx(cores * gigahertz * each * 1e9, rel=0.09), name


def test_narrower_weights_are_never_multiplied_more_slowly_by_what_a_data_sheet_says() -> None:
    for row in rows():
        if row.basis == "datasheet":
            speeds = [row.matmul_flops(precision) for precision in PRECISIONS]
            assert speeds == sorted(speeds), row.name


def test_the_file_is_as_the_table_reads_it() -> None:
    cells = next(line for line in csv.DictReader(FILE.read_text().splitlines()) if line["name"] == "A100 80GB")
    a100 = hardware("NVIDIA A100 80GB")
    assert a100.matmul_flops("f16") == float(cells["f16_tflops"]) * 1e12 == 312e12
    assert a100.bandwidth_bytes == 2039e9
    assert a100.memory_bytes == 80e9
    assert a100.unit == "gpu"


@pytest.mark.parametrize("name", ["raspberry pi 5", "Raspberry-Pi 5", "RASPBERRYPI5"])
def test_capitals_and_blanks_do_not_matter(name: str) -> None:
    assert hardware(name).name == "Raspberry Pi 5"


@pytest.mark.parametrize(
    ("name", "near"), [("Rasberry Pi 5", "Raspberry Pi 5"), ("H100", "H100 SXM"), ("A100 40GB", "A100 80GB")]
)
def test_a_name_that_is_spelled_wrong_is_told_its_neighbours(name: str, near: str) -> None:
    with pytest.raises(ScalingError, match=f"no hardware '{name}'.*did you mean.*{near}"):
        hardware(name)


def test_a_name_like_no_other_is_told_to_give_figures() -> None:
    with pytest.raises(ScalingError, match="give its figures instead"):
        hardware("§§§")


def test_a_precision_without_a_figure_takes_the_next_wider_one() -> None:
    machine = _machine(flops={"f32": 1e12, "int8": 4e12})
    assert [machine.matmul_flops(precision) for precision in PRECISIONS] == [1e12, 1e12, 4e12, 4e12]
    assert _machine(flops={"f16": 2e12}).matmul_flops("f32") == 2e12
    with pytest.raises(ScalingError, match="no precision 'int3'; expected one of f32, f16, int8, int4"):
        machine.matmul_flops("int3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flops": {}}, "flops needs one of f32"),
        ({"flops": {"fp64": 1.0}}, "flops needs one of f32"),
        ({"flops": {"f32": 0.0}}, "flops of f32 must be a positive number"),
        ({"bandwidth_bytes": -1.0}, "bandwidth must be a positive number"),
        ({"memory_bytes": float("nan")}, "memory must be a positive number"),
        ({"idle_w": 20.0}, "nor idle_w more than busy_w"),
        ({"price_usd": -1.0}, "must not be negative"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ScalingError, match=message):
        _machine(**change)


def _machine(**change: object) -> Hardware:
    fields: dict[str, object] = {
        "name": "box", "kind": "server", "unit": "cpu", "flops": {"f32": 1e12}, "bandwidth_bytes": 1e11,
        "memory_bytes": 1e10, "price_usd": 100.0, "busy_w": 10.0, "idle_w": 1.0, "basis": "datasheet", "source": "here",
    }  # fmt: skip
    return Hardware(**(fields | change))  # type: ignore[arg-type]
