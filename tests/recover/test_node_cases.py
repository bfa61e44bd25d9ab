"""Every operator of the trainer against the cases that onnx ships for it."""

from __future__ import annotations

from dataclasses import replace

import onnx
import torch

from onnxopt.core.io import _normalize  # pyright: ignore[reportPrivateUsage]
from onnxopt.core.proto import from_proto
from onnxopt.errors import ModelError
from onnxopt.recover.bridge.module import Bridge
from onnxopt.recover.bridge.registry import known
from tests.suites.backend_cases import Case, _array, cases, difference

REASONS = ("cannot be trained through", "training mode", "codes of type", "columns of other than two dimensions")
"""Why a case may be refused: strings, floats of 8 bits and fewer, random numbers."""


def covered(case: Case) -> bool:
    if not all(v.type.HasField("tensor_type") for v in case.model.graph.input):
        return False  # sequences and optional values
    return not case.name.endswith("_expanded") and {n.op_type for n in case.model.graph.node} <= set(known())


def run(case: Case) -> str | None:
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model)
    _normalize(proto)
    bridge = Bridge(from_proto(proto), promote=False, train=False)
    results = []
    for inputs, _ in case.data_sets:
        feeds = {v.name: _array(x) for v, x in zip(proto.graph.input, inputs, strict=False) if x is not None}
        found = bridge.run(feeds)
        results.append([found[v.name] for v in proto.graph.output])
    expected = [_array(x) for _, outputs in case.data_sets for x in outputs if x is not None]
    if any(x.dtype.name in ("float16", "bfloat16") for x in expected):
        case = replace(case, rtol=2e-2, atol=1e-3)  # a chain of operators rounds in another order here
    return difference(case, results)


def test_all_cases_of_the_operators_pass_or_are_refused_with_a_reason():
    torch.set_num_threads(1)
    passed: dict[str, int] = {}
    wrong: list[str] = []
    refused: list[str] = []
    for case in cases("node"):
        if not covered(case):
            continue
        try:
            problem = run(case)
        except ModelError as error:
            if not any(reason in error.what for reason in REASONS):
                wrong.append(f"{case.name}: {error.what}")
            refused.append(case.name)
            continue
        if problem is not None:
            wrong.append(f"{case.name}: {problem}")
        for node in case.model.graph.node:
            passed[node.op_type] = passed.get(node.op_type, 0) + 1
    assert wrong == []
    assert len(passed) >= 150 and sum(passed.values()) >= 1000, (len(passed), sum(passed.values()))
    assert len(refused) < 90, refused
    never = set(known()) - set(passed)
    assert never <= {"GlobalLpPool", "Scatter", "Upsample"}, never
