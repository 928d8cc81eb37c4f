"""Training a super-resolution network on patches: L1 loss, Adam, and a rate that is halved at stated epochs."""

from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from mptpn.filters import dihedral_crop
from mptpn.random import generator
from mptpn.super_resolution import as_bytes, as_floats, check_scale, crop_to_multiple, shrink
from mptpn.training import loop


class Patches:
    """Pairs of patches as a function of the step; each set is drawn equally often, whatever its size.

    The low-resolution image of a whole photograph is made once, in 8 bits; both are cut at the same place and turned
    alike (EDSR's order). Images are kept as bytes where 8 bits hold them.

    Args:
        sets: of high-resolution images [1, 3, H, W], 0..1, or bytes.
        scale: 2, 3 or 4.
        patch_size: side of the high-resolution patch, px, a multiple of scale.
        batch_size: patches a step.
        seed: decides places and orientations.
        channels: 3, or 1 to train on the mean of the channels.
    Raises:
        ValueError: another scale, a patch_size that it does not divide, an image smaller than a patch, nothing to draw
            from.
    """

    def __init__(
        self,
        sets: tuple[tuple[Tensor, ...], ...],
        *,
        scale: int,
        patch_size: int = 96,
        batch_size: int = 16,
        seed: int = 0,
        channels: int = 3,
    ):
        check_scale(scale)
        if patch_size < scale or patch_size % scale or batch_size < 1:
            wrong = (
                f"patch_size {patch_size} must be a multiple of scale {scale}, and batch_size {batch_size} at least 1"
            )
            raise ValueError(f"{wrong}.")
        if not sets or not all(sets):
            raise ValueError("there is no image to cut patches from.")
        self.scale, self.side, self.batch_size, self.seed = scale, patch_size // scale, batch_size, seed
        self.sets = [[self._pair(as_floats(image), channels) for image in images] for images in sets]

    def _pair(self, high: Tensor, channels: int) -> tuple[Tensor, Tensor]:
        high = high if channels == 3 else high.mean(1, keepdim=True)
        high = crop_to_multiple(high, scale=self.scale)
        side = self.side * self.scale
        if min(high.shape[2:]) < side:
            size = f"{high.shape[2]} x {high.shape[3]} px"
            raise ValueError(f"an image of {size} is smaller than a patch of {side} px; take a smaller patch_size.")
        return as_bytes(shrink(high, scale=self.scale)), as_bytes(high)

    def __call__(self, step: int) -> dict[str, Tensor]:
        """{"low": [batch, C, side, side], "high": [batch, C, scale side, scale side]}, 0..1, of one training step."""
        draw = generator(self.seed, "enlarge patches", step)
        low, high = zip(*[self._cut(draw) for _ in range(self.batch_size)], strict=True)
        return {"low": torch.cat(low), "high": torch.cat(high)}

    def _cut(self, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        def integer(below: int) -> int:
            return int(torch.randint(below, (), generator=draw))

        images = self.sets[integer(len(self.sets))]
        pair = images[integer(len(images))]
        height, width = pair[0].shape[2:]
        top, left, turn = integer(height - self.side + 1), integer(width - self.side + 1), integer(8)
        return tuple(
            as_floats(dihedral_crop(image, top=factor * top, left=factor * left, side=factor * self.side, turn=turn))
            for image, factor in zip(pair, (1, self.scale), strict=True)
        )


def rate(epoch: float, *, lr: float, decay: str = "200-400-600-800") -> float:
    """Learning rate at an epoch: lr, halved at each epoch of decay (Lim et al. 2017, Sec. 4.2; the old --decay).

    Raises:
        ValueError: decay is not rising whole numbers joined by "-" (or empty: never halved).
    """
    ends = decay.split("-") if decay else []
    if not all(end.isdecimal() for end in ends) or [int(e) for e in ends] != sorted({int(e) for e in ends}):
        example = 'rising epochs joined by "-", for example "200-400-600-800", or empty'
        raise ValueError(f"decay {decay!r} must be {example}.")
    return lr * 0.5 ** sum(epoch >= int(end) for end in ends)


def train(
    network: nn.Module,
    patches: Patches,
    *,
    fabric: Fabric,
    epochs: int = 1000,
    steps_per_epoch: int = 1000,
    lr: float = 1e-4,
    decay: str = "200-400-600-800",
    ema: float = 0.0,
    seconds: float = float("inf"),
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 20.0,
    title: str = "super-resolution",
) -> list[dict]:
    """Train in place with the L1 loss (Lim et al. 2017, Sec. 4.2), return the history; resumes as `loop.fit` does.

    Args:
        network: a SuperResolutionNetwork. patches: step -> batch. fabric: from loop.launch.
        epochs, steps_per_epoch: an epoch is a number of steps, 1000 in EDSR and NLSN.
        lr, decay: see `rate`. ema: decay of the averaged weights; 0: none, as in NLSN.
        seconds: wall-clock budget; epochs then count in time where that is further.
        checkpoint, checkpoint_seconds: side file, and the time between two writes.
    Raises:
        ValueError: patches of another scale, a decay that is none; and what loop.fit raises.
    """
    if patches.scale != network.scale:
        scales = f"the patches are for x{patches.scale} and the network enlarges x{network.scale}"
        raise ValueError(f"{scales}; make both of one scale.")
    rate(0, lr=lr, decay=decay)

    def loss(module: nn.Module, batch: dict[str, Tensor], _fraction: float) -> Tensor:
        return F.l1_loss(module(batch["low"]), batch["high"])

    network.train()
    budget = {"steps": epochs * steps_per_epoch, "seconds": seconds}
    budget |= {"checkpoint": checkpoint, "checkpoint_seconds": checkpoint_seconds}
    schedule = {"lr": lr, "rate": lambda fraction: rate(fraction * epochs, lr=lr, decay=decay)}
    history = loop.fit(network, loss=loss, batches=patches, fabric=fabric, ema=ema, title=title, **schedule, **budget)
    network.eval()
    return history
