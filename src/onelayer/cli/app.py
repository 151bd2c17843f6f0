"""The application that the commands join, and the sources of its options: command line and TOML file."""

import difflib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from cyclopts import UNSET, App, Parameter, Token

from onelayer.config import ALIASES as SHORT_NAMES
from onelayer.config import PRESETS
from onelayer.errors import ConfigError
from onelayer.losses import LOSSES
from onelayer.words import printable, typed

if TYPE_CHECKING:
    from cyclopts.argument import Argument, ArgumentCollection

# The short names of settings as options, which have hyphens.
ALIASES = {f"--{short}".replace("_", "-"): f"--{name}".replace("_", "-") for short, name in SHORT_NAMES.items()}

PARTS = {"val": "validation"}  # short names of the values of --split

# Names of the settings that the preset gave to the command line that was read last, and nothing else.
FROM_PRESET: set[str] = set()


def _complete(app: App, commands: tuple[str, ...], arguments: "ArgumentCollection") -> None:
    """Take options that the command line lacks from the file of --config, and refuse fractions for counts."""
    known = {argument.name: argument for argument in arguments}
    FROM_PRESET.clear()
    if "--config" in known and known["--config"].tokens:
        _read_toml(known.pop("--config").tokens[0].value, known)
    if "--preset" in known and known["--preset"].tokens:
        _take_preset(known["--preset"].tokens[0].value, known)
    for name, argument in known.items():
        if name == "--split":
            argument.tokens[:] = [token.evolve(value=PARTS.get(token.value, token.value)) for token in argument.tokens]
        for token in argument.tokens if _holds(argument.hint, int, float) else ():
            if re.fullmatch(r"[-+.0-9e]+(,[-+.0-9e]+)+,?", token.value):
                whole = _holds(argument.hint, int) or name.endswith("-size")
                raise ConfigError(f"{name} {token.value}: {_without_commas(commands, name, token.value, whole)}")
            _require_number(name, argument.hint, token)


def _require_number(name: str, hint: object, token: Token) -> None:
    """Refuse what is not a number, or not auto where an option takes it, in plain words."""
    whole, auto = _holds(hint, int), _holds(hint, "auto")
    if (auto and token.value == "auto") or token.implicit_value is not UNSET:  # the latter has no value
        return
    try:
        (int if whole else float)(token.value)  # cyclopts would round 2.7
    except ValueError:
        file = f"{token.source}: " if token.source not in ("", "cli") else ""
        kind = ("a whole number" if whole else "a number") + " or auto" * auto
        raise ConfigError(f"{file}{name} takes {kind}, not {printable(token.value)!r}") from None


def _holds(hint: object, *kinds: object) -> bool:
    """Return whether an option takes a value of one of these kinds, or one of these words, or several."""
    return hint in kinds or any(_holds(part, *kinds) for part in get_args(hint))


def _take_preset(name: str, known: "dict[str, Argument]") -> None:
    """Take options that the command line and the file lack from a preset; a name that is none is refused later."""
    preset = PRESETS.get(name)
    for field in fields(preset) if preset else ():
        value = getattr(preset, field.name)
        option = known.get(canonical(f"--{field.name}"))
        if option and not option.tokens and value != field.default:
            option.append(Token(keyword=field.name, value=typed(value), source=f"preset {name}"))
            FROM_PRESET.add(field.name)


def _without_commas(commands: tuple[str, ...], option: str, value: str, whole: bool) -> str:
    """Return how numbers are typed that someone wrote with commas; those of whole numbers may group thousands."""
    numbers = value.replace(",", " ").strip()
    grouped = f"type {value.replace(',', '')}" if whole and re.fullmatch(r"[1-9][0-9]{0,2}(,[0-9]{3})+", value) else ""
    if grouped and ",0" in value:
        return f"{grouped}, without a comma"
    if commands in (("sweep",), ("probe",)) or (commands, option) == (("path",), "--l2"):
        return f"separate numbers by spaces: {option} {numbers}; decimals have a point"
    several = (
        f", and sweep takes several: onelayer sweep {option} {numbers}"
        if commands == ("train",) and takes("sweep", option, several=True)
        else ""
    )
    return f"{grouped or 'it takes one number, with a decimal point'}{several}"


def _read_toml(path: str, known: "dict[str, Argument]") -> None:
    try:
        options = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))  # some editors begin with a byte order mark
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; --config takes a TOML file of options") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from None
    keys: dict[str, str] = {}
    for key, value in options.items():
        name = canonical(f"--{key}")
        if (other := keys.setdefault(name, key)) != key:
            raise ConfigError(f"{path}: {other} and {key} are the same option; keep one of them")
        if name not in known:
            near = nearest(name, known)
            guess = f"did you mean {near.replace('-', '_')}?" if near else "remove it"
            raise ConfigError(f"{path}: unknown option {key}; {guess}")
        many = get_origin(known[name].hint) is list
        values = value if many and isinstance(value, list) else [value]
        if not all(isinstance(item, str | int | float) for item in values):
            raise ConfigError(f"{path}: {key} takes {'numbers or words' if many else 'one value'}, not {value!r}")
        if not values:
            raise ConfigError(f"{path}: {key} has no values; give at least one")
        if not known[name].tokens:
            for item in values:
                flag = item if isinstance(item, bool) and not many else UNSET
                known[name].append(Token(keyword=key, value=typed(item), source=path, implicit_value=flag))


def _shown(default: object) -> str | None:
    """Return a default as --help shows it; None for an option that is off, or whose help says the default."""
    if default is None or default is False or default == "":
        return None
    if isinstance(default, list):
        return " ".join(map(_plain, default))
    return _plain(default)


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else typed(value)


def canonical(option: str) -> str:
    """Return an option as it is declared: hyphens for underscores, and our word for the course's."""
    option = option.replace("_", "-")
    return ALIASES.get(option, option)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most like this one, without the hyphens before it; None if none is alike."""
    near = difflib.get_close_matches(word.lstrip("-"), [name.lstrip("-") for name in known], n=1, cutoff=0.7)
    return near[0] if near else None


def takes(command: str, option: str, *, several: bool = False) -> bool:
    """Return whether a command has an option of this name; with `several`, one that takes several values."""
    if command.startswith("-") or command not in app:
        return False
    options = _options_of(command)
    return option in options and (not several or options[option])


@cache
def _options_of(command: str) -> dict[str, bool]:
    """Return the names of a command's options, and whether each takes several values."""
    arguments = app[command].assemble_argument_collection()
    return {name: get_origin(argument.hint) is list for argument in arguments for name in argument.names}


class _Application(App):
    def assemble_argument_collection(self, **options: Any) -> "ArgumentCollection":
        """Return the arguments of a command; --loss offers the losses of this moment, with those added at run time."""
        arguments = super().assemble_argument_collection(**options)
        for argument in arguments:
            if argument.name == "--loss":
                names: Any = Literal[tuple(LOSSES)]
                argument.hint = list[names] if get_origin(argument.hint) is list else names
                words = ", or ".join(loss.words for loss in LOSSES.values())
                argument.parameter = Parameter.combine(
                    argument.parameter, Parameter(help=f"Loss to minimise: {words}.")
                )
        return arguments


app = _Application(
    name="onelayer",
    help="Train, check and show one-layer image classifiers.",
    config=_complete,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,  # main() says how to go on
    group_parameters="Options",
    default_parameter=Parameter(negative=(), json_dict=False, json_list=False, show_default=_shown),
)
