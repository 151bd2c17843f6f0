"""An encoder in an ONNX file as a feature map, compared with the same network in NumPy; and every way to refuse one."""

import json
import re
import sys
import textwrap
import tomllib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from helpers import toy_splits
from networks import DIMENSIONS, MEAN, SETTINGS, SIDE, STD, network, oracle, written
from onnx import ModelProto, TensorProto, helper, load_model, numpy_helper, save_model

from onelayer import Model, evaluate, explain, train
from onelayer.config import TrainConfig
from onelayer.errors import ConfigError, DataError, ModelFileError
from onelayer.export import to_numpy, to_onnx
from onelayer.features import encoder as encoder_module
from onelayer.features.encoder import Encoder
from onelayer.features.encoder_settings import EncoderSettings
from onelayer.features.registry import FEATURE_MAPS

SHAPE = (3, SIDE, SIDE)
HALF = 2.0**-11  # of a number, which float16 rounds away at most


def node(operator, *inputs, output="codes", **options):
    return helper.make_node(operator, list(inputs), [output], **options)


def images(n=5, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def prepared(R, mean=MEAN, std=STD):
    return (R / 255 - np.reshape(mean, (-1, 1, 1))) / np.reshape(std, (-1, 1, 1))


def refused(path, words, shape=SHAPE, error=DataError):
    with pytest.raises(error, match=words) as caught:
        Encoder.read_files(path, shape)
    message = str(caught.value)
    assert message.startswith(str(path.parent)), message
    assert message.isprintable(), message


# The files of other programs.
TIMM = {
    "architecture": "resnet18",
    "pretrained_cfg": {
        "input_size": [3, SIDE, SIDE],
        "interpolation": "bilinear",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": list(MEAN),
        "std": list(STD),
    },
}
TRANSFORMERS = {
    "do_center_crop": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "crop_size": {"height": SIDE, "width": SIDE},
    "image_processor_type": "CLIPImageProcessor",
    "image_mean": list(MEAN),
    "image_std": list(STD),
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 14},
}


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


GREY = (np.arange(35) ** 2 * 37 % 251).astype(np.uint8).reshape(5, 7)
# torchvision 0.29: Resize(4) or Resize((6, 9)), and CenterCrop((3, 4)), of the image GREY
TORCHVISION = {
    ("bilinear", 4): [[28, 119, 121, 130], [111, 155, 184, 137], [85, 152, 183, 107]],
    ("bilinear", (6, 9)): [[131, 197, 166, 192], [128, 204, 183, 138], [171, 224, 213, 113]],
    ("bicubic", 4): [[11, 122, 118, 130], [113, 157, 200, 135], [75, 154, 192, 97]],
    ("bicubic", (6, 9)): [[123, 206, 165, 218], [112, 216, 182, 129], [179, 239, 220, 87]],
}


class TestPreparing:
    @pytest.mark.parametrize(("interpolation", "resize"), TORCHVISION)
    def test_is_that_of_torchvision(self, interpolation, resize):
        settings = EncoderSettings((3, 4), resize, interpolation, (0.5,), (0.25,), "NCHW")
        X = settings.prepare(GREY[None, None])
        pixels = np.array(TORCHVISION[interpolation, resize], np.float32)
        np.testing.assert_array_equal(X, ((pixels / np.float32(255) - np.float32(0.5)) / np.float32(0.25))[None, None])

    @pytest.mark.parametrize(("crop", "first"), [("torchvision", 2), ("transformers", 1)])
    def test_the_middle_of_an_odd_number_of_pixels(self, crop, first):
        """Of 3 pixels, torchvision cuts round(1.5) = 2 in front, transformers 3 // 2 = 1."""
        settings = EncoderSettings((5, 4), (5, 7), "nearest", (0.0,), (1 / 255,), "NHWC", crop=crop)
        assert settings.prepare(GREY[None, None])[0, :, :, 0] == pytest.approx(GREY[:, first : first + 4], rel=1e-6)


