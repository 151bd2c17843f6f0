"""Processes of a command as torchrun starts them, forked from one that has PyTorch: loading it takes seconds."""

import atexit
import multiprocessing
import os
import sys
from pathlib import Path

os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # as onelayer sets it before it loads PyTorch
forkserver = multiprocessing.get_context("forkserver")
forkserver.set_forkserver_preload(["ranks", "torch.distributed", "onelayer.cli.main", "onelayer.training.train"])


def run_rank(words: list[str], variables: dict[str, str], folder: Path, said: Path) -> None:
    """Run a command in `folder`; its output goes to ``said.out``, its errors to ``said.err``."""
    os.chdir(folder)
    os.environ.update(variables)
    for number, suffix in ((1, ".out"), (2, ".err")):
        file = os.open(said.with_suffix(suffix), os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["onelayer", *words]
    from onelayer.__main__ import main

    code = 0
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        atexit._run_exitfuncs()  # noqa: SLF001, as at the end of a process of its own
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
