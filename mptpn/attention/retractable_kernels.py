"""Triton kernels of the retractable attention: tokens are read and written where they lie in the image, nothing is
partitioned.

Reasons for the shape of these kernels (one H100, bfloat16, window 8, head_dim 32 in mind):
- A program takes one head of one group, 64 tokens. A token's row in qkv is contiguous over heads, so a program reads
runs of head_dim
  numbers; programs are numbered head first, then the phase along w, so that those in flight together read whole rows of
  neighbouring pixels, and every DRAM page and 32-byte sector that is opened is used up, whatever the interval.
- The bias of a head (16 KiB) is as large as all that one group moves. Reading it for each group would load the L2 cache
as much as the
  tokens do, so a program keeps it in registers and walks over several groups; the next group's loads overlap this one's
  arithmetic.
- The backward pass computes the weights again (64 x 64 numbers from 64 x head_dim): nothing is saved but the inputs.
The gradient of the
  bias is summed in registers over the program's groups, in a fixed order, and written once: no atomics.
- Groups of more than BLOCK tokens (window > 8) go by tiles with a running softmax (Dao et al., FlashAttention, 2022,
Algorithm 1).

Pixel numbers are 64-bit: qkv passes 2**31 numbers from 2048 x 2048 pixels on. All sums are float32. Names in capitals
are compile-time.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
# logit of a key that does not exist: finite, since a group that lies wholly outside would be NaN
FAR = tl.constexpr(-1e30)


@triton.jit
def _pixels(group, block, height, width, interval, WINDOW: tl.constexpr, BLOCK: tl.constexpr):
    """Pixel number b * H * W + h * W + w of a block of a group's tokens, and whether each exists; groups are numbered
    phase first.
    """
    token = block * BLOCK + tl.arange(0, BLOCK)
    cols, rows = tl.cdiv(width, WINDOW * interval), tl.cdiv(height, WINDOW * interval)
    w = (group // interval % cols * WINDOW + token % WINDOW) * interval + group % interval
    group = group // (interval * cols)
    h = (group // interval % rows * WINDOW + token // WINDOW) * interval + group % interval
    batch = (group // (interval * rows)).to(tl.int64)
    return (batch * height + h) * width + w, (token < WINDOW * WINDOW) & (h < height) & (w < width)


@triton.jit
def _tile(base, pixel, row, BLOCK_D: tl.constexpr):
    """Pointers [BLOCK, BLOCK_D] to the numbers from base on of each pixel, in an image of `row` numbers a pixel."""
    return base + (pixel * row)[:, None] + tl.arange(0, BLOCK_D)[None, :]


@triton.jit
def _read(pointers, exists, D: tl.constexpr, BLOCK_D: tl.constexpr):
    mask = exists[:, None] if D == BLOCK_D else exists[:, None] & (tl.arange(0, BLOCK_D) < D)[None, :]
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def _write(pointers, numbers, exists, D: tl.constexpr, BLOCK_D: tl.constexpr):
    mask = exists[:, None] if D == BLOCK_D else exists[:, None] & (tl.arange(0, BLOCK_D) < D)[None, :]
    tl.store(pointers, numbers.to(pointers.dtype.element_ty), mask=mask)


@triton.jit
def _bias_tile(bias, head, query_block, key_block, N: tl.constexpr, BLOCK: tl.constexpr):
    """Bias of one tile in units of log 2, zero beyond N."""
    query, key = query_block * BLOCK + tl.arange(0, BLOCK), key_block * BLOCK + tl.arange(0, BLOCK)
    pointers = bias + head * N * N + query[:, None] * N + key[None, :]
    return tl.load(pointers, mask=(query < N)[:, None] & (key < N)[None, :], other=0.0).to(tl.float32) * LOG2E


@triton.jit
def _logits(q, k, bias, exists, D: tl.constexpr):
    """log2 of the unnormalised weights, [queries, keys]."""
    logits = tl.dot(q, tl.trans(k), input_precision="ieee") * (LOG2E * D**-0.5) + bias
    return tl.where(exists[None, :], logits, FAR)


@triton.jit
def forward(qkv, bias, out, groups, height, width, interval, per_program,
            HEADS: tl.constexpr, D: tl.constexpr, WINDOW: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """out; one program: a head, a block of queries, `per_program` groups."""
    N: tl.constexpr = WINDOW * WINDOW
    BLOCKS: tl.constexpr = (N + BLOCK - 1) // BLOCK
    head, query_block, chunk = (
        tl.program_id(0) % HEADS,
        tl.program_id(0) // HEADS % BLOCKS,
        tl.program_id(0) // (HEADS * BLOCKS),
    )
    added = _bias_tile(bias, head, query_block, 0, N, BLOCK)
    for group in range(chunk * per_program, min(groups, (chunk + 1) * per_program)):
        pixel, exists = _pixels(group, query_block, height, width, interval, WINDOW, BLOCK)
        q = _read(_tile(qkv + head * D, pixel, 3 * HEADS * D, BLOCK_D), exists, D, BLOCK_D)
        top, total = tl.full([BLOCK], FAR, tl.float32), tl.zeros([BLOCK], tl.float32)
        attended = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        for key_block in range(BLOCKS):
            there, real = _pixels(group, key_block, height, width, interval, WINDOW, BLOCK)
            keys = _tile(qkv + (HEADS + head) * D, there, 3 * HEADS * D, BLOCK_D)
            k, v = _read(keys, real, D, BLOCK_D), _read(keys + HEADS * D, real, D, BLOCK_D)
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
             HEADS: tl.constexpr, D: tl.constexpr, WINDOW: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """grad_qkv, and each chunk's part of grad_bias [chunks, heads, N, N], where a group fits in one block."""
    N: tl.constexpr = WINDOW * WINDOW
    head, chunk = tl.program_id(0) % HEADS, tl.program_id(0) // HEADS
    added = _bias_tile(bias, head, 0, 0, N, BLOCK)
    slopes = tl.zeros([BLOCK, BLOCK], tl.float32)
    for group in range(chunk * per_program, min(groups, (chunk + 1) * per_program)):
        pixel, exists = _pixels(group, 0, height, width, interval, WINDOW, BLOCK)
        tokens = _tile(qkv + head * D, pixel, 3 * HEADS * D, BLOCK_D)
        q, k = _read(tokens, exists, D, BLOCK_D), _read(tokens + HEADS * D, exists, D, BLOCK_D)
        v = _read(tokens + 2 * HEADS * D, exists, D, BLOCK_D)
        above = _read(_tile(grad + head * D, pixel, HEADS * D, BLOCK_D), exists, D, BLOCK_D)
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
    token = tl.arange(0, BLOCK)
    pointers = grad_bias + tl.program_id(0).to(tl.int64) * N * N + token[:, None] * N + token[None, :]
    tl.store(pointers, slopes, mask=(token < N)[:, None] & (token < N)[None, :])


