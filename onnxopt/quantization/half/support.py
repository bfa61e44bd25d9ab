"""Which inputs and outputs of a node can be 16-bit floats: by its definition in ONNX, and by the kernels of the target.

ONNX Runtime lists the kernels of the providers that are built into it. Providers that compile graphs (TensorRT,
OpenVINO, Core ML) have none to list; nor is the list asked for float16 on the CPU, where ONNX Runtime itself puts casts
around what has no kernel. There the operators decide that ``onnxruntime.transformers.float16`` keeps in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import onnx_ir as ir
from onnx import defs

from onnxopt.run.target import Target, provider

__all__ = ["Half", "Slots", "Support", "find_support"]

Half: TypeAlias = Literal["float16", "bfloat16"]
Kernel: TypeAlias = tuple[int, int, Mapping[str, list[str]]]
"""First and last version of the operator that it serves, and the types that it takes."""

KEPT = {
    **dict.fromkeys(
        ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"), "its scale is exact in float32 only"
    ),
    **dict.fromkeys(("If", "Loop", "Scan"), "values that enter or leave nested graphs keep their type"),
    **dict.fromkeys(
        ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"),
        "random values are drawn in float32",
    ),
    **dict.fromkeys(
        (
            *("Constant", "EyeLike", "CastLike", "BitCast", "MelWeightMatrix"),
            *("BlackmanWindow", "HammingWindow", "HannWindow"),
        ),
        "its type follows from something else",
    ),
    "MeanVarianceNormalization": "it is computed in float32",
}
"""Operators that stay float32 whatever the target, and why."""
PINNED = {"Resize": {"T2"}, "LayerNormalization": {"U"}}
"""Type variables that stay float32: coordinates lose places in 16 bits, and ``stash_type`` says float32."""


@dataclass(frozen=True)
class Slots:
    """Places of inputs and outputs."""

    inputs: frozenset[int]
    outputs: frozenset[int]


@dataclass(frozen=True)
class Support:
    """What a target can do with one 16-bit type.

    Attributes:
        kind: The type.
        provider: Full name of the execution provider.
        kernels: By operator of the default domain; ``None``: not known, ``blocked`` decides.
        blocked: Operators that are known to need float32.
    """

    kind: Half
    provider: str
    kernels: Mapping[str, tuple[Kernel, ...]] | None
    blocked: frozenset[str]

    def slots(self, node: ir.Node, version: int) -> Slots | str:
        """The float32 inputs and outputs of ``node`` that can be of the 16-bit type, or why there are none.

        Args:
            node: Its values have types.
            version: Of the default operator set where the node is.
        """
        if node.domain not in ("", "ai.onnx"):
            return f"it is an operator of the domain {node.domain}"
        if node.op_type in KEPT:
            return KEPT[node.op_type]
        if node.op_type.startswith("Scatter") and "reduction" in node.attributes:
            return f"{node.op_type} that reduces has no {self.kind} kernel on every provider"
        if self.kernels is None and node.op_type in self.blocked:
            return f"{node.op_type} is known to need float32"
        values = [v for v in (*node.inputs, *node.outputs) if v is not None and v.name]
        if not all(isinstance(v.type, ir.TensorType) for v in values):
            return "the type of a value is not known, or is no tensor"
        schema = defs.get_schema(node.op_type, version, "")
        wanted = f"tensor({self.kind})"
        allowed = {c.type_param_str for c in schema.type_constraints if wanted in c.allowed_type_strs}
        allowed -= PINNED.get(node.op_type, set())
        inputs = _variables(node.inputs, schema.inputs, allowed)
        outputs = _variables(node.outputs, schema.outputs, allowed)
        variables = {*inputs.values(), *outputs.values()}
        if not variables:
            return f"ONNX knows no {self.kind} for {node.op_type} of opset {version}"
        if self.kernels is not None and not self._has_kernel(node.op_type, schema.since_version, variables):
            return f"{self.provider} has no {self.kind} kernel for {node.op_type}"
        return Slots(frozenset(inputs), frozenset(outputs))

    def _has_kernel(self, op_type: str, version: int, variables: set[str]) -> bool:
        wanted = f"tensor({self.kind})"
        return any(
            first <= version <= last and all(wanted in types[v] for v in variables if v in types)
            for first, last, types in (self.kernels or {}).get(op_type, ())
        )


def find_support(kind: Half, target: Target) -> Support:
    """What ``target`` can do with ``kind``."""
    name = provider(target.provider).name
    kernels = None if target.provider == "cpu" and kind == "float16" else _kernels(name)
    return Support(kind, name, kernels, _blocked() if kernels is None else frozenset())


def _kernels(name: str) -> Mapping[str, tuple[Kernel, ...]] | None:
    """The kernels of a provider for operators of the default domain; ``None`` where ONNX Runtime does not list any."""
    try:
        from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def
    except ImportError:  # this build does not tell
        return None
    found: dict[str, list[Kernel]] = {}
    for kernel in get_all_opkernel_def():
        if kernel.provider == name and kernel.domain in ("", "ai.onnx"):
            first, last = kernel.version_range
            found.setdefault(kernel.op_name, []).append((first, last, kernel.type_constraints))
    return {op: tuple(kernels) for op, kernels in found.items()} or None


def _blocked() -> frozenset[str]:
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST

    return frozenset(DEFAULT_OP_BLOCK_LIST)


def _variables(
    values: Sequence[ir.Value | None], parameters: Sequence[defs.OpSchema.FormalParameter], allowed: set[str]
) -> dict[int, str]:
    """The places of float32 values with a type variable that is allowed; the last parameter may stand for many."""
    found: dict[int, str] = {}
    for index, value in enumerate(values):
        if value is None or value.dtype != ir.DataType.FLOAT or not parameters:
            continue
        name = parameters[min(index, len(parameters) - 1)].type_str
        if name in allowed:
            found[index] = name
    return found
