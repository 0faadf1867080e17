"""The machine, its peaks by name, a CPU's measured peak, and a device's measured ceiling."""

from __future__ import annotations

import csv
import json
import math
import random
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from mfubench.config import Hardware
from mfubench.files.paths import CONF
from mfubench.hardware import peaks
from mfubench.hardware.catalogue import known_peaks, options
from mfubench.hardware.cores import usable_cores
from mfubench.hardware.machine import Gpu, Machine, Unavailable, detect, of_gpus, planned, resolve_precision, visible
from mfubench.hardware.matmul import search
from mfubench.hardware.peaks import Peak, UnknownPeak, peak_dtype
from mfubench.launch.programs import run_together

NAMES = list(csv.DictReader((Path(__file__).parents[1] / "data" / "device-names.csv").open()))
AUTO = Hardware(name="auto", device="auto", peaks={})
FILES = sorted((CONF / "hardware").glob("*.yaml"))
GIB = 2**30


def option(name: str) -> Hardware:
    return next(o for o in options() if o.name == name)


def gpu(number: int, name: str = "NVIDIA A100-SXM4-80GB", capability: tuple[int, int] = (8, 0)) -> Gpu:
    return Gpu(uuid=f"GPU-{number}{number}-abc", name=name, memory_bytes=80 * GIB, compute_capability=capability)


def cuda(device_name: str, supports_bf16: bool = True) -> Machine:
    return Machine("cuda", device_name, 1, 8, supports_bf16, "580.1", 80 * GIB)


def nothing_is_run(commands: Sequence[Sequence[str]], environment: Mapping[str, str], timeout_s: float) -> list[str]:
    raise AssertionError(f"a peak that is known needs no measurement: {commands}")


# Peaks by name


@pytest.mark.parametrize("row", NAMES, ids=lambda row: row["reported_name"])
def test_a_name_that_a_driver_reports_means_its_own_device_or_none(row: dict[str, str]) -> None:
    known = known_peaks(row["reported_name"])
    assert (known.name if known else "") == row["option"]


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "tf32", "fp8"])
@pytest.mark.parametrize("row", NAMES, ids=lambda row: row["reported_name"])
def test_a_name_that_a_driver_reports_gets_the_peak_of_each_dtype_or_the_way_to_give_it(
    row: dict[str, str], dtype: str
) -> None:
    listed, machine = row[f"{dtype}_tflops"], cuda(row["reported_name"])
    if listed:
        found = peaks.peak(AUTO, machine, dtype, 1, 1, nothing_is_run)
        assert found.flops_per_second == pytest.approx(float(listed) * 1e12)
        assert (found.dtype, found.measured, found.source) == (dtype, False, option(row["option"]).source)
        return
    with pytest.raises(UnknownPeak, match=rf"in {dtype} is not known.*hardware\.peak_flops_per_second=312e12"):
        peaks.peak(AUTO, machine, dtype, 1, 1, nothing_is_run)
    given = replace(AUTO, peak_flops_per_second=1e14)
    assert peaks.peak(given, machine, dtype, 1, 1, nothing_is_run).flops_per_second == 1e14


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA A100-SXM-64GB",  # a special edition with more multiprocessors
        "NVIDIA A100X",
        "GRID A100-40C",
        "NVIDIA A800 40GB Active",
        "NVIDIA L40G",
        "NVIDIA L20",
        "NVIDIA H20-3e",
        "NVIDIA H100 80GB HBM2e",
        "NVIDIA GeForce RTX 4080 SUPER",
        "NVIDIA RTX PRO 5000 Blackwell",
        "NVIDIA RTX 5000 Ada Generation",
        "NVIDIA RTX A6000 Laptop GPU",
        "Tesla V100S-PCIE-32GB",
        "Tesla V100-SXM3-32GB",
        "AMD Instinct MI300A",
        "AMD Instinct MI300X VF",
        "NVIDIA",
        "",
    ],
)
def test_a_name_with_a_word_that_nobody_explained_is_unknown(name: str) -> None:
    assert known_peaks(name) is None


