"""Try one method after the other on a scan, with noise added on purpose or not: what is shown of one slice, and what is
saved of all.
"""

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mptpn import batch
from mptpn.denoised import assess_prediction, gain_said
from mptpn.filters import gaussian_blur
from mptpn.inference.predictor import Denoiser, Solved
from mptpn.inference.quality_control import Trust
from mptpn.io import Scan, Writer, open_scan
from mptpn.noise.models import NoiseModel, PoissonGaussian, Rician, Speckle
from mptpn.random import generator

STAGE_1, MODEL, WIDTHS = "stage 1, learned here", "model file", (0.7, 1.0, 2.0)
NOISES = ("none", "Gaussian", "Poisson-Gaussian", "speckle", "Rician")
KEPT = 6  # results that are held, so that going back to one costs nothing


@dataclass(frozen=True)
class Choice:
    """What is tried: slice, channel of colour, method, kind of the noise that is added, and its level, share of the
    scan's brightest intensity.
    """

    method: str
    slice: int = 0
    channel: int = 0
    noise: str = "none"
    level: float = 0.0

    def __post_init__(self):
        if self.noise == "none":
            object.__setattr__(self, "level", 0.0)  # so that equal trials are equal
        elif not 0 < self.level <= 1:
            raise ValueError(
                f"level {self.level}: give the added {self.noise} noise a share of the brightest intensity, above 0, at most 1."
            )


@dataclass(frozen=True, eq=False)
class Filtered(Denoiser):
    """A filter in the network's place, (noisy [1, 1, H, W], noise model) -> denoised; it states no uncertainty, NaN."""

    @property
    def geometry(self) -> tuple[int, int]:
        """Blocks of a large slice start anywhere, with a halo of 64 px: farther than these filters look."""
        return 1, 64

    @torch.no_grad()
    def mean(self, noisy: Tensor) -> Tensor:
        return torch.cat([self.network(one[None], noise_model=self.noise_model) for one in noisy])

    def in_tiles(
        self, function: Callable, pixels: Tensor, *, memory: int | None, progress: Callable[[float], None] | None = None
    ):
        return function(pixels)

    def _posterior(self, noisy: Tensor, random: torch.Generator | None) -> dict[str, Tensor]:
        return {"denoised": self.mean(noisy), "sigma": torch.full_like(noisy, torch.nan)}


@dataclass(frozen=True, eq=False)
class Result:
    """One slice, denoised by one method.

    Attributes:
        noisy: [H, W] in the scan's unit, with what was added. before: without. valid: [H, W] bool.
        sigma: of the noise at each pixel, [H, W], same unit.
        trust, gain, reason: see denoised.judged, of the full removal.
    """

    noisy: np.ndarray
    before: np.ndarray
    valid: np.ndarray
    sigma: np.ndarray
    denoiser: Denoiser
    solved: Solved
    trust: Trust
    gain: tuple[float, tuple[float, float]] | None
    reason: str

    def at(self, strength: float) -> tuple[np.ndarray, np.ndarray]:
        """Denoised image and standard deviation of its error at a strength, 0 (the input) to 1; instant, nothing is
        denoised again.
        """
        solved = replace(self.solved, sigma=self.solved.sigma.clone())
        return self.denoiser.blended(self.noisy, solved, strength, np.empty(self.noisy.shape)), solved.sigma[
            0, 0
        ].numpy()

    @property
    def estimate(self) -> str:
        """The noise, the gain and every check, a line each."""
        gain = gain_said(self.gain, self.reason)
        if self.noisy is not self.before:
            errors = [
                np.sqrt(np.mean((image - self.before)[self.valid] ** 2)) for image in (self.noisy, self.at(1.0)[0])
            ]
            said = f"{errors[0]:.4g} noisy, {errors[1]:.4g} denoised ({20 * np.log10(errors[0] / errors[1]):+.1f} dB)"
            gain += f"\nerror against the image before noise was added: {said}"
        return f"{self.denoiser.noise}\n{gain}\n{self.trust}"


