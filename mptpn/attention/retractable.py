"""Retractable attention: every token attends to window x window tokens at stride `interval` (1: dense, > 1: sparse).

A group is a dense window at interval 1, and at interval I the tokens of an (I * window)-square that share (row mod I,
col mod I). ART (Zhang et al., ICLR 2023) lets its sparse group grow with the image; here it stays window x window, so
cost is linear in pixels.
"""

import importlib.util
import itertools
import os
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mptpn.attention.operator import make_differentiable

BACKENDS = ("auto", "reference", "sdpa", "triton")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TRITON_INSTALLED = importlib.util.find_spec("triton") is not None
KEPT = 2**20  # attention weights, numbers; above, their way to memory and back costs more than computing them again
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def retractable_attention(
    qkv: Tensor, bias: Tensor, *, interval: int, window: int = 8, backend: str = "auto"
) -> Tensor:
    """Attention inside each group, softmax(q k^T / sqrt(head_dim) + bias) v (ART, Zhang et al. 2023).

    Token (h, w) lies in group (h // (window * interval), h % interval; the same of w), at row (h % (window * interval))
    // interval.
    Any image size will do: positions beyond the edge do not exist, they are neither read nor counted. Under autocast
    all runs in its dtype.

    Args:
        qkv: queries, keys and values, [B, H, W, 3, heads, head_dim]; float32, bfloat16 or float16, and float64 where
            not by triton.
        bias: added to the logits, [heads, window**2, window**2]; row = query, column = key, positions row-major in the
            group.
        interval: stride of a group's tokens, pixels.
        window: side of a group, tokens.
        backend: "reference" (plain PyTorch, the noise model), "sdpa" (PyTorch's fused attention, weights computed again
            in backward), "triton" (one kernel, no copies), "auto" (triton for CUDA tensors where Triton is installed,
            else sdpa, but the reference to train on images so small that keeping the weights is cheaper than computing
            them again).
    Returns:
        Attended values, [B, H, W, heads, head_dim], dtype of qkv.
    Raises:
        ValueError: an argument has a wrong shape, dtype, device or range.
        RuntimeError: backend="triton" cannot run here; the message says what is missing.
    """
    if torch.is_autocast_enabled(qkv.device.type) and qkv.dtype in DTYPES:
        qkv = qkv.to(torch.get_autocast_dtype(qkv.device.type))
    _check(qkv, bias, interval, window, backend)
    if backend == "auto":
        backend = (
            "triton"
            if qkv.is_cuda and TRITON_INSTALLED and qkv.dtype in DTYPES
            else "reference"
            if _worth_keeping(qkv, interval, window)
            else "sdpa"
        )
    with torch.autocast(qkv.device.type, enabled=False):
        if backend == "triton":
            from mptpn.attention.retractable_triton import (
                strided_attention,  # Triton is optional: import it where it is asked for
            )

            return strided_attention(qkv, bias, interval, window)
        attend = _reference if backend == "reference" else _sdpa
        return attend(qkv, bias, interval, window)


def _worth_keeping(qkv: Tensor, interval: int, window: int) -> bool:
    """Whether a gradient is wanted on a CPU, the weights are under 4 MiB and no group is cut: up to 48 x 48 pixels and
    6 heads the reference trains faster.
    """
    weights = qkv.numel() // (3 * qkv.shape[-1]) * window**2
    whole = all(length % (window * interval) == 0 for length in qkv.shape[1:3])
    return not qkv.is_cuda and torch.is_grad_enabled() and qkv.requires_grad and whole and weights <= KEPT


def _reference(qkv: Tensor, bias: Tensor, interval: int, window: int) -> Tensor:
    """Partition, matmul, mask, softmax, merge."""
    q, k, v = _partition(qkv, interval, window).permute(3, 0, 1, 4, 2, 5).unbind()  # [B, groups, heads, N, head_dim]
    inside = _inside(qkv, interval, window)[:, None, None, :]  # [groups, 1, 1, N], by key
    logits = q @ k.mT * qkv.shape[-1] ** -0.5 + bias.to(qkv.dtype)
    # the lowest finite number, not -inf: a group that lies wholly outside would be NaN, and its gradient too
    weights = logits.masked_fill(~inside, torch.finfo(logits.dtype).min).softmax(-1)
    return _merge((weights @ v).transpose(2, 3), qkv.shape[1:3], interval, window)


