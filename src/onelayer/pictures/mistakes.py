"""The picture of the images that were classified wrongly."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from onelayer.analysis.templates import picture
from onelayer.pictures.page import INK, LABEL, MARGIN, WIDTH, fitted, mosaic, new_page


def mistakes(
    images: np.ndarray,
    true_names: Sequence[str],
    predicted_names: Sequence[str],
    probabilities: np.ndarray,
    title: str,
) -> Figure:
    """Draw images that were classified wrongly, four in a row, with the answer, its probability, and the truth.

    Parameters
    ----------
    images : ndarray (m, c, h, w)
        Black is 0 and white 255. Three channels are drawn in colour, as in `templates`.
    true_names, predicted_names : sequence of m str
    probabilities : ndarray (m,)
        Of the predicted classes.
    title : str
    """
    if len(images) == 0:
        figure, _ = new_page(title, 0.3)
        figure.text(MARGIN / WIDTH, 0.2, "No mistakes.", size=LABEL, color=INK)
        return figure
    stacks = [[np.clip(picture(image) / 255, 0, 1)] for image in images]
    answers = [fitted(name, 0.85, LABEL, lines=1) for name in predicted_names]
    captions = [
        f"predicted {answer}, {100 * p:.0f} %\ntrue {truth}"
        for answer, p, truth in zip(answers, probabilities, true_names, strict=True)
    ]
    return mosaic(stacks, captions, title, columns=4, cmap="gray", vmin=0, vmax=1)[0]
