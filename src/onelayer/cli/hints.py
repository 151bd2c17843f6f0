"""The words that people know from other programs, and the messages that say what to type instead."""

import re
from itertools import takewhile

from onelayer.cli.app import canonical, nearest, takes
from onelayer.errors import ConfigError
from onelayer.words import printable

_DECAY = "the rate decays by --decay-every EPOCHS and --decay-factor FACTOR"
_DESCENT = "training is plain gradient descent in batches; leave it out"
_DEVICE = "it runs on the CPU, and only train, resume, sweep, path and probe take a device; leave it out"
_EPOCHS = "--epochs counts the passes over the training rows"
_GPU = "--device cuda trains on a GPU of NVIDIA, --device mps on one of Apple"
_OUT = "the place to write to is --out"
_PENALTY = "--l2 is the weight lambda of the penalty lambda ||W||^2"
_PROCESSES = "torchrun --nproc-per-node N -m onelayer train divides the rows among N processes"
_ROUNDED = "--precision bfloat16 rounds the factors of products"
_SCALED = "the rows are always standardised; leave it out"
_STOPPING = "--epochs auto stops when the validation loss has stopped falling; --patience is how long it waits"

# A hint is given by commands that take every option in it.
HINTS = {
    **dict.fromkeys(("--early-stopping", "--early-stop"), _STOPPING),
    **dict.fromkeys(("--verbose", "-v"), "progress is shown unless you pass --quiet"),
    **dict.fromkeys(("--lr-decay", "--learning-rate-decay", "--lr-schedule", "--scheduler", "--gamma"), _DECAY),
    **dict.fromkeys(("--momentum", "--optimizer", "--optim"), _DESCENT),
    **dict.fromkeys(("--max-iter", "--max-epochs", "--iterations", "--steps"), _EPOCHS),
    **dict.fromkeys(("--output", "--output-dir", "--outdir", "--save-dir"), _OUT),
    **dict.fromkeys(("--reg", "--regularization", "--penalty", "--alpha"), _PENALTY),
    **dict.fromkeys(("--gpu", "--cuda", "--mps", "--use-gpu", "--accelerator"), _GPU),
    **dict.fromkeys(("--gpus", "--num-gpus", "--nodes", "--nnodes", "--nproc-per-node", "--distributed"), _PROCESSES),
    **dict.fromkeys(("--amp", "--bf16", "--fp16", "--half", "--mixed-precision"), _ROUNDED),
    "--device": _DEVICE,
    **dict.fromkeys(("--normalize", "--normalise", "--standardize", "--standardise"), _SCALED),
    **dict.fromkeys(("--no-plots", "--no-pictures"), "type --no-figures"),
    "--augment": "--flip mirrors training images at random",
    "--balanced": "type --class-weight balanced",
    "--num-workers": "type --threads",
    "--resume": "type onelayer resume RUN to go on with a run",
    "--shuffle": "the rows are always shuffled; leave it out",
    "--step-size": "the step size is --learning-rate",
    "--train-size": "the training rows are those that --validation-size and --test-size leave",
}
DESTRUCTIVE = {"overwrite"}  # never suggested


def unknown_option(option: str, words: list[str], known: list[str]) -> ConfigError:
    """Return the error on an option that a command does not take.

    Parameters
    ----------
    option : str
        As it was typed.
    words : list of str
        The command line.
    known : list of str
        Options of the command.
    """
    command, name = words[0], canonical(option)
    hint = _weight_decay(name, words) if name in ("--weight-decay", "--wd") else HINTS.get(name, "")
    if hint == _GPU and not takes(command, "--device"):
        hint = _DEVICE
    ours = "" if hint == _PROCESSES else hint  # it names an option of torchrun
    if not hint or not all(takes(command, named) for named in re.findall(r"--[a-z0-9-]+", ours) if named != name):
        near = nearest(option, [other for other in known if other.lstrip("-") not in DESTRUCTIVE])
        hint = f"did you mean --{near}?" if near else f"see onelayer {command} --help"
    return ConfigError(f"unknown option {printable(option)}; {hint}")


def _weight_decay(name: str, words: list[str]) -> str:
    """Return how the penalty is typed whose gradient is that of a weight decay."""
    text = " ".join(words)
    typed = re.search(r"--(?:weight[-_]decay|wd)[ =]([0-9.]+(?:e[+-]?[0-9]+)?)(?: |$)", text)
    try:
        half = f"{float(typed[1]) / 2:g}" if typed else "HALF"
    except ValueError:
        half = "HALF"
    return f"{name} is twice --l2, as the gradient of l2 ||W||^2 is 2 l2 W; type --l2 {half}"


def one_word_too_many(word: str, words: list[str]) -> ConfigError:
    """Return the error on a word of a command line that no argument and no option takes."""
    command, shown = words[0], printable(word)
    before = words[: words.index(word)] if word in words else []
    place = max((at for at, other in enumerate(before) if other.startswith("--")), default=0)
    option, equals, value = before[place].partition("=") if place else ("", "", "")
    values = [value] * bool(equals) + list(takewhile(lambda other: not other.startswith("--"), words[place + 1 :]))
    if command == "sweep" and option in ("--seed", "--seeds") and all(value.isdecimal() for value in values):
        hint = f"--seed is the first seed and --seeds their number: --seed {values[0]} --seeds {len(values)}"
    elif command == "train" and takes("sweep", option, several=True):
        hint = f"train takes one value of {option}; for several, type onelayer sweep {option} {' '.join(values)}"
    else:
        hint = f"see onelayer {command} --help"
    return ConfigError(f"{shown!r} is one word too many; {printable(hint, 200)}")