@torch.library.custom_op("mptpn::sdpa_attention", mutates_args=())
def _sdpa(qkv: Tensor, bias: Tensor, interval: int, window: int) -> Tensor:
    """The same by PyTorch's fused attention, a few groups at a time; an operator, for its own backward and one node in
    torch.compile.
    """
    # a bias that asks for its gradient, even unused, bars the fused kernel
    qkv, bias = qkv.detach(), bias.detach().to(qkv.dtype)
    out = qkv.new_empty(*qkv.shape[:3], *qkv.shape[4:])
    for (tokens, result), (part,) in _chunks((qkv, out), (bias,), interval, window):
        n = tokens.shape[5] * tokens.shape[6]
        # [groups, heads, n, head_dim]
        q, k, v = tokens.reshape(-1, n, *tokens.shape[7:]).permute(2, 0, 3, 1, 4).unbind()
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=part.reshape(1, -1, n, n))
        result.copy_(attended.transpose(1, 2).reshape(result.shape))
    return out


@torch.library.custom_op("mptpn::sdpa_attention_backward", mutates_args=())
def _sdpa_backward(grad: Tensor, qkv: Tensor, bias: Tensor, interval: int, window: int) -> tuple[Tensor, Tensor]:
    """Gradients with respect to qkv and bias; the weights are computed again, so that nothing but the inputs is kept."""
    # a CPU's bfloat16 products are slower and less exact
    work = qkv.dtype if qkv.is_cuda else torch.promote_types(qkv.dtype, torch.float32)
    scale = qkv.shape[5] ** -0.5
    grad_qkv, grad_bias = (
        qkv.new_empty(qkv.shape),
        bias.new_zeros(bias.shape, dtype=torch.promote_types(bias.dtype, torch.float32)),
    )
    for (tokens, above, result), (part, grad_part) in _chunks(
        (qkv, grad, grad_qkv), (bias.to(work), grad_bias), interval, window
    ):
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


make_differentiable(_sdpa, _sdpa_backward)


