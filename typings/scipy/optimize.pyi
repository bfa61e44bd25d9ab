# The part of SciPy's optimization that onnxopt uses; the package itself ships no types.
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

class OptimizeResult:
    x: Array

def nnls(A: Array, b: Array, *, maxiter: int | None = ...) -> tuple[Array, float]: ...
def minimize(
    fun: Callable[[Array], tuple[float, Array]],
    x0: Array,
    *,
    jac: bool = ...,
    method: str = ...,
    options: Mapping[str, object] = ...,
) -> OptimizeResult: ...