@triton.jit
def backward_queries(qkv, bias, grad, grad_qkv, sums, means, height, width, interval,
                     HEADS: tl.constexpr, D: tl.constexpr, WINDOW: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """Gradient of q of one block of queries; and for every pixel and head log2 of the weights' sum and the mean of
    their slopes.
    """
    N: tl.constexpr = WINDOW * WINDOW
    BLOCKS: tl.constexpr = (N + BLOCK - 1) // BLOCK
    head, query_block, group = (
        tl.program_id(0) % HEADS,
        tl.program_id(0) // HEADS % BLOCKS,
        tl.program_id(0) // (HEADS * BLOCKS),
    )
    pixel, exists = _pixels(group, query_block, height, width, interval, WINDOW, BLOCK)
    q = _read(_tile(qkv + head * D, pixel, 3 * HEADS * D, BLOCK_D), exists, D, BLOCK_D)
    above = _read(_tile(grad + head * D, pixel, HEADS * D, BLOCK_D), exists, D, BLOCK_D)
    top, total, mean = tl.full([BLOCK], FAR, tl.float32), tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for key_block in range(BLOCKS):
        there, real = _pixels(group, key_block, height, width, interval, WINDOW, BLOCK)
        keys = _tile(qkv + (HEADS + head) * D, there, 3 * HEADS * D, BLOCK_D)
        k, v = _read(keys, real, D, BLOCK_D), _read(keys + HEADS * D, real, D, BLOCK_D)
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
        keys = _tile(qkv + (HEADS + head) * D, there, 3 * HEADS * D, BLOCK_D)
        k, v = _read(keys, real, D, BLOCK_D), _read(keys + HEADS * D, real, D, BLOCK_D)
        logits = _logits(q, k, _bias_tile(bias, head, query_block, key_block, N, BLOCK), real, D)
        slope = tl.exp2(logits - total[:, None]) * (tl.dot(above, tl.trans(v), input_precision="ieee") - mean[:, None])
        result += tl.dot(slope.to(k.dtype), k, input_precision="ieee")
    _write(_tile(grad_qkv + head * D, pixel, 3 * HEADS * D, BLOCK_D), result * D**-0.5, exists, D, BLOCK_D)


@triton.jit
def _query_tile(
    qkv, grad, sums, means, head, pixel, exists, HEADS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr
):
    """q, gradient, log2 of the weights' sum (so large where there is no query that its weights are 0) and mean slope."""
    q = _read(_tile(qkv + head * D, pixel, 3 * HEADS * D, BLOCK_D), exists, D, BLOCK_D)
    above = _read(_tile(grad + head * D, pixel, HEADS * D, BLOCK_D), exists, D, BLOCK_D)
    total = tl.load(sums + pixel * HEADS + head, mask=exists, other=-FAR)
    return q, above, total, tl.load(means + pixel * HEADS + head, mask=exists, other=0.0)


@triton.jit
def backward_keys(qkv, bias, grad, grad_qkv, sums, means, height, width, interval,
                  HEADS: tl.constexpr, D: tl.constexpr, WINDOW: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """Gradients of k and v of one block of keys, after backward_queries."""
    N: tl.constexpr = WINDOW * WINDOW
    BLOCKS: tl.constexpr = (N + BLOCK - 1) // BLOCK
    head, key_block, group = (
        tl.program_id(0) % HEADS,
        tl.program_id(0) // HEADS % BLOCKS,
        tl.program_id(0) // (HEADS * BLOCKS),
    )
    pixel, exists = _pixels(group, key_block, height, width, interval, WINDOW, BLOCK)
    keys = _tile(qkv + (HEADS + head) * D, pixel, 3 * HEADS * D, BLOCK_D)
    k, v = _read(keys, exists, D, BLOCK_D), _read(keys + HEADS * D, exists, D, BLOCK_D)
    grad_k, grad_v = tl.zeros([BLOCK, BLOCK_D], tl.float32), tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for query_block in range(BLOCKS):
        there, real = _pixels(group, query_block, height, width, interval, WINDOW, BLOCK)
        q, above, total, mean = _query_tile(qkv, grad, sums, means, head, there, real, HEADS, D, BLOCK_D)
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
                  HEADS: tl.constexpr, D: tl.constexpr, WINDOW: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """Each chunk's part of grad_bias [chunks, heads, N, N], one tile a program, after backward_queries."""
    N: tl.constexpr = WINDOW * WINDOW
    BLOCKS: tl.constexpr = (N + BLOCK - 1) // BLOCK
    tile, slot = tl.program_id(0) % (BLOCKS * BLOCKS), tl.program_id(0) // (BLOCKS * BLOCKS)
    query_block, key_block, head, chunk = tile // BLOCKS, tile % BLOCKS, slot % HEADS, slot // HEADS
    added = _bias_tile(bias, head, query_block, key_block, N, BLOCK)
    slopes = tl.zeros([BLOCK, BLOCK], tl.float32)
    for group in range(chunk * per_program, min(groups, (chunk + 1) * per_program)):
        pixel, exists = _pixels(group, query_block, height, width, interval, WINDOW, BLOCK)
        q, above, total, mean = _query_tile(qkv, grad, sums, means, head, pixel, exists, HEADS, D, BLOCK_D)
        there, real = _pixels(group, key_block, height, width, interval, WINDOW, BLOCK)
        keys = _tile(qkv + (HEADS + head) * D, there, 3 * HEADS * D, BLOCK_D)
        k, v = _read(keys, real, D, BLOCK_D), _read(keys + HEADS * D, real, D, BLOCK_D)
        weights = tl.exp2(_logits(q, k, added, real, D) - total[:, None])
        slopes += weights * (tl.dot(above, tl.trans(v), input_precision="ieee") - mean[:, None])
    query, key = query_block * BLOCK + tl.arange(0, BLOCK), key_block * BLOCK + tl.arange(0, BLOCK)
    pointers = grad_bias + slot.to(tl.int64) * N * N + query[:, None] * N + key[None, :]
    tl.store(pointers, slopes, mask=(query < N)[:, None] & (key < N)[None, :])
