"""Random generators that are a function of a seed and a named stream."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Streams that published numbers were drawn from keep their old keys; any other name is its own key.
STREAMS = {
    "hidden levels": 101,
    "hidden noise": 102,
    "patches": 201,
    "noise-level training": 211,
    "noise-level calibration": 212,
    "pairs": 301,
    "inpainting": 302,
    "uncertainty": 303,
    "risk": 304,
    "added noise": 501,
    "whitening": 512,
    "two-sample copies": 601,
    "white noise": 601,
    "exposures": 602,
    "Stein": 603,
    "Stein noise": 604,
    "Stein probes": 605,
    "EMCCD": 611,
    "refinement": 621,
    "real noise": 701,
    "calibration noise": 702,
    "hash": 801,
    "enlarge patches": 802,
    "enlarge noise": 803,
    "photograph levels": 901,
    "photograph pairs": 902,
    "comparison noise": 912,
    "stage-1 check": 921,
    "method check": 931,
    "lesion places": 1001,
    "lesion noise": 1002,
    "lesion seeds": 1003,
    "lesion backgrounds": 1004,
}


def generator(*keys: int | str) -> torch.Generator:
    """A CPU random generator that is a function of its keys alone, (seed, "stream", step, ...).

    The keys are hashed, for PyTorch's generator uses 32 bits of its seed. Two purposes never share a stream.
    """
    words = (str(STREAMS.get(key, key) if isinstance(key, str) else int(key)) for key in keys)
    digest = hashlib.sha256(",".join(words).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, what takes no generator, such as a layer's first weights, draws on the CPU from the seed; after it,
    PyTorch's global generator is as it was.
    """
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        yield
