"""An encoder in an ONNX file as a feature map, compared with the same network in NumPy; and every way to refuse one."""

import copy
import json
import pickle
import re
import sys
from itertools import pairwise

import numpy as np
import pytest
from helpers import toy_splits
from networks import DIMENSIONS, MEAN, SETTINGS, SIDE, STD, network, oracle, prepared, refused, written

from onelayer import Model, evaluate, explain, train
from onelayer.coded import coded
from onelayer.config import SplitConfig, TrainConfig
from onelayer.data.dataset import Dataset
from onelayer.data.protocols import split
from onelayer.errors import ConfigError, DataError, ModelFileError
from onelayer.export import to_numpy, to_onnx
from onelayer.features import encoder as encoder_module
from onelayer.features.encoder import Encoder
from onelayer.features.registry import FEATURE_MAPS

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper, numpy_helper, TensorProto = onnx.helper, onnx.numpy_helper, onnx.TensorProto
load_model, save_model = onnx.load_model, onnx.save_model

SHAPE = (3, SIDE, SIDE)
HALF = 2.0**-11  # of a number, which float16 rounds away at most


def node(operator, *inputs, output="codes", **options):
    return helper.make_node(operator, list(inputs), [output], **options)


def images(n=5, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


class TestCodes:
    @pytest.mark.parametrize("batch", ["n", 1, 4, 40])
    def test_are_those_of_the_network(self, tmp_path, batch):
        encoder = Encoder.read_files(written(tmp_path, batch=batch), SHAPE)
        R = images(75)
        expected = oracle(prepared(R))
        codes = encoder.transform(R.reshape(75, -1))
        assert (codes.dtype, codes.shape, encoder.d_out) == (np.float16, (75, DIMENSIONS), DIMENSIONS)
        assert np.ptp(expected, axis=0).min() > 0.2
        assert codes == pytest.approx(expected, rel=HALF, abs=1e-5)
        np.testing.assert_array_equal(encoder.transform(R.reshape(75, -1).astype(np.float64), threads=1), codes)
        assert encoder.transform(R[:0].reshape(0, 432)).shape == (0, DIMENSIONS)

    def test_are_kept_under_the_version_of_the_runtime(self, tmp_path, monkeypatch):
        monkeypatch.setattr("onelayer.data.cache.cache_directory", lambda: tmp_path / "cache")
        encoder = Encoder.read_files(written(tmp_path), SHAPE)
        rows, labels = images(75).reshape(75, -1), np.arange(75) % 3
        splits = split(Dataset(rows, labels, ("a", "b", "c"), SHAPE, "noise", source="noise"), SplitConfig())
        for version, entries in (("1.0", 1), ("1.0", 1), ("1.1", 2)):
            monkeypatch.setattr("onnxruntime.__version__", version)
            coded(splits, encoder)
            assert len(list((tmp_path / "cache" / "rows").glob("*.rows"))) == entries

    def test_are_those_of_a_copy(self, tmp_path):
        encoder = Encoder.read_files(written(tmp_path), SHAPE)
        R = images().reshape(5, -1)
        codes = encoder.transform(R)
        for copied in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
            np.testing.assert_array_equal(copied.transform(R), codes)

    def test_of_greys_and_colours_and_the_other_layout(self, tmp_path):
        grey = images(6, (1, SIDE, SIDE))
        in_three = Encoder.read_files(written(tmp_path), (1, SIDE, SIDE)).transform(grey.reshape(6, -1))
        assert in_three == pytest.approx(oracle(prepared(np.repeat(grey, 3, axis=1))), rel=HALF, abs=1e-5)
        settings = SETTINGS.replace(str(list(MEAN)), "[0.5]").replace(str(list(STD)), "[0.25]")
        path = written(tmp_path, settings, channels=1)
        codes = Encoder.read_files(path, (1, SIDE, SIDE)).transform(grey.reshape(6, -1))
        assert codes == pytest.approx(oracle(prepared(grey, [0.5], [0.25])), rel=HALF, abs=1e-5)
        colour = images(6)  # made grey as Pillow does, with the weights of ITU-R 601
        weighted = np.einsum("ncyx,c->nyx", colour, [0.299, 0.587, 0.114])[:, None]
        codes = Encoder.read_files(path, SHAPE).transform(colour.reshape(6, -1))
        assert codes == pytest.approx(oracle(prepared(weighted, [0.5], [0.25])), abs=0.02)
        path = written(tmp_path, SETTINGS.replace("NCHW", "NHWC"), layout="NHWC")
        codes = Encoder.read_files(path, SHAPE).transform(colour.reshape(6, -1))
        assert codes == pytest.approx(oracle(prepared(colour)), rel=HALF, abs=1e-5)

    def test_of_a_network_in_float16(self, tmp_path):
        codes = Encoder.read_files(written(tmp_path, kind="FLOAT16"), SHAPE).transform(images().reshape(5, -1))
        assert codes == pytest.approx(oracle(prepared(images())), rel=4e-3, abs=4e-3)

    def test_of_the_output_that_is_named_and_normalised(self, tmp_path):
        path = written(tmp_path, SETTINGS + 'output = "pooled"\nnormalise = true\n', more_outputs=("pooled",))
        codes = Encoder.read_files(path, SHAPE).transform(images().reshape(5, -1)).astype(float)
        assert codes.shape == (5, 4)
        assert np.linalg.norm(codes, axis=1) == pytest.approx(1, abs=1e-3)
        path.with_suffix(".toml").write_text(SETTINGS + 'output = "codes"\nnormalise = true\n')
        codes = Encoder.read_files(path, SHAPE).transform(images().reshape(5, -1))
        expected = oracle(prepared(images()))
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        assert codes == pytest.approx(expected, rel=HALF, abs=1e-5)

    def test_rows_of_other_numbers_are_refused(self, tmp_path):
        encoder = Encoder.read_files(written(tmp_path), SHAPE)
        for value in (0.5, -1.0, 256.0, np.nan):
            with pytest.raises(DataError, match=r"^the features onnx are of pixels, whole numbers from 0 to 255; pass"):
                encoder.transform(np.full((1, 432), value))


class TestNetworkThatIsRefused:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"opset": 99}, r"onnxruntime cannot load it \(.*Opset 99.*with an opset that it knows \(this is 99\)"),
            ({"last": (node("Log", "F"),)}, "a number for image 0 of 7 is not finite; correct the encoder"),
            ({"last": (node("Foo", "F", domain="com.x"),), "domain": "com.x"}, "needs the operator com.x.Foo, which"),
            ({"last": (node("Foo", "F"),)}, r"onnxruntime cannot load it \(.*Foo.*\); export it again"),
            ({"last": (node("RandomNormalLike", "F"),)}, r"the second time; make it .*model.eval\(\)"),
            ({"last": (node("Softmax", "F", axis=0),)}, r"by themselves than in a batch of 7 \(by .*model.eval\(\)"),
            ({"last": (node("Gather", "F", "far"),)}, r"onnxruntime cannot run it \(.*out of data bounds.*export it"),
            ({"more_outputs": ("pooled",)}, "has several outputs; write one of these as output: codes, pooled"),
            ({"last": (node("Transpose", "F"),)}, r"output codes has the shape \(6, 7\) for 7 images; name an output"),
            ({"last": (node("Unsqueeze", "F", "far"),)}, "onnxruntime cannot"),
            ({"last": (node("Cast", "F", to=TensorProto.INT64),)}, "onnxruntime cannot load|name an output of floats"),
            ({"channels": 1}, r"takes tensor\(float\) of the shape \('n', 1, 12, 12\); the settings beside it are for"),
            ({"kind": "DOUBLE"}, "onnxruntime cannot load it|takes tensor.double. of the shape"),
            ({"layout": "NHWC"}, "the settings beside it are for"),
            ({"batch": 10**9}, "takes batches of 1,000,000,000 images; export it with another size"),
        ],
    )
    def test_in_one_line(self, tmp_path, options, words):
        path = written(tmp_path, **options)
        model = load_model(path)
        model.graph.initializer.append(numpy_helper.from_array(np.array([5000]), "far"))
        save_model(model, path)
        refused(path, words)

    def test_with_two_inputs(self, tmp_path):
        path = written(tmp_path)
        model = load_model(path)
        model.graph.input.append(helper.make_tensor_value_info("words", TensorProto.INT64, ["n", 77]))
        save_model(model, path)
        refused(path, "its inputs are images, words; export the part that takes images alone")

    def test_that_reads_another_file(self, tmp_path, monkeypatch):
        """Also in a graph within a node, and as the Python package writes it."""
        path = written(tmp_path)
        save_model(load_model(path), path, save_as_external_data=True, size_threshold=0, location="weights.bin")
        refused(path, r"its weights are in another file; write it as one file: onnx.save_model\(onnx.load")
        save_model(load_model(path), path)  # as the message says
        assert Encoder.read_files(path, SHAPE).d_out == DIMENSIONS
        secret = TensorProto(name="x", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
        secret.external_data.add(key="location", value="../../etc/passwd")
        inner = helper.make_graph([node("Identity", "x", output="y")], "inner", [], [], [secret])
        inner.output.append(helper.make_tensor_value_info("y", 1, None))
        model = network(last=(node("If", "F", then_branch=inner, else_branch=inner),))
        path.write_bytes(model.SerializeToString())
        refused(path, "its weights are in another file")
        path.write_bytes(network(last=(node("Constant", value=secret),)).SerializeToString())
        refused(path, "its weights are in another file")

    def test_functions_of_the_file_are_its_own(self, tmp_path):
        twice = helper.make_function("mine", "Twice", ["x"], ["y"], [node("Add", "x", "x", output="y")], [], [])
        twice.opset_import.add(domain="", version=13)
        path = written(tmp_path, domain="mine", last=(node("Twice", "F", domain="mine"),))
        refused(path, "needs the operator mine.Twice")
        model = load_model(path)
        model.functions.append(twice)
        save_model(model, path)
        codes = Encoder.read_files(path, SHAPE).transform(images().reshape(5, -1))
        assert codes == pytest.approx(2 * oracle(prepared(images())), rel=HALF, abs=2e-5)

    @pytest.mark.parametrize("levels", [3, 40, 150])
    def test_functions_that_double_again_and_again(self, tmp_path, levels):
        """40 functions, each of two calls of the next, are 10^12 operators; 150 of one call are nested too deeply."""
        path = written(tmp_path, domain="mine", last=(node("F0", "F", domain="mine"),))
        model = load_model(path)
        opsets = [helper.make_opsetid("", 13), helper.make_opsetid("mine", 1)]
        for level in range(levels):
            inner = {"domain": "mine"} if level + 1 < levels else {}
            name = f"F{level + 1}" if inner else "Identity"
            steps = ["x", "y"] if levels == 150 else ["x", "z", "y"]
            nodes = [node(name, a, output=b, **inner) for a, b in pairwise(steps)]
            model.functions.append(helper.make_function("mine", f"F{level}", ["x"], ["y"], nodes, opsets, []))
        save_model(model, path)
        if levels == 3:
            codes = Encoder.read_files(path, SHAPE).transform(images().reshape(5, -1))
            assert codes == pytest.approx(oracle(prepared(images())), rel=HALF, abs=1e-5)
        else:
            refused(path, "its functions stand for too many operators; export it without functions")

    @pytest.mark.parametrize(
        "content", [b"", b"onnx", b"\x0a" * 1000, b"\x08\x08", onnx.ModelProto().SerializeToString()]
    )
    def test_that_is_no_network(self, tmp_path, content):
        path = written(tmp_path)
        path.write_bytes(content)
        refused(path, "is damaged or not an ONNX file; export the encoder again")
        path.write_bytes(b"\0\0\0\0ORTM" + content)  # the format of onnxruntime, whose files are not looked at
        refused(path, "is damaged or not an ONNX file")

    def test_that_is_cut_off_or_changed(self, tmp_path):
        path = written(tmp_path)
        content = path.read_bytes()
        rng = np.random.default_rng(0)
        for trial in range(60):
            damaged = bytearray(content)
            for place in rng.integers(0, len(content), 3):
                damaged[place] = rng.integers(256)
            path.write_bytes(bytes(damaged) if trial % 2 else content[: rng.integers(len(content))])
            try:
                Encoder.read_files(path, SHAPE)
            except DataError as error:
                assert str(error).isprintable()

    def test_that_is_not_there_or_too_large(self, tmp_path, monkeypatch):
        refused(tmp_path / "a.onnx", "a.onnx: no such file; pass an ONNX file")
        refused(tmp_path, "is not a file; pass an ONNX file")
        monkeypatch.setattr(encoder_module, "MOST_BYTES", 100)
        refused(
            written(tmp_path), "bytes are more than the 100 that a model file can hold; compute the codes elsewhere"
        )

    def test_rows_that_it_cannot_take(self, tmp_path):
        path = written(tmp_path)
        refused(path, "encodes images, and the rows are not images; leave it out", None, ConfigError)
        refused(path, "encodes grey or colour images, not images of 4 channels", (4, 3, 3), ConfigError)
        refused(
            path,
            "images of 1 x 10000000 are resized to 12 x 120000000, and the network takes 12 x 12; correct",
            (3, 1, 10**7),
        )

    @pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
    def test_without_the_packages(self, tmp_path, monkeypatch, package):
        path = written(tmp_path)
        monkeypatch.setitem(sys.modules, package, None)
        refused(
            path, "encoders need the packages onnx and onnxruntime: pip install onnx onnxruntime", SHAPE, ConfigError
        )

    def with_number(self, tmp_path, operator, number):
        path = written(tmp_path, last=(node(operator, "F", "number"),))
        model = load_model(path)
        model.graph.initializer.append(numpy_helper.from_array(np.array([number], np.float32), "number"))
        save_model(model, path)
        return path

    def test_codes_that_are_too_large_for_float16(self, tmp_path):
        words = r"is above 65,504 and does not fit into float16; correct the encoder$"
        refused(self.with_number(tmp_path, "Mul", 1e5), words)
        largest = abs(oracle(prepared(images(7)))).max()  # of the trial
        encoder = Encoder.read_files(self.with_number(tmp_path, "Mul", 60_000 / largest), SHAPE)
        with pytest.raises(DataError, match=words):
            encoder.transform(np.repeat([255, 0, 0], SIDE * SIDE)[None])  # red

    @pytest.mark.parametrize(("operator", "number"), [("Mul", 1e-7), ("Add", 3e3)])
    def test_codes_whose_differences_float16_rounds_away(self, tmp_path, operator, number):
        words = r"float16 would round away the differences of images \(codes are up to .*, and differ by .*\); subtract"
        refused(self.with_number(tmp_path, operator, number), words)
        number = 1e-3 if operator == "Mul" else 30
        codes = Encoder.read_files(self.with_number(tmp_path, operator, number), SHAPE).transform(
            images().reshape(5, -1)
        )
        expected = oracle(prepared(images()))
        expected = expected * number if operator == "Mul" else expected + number
        assert np.ptp(codes, axis=0) == pytest.approx(np.ptp(expected, axis=0), rel=0.05)

    def test_an_output_that_is_not_an_array(self, tmp_path):
        path = written(tmp_path, last=(node("SequenceConstruct", "F", "other"),))
        model = load_model(path)
        model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1), np.float32), "other"))
        model.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("codes", TensorProto.FLOAT, None))
        save_model(model, path)
        refused(path, r"output codes has the shape \(\) for 7 images; name an output of floats")

    def test_codes_that_are_not_finite_for_one_image_alone(self, tmp_path):
        """The logarithm of the range of the pixels is not finite for an image of one colour."""
        ends = [node(f"Reduce{end}", "images", output=end, axes=[2, 3], keepdims=0) for end in ("Max", "Min")]
        path = written(tmp_path, last=(*ends, node("Sub", "Max", "Min", output="range"), node("Log", "range")))
        encoder = Encoder.read_files(path, SHAPE)
        R = images(40)
        assert np.isfinite(encoder.transform(R.reshape(40, -1))).all()
        R[35] = R[35].mean()
        with pytest.raises(DataError, match=r"a number for image \d+ of \d+ is not finite; correct the encoder$"):
            encoder.transform(R.reshape(40, -1))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    splits = toy_splits(n=200)
    encoder = Encoder.read_files(written(tmp_path_factory.mktemp("encoder")), splits.dataset.image_shape)
    return train(splits, TrainConfig(epochs=4, learning_rate=0.05), features=encoder), splits


