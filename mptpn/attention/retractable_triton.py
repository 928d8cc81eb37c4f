"""Retractable attention as Triton kernels: tokens are read and written where they lie in the image.

Reasons, for an H100, bfloat16, window 8, head_dim 32:
- A program takes one head of one group. Programs are numbered head first, then by phase along w, so that those in
  flight together read whole rows of neighbouring pixels.
- The bias of a head (16 KiB) is as large as all that one group moves: a program keeps it and walks over several groups.
- The backward pass computes the weights again, and sums the gradient of the bias in a fixed order: no atomics.
- Groups of more than BLOCK tokens go by tiles with a running softmax (Dao et al. 2022, FlashAttention, Algorithm 1).

Pixel numbers are 64-bit: qkv passes 2**31 numbers from 2048 x 2048 pixels on. All sums are float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr

from mptpn.attention.backend import make_differentiable

LOG2E = constexpr(1.4426950408889634)
FAR = constexpr(-1e30)  # logit of a key that does not exist; finite, or a group wholly outside would be NaN
# Programs of a pass that sums over groups: a few on each of an H100's 132 multiprocessors, so that their parts of the
# bias gradient are small. A constant, since it decides the order of summation: every run must give the same bits.
PROGRAMS = 132 * 8


@triton.jit
def _place(HEADS: constexpr, BLOCKS: constexpr):
    """Head, block of tokens, and group or chunk of groups of this program."""
    number = tl.program_id(0)
    return number % HEADS, number // HEADS % BLOCKS, number // (HEADS * BLOCKS)


@triton.jit
def _pixels(group, block, height, width, interval, WINDOW: constexpr, BLOCK: constexpr):
    """Pixel numbers b * H * W + h * W + w of a block of tokens, and which exist; groups are numbered phase first."""
    token = block * BLOCK + tl.arange(0, BLOCK)
    cols, rows = tl.cdiv(width, WINDOW * interval), tl.cdiv(height, WINDOW * interval)
    w = (group // interval % cols * WINDOW + token % WINDOW) * interval + group % interval
    group = group // (interval * cols)
    h = (group // interval % rows * WINDOW + token // WINDOW) * interval + group % interval
    batch = (group // (interval * rows)).to(tl.int64)
    return (batch * height + h) * width + w, (token < WINDOW * WINDOW) & (h < height) & (w < width)


@triton.jit
def _tile(base, pixel, row, BLOCK_D: constexpr):
    """Pointers [BLOCK, BLOCK_D] to the numbers from base on of each pixel, in an image of `row` numbers a pixel."""
    return base + (pixel * row)[:, None] + tl.arange(0, BLOCK_D)[None, :]


@triton.jit
def _read(pointers, exists, D: constexpr, BLOCK_D: constexpr):
    mask = exists[:, None] if D == BLOCK_D else exists[:, None] & (tl.arange(0, BLOCK_D) < D)[None, :]
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def _write(pointers, numbers, exists, D: constexpr, BLOCK_D: constexpr):
    mask = exists[:, None] if D == BLOCK_D else exists[:, None] & (tl.arange(0, BLOCK_D) < D)[None, :]
    tl.store(pointers, numbers.to(pointers.dtype.element_ty), mask=mask)


@triton.jit
def _read_keys(qkv, head, pixel, exists, HEADS: constexpr, D: constexpr, BLOCK_D: constexpr):
    keys = _tile(qkv + (HEADS + head) * D, pixel, 3 * HEADS * D, BLOCK_D)
    return _read(keys, exists, D, BLOCK_D), _read(keys + HEADS * D, exists, D, BLOCK_D)


@triton.jit
def _read_queries(qkv, grad, head, pixel, exists, HEADS: constexpr, D: constexpr, BLOCK_D: constexpr):
    """Queries, and the gradients of their results."""
    q = _read(_tile(qkv + head * D, pixel, 3 * HEADS * D, BLOCK_D), exists, D, BLOCK_D)
    return q, _read(_tile(grad + head * D, pixel, HEADS * D, BLOCK_D), exists, D, BLOCK_D)


@triton.jit
def _read_sums(sums, means, head, pixel, exists, HEADS: constexpr):
    """log2 of the weights' sum, so large where there is no query that its weights are 0, and the mean slope."""
    total = tl.load(sums + pixel * HEADS + head, mask=exists, other=-FAR)
    return total, tl.load(means + pixel * HEADS + head, mask=exists, other=0.0)


@triton.jit
def _bias_tile(bias, head, query_block, key_block, N: constexpr, BLOCK: constexpr):
    """Bias of one tile in units of log 2, zero beyond N."""
    query, key = query_block * BLOCK + tl.arange(0, BLOCK), key_block * BLOCK + tl.arange(0, BLOCK)
    pointers = bias + head * N * N + query[:, None] * N + key[None, :]
    return tl.load(pointers, mask=(query < N)[:, None] & (key < N)[None, :], other=0.0).to(tl.float32) * LOG2E


