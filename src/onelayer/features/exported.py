"""Patch features for other programs: ONNX nodes, and a function of NumPy alone. Both return means over the views."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from onelayer.features.filters import EPSILON
from onelayer.features.pooling import GRID, MOVES, THRESHOLD, Pool, shift_of

PREFIX = "features."


class Nodes:
    """ONNX nodes under names of their own, and their constants."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, value: ArrayLike) -> str:
        """Return the name of a constant; whole numbers are int64."""
        name = f"{PREFIX}constant{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def add(self, operator: str, *inputs: str, result: str = "", **attributes: Any) -> str:
        """Add a node, and return the name of its result."""
        from onnx import helper

        result = result or f"{PREFIX}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [result], **attributes))
        return result


def onnx_nodes(pools: Sequence[Pool], rows: str, features: str) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Return nodes from rows (batch, c h w) to the means over views of codes (batch, d), and their constants."""
    graph = Nodes()
    images = graph.add("Reshape", rows, graph.constant([-1, *pools[0].image_shape]))
    of_banks = [_codes(graph, pool, images) for pool in pools]
    graph.add("Concat", *of_banks, result=features, axis=1)
    return graph.nodes, graph.constants


def _codes(graph: Nodes, pool: Pool, images: str) -> str:
    """Add nodes to the means over views of the codes of one bank (batch, features), and return their name."""
    add, constant, bank = graph.add, graph.constant, pool.bank
    down, across = pool.axes
    z = add("Mul", add("Conv", images, constant(bank.filters)), _contrast(graph, pool, images))
    z = add("Add", z, constant(bank.bias[:, None, None]))
    u = add("Concat", z, add("Neg", z), axis=1)  # (batch, 2 F, down, across)
    u = add("Relu", add("Sub", u, constant(np.float32(THRESHOLD))))
    f = add("MatMul", constant(down.averages), add("MatMul", u, constant(across.averages.T.copy())))
    groups, ranges = (2 if pool.mirrored else 1), len(across.ranges)
    f = add("Reshape", f, constant([-1, 2, groups, pool.in_window // 2, len(down.ranges) * ranges]))
    y, x, twin_x, _ = pool.windows(0, pool.features).T
    of_groups = [
        add("Gather", add("Gather", f, constant(np.int64(group)), axis=2), constant(y * ranges + columns), axis=3)
        for group, columns in zip(range(groups), (x, twin_x), strict=False)
    ]  # each (batch, 2, K, windows of all views)
    f = of_groups[0] if groups == 1 else add("Mul", add("Add", *of_groups), constant(np.float32(0.5)))
    levels = add("Min", add("Mul", add("Sqrt", f), constant(np.float32(255 / bank.largest))), constant(np.float32(255)))
    q = add("Floor", add("Add", levels, constant(np.float32(0.5))))
    q = add("Reshape", q, constant([0, 0, 0, pool.views, -1]))
    q = add("ReduceMean", q, axes=[3], keepdims=0)  # (batch, 2, K, windows)
    return add("Flatten", add("Transpose", q, perm=[0, 3, 1, 2]))


def _contrast(graph: Nodes, pool: Pool, images: str) -> str:
    """Add nodes to 1 / sqrt(variance of a patch + 10). Sums are whole numbers and exact; the rest is in float64."""
    from onnx import TensorProto

    add, constant = graph.add, graph.constant
    ones = constant(np.ones((1, *pool.bank.filters.shape[1:]), np.float32))
    n = float(pool.bank.filters[0].size)
    sums = add("Conv", images, ones), add("Conv", add("Mul", images, images), ones)
    total, squares = (add("Cast", of_pixels, to=TensorProto.DOUBLE) for of_pixels in sums)
    spread = add("Sub", add("Mul", squares, constant(np.float64(n))), add("Mul", total, total))
    variance = add("Mul", spread, constant(np.float64(1 / n**2)))
    deviation = add("Sqrt", add("Add", variance, constant(np.float64(EPSILON))))
    return add("Cast", add("Reciprocal", deviation), to=TensorProto.FLOAT)


def numpy_source(pools: Sequence[Pool]) -> str:
    """Return the source of a function ``features(R, tensors)``."""
    c, h, w = pools[0].image_shape
    shift = shift_of(pools[0].image_shape) if pools[0].views > 1 else 0
    sizes = tuple(pool.bank.filters.shape[2] for pool in pools)
    return f"""
def features(R, tensors):
    def windows(length, move):
        inside = length - {2 * shift}
        count = min({GRID}, inside)
        first, stride = {shift} * (1 + move), inside // count
        width = inside - (count - 1) * stride
        return [slice(first + stride * i, first + stride * i + width) for i in range(count)]

    def codes(image, k, largest):  # means over views
        A, b = tensors[f"filters.{{k}}"], tensors[f"bias.{{k}}"]
        x = np.lib.stride_tricks.sliding_window_view(image, (k, k), axis=(1, 2)).transpose(1, 2, 0, 3, 4)
        down, across = x.shape[:2]
        x = x.reshape(down * across, -1)
        z = x @ A.reshape(len(A), -1).T / np.sqrt(x.var(axis=1, keepdims=True) + {EPSILON}) + b
        u = np.maximum(np.concatenate([z, -z], axis=1) - {THRESHOLD}, 0).reshape(down, across, 2, -1)
        total = 0
        for move_down, move_across in {MOVES[: pools[0].views]}:
            columns = windows(across, move_across)
            pairs = [(y, pair) for y in windows(down, move_down) for pair in zip(columns, columns[::-1])]
            f = np.array([u[y, x].mean(axis=(0, 1)) for y, (x, _) in pairs])  # (windows, 2, filters)
            if {pools[0].mirrored}:  # the second half of the filters are the first half, mirrored
                K = len(A) // 2
                twins = np.array([u[y, x].mean(axis=(0, 1)) for y, (_, x) in pairs])
                f = (f[:, :, :K] + twins[:, :, K:]) / 2
            total = total + np.floor(np.minimum(np.sqrt(f) * (255 / largest), 255) + 0.5)
        return total.ravel() / {pools[0].views}

    images = R.reshape(-1, {c}, {h}, {w}).astype(np.float64)
    banks = list(zip({sizes}, tensors["largest"]))
    return np.array([np.concatenate([codes(image, *bank) for bank in banks]) for image in images])
"""
