"""Where a quantized file is to run: which grids that place computes with, and whether this machine is such a place.

Sources: MLAS ``platform.cpp`` for x86 and ARM64; NVIDIA, "Explicit Quantization" in the TensorRT documentation (zero
points are 0, stored INT8 weights behind DequantizeLinear are taken) and onnxruntime#14229, onnx-tensorrt#850 (INT32
biases behind DequantizeLinear are not); NNCF's scheme "mixed" for OpenVINO.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

import numpy as np

from onnxopt.errors import UsageError, nearest
from onnxopt.quantization.scheme import CPU_X86, Grid, QuantScheme
from onnxopt.run.target import Target, cpu_flags, provider

__all__ = ["DEPLOYMENTS", "HOST", "Deployment", "deployment"]

HOST = "host"
VNNI = frozenset({"avx512_vnni", "avx_vnni"})
X86 = frozenset({"x86_64", "amd64", "i386", "i686"})
ARM = frozenset({"aarch64", "arm64"})
SIGNED = Grid(np.dtype(np.int8), symmetric=True)

CPU_ARM = QuantScheme(activations=Grid(np.dtype(np.int8), symmetric=False), weights=SIGNED)
"""MLAS on ARM64 has kernels for S8 with S8 on every core (NEON, dot product, i8mm), with a faster one for weights of
zero point 0 that U8 activations lack; ONNX Runtime keeps S8 activations there."""
GPU = QuantScheme(activations=SIGNED, weights=SIGNED, float_bias=True, residual=True)
"""TensorRT takes zero points of 0 only, no INT32 biases, and adds a quantized shortcut inside of the Conv."""


@dataclass(frozen=True)
class Deployment:
    """A kind of place to run at.

    Attributes:
        name: What users type.
        provider: Short name of the execution provider that runs it.
        scheme: The grids.
        saturates: Whether sums of two products of U8 and S8 saturate there (``pairs``).
        dynamic: Whether it has kernels for activations quantized at run time.
        is_here: Whether this machine, with the provider at hand, is such a place.
    """

    name: str
    provider: str
    scheme: QuantScheme
    saturates: bool = False
    dynamic: bool = True
    is_here: bool = False

    @property
    def not_here(self) -> str:
        """Why nothing is known about speed."""
        return f"speed was not measured: this machine does not run models as the target {self.name!r} does"


DEPLOYMENTS = (
    Deployment("vnni", "cpu", CPU_X86),
    Deployment("avx2", "cpu", CPU_X86, saturates=True),
    Deployment("arm", "cpu", CPU_ARM),
    Deployment("cuda", "cuda", GPU, dynamic=False),
    Deployment("tensorrt", "tensorrt", GPU, dynamic=False),
    Deployment("openvino", "openvino", CPU_X86, dynamic=False),
)


def deployment(name: str, target: Target) -> Deployment:
    """The deployment that ``name`` stands for; ``"host"``: the one that ``target`` is on this machine.

    Raises:
        UsageError: There is none of that name, or the provider at hand is neither its own nor the CPU.
    """
    own = _here(target)
    if name == HOST:
        return own
    found = next((d for d in DEPLOYMENTS if d.name == name), None)
    if found is None:
        known = [HOST, *(d.name for d in DEPLOYMENTS)]
        raise UsageError(f"unknown target {name!r}", where="--target", fix=nearest(name, known))
    if provider(target.provider).short not in (found.provider, "cpu"):
        raise UsageError(
            f"the target {name!r} cannot be judged on the provider {target.provider!r}",
            where=f"--target {name} --provider {target.provider}",
            fix=f"give --provider {found.provider}, or leave it out to judge accuracy on the CPU",
        )
    return own if own.name == found.name else found


def _here(target: Target) -> Deployment:
    """What this machine is; a provider without a deployment of its own counts as the CPU with exact sums."""
    short, machine = provider(target.provider).short, platform.machine().lower()
    name = next((d.name for d in DEPLOYMENTS if d.provider == short and short != "cpu"), "vnni")
    if short == "cpu" and machine in ARM:
        name = "arm"
    elif short == "cpu" and machine in X86 and cpu_flags() and not cpu_flags() & VNNI:
        name = "avx2"
    found = next(d for d in DEPLOYMENTS if d.name == name)
    return Deployment(found.name, found.provider, found.scheme, found.saturates, found.dynamic, is_here=True)
