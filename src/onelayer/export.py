"""Export of models for ONNX, for NumPy alone and for scikit-learn: raw rows in, probabilities out.

The standardisation is part of the exported model. In float64 it is folded into the weights, X W + b = R V + c with
V = W / s and c = b - m V. ONNX models calculate in float32, in which c, the difference of larger numbers, would be
less exact: three times for CIFAR-10's pixels, and 0.001 of a probability for features 10,000 standard deviations from
zero. Their graph therefore subtracts m first, and only the scale is folded.

A linear feature map is multiplied into the weights, so the exported model does not differ from one of raw rows. Any
other map brings ONNX nodes and NumPy source of its own, or refuses.
"""

import hashlib
import inspect
import io
import json
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onelayer.errors import ConfigError, DataError
from onelayer.features.registry import PREFIX
from onelayer.features.units import FAR_OFF, SCALED_DOWN, far_off, scaled_down
from onelayer.files import require_own, write_file, write_over
from onelayer.model import Model

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

PRODUCER = "onelayer"
OPSET, IR_VERSION = 13, 7  # since onnxruntime 1.6, of 2020; the first with Softmax as everybody means it

SCRIPT = '''"""Classify rows with what onelayer learned: {formula}.

    python predict.py rows.npy

rows.npy holds rows (n, {d}): {rows}.
They are taken as they are: the standardisation is in the weights and the bias.
"""

import os
import sys
import warnings
from pathlib import Path

import numpy as np

with np.load(Path(__file__).with_suffix(".npz")) as model:
    weights, bias, class_names = model["weights"], model["bias"], model["class_names"]
    mean, scale = model["mean"], model["scale"]  # of the training rows
{tensors}DOUBT = "{doubt}"


{check}
def logits(rows):
    if not rows.ndim or rows[:1].size != {d} or rows.dtype.kind not in "buif":
        raise ValueError(f"expected rows of {d} numbers, got {{rows.dtype}} {{rows.shape}}")
    R = rows.reshape(len(rows), -1)
    if {doubtful}(R[:: len(R) // 32 + 1], mean, scale):
        warnings.warn(DOUBT)
    return {features} @ weights + bias


def of_logits(S):
{returned}


def probabilities(rows):
    return of_logits(logits(rows))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        S = logits(np.load(sys.argv[1]))
    except (OSError, ValueError, TypeError, AttributeError, EOFError) as error:
        sys.exit(f"{{sys.argv[1]}}: is not a .npy file for this model ({{error}})")
    try:
        for s, p in zip(S, of_logits(S)):
            k = s.argmax()  # the class of a row: the largest logit, and of equal ones the first
            print(class_names[k], f"{{100 * p[k]:.2f}} %")
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
'''
TENSORS = f"""\
    names = [name for name in model.files if name.startswith("{PREFIX}")]
    tensors = {{name[{len(PREFIX)}:]: model[name] for name in names}}  # of the feature map
"""
SEAL = "# onelayer export "  # begins the last line of a script, which ends in the SHA-256 of those above it
MARK = b"onelayer export"  # the comment of the .npz archive


def write(model: Model, path: Path, format: str | None = None) -> list[Path]:
    """Write a model for another program, and return the files.

    Parameters
    ----------
    model : Model
    path : Path
        An existing file is replaced only if an export wrote it; a pickle never is.
    format : str or None
        A key of `EXPORTERS`; by default the suffix of `path` decides.

    Raises
    ------
    ConfigError
        If the suffix belongs to no format, or a package that is needed is not installed.
    DataError
        If the format cannot hold this model.
    RunError
        If a file cannot be written.
    """
    if format is None:
        format = next((name for name, (suffix, _) in EXPORTERS.items() if suffix == path.suffix), None)
    if format not in EXPORTERS:
        known = ", ".join(f"{suffix} ({name})" for name, (suffix, _) in EXPORTERS.items())
        raise ConfigError(f"{path}: the suffix is not one of {known}; change it, or pass --format")
    return EXPORTERS[format][1](model, path)


