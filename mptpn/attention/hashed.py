"""Attention among tokens of like hash: sorted by bucket, cut in chunks; a chunk sees itself and its two neighbours."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mptpn.attention import backend as backends
from mptpn.attention.backend import DTYPES
from mptpn.random import generator

BACKENDS = ("auto", "triton", "chunked", "gathered", "reference")
MOST_BUCKETS = 128
WIDEST = 256  # numbers of a token's row in a kernel


def buckets_of(tokens: int, *, chunk_size: int) -> int:
    """Number of buckets, tokens / chunk_size made even, from 2 to 128 (Mei et al. 2021, their public code)."""
    chunks = tokens // chunk_size
    return min(max(2, chunks + chunks % 2), MOST_BUCKETS)


def rotations_from_seed(seed: int, *, rounds: int, features: int) -> Tensor:
    """Random directions of each round, [rounds, features, 64]; round r is the same however many rounds there are."""
    size = features, MOST_BUCKETS // 2
    # named, for on the meta device random numbers load PyTorch's compiler
    return torch.stack([torch.randn(size, generator=generator(seed, "hash", r), device="cpu") for r in range(rounds)])


def spherical_hash(match: Tensor, *, rotations: Tensor, buckets: int) -> Tensor:
    """Bucket of each token in each round, argmax over [x R; -x R], whatever its length (Andoni et al. 2015).

    Args:
        match: embedded tokens, [B, N, C].
        rotations: [rounds, C, 64], see `rotations_from_seed`; the first buckets / 2 columns are used.
        buckets: even.
    Returns:
        [rounds, B, N], int64, 0 .. buckets - 1.
    """
    directions = rotations[:, :, : buckets // 2].transpose(0, 1).to(match, memory_format=torch.contiguous_format)
    # one product for all rounds
    rotated = (match.detach().flatten(0, 1) @ directions.flatten(1)).view(*match.shape[:2], len(rotations), -1)
    return torch.cat([rotated, -rotated], dim=-1).argmax(-1).permute(2, 0, 1)


def hashed_attention(
    match: Tensor, values: Tensor, *, rotations: Tensor, chunk_size: int = 144, backend: str = "auto"
) -> Tensor:
    """Non-local sparse attention: softmax(x_i . x_j / |x_j|) over the hashed neighbourhood (Mei et al. 2021).

    In each round the tokens are sorted by bucket (equal buckets keep their order), rank // chunk_size is a token's
    chunk, and i attends to j where their chunks differ by at most 1. Rounds are merged by softmax of log-sum-exp.
    Differences from the public code: rotations are given, not redrawn in each call; the last chunk is not filled with
    copies of tokens, which would count twice; the first and last chunks are no neighbours.

    Args:
        match: queries, and keys once divided by their length, [B, N, C].
        values: [B, N, D].
        rotations: [rounds, C, 64], see `rotations_from_seed`.
        chunk_size: tokens of a chunk; where there are no more, each token attends to all.
        backend: see `attend`.
    Returns:
        [B, N, D]; no gradient goes through the hash.
    Raises:
        ValueError: shapes that do not fit, no token, a chunk_size below 1, an unknown backend, a dtype or width that
            the kernels do not take.
        RuntimeError: backend="triton" cannot run here; the message says what is missing.
    """
    if match.ndim != 3 or values.ndim != 3 or match.shape[:2] != values.shape[:2] or 0 in match.shape:
        shapes = f"match {tuple(match.shape)} and values {tuple(values.shape)}"
        raise ValueError(f"{shapes} must be [B, N, C] and [B, N, D] with tokens in them.")
    if rotations.ndim != 3 or rotations.shape[1:] != (match.shape[2], MOST_BUCKETS // 2):
        expected = f"[rounds, {match.shape[2]}, {MOST_BUCKETS // 2}]: one row for each feature of match"
        raise ValueError(f"rotations {tuple(rotations.shape)} must be {expected}.")
    if chunk_size < 1 or backend not in BACKENDS:
        raise ValueError(f"chunk_size {chunk_size} starts at 1 and backend {backend!r} is one of {BACKENDS}.")
    order = sorted_tokens(match, rotations=rotations, chunk_size=chunk_size)
    return attend(match, values, order, chunk_size=chunk_size, backend=backend)


def sorted_tokens(match: Tensor, *, rotations: Tensor, chunk_size: int) -> Tensor:
    """Tokens of each image in each round, by bucket and then by their own order; [rounds, B, N], int64."""
    codes = spherical_hash(match, rotations=rotations, buckets=buckets_of(match.shape[1], chunk_size=chunk_size))
    if torch.compiler.is_exporting():  # ONNX sorts no bytes, nor keeps equals in order: each token has a key of its own
        keys = codes * codes.shape[-1] + torch.arange(codes.shape[-1], device=codes.device)
        return keys.argsort(dim=-1)
    # a GPU sorts byte by byte, and an int64 has 8 of them
    return codes.to(torch.uint8, memory_format=torch.contiguous_format).argsort(dim=-1, stable=True)


def attend(match: Tensor, values: Tensor, order: Tensor, *, chunk_size: int = 144, backend: str = "auto") -> Tensor:
    """The attention of `hashed_attention` where the order of the tokens is given.

    Args:
        match, values: [B, N, C] and [B, N, D].
        order: see `sorted_tokens`.
        chunk_size: tokens of a chunk.
        backend: "reference" is the definition, quadratic in N; "chunked" multiplies strided views of sorted tokens, one
            round at a time, memory linear in N; "gathered" copies the keys of all rounds at once, as the public code
            does; "triton" (kernels) takes float32, float16, bfloat16 on a GPU, C and D up to 256; "auto" is triton
            where it takes CUDA tensors, else chunked.
    """
    autocast = torch.is_autocast_enabled(match.device.type)
    dtype = torch.get_autocast_dtype(match.device.type) if autocast else torch.promote_types(match.dtype, values.dtype)
    narrow = max(match.shape[-1], values.shape[-1]) <= WIDEST
    fits = narrow and dtype in DTYPES and torch.float64 not in (match.dtype, values.dtype)
    if backend == "auto":
        backend = "triton" if match.is_cuda and backends.TRITON_INSTALLED and fits else "chunked"
    chunk = min(chunk_size, match.shape[1])
    if backend == "triton":
        backends.check_triton(match, "match")
        if not fits or (dtype == torch.bfloat16 and not match.is_cuda):
            kinds, given = "float32, float16 and, except in the interpreter, bfloat16", f"{match.dtype}, {values.dtype}"
            widths = f"up to {WIDEST} features; got {given}, {match.shape[-1]} and {values.shape[-1]} features"
            raise ValueError(f'backend="triton" takes {kinds}, {widths}')
        from mptpn.attention.hashed_triton import hashed  # Triton is optional

        return hashed(match.to(dtype), values.to(dtype), order, chunk)[0]
    keys = F.normalize(match, dim=-1, eps=5e-5)
    form = {"reference": _reference, "chunked": _chunked, "gathered": _gathered}[backend]
    return form(match, keys, values, order, chunk)


def _reference(queries: Tensor, keys: Tensor, values: Tensor, order: Tensor, chunk: int) -> Tensor:
    chunks = order.argsort(dim=-1) // chunk  # a token's rank is the inverse permutation of order
    near = (chunks[..., :, None] - chunks[..., None, :]).abs() <= 1  # [rounds, B, N, N]
    logits = (queries @ keys.mT).masked_fill(~near, -torch.inf)
    return _merge(logits.softmax(-1) @ values, logits.logsumexp(-1, keepdim=True))


def _merge(attended: Tensor, log_sums: Tensor) -> Tensor:
    """Rounds, along axis 0, weighted by their sums (Kitaev et al. 2020, Eq. 14; a key met twice counts twice)."""
    return (attended * log_sums.softmax(0)).sum(0)


def _layout(order: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """A row of chunks of the sorted tokens, order [B, N], with an empty chunk before, between and after the images.

    Returns:
        Token number b * N + n at each place, B * N where there is none, [(B * (chunks + 1) + 1) * chunk]; and the place
        of each token less one chunk, [B * N].
    """
    batch, tokens = order.shape
    chunks = -(-tokens // chunk)
    image = torch.arange(batch, device=order.device)[:, None]
    row = order.new_full((batch, (chunks + 1) * chunk), batch * tokens)
    row[:, chunk : chunk + tokens] = order + image * tokens
    place = order.argsort(dim=-1) + image * (chunks + 1) * chunk
    return torch.cat([row.flatten(), row.new_full((chunk,), batch * tokens)]), place.flatten()


def _chunked(queries: Tensor, keys: Tensor, values: Tensor, order: Tensor, chunk: int) -> Tensor:
    """Round after round a copy in sorted order, of which each three neighbouring chunks of keys are a strided view.

    In 16 bits only the products are: a log-sum-exp near 8, rounded to them, would be wrong by 1 %.
    """
    features = queries.shape[-1]
    # the last row is no token
    everything = F.pad(torch.cat([queries, keys, values], dim=-1).flatten(0, 1), (0, 0, 0, 1))
    wide, out, total = torch.promote_types(everything.dtype, torch.float32), None, None
    for one in order:
        row, place = _layout(one, chunk)
        tokens = everything.index_select(0, row)  # [places, 2 C + D]
        absent = torch.zeros_like(row, dtype=queries.dtype).masked_fill(row == len(everything) - 1, -torch.inf)
        centre = tokens[chunk:-chunk, :features].unflatten(0, (-1, chunk))  # [windows, chunk, C]
        near = tokens[:, features:].unfold(0, 3 * chunk, chunk)  # [windows, C + D, 3 chunk], a view
        logits = torch.baddbmm(absent.unfold(0, 3 * chunk, chunk)[:, None], centre, near[:, :features]).to(wide)
        log_sum = logits.logsumexp(-1, keepdim=True)
        found = (logits - log_sum).exp().to(near.dtype) @ near[:, features:].mT, log_sum
        attended, log_sum = (x.flatten(0, 1).index_select(0, place).unflatten(0, one.shape) for x in found)
        if out is None:
            out, total = attended, log_sum
        else:
            before, total = total, torch.logaddexp(total, log_sum)
            out = out * (before - total).exp() + attended * (log_sum - total).exp()
    return out.to(everything.dtype)


def _gathered(queries: Tensor, keys: Tensor, values: Tensor, order: Tensor, chunk: int) -> Tensor:
    """All rounds at once, with keys and values copied for each of the three chunks in which they are seen."""
    fill = -order.shape[-1] % chunk
    # [rounds, B, chunks, chunk]
    given = torch.ones_like(order, dtype=torch.bool), order
    exists, index = (F.pad(x, (0, fill)).unflatten(-1, (-1, chunk)) for x in given)
    around = [F.pad(x, (0, 0, 1, 1)) for x in (exists, index)]
    # [rounds, B, chunks, 3 chunk]
    exists, near = (torch.cat([x[:, :, :-2], x[:, :, 1:-1], x[:, :, 2:]], dim=-1) for x in around)
    image = torch.arange(len(queries), device=order.device)[None, :, None, None]
    logits = torch.einsum("rbtic,rbtjc->rbtij", queries[image, index], keys[image, near])
    logits = logits.masked_fill(~exists[..., None, :], -torch.inf)
    log_sums = logits.logsumexp(-1, keepdim=True)
    attended = torch.einsum("rbtij,rbtjd->rbtid", (logits - log_sums).exp(), values[image, near])
    place = order.argsort(dim=-1)[..., None].expand(-1, -1, -1, attended.shape[-1])
    attended, log_sums = attended.flatten(2, 3), log_sums.flatten(2, 3)
    return _merge(attended.gather(2, place), log_sums.gather(2, place[..., :1]))
