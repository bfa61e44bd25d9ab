"""Which rule understands which operator."""

from __future__ import annotations

from collections.abc import Mapping

from onnxopt.pruning.rules import attention, elementwise, indexing, layout, linear, norms, recurrent, reshaping
from onnxopt.pruning.rules.einsum import einsum
from onnxopt.pruning.walk import Rule

__all__ = ["RULES"]

UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu", "Clip", "Cos"),
    *(
        "Cosh",
        "Dropout",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "IsInf",
        "IsNaN",
    ),
    *("LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign"),
    *("Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
)
BROADCAST = ("Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean", "Where", "And", "Or", "Xor", "Equal", "Greater", "Less")
POOLS = ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool")
REDUCTIONS = tuple(
    f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
)

RULES: Mapping[tuple[str, str], Rule] = {
    **{("", op): elementwise.unary for op in UNARY},
    **{("", op): elementwise.broadcast for op in (*BROADCAST, "GreaterOrEqual", "LessOrEqual")},
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
