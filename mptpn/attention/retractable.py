"""Retractable attention: every token attends to window x window tokens at stride `interval` (1: dense, > 1: sparse).

A group is a dense window at interval 1, and at interval I the tokens of an (I * window)-square that share (row mod I,
col mod I). ART (Zhang et al., ICLR 2023) lets its sparse group grow with the image; here it stays window x window, so
cost is linear in pixels.
"""

import torch
from torch import Tensor

from mptpn.attention import backend as backends
from mptpn.attention import retractable_torch
from mptpn.attention.backend import DTYPES

BACKENDS = ("auto", "reference", "sdpa", "triton")
KEPT = 2**20  # attention weights; more of them cost less to compute again than to write and read


def retractable_attention(
    qkv: Tensor, bias: Tensor, *, interval: int, window: int = 8, backend: str = "auto"
) -> Tensor:
    """Attention inside each group, softmax(q k^T / sqrt(head_dim) + bias) v (ART, Zhang et al. 2023).

    Token (h, w) lies in group (h // (window * interval), h % interval; the same of w), at row (h % (window * interval))
    // interval. Any image size will do: positions beyond the edge are neither read nor counted. Under autocast all runs
    in its dtype.

    Args:
        qkv: queries, keys and values, [B, H, W, 3, heads, head_dim]; float32, bfloat16, float16, or float64 (not by
            triton).
        bias: added to the logits, [heads, window**2, window**2]: query, key, positions row-major in the group.
        interval: stride of a group's tokens, pixels.
        window: side of a group, tokens.
        backend: "reference" (plain PyTorch), "sdpa" (PyTorch's fused attention; backward computes the weights again),
            "triton" (one kernel, no copies), "auto" (triton on a GPU where it is installed, else sdpa, or the reference
            in training on images so small that it is faster).
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
        backend = _fastest(qkv, interval, window)
    with torch.autocast(qkv.device.type, enabled=False):
        if backend == "triton":
            from mptpn.attention.retractable_triton import strided_attention  # Triton is optional

            return strided_attention(qkv, bias, interval, window)
        if backend == "reference":
            return retractable_torch.reference(qkv, bias, interval, window)
        plain = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        return (retractable_torch.fused if plain else retractable_torch.sdpa)(qkv, bias, interval, window)


def _fastest(qkv: Tensor, interval: int, window: int) -> str:
    """The reference trains faster on a CPU up to 48 x 48 pixels and 6 heads: 4 MiB of weights, no group cut."""
    if qkv.is_cuda:
        return "triton" if backends.TRITON_INSTALLED and qkv.dtype in DTYPES else "sdpa"
    weights = qkv.numel() // (3 * qkv.shape[-1]) * window**2
    whole = all(length % (window * interval) == 0 for length in qkv.shape[1:3])
    return "reference" if torch.is_grad_enabled() and qkv.requires_grad and whole and weights <= KEPT else "sdpa"


def _check(qkv: Tensor, bias: Tensor, interval: int, window: int, backend: str) -> None:
    if qkv.ndim != 6 or qkv.shape[3] != 3 or 0 in qkv.shape:
        raise ValueError(f"qkv must be [B, H, W, 3, heads, head_dim] without an empty axis; got {list(qkv.shape)}")
    if qkv.dtype not in (*DTYPES, torch.float64):
        raise ValueError(f"qkv must be float32, bfloat16, float16 or float64; got {qkv.dtype}")
    if not 8 <= qkv.shape[-1] <= 128:
        raise ValueError(f"head_dim must be 8 to 128; got {qkv.shape[-1]} in qkv {list(qkv.shape)}")
    if not 2 <= window <= 32 or interval < 1:
        given = f"window {window}, interval {interval}"
        raise ValueError(f"window must be 2 to 32 tokens and interval at least 1; got {given}")
    expected, given = [qkv.shape[4], window**2, window**2], f"{list(bias.shape)}, {bias.dtype}"
    if list(bias.shape) != expected or not bias.is_floating_point():
        raise ValueError(f"bias must be [heads, window**2, window**2] = {expected}, floating point; got {given}")
    if bias.device != qkv.device:
        raise ValueError(f"bias must be on the device of qkv, {qkv.device}; got {bias.device}")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS}; got {backend!r}")
    if backend == "triton":
        backends.check_triton(qkv, "qkv")
        if qkv.dtype == torch.float64 or (qkv.dtype == torch.bfloat16 and not qkv.is_cuda):
            kinds = "float32, float16 and, except in the interpreter, bfloat16"
            raise ValueError(f'backend="triton" takes {kinds}; got {qkv.dtype}')
