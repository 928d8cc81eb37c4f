"""Quantisation of noise as a real image shows it, and the distance of two histograms of noise."""

import torch
from torch import Tensor

EDGES = torch.linspace(-5, 5, 101)  # of the histogram, in standard deviations; the outer bins reach to infinity
MAX_LEVELS = 5000  # different values of an image that was recorded in whole numbers


def quantise_like(noisy: Tensor, *, like: Tensor) -> Tensor:
    """The image rounded and clipped to the values that a real image holds; only clipped above 5000 different values.

    The values themselves are the grid, for a file that was stretched to 8 bits leaves values out.
    """
    grid = like.unique()
    if len(grid) > MAX_LEVELS:
        return noisy.clamp(grid[0], grid[-1])
    return grid[torch.bucketize(noisy.contiguous(), (grid[1:] + grid[:-1]) / 2)]


def divergence(first: Tensor, second: Tensor) -> float:
    """Kullback-Leibler divergence of two samples' histograms over EDGES, first from second, nats.

    Each bin starts with half a count.
    """
    p, q = (
        torch.bincount(torch.bucketize(x.flatten(), EDGES), minlength=len(EDGES) + 1).double() + 0.5
        for x in (first, second)
    )
    p, q = p / p.sum(), q / q.sum()
    return float(torch.special.xlogy(p, p / q).sum())
