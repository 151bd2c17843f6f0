"""An encoder in an ONNX file as a feature map: images in, the output of a trained network out.

Codes are float16: their rounding, 1 part in 2,048, is refused where it is not small beside their spread, and they take
half the room. A model file holds the whole encoder, so that it works alone and after the encoder's own file has
changed. Every run therefore takes the room of the encoder, and encoders of more than 1 GiB are refused: half of what a
model file may have. Their codes can be computed elsewhere and trained on as rows. An encoder by its path and checksum
would take no room, but a run would break as soon as the file is moved.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from onelayer.errors import ConfigError, DataError
from onelayer.features.encoder_network import Network
from onelayer.features.encoder_settings import EncoderSettings
from onelayer.features.encoder_trial import noise, require_codes, require_float16, tried
from onelayer.features.map import LEAST_LENGTH, FeatureMap, Shape, as_pixels
from onelayer.parts import LEAST_WORK, Stopped, count_threads, in_parts, parts_of
from onelayer.words import is_name, printable

MOST_BYTES = 2**30  # of an encoder, which model files hold
MOST_LENGTH = 2**20  # of images and codes in a model file
VERSION = 1


@dataclass(frozen=True, eq=False)
class Encoder(FeatureMap):
    """Codes of images of one shape by a network in an ONNX file.

    Parameters
    ----------
    content : ndarray (bytes,), uint8
        The file.
    settings : EncoderSettings
    image_shape : (c, h, w)
        Of the images, before they are prepared.
    d_out : int
        Numbers of a code.
    file : str
        Name of the file, for messages.
    """

    content: np.ndarray
    settings: EncoderSettings
    image_shape: Shape
    d_out: int
    file: str
    name = "onnx"
    linear = False
    dtype = np.float16

    @classmethod
    def read_files(cls, path: Path, image_shape: Shape | None) -> "Encoder":
        """Read an encoder and the settings beside it, and try it on a few images.

        Parameters
        ----------
        path : Path
            An ONNX file, ``NAME.onnx``. Its settings are in ``NAME.toml``, in the ``preprocessor_config.json`` of
            transformers, or in the ``config.json`` of timm.
        image_shape : (c, h, w) or None
            Of the images to encode.

        Raises
        ------
        ConfigError
            If the rows are not images, or onnx or onnxruntime is not installed.
        DataError
            If a file is missing or does not fit, or the encoder fails in the trial of `tried`.
        """
        from onelayer.features.encoder_files import read_settings

        if image_shape is None:
            raise ConfigError(f"{path}: encodes images, and the rows are not images; leave it out")
        if image_shape[0] not in (1, 3):
            raise ConfigError(f"{path}: encodes grey or colour images, not images of {image_shape[0]} channels")
        try:
            if not path.is_file():
                raise DataError(f"{path}: {'is not a file' if path.exists() else 'no such file'}; pass an ONNX file")
            if (size := path.stat().st_size) > MOST_BYTES:
                limit = f"{size:,} bytes are more than the {MOST_BYTES:,} that a model file can hold"
                raise DataError(f"{path}: {limit}; compute the codes elsewhere, and pass them as --data")
            content = np.fromfile(path, np.uint8)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
        settings = read_settings(path)
        try:
            settings.resized(*image_shape[1:])
        except ValueError as error:
            raise DataError(f"{path}: {error}; correct the settings beside it") from None
        encoder = cls(content, settings, image_shape, 0, str(path))
        network = encoder._network
        d = tried(encoder._exact_codes, image_shape, str(path))
        require_float16(encoder._exact_codes(noise(image_shape)), str(path))
        settings = replace(settings, output=network.output)
        encoder = cls(content, settings, image_shape, d, printable(path.name, 90))
        encoder.__dict__["_network"] = network  # loading takes seconds
        return encoder

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: the network is loaded again where it is used."""
        return {name: value for name, value in vars(self).items() if name != "_network"}

    @property
    def d_in(self) -> int:  # type: ignore[override]  # nobody sets it
        return math.prod(self.image_shape)

    @cached_property
    def _network(self) -> Network:
        return Network(self.content.tobytes(), self.settings.input_shape, self.settings.output, self.file)

    def transform(self, R: np.ndarray, threads: int = 0) -> np.ndarray:
        """Return the codes (n, d_out), float16, of images R (n, d_in), pixels from 0 to 255 of any type.

        Parameters
        ----------
        R : ndarray (n, d_in)
        threads : int
            The most that work at the same time; 0 is one for each core.

        Raises
        ------
        ConfigError
            If onnx or onnxruntime is not installed.
        DataError
            If a number is not a whole number from 0 to 255, the runtime fails, or a code is not finite in float16.
        """
        images = as_pixels(R, self.name).reshape(len(R), *self.image_shape)
        codes = np.empty((len(images), self.d_out), np.float16)
        step = self._network.batch

        def code(part: slice, stopped: Stopped) -> None:
            for start in range(part.start, part.stop, step):
                if stopped and stopped():
                    return
                block = slice(start, min(start + step, part.stop))
                found = self._exact_codes(images[block])
                require_codes(found, len(images[block]), self.d_out, self.file)
                with np.errstate(over="ignore"):  # it is refused below
                    codes[block] = found

        parts = parts_of(len(images), LEAST_WORK * len(images), least_rows=step)
        for _ in in_parts(code, parts, count_threads(threads)):
            pass
        require_codes(codes, len(images), self.d_out, self.file)
        return codes

    def _exact_codes(self, images: np.ndarray) -> np.ndarray:
        """Return codes (n, d), float32, of images (n, c, h, w), a batch at a time."""
        step = self._network.batch
        blocks = [images[start : start + step] for start in range(0, len(images), step)]
        F = np.concatenate([self._network.codes(self.settings.prepare(block)) for block in blocks])
        if self.settings.normalise:
            F /= np.maximum(np.sqrt(np.einsum("ij,ij->i", F, F)), LEAST_LENGTH)[:, None]
        return F

    def tensors(self) -> dict[str, np.ndarray]:
        return {"content": self.content}

    def facts(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "file": self.file,
            "shape": list(self.image_shape),
            "numbers": self.d_out,
            "settings": self.settings.facts(),
        }

    @classmethod
    def read(cls, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "Encoder":
        """Return the map that a model file holds. The network is looked at when it is first used.

        Raises
        ------
        KeyError, TypeError, ValueError
            If something is missing or does not fit.
        """
        if facts["version"] != VERSION:
            raise ValueError(f"version {facts['version']!r:.20}, and this onelayer reads {VERSION}")
        shape, d, file = tuple(facts["shape"]), facts["numbers"], facts["file"]
        whole = all(type(size) is int and 0 < size < MOST_LENGTH for size in (*shape, d))
        if len(shape) != 3 or not whole or shape[0] not in (1, 3):
            raise ValueError(f"shape {shape!r:.40}, numbers {d!r:.20}")
        content = tensors["content"]
        if set(tensors) != {"content"} or content.dtype != np.uint8 or content.ndim != 1:
            raise ValueError(f"arrays {sorted(tensors)!r:.60}")
        if not is_name(file):
            raise ValueError(f"file {file!r:.60}")
        settings = EncoderSettings.of(facts["settings"])
        settings.resized(*shape[1:])
        return cls(content, settings, shape, d, file)
