"""Pictures: plain numbers in, a matplotlib figure out. Nothing here shows or trains, and only `finished` saves.

Figures are made without pyplot, and every style is passed by hand: they need no display, may be drawn in any thread,
and leave no global state behind. Titles and names are plain text of any length: long ones are broken into lines.
"""
