"""What operations of torch do with relevance, by their names."""

MOVING = frozenset(
    [
        "reshape",
        "view",
        "flatten",
        "permute",
        "transpose",
        "t",
        "mT",
        "T",
        "contiguous",
        "clone",
        "squeeze",
        "unsqueeze",
        "expand",
        "expand_as",
        "repeat",
        "view_as",
        "unflatten",
        "movedim",
        "swapaxes",
        "__getitem__",
        "cat",
        "concat",
        "stack",
        "split",
        "tensor_split",
        "chunk",
        "unbind",
        "select",
        "narrow",
        "index_select",
        "gather",
        "roll",
        "pad",
        "constant_pad_nd",
        "flip",
        "repeat_interleave",
        "pixel_shuffle",
        "pixel_unshuffle",
        "dropout",
        "dropout2d",
        "alpha_dropout",
        "to",
        "float",
        "double",
        "type",
        "type_as",
    ]
)
PASSING = frozenset(
    [
        "relu",
        "relu_",
        "relu6",
        "elu",
        "gelu",
        "silu",
        "silu_",
        "leaky_relu",
        "leaky_relu_",
        "hardswish",
        "hardswish_",
        "hardtanh",
        "hardtanh_",
        "hardsigmoid",
        "hardsigmoid_",
        "mish",
        "softplus",
        "tanh",
        "sigmoid",
        "clamp",
    ]
)
SUMS = frozenset(["add", "__add__", "__radd__", "__iadd__", "add_", "sub", "__sub__", "__isub__", "sub_"])
PRODUCTS = frozenset(["mul", "__mul__", "__rmul__", "__imul__", "mul_", "div", "__truediv__", "__itruediv__", "div_"])
MIXING = frozenset(
    ["mean", "sum", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_avg_pool1d", "interpolate", "upsample"]
)
LINEAR = frozenset(["linear", "conv1d", "conv2d", "conv3d"])
CONSTANT = frozenset(["softmax", "log_softmax"])
PRODUCTS_OF_MATRICES = frozenset(["matmul", "__matmul__", "bmm"])
