"""Drawn scenes with several things in one image, for a prompt network that learns in seconds; truths are exact."""

import numpy as np
import torch
from torch import Tensor

from mptpn.networks import SegmentationNetwork
from mptpn.random import generator, seeded
from mptpn.segmentation import Example, Segmenter, Target, normalised

NUCLEI, CYTOPLASM, VESSELS = ("nucleus",), ("cytoplasm",), ("vessel",)
TARGETS = (
    Target("nuclei", NUCLEI, least=8, images="drawn cells"),
    Target("white blood cell cytoplasm", CYTOPLASM, objects=False, least=8, images="drawn cells"),
    Target("vessels", VESSELS, objects=False, least=8, images="drawn vessels"),
)
KINDS = ("cells", "vessels", "texture")


def drawn(kind: str, number: int, *, split: str = "train", shape: tuple[int, int] = (90, 96)) -> Example:
    """One scene: cells (a dark nucleus in a paler cytoplasm), vessels (dark lines on a bright ground), or texture."""
    draw = generator("prompt scenes", split, kind, number)
    rows, cols = (torch.arange(n).float() for n in shape)
    rows, cols = rows[:, None].expand(shape), cols.expand(shape)
    image = torch.full((3, *shape), 0.8) + 0.04 * torch.randn(3, *shape, generator=draw)
    masks = {}
    if kind == "cells":
        nuclei, cytoplasm = _cells(rows, cols, draw)
        image = image + nuclei * torch.tensor([-0.5, -0.6, -0.2])[:, None, None]
        image = image + cytoplasm * torch.tensor([-0.1, -0.3, -0.1])[:, None, None]
        masks = {NUCLEI: nuclei.bool()[None, None], CYTOPLASM: cytoplasm.bool()[None, None]}
    if kind == "vessels":
        lines = _lines(rows, cols, draw)
        tint = torch.tensor([0.1, -0.4, -0.7])[:, None, None]
        image = image + tint - lines * torch.tensor([0.4, 0.25, 0.02])[:, None, None]
        masks = {VESSELS: lines.bool()[None, None]}
    pixels = normalised(image[None]).contiguous()
    return Example(pixels, masks, kind, (0.8, 1.3), name=f"{kind} {number}")


def _cells(rows: Tensor, cols: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    nuclei, whole = torch.zeros_like(rows), torch.zeros_like(rows)
    height, width = rows.shape
    for _ in range(7):
        row, col, size = torch.rand(3, generator=draw).tolist()
        row, col, size = 8 + row * (height - 16), 8 + col * (width - 16), 5 + 5 * size
        away = ((rows - row) ** 2 + (cols - col) ** 2).sqrt()
        if not whole[away < 1.7 * size].any():
            whole[away < 1.7 * size] = 1
            nuclei[away < size] = 1
    return nuclei, whole - nuclei


def _lines(rows: Tensor, cols: Tensor, draw: torch.Generator) -> Tensor:
    lines = torch.zeros_like(rows)
    for _ in range(4):
        angle, offset, bend, phase = torch.rand(4, generator=draw).tolist()
        across = rows * np.cos(3.1 * angle) + cols * np.sin(3.1 * angle)
        along = cols * np.cos(3.1 * angle) - rows * np.sin(3.1 * angle)
        middle = 20 + 60 * offset + 6 * bend * torch.sin(along / 12 + 6 * phase)
        lines[(across - middle).abs() < 1.6] = 1
    return lines


def scenes(split: str, *, count: int) -> list[Example]:
    """`count` scenes of each kind."""
    return [drawn(kind, number, split=split) for kind in KINDS for number in range(count)]


def untrained(seed: int, *, width: int = 8) -> Segmenter:
    """A network that knows the three words, with weights drawn from the seed."""
    with seeded(seed):
        network = SegmentationNetwork(("nucleus", "cytoplasm", "vessel"), width=width, text_width=16)
    return Segmenter(network, TARGETS)
