"""Noise levels that a set hides: one noisy copy of each image, each at a level of its own."""

import torch
from torch import Tensor

from mptpn.noise import PoissonGaussian
from mptpn.random import generator


def hidden_levels(count: int, *, low: float, high: float, seed: int) -> list[float]:
    """Noise levels, one an image, evenly spaced in the logarithm from low to high, in random order (seed)."""
    if not 0 < low <= high:
        raise ValueError(f"levels from {low} to {high} make no range; give 0 < low <= high.")
    spaced = [low * (high / low) ** (i / max(1, count - 1)) for i in range(count)]
    return [spaced[i] for i in torch.randperm(count, generator=generator(seed, "hidden levels")).tolist()]


def hidden_copies(clean: list[Tensor], *, low: float, high: float, seed: int) -> tuple[list[Tensor], list[float]]:
    """One noisy copy of each image, white Gaussian, at a level of its own, which is never redrawn.

    Args:
        clean: images of any shapes.
        low, high, seed: see hidden_levels; the levels are in the images' unit.
    Returns:
        the noisy copies, and their true levels, which no stage may see.
    """
    levels = hidden_levels(len(clean), low=low, high=high, seed=seed)
    noisy = [
        PoissonGaussian(level).sample(image, generator=generator(seed, "hidden noise", i))
        for i, (image, level) in enumerate(zip(clean, levels, strict=True))
    ]
    return noisy, levels
