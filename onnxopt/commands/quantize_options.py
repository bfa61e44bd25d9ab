"""Options of ``quantize`` that do not go with its mode, or need data that are not there."""

from __future__ import annotations

from typing import get_args

from onnxopt.errors import DataError, UsageError
from onnxopt.quantization.portability.deployment import Deployment
from onnxopt.quantization.search.auto import Mode
from onnxopt.quantization.weight_only.blocks import BLOCK_SIZES, Bits
from onnxopt.quantization.weight_only.candidates import WeightOptions
from onnxopt.quantization.weight_only.weights import Algorithm

__all__ = ["check_options", "weight_options"]

CALIBRATING: tuple[Mode, ...] = ("auto", "static")
WHY_NO_RANGES: dict[Mode, str] = {
    "dynamic": "dynamic quantization finds its ranges at run time and calibrates nothing",
    "weights": "weight-only quantization leaves activations in float and calibrates nothing",
    "float16": "16-bit floats need no ranges",
    "bfloat16": "16-bit floats need no ranges",
}


def check_options(
    mode: Mode,
    calibrator: str,
    rounding: str,
    weights: WeightOptions,
    where: Deployment,
    *,
    has_data: bool,
    on_cluster: bool = False,
) -> None:
    """Raises when options and mode do not go together.

    Raises:
        UsageError: An option does not apply to the mode.
        DataError: The mode or the algorithm needs data.
    """
    if mode == "static" and not has_data:
        raise DataError(
            "static quantization needs data to calibrate on",
            where="--mode static",
            fix="give --data, or use --mode dynamic",
        )
    if mode == "auto" and not has_data:
        for option, value, default in (("--calibrator", calibrator, "auto"), ("--rounding", rounding, "nearest")):
            if value != default:
                raise DataError(
                    "without data no static form is tried, and the option has no effect",
                    where=f"{option} {value}",
                    fix=f"give --data, or leave {option} out",
                )
    if on_cluster and (mode not in CALIBRATING or not has_data):
        why = "without data nothing is calibrated" if mode in CALIBRATING else WHY_NO_RANGES[mode]
        raise UsageError(why, where=f"--mode {mode} --ray", fix="leave --ray out, or use --mode static with --data")
    if mode not in CALIBRATING and calibrator != "auto":
        raise UsageError(
            WHY_NO_RANGES[mode],
            where=f"--mode {mode} --calibrator {calibrator}",
            fix="leave --calibrator out, or use --mode static",
        )
    if mode not in CALIBRATING and rounding != "nearest":
        raise UsageError(
            "only the weights of static forms are rounded by what their layers read",
            where=f"--mode {mode} --rounding {rounding}",
            fix="leave --rounding out, or use --mode static",
        )
    if mode == "dynamic" and not where.dynamic:
        raise UsageError(
            f"the target {where.name!r} has no kernels for ranges that are found at run time",
            where=f"--mode dynamic --target {where.name}",
            fix="use --mode static with --data",
        )
    if mode == "weights" and where.provider == "tensorrt":
        raise UsageError(
            "TensorRT has no kernel for MatMulNBits, the operator of weight-only quantization",
            where=f"--mode weights --target {where.name}",
            fix="use --target cuda, or --mode static with --data",
        )
    if mode != "weights" and weights != WeightOptions():
        raise UsageError(
            "--algorithm, --bits and --block-size belong to weight-only quantization",
            where=f"--mode {mode}",
            fix="leave them out, or use --mode weights",
        )
    if weights.algorithm == "gptq" and not has_data:
        raise DataError(
            "GPTQ needs data: it rounds weights by what their layers read",
            where="--algorithm gptq",
            fix="give --data, or use --algorithm hqq",
        )


def weight_options(algorithm: str, bits: int | None, block_size: int | None) -> WeightOptions:
    """The options of weight-only quantization.

    Raises:
        UsageError: A value is not supported.
    """
    algorithms, widths = ("auto", *get_args(Algorithm)), get_args(Bits)
    for option, value, known in (
        ("--algorithm", algorithm, algorithms),
        ("--bits", bits, (None, *widths)),
        ("--block-size", block_size, (None, *BLOCK_SIZES)),
    ):
        if value not in known:
            choices = ", ".join(str(k) for k in known if k is not None)
            raise UsageError(f"{value!r} is not supported", where=option, fix=f"give one of {choices}")
    return WeightOptions(algorithm, bits, block_size)  # pyright: ignore[reportArgumentType]
