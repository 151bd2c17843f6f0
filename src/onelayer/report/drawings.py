"""Pictures and charts as parts of the page: data URIs, and SVG in the page's colours, each with words about it."""

import base64
import html
import io
import re
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from onelayer.pictures.colours import COLOURS
from onelayer.pictures.page import INK, QUIET, RULE

CHART_WIDTH = 4.3  # inches: with room for two side by side, and words that can be read on a phone
# The page gives these colours by its scheme, light or dark.
VARIABLES = {
    INK: "ink",
    QUIET: "quiet",
    RULE: "rule",
    COLOURS["train"]: "train",
    COLOURS["validation"]: "validation",
}

Shape = tuple[int, int, int]  # of an image: channels, height, width


@dataclass(frozen=True)
class Picture:
    """A picture in the page itself.

    Parameters
    ----------
    source : str
        A data URI.
    width, height : int
        Pixels.
    alt : str
        Words that describe it.
    caption : str
    """

    source: str
    width: int
    height: int
    alt: str
    caption: str = ""


def png(pixels: np.ndarray, alt: str, caption: str = "") -> Picture:
    """Return pixels (h, w) or (h, w, 3), uint8, as a picture."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(source, pixels.shape[1], pixels.shape[0], alt, caption)


def svg(figure: Figure, alt: str) -> str:
    """Return a figure as an element of the page, all of it escaped, in the page's colours and letters."""
    buffer = io.StringIO()
    # References within a drawing are made of this salt: those of two drawings on a page must differ.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="none")
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # each drawing has the same, and nothing refers to them
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = text.replace("fill: #ffffff", "fill: none")
    for colour, name in VARIABLES.items():
        text = text.replace(colour, f"var(--{name})")
    width, height = figure.get_size_inches()
    opening = (
        f'<svg class="chart" role="img" aria-label="{html.escape(alt)}" '
        f'viewBox="0 0 {72 * width:.2f} {72 * height:.2f}" width="{96 * width:.0f}" height="{96 * height:.0f}">'
    )
    body = text[text.index(">") + 1 :].replace("xlink:href", "href")
    return opening + re.sub(r"\n\s*", "\n", body).strip()


def as_bytes(image: np.ndarray) -> np.ndarray:
    """Return numbers from 0 to 1 as pixels from 0 to 255."""
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
