"""Retractable attention: every token attends to window x window tokens at stride `interval` (1: dense, > 1: sparse).

A group is a dense window at interval 1, and at interval I the tokens of an (I * window)-square that share (row mod I, col mod I).
ART (Zhang et al., ICLR 2023, section 3.2) lets its sparse group grow with the image; here it stays window x window, so cost is linear in pixels.
"""

import importlib.util
import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BACKENDS = ("auto", "reference", "sdpa", "triton")
TRITON_INSTALLED = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def retractable_attention(qkv: Tensor, bias: Tensor, *, interval: int, window: int = 8, backend: str = "auto") -> Tensor:
    """Attention inside each group, softmax(q k^T / sqrt(head_dim) + bias) v (ART, Eq. 3).

    Token (h, w) lies in group (h // (window * interval), h % interval; the same of w), at row (h % (window * interval)) // interval.
    The image may have any size: positions beyond its edge do not exist, they are neither read nor counted. Under autocast the
    computation runs in the autocast dtype.

    Args:
        qkv: queries, keys and values, [B, H, W, 3, heads, head_dim]; float32, bfloat16, float16 (float64: not triton).
        bias: added to the logits, [heads, window**2, window**2]; row = query, column = key, positions row-major in the group.
        interval: stride of a group's tokens, pixels.
        window: side of a group, tokens.
        backend: "reference" (plain PyTorch, the law), "sdpa" (PyTorch's fused attention), "triton" (one kernel, no copies),
            "auto" (triton for CUDA tensors where Triton is installed, else sdpa).
    Returns:
        Attended values, [B, H, W, heads, head_dim], dtype of qkv.
    Raises:
        ValueError: an argument has a wrong shape, dtype, device or range.
        RuntimeError: backend="triton" cannot run here; the message says what is missing.
    """
    _check(qkv, bias, interval, window, backend)
    if torch.is_autocast_enabled(qkv.device.type) and qkv.dtype != torch.float64:
        qkv = qkv.to(torch.get_autocast_dtype(qkv.device.type))
    if backend == "auto":
        backend = "triton" if qkv.is_cuda and TRITON_INSTALLED and qkv.dtype != torch.float64 else "sdpa"
    with torch.autocast(qkv.device.type, enabled=False):
        if backend == "triton":
            from mptpn.attention_triton import strided_attention  # Triton is optional: import it where it is asked for

            return strided_attention(qkv, bias, interval, window)
        attend = _reference if backend == "reference" else _sdpa
        return attend(qkv, bias.to(qkv.dtype), interval, window)


def _reference(qkv: Tensor, bias: Tensor, interval: int, window: int) -> Tensor:
    """Partition, matmul, mask, softmax, merge."""
    q, k, v = _partition(qkv, interval, window).permute(3, 0, 1, 4, 2, 5).unbind()  # [B, groups, heads, N, head_dim]
    inside = _inside(qkv, interval, window)[:, None, None, :]  # [groups, 1, 1, N], by key
    logits = q @ k.mT * qkv.shape[-1] ** -0.5 + bias
    # the lowest finite number, not -inf: a group that lies wholly outside would be NaN, and its gradient too
    weights = logits.masked_fill(~inside, torch.finfo(logits.dtype).min).softmax(-1)
    return _merge((weights @ v).transpose(2, 3), qkv.shape[1:3], interval, window)


def _sdpa(qkv: Tensor, bias: Tensor, interval: int, window: int) -> Tensor:
    """The same by PyTorch's fused attention."""
    tokens = _partition(qkv, interval, window).flatten(0, 1)  # [B * groups, N, 3, heads, head_dim]
    q, k, v = tokens.permute(2, 0, 3, 1, 4).unbind()
    height, width = qkv.shape[1:3]
    mask = bias
    if height % (window * interval) or width % (window * interval):
        inside = _inside(qkv, interval, window).repeat(len(qkv), 1)[:, None, None, :]
        mask = bias.masked_fill(~inside, torch.finfo(bias.dtype).min)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.expand(len(q), -1, -1, -1))
    return _merge(attended.transpose(1, 2).unflatten(0, (len(qkv), -1)), (height, width), interval, window)


def _partition(image: Tensor, interval: int, window: int) -> Tensor:
    """[B, H, W, ...] to [B, groups, window**2, ...], zeros beyond the edge."""
    height, width = image.shape[1:3]
    side = window * interval
    image = F.pad(image, (0, 0) * (image.ndim - 3) + (0, -width % side, 0, -height % side))
    image = image.unflatten(2, (-1, window, interval)).unflatten(1, (-1, window, interval))  # [B, rows, i, p, cols, j, r, ...]
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
    if qkv.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"qkv must be float32, bfloat16, float16 or float64; got {qkv.dtype}")
    if not 8 <= qkv.shape[-1] <= 128:
        raise ValueError(f"head_dim must be 8 to 128; got {qkv.shape[-1]} in qkv {list(qkv.shape)}")
    if not 2 <= window <= 32:
        raise ValueError(f"window must be 2 to 32 tokens; got {window}")
    if interval < 1:
        raise ValueError(f"interval must be at least 1; got {interval}")
    expected = [qkv.shape[4], window**2, window**2]
    if list(bias.shape) != expected or not bias.is_floating_point():
        raise ValueError(f"bias must be [heads, window**2, window**2] = {expected}, floating point; got {list(bias.shape)}, {bias.dtype}")
    if bias.device != qkv.device:
        raise ValueError(f"bias must be on the device of qkv, {qkv.device}; got {bias.device}")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS}; got {backend!r}")
    if backend == "triton":
        if not TRITON_INSTALLED:
            raise RuntimeError('backend="triton": the package triton is not installed (pip install "mptpn[kernels]")')
        if not (qkv.is_cuda or INTERPRETED):
            raise RuntimeError(f'backend="triton" needs a CUDA tensor; qkv is on {qkv.device}, and TRITON_INTERPRET=1 was not set at the start')
        if qkv.dtype == torch.float64:
            raise ValueError('backend="triton" takes float32, bfloat16 or float16; got torch.float64')


class RelativePositionBias(nn.Module):
    """A learned number per head and relative offset (Swin, Liu et al. 2021, section 3.2); forward gives [heads, window**2, window**2]."""

    def __init__(self, heads: int, *, window: int = 8) -> None:
        super().__init__()
        self.table = nn.Parameter(nn.init.trunc_normal_(torch.empty(heads, (2 * window - 1) ** 2), std=0.02))
        self.register_buffer("index", _offset_index(window), persistent=False)

    def forward(self) -> Tensor:
        return self.table[:, self.index]


class DynamicPositionBias(nn.Module):
    """A small network of the relative offset, so that no offset is unseen (CrossFormer, Wang et al. 2022, section 3.3; as in ART).

    Linear(2, dim), twice (LayerNorm, ReLU, Linear(dim, dim)), then LayerNorm, ReLU, Linear(dim, heads). forward gives
    [heads, window**2, window**2].

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
    """Number of the offset query - key among the (2 window - 1)**2 offsets, row-major from (1 - window, 1 - window); [window**2, window**2]."""
    position = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    offset = position[:, None] - position[None, :] + window - 1
    return offset[..., 0] * (2 * window - 1) + offset[..., 1]
