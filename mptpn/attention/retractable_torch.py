"""Retractable attention in PyTorch: the plain reference, and a fused form that keeps no weights."""

import itertools
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mptpn.attention.backend import make_differentiable


def reference(qkv: Tensor, bias: Tensor, interval: int, window: int) -> Tensor:
    """The definition: partition, matmul, mask, softmax, merge."""
    q, k, v = _partition(qkv, interval, window).permute(3, 0, 1, 4, 2, 5).unbind()  # [B, groups, heads, N, head_dim]
    inside = _inside(qkv, interval, window)[:, None, None, :]  # [groups, 1, 1, N], by key
    logits = q @ k.mT * qkv.shape[-1] ** -0.5 + bias.to(qkv.dtype)
    # the lowest finite number, not -inf: a group that lies wholly outside would be NaN, and its gradient too
    weights = logits.masked_fill(~inside, torch.finfo(logits.dtype).min).softmax(-1)
    return _merge((weights @ v).transpose(2, 3), qkv.shape[1:3], interval, window)


def fused(qkv: Tensor, bias: Tensor, interval: int, window: int) -> Tensor:
    """PyTorch's fused attention, a few groups at a time."""
    # a bias that asks for its gradient, even unused, bars the fused kernel
    qkv, bias = qkv.detach(), bias.detach().to(qkv.dtype)
    out = qkv.new_empty(*qkv.shape[:3], *qkv.shape[4:])
    for (tokens, result), (part,) in _chunks((qkv, out), (bias,), interval, window):
        n = tokens.shape[5] * tokens.shape[6]
        attended = attention_in_groups(tokens.reshape(-1, n, *tokens.shape[7:]), part.reshape(-1, n, n))
        result.copy_(attended.reshape(result.shape))
    return out


# as an operator it has its own backward and is known to torch.compile; its first call takes a second of imports
sdpa = torch.library.custom_op("mptpn::sdpa_attention", fused, mutates_args=())


def attention_in_groups(qkv: Tensor, bias: Tensor) -> Tensor:
    """PyTorch's fused attention of [groups, n, 3, heads, head_dim], without gradient: [groups, n, heads, head_dim].

    Args:
        bias: of the dtype of qkv or another, [heads, n, n].
    """
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # [groups, heads, n, head_dim]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None].to(qkv.dtype)).transpose(1, 2)


