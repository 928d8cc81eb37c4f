"""The Triton kernels of the hashed attention as a PyTorch operator, with gradients, and shapes for torch.compile."""

import torch
import triton
from torch import Tensor

from mptpn.attention import hashed_kernels as kernels

TOKENS = 16  # of a program of merge


@torch.library.custom_op("mptpn::hashed_attention", mutates_args=())
def hashed(match: Tensor, values: Tensor, order: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Attention as `mptpn.hashed_attention.attend` defines it, [B, N, D], and each token's sum of weights exp(logit -
    |token|) over all rounds, [B, N].

    Args:
        match, values: [B, N, C] and [B, N, D] of one dtype, copied if they are not contiguous.
        order: tokens of each image and round in sorted order, [rounds, B, N], int64.
        chunk: tokens of a chunk, 1 .. N.
    """
    match, values, order = match.contiguous(), values.contiguous(), order.contiguous()
    rounds, everything = len(order), match.shape[0] * match.shape[1]
    outs, sums = values.new_empty(rounds, *values.shape), values.new_empty(order.shape, dtype=torch.float32)
    out, total = torch.empty_like(values), values.new_empty(values.shape[:2], dtype=torch.float32)
    widths, options = _options(match, values)
    with torch.cuda.device_of(match):
        grid, sizes = _grid(order, chunk, options["forward"]["QUERIES"])
        kernels.forward[grid](match, values, order, outs, sums, *sizes, **widths, **options["forward"])
        grid = (triton.cdiv(everything, TOKENS),)
        kernels.merge[grid](
            outs, sums, out, total, everything, rounds, D=widths["D"], BLOCK_D=widths["BLOCK_D"], BLOCK=TOKENS
        )
    return out, total


@torch.library.custom_op("mptpn::hashed_attention_backward", mutates_args=())
def hashed_backward(
    grad: Tensor, match: Tensor, values: Tensor, order: Tensor, out: Tensor, total: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Gradients of match and values; each round's are kept until they are summed, 2 rounds (C + D / 2) numbers a token."""
    grad, match, values, order = grad.contiguous(), match.contiguous(), values.contiguous(), order.contiguous()
    rounds = len(order)
    # as queries, as keys
    of_match, of_values = match.new_empty(2, rounds, *match.shape), values.new_empty(rounds, *values.shape)
    means, lengths = torch.empty_like(total), torch.empty_like(total)
    widths, options = _options(match, values)
    with torch.cuda.device_of(match):
        grid, sizes = _grid(order, chunk, options["backward_queries"]["QUERIES"])
        kernels.backward_queries[grid](
            match,
            values,
            order,
            grad,
            out,
            total,
            means,
            lengths,
            of_match[0],
            *sizes,
            **widths,
            **options["backward_queries"],
        )
        grid, sizes = _grid(order, chunk, options["backward_keys"]["KEYS"])
        kernels.backward_keys[grid](
            match,
            values,
            order,
            grad,
            total,
            means,
            lengths,
            of_match[1],
            of_values,
            *sizes,
            **widths,
            **options["backward_keys"],
        )
    # with a dtype, or autocast would widen them
    return of_match.flatten(0, 1).sum(0, dtype=match.dtype), of_values.sum(0, dtype=values.dtype)


def _grid(order: Tensor, chunk: int, block: int) -> tuple[tuple[int], tuple[int, ...]]:
    """Programs, one a block of a row of order; and the kernels' tokens, batch, chunk, blocks."""
    rounds, batch, tokens = order.shape
    blocks = triton.cdiv(tokens, block)
    return (rounds * batch * blocks,), (tokens, batch, chunk, blocks)


def _options(match: Tensor, values: Tensor) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Widths of a token's rows, and each kernel's blocks and launch options.

    Blocks of 64 are for the tensor cores of an H100 or H200 (wgmma) and their shared memory; at C 64 and D 256 two
    programs fit on a multiprocessor and hide each other's waiting, and what registers spill, they spill outside the
    loops, but for two numbers in backward_keys. Smaller ones go elsewhere.
    """
    c, d = match.shape[-1], values.shape[-1]
    block_c, block_d = (max(16, triton.next_power_of_2(width)) for width in (c, d))
    widths = {"C": c, "D": d, "BLOCK_C": block_c, "BLOCK_D": block_d}
    hopper, wide = not match.is_cuda or torch.cuda.get_device_capability(match.device)[0] == 9, block_c > 64
    warps = 8 if wide or match.dtype == torch.float32 else 4
    if match.dtype == torch.float32 or not hopper:  # float32 products go without tensor cores
        side = 16 if wide and match.dtype == torch.float32 else 32
        return widths, dict.fromkeys(
            ("forward", "backward_queries", "backward_keys"),
            {"QUERIES": side, "KEYS": side, "num_warps": warps, "num_stages": 1},
        )
    # with a third stage the order is read ahead of the rows; in backward_queries it would leave room for one program
    # alone
    return widths, {
        "forward": {"QUERIES": 64, "KEYS": 64, "num_warps": warps, "num_stages": 3},
        "backward_queries": {"QUERIES": 64, "KEYS": 64, "num_warps": warps, "num_stages": 2},
        "backward_keys": {"QUERIES": 32, "KEYS": 64, "num_warps": warps, "num_stages": 3},
    }


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:3], *output)
    ctx.chunk = inputs[3]
    ctx.set_materialize_grads(False)  # no zeros for the sums of weights, whose gradient nobody asks for


def _gradients(ctx, grad, _):
    return *hashed_backward(grad, *ctx.saved_tensors, ctx.chunk), None, None


hashed.register_fake(
    lambda match, values, order, chunk: (
        values.new_empty(values.shape),
        values.new_empty(values.shape[:2], dtype=torch.float32),
    )
)
hashed_backward.register_fake(
    lambda grad, match, values, *_: (match.new_empty(match.shape), values.new_empty(values.shape))
)
hashed.register_autograd(_gradients, setup_context=_keep)