@pytest.mark.parametrize("known", options(), ids=lambda known: known.name)
def test_the_dtypes_of_a_device_stand_in_the_ratios_of_its_tensor_cores(known: Hardware) -> None:
    """A sparse figure among dense ones would be twice what it should be."""
    bf16 = known.peaks.get("bf16", known.peaks["fp16"])
    expected = {
        "bf16": bf16,
        "fp16": bf16,
        "tf32": bf16 / 2,
        "fp8": bf16 * 2,
        "fp32": bf16 / 8,
    }  # fp32: of Volta, Turing
    assert known.peaks == pytest.approx({dtype: expected[dtype] for dtype in known.peaks}, rel=0.02)


def test_the_peak_of_a_known_chip_holds_at_a_clock_that_it_can_run_at() -> None:
    def clock_of(option: Hardware) -> float | None:
        return peaks.peak(option, planned(option, 1), "bf16", 1, 1, nothing_is_run).clock_hz

    known = {option.name: option for option in options() if option.multiprocessors is not None}
    clocks = {name: clock_of(option) for name, option in known.items()}
    assert all(1.4e9 < (clock or 0) < 2.7e9 for clock in clocks.values())
    assert clocks["h200"] == pytest.approx(989.4e12 / (132 * 4096)) == pytest.approx(1.830e9, rel=1e-3)
    assert clocks["a100"] == pytest.approx(1.4106e9, rel=1e-4)  # 312e12 / (108 x 2048)
    assert clock_of(replace(known["h200"], multiprocessors=None)) is None


# The options as data


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_option_is_the_same_numbers_to_both_yaml_readers_and_fits_the_schema(file: Path) -> None:
    plain = yaml.safe_load(file.read_text())
    composed = OmegaConf.load(file)
    assert plain == OmegaConf.to_container(composed)
    assert all(isinstance(value, float) and value > 1e12 for value in plain["peaks"].values())
    schema = OmegaConf.structured(Hardware)
    OmegaConf.set_readonly(schema, None)
    unsaid = {
        "measure_ceiling": False,
        "price_per_hour": None,
        "memory_bytes": None,
        "multiprocessors": None,
        "flops_per_clock": None,
    }
    assert OmegaConf.to_container(OmegaConf.merge(schema, composed)) == {**unsaid, **plain}
    assert plain["name"] == file.stem
    assert (plain["device_name"] is None) == (plain["source"] is None) == (plain["peaks"] == {})
    assert (plain["device_name"] is None) == ("memory_bytes" not in plain)


def test_every_option_that_has_peaks_is_recognised_by_its_own_words() -> None:
    for known in options():
        for words in (known.device_name or "").split(","):
            assert known_peaks(words) == known


# Whose figure counts


def test_the_users_own_figure_wins_over_the_data_sheet() -> None:
    given = Hardware(name="a100", device="cuda", device_name="A100", peaks={"bf16": 312e12}, peak_flops_per_second=2e14)
    found = peaks.peak(given, cuda("NVIDIA A100-SXM4-80GB"), "bf16", 1, 1, nothing_is_run)
    assert found == Peak(2e14, "bf16", "hardware.peak_flops_per_second", measured=False)


def test_a_device_that_is_found_gets_the_figure_of_its_name_and_says_where_from() -> None:
    found = peaks.peak(AUTO, cuda("NVIDIA H100 PCIe"), "bf16", 1, 1, nothing_is_run)
    assert found == Peak(
        756e12, "bf16", "NVIDIA H100 datasheet, PCIe column, dense", measured=False, clock_hz=756e12 / (114 * 4096)
    )


def test_an_option_that_is_named_gives_its_figure_to_a_device_with_an_unclear_name() -> None:
    found = peaks.peak(option("h100-nvl"), cuda("NVIDIA H100"), "bf16", 1, 1, nothing_is_run)
    assert found.flops_per_second == 835e12