@triton.jit
def _write_bias(grad_bias, slot, query_block, key_block, slopes, N: constexpr, BLOCK: constexpr):
    """One tile of part `slot` of the bias gradient, [chunks * heads, N, N]."""
    query, key = query_block * BLOCK + tl.arange(0, BLOCK), key_block * BLOCK + tl.arange(0, BLOCK)
    pointers = grad_bias + slot.to(tl.int64) * N * N + query[:, None] * N + key[None, :]
    tl.store(pointers, slopes, mask=(query < N)[:, None] & (key < N)[None, :])


@triton.jit
def _logits(q, k, bias, exists, D: constexpr):
    """log2 of the unnormalised weights, [queries, keys]."""
    logits = tl.dot(q, tl.trans(k), input_precision="ieee") * (LOG2E * D**-0.5) + bias
    return tl.where(exists[None, :], logits, FAR)


@triton.jit
def forward(qkv, bias, out, groups, height, width, interval, per_program,
            HEADS: constexpr, D: constexpr, WINDOW: constexpr, BLOCK: constexpr, BLOCK_D: constexpr):  # fmt: skip
    """out; one program: a head, a block of queries, `per_program` groups."""
    N: constexpr = WINDOW * WINDOW
    BLOCKS: constexpr = (N + BLOCK - 1) // BLOCK
    head, query_block, chunk = _place(HEADS, BLOCKS)
    added = _bias_tile(bias, head, query_block, 0, N, BLOCK)
    for group in range(chunk * per_program, min(groups, (chunk + 1) * per_program)):
        pixel, exists = _pixels(group, query_block, height, width, interval, WINDOW, BLOCK)
        q = _read(_tile(qkv + head * D, pixel, 3 * HEADS * D, BLOCK_D), exists, D, BLOCK_D)
        top, total = tl.full([BLOCK], FAR, tl.float32), tl.zeros([BLOCK], tl.float32)
        attended = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        for key_block in range(BLOCKS):
            there, real = _pixels(group, key_block, height, width, interval, WINDOW, BLOCK)
            k, v = _read_keys(qkv, head, there, real, HEADS, D, BLOCK_D)
            if BLOCKS > 1:
                added = _bias_tile(bias, head, query_block, key_block, N, BLOCK)
            logits = _logits(q, k, added, real, D)
            higher = tl.maximum(top, tl.max(logits, 1))
            weights, shrink = tl.exp2(logits - higher[:, None]), tl.exp2(top - higher)
            total = total * shrink + tl.sum(weights, 1)
            attended = attended * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
            top = higher
        _write(_tile(out + head * D, pixel, HEADS * D, BLOCK_D), attended / total[:, None], exists, D, BLOCK_D)


@triton.jit
def backward(qkv, bias, grad, grad_qkv, grad_bias, groups, height, width, interval, per_program,
             HEADS: constexpr, D: constexpr, WINDOW: constexpr, BLOCK: constexpr, BLOCK_D: constexpr):  # fmt: skip
    """grad_qkv, and each chunk's part of grad_bias [chunks, heads, N, N], where a group fits in one block."""
    N: constexpr = WINDOW * WINDOW
    head, _, chunk = _place(HEADS, 1)
    added = _bias_tile(bias, head, 0, 0, N, BLOCK)
    slopes = tl.zeros([BLOCK, BLOCK], tl.float32)
    for group in range(chunk * per_program, min(groups, (chunk + 1) * per_program)):
        pixel, exists = _pixels(group, 0, height, width, interval, WINDOW, BLOCK)
        q, above = _read_queries(qkv, grad, head, pixel, exists, HEADS, D, BLOCK_D)
        k, v = _read_keys(qkv, head, pixel, exists, HEADS, D, BLOCK_D)
        logits = _logits(q, k, added, exists, D)
        weights = tl.exp2(logits - tl.max(logits, 1)[:, None])
        weights = weights / tl.sum(weights, 1)[:, None]
        results = _tile(grad_qkv + head * D, pixel, 3 * HEADS * D, BLOCK_D)
        grad_v = tl.dot(tl.trans(weights.to(v.dtype)), above, input_precision="ieee")
        _write(results + 2 * HEADS * D, grad_v, exists, D, BLOCK_D)
        slope = tl.dot(above, tl.trans(v), input_precision="ieee")
        slope = weights * (slope - tl.sum(weights * slope, 1)[:, None])
        slopes += slope
        slope = slope.to(q.dtype)
        _write(results, tl.dot(slope, k, input_precision="ieee") * D**-0.5, exists, D, BLOCK_D)
        _write(results + HEADS * D, tl.dot(tl.trans(slope), q, input_precision="ieee") * D**-0.5, exists, D, BLOCK_D)
    _write_bias(grad_bias, tl.program_id(0), 0, 0, slopes, N, BLOCK)


