"""Triton kernels of the hashed attention: rows of tokens are gathered through the sorted order, weights never leave the
chip.

Reasons for the shape of these kernels (one H100, bfloat16, C 64, D 256, chunks of 144 in mind):
- A program takes a block of sorted queries of one image and round, and walks over the ranks of their three chunks as
FlashAttention does (Dao et al.,
  2022, Algorithm 1), but without a running maximum: no logit q_i . k_j / |k_j| exceeds |q_i|, and i itself, which i
  sees in each round, has it. So weights are exp(logit - |q_i|), their sum is about 1 at least, and the sums of all
  rounds have one unit.
- A token's row is contiguous (128 and 512 bytes), so a gather reads whole sectors, and match and values of 256 x 256
tokens, 42 MB, stay in the L2
  cache: nothing is copied into sorted order.
- Blocks are not cut at chunks: 144 is no power of two. A block of 64 meets 432 or 576 keys, and a mask leaves the
neighbours. - All rounds run at once, for enough programs in a small image; each writes its result where the token lies,
and `merge` joins them. - The merged rounds are one softmax over all pairs (round, key). So the backward pass needs one
sum of weights and one mean of slopes a token, and computes
  the weights again.
- The keys' length divides the logits, and not the keys: no copy of the keys, and none rounded to 16 bits.
- Each program writes rows that are its own, in a fixed order of summation: no atomics, the same bits in every run.

Token numbers b * N + n and offsets are 64-bit. All sums are float32, exponents in units of log 2. Names in capitals are
compile-time.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
SHORT = tl.constexpr(5e-5)  # least length that divides a key
NOWHERE = tl.constexpr(-9)  # chunk of a rank beyond the last: nobody's neighbour


@triton.jit
def _program(blocks, batch):
    """Block, row round * B + b of order, and round of this program."""
    row = tl.program_id(0) // blocks
    return tl.program_id(0) % blocks, row, row // batch


@triton.jit
def _span(block, tokens, chunk, BLOCK: tl.constexpr):
    """Ranks, first and one past the last, of the chunks that hold a block's ranks, and of one chunk before and after:
    who it sees is who sees it.
    """
    last = tl.minimum(block * BLOCK + BLOCK, tokens) - 1
    return tl.maximum(block * BLOCK // chunk - 1, 0) * chunk, tl.minimum(last // chunk * chunk + 2 * chunk, tokens)


@triton.jit
def _tokens(order, row, start, stop, tokens, batch, chunk, BLOCK: tl.constexpr):
    """Token number b * N + n of ranks start, start + 1, .. of a row of order; their chunks, NOWHERE from rank stop on;
    and whether they come before stop.
    """
    rank = start + tl.arange(0, BLOCK)
    exists = rank < stop
    token = tl.load(order + row.to(tl.int64) * tokens + rank, mask=exists, other=0)
    return (row % batch).to(tl.int64) * tokens + token, tl.where(exists, rank // chunk, NOWHERE), exists


@triton.jit
def _tile(base, token, WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr):
    return base + (token * WIDTH)[:, None] + tl.arange(0, BLOCK_WIDTH)[None, :]


@triton.jit
def _read(base, token, exists, WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr):
    mask = exists[:, None] if WIDTH == BLOCK_WIDTH else exists[:, None] & (tl.arange(0, BLOCK_WIDTH) < WIDTH)[None, :]
    return tl.load(_tile(base, token, WIDTH, BLOCK_WIDTH), mask=mask, other=0.0)


@triton.jit
def _write(base, token, numbers, exists, WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr):
    mask = exists[:, None] if WIDTH == BLOCK_WIDTH else exists[:, None] & (tl.arange(0, BLOCK_WIDTH) < WIDTH)[None, :]
    tl.store(_tile(base, token, WIDTH, BLOCK_WIDTH), numbers.to(base.dtype.element_ty), mask=mask)


@triton.jit
def _length(x):
    """max(|x|, SHORT) of each row, as F.normalize has it; exact to the last bit where x is float32, since logits are
    multiples of it.
    """
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
def forward(match, values, order, outs, sums, tokens, batch, chunk, blocks,
            C: tl.constexpr, D: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr):  # fmt: skip
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
def merge(outs, sums, out, total, everything, rounds, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr):
    """out [B, N, D], the rounds weighted by the sums of their exponentials (Kitaev et al. 2020, Eq. 14); total [B, N],
    the sum of all weights.
    """
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
                     C: tl.constexpr, D: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
                     QUERIES: tl.constexpr, KEYS: tl.constexpr):  # fmt: skip
    """Of one round and a block of queries: gradients as queries, grad_queries [rounds, B, N, C]; in round 0 mean slopes
    and lengths, [B, N].
    """
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
def backward_keys(match, values, order, grad, total, means, lengths, grad_keys, grad_values, tokens, batch, chunk, blocks,
                  C: tl.constexpr, D: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr):  # fmt: skip
    """Of one round and a block of keys, after backward_queries: gradients of values [rounds, B, N, D], and as keys,
    through their length [rounds, B, N, C].
    """
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
