"""A function of Python as a feature map: images in, their codes out. It is not saved with a model."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from onelayer.errors import ConfigError, DataError
from onelayer.features.encoder_trial import require_codes, tried
from onelayer.features.map import FeatureMap, Shape, as_pixels
from onelayer.words import is_name, printable

BATCH = 64  # images that the function takes at a time, at most

CodesOf = Callable[[np.ndarray], ArrayLike]


@dataclass(frozen=True, eq=False)
class Function(FeatureMap):
    """Codes of images of one shape by a function. `of` makes it.

    Parameters
    ----------
    function : callable
        Takes uint8 images (n, h, w, c), and returns n rows of d finite numbers.
    image_shape : (c, h, w)
    d_out : int
    called : str
        Name of the function, for messages.
    label : str
        Says what the function computes; codes are kept in the cache by it. Empty keeps none.
    """

    function: CodesOf
    image_shape: Shape
    d_out: int
    called: str
    label: str = ""
    name = "function"
    linear = False

    @classmethod
    def of(cls, function: CodesOf, image_shape: Shape | None) -> "Function":
        """Return the map of a function, after a trial on a few images.

        Its attribute ``cache_name``, if it has one, becomes the label.

        Raises
        ------
        ConfigError
            If the rows are not images, or the label is not a name.
        DataError
            If the function does not return finite numbers, or does not compute each image for itself.
        """
        label = getattr(function, "cache_name", "")
        if label != "" and not is_name(label):
            raise ConfigError(f"cache_name is {label!r:.60}; give a name that can be printed, or none")
        if image_shape is None:
            raise ConfigError("a function takes images as features, and the rows are not images; pass rows of images")
        called = getattr(function, "__name__", type(function).__name__)
        made = cls(function, image_shape, 0, printable(called, 90), label)
        return replace(made, d_out=tried(made._codes, image_shape, made.where))

    def with_function(self, function: CodesOf) -> "Function":
        """Return a map that was read from a file with its function, after a trial.

        Raises
        ------
        ConfigError, DataError
            As `of` does, or if the function returns another number of features.
        """
        made = Function.of(function, self.image_shape)
        if made.d_out != self.d_out:
            raise DataError(f"{made.where}: returns {made.d_out:,} numbers an image; the model needs {self.d_out:,}")
        return made

    @property
    def d_in(self) -> int:  # type: ignore[override]  # nobody sets it
        return math.prod(self.image_shape)

    @property
    def keyed(self) -> bool:  # type: ignore[override]  # nobody sets it
        return bool(self.label)

    @property
    def where(self) -> str:
        """The function, for messages."""
        return f"the function {self.called}"

    def transform(self, R: np.ndarray) -> np.ndarray:
        """Return the codes (n, d_out), float32, of images R (n, d_in), pixels from 0 to 255 of any type.

        Raises
        ------
        DataError
            If a number is not a whole number from 0 to 255, or the function does not return n rows of d_out finite
            numbers.
        """
        images = as_pixels(R, self.name).reshape(len(R), *self.image_shape)
        codes = self._codes(images) if len(images) else np.empty((0, self.d_out), np.float32)
        require_codes(codes, len(R), self.d_out, self.where)
        return codes

    def _codes(self, images: np.ndarray) -> np.ndarray:
        """Return codes (n, d), float32, of images (n, c, h, w)."""
        blocks = []
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH].transpose(0, 2, 3, 1).copy()  # the function may change it
            blocks.append(_numbers(self.function(batch), self.where))
            require_codes(blocks[-1], len(batch), blocks[0].shape[-1] if blocks[0].ndim else 0, self.where)
        return np.concatenate(blocks)

    def facts(self) -> dict[str, Any]:
        return {"function": self.called, "label": self.label, "shape": list(self.image_shape), "numbers": self.d_out}

    @classmethod
    def read(cls, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "Function":
        """Return the map that a model file holds, which needs `with_function`.

        Raises
        ------
        KeyError, TypeError, ValueError
            If something is missing or does not fit.
        """
        shape, d, called, label = tuple(facts["shape"]), facts["numbers"], facts["function"], facts["label"]
        if tensors or len(shape) != 3 or not all(type(size) is int and size > 0 for size in (*shape, d)):
            raise ValueError(f"shape {shape!r:.40}, numbers {d!r:.20}")
        if not is_name(called) or (label != "" and not is_name(label)):
            raise ValueError(f"function {called!r:.60}, label {label!r:.60}")
        return cls(_not_held, shape, d, called, label)


def _numbers(codes: ArrayLike, where: str) -> np.ndarray:
    """Return a copy of what a function returned, which it may change later, in float32."""
    try:
        with np.errstate(over="ignore"):  # infinite codes are refused later
            return np.array(codes, np.float32)
    except (TypeError, ValueError, RuntimeError) as error:  # of NumPy, or of a tensor that does not become an array
        reason = printable(str(error).partition("\n")[0], 120)
        raise DataError(f"{where}: did not return numbers ({reason}); return an array of NumPy (n, d)") from None


def _not_held(images: np.ndarray) -> ArrayLike:
    raise DataError(
        "a model file does not hold the function that makes its features; pass it: Model.load(path, function=...)"
    )
