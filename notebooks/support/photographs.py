"""Clean-noisy pairs of photographs with noise of every level: what the pretrained denoisers learn from."""

import torch
from torch import Tensor

from mptpn.filters import robust_level
from mptpn.noise import PoissonGaussian
from mptpn.random import generator
from mptpn.training import Batch

LEVELS = (2.5 / 255, 62.5 / 255)  # smallest and largest standard deviation, photographs span 0..1
KNOTS = 9  # levels at which the robust level of every photograph is tabulated


def white_copies(images: list[Tensor], *, level: float, seed: int, purpose: int | str) -> list[Tensor]:
    """One copy of each image with white Gaussian noise of one level, never clipped; seed and purpose decide it."""
    noise_model = PoissonGaussian(level)
    return [noise_model.sample(image, generator=generator(seed, purpose, i)) for i, image in enumerate(images)]


class NoisyPhotographs:
    """Batches of pairs, a function of seed and step: random crops and orientations, an evenly drawn level, new noise.

    Args:
        photographs: clean, each [1, C, H, W], 0..1 in steps of 1/255, H, W >= patch; kept as bytes on the device.
        levels: smallest and largest standard deviation of the noise at a crop's mean intensity.
        poisson_share: share of the pairs with Poisson-Gaussian noise, a random part of its variance in proportion to
            intensity; the others' noise is white.
        batch, patch: pairs a step and their side, px.
        device: where everything is drawn; a GPU draws other numbers than a CPU.
        seed: decides every draw.
    """

    def __init__(
        self,
        photographs: list[Tensor],
        *,
        levels: tuple[float, float] = LEVELS,
        poisson_share: float = 0.2,
        batch: int = 16,
        patch: int = 64,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ):
        small = [tuple(image.shape) for image in photographs if min(image.shape[2:]) < patch]
        if small or not photographs:
            why = f"photographs {small} are smaller than patch {patch}, or there are none"
            raise ValueError(f"{why}; give larger ones or a smaller patch.")
        if not 0 < levels[0] <= levels[1] or not 0 <= poisson_share <= 1:
            raise ValueError(f"levels {levels} must rise from above 0, and poisson_share {poisson_share} be 0 to 1.")
        self.poisson_share, self.batch, self.patch = poisson_share, batch, patch
        self.device, self.seed = torch.device(device), seed
        self.channels = photographs[0].shape[1]
        sizes = torch.tensor([image.shape[2:] for image in photographs], device=self.device)
        self.sizes, self.starts = sizes, torch.cat([sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]])
        # [pixels of all photographs, C]
        self.pixels = torch.cat([(image[0] * 255).round().byte().flatten(1).T for image in photographs]).to(self.device)
        self.means = torch.stack([image.mean() for image in photographs]).to(self.device)
        self.knots = torch.linspace(*levels, KNOTS, device=self.device)
        scales = [self._scales(image.to(self.device), number) for number, image in enumerate(photographs)]
        self.scales = torch.stack(scales)  # [photographs, KNOTS]

    def _generator(self, *keys: int | str) -> torch.Generator:
        start = int(torch.randint(2**31, (), generator=generator(self.seed, *keys)))
        return torch.Generator(self.device).manual_seed(start)

    def _scales(self, image: Tensor, number: int) -> Tensor:
        """Robust level of a whole photograph under white noise of each knot, [KNOTS], as the network gets it at use."""
        noise = torch.randn(image.shape, generator=self._generator("photograph levels", number), device=self.device)
        return torch.cat([robust_level(image + level * noise).flatten() for level in self.knots])

    def __call__(self, step: int) -> Batch:
        """noisy, clean [batch, C, patch, patch]; weight (1), offset and scale of the photograph [batch, 1, 1, 1]."""
        draw = self._generator("photograph pairs", step)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(self.batch, *shape, generator=draw, device=self.device)

        which = (uniform() * len(self.sizes)).long()
        clean = self._crops(which, uniform(2), (uniform() * 8).long())
        level = torch.lerp(*self.knots[[0, -1]], uniform())
        # one draw decides whether the noise is Poisson-Gaussian, and which part of its variance
        part = (1 - uniform() / max(self.poisson_share, 1e-9)).clamp_min(0).view(-1, 1, 1, 1)
        mean = clean.mean((1, 2, 3), keepdim=True).clamp_min(1e-3)
        variance = level.view(-1, 1, 1, 1) ** 2 * (1 - part + part * clean / mean)
        noisy = clean + variance.sqrt() * torch.randn(clean.shape, generator=draw, device=self.device)
        place = (level - self.knots[0]) / (self.knots[-1] - self.knots[0]).clamp_min(1e-12) * (KNOTS - 1)
        left = place.long().clamp_max(KNOTS - 2)
        scale = torch.lerp(self.scales[which, left], self.scales[which, left + 1], place - left)
        columns = {"weight": torch.ones_like(scale), "offset": self.means[which], "scale": scale}
        return {"noisy": noisy, "clean": clean} | {name: column.view(-1, 1, 1, 1) for name, column in columns.items()}

    def _crops(self, which: Tensor, corner: Tensor, turn: Tensor) -> Tensor:
        """Crops of the photographs `which` [B], corners as shares of the room [B, 2], orientations 0..7 [B]."""
        top, left = (corner * (self.sizes[which] - self.patch + 1)).long().unbind(1)
        steps = torch.arange(self.patch, device=self.device)
        row, col = steps[:, None].expand(self.patch, -1), steps[None, :].expand(self.patch, -1)
        bits = [(turn >> bit & 1).bool().view(-1, 1, 1) for bit in range(3)]
        row, col = torch.where(bits[0], col, row), torch.where(bits[0], row, col)
        row, col = torch.where(bits[1], self.patch - 1 - row, row), torch.where(bits[2], self.patch - 1 - col, col)
        place = (top.view(-1, 1, 1) + row) * self.sizes[which, 1].view(-1, 1, 1) + left.view(-1, 1, 1) + col
        return (self.pixels[self.starts[which].view(-1, 1, 1) + place].float() / 255).permute(0, 3, 1, 2).contiguous()
