"""A segmenter that finds bright pixels, and scenes for it."""

import numpy as np
import torch

from mptpn.networks import SegmentationNetwork
from mptpn.segmentation import Segmenter, Target

TARGETS = (
    Target("nuclei", ("nucleus",), least=4, images="bright discs"),
    Target("vessels", ("vessel",), objects=False, images="bright lines"),
)


class Bright(Segmenter):
    """Nuclei are what is brighter than the middle of the gray range; no image has vessels."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(SegmentationNetwork(("nucleus", "vessel"), width=8, text_width=8), TARGETS)

    def probability(self, image, target, *, gray, tile=0, memory=None):
        return (gray(image).mean(1, keepdim=True) > 0.5).float() * 0.9

    def presence(self, image, target, *, gray=None):
        return 0.99 if target.name == "nuclei" else 0.01


def scene(dtype=np.uint8, high: float = 200.0, shape: tuple[int, int] = (45, 62)) -> np.ndarray:
    """Two discs of 81 and 29 px, left and right, on a darker ground."""
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    discs = ((rows - 20) ** 2 + (cols - 15) ** 2 <= 26) | ((rows - 30) ** 2 + (cols - 45) ** 2 <= 9)
    return np.where(discs, high, high / 10).astype(dtype)