class TestModel:
    def test_file_works_alone(self, trained, tmp_path, monkeypatch):
        result, splits = trained
        path = tmp_path / "model.safetensors"
        result.model.save(path)
        monkeypatch.chdir(tmp_path)  # where there is no encoder
        found = Model.load(path)
        R = splits.test.rows(slice(None))
        np.testing.assert_array_equal(found.logits(R), result.model.logits(R))
        assert np.ptp(found.logits(R), axis=0).min() > 0.1
        assert found.to_bytes() == result.model.to_bytes()
        assert evaluate(found, splits.test).accuracy == result.scores["test"].accuracy > 0.4
        assert (found.features.file, found.features.settings) == ("encoder.onnx", result.model.features.settings)

    def test_what_needs_the_inside_of_the_map_is_refused(self, trained):
        result, splits = trained
        row = splits.test.rows(slice(0, 1))
        for ask in (to_onnx, to_numpy, lambda model: explain(model, row[0])):
            with pytest.raises(DataError, match="features onnx"):
                ask(result.model)

    @pytest.mark.parametrize(
        "change",
        [
            {"version": 2},
            {"shape": [3, 4]},
            {"shape": [4, 3, 5]},
            {"shape": [3, 4, True]},
            {"numbers": 0},
            {"numbers": "6"},
            {"file": "a\nb"},
            {"file": 3},
            {"settings": None},
            {"settings": {}},
            {"settings": "size"},
            {"settings": ["size", "resize", "interpolation", "mean", "std", "layout"]},
            {"shape": [3, 10**400, 1]},
        ],
    )
    def test_facts_that_make_no_sense(self, trained, change):
        encoder = trained[0].model.features
        facts = json.loads(json.dumps(encoder.facts()))
        read = FEATURE_MAPS["onnx"]
        assert read(encoder.tensors(), facts).settings == encoder.settings
        with pytest.raises((KeyError, TypeError, ValueError)):
            read(encoder.tensors(), facts | change)
        with pytest.raises(ValueError, match="arrays"):
            read({"content": encoder.content.astype(np.float32)}, facts)

    def test_a_hostile_network_in_a_file(self, trained, tmp_path):
        """It is looked at before it is run."""
        result, splits = trained
        path = tmp_path / "encoder.onnx"
        path.write_bytes(network().SerializeToString())
        save_model(load_model(path), path, save_as_external_data=True, size_threshold=0, location="weights.bin")
        tensors = {"content": np.fromfile(path, np.uint8)}
        facts = json.loads(json.dumps(result.model.features.facts()))
        with pytest.raises(DataError, match=r"^encoder.onnx: its weights are in another file"):
            FEATURE_MAPS["onnx"](tensors, facts).transform(splits.test.rows(slice(None)))

    def test_a_network_of_another_d(self, trained):
        result, splits = trained
        facts = json.loads(json.dumps(result.model.features.facts())) | {"numbers": 7}
        with pytest.raises(DataError, match=r"^encoder.onnx: returned the shape \(\d+, 6\) for \d+ images; expected"):
            FEATURE_MAPS["onnx"](result.model.features.tensors(), facts).transform(splits.test.rows(slice(None)))

    def test_a_damaged_file(self, trained, tmp_path):
        path = tmp_path / "model.safetensors"
        content = trained[0].model.to_bytes()
        path.write_bytes(re.sub(rb'(\\"size\\": )\[12, 12\]', rb"\1[12, 99]", content, count=1))
        with pytest.raises(ModelFileError, match="checksum"):
            Model.load(path)
