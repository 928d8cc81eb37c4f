"""Without a GPU the kernels run in Triton's interpreter."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
from triton_house import CUDA, INTERPRETED  # noqa: E402


@pytest.mark.slow
@pytest.mark.skipif(CUDA or INTERPRETED, reason="is what runs the others")
@pytest.mark.parametrize("file", ["test_retractable_triton.py", "test_hashed_triton.py"])
def test_kernels_are_right_in_the_interpreter(file):
    # a process of its own: Triton decides when it is first imported, and other tests may have imported it
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).with_name(file))]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0 and re.search(r"\d\d passed", run.stdout), run.stdout[-5000:] + run.stderr[-1000:]
