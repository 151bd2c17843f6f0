"""The pages of --help."""

import re
import subprocess
import sys

import pytest

from onelayer.data.untrusted.images import FORMATS


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


def test_no_help_page_is_left_undescribed(run_cli):
    commands = (
        "train",
        "resume",
        "check",
        "evaluate",
        "predict",
        "explain",
        "export",
        "figures",
        "data",
        "sweep",
        "compare",
        "study",
        "report",
    )
    for command in commands:
        code, out, _ = run_cli(command, "--help")
        assert code == 0
        for option in re.findall(r"│ (--[a-z0-9-]+[A-Z ]*?) {2,}│", out):
            pytest.fail(f"{command} {option} has no description")


def test_the_help_of_predict_names_the_formats_that_are_read(run_cli):
    words = re.search(r"required\].*?IMAGE(.*?) files", run_cli("predict", "--help")[1], re.DOTALL)[1]
    assert [name.upper() for name in re.findall(r"[A-Z][A-Za-z]+", words)] == list(FORMATS)