class TestSettings:
    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            (f"size = {SIDE}\n", "", "size missing; correct it"),
            ("mean =", "means =", "'means' is not a setting; they are size, resize, .*crop; correct it"),
            ('interpolation = "bicubic"\n', "", "interpolation missing"),
            ("bicubic", "cubic", "interpolation = 'cubic' is not one of nearest, lanczos"),
            ("NCHW", "CHW", "layout = 'CHW' is not one of NCHW, NHWC"),
            (f"resize = {SIDE}", f"resize = {SIDE - 1}", "resize = 11 is not one or two numbers that are at least"),
            (f"size = {SIDE}\n", "size = [12, 12, 12]\n", "size = .* is not one or two whole numbers"),
            (f"size = {SIDE}\n", "size = true\n", "is not one or two whole numbers"),
            (f"size = {SIDE}\n", "size = 0\n", "is not one or two whole numbers"),
            (f"resize = {SIDE}", "resize = 16384\nx = 1", "'x' is not a setting"),
            (f"resize = {SIDE}", "resize = 16384", "images of 12 x 12 are resized to 16384 x 16384"),
            (f"resize = {SIDE}", f"resize = {10**30}", "is not one or two whole numbers"),
            (str(list(MEAN)), "[nan, 0, 0]", "mean = .* is not a list of one or three numbers"),
            (str(list(MEAN)), "[0.5, 0.5]", "mean = .* is not a list of one or three numbers"),
            (str(list(MEAN)), "0.5", "mean = 0.5 is not a list"),
            (str(list(STD)), "[1, 1, 0]", "std = .* does not have a number of at least 1e-6"),
            (str(list(STD)), "[1]", "std = .* for each number of mean"),
            ("layout =", "normalise = 1\nlayout =", "normalise = 1 is not true or false"),
            ("layout =", 'output = "\\u001b[1m"\nlayout =', "output is not the name"),
            ("layout =", 'crop = "middle"\nlayout =', "crop = 'middle' is not one of torchvision, transformers"),
            ("layout =", 'output = "logits"\nlayout =', "has no output 'logits'; write one of these as output: codes"),
            (SETTINGS, "size = [", "Invalid|Unclosed"),
            (SETTINGS, "a = " + "[" * 5000, "; correct it"),
            (SETTINGS, "# " + "x" * 2**20, "is not a file of settings"),
            (SETTINGS, "\0", "; correct it"),
        ],
    )
    def test_that_are_wrong(self, tmp_path, old, new, words):
        assert old in SETTINGS
        refused(written(tmp_path, SETTINGS.replace(old, new, 1)), words)

    def test_that_are_missing(self, tmp_path):
        path = written(tmp_path, None)
        refused(
            path, r"is not known; write encoder.toml beside it, with size, resize, interpolation, mean, std, layout"
        )
        (tmp_path / "config.json").write_text('{"model_type": "vit"}')  # of transformers, which says nothing of images
        refused(path, "write encoder.toml beside it")
        path.with_suffix(".toml").mkdir()
        refused(path, r"encoder.toml: is not a file of settings")

    def test_of_timm_and_transformers(self, tmp_path):
        path = written(tmp_path, None)
        (tmp_path / "config.json").write_text(json.dumps(TIMM))
        # timm resizes to floor(12 / 0.875) = 13
        expected = EncoderSettings((SIDE, SIDE), 13, "bilinear", MEAN, STD, "NCHW", "codes")
        assert Encoder.read_files(path, SHAPE).settings == expected
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(TRANSFORMERS))
        expected = EncoderSettings((SIDE, SIDE), 14, "bicubic", MEAN, STD, "NCHW", "codes", crop="transformers")
        assert Encoder.read_files(path, SHAPE).settings == expected
        path.with_suffix(".toml").write_text(SETTINGS)
        assert Encoder.read_files(path, SHAPE).settings.resize == SIDE

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (
                {"crop_mode": "border"},
                "the crop_mode 'border' for images of 12 x 12 is not known here; write encoder.t",
            ),
            ({"input_size": [3, SIDE, SIDE + 1]}, "the crop_mode 'center' for images of 12 x 13"),
            ({"input_size": [1, SIDE, SIDE]}, "input_size has 1 channels, mean 3"),
            ({"input_size": None}, "; write encoder.toml beside it"),
            ({"crop_pct": 0}, "; write encoder.toml beside it"),
            ({"interpolation": "random"}, "interpolation = 'random' is not one of"),
            ({"mean": None}, "; write encoder.toml beside it"),
        ],
    )
    def test_of_timm_that_are_wrong(self, tmp_path, change, words):
        path, config = written(tmp_path, None), {"pretrained_cfg": TIMM["pretrained_cfg"] | change}
        (tmp_path / "config.json").write_text(json.dumps(config))
        refused(path, words)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"size": 14}, "the size 14 does not say which sides it means; write encoder.toml beside it"),
            ({"crop_pct": 0.9}, "the entry 'crop_pct' is not known here"),
            ({"do_normalize": False}, "do_resize, do_rescale and do_normalize are not all true"),
            ({"rescale_factor": 1 / 127.5}, "rescale_factor is 0.0078.*, not 1/255"),
            ({"resample": 9}, "interpolation = 9 is not one of"),
            ({"resample": []}, "; write encoder.toml beside it"),
            ({"image_mean": "x"}, "mean = 'x' is not a list"),
        ],
    )
    def test_of_transformers_that_are_wrong(self, tmp_path, change, words):
        path = written(tmp_path, None)
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(TRANSFORMERS | change))
        refused(path, words)
        without = {name: value for name, value in TRANSFORMERS.items() if name not in change}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(without))
        if "crop_pct" not in change:
            refused(path, f"lacks '{next(iter(change))}'; write encoder.toml beside it")