class Session:
    """The methods that can run on a scan, and their last results.

    Attributes:
        scan: read slice by slice. samples: slices from which noise is learned.
        methods: names of what can run here.
        span: (darkest, brightest but for 0.2 % at either end) of the sampled slices, in the scan's unit.
    """

    def __init__(
        self,
        scan: Scan | str | Path | np.ndarray,
        *,
        minutes: float = 1.0,
        model: str | Path = "",
        baselines: Mapping[str, Callable[..., Tensor]] = {},
        seed: int = 0,
    ):
        """minutes: budget of stage 1's training. model: .safetensors, from mptpn train; empty: none. baselines: name ->
        filter (noisy, noise model=) -> denoised. An array, [H, W] or [N, H, W], is saved as .npy.
        """
        if isinstance(scan, np.ndarray):
            self._folder = tempfile.TemporaryDirectory()  # goes with this object
            path = Path(self._folder.name) / "array.npy"
            np.save(path, scan)
            scan = path
        self.scan = scan if isinstance(scan, Scan) else open_scan(scan)
        self.minutes, self.model, self.seed = minutes, model, seed
        self._filters = {f"Gaussian blur, {width:g} px": partial(_blur, width=width) for width in WIDTHS}
        self._filters |= baselines
        self.methods = ((MODEL,) if model else ()) + (STAGE_1, *self._filters)
        self.samples = batch.samples(self.scan)
        if not self.samples:
            raise ValueError(f"{self.scan.path}: no slice holds noise; there is nothing to explore.")
        inside = np.concatenate(
            [own[valid] for index in self.samples for own, valid in batch.channels(self.scan.read(index))]
        )
        self.span = tuple(map(float, np.quantile(inside, [0.002, 0.998])))
        self.black = min(0.0, float(inside.min()))  # intensity without signal: CT is below 0 there
        self._denoisers: dict[tuple, list[Denoiser]] = {}
        self._trials: dict[Choice, Result] = {}

    def run(self, choice: Choice) -> Result:
        """Denoise one slice and judge it; from memory where it was done before.

        Raises:
            ValueError: no such method or noise, or a slice that holds no noise.
        """
        if choice.method not in self.methods or choice.noise not in NOISES:
            raise ValueError(
                f"method {choice.method!r} with noise {choice.noise!r}: choose one of {', '.join(self.methods)}, and of {', '.join(NOISES)}."
            )
        return _recalled(self._trials, choice, self._run)

    def _run(self, choice: Choice) -> Result:
        plain = self._channels(choice.slice, replace(choice, noise="none"))
        if not plain:
            raise ValueError(f"slice {choice.slice} is constant, masked or too small; it holds no noise.")
        (before, valid), noisy = plain[choice.channel], self._channels(choice.slice, choice)[choice.channel][0]
        denoiser = self.denoisers(choice)[choice.channel]
        solved = denoiser.solve(noisy, valid, memory=None)
        noisy = before if choice.noise == "none" else noisy
        return Result(
            noisy, before, valid, denoiser.level_at(solved), denoiser, solved, *assess_prediction(denoiser, solved)
        )

    def shown(self, choice: Choice) -> tuple[np.ndarray, np.ndarray]:
        """Noisy image of the choice, [H, W], and mask, whether or not it can be denoised."""
        found = self._channels(choice.slice, choice)
        if found:
            return found[choice.channel]
        slice = self.scan.read(choice.slice)
        own = slice.pixels * slice.slope + slice.intercept
        return (own if own.ndim == 2 else own[..., choice.channel]), slice.valid

    def denoisers(self, choice: Choice) -> list[Denoiser]:
        """One for each channel, all with one network, learned or measured on the sampled slices; slice and channel of
        the choice do not matter.
        """
        return _recalled(self._denoisers, replace(choice, slice=0, channel=0), self._prepared)

    def _prepared(self, choice: Choice) -> list[Denoiser]:
        found = [self._channels(index, choice) for index in self.samples]
        apart = [[list(x) for x in zip(*channel, strict=True)] for channel in zip(*found, strict=True)]
        pixels, valid = ([image for channel in apart for image in channel[i]] for i in (0, 1))
        if choice.method == STAGE_1:
            with contextlib.redirect_stderr(io.StringIO()):  # its progress bar: a callback's would land in a log
                first = Denoiser.learn(pixels, minutes=self.minutes, valid=valid, seed=self.seed)
        elif choice.method == MODEL:
            first = Denoiser.load(self.model, pixels, valid=valid)
        else:
            first = Denoiser.around(self._filters[choice.method], pixels, valid=valid)
        each = (
            [first]
            if len(apart) == 1
            else [Denoiser.around(first.network, *channel[:1], valid=channel[1]) for channel in apart]
        )
        return [Filtered(**vars(one)) for one in each] if choice.method in self._filters else each

    def _channels(self, index: int, choice: Choice) -> list[tuple[np.ndarray, np.ndarray]]:
        """Image in the scan's unit, with the noise that is to be added, and mask, of each channel."""
        found = batch.channels(self.scan.read(index))
        if choice.noise == "none":
            return found
        noise_model = added_noise_model(
            choice.noise, sigma=choice.level * (self.span[1] - self.black), brightest=self.span[1] - self.black
        )
        noisy = []
        for channel, (own, valid) in enumerate(found):
            clean = torch.from_numpy(own - self.black)[None, None]
            drawn = (
                noise_model.sample(clean, generator=generator(self.seed, "added noise", index, channel))[0, 0].numpy()
                + self.black
            )
            noisy.append((np.where(valid, drawn, own), valid))
        return noisy

    def save(
        self,
        choice: Choice,
        *,
        strength: float,
        folder: str | Path,
        overwrite: bool = False,
        tell: Callable[[int], None] | None = None,
    ) -> Path:
        """Denoise every slice and write the scan in its own type; tell: called with the number of slices that are done.

        Raises:
            ValueError, OSError: one sentence; no half-written result is left.
        """
        if choice.noise != "none":
            raise ValueError(f"{choice.noise} noise was added to what is shown; set it to none, then save.")
        if not str(folder).strip():
            raise ValueError("no folder is given; name one to save into.")
        each, settings = self.denoisers(choice), batch.Settings(out=Path(folder).expanduser(), strength=strength)
        note = f"({choice.method}{_digest(each[0])}, strength {strength:g})"
        with Writer(self.scan, settings.out, note=note, overwrite=overwrite) as writer:
            for index in range(writer.done, self.scan.slices):
                writer.write(index, batch.denoised(self.scan.read(index), each, settings)[0])
                if tell:
                    tell(index + 1)
        return writer.target


