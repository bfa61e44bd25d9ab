# What ONNX Runtime tells about the kernels that are built into it; not every build does.
from collections.abc import Sequence

class KernelDef:
    op_name: str
    domain: str
    provider: str
    version_range: tuple[int, int]
    type_constraints: dict[str, list[str]]

def get_all_opkernel_def() -> Sequence[KernelDef]: ...
