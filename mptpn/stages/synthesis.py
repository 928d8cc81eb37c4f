"""Stage 2, pair synthesis: clean photographs take on noise, intensities and sharpness of the noisy medical images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from mptpn.filters import dihedral_crop, gaussian_blur, has_noise, mean_intensity, robust_level
from mptpn.noise import NoiseModel
from mptpn.random import generator
from mptpn.training import Batch

BLURS = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.3, 1.6, 2.0, 2.5, 3.2)  # px, widths tried to match a sharpness
STEPS = (1, 2, 4, 8)  # px, lags of the structure function
VARIANCE_ERROR = 0.04  # relative error of a noise variance
SMOOTH, QUANTILES = 2.0, 33  # px, width of the blur that leaves intensities without noise; number of their quantiles
LEVELS = (2 / 3, 3 / 2)  # factors of the learned level, log-uniform: it varies over an image (Wu et al. 2020: 0.9, 1.1)
WEIGHT_A, SHARE_A = 0.1, 1 / 8  # weight and share of pairs A in a batch (Wu et al. 2020, public code)
SHARE_OWN = 0.5  # share of the set's own content in pairs B

Pair = tuple[Tensor, Tensor, float, float, float, float]  # noisy, clean, sigma, weight, offset, scale


@dataclass(frozen=True)
class TargetStatistics:
    """What stage 2 takes from one noisy image.

    Attributes:
        noise_model: estimated by stage 1.
        mean, deviation: of the clean intensities, the noise's variance taken off.
        robust: robust_level of the noisy image, the unit in which stage 3 sees it.
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
    """Statistics of one noisy image [1, 1, H, W], H, W > 8, by its noise model; no clean image is needed."""
    valid = has_noise(noisy)
    known = noisy[valid]
    share = float(noise_model.variance(known).mean())
    deviation = math.sqrt(max(float(known.var()) - share, 1e-3 * share))
    noise = noise_steps(share, correlation=noise_model.correlation)
    steps = tuple(both - part for both, part in zip(structure(noisy, valid), noise, strict=True))
    quantiles = _quantiles(gaussian_blur(noisy.where(valid, known.mean()), sigma=SMOOTH)[valid])
    mean, robust = float(mean_intensity(noisy)), float(robust_level(noisy))
    return TargetStatistics(noise_model, mean, deviation, robust, steps, noise, tuple(quantiles.tolist()))


def _quantiles(pixels: Tensor) -> Tensor:
    return pixels.flatten().quantile(torch.linspace(0, 1, QUANTILES))


def structure(image: Tensor, valid: Tensor | None = None) -> tuple[float, ...]:
    """Structure function d(k) = E (x[p] - x[p+k])^2 / 2 over rows and columns at the lags STEPS, intensity squared.

    Args:
        image: [1, 1, H, W], H, W > 8.
        valid: the pixels to take, bool, same shape; None: all.
    """
    valid = torch.ones_like(image, dtype=torch.bool) if valid is None else valid

    def step(lag: int, dim: int) -> Tensor:
        count = image.shape[dim] - lag
        known = valid.narrow(dim, lag, count) & valid.narrow(dim, 0, count)
        return (image.narrow(dim, lag, count) - image.narrow(dim, 0, count))[known].square().mean()

    return tuple(float(step(lag, 2) + step(lag, 3)) / 4 for lag in STEPS)


def noise_steps(variance: float, *, correlation: Sequence[Sequence[float]] = ((1.0,),)) -> tuple[float, ...]:
    """Structure function at the lags STEPS of noise of this variance and correlation at lags -r..r; 0 beyond."""
    radius = len(correlation) // 2

    def mean(k: int) -> float:
        return (correlation[radius + k][radius] + correlation[radius][radius + k]) / 2 if k <= radius else 0.0

    return tuple(variance * (1 - mean(k)) for k in STEPS)


def sharpness(steps: tuple[float, ...]) -> float:
    """Change over one pixel as a share of that over four, d(1) / d(4): 1/16 for a smooth edge, 1 for white content."""
    return min(1.0, max(1 / 16, steps[0] / steps[2])) if steps[2] > 0 else 1.0


