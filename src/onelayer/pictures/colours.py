"""Colours that mean the same in every picture."""

from matplotlib import colormaps

COLOURS = {"train": "#0072b2", "validation": "#d55e00"}  # Okabe and Ito's blue and vermilion, for every kind of eye
SIGNED = colormaps["PuOr_r"].with_extremes(bad="#bbbbbb")  # no red, green or blue: these are channels
