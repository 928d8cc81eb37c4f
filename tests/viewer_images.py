"""Noisy pictures for the tests of both viewers."""

import numpy as np


def noisy(shape: tuple[int, ...] = (97, 81), *, sigma: float = 12.0, seed: int = 0) -> np.ndarray:
    """A checkerboard of two grays with Gaussian noise, uint8."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[-2], : shape[-1]]
    clean = 100 + 60 * ((rows // 20 + columns // 24) % 2)
    return np.clip(clean + random.normal(0, sigma, shape), 0, 255).round().astype(np.uint8)