def best_blur(target: TargetStatistics, steps: Tensor) -> int:
    """Index of the structure function that has the shape of the target's; its amplitude does not count.

    Least squares of target + error * noise = amplitude * candidate, the error being 0 +- VARIANCE_ERROR. White noise
    does not change the difference of d at two lags: content far below the noise still has a shape.

    Args:
        steps: structure functions of one photograph at several blurs, [N, lags].
    """
    found, noise = (torch.tensor(values, dtype=torch.float64) for values in (target.steps, target.noise))
    spread = 0.1 * found.abs() + 0.002 * noise
    shapes = torch.cat([steps.double() / spread, spread.new_zeros(len(steps), 1)], 1)
    errors = torch.cat([-noise / spread, spread.new_ones(1) / VARIANCE_ERROR])
    rows = torch.stack([shapes, errors.expand_as(shapes)], 2)
    wanted = torch.cat([found / spread, spread.new_zeros(1)])[:, None].expand(len(steps), -1, -1)
    amplitude = torch.linalg.lstsq(rows, wanted).solution
    misfit = (rows @ amplitude - wanted).square().sum((1, 2))
    return int((misfit + 1e6 * (amplitude[:, 0, 0] <= 0)).argmin())


@dataclass(eq=False, repr=False)
class PairSynthesis:
    """Draws batches of pairs A and B; a function of seed and step alone.

    Photographs never have quite the content of the set. A first denoiser's results on the noisy images are clean
    content too, with noise drawn anew (iterative data refinement, Zhang et al. 2022); what these lack of the truth the
    photographs have.

    Args:
        photos: clean natural photographs, each [1, 1, H, W], H, W >= patch.
        targets: statistics of each noisy image; a pair takes noise model, range and sharpness of one of them.
        pairs_a: (noisy image, its stage-1 result), each [1, 1, H, W], in the order of the targets; empty: pairs B only.
        own: a first denoiser's results on the noisy images, or on parts of them, [1, 1, H, W] each, H, W >= patch, in
            the order of the targets: the content of half of the pairs B; empty: photographs alone.
        levels: lowest and highest level of pairs B, relative to the target's noise model.
        share_a, weight_a: share of pairs A in a batch, and their weight in the loss.
        batch, patch: pairs a batch and their side, px.
        match_content: match a photograph's intensities and sharpness to the target's (False: noise alone, an ablation).
        seed: decides every draw.
    """

    photos: list[Tensor]
    targets: list[TargetStatistics]
    _: KW_ONLY
    pairs_a: Sequence[tuple[Tensor, Tensor]] = ()
    own: Sequence[Tensor] = ()
    levels: tuple[float, float] = LEVELS
    share_a: float = SHARE_A
    weight_a: float = WEIGHT_A
    batch: int = 16
    patch: int = 64
    match_content: bool = True
    seed: int = 0

    def __post_init__(self):
        counts = f"{len(self.photos)} photographs and {len(self.targets)} target statistics"
        if self.own and len(self.own) != len(self.targets):
            raise ValueError(f"{len(self.own)} own contents, {counts}; give one for each target, or none.")
        if not self.photos or not self.targets:
            raise ValueError(f"{counts} make no pairs; give at least one of each.")
        matched = self.photos if self.match_content else ()
        self.widths = [[best_blur(target, _measured(photo)[0]) for target in self.targets] for photo in matched]
        self._blurred: dict[tuple[int, int], Tensor] = {}

    def __call__(self, step: int) -> Batch:
        """A batch, pairs A first.

        Returns:
            noisy, clean [batch, 1, patch, patch]; sigma (level at the patch's mean), weight, offset and scale (mean
            and robust level of the whole image that the patch stands for) [batch, 1, 1, 1].
        """
        draw = generator(self.seed, "pairs", step)
        # the share holds on average
        count_a = int(self.batch * self.share_a + float(torch.rand((), generator=draw))) if self.pairs_a else 0
        count_own = int((self.batch - count_a) * SHARE_OWN) if self.own else 0
        kinds: list[Callable[[torch.Generator], Pair]] = [self._pair_a] * count_a + [self._pair_own] * count_own
        kinds += [self._pair_b] * (self.batch - len(kinds))
        noisy, clean, *numbers = zip(*(kind(draw) for kind in kinds), strict=True)
        columns = (torch.tensor(column).view(-1, 1, 1, 1) for column in numbers)
        named = dict(zip(("sigma", "weight", "offset", "scale"), columns, strict=True))
        return {"noisy": torch.cat(noisy), "clean": torch.cat(clean)} | named

    def _pair_a(self, draw: torch.Generator) -> Pair:
        which = _one_of(self.pairs_a, draw)
        target = self.targets[which]
        turned = not target.noise_model.correlated
        noisy, clean = _crop(torch.cat(self.pairs_a[which]), self.patch, draw, transposed=turned).split(1)
        return noisy, clean, _level(target.noise_model, clean), self.weight_a, target.mean, target.robust

    def _pair_own(self, draw: torch.Generator) -> Pair:
        which = _one_of(self.own, draw)
        target, noise_model = self.targets[which], self._noise_model(which, draw)
        clean = _crop(self.own[which], self.patch, draw, transposed=not noise_model.correlated)
        return self._pair_of(clean, target, noise_model, draw)

    def _pair_b(self, draw: torch.Generator) -> Pair:
        photo, which = (_one_of(pool, draw) for pool in (self.photos, self.targets))
        target, noise_model = self.targets[which], self._noise_model(which, draw)
        if self.match_content:
            clean = self._intensities(_crop(self._sharpened(photo, which), self.patch, draw), photo, which)
            return self._pair_of(clean, target, noise_model, draw)
        clean = _crop(self.photos[photo], self.patch, draw)
        noisy = noise_model.sample(clean, generator=draw)
        return noisy, clean, _level(noise_model, clean), 1.0, float(noisy.mean()), float(robust_level(noisy))

    def _pair_of(self, clean: Tensor, target: TargetStatistics, noise_model: NoiseModel, draw: torch.Generator) -> Pair:
        noisy = noise_model.sample(clean, generator=draw)
        return noisy, clean, _level(noise_model, clean), 1.0, target.mean, target.robust

    def _noise_model(self, which: int, draw: torch.Generator) -> NoiseModel:
        low, high = self.levels
        return self.targets[which].noise_model.scaled(low * (high / low) ** float(torch.rand((), generator=draw)))

    def match_statistics(self, photo: int, which: int) -> Tensor:
        """A whole photograph, [1, 1, H, W], with sharpness and intensities of one target; where match_content."""
        return self._intensities(self._sharpened(photo, which), photo, which)

    def _sharpened(self, photo: int, which: int) -> Tensor:
        key = photo, self.widths[photo][which]
        if key not in self._blurred:
            self._blurred[key] = gaussian_blur(self.photos[photo], sigma=BLURS[key[1]])
        return self._blurred[key]

    def _intensities(self, pixels: Tensor, photo: int, which: int) -> Tensor:
        known = _measured(self.photos[photo])[1][self.widths[photo][which]]
        return _mapped(pixels, known, self.targets[which].quantiles)


