"""Pairs that a small network learns from: half have a photograph as target, half what a large network makes of them."""

from pathlib import Path

import torch
from torch import Tensor, nn

from mptpn.atomic import write_atomically
from mptpn.filters import dihedral_crop
from mptpn.random import generator
from mptpn.stages import profound
from mptpn.training import Batch
from support.photographs import NoisyPhotographs

SIDE, BORDER = 256, 16  # px, of what the teacher denoises; its outermost pixels have too little context to be targets


@torch.no_grad()
def taught(pairs: NoisyPhotographs, teacher: nn.Module, *, count: int, path: str | Path) -> list[Batch]:
    """The first `count` batches of pairs, each with the teacher's result as its target; kept in a file.

    Args:
        pairs: of SIDE px. teacher: a denoiser of one channel; it computes in bfloat16.
        path: of the file, from which a second call goes on.
    """
    done = torch.load(path, weights_only=True) if Path(path).is_file() else []
    for step in range(len(done), count):
        batch = pairs(step)
        known = {name: batch[name] for name in ("offset", "scale")}
        with torch.autocast("cpu", torch.bfloat16):
            target = profound.denoise(teacher, batch["noisy"], **known)
        done.append(known | {"noisy": batch["noisy"].half(), "clean": target.half()})
        if (step + 1) % 20 == 0 or step + 1 == count:
            write_atomically(path, lambda temporary: torch.save(done, temporary))
            print(f"{step + 1} of {count} batches are taught", flush=True)
    return done[:count]


class DistilledPhotographs:
    """Batches of pairs, a function of seed and step: photographs with new noise, then crops of what was taught.

    Args:
        fresh: pairs whose targets are photographs. lessons: batches of taught(), of larger squares.
        seed: decides every draw.
    """

    def __init__(self, fresh: NoisyPhotographs, *, lessons: list[Batch], seed: int = 0):
        self.fresh, self.lessons, self.seed = fresh, lessons, seed

    def __call__(self, step: int) -> Batch:
        """As NoisyPhotographs, of twice as many pairs."""
        random, fresh = generator(self.seed, "distilled", step), self.fresh(step)
        crops = [self._crop(random) for _ in range(len(fresh["noisy"]))]
        return {
            name: torch.cat([fresh[name], *(crop.get(name, fresh["weight"][:1]) for crop in crops)]) for name in fresh
        }

    def _crop(self, random: torch.Generator) -> dict[str, Tensor]:
        def drawn(most: int) -> int:
            return int(torch.randint(most, (), generator=random))

        lesson, side = self.lessons[drawn(len(self.lessons))], self.fresh.patch
        one, room = drawn(len(lesson["noisy"])), SIDE - 2 * BORDER - side + 1
        place = {"top": BORDER + drawn(room), "left": BORDER + drawn(room), "side": side, "turn": drawn(8)}
        crop = {name: dihedral_crop(lesson[name][one : one + 1], **place).float() for name in ("noisy", "clean")}
        return crop | {name: lesson[name][one : one + 1] for name in ("offset", "scale")}