@torch.library.custom_op("mptpn::sdpa_attention_backward", mutates_args=())
def _sdpa_backward(grad: Tensor, qkv: Tensor, bias: Tensor, interval: int, window: int) -> tuple[Tensor, Tensor]:
    """Gradients with respect to qkv and bias; the weights are computed again, so that only the inputs are kept."""
    # a CPU's bfloat16 products are slower and less exact
    work = qkv.dtype if qkv.is_cuda else torch.promote_types(qkv.dtype, torch.float32)
    scale, grad_qkv = qkv.shape[5] ** -0.5, qkv.new_empty(qkv.shape)
    grad_bias = bias.new_zeros(bias.shape, dtype=torch.promote_types(bias.dtype, torch.float32))
    images, biases = (qkv, grad, grad_qkv), (bias.to(work), grad_bias)
    for (tokens, above, result), (part, grad_part) in _chunks(images, biases, interval, window):
        n, heads = tokens.shape[5] * tokens.shape[6], len(part)
        # [groups * heads, n, head_dim]
        q, k, v = tokens.reshape(-1, n, *tokens.shape[7:]).permute(2, 0, 3, 1, 4).to(work).flatten(1, 2)
        above = above.reshape(-1, n, *above.shape[7:]).transpose(1, 2).to(work).flatten(0, 1)
        weights = part.reshape(heads, n, n).repeat(len(q) // heads, 1, 1).baddbmm_(q, k.mT, alpha=scale).softmax(-1)
        slope = torch._softmax_backward_data(torch.bmm(above, v.mT), weights, -1, work)  # with respect to the logits
        grad_part += slope.unflatten(0, (-1, heads)).sum(0, dtype=grad_part.dtype).view(grad_part.shape)
        parts = q.new_empty(3, *q.shape)
        torch.baddbmm(parts[0], slope, k, beta=0, alpha=scale, out=parts[0])
        torch.baddbmm(parts[1], slope.mT, q, beta=0, alpha=scale, out=parts[1])
        torch.bmm(weights.mT, above, out=parts[2])
        result.copy_(parts.unflatten(1, (-1, heads)).permute(1, 3, 0, 2, 4).reshape(result.shape))
    return grad_qkv, grad_bias.to(bias.dtype)


make_differentiable(sdpa, _sdpa_backward)


def _chunks(images: tuple[Tensor, ...], biases: tuple[Tensor, ...], interval: int, window: int) -> Iterator[tuple]:
    """Views of some groups, [B, windows, phases, windows, phases, rows, cols, ...], and of their part of the bias.

    Groups cut by the image's edge come apart from whole ones, at their own size: nothing is padded or masked.
    """
    heads = images[0].shape[-2]
    # logits at once; on a CPU so few stay in the cache, where copies are cheap
    logits = 2**26 if images[0].is_cuda else 2**19 * torch.get_num_threads()
    square = [bias.unflatten(2, (window, window)).unflatten(1, (window, window)) for bias in biases]
    for views, (i, j) in _of_one_size(images, interval, window):
        few = min(heads, max(1, logits // (i * j) ** 2))  # a large group has even its heads a few at a time
        for start in range(0, heads, few):
            some = [view[..., start : start + few, :] for view in views]
            for pieces in _split(some, max(1, logits // (few * (i * j) ** 2))):
                yield pieces, [bias[start : start + few, :i, :j, :i, :j] for bias in square]


def groups_in_turn(
    images: Sequence[Tensor], bias: Tensor, interval: int, window: int, *, tokens: int
) -> Iterator[tuple[Sequence[Tensor], Tensor]]:
    """Views of some groups of images [B, H, W, ...], and their part of the bias, [heads, n, n] of groups of n tokens.

    The views are [B, windows, phases, windows, phases, rows, cols, ...]; together they hold every token once.

    Args:
        bias: as in `retractable_attention`. tokens: at most so many in a view, but one group at least.
    """
    square = bias.unflatten(2, (window, window)).unflatten(1, (window, window))
    for views, (i, j) in _of_one_size(images, interval, window):
        part = square[:, :i, :j, :i, :j].reshape(-1, i * j, i * j)
        for pieces in _split(views, max(1, tokens // (i * j))):
            yield pieces, part


def _of_one_size(
    images: Sequence[Tensor], interval: int, window: int
) -> Iterator[tuple[list[Tensor], tuple[int, int]]]:
    """Views of all groups of one size, as in _chunks, and that size, tokens."""
    spans = (_spans(length, interval, window) for length in images[0].shape[1:3])
    for row, col in itertools.product(*spans):
        yield [_groups(image, row, col, interval, window) for image in images], (row[3], col[3])


def _spans(length: int, interval: int, window: int) -> list[tuple[int, int, int, int]]:
    """Groups along an axis, (start, windows, phases, tokens): whole ones, then those cut by the edge, of two sizes."""
    side = window * interval
    tokens, longer = divmod(length % side, interval)
    start = length - length % side
    whole = (0, length // side, interval, window)
    cut = (start, 1, longer, tokens + 1), (start + longer, 1, interval - longer, tokens)
    return [span for span in (whole, *cut) if 0 not in span[1:]]


def _groups(image: Tensor, row: tuple, col: tuple, interval: int, window: int) -> Tensor:
    """View [B, windows, phases, windows, phases, rows, cols, ...] of image [B, H, W, ...] for a span of each axis."""
    batch, h, w, *inner = image.stride()
    size = (len(image), *row[1:3], *col[1:3], row[3], col[3], *image.shape[3:])
    strides = (batch, window * interval * h, h, window * interval * w, w, interval * h, interval * w, *inner)
    return image.as_strided(size, strides, image.storage_offset() + row[0] * h + col[0] * w)


def _split(views: Sequence[Tensor], most: int) -> Iterator[Sequence[Tensor]]:
    """Cut the views alike along their first five axes into pieces of at most `most` groups."""
    groups = views[0].shape[:5]
    if groups.numel() <= most:
        yield views
        return
    axis = next(axis for axis, size in enumerate(groups) if size > 1)
    step = max(1, most * groups[axis] // groups.numel())
    for pieces in zip(*(view.split(step, axis) for view in views), strict=True):
        yield from _split(pieces, most)


def _partition(image: Tensor, interval: int, window: int) -> Tensor:
    """[B, H, W, ...] to [B, groups, window**2, ...], zeros beyond the edge."""
    height, width = image.shape[1:3]
    side = window * interval
    image = F.pad(image, (0, 0) * (image.ndim - 3) + (0, -width % side, 0, -height % side))
    # [B, rows, i, p, cols, j, r, ...]
    image = image.unflatten(2, (-1, window, interval)).unflatten(1, (-1, window, interval))
    return image.movedim((1, 3, 4, 6, 2, 5), (1, 2, 3, 4, 5, 6)).flatten(5, 6).flatten(1, 4)


def _merge(groups: Tensor, size: tuple[int, int], interval: int, window: int) -> Tensor:
    """[B, groups, window**2, ...] to [B, H, W, ...]: the inverse of _partition."""
    height, width = size
    rows, cols = -(-height // (window * interval)), -(-width // (window * interval))
    groups = groups.unflatten(2, (window, window)).unflatten(1, (rows, interval, cols, interval))
    image = groups.movedim((1, 2, 3, 4, 5, 6), (1, 3, 4, 6, 2, 5)).flatten(4, 6).flatten(1, 3)
    return image[:, :height, :width]


def _inside(qkv: Tensor, interval: int, window: int) -> Tensor:
    """Whether a position lies inside the image, [groups, window**2]."""
    return _partition(qkv.new_ones(1, *qkv.shape[1:3], 1), interval, window)[0, :, :, 0] > 0
