"""What the tests of all Triton kernels share: where they run, how they are run in Triton's interpreter, and what a
kernel takes of an H100.
"""

import os
import re
import subprocess
import sys
import tempfile

import pytest
import torch

triton = pytest.importorskip("triton")

from mptpn.attention.retractable import INTERPRETED  # noqa: E402 - after the check that Triton is there

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * CUDA  # the interpreter multiplies the bits of bfloat16
runs = pytest.mark.skipif(not (CUDA or INTERPRETED), reason="runs in test_kernels_are_right_in_the_interpreter")
on_gpu = pytest.mark.skipif(not CUDA, reason="needs a GPU")
KINDS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int64: "*i64"}

if INTERPRETED:
    from triton.runtime import interpreter

    _patch = interpreter._patch_lang_tensor

    def _patch_with_numpy_2_4(tensor, scope):
        """Triton 3.6 turns an array of one number into an int, which numpy refuses since 2.4 (triton issue 9171)."""
        _patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = _patch_with_numpy_2_4


def passes_in_the_interpreter(file):
    """Run a test file with Triton's interpreter, at least ten tests of it."""
    # a process of its own: Triton decides when it is first imported, and other tests may have imported it
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0 and re.search(r"\d\d passed", run.stdout), run.stdout[-5000:] + run.stderr[-1000:]


def code_for_an_h100(kernel, *, pointers, options, launch):
    """Compile a kernel for an H100 without one: bytes of shared memory, bytes of spilled stores, and what the assembler
    says.

    Args:
        pointers: argument: dtype that it points to, aligned to 16 bytes. options: compile-time arguments. launch:
            num_warps and num_stages.
    """
    signature = {
        name: KINDS[pointers[name]] if name in pointers else "constexpr" if name in options else "i32"
        for name in kernel.arg_names
    }
    aligned = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(kernel.arg_names) if name in pointers}
    source = triton.compiler.ASTSource(kernel, signature, options, aligned)
    compiled = triton.compile(source, target=triton.backends.compiler.GPUTarget("cuda", 90, 32), options=launch)
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(compiled.asm["ptx"])
        file.flush()
        command = [triton.knobs.nvidia.ptxas.path, "-v", "-arch=sm_90a", file.name, "-o", os.devnull]
        log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return compiled.metadata.shared, int(re.search(r"(\d+) bytes spill stores", log)[1]), log