def test_examples_in_the_docs():
    text = (Path(__file__).parents[1] / "docs" / "encoders.md").read_text("utf-8")
    example = re.search(r"\n\n((?:    .+\n){6})", text[text.index("## Preparing images") :])[1]
    settings = EncoderSettings.of(tomllib.loads(textwrap.dedent(example)))
    assert (settings.size, settings.resize, settings.layout) == ((224, 224), 256, "NCHW")
    recipes = re.findall(r"```python\n(.+?)```", text[text.index("## Recipes") :], re.DOTALL)
    assert len(recipes) == 4
    for recipe in recipes:
        compile(recipe, "recipe", "exec")
        written = re.findall(r"^    print\(f?[\"'](\w+) =", recipe, re.MULTILINE)
        needed = [] if "preprocessor_config" in recipe else [field.name for field in fields(EncoderSettings)][:6]
        assert written[:6] == needed


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

    @pytest.mark.parametrize("content", [b"", b"onnx", b"\x0a" * 1000, b"\x08\x08", ModelProto().SerializeToString()])
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

    def test_codes_that_are_too_large_for_float16(self, tmp_path):
        path = written(tmp_path, last=(node("Mul", "F", "large"),))
        model = load_model(path)
        model.graph.initializer.append(numpy_helper.from_array(np.array([1e5], np.float32), "large"))
        save_model(model, path)
        encoder = Encoder.read_files(path, SHAPE)
        with pytest.raises(DataError, match=r"is above 65,504 and does not fit into float16; correct the encoder$"):
            encoder.transform(images().reshape(5, -1))

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
        ],
    )
    def test_facts_that_make_no_sense(self, trained, change):
        encoder = trained[0].model.features
        facts = json.loads(json.dumps(encoder.facts()))
        read = FEATURE_MAPS["onnx"]
        assert read(encoder.tensors(), facts).settings == encoder.settings
        with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
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