@triton.jit
def backward_queries(qkv, bias, grad, grad_qkv, sums, means, height, width, interval, HEADS: constexpr,
                     D: constexpr, WINDOW: constexpr, BLOCK: constexpr, BLOCK_D: constexpr):  # fmt: skip
    """Gradient of q of a block of queries; and for every pixel and head what _read_sums reads."""
    N: constexpr = WINDOW * WINDOW
    BLOCKS: constexpr = (N + BLOCK - 1) // BLOCK
    head, query_block, group = _place(HEADS, BLOCKS)
    pixel, exists = _pixels(group, query_block, height, width, interval, WINDOW, BLOCK)
    q, above = _read_queries(qkv, grad, head, pixel, exists, HEADS, D, BLOCK_D)
    top, total, mean = tl.full([BLOCK], FAR, tl.float32), tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for key_block in range(BLOCKS):
        there, real = _pixels(group, key_block, height, width, interval, WINDOW, BLOCK)
        k, v = _read_keys(qkv, head, there, real, HEADS, D, BLOCK_D)
        logits = _logits(q, k, _bias_tile(bias, head, query_block, key_block, N, BLOCK), real, D)
        higher = tl.maximum(top, tl.max(logits, 1))
        weights, shrink = tl.exp2(logits - higher[:, None]), tl.exp2(top - higher)
        total = total * shrink + tl.sum(weights, 1)
        mean = mean * shrink + tl.sum(weights * tl.dot(above, tl.trans(v), input_precision="ieee"), 1)
        top = higher
    total, mean = top + tl.log2(total), mean / total
    tl.store(sums + pixel * HEADS + head, total, mask=exists)
    tl.store(means + pixel * HEADS + head, mean, mask=exists)
    result = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for key_block in range(BLOCKS):
        there, real = _pixels(group, key_block, height, width, interval, WINDOW, BLOCK)
        k, v = _read_keys(qkv, head, there, real, HEADS, D, BLOCK_D)
        logits = _logits(q, k, _bias_tile(bias, head, query_block, key_block, N, BLOCK), real, D)
        slope = tl.exp2(logits - total[:, None]) * (tl.dot(above, tl.trans(v), input_precision="ieee") - mean[:, None])
        result += tl.dot(slope.to(k.dtype), k, input_precision="ieee")
    _write(_tile(grad_qkv + head * D, pixel, 3 * HEADS * D, BLOCK_D), result * D**-0.5, exists, D, BLOCK_D)


@triton.jit
def backward_keys(qkv, bias, grad, grad_qkv, sums, means, height, width, interval,
                  HEADS: constexpr, D: constexpr, WINDOW: constexpr, BLOCK: constexpr, BLOCK_D: constexpr):  # fmt: skip
    """Gradients of k and v of one block of keys, after backward_queries."""
    N: constexpr = WINDOW * WINDOW
    BLOCKS: constexpr = (N + BLOCK - 1) // BLOCK
    head, key_block, group = _place(HEADS, BLOCKS)
    pixel, exists = _pixels(group, key_block, height, width, interval, WINDOW, BLOCK)
    k, v = _read_keys(qkv, head, pixel, exists, HEADS, D, BLOCK_D)
    grad_k, grad_v = tl.zeros([BLOCK, BLOCK_D], tl.float32), tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for query_block in range(BLOCKS):
        there, real = _pixels(group, query_block, height, width, interval, WINDOW, BLOCK)
        q, above = _read_queries(qkv, grad, head, there, real, HEADS, D, BLOCK_D)
        total, mean = _read_sums(sums, means, head, there, real, HEADS)
        logits = _logits(q, k, _bias_tile(bias, head, query_block, key_block, N, BLOCK), exists, D)
        weights = tl.exp2(logits - total[:, None])
        grad_v += tl.dot(tl.trans(weights.to(v.dtype)), above, input_precision="ieee")
        slope = weights * (tl.dot(above, tl.trans(v), input_precision="ieee") - mean[:, None])
        grad_k += tl.dot(tl.trans(slope.to(q.dtype)), q, input_precision="ieee")
    results = _tile(grad_qkv + (HEADS + head) * D, pixel, 3 * HEADS * D, BLOCK_D)
    _write(results, grad_k * D**-0.5, exists, D, BLOCK_D)
    _write(results + HEADS * D, grad_v, exists, D, BLOCK_D)


