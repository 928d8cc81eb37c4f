"""The Triton kernels of the retractable attention as PyTorch operators, with gradients, and shapes for torch.compile."""

import torch
import triton
from torch import Tensor

from mptpn.attention import retractable_kernels as kernels
from mptpn.attention.operator import make_differentiable

# Programs of a pass that sums over groups: a few on each of an H100's 132 multiprocessors, and few enough that their
# parts of the bias
# gradient are small. A constant, and no autotuning: it decides the order of summation, and a run must give the same
# bits again.
PROGRAMS = 132 * 8


@torch.library.custom_op("mptpn::strided_attention", mutates_args=())
def strided_attention(qkv: Tensor, bias: Tensor, interval: int, window: int) -> Tensor:
    """Retractable attention as `mptpn.attention.retractable_attention` defines it; qkv and bias are copied if they are
    not contiguous.
    """
    qkv, bias = qkv.contiguous(), bias.contiguous()
    out = qkv.new_empty(*qkv.shape[:3], *qkv.shape[4:])
    groups, blocks, options = _launch(qkv, interval, window)
    # several groups a program where there are enough of them to fill the device many times over: they share one reading
    # of the bias
    per_program = 1 if blocks > 1 else max(1, min(8, groups * options["HEADS"] // (4 * PROGRAMS)))
    grid = (triton.cdiv(groups, per_program) * blocks * options["HEADS"],)
    with torch.cuda.device_of(qkv):
        kernels.forward[grid](qkv, bias, out, groups, *qkv.shape[1:3], interval, per_program, **options)
    return out


@torch.library.custom_op("mptpn::strided_attention_backward", mutates_args=())
def _backward(grad: Tensor, qkv: Tensor, bias: Tensor, interval: int, window: int) -> tuple[Tensor, Tensor]:
    """Gradients with respect to qkv and bias; besides them at most PROGRAMS parts of the bias gradient are kept, and
    nothing from forward.
    """
    grad, qkv, bias = grad.contiguous(), qkv.contiguous(), bias.contiguous()
    groups, blocks, options = _launch(qkv, interval, window)
    heads, image, grad_qkv = options["HEADS"], (*qkv.shape[1:3], interval), torch.empty_like(qkv)
    per_program = triton.cdiv(groups, max(1, PROGRAMS // (heads * blocks**2)))
    chunks = triton.cdiv(groups, per_program)
    parts = bias.new_empty((chunks, *bias.shape), dtype=torch.float32)
    with torch.cuda.device_of(qkv):
        if blocks == 1:
            kernels.backward[chunks * heads,](qkv, bias, grad, grad_qkv, parts, groups, *image, per_program, **options)
        else:
            sums, means = qkv.new_empty((2, *qkv.shape[:3], heads), dtype=torch.float32)
            grid = (groups * blocks * heads,)
            kernels.backward_queries[grid](qkv, bias, grad, grad_qkv, sums, means, *image, **options)
            kernels.backward_keys[grid](qkv, bias, grad, grad_qkv, sums, means, *image, **options)
            grid = (chunks * heads * blocks**2,)
            kernels.backward_bias[grid](qkv, bias, grad, parts, sums, means, groups, *image, per_program, **options)
    return grad_qkv, parts.sum(0).to(bias.dtype)


def _launch(qkv: Tensor, interval: int, window: int) -> tuple[int, int, dict[str, int]]:
    """Groups in the batch, blocks of tokens in a group, and the kernels' compile-time options.

    The options are the largest blocks whose sm_90 code spills next to no registers (`ptxas -v`): float32 products go
    without tensor cores and keep whole rows in registers, so they want more warps and, beyond 32 numbers a head,
    smaller blocks.
    """
    batch, height, width, _, heads, head_dim = qkv.shape
    side = window * interval
    groups = batch * triton.cdiv(height, side) * triton.cdiv(width, side) * interval**2
    block, block_d = max(16, triton.next_power_of_2(window**2)), max(16, triton.next_power_of_2(head_dim))
    if qkv.dtype == torch.float32:
        block = min(block, 32 if block_d > 64 or window > 8 else 64)
        warps, stages = (16 if block == 64 and block_d == 64 else 8), 1
    else:
        block = min(block, 64)
        warps, stages = block // 16, (2 if block_d <= 64 else 1)
    options = {
        "HEADS": heads,
        "D": head_dim,
        "WINDOW": window,
        "BLOCK": block,
        "BLOCK_D": block_d,
        "num_warps": warps,
        "num_stages": stages,
    }
    return groups, triton.cdiv(window**2, block), options


make_differentiable(strided_attention, _backward)
