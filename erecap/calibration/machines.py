"""Machines by name for the paper model, each figure with its source."""

from collections.abc import Callable

from erecap.calibration.paper_machine import Efficiency, Link, Machine, Rate

_H200_FILES = "benchmarks/results/nvidia-h200"
_SEED = "the seed's document"
"""The seed is the implementation that this project grew from; its document names the machine and the timings."""


def _h200() -> Machine:
    """Return 8 x H200 SXM on NVLink. One device was measured here; the link is what others published."""
    return Machine(
        name="NVIDIA H200",
        devices=8,
        matrix_flops_per_s=Rate(793.8e12, "measured", f"{_H200_FILES}/rates.json (data sheet: 989 TFLOP/s, dense bfloat16)"),
        memory_bytes_per_s=Rate(4.273e12, "measured", f"{_H200_FILES}/rates.json (data sheet: 4.8 TB/s)"),
        memory_bytes=141 * 10**9,
        link=Link(
            bytes_per_s=Rate(370e9, "published", "NCCL without reduction, of 450 GB/s line rate: NVIDIA/nccl-tests issue 212"),
            latency_s=Rate(4e-6, "published", "sendrecv_perf of 1 KiB, 3.7 us on 4 x H800: NVIDIA/nccl issue 1984"),
            bus_bytes_per_s=Rate(475e9, "published", "all_reduce_perf on 8 x H200: NVIDIA/nccl-tests issue 272"),
            all_reduce_s=Rate(10e-6, "published", "512 B to 32 KiB on 8 x H100, 9-12 us: sgl-project/sglang pull request 2904"),
        ),
        efficiency=Efficiency(
            linear=0.596,
            attention=0.998,
            reading=0.626,
            layer_s=0.801e-3,
            step_layer_s=0.778e-3,
            basis="measured",
            source=f"{_H200_FILES}/prefill.json and prefill-cudnn.json",
            step_basis="measured",
            step_source=f"{_H200_FILES}/generate.json",
            median_error=0.022,
            largest_error=0.125,
        ),
    )


def _rtx5880() -> Machine:
    """Return the seed's machine: 8 x RTX 5880 Ada on PCIe 4, two sockets, no NVLink."""
    return Machine(
        name="NVIDIA RTX 5880 Ada",
        devices=8,
        matrix_flops_per_s=Rate(277.2e12, "published", "dense bfloat16: four times the data sheet's 69.3 TFLOP/s in float32"),
        memory_bytes_per_s=Rate(960e9, "published", "data sheet"),
        memory_bytes=48 * 10**9,
        link=Link(
            bytes_per_s=Rate(12e9, "stated", f"slowest pair of GPUs, across sockets: {_SEED} (12-15 GB/s; 19-22 within one)"),
            latency_s=Rate(10e-6, "assumed", "no figure was published; at most 1% of what is predicted from it"),
            bus_bytes_per_s=Rate(12.34e9, "stated", f"average of NCCL's all-reduce: {_SEED}"),
            all_reduce_s=Rate(42e-6, "published", "8 bytes on 8 x RTX 4090, PCIe 4: NVIDIA/nccl issue 1530"),
        ),
        efficiency=Efficiency(
            linear=0.286,
            attention=0.286,
            reading=0.557,
            layer_s=0.914e-3,
            step_layer_s=0.778e-3,
            basis="stated",
            source=f"one GPU at 1,024 to 4,096 tokens: {_SEED}",
            step_basis="carried over",
            step_source="H200, as a share of the data sheet's bandwidth, and the same host",
            median_error=0.026,
            largest_error=0.106,
        ),
    )


MACHINES: dict[str, Callable[[], Machine]] = {"8xh200": _h200, "8xrtx5880": _rtx5880}
"""Makers of machines by name."""


def named_machine(name: str) -> Machine:
    """Return the machine called ``name``. Raise ``ValueError`` for a name that is not in ``MACHINES``."""
    if name not in MACHINES:
        raise ValueError(f"machine {name!r} is not known: use {' or '.join(MACHINES)}, or give a machine's rates with --rates FILE")
    return MACHINES[name]()
