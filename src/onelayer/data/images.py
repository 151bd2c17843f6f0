"""An image file as a row of pixels of the shape that a model takes."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onelayer.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

# Only what people keep pictures in. Pillow knows more formats, and some, such as EPS, run other programs.
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
_MAX_PIXELS = 100_000_000
_DISTORTION = 1.05  # ratio of the aspect ratios above which a person sees it


def read_image(path: Path, image_shape: tuple[int, int, int]) -> tuple[np.ndarray, str | None]:
    """Read an image and bring it to a shape.

    Parameters
    ----------
    path : Path
        PNG, JPEG, GIF, WebP, BMP, TIFF or PPM; of an animation, the first frame.
    image_shape : (c, h, w)
        With 1 channel for greys or 3 for red, green and blue.

    Returns
    -------
    row : ndarray (c * h * w,), uint8
        Channels first.
    note : str or None
        What a person should be told: the image was distorted.

    Raises
    ------
    DataError
        If the file is missing, no image, damaged, or larger than 100 megapixels.
    """
    c, h, w = image_shape
    if c not in (1, 3):
        raise DataError(f"{path}: an image has 1 or 3 channels, but the model takes {c}")
    try:
        if not path.is_file():
            raise DataError(f"{path}: {'a folder, not an image' if path.is_dir() else 'no such file'}")
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise DataError(f"{path}: {error.strerror}") from None
    image = _open(path)
    image = _on_white(_eight_bits(image, path)).convert("L" if c == 1 else "RGB")
    note = None
    distortion = (image.width * h) / (image.height * w)
    if max(distortion, 1 / distortion) > _DISTORTION:
        note = f"{path}: {image.width} x {image.height} was squeezed to {w} x {h}, which distorts it"
    from PIL import Image

    if image.size != (w, h):
        image = image.resize((w, h), Image.Resampling.LANCZOS)
    pixels = np.asarray(image).reshape(h, w, c)
    return pixels.transpose(2, 0, 1).reshape(-1), note


def _open(path: Path) -> "Image.Image":
    """Return the first frame, decoded and the right way up."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's on odd metadata, and on sizes that are checked here
            with Image.open(path, formats=_FORMATS) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise Image.DecompressionBombError
                image.load()
                return ImageOps.exif_transpose(image)
    except Image.DecompressionBombError:
        raise DataError(f"{path}: claims more than {_MAX_PIXELS // 10**6} megapixels; make it smaller") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: is no image that can be read ({', '.join(_FORMATS)})") from None
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        raise DataError(f"{path}: is damaged or cut off ({error})") from None


def _eight_bits(image: "Image.Image", path: Path) -> "Image.Image":
    """Scale greys of 16 bits to 8; Pillow's own conversion would clip them."""
    from PIL import Image

    if not image.mode.startswith("I"):
        if image.mode == "F":
            raise DataError(f"{path}: holds floating-point greys; save it with 8 or 16 bits")
        return image
    greys = np.asarray(image).astype(np.int64)
    if greys.min() < 0 or greys.max() > 65535:
        raise DataError(f"{path}: holds greys of 32 bits; save it with 8 or 16 bits")
    return Image.fromarray(np.rint(greys / 257).astype(np.uint8))


def _on_white(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