@lru_cache(maxsize=1024)  # a tensor is the key itself: several trainings draw from the same photographs
def _measured(photo: Tensor) -> tuple[Tensor, list[np.ndarray]]:
    """Structure function and quantiles of a photograph blurred by each of BLURS.

    The quantiles are of the smoothed photograph, as the target's are: others would take contrast off fine detail.
    """
    versions = [gaussian_blur(photo, sigma=width) for width in BLURS]
    steps = torch.tensor([structure(version) for version in versions])
    return steps, [_quantiles(gaussian_blur(version, sigma=SMOOTH)).double().numpy() for version in versions]


def _mapped(pixels: Tensor, known: np.ndarray, wanted: Sequence[float]) -> Tensor:
    """Intensities from one row of quantiles to another; beyond its ends with the slope of the eighth before them, so
    that detail is not cut off.
    """
    wanted, eighth, values = np.asarray(wanted), QUANTILES // 8, pixels.numpy()

    def beyond(end: int, inner: int) -> np.ndarray:
        run = known[inner] - known[end]
        return (values - known[end]) * ((wanted[inner] - wanted[end]) / run if run != 0 else 0.0)

    below, above = beyond(0, eighth).clip(max=0), beyond(-1, -1 - eighth).clip(min=0)
    return torch.from_numpy(np.interp(values, known, wanted) + below + above).to(pixels)


def _level(noise_model: NoiseModel, clean: Tensor) -> float:
    return math.sqrt(float(noise_model.variance(clean).mean()))


def _one_of(pool: Sequence, draw: torch.Generator) -> int:
    return int(torch.randint(len(pool), (), generator=draw))


def _crop(images: Tensor, patch: int, draw: torch.Generator, *, transposed: bool = True) -> Tensor:
    """The same random square of every image of [B, C, H, W], in random orientation, [B, C, patch, patch].

    Args:
        transposed: whether rows may become columns; not where noise has a direction, for then images have one too.
    """
    top, left = (int(torch.randint(side - patch + 1, (), generator=draw)) for side in images.shape[2:])
    turn = int(torch.randint(8, (), generator=draw))
    return dihedral_crop(images, top=top, left=left, side=patch, turn=turn if transposed else turn // 2 * 2)