def test_an_unknown_device_is_refused_with_the_override_and_the_options_it_may_be() -> None:
    with pytest.raises(UnknownPeak) as refused:
        peaks.peak(AUTO, cuda("NVIDIA H100"), "bf16", 1, 1, nothing_is_run)
    said = str(refused.value)
    assert "'NVIDIA H100' in bf16" in said
    assert "hardware=h100-nvl, hardware=h100-pcie, hardware=h100-sxm;" in said
    assert "hardware.peak_flops_per_second=" in said


def test_a_dtype_that_the_device_lacks_is_refused_and_those_it_has_are_named() -> None:
    with pytest.raises(UnknownPeak, match=r"in tf32 is not known.*hardware=t4 has fp16"):
        peaks.peak(AUTO, cuda("Tesla T4"), "tf32", 1, 1, nothing_is_run)


# Precision


def test_auto_is_bf16_on_a_gpu_that_has_it_and_fp32_on_a_cpu() -> None:
    cpu = detect(Hardware(name="cpu", device="cpu", peaks={}))
    assert resolve_precision("auto", cpu) == "fp32"
    assert resolve_precision("bf16", cpu) == "bf16"
    assert resolve_precision("auto", cuda("NVIDIA A100-SXM4-80GB")) == "bf16"
    assert resolve_precision("fp32", cuda("Tesla T4", supports_bf16=False)) == "fp32"
    for asked in ("bf16", "bf16_pure"):
        with pytest.raises(Unavailable, match=f"precision={asked} needs bf16, which Tesla T4"):
            resolve_precision(asked, cuda("Tesla T4", supports_bf16=False))


def test_fp32_is_held_against_tf32_on_a_gpu_and_against_fp32_on_a_cpu() -> None:
    cpu, gpu = detect(replace(AUTO, device="cpu")), cuda("NVIDIA A100-SXM4-80GB")
    assert peak_dtype("fp32", gpu) == "tf32"
    assert peak_dtype("fp32", cpu) == "fp32"
    assert {peak_dtype(p, machine) for p in ("bf16", "bf16_pure") for machine in (cpu, gpu)} == {"bf16"}


@pytest.mark.parametrize(
    ("name", "tera"), [("Tesla T4", 8.1), ("Tesla V100-SXM2-16GB", 15.7), ("Tesla V100-PCIE-32GB", 14.0)]
)
def test_a_gpu_without_bf16_runs_in_fp32_against_its_fp32_peak_and_says_so(name: str, tera: float) -> None:
    machine = cuda(name, supports_bf16=False)
    precision = resolve_precision("auto", machine)
    found = peaks.peak(AUTO, machine, peak_dtype(precision, machine), 1, 1, nothing_is_run)
    assert (precision, found.dtype, found.flops_per_second) == ("fp32", "fp32", tera * 1e12)
    assert found.source.endswith("frameworks run in fp32 on it, and fp16 isn't measured for them")


# The machine


def test_cuda_visible_devices_is_read_as_cuda_reads_it() -> None:
    zero, one, two = listed = [gpu(0), gpu(1), gpu(2)]
    assert visible(listed, None, None) == listed
    assert visible(listed, "2,0", None) == [two, zero]
    assert visible(listed, "GPU-11", None) == [one]
    assert visible(listed, "GPU-22-abc, GPU-00-abc", None) == [two, zero]
    assert visible(listed, "", None) == visible(listed, "-1", None) == visible(listed, "NoDevFiles", None) == []
    assert visible(listed, "0,2,-1,1", None) == [zero, two]
    assert visible(listed, "1,7,0", None) == [one]
    assert visible(listed, "1,1", None) == []
    assert visible(listed, "GPU-", None) == []  # means all three, so none


