"""Readers of the settings of an encoder from the files beside it: ours, and those that timm and transformers write."""

import json
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onelayer.errors import DataError
from onelayer.features.encoder_settings import INTERPOLATIONS, EncoderSettings
from onelayer.words import printable

MOST_BYTES = 2**20  # of a file of settings
KEYS = "size, resize, interpolation, mean, std, layout"

# Entries of preprocessor_config.json that change no pixel, or are read below.
_READ = ("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor")
_NORMALISED = ("do_normalize", "image_mean", "image_std")
_WITHOUT_EFFECT = (
    *("image_processor_type", "feature_extractor_type", "processor_class", "do_convert_rgb", "data_format"),
    *("input_data_format", "return_tensors", "device", "disable_grouping", "default_to_square"),
)


def read_settings(model: Path) -> EncoderSettings:
    """Return the settings of an encoder from the first of these files beside it.

    ``NAME.toml`` for ``NAME.onnx``; ``preprocessor_config.json``, of transformers; or ``config.json``, of timm.

    Raises
    ------
    DataError
        If there is none of them, or it is damaged or says too little.
    """
    ours = model.with_suffix(".toml")
    readers: dict[Path, Callable[[Path], dict[str, Any] | None]] = {
        ours: lambda path: tomllib.loads(_text(path)),
        model.with_name("preprocessor_config.json"): lambda path: _of_transformers(json.loads(_text(path))),
        model.with_name("config.json"): lambda path: _of_timm(json.loads(_text(path))),
    }
    for path, read in readers.items():
        if not path.exists():
            continue
        try:
            table = read(path)
            if table is not None:
                return EncoderSettings.of(table)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, OSError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            remedy = f"write {ours.name} beside it" if path != ours else "correct it"
            raise DataError(f"{path}: {printable(reason, 200)}; {remedy}") from None
    raise DataError(f"{model}: how images are prepared for it is not known; write {ours.name} beside it, with {KEYS}")


def _text(path: Path) -> str:
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise ValueError("is not a file of settings")
    return path.read_text(encoding="utf-8")


def _of_timm(config: dict[str, Any]) -> dict[str, Any] | None:
    """Return the table of settings that config.json of a timm model holds; None if it is of another program."""
    if "pretrained_cfg" not in config:
        return None
    found = config["pretrained_cfg"]
    channels, h, w = found["input_size"]
    if len(found["mean"]) != channels:
        raise ValueError(f"input_size has {channels} channels, mean {len(found['mean'])}")
    scaled = [math.floor(side / found["crop_pct"]) for side in (h, w)]
    modes = {"center": scaled[0], "squash": scaled}
    mode = found["crop_mode"]
    if mode not in modes or (mode == "center" and h != w):
        raise ValueError(f"the crop_mode {mode!r:.40} for images of {h} x {w} is not known here")
    return {
        "size": [h, w],
        "resize": modes[mode],
        "interpolation": found["interpolation"],
        "mean": found["mean"],
        "std": found["std"],
        "layout": "NCHW",
    }


def _of_transformers(config: dict[str, Any]) -> dict[str, Any]:
    """Return the table of settings that preprocessor_config.json of transformers holds."""
    for name, value in config.items():
        if name not in (*_READ, *_NORMALISED, *_WITHOUT_EFFECT) and value not in (None, False):
            raise ValueError(f"the entry {name!r:.40} is not known here")
    if config["do_resize"] is not True or config["do_rescale"] is not True or config["do_normalize"] is not True:
        raise ValueError("do_resize, do_rescale and do_normalize are not all true")
    if not math.isclose(config["rescale_factor"], 1 / 255, rel_tol=1e-6):
        raise ValueError(f"rescale_factor is {config['rescale_factor']!r:.40}, not 1/255")
    resize = _side_or_sides(config["size"])
    names = {number: name for name, number in INTERPOLATIONS.items()}
    return {
        "size": _side_or_sides(config["crop_size"]) if config.get("do_center_crop") else resize,
        "resize": resize,
        "interpolation": names.get(config["resample"], config["resample"]),
        "mean": config["image_mean"],
        "std": config["image_std"],
        "layout": "NCHW",
        "crop": "transformers",
    }


def _side_or_sides(size: dict[str, int]) -> int | list[int]:
    """Return the length of the shorter side, or height and width."""
    if not isinstance(size, dict) or set(size) not in ({"shortest_edge"}, {"height", "width"}):
        raise ValueError(f"the size {size!r:.60} does not say which sides it means")
    return size["shortest_edge"] if "shortest_edge" in size else [size["height"], size["width"]]
