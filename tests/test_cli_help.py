"""The pages of --help."""

import io
import re
import subprocess
import sys
from dataclasses import fields

import pytest
from rich.console import Console

from onelayer.cli.app import app
from onelayer.cli.main import run_command  # noqa: F401, it loads the commands
from onelayer.config import SplitConfig, TrainConfig
from onelayer.data.untrusted.images import IMAGE_FORMATS


def test_help_loads_nothing_heavy():
    code = (
        "import sys, onelayer\n"
        "from onelayer.__main__ import main\n"
        "sys.argv = ['onelayer', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'scipy', 'sklearn', 'matplotlib', 'jinja2', 'torch', 'PIL', 'pooch', 'onnx', 'joblib'}\n"
        "heavy &= sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    for command in ("train", "resume", "check", "evaluate", "predict", "explain", "export", "figures", "data", "sweep"):
        assert command in out


COMMANDS = [command for command in app if not command.startswith("-")]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_described(command):
    arguments = [a for a in app[command].assemble_argument_collection(parse_docstring=True) if a.name != "*"]
    assert arguments
    for argument in arguments:
        words = argument.parameter.help or ""
        assert re.match(r"[A-Z][A-Za-z]+\b.*\.$", words), f"{command} {argument.name}: one line that is a sentence"
        assert words.split()[0] not in ("Of", "What", "Which", "How", "Whether", "Where", "Who", "See", "As"), words


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_help_page_fits_the_terminal(command, width):
    page = io.StringIO()
    app.help_print([command], console=Console(width=width, file=page))
    assert max(map(len, page.getvalue().splitlines())) == width
    switches_off = re.findall(r"default: false", page.getvalue(), re.IGNORECASE)
    assert len(switches_off) == (command == "sweep"), "only the list of --flip has such a default"


def options_of(config: type) -> list[str]:
    return [f"--{field.name.replace('_', '-')}" for field in fields(config)]


def test_options_are_in_groups(run_cli):
    source, training = "--data --image-size --fit --allow-unreadable --coarse", options_of(TrainConfig)
    swept = [option for option in training if option not in ("--seed", "--threads")]  # a sweep counts seeds itself
    split = " ".join(options_of(SplitConfig))
    for command, expected in {
        "train": {
            "Data": source,
            "Split": split,
            "Training": " ".join([*training, "--preset"]),
            "Output": "--out --overwrite --no-figures --quiet",
            "Options": "--config",
        },
        "sweep": {
            "Data": source,
            "Split": split,
            "Training": " ".join([*swept, "--preset"]),
            "Runs": "--seeds --seed --random --random-seed --select --report-test --workers --stack --part --collect",
            "Output": "--out --overwrite --figures --quiet",
            "Options": "--config",
        },
        "path": {
            "Data": source,
            "Split": split,
            "Training": "--tol --max-passes --loss --flip --class-weight --dtype "
            "--features --features-mirror --features-seed --backend --device",
            "Runs": "--l2 --select --one-standard-error",
            "Output": "--out --overwrite --no-figures --quiet",
            "Options": "--config",
        },
        "resume": {
            "Data": "--data",
            "Training": "--epochs --tol --max-passes --device",
            "Output": "--no-figures --quiet",
        },
        "study": {"Data": "--data", "Runs": "--seeds --seed --workers", "Output": "--out --overwrite --quiet"},
    }.items():
        panels = re.split(r"╭─ ([A-Z][a-z]+) ─+╮", run_cli(command, "--help")[1])[1:]
        pairs = zip(panels[::2], panels[1::2], strict=True)
        shown = {name: " ".join(re.findall(r"│ (--[a-z0-9-]+)", text)) for name, text in pairs}
        shown.pop("Arguments", None)
        assert list(shown.items()) == list(expected.items()), command


def test_the_help_of_predict_names_the_formats_that_are_read(run_cli):
    words = re.search(r"required\].*?PATH(.*?) files", run_cli("predict", "--help")[1], re.DOTALL)[1]
    assert [name.upper() for name in re.findall(r"[A-Z][A-Za-z]+", words)] == list(IMAGE_FORMATS)
