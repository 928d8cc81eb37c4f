"""What the attentions share: the dtypes of their Triton kernels, whether these run here, and gradients of operators."""

import importlib.util
import os

import torch
from torch import Tensor
from torch.library import CustomOpDef

DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # of the kernels
TRITON_INSTALLED = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def check_triton(tensor: Tensor, name: str) -> None:
    """Refuse backend="triton" for a named tensor on a machine that cannot run it.

    Raises:
        RuntimeError: Triton is not installed, or the tensor is on a CPU without Triton's interpreter.
    """
    if not TRITON_INSTALLED:
        raise RuntimeError('backend="triton": the package triton is not installed (pip install "mptpn[kernels]")')
    if not (tensor.is_cuda or INTERPRETED):
        needs = f'backend="triton" needs a GPU; {name} is on {tensor.device}'
        raise RuntimeError(f"{needs}, and TRITON_INTERPRET=1 was not set at the start")


def make_differentiable(attend: CustomOpDef, backward: CustomOpDef) -> None:
    """Give an operator its gradients, and both operators their shapes for torch.compile.

    Args:
        attend: (qkv, bias, interval, window) -> out, shapes as in `retractable_attention`.
        backward: (gradient of out, qkv, bias, interval, window) -> gradients of qkv and bias.
    """

    def keep_inputs(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.grouping = inputs[2:]

    def gradients(ctx, grad):
        return *backward(grad, *ctx.saved_tensors, *ctx.grouping), None, None

    attend.register_fake(lambda qkv, bias, *_: qkv.new_empty(*qkv.shape[:3], *qkv.shape[4:]))
    backward.register_fake(lambda grad, qkv, bias, *_: (qkv.new_empty(qkv.shape), bias.new_empty(bias.shape)))
    attend.register_autograd(gradients, setup_context=keep_inputs)
