"""The pictures of results: each type of result with the function that draws it.

`pictures/` stands above the results, since it imports them. So that a result can still draw itself, a function in
`pictures/` registers here the type that it draws, and `draw` loads that module when a picture is first asked for.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")
_FUNCTIONS: "dict[type, Callable[[Any], Figure]]" = {}


def draws(kind: type[T]) -> "Callable[[Callable[[T], Figure]], Callable[[T], Figure]]":
    """Return a decorator for the function that draws results of this type."""

    def register(function: "Callable[[T], Figure]") -> "Callable[[T], Figure]":
        _FUNCTIONS[kind] = function
        return function

    return register


def draw(result: object) -> "Figure":
    """Return the picture of a result whose type is registered."""
    import_module("onelayer.pictures.results")
    return _FUNCTIONS[type(result)](result)
