"""Pretraining of the encoder without masks: SimSiam over three scales, on photographs with captions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mptpn.filters import gaussian_blur, turned
from mptpn.networks.segmentation import SegmentationNetwork
from mptpn.random import generator, seeded
from mptpn.segmentation.words import Words, turn_words, word_numbers
from mptpn.training import fit

if TYPE_CHECKING:
    from lightning.fabric import Fabric

CAPTION_WORDS = ("dark", "bright", "smooth", "textured", "gray", "colourful", "left", "right", "upper", "lower")
LENGTH = 4  # words of a caption


def caption(image: Tensor) -> Words:
    """What is measured in a photograph [3, H, W], 0..1: its level, texture, colour and brighter side, four words."""
    gray = image.mean(0)
    height, width = gray.shape
    across = float(gray[:, width // 2 :].mean() - gray[:, : width // 2].mean())
    down = float(gray[height // 2 :].mean() - gray[: height // 2].mean())
    side = ("right" if across > 0 else "left") if abs(across) >= abs(down) else ("lower" if down > 0 else "upper")
    rough = float((gray[:, 1:] - gray[:, :-1]).abs().mean())
    level = "bright" if gray.mean() > 0.45 else "dark"
    colour = "colourful" if float(image.std(0).mean()) > 0.08 else "gray"
    return level, "textured" if rough > 0.04 else "smooth", colour, side


class Views:
    """Two views of a square of a photograph, and its caption, as a function of the step.

    A view changes colour, goes gray or is blurred; both have the same place and orientation, and the caption is of the
    square as it lies.

    Args:
        photographs: [1, 3, H, W], 0..1, at least side x side px.
    """

    def __init__(self, photographs: Sequence[Tensor], *, side: int = 96, batch: int = 16, seed: int = 0):
        self.photographs, self.side, self.batch, self.seed = list(photographs), side, batch, seed

    def __call__(self, step: int) -> dict[str, Tensor]:
        """{"first", "second": [B, 3, side, side], "caption": [B, 4]}."""
        draw = generator(self.seed, "segmentation pretraining", step)
        rows = [self._draw(draw) for _ in range(self.batch)]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _draw(self, draw: torch.Generator) -> dict[str, Tensor]:
        image = self.photographs[_below(draw, len(self.photographs))]
        top, left = (_below(draw, n - self.side + 1) for n in image.shape[2:])
        square, turn = image[..., top : top + self.side, left : left + self.side], _below(draw, 8)
        words = turn_words(caption(square[0]), turn)
        square = turned(square, turn)
        numbers = word_numbers(words, CAPTION_WORDS, length=LENGTH)
        return {"first": _view(square, draw)[0], "second": _view(square, draw)[0], "caption": numbers}


def _below(draw: torch.Generator, count: int) -> int:
    return int(torch.randint(count, (1,), generator=draw))


def _view(image: Tensor, draw: torch.Generator) -> Tensor:
    gain, shift, gray, blur = (torch.rand(n, generator=draw) for n in (3, 1, 1, 1))
    image = (image * (0.6 + 0.8 * gain)[:, None, None] + 0.3 * (shift - 0.5)).clamp(0, 1.2)
    image = image.mean(1, keepdim=True).expand(-1, 3, -1, -1) if gray < 0.2 else image
    return gaussian_blur(image, sigma=0.5 + float(blur)) if blur < 0.5 else image


class SimSiam(nn.Module):
    """Mean over scales of minus the cosine between one view's prediction and the other view, which gets no gradient.

    (Chen, He 2021, Algorithm 1; three scales with predictors of equal width as in arXiv 2307.00174.)

    Args:
        network: whose encoder and prompt encoder learn.
        captions: whether the prompt encoder reads the caption; otherwise its words are zeros.
    """

    def __init__(self, network: SegmentationNetwork, *, captions: bool):
        super().__init__()
        width, size = network.arguments["width"], network.arguments["text_width"]
        self.encoder, self.prompt = network.encoder, network.prompt
        self.words = nn.Embedding(len(CAPTION_WORDS), size)
        self.captions = captions
        self.predictors = nn.ModuleList(
            nn.Sequential(nn.Linear(c, c), nn.BatchNorm1d(c), nn.ReLU(), nn.Linear(c, c)) for c in _widths(width)
        )

    def vectors(self, image: Tensor, numbers: Tensor) -> list[Tensor]:
        """The pooled vector of each scale, [B, C]."""
        text = self.words(numbers) * self.captions
        maps = [x := self.encoder[0](image)]
        for block in self.encoder[1:]:
            maps.append(x := block(F.max_pool2d(x, 2)))
        return [x.mean((2, 3)) for x in self.prompt(maps, text)]

    def forward(self, first: Tensor, second: Tensor, caption: Tensor) -> Tensor:
        """The loss of a batch; -1 is the least."""
        one, other = self.vectors(first, caption), self.vectors(second, caption)
        losses = []
        for predict, a, b in zip(self.predictors, one, other, strict=True):
            losses += [-F.cosine_similarity(predict(a), b.detach()).mean()]
            losses += [-F.cosine_similarity(predict(b), a.detach()).mean()]
        return torch.stack(losses).mean()


def _widths(width: int) -> tuple[int, int, int]:
    return width, 2 * width, 4 * width


def spread(vectors: Tensor) -> float:
    """Spread of unit vectors [B, d] over 1 / sqrt(d): about 1 where they fill the sphere, 0 where all are one."""
    return float(F.normalize(vectors, dim=1).std(0).mean() * vectors.shape[1] ** 0.5)


def pretrain(
    network: SegmentationNetwork,
    photographs: Sequence[Tensor],
    *,
    captions: bool,
    fabric: "Fabric",
    steps: int = 500,
    lr: float = 1e-3,
    seed: int = 0,
    batch: int = 16,
    side: int = 96,
) -> list[dict]:
    """Pretrain a network's encoders in place; the history holds the spread of each scale at the end.

    Raises:
        ValueError: no photograph of at least side x side px.
    """
    large = [image for image in photographs if min(image.shape[2:]) >= side]
    if not large:
        raise ValueError(f"none of {len(photographs)} photographs has {side} x {side} px; give larger ones.")
    with seeded(seed):
        learner = SimSiam(network.train(), captions=captions)
    views = Views(large, side=side, batch=batch, seed=seed)
    probe = views(-1)

    def watch(module: SimSiam) -> dict:
        found = module.vectors(probe["first"].to(fabric.device), probe["caption"].to(fabric.device))
        return {f"spread_{scale}": round(spread(x), 4) for scale, x in enumerate(found, 1)}

    settings = {"steps": steps, "lr": lr, "fabric": fabric, "watch": watch, "watch_seconds": 1e9}
    history = fit(learner, loss=lambda module, data, _: module(**data), batches=views, title="pretraining", **settings)
    network.eval()
    return history
