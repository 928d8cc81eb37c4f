"""Quantisation of noise as a real image shows it, and the distance of two histograms of noise."""

import torch
from torch import Tensor

EDGES = torch.linspace(-5, 5, 101)  # of the histogram, in standard deviations; the outer bins reach to infinity
MAX_LEVELS = 5000  # different values of an image that was recorded in whole numbers


def quantise_like(noisy: Tensor, *, like: Tensor) -> Tensor:
    """The image rounded and clipped to the values that a real image holds; only clipped above 5000 different values.

    The values themselves are the grid, for a file that was stretched to 8 bits leaves values out.
    """
    return quantised(noisy, grid=like.unique())


def quantised(noisy: Tensor, *, grid: Tensor) -> Tensor:
    """The same, of a real image's different values, ascending."""
    if len(grid) > MAX_LEVELS:
        return noisy.clamp(grid[0], grid[-1])
    return grid[torch.bucketize(noisy.contiguous(), (grid[1:] + grid[:-1]) / 2)]


def divergence(first: Tensor, second: Tensor) -> float:
    """Kullback-Leibler divergence of two samples' histograms, first from second, nats."""
    return relative_entropy(histogram(first), histogram(second))


def histogram(sample: Tensor) -> Tensor:
    """Share of a sample in each bin of EDGES, each of which starts with half a count, [bins], float64."""
    counts = torch.bincount(torch.bucketize(sample.flatten(), EDGES), minlength=len(EDGES) + 1).double() + 0.5
    return counts / counts.sum()


def relative_entropy(p: Tensor, q: Tensor) -> float:
    """Kullback-Leibler divergence of q from p, nats."""
    return float(torch.special.xlogy(p, p / q).sum())
