"""Stage 2, pair synthesis: clean natural photographs take on the noise, the intensities and the sharpness learned from
the noisy medical set.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from mptpn.filters import dihedral_crop, gaussian_blur, has_noise, mean_intensity, robust_level
from mptpn.noise.models import NoiseModel
from mptpn.random import generator
from mptpn.training.loop import Batch

# px, widths tried to bring a photograph to a medical image's sharpness
BLURS = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.3, 1.6, 2.0, 2.5, 3.2)
STEPS = (1, 2, 4, 8)  # px, lags of the structure function
UNSURE = 0.04  # relative error of a noise variance
# px, width of the blur that leaves intensities without noise, and the number of their quantiles
SMOOTH, QUANTILES = 2.0, 33
# each pair's level is the learned one times u, log-uniform, for it can vary over an image, as in CT; Wu et al. 2020
# take 0.9 to 1.1
LEVELS = (2 / 3, 3 / 2)
WEIGHT_A, SHARE_A = 0.1, 1 / 8  # weight and share of pairs A in a batch (Wu et al. 2020, public code)
SHARE_OWN = 0.5  # share of the set's own content in pairs B


@dataclass(frozen=True)
class TargetStatistics:
    """What stage 2 takes from one noisy image.

    Attributes:
        noise model: its noise noise model, estimated by stage 1.
        mean, deviation: of the clean intensities, the noise's variance taken off.
        robust: robust_level of the noisy image, the unit in which stage 3 will see it.
        steps: structure function of the content at the lags STEPS, the noise's part taken off.
        noise: what was taken off, which stage 1 knows to a few percent.
        quantiles: of the content's intensities, evenly spaced from 0 to 1, read off the smoothed image.
    """

    noise_model: NoiseModel
    mean: float
    deviation: float
    robust: float
    steps: tuple[float, ...]
    noise: tuple[float, ...]
    quantiles: tuple[float, ...]


def target_statistics(noisy: Tensor, *, noise_model: NoiseModel) -> TargetStatistics:
    """Learn a look from one noisy image [1, 1, H, W], H, W > 8, and its noise noise model; no clean image is needed."""
    counts = has_noise(noisy)
    seen = noisy[counts]
    share = float(noise_model.variance(seen).mean())
    variance = max(float(seen.var()) - share, 1e-3 * share)
    noise = noise_steps(share, correlation=noise_model.correlation)
    steps = tuple(both - part for both, part in zip(structure(noisy, counts), noise, strict=True))
    filled = noisy.where(counts, seen.mean())
    smooth = gaussian_blur(filled, sigma=SMOOTH)[counts]
    quantiles = tuple(smooth.quantile(torch.linspace(0, 1, QUANTILES)).tolist())
    return TargetStatistics(
        noise_model,
        float(mean_intensity(noisy)),
        math.sqrt(variance),
        float(robust_level(noisy)),
        steps,
        noise,
        quantiles,
    )


def structure(image: Tensor, counts: Tensor | None = None) -> tuple[float, ...]:
    """Structure function d(k) = E (x[p] - x[p+k])^2 / 2 over rows and columns at the lags STEPS, intensity squared.

    Args:
        image: [1, 1, H, W], H, W > 8.
        counts: the pixels to take, bool, same shape; None: all.
    """
    counts = torch.ones_like(image, dtype=torch.bool) if counts is None else counts
    down = [
        (image[..., lag:, :] - image[..., :-lag, :])[counts[..., lag:, :] & counts[..., :-lag, :]].square().mean()
        for lag in STEPS
    ]
    across = [
        (image[..., lag:] - image[..., :-lag])[counts[..., lag:] & counts[..., :-lag]].square().mean() for lag in STEPS
    ]
    return tuple(float(a + b) / 4 for a, b in zip(down, across, strict=True))


def noise_steps(variance: float, *, correlation: tuple[tuple[float, ...], ...] = ((1.0,),)) -> tuple[float, ...]:
    """Structure function of noise of this variance and correlation (at lags -r..r of rows and columns; 0 beyond) at the
    lags STEPS.
    """
    radius = len(correlation) // 2
    return tuple(
        variance
        * (1 - ((correlation[radius + k][radius] + correlation[radius][radius + k]) / 2 if k <= radius else 0.0))
        for k in STEPS
    )


def sharpness(steps: tuple[float, ...]) -> float:
    """How fast content changes over one pixel, as a share of how fast it changes over four: d(1) / d(4), 1/16 for a
    smooth edge, 1 for white content.
    """
    return min(1.0, max(1 / 16, steps[0] / steps[2])) if steps[2] > 0 else 1.0


def best_blur(look: TargetStatistics, steps: Tensor) -> int:
    """Which of several structure functions [N, lags] has the shape of the look's, whose amplitude does not count and
    whose noise is known to 4 %.

    The difference of d at two lags knows no white noise: content far below the noise still has a shape.
    """
    found, noise = (torch.tensor(values, dtype=torch.float64) for values in (look.steps, look.noise))
    spread = 0.1 * found.abs() + 0.002 * noise
    # found + error * noise = amplitude * candidate, the error being 0 +- UNSURE
    shapes, errors = (
        torch.cat([steps.double() / spread, spread.new_zeros(len(steps), 1)], 1),
        torch.cat([-noise / spread, spread.new_ones(1) / UNSURE]),
    )
    rows, wanted = (
        torch.stack([shapes, errors.expand_as(shapes)], 2),
        torch.cat([found / spread, spread.new_zeros(1)])[:, None].expand(len(steps), -1, -1),
    )
    amplitude = torch.linalg.lstsq(rows, wanted).solution
    misfit = (rows @ amplitude - wanted).square().sum((1, 2))
    return int((misfit + 1e6 * (amplitude[:, 0, 0] <= 0)).argmin())


class PairSynthesis:
    """Draws batches of pairs A and B; a function of seed and step alone.

    Photographs never have quite the content of the set. Where a first denoiser was trained on them, its results on the
    noisy images are clean content too, with noise drawn anew (iterative data refinement, Zhang et al. 2022); what these
    lack of the truth the photographs have.

    Args:
        photos: clean natural photographs, each [1, 1, H, W], H, W >= patch.
        looks: one for each noisy medical image; a pair takes noise model, range and sharpness of one of them.
        pairs_a: (noisy medical image, its stage-1 result), each [1, 1, H, W], in the order of the looks; empty: pairs B
            alone.
        own: a first denoiser's results on the noisy images, or on parts of them, [1, 1, H, W] each, H, W >= patch, in
            the order of the looks: the content of half of the pairs B; empty: photographs alone.
        levels: lowest and highest level of pairs B, relative to the look's noise model.
        share_a, weight_a: share of pairs A in a batch, and their weight in the loss.
        batch, patch: pairs a batch and their side, px.
        match_content: bring a photograph to the look's intensity range and sharpness (False: noise alone, for the
            ablation).
        seed: decides every draw.
    """

    def __init__(
        self,
        photos: list[Tensor],
        targets: list[TargetStatistics],
        *,
        pairs_a: list[tuple[Tensor, Tensor]] = (),
        own: list[Tensor] = (),
        levels: tuple[float, float] = LEVELS,
        share_a: float = SHARE_A,
        weight_a: float = WEIGHT_A,
        batch: int = 16,
        patch: int = 64,
        match_content: bool = True,
        seed: int = 0,
    ):
        if own and len(own) != len(targets):
            raise ValueError(f"{len(own)} own contents and {len(targets)} looks; give one for each, or none.")
        if not photos or not targets:
            raise ValueError(
                f"{len(photos)} photographs and {len(targets)} looks make no pairs; give at least one of each."
            )
        self.photos, self.targets, self.pairs_a, self.levels, self.seed = photos, targets, list(pairs_a), levels, seed
        self.own = list(own)
        self.batch, self.patch, self.match_content, self.share_a, self.weight_a = (
            batch,
            patch,
            match_content,
            share_a,
            weight_a,
        )
        self.widths = (
            [[best_blur(look, _measured(photo)[0]) for look in targets] for photo in photos] if match_content else []
        )
        self._blurred: dict[tuple[int, int], Tensor] = {}

    def __call__(self, step: int) -> Batch:
        """noisy, clean [batch, 1, patch, patch]; sigma (level at the patch's mean), weight, offset and scale (mean and
        robust level of the whole image that the patch stands for) [batch, 1, 1, 1]; pairs A first.
        """
        draw = generator(self.seed, "pairs", step)
        # the share holds on average
        count_a = int(self.batch * self.share_a + float(torch.rand((), generator=draw))) if self.pairs_a else 0
        count_own = int((self.batch - count_a) * SHARE_OWN) if self.own else 0
        kinds = (
            [self._pair_a] * count_a
            + [self._pair_own] * count_own
            + [self._pair_b] * (self.batch - count_a - count_own)
        )
        rows = [kind(draw) for kind in kinds]
        noisy, clean, *numbers = zip(*rows, strict=True)
        columns = {
            name: torch.tensor(column).view(-1, 1, 1, 1)
            for name, column in zip(("sigma", "weight", "offset", "scale"), numbers, strict=True)
        }
        return {"noisy": torch.cat(noisy), "clean": torch.cat(clean)} | columns

    def _pair_a(self, draw: torch.Generator) -> tuple[Tensor, Tensor, float, float, float, float]:
        which = int(torch.randint(len(self.pairs_a), (), generator=draw))
        look = self.targets[which]
        noisy, clean = _crop(
            torch.cat(self.pairs_a[which]), self.patch, draw, transposed=not _lopsided(look.noise_model)
        ).split(1)
        return noisy, clean, _level(look.noise_model, clean), self.weight_a, look.mean, look.robust

    def matched(self, photo: int, which: int) -> Tensor:
        """A whole photograph with the sharpness and the intensities of one look, without noise, [1, 1, H, W];
        match_content only.
        """
        return self._intensities(self._sharpened(photo, which), photo, which)

    def _sharpened(self, photo: int, which: int) -> Tensor:
        key = photo, self.widths[photo][which]
        if key not in self._blurred:
            self._blurred[key] = gaussian_blur(self.photos[photo], sigma=BLURS[key[1]])
        return self._blurred[key]

    def _intensities(self, pixels: Tensor, photo: int, which: int) -> Tensor:
        return _mapped(
            pixels, _measured(self.photos[photo])[1][self.widths[photo][which]], self.targets[which].quantiles
        )

    def _pair_own(self, draw: torch.Generator) -> tuple[Tensor, Tensor, float, float, float, float]:
        which = int(torch.randint(len(self.own), (), generator=draw))
        look, noise_model = self.targets[which], self._law(which, draw)
        clean = _crop(self.own[which], self.patch, draw, transposed=not _lopsided(noise_model))
        return noise_model.sample(clean, generator=draw), clean, _level(noise_model, clean), 1.0, look.mean, look.robust

    def _law(self, which: int, draw: torch.Generator) -> NoiseModel:
        low, high = self.levels
        return self.targets[which].noise_model.scaled(low * (high / low) ** float(torch.rand((), generator=draw)))

    def _pair_b(self, draw: torch.Generator) -> tuple[Tensor, Tensor, float, float, float, float]:
        photo, which = (int(torch.randint(len(pool), (), generator=draw)) for pool in (self.photos, self.targets))
        look, noise_model = self.targets[which], self._law(which, draw)
        if not self.match_content:
            clean = _crop(self.photos[photo], self.patch, draw)
            noisy = noise_model.sample(clean, generator=draw)
            return noisy, clean, _level(noise_model, clean), 1.0, float(noisy.mean()), float(robust_level(noisy))
        clean = self._intensities(_crop(self._sharpened(photo, which), self.patch, draw), photo, which)
        return noise_model.sample(clean, generator=draw), clean, _level(noise_model, clean), 1.0, look.mean, look.robust


@lru_cache(maxsize=1024)  # a tensor is the key itself: several trainings draw from the same photographs
def _measured(photo: Tensor) -> tuple[Tensor, list[np.ndarray]]:
    """Structure function and quantiles of a photograph blurred by each of BLURS."""
    versions = [gaussian_blur(photo, sigma=width) for width in BLURS]
    return torch.tensor([structure(version) for version in versions]), [
        _smoothed_quantiles(version) for version in versions
    ]


def _smoothed_quantiles(image: Tensor) -> np.ndarray:
    """Quantiles as those of a look, which noise does not let see sharper: compared with unsmoothed ones they would take
    the contrast of fine detail away.
    """
    return gaussian_blur(image, sigma=SMOOTH).flatten().quantile(torch.linspace(0, 1, QUANTILES)).double().numpy()


def _mapped(pixels: Tensor, known: np.ndarray, wanted: Sequence[float]) -> Tensor:
    """Intensities from one row of quantiles to another, beyond its ends with the slope of the eighth before them:
    detail is not cut off.
    """
    wanted, eighth = np.asarray(wanted), QUANTILES // 8
    ends = [
        (known[0], wanted[0], known[eighth], wanted[eighth]),
        (known[-1], wanted[-1], known[-1 - eighth], wanted[-1 - eighth]),
    ]
    below, above = (
        (pixels.numpy() - at) * ((inner - value) / (inside - at) if inside != at else 0.0)
        for at, value, inside, inner in ends
    )
    return torch.from_numpy(np.interp(pixels.numpy(), known, wanted) + below.clip(max=0) + above.clip(min=0)).to(pixels)


def _lopsided(noise_model: NoiseModel) -> bool:
    """Whether rows and columns may differ: where noise has a direction, so have the images."""
    return noise_model.correlated


def _level(noise_model: NoiseModel, clean: Tensor) -> float:
    return math.sqrt(float(noise_model.variance(clean).mean()))


def _crop(images: Tensor, patch: int, draw: torch.Generator, *, transposed: bool = True) -> Tensor:
    """The same random square of every image of [B, C, H, W], in random orientation of the square, [B, C, patch, patch]."""
    top, left = (int(torch.randint(side - patch + 1, (), generator=draw)) for side in images.shape[2:])
    turn = int(torch.randint(8, (), generator=draw))
    return dihedral_crop(images, top=top, left=left, side=patch, turn=turn if transposed else turn // 2 * 2)


def radial_spectrum(patches: Tensor, *, noise_variance: Tensor | float = 0.0) -> tuple[list[float], list[float]]:
    """Mean power spectrum of square patches over rings of frequency, white noise taken off, as shares of the whole
    content's variance.

    Args:
        patches: [N, 1, P, P]; each is centred and tapered by a Hann window.
        noise_variance: white noise in each patch, [N] or a number, intensity squared.
    Returns:
        frequencies (cycles / px, up to 0.5) and powers, one for each ring; a ring can be negative where noise is nearly
        all there is.
    """
    side = patches.shape[-1]
    window = torch.hann_window(side, periodic=False, dtype=torch.float64)
    window = window[:, None] * window
    window = window / window.square().mean().sqrt()
    centred = patches.double() - patches.double().mean(dim=(2, 3), keepdim=True)
    # [N, P, P]; white noise of variance v has power v
    power = torch.fft.fft2(centred * window).abs().square().mean(dim=1) / side**2
    power = (power - torch.as_tensor(noise_variance, dtype=torch.float64).reshape(-1, 1, 1)).mean(dim=0)
    along = torch.fft.fftfreq(side, dtype=torch.float64)
    ring = ((along[:, None] ** 2 + along**2).sqrt() * side).round().long()
    rings = range(1, side // 2 + 1)
    values = [float(power[ring == r].mean() / power.mean()) for r in rings]
    return [r / side for r in rings], values
