"""What a prompt segmentation network learns from: images asked with several prompts, some with an empty truth."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from mptpn.filters import turned
from mptpn.networks.segmentation import GLANCE
from mptpn.random import generator
from mptpn.segmentation.words import Words, turn_words

SIDE = 128  # px of a training crop
ALL_TURNS = tuple(range(8))
ABSENT = 0.15  # share of the prompts that ask an image for what it does not have


@dataclass(frozen=True)
class Example:
    """An image, and the truth for each prompt that was answered by a person.

    Attributes:
        image: [1, 3, H, W], normalised (see `mptpn.segmentation.normalised`), float16 or float32.
        masks: prompt, as words, to mask [1, 1, H, W], bool; any other prompt has an empty truth.
        group: examples of one group are drawn as often as its weight says.
        scales: smallest and largest factor by which the image is resized before it is cut.
        unknown: prompts whose truth is not known; they are not asked.
        name: of the image.
        turns: orientations that such an image may come in (see `mptpn.filters.turned`): 0 as it is, 4 mirrored; sound
            comes from above, so an ultrasound image is never upside down.
    """

    image: Tensor
    masks: dict[Words, Tensor]
    group: str = ""
    scales: tuple[float, float] = (0.7, 1.4)
    unknown: frozenset[Words] = field(default_factory=frozenset)
    name: str = ""
    turns: tuple[int, ...] = ALL_TURNS

    def has(self, prompt: Words) -> bool:
        """Whether the image has what the prompt asks for."""
        return prompt in self.masks and bool(self.masks[prompt].any())


class Crops:
    """Batches of crops as a function of the step; prompts are turned with the image.

    Where a prompt without a truth is drawn, it is one that a person answered with an empty mask, if there is any: a
    healthy breast is asked for a lesion, not for vessels.

    Args:
        examples: what is learned from.
        prompts: every known prompt, as words.
        vocabulary: words of the network's own encoder.
        weights: of the groups, how often each is drawn; by default all alike.
        batch, side: crops of a step, and their side, px.
        absent: share of prompts without a truth in the image. seed: decides everything that is drawn.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        prompts: Sequence[Words],
        weights: dict[str, float] | None = None,
        batch: int = 8,
        side: int = SIDE,
        absent: float = ABSENT,
        seed: int = 0,
    ):
        if not examples or not prompts:
            raise ValueError(f"{len(examples)} examples and {len(prompts)} prompts: there is nothing to learn from.")
        self.prompts, self.batch, self.side, self.absent, self.seed = list(prompts), batch, side, absent, seed
        groups = sorted({example.group for example in examples})
        self.groups = [[example for example in examples if example.group == name] for name in groups]
        self.shares = torch.tensor([(weights or {}).get(name, 1.0) for name in groups])
        self.reduced = {id(e): F.adaptive_avg_pool2d(e.image.float(), GLANCE + 32) for e in examples}

    def __call__(self, step: int) -> dict[str, Tensor]:
        """One batch, see PromptLoss.forward."""
        draw = generator(self.seed, "segmentation crops", step)
        rows = [self._draw(draw) for _ in range(self.batch)]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _draw(self, draw: torch.Generator) -> dict[str, Tensor]:
        group = self.groups[int(torch.multinomial(self.shares, 1, generator=draw))]
        example = group[_below(draw, len(group))]
        turn = example.turns[_below(draw, len(example.turns))]
        prompt = self._prompt(example, draw)
        mask = example.masks.get(prompt)
        mask = torch.zeros(1, 1, *example.image.shape[2:]) if mask is None else mask.float()
        image, mask = self._crop(example, mask, draw)
        look = self.reduced[id(example)]
        top, left = _below(draw, 33), _below(draw, 33)
        look = look[:, :, top : top + GLANCE, left : left + GLANCE]
        image, look = _recoloured(turned(image, turn), turned(look, turn), draw)
        present = [self._present(example, other) for other in self.prompts]
        asked = turn_words(prompt, turn)
        asked = self.prompts.index(asked if asked in self.prompts else prompt)
        return {
            "image": image[0],
            "reduced": look[0],
            "asked": torch.tensor(asked),
            "mask": turned(mask, turn)[0],
            "present": torch.tensor(present),
        }

    def _prompt(self, example: Example, draw: torch.Generator) -> Words:
        here = [prompt for prompt in example.masks if example.has(prompt)]
        empty = [prompt for prompt in example.masks if prompt not in here]
        others = empty or [p for p in self.prompts if p not in here and p not in example.unknown]
        absent = others and (not here or float(torch.rand((), generator=draw)) < self.absent)
        choice = others if absent else here
        return choice[_below(draw, len(choice))]

    @staticmethod
    def _present(example: Example, prompt: Words) -> float:
        return -1.0 if prompt in example.unknown else float(example.has(prompt))

    def _crop(self, example: Example, mask: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """A square of `side` px, resized by a factor of the example's scales; reflected where the image is small."""
        low, high = example.scales
        scale = low * (high / low) ** float(torch.rand((), generator=draw))
        height, width = example.image.shape[2:]
        part = min(round(self.side / scale), height), min(round(self.side / scale), width)
        top, left = _below(draw, height - part[0] + 1), _below(draw, width - part[1] + 1)
        place = slice(top, top + part[0]), slice(left, left + part[1])
        size = [min(self.side, max(1, round(n * scale))) for n in part]
        image = F.interpolate(example.image[..., *place].float(), size=size, mode="bilinear", antialias=scale < 1)
        mask = F.interpolate(mask[..., *place], size=size, mode="bilinear", antialias=scale < 1).round()
        missing = self.side - size[0], self.side - size[1]
        if max(missing):
            before = _below(draw, missing[0] + 1), _below(draw, missing[1] + 1)
            pad = before[1], missing[1] - before[1], before[0], missing[0] - before[0]
            image, mask = F.pad(image, pad, mode="replicate"), F.pad(mask, pad)
        return image, mask


def _below(draw: torch.Generator, count: int) -> int:
    return int(torch.randint(count, (1,), generator=draw))


def _recoloured(image: Tensor, look: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Another stain, exposure and contrast for an image and its reduced self, and some noise."""
    gray = bool((image[:, :1] - image[:, 1:2]).abs().max() < 1e-3)
    shift, tone, level, tint, noisy = (float(torch.rand((), generator=draw)) for _ in range(5))
    gain = 0.85 + 0.3 * torch.rand((1, 3, 1, 1), generator=draw)
    if gray:
        gain = torch.full_like(gain, float(gain[0, 0, 0, 0]))
        if tint < 0.15:
            gain = gain * torch.rand((1, 3, 1, 1), generator=draw)
    power = 2 ** (0.6 * tone - 0.3)
    image, look = ((x.clamp(0, 1.2) ** power) * gain + 0.1 * (shift - 0.5) for x in (image, look))
    if noisy < 0.3:
        image = image + 0.12 * level * torch.randn(image.shape, generator=draw)
    return image, look
