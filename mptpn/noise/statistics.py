"""Histograms of standardised noise, and how far one is from another."""

import torch
from torch import Tensor

# of the histogram, in standard deviations of the reference noise model; the outer bins reach to infinity
EDGES = torch.linspace(-5, 5, 101)
LEVELS = 5000  # an image with at most so many different values was recorded in whole numbers


def quantise_like(noisy: Tensor, *, like: Tensor) -> Tensor:
    """The image rounded and clipped to the nearest value that a real image holds; not rounded where that holds over
    5000 values, which no camera's bits gave.

    A file that was stretched to 8 bits leaves values out; so the values themselves are the grid.
    """
    grid = like.unique()
    if len(grid) > LEVELS:
        return noisy.clamp(grid[0], grid[-1])
    return grid[torch.bucketize(noisy.contiguous(), (grid[1:] + grid[:-1]) / 2)]


def divergence(first: Tensor, second: Tensor) -> float:
    """Kullback-Leibler divergence of two samples' histograms over EDGES, first from second, nats; each bin starts with
    half a count.
    """
    p, q = (
        torch.bincount(torch.bucketize(x.flatten(), EDGES), minlength=len(EDGES) + 1).double() + 0.5
        for x in (first, second)
    )
    p, q = p / p.sum(), q / q.sum()
    return float((p * (p / q).log()).sum())
