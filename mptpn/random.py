"""Random generators that are a function of named keys."""

import hashlib

import torch


def generator(*keys: int) -> torch.Generator:
    """A CPU random generator that is a function of the keys alone: (seed, purpose, step, ...); equal keys draw equal numbers.

    The keys are hashed: PyTorch's generator looks at 32 bits of its seed.
    """
    digest = hashlib.sha256(",".join(str(int(key)) for key in keys).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
