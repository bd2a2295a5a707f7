"""GPU kernels agree with plain PyTorch on the CPU, run by Triton's interpreter at tiny sizes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = ("tests/physics/test_kernels.py", "tests/model/test_kernels.py")


@pytest.mark.slow
def test_kernels_agree_with_plain_torch_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    # A process of its own: the interpreter is chosen when the kernels are imported.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *FILES]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    assert int(done.stdout.split(" passed")[0].split()[-1]) >= 14, done.stdout[-1000:]
