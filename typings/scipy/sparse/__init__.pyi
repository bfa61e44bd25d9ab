# The part of SciPy's sparse arrays that onnxopt uses; the package itself ships no types.
from typing import Any, overload

import numpy as np

Array = np.ndarray[Any, Any]

class csr_array:
    T: csr_array
    @overload
    def __init__(self, arg: csr_array, /) -> None: ...
    @overload
    def __init__(self, arg: tuple[Array, tuple[Array, Array]], shape: tuple[int, int], /) -> None: ...
    def __sub__(self, other: csr_array, /) -> csr_array: ...
    def __gt__(self, other: float, /) -> csr_array: ...
