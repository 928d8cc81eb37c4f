"""What a weights file may ask for: its arguments are checked before a network is made of them."""

import inspect
import json
import math

import torch
from torch import nn

DEEP, LONG, MOST = 64, 16, 4096  # blocks, items of a list, any other number, at most
AT_MOST = {
    "channels": 16,
    "blocks": DEEP,
    "depth": DEEP,
    "n_resblocks": 4 * DEEP,
    "intervals": 64,
    "window": 64,
    "unshuffle": 16,
    "n_hashes": 64,
    "scale": 4,
}
VOCABULARY, WORD = 2**16, 64  # words of a prompt's encoder, and letters of one, at most
FROM_ZERO = {"described", "half_size", "rotation_seed"}  # others are 1 at least


def arguments_of(kind: type[nn.Module], text: str | None, renamed: dict[str, str]) -> dict:
    """Keyword arguments of a network's constructor from a file's JSON.

    Args:
        kind: its default values give the types. renamed: old names of arguments, and those of today.
    Raises:
        ValueError: words that follow "its": what is wrong with which argument.
    """
    try:
        given = json.loads(text or "")
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise ValueError("arguments are missing or no JSON object")
    given = {renamed.get(name, name): value for name, value in given.items()}
    known = inspect.signature(kind).parameters
    if strange := [name for name in given if name not in known]:
        raise ValueError(f"argument {strange[0]!r:.40} is not known to {kind.__name__}")
    if missing := [name for name, one in known.items() if one.default is one.empty and name not in given]:
        raise ValueError(f"argument {missing[0]!r} is missing")
    for name, value in given.items():
        default = known[name].default
        if default is not inspect.Parameter.empty and not _fits(name, value, default):
            raise ValueError(f"argument {name} is of another type or size than {kind.__name__} takes")
    return given


def _fits(name: str, value: object, default: object) -> bool:
    if isinstance(default, bool | str):
        return type(value) is type(default) and len(str(value)) <= MOST
    if isinstance(default, int):
        least = 0 if name in FROM_ZERO else 1
        return type(value) is int and least <= value <= AT_MOST.get(name, MOST)
    if isinstance(default, float):
        return type(value) in (int, float) and math.isfinite(value) and abs(value) <= 2**20
    if name == "words":
        words = isinstance(value, list) and len(value) <= VOCABULARY
        return words and all(isinstance(word, str) and 1 <= len(word) <= WORD for word in value)
    if isinstance(default, tuple):  # of numbers, or of such tuples
        inner = default[0] if default else 1
        fewest = 0 if name == "local_means" else 1
        return isinstance(value, list) and fewest <= len(value) <= LONG and all(_fits(name, x, inner) for x in value)
    return True


def check_state(kind: type[nn.Module], arguments: dict, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raise ValueError where a file's tensors are not those of the network; no memory is taken to find out."""
    groups = sum(map(len, arguments.get("intervals", [[0]])))
    planned = max(arguments.get("blocks", 0) * groups, arguments.get("depth", 0), arguments.get("n_resblocks", 0))
    if planned > len(shapes):
        raise ValueError(f"arguments ask for {planned} blocks, more than its {len(shapes)} tensors")
    try:
        with torch.device("meta"):
            network = kind(**arguments)
    except (TypeError, RuntimeError, ZeroDivisionError, IndexError):
        raise ValueError(f"arguments make no {kind.__name__}") from None
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if wrong := sorted(name for name in wanted.keys() | shapes.keys() if wanted.get(name) != shapes.get(name)):
        raise ValueError(f"{len(wrong)} tensors, such as {wrong[0]!r:.60}, do not fit its arguments")
