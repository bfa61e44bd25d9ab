# The part of ONNX Runtime's float16 converter that onnxopt uses.
DEFAULT_OP_BLOCK_LIST: list[str]