def _chunks(images: tuple[Tensor, ...], biases: tuple[Tensor, ...], interval: int, window: int) -> Iterator[tuple]:
    """Views of the groups, [B, windows, phases, windows, phases, rows, cols, ...], and of their part of the bias.

    Groups cut by the image's edge are met apart from whole ones, at their own smaller size: nothing is padded, nothing
    is masked.
    """
    (height, width), heads = images[0].shape[1:3], images[0].shape[-2]
    # at once; on a CPU so few stay in the cache, where copies are cheap
    logits = 2**26 if images[0].is_cuda else 2**19 * torch.get_num_threads()
    for row, col in itertools.product(_spans(height, interval, window), _spans(width, interval, window)):
        i, j = row[3], col[3]
        views = [_groups(image, row, col, interval, window) for image in images]
        parts = [
            bias.unflatten(2, (window, window)).unflatten(1, (window, window))[:, :i, :j, :i, :j] for bias in biases
        ]
        few = min(heads, max(1, logits // (i * j) ** 2))  # of a large group even the heads are met a few at a time
        for start in range(0, heads, few):
            some = [view[..., start : start + few, :] for view in views]
            for pieces in _split(some, max(1, logits // (few * (i * j) ** 2))):
                yield pieces, [part[start : start + few] for part in parts]


def _spans(length: int, interval: int, window: int) -> list[tuple[int, int, int, int]]:
    """Groups along an axis by size, (start, windows, phases, tokens): whole ones, then those cut by the edge (two sizes
    at most).
    """
    side = window * interval
    tokens, longer = divmod(length % side, interval)
    start = length - length % side
    spans = [
        (0, length // side, interval, window),
        (start, 1, longer, tokens + 1),
        (start + longer, 1, interval - longer, tokens),
    ]
    return [span for span in spans if 0 not in span[1:]]


def _groups(image: Tensor, row: tuple, col: tuple, interval: int, window: int) -> Tensor:
    """View [B, windows, phases, windows, phases, rows, cols, ...] of image [B, H, W, ...] for one span of rows and one
    of columns.
    """
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


def _check(qkv: Tensor, bias: Tensor, interval: int, window: int, backend: str) -> None:
    if qkv.ndim != 6 or qkv.shape[3] != 3 or 0 in qkv.shape:
        raise ValueError(f"qkv must be [B, H, W, 3, heads, head_dim] without an empty axis; got {list(qkv.shape)}")
    if qkv.dtype not in (*DTYPES, torch.float64):
        raise ValueError(f"qkv must be float32, bfloat16, float16 or float64; got {qkv.dtype}")
    if not 8 <= qkv.shape[-1] <= 128:
        raise ValueError(f"head_dim must be 8 to 128; got {qkv.shape[-1]} in qkv {list(qkv.shape)}")
    if not 2 <= window <= 32 or interval < 1:
        raise ValueError(
            f"window must be 2 to 32 tokens and interval at least 1; got window {window}, interval {interval}"
        )
    expected = [qkv.shape[4], window**2, window**2]
    if list(bias.shape) != expected or not bias.is_floating_point():
        raise ValueError(
            f"bias must be [heads, window**2, window**2] = {expected}, floating point; got {list(bias.shape)}, {bias.dtype}"
        )
    if bias.device != qkv.device:
        raise ValueError(f"bias must be on the device of qkv, {qkv.device}; got {bias.device}")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS}; got {backend!r}")
    if backend == "triton":
        if not TRITON_INSTALLED:
            raise RuntimeError('backend="triton": the package triton is not installed (pip install "mptpn[kernels]")')
        if not (qkv.is_cuda or INTERPRETED):
            raise RuntimeError(
                f'backend="triton" needs a GPU; qkv is on {qkv.device}, and TRITON_INTERPRET=1 was not set at the start'
            )
        if qkv.dtype == torch.float64 or (qkv.dtype == torch.bfloat16 and not qkv.is_cuda):
            raise ValueError(
                f'backend="triton" takes float32, float16 and, except in the interpreter, bfloat16; got {qkv.dtype}'
            )


class RelativePositionBias(nn.Module):
    """A learned number per head and relative offset (Swin, Liu et al. 2021); forward gives [heads, window**2,
    window**2].
    """

    def __init__(self, heads: int, *, window: int = 8) -> None:
        super().__init__()
        self.table = nn.Parameter(nn.init.trunc_normal_(torch.empty(heads, (2 * window - 1) ** 2), std=0.02))
        self.register_buffer("index", _offset_index(window), persistent=False)

    def forward(self) -> Tensor:
        return self.table[:, self.index]


class DynamicPositionBias(nn.Module):
    """A small network of the relative offset (CrossFormer, Wang et al. 2022, as in ART); forward gives [heads,
    window**2, window**2].

    Linear(2, dim), twice (LayerNorm, ReLU, Linear(dim, dim)), then LayerNorm, ReLU, Linear(dim, heads).

    Args:
        heads: attention heads.
        window: side of a group, tokens.
        dim: hidden width; ART takes channels // 16.
    """

    def __init__(self, heads: int, *, window: int = 8, dim: int = 11) -> None:
        super().__init__()
        layers = [nn.Linear(2, dim)]
        for width in (dim, dim, heads):
            layers += [nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, width)]
        self.network = nn.Sequential(*layers)
        steps = torch.arange(1 - window, window, dtype=torch.float32)
        self.register_buffer("offsets", torch.cartesian_prod(steps, steps), persistent=False)  # [(2 window - 1)**2, 2]
        self.register_buffer("index", _offset_index(window), persistent=False)

    def forward(self) -> Tensor:
        return self.network(self.offsets).T[:, self.index]


def _offset_index(window: int) -> Tensor:
    """Number of the offset query - key among the (2 window - 1)**2 offsets, row-major from (1 - window, 1 - window);
    [window**2, window**2].
    """
    position = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    offset = position[:, None] - position[None, :] + window - 1
    return offset[..., 0] * (2 * window - 1) + offset[..., 1]