def added_noise_model(kind: str, *, sigma: float, brightest: float) -> NoiseModel:
    """Noise whose standard deviation is sigma at the brightest intensity; Poisson-Gaussian has half of that variance
    from the signal.
    """
    if kind == "Rician":
        return Rician(sigma)
    if kind == "speckle":
        return Speckle((brightest / sigma) ** 2)
    return (
        PoissonGaussian(sigma)
        if kind == "Gaussian"
        else PoissonGaussian(sigma / 2**0.5, gain=sigma**2 / (2 * brightest))
    )


def _blur(noisy: Tensor, *, noise_model: NoiseModel, width: float) -> Tensor:
    return gaussian_blur(noisy, sigma=width)


def _digest(denoiser: Denoiser) -> str:
    """Of a network's weights: two trainings of a minute differ, and an interrupted result of the one is not gone on
    with by the other.
    """
    if isinstance(denoiser, Filtered):
        return ""
    weights = b"".join(tensor.detach().cpu().numpy().tobytes() for tensor in denoiser.network.state_dict().values())
    return f", weights {hashlib.sha256(weights).hexdigest()[:12]}"


def _recalled(known: dict, key, make: Callable):
    """known[key], made if it is not there; the oldest of more than KEPT is dropped."""
    if key not in known:
        known[key] = make(key)
        if len(known) > KEPT:
            del known[next(iter(known))]
    return known[key]
