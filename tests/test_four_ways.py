"""The same patch features and answers by the kernel, NumPy, ONNX and the exported script, on hundreds of images."""

import runpy
from dataclasses import replace

import numpy as np
import pytest
from patched import drawn, images, model_of

import onelayer.features.patches
from onelayer import Standardizer
from onelayer.export import to_onnx, write
from onelayer.kernel import kernel

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

WAYS = ("kernel", "NumPy", "ONNX", "script")
EQUAL = 0.998  # of the answers


def by_each_way(model, rows, folder):
    """The sums over views of the codes of rows (n, d), and the logits (n, K), by each way that there is here."""
    patches, found = model.features, {}
    for name, chosen in (("kernel", kernel), ("NumPy", None)):
        if name == "NumPy" or kernel is not None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(onelayer.features.patches, "kernel", chosen)
                codes = patches.transform(rows).reshape(len(rows), patches.views, -1)
                found[name] = codes.sum(axis=1, dtype=np.int64), model.logits(rows)
    some = rows.reshape(-1, *patches.image_shape)
    means = run_onnx(of_map(patches), {"rows": rows.astype(np.float32)}, "codes")
    found["ONNX"] = whole(means * patches.views), run_onnx(to_onnx(model), {"images": some}, "logits")
    write(model, folder / "model.py")
    script = runpy.run_path(str(folder / "model.py"))
    tensors = {name: np.asarray(tensor) for name, tensor in patches.tensors().items()}
    found["script"] = whole(script["features"](rows, tensors) * patches.views), script["logits"](some)
    return found


def of_map(patches):
    """The map alone as ONNX: rows to the means over views of their codes."""
    nodes, constants = patches.onnx_nodes("rows", "codes")
    kind, helper = onnx.TensorProto.FLOAT, onnx.helper
    ends = [
        helper.make_tensor_value_info(name, kind, ["n", d]) for name, d in (("rows", patches.d_in), ("codes", None))
    ]
    arrays = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "map", ends[:1], ends[1:], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


def run_onnx(content, given, wanted):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run([wanted], given)[0]


def whole(sums):
    """Sums of whole numbers, which were divided and multiplied again."""
    rounded = np.rint(sums).astype(np.int64)
    np.testing.assert_allclose(sums, rounded, atol=1e-3)
    return rounded


def counts(one, other):
    """The largest difference of a sum of codes, the shares of other sums and answers, and the rest of the logits."""
    (codes, logits), (other_codes, other_logits) = one, other
    same = (codes == other_codes).all(axis=1)
    apart = abs(logits - other_logits)[same].max(initial=0)
    answers = (logits.argmax(axis=1) != other_logits.argmax(axis=1)).mean()
    return abs(codes - other_codes).max(), (codes != other_codes).mean(), answers, apart


def test_codes_answers_and_logits_agree(tmp_path):
    shape = (3, 16, 18)
    patches, rows = drawn(shape, filters=6), images(shape, 500, seed=9).reshape(500, -1)
    codes, model = patches.transform(rows[:100]), model_of(patches)
    of_codes = Standardizer(codes.mean(axis=0), codes.std(axis=0) + 1)
    model = replace(model, standardizer=of_codes, layer=replace(model.layer, bias=np.zeros(4)))
    found = by_each_way(model, rows, tmp_path)
    first = found.pop("kernel" if "kernel" in found else "NumPy")
    assert 20 < first[0].mean() / patches.views < 150
    assert np.bincount(first[1].argmax(axis=1)).min() > 25  # all four classes are answers
    for way, other in found.items():
        largest, codes, answers, apart = counts(first, other)
        assert largest <= 2, way  # grey levels of the codes of five views
        assert codes <= 1e-3, way
        assert answers <= 1 - EQUAL, way
        assert apart <= 1e-4, way
