"""The attention against its definition, written as loops over pixels."""

import pytest
import torch

from mptpn.attention import retractable_attention

SIZES = [(1, 1, 1, 4), (1, 9, 4, 4), (7, 13, 2, 4), (16, 8, 1, 4), (9, 5, 3, 2), (17, 11, 1, 8)]  # H, W, interval, window


def by_definition(qkv, bias, *, interval, window):
    """Every pixel looks up the pixels of its group, one by one."""
    height, width, side = *qkv.shape[1:3], window * interval
    group = {(h, w): (h // side, h % interval, w // side, w % interval) for h in range(height) for w in range(width)}
    place = {(h, w): h % side // interval * window + w % side // interval for h, w in group}
    out = torch.empty_like(qkv[:, :, :, 0])
    for h, w in group:
        mates = [pixel for pixel in group if group[pixel] == group[h, w]]
        keys, values = (torch.stack([qkv[:, i, j, part] for i, j in mates], 2) for part in (1, 2))
        logits = (qkv[:, h, w, 0, :, None] * keys).sum(-1) * qkv.shape[-1] ** -0.5
        logits = logits + torch.stack([bias[:, place[h, w], place[pixel]] for pixel in mates], -1)
        out[:, h, w] = (logits.softmax(-1)[..., None] * values).sum(2)
    return out


def example(height, width, window, *, batch=2, heads=3, head_dim=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(batch, height, width, 3, heads, head_dim, dtype=torch.float64, generator=generator)
    bias = torch.randn(heads, window**2, window**2, dtype=torch.float64, generator=generator)
    return qkv.to(dtype), bias.to(dtype)


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_output_follows_the_definition(size, backend):
    height, width, interval, window = size
    qkv, bias = example(height, width, window)
    got = retractable_attention(qkv, bias, interval=interval, window=window, backend=backend)
    # float64 rounding of sums over at most 64 numbers of size 1-10: below 64 * 10 * 2.2e-16
    torch.testing.assert_close(got, by_definition(qkv, bias, interval=interval, window=window), rtol=0, atol=1.4e-13)
