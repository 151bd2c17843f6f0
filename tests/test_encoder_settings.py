"""The settings of an encoder: read from the files beside it, and used as torchvision, timm and transformers do."""

import json
import re
import textwrap
import tomllib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from networks import MEAN, SETTINGS, SIDE, STD, refused, written

from onelayer.features.encoder import Encoder
from onelayer.features.encoder_settings import EncoderSettings

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SHAPE = (3, SIDE, SIDE)
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

    def test_the_shorter_side_becomes_one_number(self):
        """The longer side is rounded down, as by torchvision and transformers."""
        settings = EncoderSettings((3, 4), 4, "nearest", (0.5,), (0.25,), "NCHW")
        assert [settings.resized(*shape) for shape in ((5, 7), (7, 5), (9, 9))] == [(4, 5), (5, 4), (4, 4)]

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
