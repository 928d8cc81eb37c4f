"""What the tests of Triton kernels share: where they run, and what a kernel takes of an H100."""

import os
import re
import subprocess
import tempfile

import pytest
import torch

triton = pytest.importorskip("triton")

from mptpn.attention.backend import INTERPRETED  # noqa: E402 - after the check that Triton is there

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


def code_for_an_h100(kernel, *, pointers, options):
    """Compile a kernel for an H100 without one: bytes of shared memory, bytes of spilled stores, and ptxas's words.

    Args:
        pointers: argument: dtype that it points to, aligned to 16 bytes.
        options: compile-time arguments, num_warps and num_stages.
    """
    launch = {name: value for name, value in options.items() if name.startswith("num_")}
    options = {name: options[name] for name in options.keys() - launch.keys() if name in kernel.arg_names}
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
