# The part of SciPy's graph algorithms that onnxopt uses; the package itself ships no types.
from typing import Any, Literal

import numpy as np
from scipy.sparse import csr_array

class MaximumFlowResult:
    flow_value: int
    flow: csr_array

def maximum_flow(csgraph: csr_array, source: int, sink: int) -> MaximumFlowResult: ...
def breadth_first_order(
    csgraph: csr_array, i_start: int, *, return_predecessors: Literal[False]
) -> np.ndarray[Any, Any]: ...
