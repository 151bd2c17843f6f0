"""A small convolutional network in an ONNX file, as an encoder, and the same in NumPy."""

from pathlib import Path

import numpy as np
import pytest

from onelayer.errors import DataError
from onelayer.features.encoder import Encoder

SIDE = 12  # pixels down and across that the network takes
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SETTINGS = f"""\
size = {SIDE}
resize = {SIDE}
interpolation = "bicubic"
mean = {list(MEAN)}
std = {list(STD)}
layout = "NCHW"
"""
DIMENSIONS = 6


def weights(channels: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "A": rng.normal(0, 0.3, (4, channels, 3, 3)).astype(np.float32),
        "a": rng.normal(0, 0.3, 4).astype(np.float32),
        "B": rng.normal(0, 0.5, (4, DIMENSIONS)).astype(np.float32),
        "b": rng.normal(0, 0.5, DIMENSIONS).astype(np.float32),
    }


def prepared(R: np.ndarray, mean: tuple = MEAN, std: tuple = STD) -> np.ndarray:
    """Images (n, c, h, w) as the network takes them."""
    return (R / 255 - np.reshape(mean, (-1, 1, 1))) / np.reshape(std, (-1, 1, 1))


def oracle(X: np.ndarray) -> np.ndarray:
    """Codes (n, 6) of prepared images (n, c, h, w): the mean of max(conv + a, 0), times B, plus b, in float64."""
    W = {name: array.astype(np.float64) for name, array in weights(X.shape[1]).items()}
    n, _, h, w = X.shape
    total = np.zeros((n, 4))
    places = [(y, x) for y in range(0, h - 2, 2) for x in range(0, w - 2, 2)]
    for y, x in places:
        total += np.maximum(np.einsum("ncij,fcij->nf", X[:, :, y : y + 3, x : x + 3].astype(float), W["A"]) + W["a"], 0)
    return total / len(places) @ W["B"] + W["b"]


def network(
    *,
    channels: int = 3,
    batch: int | str = "n",
    layout: str = "NCHW",
    opset: int = 13,
    last: tuple = (),
    kind: str = "FLOAT",
    more_outputs: tuple = (),
    domain: str = "",
):
    """Return the network as ONNX; `last` are nodes from "F" to the output "codes", by default none."""
    from onnx import TensorProto, helper, numpy_helper

    node, of_type = helper.make_node, getattr(TensorProto, kind)
    shape = [batch, channels, SIDE, SIDE] if layout == "NCHW" else [batch, SIDE, SIDE, channels]
    nodes = [node("Transpose", ["images"], ["X"], perm=[0, 3, 1, 2])] if layout == "NHWC" else []
    nodes += [
        node("Conv", ["images" if layout == "NCHW" else "X", "A", "a"], ["C"], strides=[2, 2], kernel_shape=[3, 3]),
        node("Relu", ["C"], ["U"]),
        node("GlobalAveragePool", ["U"], ["pooled"]),
        node("Flatten", ["pooled"], ["G"]),
        node("Gemm", ["G", "B", "b"], ["F" if last else "codes"]),
        *last,
    ]
    arrays = {name: array.astype(helper.tensor_dtype_to_np_dtype(of_type)) for name, array in weights(channels).items()}
    outputs = ["codes", *more_outputs]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("images", of_type, shape)],
        [helper.make_tensor_value_info(name, of_type, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", opset), *[helper.make_opsetid(domain, 1)] * bool(domain)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def written(folder: Path, settings: str | None = SETTINGS, **options: object) -> Path:
    """Write the network and its settings, and return the path of the network."""
    path = folder / "encoder.onnx"
    path.write_bytes(network(**options).SerializeToString())
    if settings is not None:
        path.with_suffix(".toml").write_text(settings)
    return path


def refused(path, words, shape=(3, SIDE, SIDE), error=DataError):
    """Assert that an encoder is refused in one line that begins with its folder."""
    with pytest.raises(error, match=words) as caught:
        Encoder.read_files(path, shape)
    message = str(caught.value)
    assert message.startswith(str(path.parent)), message
    assert message.isprintable(), message