@triton.jit
def backward_bias(qkv, bias, grad, grad_bias, sums, means, groups, height, width, interval, per_program,
                  HEADS: constexpr, D: constexpr, WINDOW: constexpr, BLOCK: constexpr, BLOCK_D: constexpr):  # fmt: skip
    """Each chunk's part of grad_bias [chunks, heads, N, N], one tile a program, after backward_queries."""
    N: constexpr = WINDOW * WINDOW
    BLOCKS: constexpr = (N + BLOCK - 1) // BLOCK
    tile, slot = tl.program_id(0) % (BLOCKS * BLOCKS), tl.program_id(0) // (BLOCKS * BLOCKS)
    query_block, key_block, head, chunk = tile // BLOCKS, tile % BLOCKS, slot % HEADS, slot // HEADS
    added = _bias_tile(bias, head, query_block, key_block, N, BLOCK)
    slopes = tl.zeros([BLOCK, BLOCK], tl.float32)
    for group in range(chunk * per_program, min(groups, (chunk + 1) * per_program)):
        pixel, exists = _pixels(group, query_block, height, width, interval, WINDOW, BLOCK)
        q, above = _read_queries(qkv, grad, head, pixel, exists, HEADS, D, BLOCK_D)
        total, mean = _read_sums(sums, means, head, pixel, exists, HEADS)
        there, real = _pixels(group, key_block, height, width, interval, WINDOW, BLOCK)
        k, v = _read_keys(qkv, head, there, real, HEADS, D, BLOCK_D)
        weights = tl.exp2(_logits(q, k, added, real, D) - total[:, None])
        slopes += weights * (tl.dot(above, tl.trans(v), input_precision="ieee") - mean[:, None])
    _write_bias(grad_bias, slot, query_block, key_block, slopes, N, BLOCK)


@torch.library.custom_op("mptpn::strided_attention", mutates_args=())
def strided_attention(qkv: Tensor, bias: Tensor, interval: int, window: int) -> Tensor:
    """`retractable_attention` by kernels; qkv and bias are copied if they are not contiguous."""
    qkv, bias = qkv.contiguous(), bias.contiguous()
    out = qkv.new_empty(*qkv.shape[:3], *qkv.shape[4:])
    groups, blocks, options = _launch(qkv, interval, window)
    # where groups fill the device many times over, several share one program and one reading of the bias
    per_program = 1 if blocks > 1 else max(1, min(8, groups * options["HEADS"] // (4 * PROGRAMS)))
    grid = (triton.cdiv(groups, per_program) * blocks * options["HEADS"],)
    with torch.cuda.device_of(qkv):
        forward[grid](qkv, bias, out, groups, *qkv.shape[1:3], interval, per_program, **options)
    return out


@torch.library.custom_op("mptpn::strided_attention_backward", mutates_args=())
def _strided_backward(grad: Tensor, qkv: Tensor, bias: Tensor, interval: int, window: int) -> tuple[Tensor, Tensor]:
    """Gradients with respect to qkv and bias; at most PROGRAMS parts of the bias gradient are kept besides them."""
    grad, qkv, bias = grad.contiguous(), qkv.contiguous(), bias.contiguous()
    groups, blocks, options = _launch(qkv, interval, window)
    heads, image, grad_qkv = options["HEADS"], (*qkv.shape[1:3], interval), torch.empty_like(qkv)
    per_program = triton.cdiv(groups, max(1, PROGRAMS // (heads * blocks**2)))
    chunks = triton.cdiv(groups, per_program)
    parts = bias.new_empty((chunks, *bias.shape), dtype=torch.float32)
    with torch.cuda.device_of(qkv):
        if blocks == 1:
            backward[chunks * heads,](qkv, bias, grad, grad_qkv, parts, groups, *image, per_program, **options)
        else:
            sums, means = qkv.new_empty((2, *qkv.shape[:3], heads), dtype=torch.float32)
            grid = (groups * blocks * heads,)
            backward_queries[grid](qkv, bias, grad, grad_qkv, sums, means, *image, **options)
            backward_keys[grid](qkv, bias, grad, grad_qkv, sums, means, *image, **options)
            grid = (chunks * heads * blocks**2,)
            backward_bias[grid](qkv, bias, grad, parts, sums, means, groups, *image, per_program, **options)
    return grad_qkv, parts.sum(0).to(bias.dtype)


def _launch(qkv: Tensor, interval: int, window: int) -> tuple[int, int, dict[str, int]]:
    """Groups in the batch, blocks of tokens in a group, and the kernels' compile-time options.

    The options are the largest blocks whose sm_90 code spills next to no registers (`ptxas -v`). float32 products use
    no tensor cores and keep rows in registers: they want more warps and, beyond 32 numbers a head, smaller blocks.
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
    options = {"HEADS": heads, "D": head_dim, "WINDOW": window, "BLOCK": block, "BLOCK_D": block_d}
    return groups, triton.cdiv(window**2, block), options | {"num_warps": warps, "num_stages": stages}


make_differentiable(strided_attention, _strided_backward)
