"""Hashed attention as Triton kernels: rows are gathered through the sorted order, weights never leave the chip.

Reasons, for an H100, bfloat16, C 64, D 256, chunks of 144:
- A program takes a block of sorted queries and walks over their chunks (Dao et al. 2022, Algorithm 1), without a
  running maximum: no logit q_i . k_j / |k_j| exceeds |q_i|, and i sees itself. Weights are exp(logit - |q_i|), so the
  sums of all rounds have one unit, and the backward pass needs one sum and one mean of slopes a token.
- Blocks are not cut at chunks, 144 is no power of two: a block of 64 meets 432 or 576 keys, and a mask leaves the
  neighbours.
- The keys' length divides the logits, not the keys: no copy of the keys, and none rounded to 16 bits.
- Each program writes rows of its own in a fixed order of summation: no atomics, the same bits in every run.

Token numbers b * N + n and offsets are 64-bit. All sums are float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr

LOG2E = constexpr(1.4426950408889634)
SHORT = constexpr(5e-5)  # least length that divides a key
NOWHERE = constexpr(-9)  # chunk of a rank beyond the last: nobody's neighbour
TOKENS = 16  # of a program of merge


@triton.jit
def _program(blocks, batch):
    """Block, row round * B + b of order, and round of this program."""
    row = tl.program_id(0) // blocks
    return tl.program_id(0) % blocks, row, row // batch


@triton.jit
def _span(block, tokens, chunk, BLOCK: constexpr):
    """Ranks, first and one past the last, that a block's chunks see, and that see them: one chunk more on each side."""
    last = tl.minimum(block * BLOCK + BLOCK, tokens) - 1
    return tl.maximum(block * BLOCK // chunk - 1, 0) * chunk, tl.minimum(last // chunk * chunk + 2 * chunk, tokens)


@triton.jit
def _tokens(order, row, start, stop, tokens, batch, chunk, BLOCK: constexpr):
    """Token numbers of ranks start, start + 1, .. of a row of order; their chunks; and whether they are before stop."""
    rank = start + tl.arange(0, BLOCK)
    exists = rank < stop
    token = tl.load(order + row.to(tl.int64) * tokens + rank, mask=exists, other=0)
    return (row % batch).to(tl.int64) * tokens + token, tl.where(exists, rank // chunk, NOWHERE), exists


@triton.jit
def _tile(base, token, WIDTH: constexpr, BLOCK_WIDTH: constexpr):
    return base + (token * WIDTH)[:, None] + tl.arange(0, BLOCK_WIDTH)[None, :]


@triton.jit
def _read(base, token, exists, WIDTH: constexpr, BLOCK_WIDTH: constexpr):
    mask = exists[:, None] if WIDTH == BLOCK_WIDTH else exists[:, None] & (tl.arange(0, BLOCK_WIDTH) < WIDTH)[None, :]
    return tl.load(_tile(base, token, WIDTH, BLOCK_WIDTH), mask=mask, other=0.0)


@triton.jit
def _write(base, token, numbers, exists, WIDTH: constexpr, BLOCK_WIDTH: constexpr):
    mask = exists[:, None] if WIDTH == BLOCK_WIDTH else exists[:, None] & (tl.arange(0, BLOCK_WIDTH) < WIDTH)[None, :]
    tl.store(_tile(base, token, WIDTH, BLOCK_WIDTH), numbers.to(base.dtype.element_ty), mask=mask)


@triton.jit
def _length(x):
    """max(|x|, SHORT) of each row, as in F.normalize; exact where x is float32, since logits are multiples of it."""
    square = tl.sum(x.to(tl.float32) * x.to(tl.float32), 1)
    return tl.maximum(tl.sqrt_rn(square) if x.dtype == tl.float32 else tl.sqrt(square), SHORT)


@triton.jit
def _inverse(x):
    length = _length(x)
    return tl.div_rn(tl.full(length.shape, 1.0, tl.float32), length) if x.dtype == tl.float32 else 1 / length


@triton.jit
def _weights(logits, most, row_chunks, column_chunks):
    """exp(logits - most), 0 where chunks are no neighbours; in (0, 1]."""
    away = row_chunks[:, None] - column_chunks[None, :]
    return tl.where((away >= -1) & (away <= 1), tl.exp2((logits - most) * LOG2E), 0.0)


@triton.jit
def forward(match, values, order, outs, sums, tokens, batch, chunk, blocks, C: constexpr, D: constexpr,
            BLOCK_C: constexpr, BLOCK_D: constexpr, QUERIES: constexpr, KEYS: constexpr):  # fmt: skip
    """Of one round and a block of queries: outs [rounds, B, N, D], and the weights' sums [rounds, B, N]."""
    block, row, round = _program(blocks, batch)
    token, chunks, exists = _tokens(order, row, block * QUERIES, tokens, tokens, batch, chunk, QUERIES)
    q = _read(match, token, exists, C, BLOCK_C)
    most, total, attended = _length(q), tl.zeros([QUERIES], tl.float32), tl.zeros([QUERIES, BLOCK_D], tl.float32)
    first, stop = _span(block, tokens, chunk, QUERIES)
    for start in range(first, stop, KEYS):
        there, near, real = _tokens(order, row, start, stop, tokens, batch, chunk, KEYS)
        k, v = _read(match, there, real, C, BLOCK_C), _read(values, there, real, D, BLOCK_D)
        logits = tl.dot(q, tl.trans(k), input_precision="ieee") * _inverse(k)[None, :]
        weights = _weights(logits, most[:, None], chunks, near)
        total += tl.sum(weights, 1)
        attended += tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    result = token + round.to(tl.int64) * batch * tokens
    _write(outs, result, attended / total[:, None], exists, D, BLOCK_D)
    tl.store(sums + result, total, mask=exists)


@triton.jit
def merge(outs, sums, out, total, everything, rounds, D: constexpr, BLOCK_D: constexpr, BLOCK: constexpr):
    """out [B, N, D], the rounds weighted by their sums (Kitaev et al. 2020, Eq. 14); total [B, N], of all weights."""
    token = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = token < everything
    place, share, merged = token, tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for _ in range(rounds):
        weight = tl.load(sums + place, mask=exists, other=1.0)
        share += weight
        merged += weight[:, None] * _read(outs, place, exists, D, BLOCK_D).to(tl.float32)
        place += everything
    _write(out, token, merged / share[:, None], exists, D, BLOCK_D)
    tl.store(total + token, share, mask=exists)


@triton.jit
def backward_queries(match, values, order, grad, out, total, means, lengths, grad_queries, tokens, batch, chunk, blocks,
                     C: constexpr, D: constexpr, BLOCK_C: constexpr, BLOCK_D: constexpr,
                     QUERIES: constexpr, KEYS: constexpr):  # fmt: skip
    """Of one round and block: gradients as queries [rounds, B, N, C]; in round 0 mean slopes and lengths, [B, N]."""
    block, row, round = _program(blocks, batch)
    token, chunks, exists = _tokens(order, row, block * QUERIES, tokens, tokens, batch, chunk, QUERIES)
    q, above = _read(match, token, exists, C, BLOCK_C), _read(grad, token, exists, D, BLOCK_D)
    mean, most = tl.sum(above.to(tl.float32) * _read(out, token, exists, D, BLOCK_D).to(tl.float32), 1), _length(q)
    tl.store(means + token, mean, mask=exists & (round == 0))
    tl.store(lengths + token, most, mask=exists & (round == 0))
    result = tl.zeros([QUERIES, BLOCK_C], tl.float32)
    first, stop = _span(block, tokens, chunk, QUERIES)
    for start in range(first, stop, KEYS):
        there, near, real = _tokens(order, row, start, stop, tokens, batch, chunk, KEYS)
        k, v = _read(match, there, real, C, BLOCK_C), _read(values, there, real, D, BLOCK_D)
        inverse = _inverse(k)[None, :]
        weights = _weights(tl.dot(q, tl.trans(k), input_precision="ieee") * inverse, most[:, None], chunks, near)
        slope = weights * (tl.dot(above, tl.trans(v), input_precision="ieee") - mean[:, None])
        # over the key's length, and so times the query's, which is like it: float16 keeps its range
        result += tl.dot((slope * (inverse * most[:, None])).to(k.dtype), k, input_precision="ieee")
    result = result / (most * tl.load(total + token, mask=exists, other=1.0))[:, None]
    _write(grad_queries, token + round.to(tl.int64) * batch * tokens, result, exists, C, BLOCK_C)


@triton.jit
def backward_keys(match, values, order, grad, total, means, lengths, grad_keys, grad_values, tokens, batch, chunk,
                  blocks, C: constexpr, D: constexpr, BLOCK_C: constexpr, BLOCK_D: constexpr,
                  QUERIES: constexpr, KEYS: constexpr):  # fmt: skip
    """Of one round and block, after backward_queries: gradients of values [rounds, B, N, D] and as keys [.., C]."""
    block, row, round = _program(blocks, batch)
    token, chunks, exists = _tokens(order, row, block * KEYS, tokens, tokens, batch, chunk, KEYS)
    k, v = _read(match, token, exists, C, BLOCK_C), _read(values, token, exists, D, BLOCK_D)
    inverse = _inverse(k)
    grad_k, grad_v = tl.zeros([KEYS, BLOCK_C], tl.float32), tl.zeros([KEYS, BLOCK_D], tl.float32)
    first, stop = _span(block, tokens, chunk, KEYS)
    for start in range(first, stop, QUERIES):
        there, near, real = _tokens(order, row, start, stop, tokens, batch, chunk, QUERIES)
        q, above = _read(match, there, real, C, BLOCK_C), _read(grad, there, real, D, BLOCK_D)
        most, mean = tl.load(lengths + there, mask=real, other=0.0), tl.load(means + there, mask=real, other=0.0)
        share = 1 / tl.load(total + there, mask=real, other=1.0)
        # keys along the rows, so that weights and slopes are left factors and stay in registers
        logits = tl.dot(k, tl.trans(q), input_precision="ieee") * inverse[:, None]
        weights = _weights(logits, most[None, :], chunks, near) * share[None, :]
        grad_v += tl.dot(weights.to(above.dtype), above, input_precision="ieee")
        slope = weights * (tl.dot(v, tl.trans(above), input_precision="ieee") - mean[None, :])
        grad_k += tl.dot(slope.to(q.dtype), q, input_precision="ieee")
    result = token + round.to(tl.int64) * batch * tokens
    _write(grad_values, result, grad_v, exists, D, BLOCK_D)
    # of k / max(|k|, SHORT): what lies along k changes its length alone, unless the length was not what divided
    unit = _read(match, token, exists, C, BLOCK_C).to(tl.float32) * inverse[:, None]
    along = tl.where(_length(k) > SHORT, tl.sum(unit * grad_k, 1), 0.0)
    _write(grad_keys, result, (grad_k - unit * along[:, None]) * inverse[:, None], exists, C, BLOCK_C)


@torch.library.custom_op("mptpn::hashed_attention", mutates_args=())
def hashed(match: Tensor, values: Tensor, order: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """`attend` by kernels, [B, N, D], and each token's sum of weights exp(logit - |token|) over all rounds, [B, N].

    Args:
        match, values: [B, N, C] and [B, N, D] of one dtype, copied if they are not contiguous.
        order: tokens of each image and round in sorted order, [rounds, B, N], int64.
        chunk: tokens of a chunk, 1 .. N.
    """
    match, values, order = match.contiguous(), values.contiguous(), order.contiguous()
    everything, outs = match.shape[0] * match.shape[1], values.new_empty(len(order), *values.shape)
    sums, total = (values.new_empty(shape, dtype=torch.float32) for shape in (order.shape, order.shape[1:]))
    out, (widths, options) = torch.empty_like(values), _options(match, values)
    row = {name: widths[name] for name in ("D", "BLOCK_D")}
    with torch.cuda.device_of(match):
        grid, sizes = _grid(order, chunk, options["forward"]["QUERIES"])
        forward[grid](match, values, order, outs, sums, *sizes, **widths, **options["forward"])
        merge[triton.cdiv(everything, TOKENS),](outs, sums, out, total, everything, len(order), **row, BLOCK=TOKENS)
    return out, total


@torch.library.custom_op("mptpn::hashed_attention_backward", mutates_args=())
def hashed_backward(
    grad: Tensor, match: Tensor, values: Tensor, order: Tensor, out: Tensor, total: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Gradients of match and values; those of each round are kept until they are summed."""
    grad, match, values, order = grad.contiguous(), match.contiguous(), values.contiguous(), order.contiguous()
    rounds = len(order)
    of_match, of_values = match.new_empty(2, rounds, *match.shape), values.new_empty(rounds, *values.shape)
    means, lengths = torch.empty_like(total), torch.empty_like(total)
    given, (widths, options) = (match, values, order, grad), _options(match, values)
    with torch.cuda.device_of(match):
        chosen = widths | options["backward_queries"]
        grid, sizes = _grid(order, chunk, chosen["QUERIES"])
        backward_queries[grid](*given, out, total, means, lengths, of_match[0], *sizes, **chosen)
        chosen = widths | options["backward_keys"]
        grid, sizes = _grid(order, chunk, chosen["KEYS"])
        backward_keys[grid](*given, total, means, lengths, of_match[1], of_values, *sizes, **chosen)
    # with a dtype, or autocast would widen them
    return of_match.flatten(0, 1).sum(0, dtype=match.dtype), of_values.sum(0, dtype=values.dtype)


def _grid(order: Tensor, chunk: int, block: int) -> tuple[tuple[int], tuple[int, ...]]:
    """Programs, one a block of a row of order; and the kernels' tokens, batch, chunk, blocks."""
    rounds, batch, tokens = order.shape
    blocks = triton.cdiv(tokens, block)
    return (rounds * batch * blocks,), (tokens, batch, chunk, blocks)


def _options(match: Tensor, values: Tensor) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Widths of a token's rows, and each kernel's blocks and launch options.

    Blocks of 64 are for the tensor cores and shared memory of an H100 or H200: at C 64 and D 256 two programs fit on a
    multiprocessor and hide each other's waiting. Smaller ones go elsewhere.
    """
    c, d = match.shape[-1], values.shape[-1]
    block_c, block_d = (max(16, triton.next_power_of_2(width)) for width in (c, d))
    widths = {"C": c, "D": d, "BLOCK_C": block_c, "BLOCK_D": block_d}
    hopper, wide = not match.is_cuda or torch.cuda.get_device_capability(match.device)[0] == 9, block_c > 64
    warps, names = 8 if wide or match.dtype == torch.float32 else 4, ("forward", "backward_queries", "backward_keys")
    if match.dtype == torch.float32 or not hopper:  # float32 products go without tensor cores
        side = 16 if wide and match.dtype == torch.float32 else 32
        blocks = [(side, side, 1)] * 3
    else:  # a third stage reads the order ahead; in backward_queries it would leave room for one program alone
        blocks = [(64, 64, 3), (64, 64, 2), (32, 64, 3)]
    return widths, {
        name: {"QUERIES": queries, "KEYS": keys, "num_warps": warps, "num_stages": stages}
        for name, (queries, keys, stages) in zip(names, blocks, strict=True)
    }


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:3], *output)
    ctx.chunk = inputs[3]
    ctx.set_materialize_grads(False)  # no zeros for the sums of weights, whose gradient nobody asks for


def _gradients(ctx, grad, _):
    return *hashed_backward(grad, *ctx.saved_tensors, ctx.chunk), None, None


def _shapes(match, values, order, chunk):
    return values.new_empty(values.shape), values.new_empty(values.shape[:2], dtype=torch.float32)


hashed.register_fake(_shapes)
hashed_backward.register_fake(lambda _, m, v, *__: (m.new_empty(m.shape), v.new_empty(v.shape)))
hashed.register_autograd(_gradients, setup_context=_keep)
