# The part of ONNX Runtime's Python interface that onnxopt uses; the package itself ships no complete types.
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

import numpy as np

__version__: str

class GraphOptimizationLevel(IntEnum):
    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_LAYOUT = 3
    ORT_ENABLE_ALL = 99

class SessionOptions:
    intra_op_num_threads: int
    inter_op_num_threads: int
    log_severity_level: int
    graph_optimization_level: GraphOptimizationLevel
    enable_profiling: bool
    profile_file_prefix: str
    optimized_model_filepath: str
    def add_session_config_entry(self, key: str, value: str, /) -> None: ...

class NodeArg:
    name: str
    type: str
    shape: list[int | str | None]

class OrtEpAssignedNode:
    name: str
    op_type: str
    domain: str

class OrtEpAssignedSubgraph:
    ep_name: str
    def get_nodes(self) -> Sequence[OrtEpAssignedNode]: ...

class OrtValue:
    @classmethod
    def ortvalue_from_numpy(
        cls, numpy_obj: np.ndarray[Any, Any], device_type: str = ..., device_id: int = ...
    ) -> OrtValue: ...

class IOBinding:
    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None: ...
    def bind_output(self, name: str, device_type: str = ..., device_id: int = ...) -> None: ...
    def synchronize_outputs(self) -> None: ...

class InferenceSession:
    def __init__(
        self,
        path_or_bytes: str | bytes,
        sess_options: SessionOptions | None = ...,
        providers: Sequence[str | tuple[str, Mapping[str, str]]] | None = ...,
        *,
        enable_fallback: int = ...,
        disabled_optimizers: Sequence[str] | None = ...,
    ) -> None: ...
    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any]) -> list[np.ndarray[Any, Any]]: ...
    def io_binding(self) -> IOBinding: ...
    def run_with_iobinding(self, iobinding: IOBinding) -> None: ...
    def end_profiling(self) -> str: ...
    def get_inputs(self) -> Sequence[NodeArg]: ...
    def get_outputs(self) -> Sequence[NodeArg]: ...
    def disable_fallback(self) -> None: ...
    def get_providers(self) -> list[str]: ...

def get_available_providers() -> list[str]: ...
def set_default_logger_severity(severity: int, /) -> None: ...
def disable_telemetry_events() -> None: ...
