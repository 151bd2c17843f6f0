"""Settings of an encoder: the way in which images are prepared for it, and its output that counts.

They are never guessed. Preparing by Pillow gives the numbers that torchvision, timm and the processors of transformers
that use Pillow give.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from onelayer.features.map import Shape

# Pillow's numbers of its filters, which files of transformers hold.
INTERPOLATIONS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
LAYOUTS, CROPS = ("NCHW", "NHWC"), ("torchvision", "transformers")
MOST_SIDE, MOST_PIXELS = 2**14, 2**26  # of a resized image
LEAST_STD = 1e-6


@dataclass(frozen=True)
class EncoderSettings:
    """Settings of an encoder, as encoder.toml holds them. They are checked when the object is made.

    Parameters
    ----------
    size : (h, w)
        Pixels that the network takes.
    resize : int or (h, w)
        First, images are resized: the shorter side to a number of pixels, or both sides. Then their middle is taken.
    interpolation : str
        A key of `INTERPOLATIONS`.
    mean, std : tuple of float
        Of each channel, of pixels divided by 255: three for colour images, one for greys.
    layout : {"NCHW", "NHWC"}
    output : str
        Name of the output (n, d); empty for the only one.
    normalise : bool
        Whether codes are divided by their length.
    crop : {"torchvision", "transformers"}
        Where the middle lies if the number of pixels to cut is odd: the libraries round half of it differently.

    Raises
    ------
    ValueError
        If a setting is not one of these. The message names it.
    """

    size: tuple[int, int]
    resize: int | tuple[int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: str
    output: str = ""
    normalise: bool = False
    crop: str = "torchvision"

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> "EncoderSettings":
        """Return the settings that a file holds as a table; `size` may be one number, the side of a square.

        Raises
        ------
        ValueError
            If one is missing, is not known, or has a wrong value.
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(table, Mapping):
            raise ValueError("not a table of settings")
        if unknown := [name for name in table if name not in known]:
            raise ValueError(f"{unknown[0]!r:.60} is not a setting; they are {', '.join(known)}")
        if missing := [name for name in known[:6] if name not in table]:
            raise ValueError(f"{', '.join(missing)} missing")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in table.items()
        }
        if isinstance(values["size"], int):
            values["size"] = (values["size"],) * 2
        return cls(**values)

    def __post_init__(self) -> None:
        sides = *self._sides("size", self.size), *self._sides("resize", self.resize)
        if not isinstance(self.size, tuple) or min(sides[2:]) < min(self.size) or len(sides) != 4:
            raise ValueError(f"resize = {self.resize!r:.40} is not one or two numbers that are at least size")
        for name, known in (("interpolation", INTERPOLATIONS), ("layout", LAYOUTS), ("crop", CROPS)):
            if not isinstance(getattr(self, name), str) or getattr(self, name) not in known:
                raise ValueError(f"{name} = {getattr(self, name)!r:.40} is not one of {', '.join(known)}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or len(value) not in (1, 3) or not all(map(_is_number, value)):
                raise ValueError(f"{name} = {value!r:.60} is not a list of one or three numbers")
        if not (min(self.mean) >= 0 and max((*self.mean, *self.std)) <= 1):
            values = f"mean = {self.mean!r:.60}, std = {self.std!r:.60}"
            raise ValueError(f"{values} are not all from 0 to 1; they are of pixels divided by 255")
        if len(self.mean) != len(self.std) or min(self.std) < LEAST_STD:
            raise ValueError(f"std = {self.std!r:.60} does not have a number of at least 1e-6 for each number of mean")
        if not isinstance(self.output, str) or not self.output.isprintable() or len(self.output) > 200:
            raise ValueError("output is not the name of an output")
        if not isinstance(self.normalise, bool):
            raise ValueError(f"normalise = {self.normalise!r:.40} is not true or false")

    def _sides(self, name: str, value: object) -> tuple[int, int]:
        """Return the height and width of a setting; one number stands for both."""
        pair = value if isinstance(value, tuple) else (value, value)
        if len(pair) != 2 or not all(type(side) is int and 0 < side <= MOST_SIDE for side in pair):
            raise ValueError(f"{name} = {value!r:.40} is not one or two whole numbers from 1 to {MOST_SIDE:,}")
        return pair[0], pair[1]

    def facts(self) -> dict[str, Any]:
        """Return the table that `of` reads."""
        return asdict(self)

    @property
    def input_shape(self) -> Shape:
        """Shape of a prepared image, in the layout of the network."""
        h, w = self.size
        return (len(self.mean), h, w) if self.layout == "NCHW" else (h, w, len(self.mean))

    def resized(self, h: int, w: int) -> tuple[int, int]:
        """Return height and width of an image (h, w) after resizing.

        Raises
        ------
        ValueError
            If it is smaller than the network's images or too large.
        """
        if isinstance(self.resize, tuple):
            found = self.resize
        else:  # as torchvision and transformers round
            longer = int(self.resize * max(h, w) / min(h, w))
            found = (self.resize, longer) if h <= w else (longer, self.resize)
        if found[0] < self.size[0] or found[1] < self.size[1] or math.prod(found) > MOST_PIXELS:
            to = f"to {found[0]} x {found[1]}, and the network takes {self.size[0]} x {self.size[1]}"
            raise ValueError(f"images of {h} x {w} are resized {to}")
        return found

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Return images (n, c, h, w), uint8 with one or three channels, as the network takes them, float32."""
        from PIL import Image

        c, h, w = images.shape[1:]
        mode, channels = ("RGB" if len(self.mean) == 3 else "L"), len(self.mean)
        height, width = self.resized(h, w)
        top, left = (self._cut(side - of_network) for side, of_network in zip((height, width), self.size, strict=True))
        (rows, columns), filter = self.size, Image.Resampling(INTERPOLATIONS[self.interpolation])
        box = (left, top, left + columns, top + rows)
        pixels = np.empty((len(images), rows, columns, channels), np.uint8)
        for image, of_image in zip(images, pixels, strict=True):
            picture = Image.fromarray(image[0] if c == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
            resized = picture.convert(mode).resize((width, height), filter).crop(box)
            of_image[:] = np.asarray(resized).reshape(rows, columns, channels)
        X = pixels.astype(np.float32)  # in the order of torchvision's operations, so that the bits are the same
        X /= np.float32(255)
        X -= np.array(self.mean, np.float32)
        X /= np.array(self.std, np.float32)
        return np.ascontiguousarray(X.transpose(0, 3, 1, 2)) if self.layout == "NCHW" else X

    def _cut(self, extra: int) -> int:
        """Return the number of pixels to cut at the top or left, of `extra` pixels."""
        return round(extra / 2) if self.crop == "torchvision" else extra // 2


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 1e6  # type: ignore[arg-type]  # also false for NaN