def to_onnx(model: Model) -> bytes:
    """Return an ONNX model in float32, for images (batch, c, h, w) or features (batch, d).

    Images are uint8 if the model is one of pixels, else float32, as features are.

    Its outputs are ``probabilities`` (batch, K); ``label`` (batch,), int64, the place of the class among the names, by
    the rule of `onelayer.layer.likeliest`; and ``logits`` (batch, K). Its metadata hold ``class_names`` and
    ``image_shape``, as JSON, and ``loss``. The same model gives the same bytes.

    Raises
    ------
    ConfigError
        If the package ``onnx`` is not installed.
    DataError
        If ONNX has no operator for the probabilities of the model's loss, or the model's features cannot be exported.
    """
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise ConfigError(f"ONNX needs the package onnx: pip install onnx ({error})") from None
    operation = model.layer.loss.onnx
    if operation is None:
        raise DataError(f"ONNX has no operator for the probabilities of the loss {model.layer.loss.name}")
    model = model.without_linear_map
    exact = model.in_float64()
    mean = exact.standardizer.mean.astype(np.float32)
    V = (exact.layer.weights.T / exact.standardizer.scale).T  # (d, K)
    bias = exact.layer.bias + (mean - exact.standardizer.mean) @ V  # with what rounding took from the mean
    arrays = {"mean": mean, "weights": V.astype(np.float32, order="C"), "bias": bias.astype(np.float32)}
    K = V.shape[1]
    given, nodes, features, more = _onnx_features(model)
    arrays |= more
    nodes.append(helper.make_node("Sub", [features, "mean"], ["centred"]))
    nodes.append(helper.make_node("Gemm", ["centred", "weights", "bias"], ["logits"]))
    operator, attributes = operation
    nodes.append(helper.make_node(operator, ["logits"], ["probabilities"], **attributes))
    nodes.append(helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0, select_last_index=0))
    answers = [
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", K]),
        helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", K]),
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "onelayer", [given], answers, constants)
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name=PRODUCER,
        producer_version=version("onelayer"),
    )
    metadata = {"class_names": json.dumps(model.class_names), "image_shape": json.dumps(model.image_shape)}
    helper.set_model_props(made, {**metadata, "loss": model.layer.loss.name})
    return made.SerializeToString()


def _onnx_features(model: Model) -> tuple[Any, list[Any], str, dict[str, np.ndarray]]:
    """Return the input of an ONNX graph, nodes from it to the features, the name of the features, and constants."""
    from onnx import TensorProto, helper

    if model.image_shape is None:
        given = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", model.features.d_in])
        nodes, rows = [], "features"
    else:
        kind = TensorProto.UINT8 if model.pixels else TensorProto.FLOAT
        given = helper.make_tensor_value_info("images", kind, ["batch", *model.image_shape])
        nodes, rows = [helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT)], "rows"
        nodes.append(helper.make_node("Flatten", ["pixels"], ["rows"]))
    if model.features.linear:
        return given, nodes, rows, {}
    mapped, constants = model.features.onnx_nodes(rows, "mapped")
    return given, nodes + mapped, "mapped", constants


def to_numpy(model: Model) -> tuple[str, bytes]:
    """Return a script of a few lines that needs only NumPy, and the ``.npz`` that it reads.

    Raises
    ------
    DataError
        If the model's loss has no NumPy text, or its features cannot be exported for NumPy.
    """
    loss = model.layer.loss
    if loss.numpy is None:
        raise DataError(f"the probabilities of the loss {loss.name} cannot be exported as a NumPy script")
    model = model.without_linear_map
    mapped = "" if model.features.linear else f"\n{model.features.numpy_source().strip()}\n\n"
    exact = model.in_float64()
    folded = exact.standardizer.fold(exact.layer)
    arrays = {"weights": folded.weights, "bias": folded.bias, "class_names": np.array(model.class_names)}
    arrays |= {"mean": exact.of_rows.mean, "scale": exact.of_rows.scale}
    arrays |= {PREFIX + name: tensor for name, tensor in exact.features.tensors().items()}
    content = io.BytesIO()
    np.savez(content, **arrays)
    with zipfile.ZipFile(content, "a") as archive:
        archive.comment = MARK
    rows = "pixels 0 to 255" if model.pixels else "features as they were trained on"
    if model.image_shape is not None:
        c, h, w = model.image_shape
        rows += f" of images, flattened from ({c}, {h}, {w})"
    check, doubt = (scaled_down, SCALED_DOWN) if model.pixels else (far_off, FAR_OFF)
    script = SCRIPT.format(
        formula=f"{loss.name} of a matrix product",
        d=model.features.d_in,
        rows=rows,
        tensors=TENSORS if mapped else "",
        features="features(R, tensors)" if mapped else "R",
        check=inspect.getsource(check) + "\n" + mapped,
        doubtful=check.__name__,
        doubt=doubt,
        returned=loss.numpy,
    )
    script += f"\n\n{SEAL}{hashlib.sha256(script.encode()).hexdigest()}\n"
    return script, content.getvalue()


