"""Which rule understands which operator."""

from __future__ import annotations

from collections.abc import Mapping

from onnxopt.core.operators import BROADCAST, POOLS, REDUCTIONS, UNARY
from onnxopt.pruning.rules import attention, elementwise, indexing, layout, linear, norms, recurrent, reshaping
from onnxopt.pruning.rules.einsum import einsum
from onnxopt.pruning.walk import Rule

__all__ = ["RULES"]

RULES: Mapping[tuple[str, str], Rule] = {
    **{("", op): elementwise.unary for op in UNARY},
    **{("", op): elementwise.broadcast for op in BROADCAST},
    **{("", op): elementwise.divide for op in ("Div", "Pow", "Mod")},
    **{("", op): elementwise.pool for op in POOLS},
    **{("", op): elementwise.reduce for op in REDUCTIONS},
    **{("", op): elementwise.normalise for op in ("Softmax", "LogSoftmax", "Hardmax")},
    ("", "Attention"): attention.attention,
    ("", "BatchNormalization"): norms.batch_norm,
    ("", "Concat"): indexing.concat,
    ("", "ConstantOfShape"): layout.constant_of_shape,
    ("", "Conv"): linear.conv,
    ("", "ConvTranspose"): linear.conv_transpose,
    ("", "DepthToSpace"): layout.depth_to_space,
    ("", "Einsum"): einsum,
    ("", "Expand"): layout.expand,
    ("", "Flatten"): reshaping.flatten,
    ("", "GRU"): recurrent.recurrent,
    ("", "Gather"): indexing.gather,
    ("", "Gemm"): linear.gemm,
    ("", "GroupNormalization"): norms.group_norm,
    ("", "InstanceNormalization"): norms.instance_norm,
    ("", "LRN"): norms.across,
    ("", "LSTM"): recurrent.recurrent,
    ("", "LayerNormalization"): norms.layer_norm,
    ("", "LpNormalization"): norms.lp,
    ("", "MatMul"): linear.matmul,
    ("", "MeanVarianceNormalization"): norms.variance,
    ("", "PRelu"): norms.weighed_slope,
    ("", "Pad"): layout.pad,
    ("", "RMSNormalization"): norms.layer_norm,
    ("", "RNN"): recurrent.recurrent,
    ("", "Reshape"): reshaping.reshape,
    ("", "Resize"): layout.resize,
    ("", "Shape"): layout.shape,
    ("", "Slice"): indexing.slice_,
    ("", "SpaceToDepth"): layout.space_to_depth,
    ("", "Split"): indexing.split,
    ("", "Squeeze"): layout.squeeze,
    ("", "Tile"): layout.tile,
    ("", "Transpose"): layout.transpose,
    ("", "Unsqueeze"): layout.unsqueeze,
    ("", "Upsample"): layout.resize,
    ("com.microsoft", "Attention"): attention.packed,
    ("com.microsoft", "FastGelu"): elementwise.broadcast,
    ("com.microsoft", "Gelu"): elementwise.unary,
    ("com.microsoft", "MultiHeadAttention"): attention.multi_head,
    ("com.microsoft", "QuickGelu"): elementwise.unary,
}
"""(domain, operator) -> rule; what is not here is a barrier."""
