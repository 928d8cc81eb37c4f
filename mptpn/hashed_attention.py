"""Attention among tokens that spherical hashing calls alike: sorted by bucket, cut in chunks, each chunk sees itself and its two neighbours."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mptpn.noise import generator

BACKENDS = ("chunked", "gathered", "reference")
MOST_BUCKETS = 128


def buckets_of(tokens: int, *, chunk_size: int) -> int:
    """Number of buckets, about one a chunk: tokens / chunk_size made even, from 2 to 128 (Mei et al. 2021, their public code)."""
    chunks = tokens // chunk_size
    return min(max(2, chunks + chunks % 2), MOST_BUCKETS)


def rotations_from_seed(seed: int, *, rounds: int, features: int) -> Tensor:
    """Random directions of each round, [rounds, features, 64]; round r is the same however many rounds there are."""
    return torch.stack([torch.randn(features, MOST_BUCKETS // 2, generator=generator(seed, 801, r)) for r in range(rounds)])


def spherical_hash(match: Tensor, *, rotations: Tensor, buckets: int) -> Tensor:
    """Bucket of each token in each round, argmax over [x R; -x R] (Andoni et al. 2015; Mei et al. 2021, Sec. 3.2); length of x plays no part.

    Args:
        match: embedded tokens, [B, N, C].
        rotations: [rounds, C, 64], see `rotations_from_seed`; the first buckets / 2 columns are used.
        buckets: even.
    Returns:
        [rounds, B, N], int64, 0 .. buckets - 1.
    """
    rotated = torch.einsum("bnc,rcm->rbnm", match.detach(), rotations[:, :, : buckets // 2].to(match))
    return torch.cat([rotated, -rotated], dim=-1).argmax(-1)


def hashed_attention(match: Tensor, values: Tensor, *, rotations: Tensor, chunk_size: int = 144, backend: str = "chunked") -> Tensor:
    """Non-local sparse attention (Mei et al. 2021, Sec. 3): softmax(x_i . x_j / |x_j|) over the hashed neighbourhood, rounds merged by softmax of log-sum-exp.

    In each round the tokens are sorted by bucket (equal buckets keep their order), and rank // chunk_size is a token's chunk; i attends to j where their
    chunks differ by at most 1. Three differences from the public code: rotations are given and not redrawn in each call, the last chunk is not filled
    with copies of tokens (which would count twice), and the first and last chunks are no neighbours of each other.
    An image of no more tokens than a chunk is one chunk: each token attends to all.

    Args:
        match: queries, and keys once divided by their length, [B, N, C].
        values: [B, N, D].
        rotations: [rounds, C, 64], see `rotations_from_seed`.
        chunk_size: tokens of a chunk.
        backend: "reference" is the law, quadratic in N; "chunked" sorts and multiplies strided views, one round at a time, memory linear in N;
            "gathered" copies the three chunks of keys of all rounds at once, as the public code does (a yardstick for time and memory).
    Returns:
        [B, N, D]; no gradient goes through the hash.
    Raises:
        ValueError: shapes that do not fit, no token, a chunk_size below 1, an unknown backend.
    """
    if match.ndim != 3 or values.ndim != 3 or match.shape[:2] != values.shape[:2] or 0 in match.shape:
        raise ValueError(f"match {tuple(match.shape)} and values {tuple(values.shape)} must be [B, N, C] and [B, N, D] with tokens in them.")
    if rotations.ndim != 3 or rotations.shape[1:] != (match.shape[2], MOST_BUCKETS // 2):
        raise ValueError(f"rotations {tuple(rotations.shape)} must be [rounds, {match.shape[2]}, {MOST_BUCKETS // 2}]: one row for each feature of match.")
    if chunk_size < 1 or backend not in BACKENDS:
        raise ValueError(f"chunk_size {chunk_size} starts at 1 and backend {backend!r} is one of {BACKENDS}.")
    tokens = match.shape[1]
    codes = spherical_hash(match, rotations=rotations, buckets=buckets_of(tokens, chunk_size=chunk_size))
    order = codes.argsort(dim=-1, stable=True)  # [rounds, B, N]
    keys = F.normalize(match, dim=-1, eps=5e-5)
    attend = {"reference": _reference, "chunked": _chunked, "gathered": _gathered}[backend]
    return attend(match, keys, values, order, min(chunk_size, tokens))


def _reference(queries: Tensor, keys: Tensor, values: Tensor, order: Tensor, chunk: int) -> Tensor:
    chunks = order.argsort(dim=-1) // chunk  # a token's rank is the inverse permutation of order
    near = (chunks[..., :, None] - chunks[..., None, :]).abs() <= 1  # [rounds, B, N, N]
    logits = (queries @ keys.mT).masked_fill(~near, -torch.inf)
    return _merge(logits.softmax(-1) @ values, logits.logsumexp(-1, keepdim=True))


def _merge(attended: Tensor, log_sums: Tensor) -> Tensor:
    """Rounds, along axis 0, weighted by the sums of their exponentials (Kitaev et al. 2020, Appendix A)."""
    return (attended * log_sums.softmax(0)).sum(0)


def _layout(order: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Where sorted tokens stand in a row of chunks with one empty chunk before, between and after the images.

    Args:
        order: tokens of each image in sorted order, [B, N].
    Returns:
        Token number b * N + n at each place, B * N where there is none, [(B * (chunks + 1) + 1) * chunk]; and the place of each token less one chunk, [B * N].
    """
    batch, tokens = order.shape
    chunks = -(-tokens // chunk)
    image = torch.arange(batch, device=order.device)[:, None]
    row = order.new_full((batch, (chunks + 1) * chunk), batch * tokens)
    row[:, chunk : chunk + tokens] = order + image * tokens
    place = order.argsort(dim=-1) + image * (chunks + 1) * chunk
    return torch.cat([row.flatten(), row.new_full((chunk,), batch * tokens)]), place.flatten()


def _chunked(queries: Tensor, keys: Tensor, values: Tensor, order: Tensor, chunk: int) -> Tensor:
    """Round after round: one copy in sorted order, then products of views; each three neighbouring chunks of keys are one strided view of it."""
    features = queries.shape[-1]
    everything = F.pad(torch.cat([queries, keys, values], dim=-1).flatten(0, 1), (0, 0, 0, 1))  # the last row is no token
    out = total = None
    for one in order:
        row, place = _layout(one, chunk)
        tokens = everything.index_select(0, row)  # [places, 2 C + D]
        absent = torch.zeros_like(row, dtype=queries.dtype).masked_fill(row == len(everything) - 1, -torch.inf)
        centre = tokens[chunk:-chunk, :features].unflatten(0, (-1, chunk))  # [windows, chunk, C]
        near = tokens[:, features:].unfold(0, 3 * chunk, chunk)  # [windows, C + D, 3 chunk], a view
        logits = torch.baddbmm(absent.unfold(0, 3 * chunk, chunk)[:, None], centre, near[:, :features])
        log_sum = logits.logsumexp(-1, keepdim=True)
        attended = (logits - log_sum).exp() @ near[:, features:].mT
        attended, log_sum = (x.flatten(0, 1).index_select(0, place).unflatten(0, order.shape[1:]) for x in (attended, log_sum))
        if out is None:
            out, total = attended, log_sum
        else:
            before, total = total, torch.logaddexp(total, log_sum)
            out = out * (before - total).exp() + attended * (log_sum - total).exp()
    return out


def _gathered(queries: Tensor, keys: Tensor, values: Tensor, order: Tensor, chunk: int) -> Tensor:
    """All rounds at once, with keys and values copied for each of the three chunks in which they are seen."""
    batch, tokens, _ = queries.shape
    fill = -tokens % chunk
    exists = F.pad(torch.ones_like(order, dtype=torch.bool), (0, fill)).unflatten(-1, (-1, chunk))  # [rounds, B, chunks, chunk]
    index = F.pad(order, (0, fill)).unflatten(-1, (-1, chunk))
    around = [F.pad(x, (0, 0, 1, 1)) for x in (exists, index)]
    exists, near = (torch.cat([x[:, :, :-2], x[:, :, 1:-1], x[:, :, 2:]], dim=-1) for x in around)  # [rounds, B, chunks, 3 chunk]
    image = torch.arange(batch, device=order.device)[None, :, None, None]
    logits = torch.einsum("rbtic,rbtjc->rbtij", queries[image, index], keys[image, near]).masked_fill(~exists[..., None, :], -torch.inf)
    log_sums = logits.logsumexp(-1, keepdim=True)
    attended = torch.einsum("rbtij,rbtjd->rbtid", (logits - log_sums).exp(), values[image, near])
    place = order.argsort(dim=-1)[..., None]
    attended, log_sums = (x.flatten(2, 3).gather(2, place.expand(-1, -1, -1, x.shape[-1])) for x in (attended, log_sums))
    return _merge(attended, log_sums)