def test_an_index_that_could_mean_either_of_two_kinds_of_gpu_is_refused() -> None:
    listed = [gpu(0, "NVIDIA T400", (7, 5)), gpu(1)]
    with pytest.raises(Unavailable, match="CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        visible(listed, "0", None)
    assert visible(listed, "1", "PCI_BUS_ID") == visible(listed, "GPU-1", None) == [listed[1]]


def test_gpus_of_one_kind_are_a_machine() -> None:
    found = of_gpus(AUTO, "580.1", [gpu(0), gpu(1), gpu(2)], {"CUDA_VISIBLE_DEVICES": "0,2"})
    cores = usable_cores()
    uuids = ("GPU-00-abc", "GPU-22-abc")
    assert found == Machine("cuda", "NVIDIA A100-SXM4-80GB", 2, cores, True, "580.1", 80 * GIB, uuids)
    old = of_gpus(AUTO, "580.1", [gpu(0, "Tesla T4", (7, 5))], {})
    assert old is not None and not old.supports_bf16
    assert of_gpus(AUTO, "580.1", [gpu(0)], {"CUDA_VISIBLE_DEVICES": ""}) is None


def test_gpus_of_several_kinds_have_no_one_peak() -> None:
    with pytest.raises(Unavailable, match="NVIDIA A100-SXM4-80GB, NVIDIA T400"):
        of_gpus(AUTO, "580.1", [gpu(0), gpu(1, "NVIDIA T400", (7, 5))], {})


def test_a_named_device_is_not_measured_on_another_that_is_known() -> None:
    with pytest.raises(Unavailable, match=r"hardware=h100-sxm is not what is here: .*A100.* is hardware=a100"):
        of_gpus(option("h100-sxm"), "580.1", [gpu(0)], {})
    unclear = of_gpus(option("h100-sxm"), "580.1", [gpu(0, "NVIDIA H100", (9, 0))], {})
    assert unclear is not None and unclear.device_name == "NVIDIA H100"


def test_a_slice_of_a_gpu_is_refused() -> None:
    with pytest.raises(Unavailable, match="slice"):
        visible([gpu(0)], "MIG-4b8ee1b5", None)


def test_without_a_visible_gpu_auto_is_the_cpu_and_a_named_gpu_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    machine = detect(AUTO)
    assert (machine.device, machine.driver) == ("cpu", None)
    assert machine.num_devices == machine.cores == usable_cores()
    assert machine.memory_bytes is not None and machine.memory_bytes > GIB // 2
    with pytest.raises(Unavailable, match=r"hardware=a100 needs a CUDA device.*hardware=cpu"):
        detect(option("a100"))


def test_detecting_imports_no_torch_and_so_makes_no_cuda_context() -> None:
    program = (
        "import sys; from mfubench.hardware.machine import detect; from mfubench.config import Hardware;"
        " detect(Hardware(name='auto', device='auto', peaks={})); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0


# A CPU's peak

OTHER_LIBRARY = """
import time, numpy
a = numpy.ones((512, 512), numpy.float32); best = 0.0; end = time.monotonic() + 1
while time.monotonic() < end:
    began = time.perf_counter(); a @ a; best = max(best, 2 * 512**3 / (time.perf_counter() - began))
print(best)
"""
# One step of a two-layer MLP. FLOPs: two matmuls forward; backward two weight gradients and one input gradient (the
# input of the first layer needs none): 5 matmuls of 2 x tokens x hidden x inner.
TRAINING = """
import time, torch
torch.set_num_threads(1)
tokens, hidden, inner = 512, 256, 768
up, down = (torch.randn(shape).requires_grad_() for shape in ((inner, hidden), (hidden, inner)))
x = torch.randn(tokens, hidden); best = 0.0; end = time.monotonic() + 2
while time.monotonic() < end:
    began = time.perf_counter()
    ((x @ up.T) @ down.T).sum().backward()
    best = max(best, 5 * 2 * tokens * hidden * inner / (time.perf_counter() - began))
print(best)
"""


@pytest.fixture(scope="module")
def measured() -> tuple[Peak, list[dict[str, float]]]:
    """The peak of as many one-thread ranks as there are cores, at most two, and what each rank printed."""
    printed: list[str] = []

    def keep(commands: Sequence[Sequence[str]], environment: Mapping[str, str], timeout_s: float) -> list[str]:
        printed.extend(run_together(commands, environment, timeout_s))
        return printed

    forced = Hardware(name="h100-sxm", device="cpu", device_name="H100 80GB HBM3", peaks={"fp32": 67e12})
    machine = detect(forced)
    found = peaks.peak(forced, machine, "fp32", min(2, machine.cores), 1, keep)
    return found, [json.loads(text) for text in printed]


def test_a_cpus_peak_is_the_mean_over_ranks_that_were_busy_at_once(
    measured: tuple[Peak, list[dict[str, float]]],
) -> None:
    found, ranks = measured
    assert found.measured and found.dtype == "fp32" and found.source.startswith("measured before the run")
    assert found.flops_per_second == fmean(rank["flops_per_second"] for rank in ranks)
    together = min(rank["ended_s"] for rank in ranks) - max(rank["began_s"] for rank in ranks)
    longest = max(rank["ended_s"] - rank["began_s"] for rank in ranks)
    assert together > 0.7 * longest


def test_a_measured_peak_is_known_as_well_as_the_best_rates_of_its_sections_agree(
    measured: tuple[Peak, list[dict[str, Any]]],
) -> None:
    found, ranks = measured
    assert [max(rank["best_of_sections"]) for rank in ranks] == [rank["flops_per_second"] for rank in ranks]
    sections = [fmean(bests) for bests in zip(*(rank["best_of_sections"] for rank in ranks), strict=True)]
    mean = fmean(sections)
    variance = sum((each - mean) ** 2 for each in sections) / 4
    assert found.relative_half_width == pytest.approx(2.776 * variance**0.5 / mean)  # t(0.975, 4)
    assert found.relative_half_width > 0


def test_a_cpus_peak_is_what_another_matmul_library_says_within_a_factor(
    measured: tuple[Peak, list[dict[str, float]]],
) -> None:
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    other = float(run_together([[sys.executable, "-c", OTHER_LIBRARY]], one_thread, 60)[0])
    assert other / 1.3 < measured[0].flops_per_second < other * 2


def test_training_does_not_beat_a_cpus_peak(measured: tuple[Peak, list[dict[str, float]]]) -> None:
    reached = float(run_together([[sys.executable, "-c", TRAINING]], {"OMP_NUM_THREADS": "1"}, 60)[0])
    assert reached < 1.05 * measured[0].flops_per_second


# A device's ceiling


def a_landscape(top: tuple[int, int, int], noise: float = 0.0) -> Callable[[tuple[int, int, int]], float]:
    """Rates that fall off from 1 at `top`; a window may be disturbed, which only makes it slower."""
    draw = random.Random(0)

    def rate(shape: tuple[int, int, int]) -> float:
        away = sum(math.log2(size / best) ** 2 for size, best in zip(shape, top, strict=True))
        return (1 - 0.1 * away) * (1 - noise * draw.random() ** 2)

    return rate


def looks_left(number: int) -> Callable[[], bool]:
    left = iter(range(number))
    return lambda: next(left, None) is None


@pytest.mark.parametrize("top", [(3072, 8192, 2560), (16384, 2048, 7168), (2048, 16384, 16384), (5120, 5120, 5120)])
def test_the_search_finds_the_best_shape_between_those_it_starts_from(top: tuple[int, int, int]) -> None:
    shape, rate = search(a_landscape(top), [2048, 4096, 8192, 16384], looks_left(40))
    assert (shape, rate) == (top, 1.0)


def test_the_search_keeps_the_best_of_disturbed_windows() -> None:
    top = (3072, 8192, 2560)
    _, rate = search(a_landscape(top, noise=0.1), [2048, 4096, 8192, 16384], looks_left(60))
    assert 0.99 < rate <= 1.0


def test_the_search_never_leaves_the_sizes_it_was_given() -> None:
    seen: list[tuple[int, int, int]] = []

    def rate(shape: tuple[int, int, int]) -> float:
        seen.append(shape)
        return float(math.prod(shape))

    assert search(rate, [128, 256], looks_left(5)) == ((256, 256, 256), 256.0**3)
    assert all(0 < size <= 256 for shape in seen for size in shape)


def on_the_cpu(commands: Sequence[Sequence[str]], environment: Mapping[str, str], timeout_s: float) -> list[str]:
    """The same programs, of the CPU instead of a GPU, and over in a moment."""
    here = [[*command[:2], "cpu", "fp32", "0.2", "64", "128", "256"] for command in commands]
    return run_together(here, {**environment, "OMP_NUM_THREADS": "1"}, timeout_s)


def test_a_gpus_ceiling_is_searched_once_for_each_device_and_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, measured: tuple[Peak, list[dict[str, float]]]
) -> None:
    """The search program runs on the CPU in the GPU's place, and agrees with the other one, which measures a CPU's peak."""
    monkeypatch.setenv("MFUBENCH_CACHE", str(tmp_path))
    one = replace(cuda("NVIDIA A100-SXM4-80GB"), uuids=("GPU-1", "GPU-2"))
    found = peaks.ceiling(one, "bf16", 1, 1, on_the_cpu)
    assert found.flops_per_second > measured[0].flops_per_second / 20  # a busy machine disturbs its longer windows more
    assert found.source.startswith("measured now: the largest bf16 matmul rate, mean of 1 GPU(s) (GPU 0: ")
    (file,) = (tmp_path / "ceilings").iterdir()
    kept = json.loads(file.read_text())
    assert found.source.endswith(f"kept in {tmp_path / 'ceilings'}") and (kept["uuid"], kept["driver"]) == (
        "GPU-1",
        "580.1",
    )

    again = peaks.ceiling(one, "bf16", 1, 1, nothing_is_run)
    assert again.flops_per_second == found.flops_per_second and again.source.startswith("measured before: ")
    for other in (replace(one, driver="590"), replace(one, uuids=("GPU-2",)), replace(one, device_name="NVIDIA A30")):
        with pytest.raises(AssertionError, match="needs no measurement"):
            peaks.ceiling(other, "bf16", 1, 1, nothing_is_run)
    with pytest.raises(AssertionError, match="needs no measurement"):
        peaks.ceiling(one, "tf32", 1, 1, nothing_is_run)

    def three_times_as_fast(commands: Sequence[Sequence[str]], *_: object) -> list[str]:
        assert [command[2] for command in commands] == ["GPU-2"]  # the first is known
        return [json.dumps({**kept, "flops_per_second": 3 * found.flops_per_second})]

    both = peaks.ceiling(one, "bf16", 2, 1, three_times_as_fast)
    assert both.flops_per_second == pytest.approx(2 * found.flops_per_second)


def test_a_ceiling_that_cant_be_measured_is_unavailable_and_kept_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MFUBENCH_CACHE", str(tmp_path))
    nowhere = replace(cuda("NVIDIA A100-SXM4-80GB"), uuids=("GPU-nowhere",))
    with pytest.raises(Unavailable, match=r"A100.* could not be measured: .*; hardware\.measure_ceiling=false"):
        peaks.ceiling(nowhere, "bf16", 1, 1, run_together)
    assert list(tmp_path.rglob("*.json")) == []


def test_a_cpus_ceiling_is_measured_as_its_peak_is() -> None:
    def one_rank(commands: Sequence[Sequence[str]], environment: Mapping[str, str], timeout_s: float) -> list[str]:
        assert environment["OMP_NUM_THREADS"] == "1"
        return [json.dumps({"flops_per_second": 1e9, "best_of_sections": [1e9] * 5, "shape": [1, 2, 3], "torch": "2"})]

    cpu = detect(Hardware(name="cpu", device="cpu", peaks={}))
    found = peaks.ceiling(cpu, "fp32", 1, 1, one_rank)
    assert found.flops_per_second == 1e9 and found.source.startswith("measured before the run: the best fp32 matmul")