def to_logistic_regression(model: Model) -> "LogisticRegression":
    """Return a fitted `sklearn.linear_model.LogisticRegression` with the same probabilities, for raw rows (n, d).

    Its `classes_` are the sorted class names, as scikit-learn requires; columns of probabilities are in this order.

    Raises
    ------
    DataError
        If the probabilities are not the softmax of the logits, the features are not linear, or there is one class.
    """
    from sklearn.linear_model import LogisticRegression

    if not model.layer.loss.exclusive:
        raise DataError(
            f"LogisticRegression is a softmax of the logits, and the loss {model.layer.loss.name} has other "
            "probabilities; export the model for ONNX or NumPy"
        )
    if not model.features.linear:
        raise DataError(
            f"LogisticRegression is linear, the features {model.features.name} are not; "
            "export the model for ONNX or NumPy"
        )
    model = model.on_raw_rows
    if len(model.class_names) < 2:
        raise DataError("LogisticRegression needs at least two classes, this model has one")
    exact = model.in_float64()
    folded = exact.standardizer.fold(exact.layer)
    names = np.array(model.class_names)
    order = np.argsort(names)
    coefficients, intercepts = folded.weights.T[order], folded.bias[order]  # (K, d), (K,)
    if len(names) == 2:  # scikit-learn keeps one row of coefficients, for the second class
        coefficients, intercepts = np.diff(coefficients, axis=0), np.diff(intercepts)
    classifier = LogisticRegression()
    classifier.classes_ = names[order]
    classifier.coef_, classifier.intercept_ = np.ascontiguousarray(coefficients), intercepts
    classifier.n_features_in_ = coefficients.shape[1]
    classifier.n_iter_ = np.zeros(1, np.int32)  # of scikit-learn's solver, which did not run
    return classifier


def _write_onnx(model: Model, path: Path) -> list[Path]:
    write_over(path, to_onnx(model), _is_onnx)
    return [path]


def _is_onnx(content: bytes) -> bool:
    from onnx import load_model_from_string

    try:
        found = load_model_from_string(content)
    except Exception:  # of the package that onnx decodes with
        return False
    return (found.producer_name, found.graph.name) == (PRODUCER, "onelayer")


def _write_numpy(model: Model, path: Path) -> list[Path]:
    if path.suffix != ".py":
        raise ConfigError(f"{path}: a Python script and a .npz beside it are written; let the name end in .py")
    script, content = to_numpy(model)
    numbers = path.with_suffix(".npz")
    require_own(numbers, _is_archive)
    write_over(path, script.encode(), _is_script)
    write_file(numbers, content)
    return [path, numbers]


def _is_script(content: bytes) -> bool:
    """Return whether this is an exported script that nobody has changed."""
    script, _, digest = content.rpartition(f"\n\n{SEAL}".encode())
    return digest == f"{hashlib.sha256(script).hexdigest()}\n".encode()


def _is_archive(content: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.comment == MARK
    except zipfile.BadZipFile:
        return False


def _write_sklearn(model: Model, path: Path) -> list[Path]:
    import joblib

    if path.exists():  # a pickle does not say who wrote it
        raise ConfigError(f"{path} exists; choose another name, or move it away")
    content = io.BytesIO()
    joblib.dump(to_logistic_regression(model), content)
    write_file(path, content.getvalue())
    return [path]


# Suffix of the file, and the function that writes it.
EXPORTERS: dict[str, tuple[str, Callable[[Model, Path], list[Path]]]] = {
    "onnx": (".onnx", _write_onnx),
    "numpy": (".py", _write_numpy),
    "sklearn": (".joblib", _write_sklearn),
}
