"""Stage 2, pair synthesis: clean natural photographs take on the noise, the intensities and the sharpness learned from the noisy medical set."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mptpn.images import turned_square
from mptpn.noise import PoissonGaussian, generator
from mptpn.training import Batch

BLURS = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.3, 1.6, 2.0)  # px, widths tried to bring a photograph to a medical image's sharpness
JITTER = 0.1  # each pair's level is the learned one times u, u ~ U(0.9, 1.1)
WEIGHT_A, SHARE_A = 0.1, 1 / 8  # weight and share of pairs A in a batch (Wu et al. 2020, public code)


@dataclass(frozen=True)
class Look:
    """What stage 2 takes from one noisy image.

    Attributes:
        law: its noise law, estimated by stage 1.
        mean, deviation: of the clean intensities, the noise's variance taken off.
        sharpness: see sharpness(); None where the noise drowns it, and the pair then takes that of another image of the set.
    """

    law: PoissonGaussian
    mean: float
    deviation: float
    sharpness: float | None


def look_of(noisy: Tensor, *, law: PoissonGaussian) -> Look:
    """Learn a look from one noisy image [1, 1, H, W] and its noise law; no clean image is needed."""
    noise = float(law.variance(noisy).mean())
    variance = max(float(noisy.var()) - noise, 1e-3 * noise)
    return Look(law=law, mean=float(noisy.mean()), deviation=math.sqrt(variance), sharpness=sharpness(noisy, noise_variance=noise))


def sharpness(image: Tensor, *, noise_variance: float = 0.0) -> float | None:
    """How fast content changes over one pixel, as a share of how fast it changes over four: d(1) / d(4), 1/16 for a smooth edge, 1 for white content.

    d(k) = E (x[p] - x[p+k])^2 / 2 less the white noise's variance, over rows and columns: a property of the spectrum that contrast and
    large structures leave alone.

    Returns:
        the ratio, or None where d(1) is under a fifth of the noise's variance, which is itself known to a few percent only.
    """

    def step(lag: int) -> float:
        down, across = image[..., lag:, :] - image[..., :-lag, :], image[..., lag:] - image[..., :-lag]
        return float((down.square().mean() + across.square().mean()) / 4) - noise_variance

    fine, coarse = step(1), step(4)
    return min(1.0, max(1 / 16, fine / coarse)) if fine > 0.2 * noise_variance and coarse > 0 else None


def gaussian_blur(image: Tensor, *, sigma: float) -> Tensor:
    """Gaussian blur of [B, C, H, W] with reflected borders; sigma in px, 0 leaves the image."""
    if sigma == 0:
        return image
    radius = min(math.ceil(3 * sigma), min(image.shape[2:]) - 1)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=image.dtype) / sigma) ** 2)
    taps = (taps / taps.sum()).expand(image.shape[1], 1, -1)
    padded = F.pad(image, (radius,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, taps[..., None], groups=image.shape[1]), taps[:, :, None], groups=image.shape[1])


class PairSynthesis:
    """Draws batches of pairs A and B; a function of seed and step alone.

    Args:
        photos: clean natural photographs, each [1, 1, H, W], H, W >= patch.
        looks: one for each noisy medical image; a pair takes law, range and sharpness of one of them.
        pairs_a: (noisy medical image, its stage-1 result), each [1, 1, H, W]; empty: pairs B alone.
        batch, patch: pairs a batch and their side, px.
        match_content: bring a photograph to the look's intensity range and sharpness (False: noise alone, for the ablation).
        seed: decides every draw.
    """

    def __init__(
        self,
        photos: list[Tensor],
        looks: list[Look],
        *,
        pairs_a: list[tuple[Tensor, Tensor]] = (),
        batch: int = 16,
        patch: int = 64,
        match_content: bool = True,
        seed: int = 0,
    ):
        if not photos or not looks:
            raise ValueError(f"{len(photos)} photographs and {len(looks)} looks make no pairs; give at least one of each.")
        self.photos, self.looks, self.pairs_a, self.seed = photos, looks, list(pairs_a), seed
        self.batch, self.patch, self.match_content = batch, patch, match_content
        self.blurred = [[gaussian_blur(photo, sigma=width) for width in BLURS] for photo in photos] if match_content else []
        self.sharpnesses = [[sharpness(version) for version in versions] for versions in self.blurred]
        self.known = [look.sharpness for look in looks if look.sharpness is not None] or [1.0]

    def __call__(self, step: int) -> Batch:
        """noisy, clean [batch, 1, patch, patch]; sigma (level at the patch's mean), weight [batch, 1, 1, 1]; pairs A first."""
        draw = generator(self.seed, 301, step)
        count_a = int(self.batch * SHARE_A + float(torch.rand((), generator=draw))) if self.pairs_a else 0  # the share holds on average, also in small batches
        rows = [self._pair_a(draw) if i < count_a else self._pair_b(draw) for i in range(self.batch)]
        noisy, clean, sigma, weight = zip(*rows, strict=True)
        column = {"sigma": torch.tensor(sigma).view(-1, 1, 1, 1), "weight": torch.tensor(weight).view(-1, 1, 1, 1)}
        return {"noisy": torch.cat(noisy), "clean": torch.cat(clean)} | column

    def _pair_a(self, draw: torch.Generator) -> tuple[Tensor, Tensor, float, float]:
        which = int(torch.randint(len(self.pairs_a), (), generator=draw))
        noisy, clean = _crop(torch.cat(self.pairs_a[which]), self.patch, draw).split(1)
        return noisy, clean, _level(self.looks[which].law, clean), WEIGHT_A

    def _pair_b(self, draw: torch.Generator) -> tuple[Tensor, Tensor, float, float]:
        photo = int(torch.randint(len(self.photos), (), generator=draw))
        look = self.looks[int(torch.randint(len(self.looks), (), generator=draw))]
        if self.match_content:
            goal = look.sharpness or self.known[int(torch.randint(len(self.known), (), generator=draw))]
            width = min(range(len(BLURS)), key=lambda i: abs(self.sharpnesses[photo][i] - goal))
            whole = self.blurred[photo][width]
            clean = _crop(whole, self.patch, draw)
            clean = (clean - whole.mean()) * (look.deviation / whole.std()) + look.mean
        else:
            clean = _crop(self.photos[photo], self.patch, draw)
        u = 1 + JITTER * (2 * float(torch.rand((), generator=draw)) - 1)
        law = PoissonGaussian(sigma=look.law.sigma * u, gain=look.law.gain * u**2)
        return law.sample(clean, generator=draw), clean, _level(law, clean), 1.0


def _level(law: PoissonGaussian, clean: Tensor) -> float:
    return math.sqrt(float(law.variance(clean).mean()))


def _crop(images: Tensor, patch: int, draw: torch.Generator) -> Tensor:
    """The same random square of every image of [B, C, H, W], in random orientation of the square, [B, C, patch, patch]."""
    top, left = (int(torch.randint(side - patch + 1, (), generator=draw)) for side in images.shape[2:])
    turn = int(torch.randint(8, (), generator=draw))
    return turned_square(images, top=top, left=left, side=patch, turn=turn)


def radial_spectrum(patches: Tensor, *, noise_variance: Tensor | float = 0.0) -> tuple[list[float], list[float]]:
    """Mean power spectrum of square patches over rings of frequency, white noise taken off, as shares of the whole content's variance.

    Args:
        patches: [N, 1, P, P]; each is centred and tapered by a Hann window.
        noise_variance: white noise in each patch, [N] or a number, intensity squared.
    Returns:
        frequencies (cycles / px, up to 0.5) and powers, one for each ring; a ring can be negative where noise is nearly all there is.
    """
    side = patches.shape[-1]
    window = torch.hann_window(side, periodic=False, dtype=torch.float64)
    window = window[:, None] * window
    window = window / window.square().mean().sqrt()
    centred = patches.double() - patches.double().mean(dim=(2, 3), keepdim=True)
    power = torch.fft.fft2(centred * window).abs().square().mean(dim=1) / side**2  # [N, P, P]; white noise of variance v has power v
    power = (power - torch.as_tensor(noise_variance, dtype=torch.float64).reshape(-1, 1, 1)).mean(dim=0)
    along = torch.fft.fftfreq(side, dtype=torch.float64)
    ring = ((along[:, None] ** 2 + along**2).sqrt() * side).round().long()
    rings = range(1, side // 2 + 1)
    values = [float(power[ring == r].mean() / power.mean()) for r in rings]
    return [r / side for r in rings], values
