"""The session behind both viewers: a region of an image, its noise, its results by method, what a prompt finds."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil

from mptpn import batch, tiling
from mptpn.inference import AUTO, SELF, Assessment
from mptpn.inference.denoiser import SIDE, check_strength, variance_left
from mptpn.inference.planes import NoisyPlanes, changed, check_planes
from mptpn.inference.predictor import HALO, PROBES
from mptpn.io.array import named_array
from mptpn.noise import NoiseEstimate
from mptpn.viewers.worker import Job

if TYPE_CHECKING:
    from mptpn.io import Scan
    from mptpn.segmentation import Answer, Segmenter

METHODS = (AUTO, "small", "correlated", "base", "tiny", "colour", SELF)
FILE = "weights file"  # the last item of the list of methods
MEANINGS = {
    AUTO: "auto: the network for this noise",
    "small": "small: white noise",
    "correlated": "correlated: noise that correlates",
    "base": "base: white noise, twice as slow",
    "tiny": "tiny: white noise, a quick preview",
    "colour": "colour: three channels at once",
    SELF: "self: learns from this image alone",
    FILE: "file: weights from mptpn train",
}
BYTES = 80  # a pixel and channel, of a region and all that is held of it


@dataclass(frozen=True, eq=False)
class Region:
    """A part of an image in memory, as a viewer hands it over.

    Attributes:
        array: in the image's own unit, of any shape. axes: a letter each, see mptpn.denoise.
        name: of the image, with the slice. valid: [H, W] bool, or None: all pixels.
        unit: of the pixels, or "".
    """

    array: np.ndarray
    axes: str
    name: str = "the image"
    valid: np.ndarray | None = None
    unit: str = ""

    @cached_property
    def planes(self) -> NoisyPlanes:
        """The noise of the region, measured when it is first asked for; ValueError: it is no image, with a sentence."""
        array, named, _ = named_array(self.array, axes=self.axes)
        check_planes(array, named, valid=self.valid)
        wide = array.dtype.itemsize > 2 and array.dtype != np.float32
        floats = array.astype(np.float64 if wide else np.float32)
        return NoisyPlanes(floats, named, valid=self.valid)

    @cached_property
    def work(self) -> int:
        """Pixels that networks see with their halos when all is denoised once, without uncertainty."""
        _, named, _ = named_array(self.array, axes=self.axes)
        cuts = tiling.cuts(named.sample_shape[:2], side=SIDE, multiple=128, halo=HALO)
        return named.slices * named.colours * sum(a.stop * b.stop - a.start * b.start for (a, b), _, _ in cuts)


@dataclass(frozen=True, eq=False)
class Result:
    """A region, denoised by one method; any strength is told without another run.

    Attributes:
        region, method: what was done. assessment: of the worst plane. notes: warnings, a sentence each.
        noise: estimate, of all channels together.
        change: of the full removal, float32, shape of the region. error, level: standard deviations of its error and
            of the noise, same.
        share: of the change that is applied, of each plane.
    """

    region: Region
    method: str
    assessment: Assessment
    noise: NoiseEstimate
    change: np.ndarray
    error: np.ndarray
    level: np.ndarray
    share: np.ndarray
    notes: tuple[str, ...] = ()

    def denoised(self, strength: float = 1.0) -> np.ndarray:
        """Noisy + strength * (denoised - noisy), type and shape of the region; at 0 the input, bit for bit."""
        check_strength(strength)
        return changed(self.region.array, self.change * (np.float32(strength) * self.share))

    def removed(self, strength: float = 1.0) -> np.ndarray:
        """Noisy less denoised, float32."""
        check_strength(strength)
        return -self.change * (np.float32(strength) * self.share)

    def uncertainty(self, strength: float = 1.0) -> np.ndarray:
        """Standard deviation of the error, float32; at strength 0 that of the noise."""
        check_strength(strength)
        return np.sqrt(variance_left(self.error**2, self.level**2, np.float32(strength) * self.share))


class Session:
    """One region and one job at a time; what was found stays until the region changes.

    Attributes:
        region: what is looked at, or None. results: by the name of the method. noise: estimate, or None.
        job: the last one, or None.
        minutes: budget of the training of "self".
        tell: called, from the thread of the job, whenever there is something new.
    """

    def __init__(self, *, minutes: float = 1.0, tell: Callable[[], object] = lambda: None):
        self.region: Region | None = None
        self.noise: NoiseEstimate | None = None
        self.results: dict[str, Result] = {}
        self.job: Job | None = None
        self.minutes, self.tell = minutes, tell

    def open(self, region: Region) -> None:
        """Take another region; what was found of the last one is dropped."""
        self.stop()
        self.region, self.noise, self.results = region, None, {}

    def stop(self) -> None:
        """Stop the job, if one runs; results that are there stay."""
        if self.job is not None and self.job.running:
            self.job.stop()

    def measure(self) -> Job:
        """Estimate the noise; ValueError: nothing is open, or a job runs."""
        region = self._opened()

        def work(job: Job) -> NoiseEstimate:
            with job.counting(float("inf")):
                noise = region.planes.noise
            self._keep(region, noise)
            return noise

        return self._start("measuring the noise", work)

    def denoise(self, method: str = AUTO) -> Job:
        """Denoise the region by a method, a name of METHODS or the path of a weights file.

        The outcome is a Result, and in `results`.

        Raises:
            ValueError: nothing is open, or another job runs.
        """
        region, minutes = self._opened(), self.minutes if method == SELF else 0.0

        def work(job: Job) -> Result:
            with job.counting(float("inf")):
                planes = region.planes
            self._keep(region, planes.noise)
            with job.counting(region.work * (1 + PROBES), minutes=minutes):
                result = replace(_solved(region, planes, method, minutes), notes=job.notes)
            if self.region is region:
                self.results[method] = result
            return result

        return self._start(f"denoising ({Path(method).name})", work)

    def ask(self, prompt: str, image: np.ndarray) -> Job:
        """Find what a prompt names in a picture [H, W] or [H, W, 3]; the outcome is an Answer.

        Raises:
            ValueError: another job runs, or the prompt is empty.
        """
        if not prompt.strip():
            raise ValueError('the prompt is empty; say what to find, such as "nuclei".')

        def work(job: Job) -> Answer:
            with job.counting(float("inf")):
                return self._segmenter.ask(image, prompt)

        return self._start("segmenting", work)

    def save(self, scan: Scan, method: str, *, strength: float, folder: str, overwrite: bool) -> Job:
        """Denoise a whole scan as `mptpn denoise` does and write it in its own type; the outcome is the path.

        The noise is then that of slices spread over the scan, where the session looks at one.

        Raises:
            ValueError: another job runs, or no folder is given.
        """
        if not folder.strip():
            raise ValueError("no folder is given; name one to save into.")
        given = {"strength": strength, "minutes": self.minutes, "overwrite": overwrite, "progress": False}

        def work(job: Job) -> Path:
            settings = batch.Settings(Path(folder).expanduser(), method, **given)
            with job.counting(scan.slices * math.prod(scan.sample_shape)), quiet(method):
                return batch.denoise_scan(scan, settings).result

        return self._start("saving", work)

    @cached_property
    def _segmenter(self) -> Segmenter:
        from mptpn.segmentation import Segmenter

        return Segmenter.load()

    def _opened(self) -> Region:
        if self.region is None:
            raise ValueError("no image is chosen; open one first.")
        return self.region

    def _keep(self, region: Region, noise: NoiseEstimate) -> None:
        if self.region is region:
            self.noise = noise

    def _start(self, title: str, work: Callable[[Job], object]) -> Job:
        if self.job is not None and self.job.running:
            if self.job.title != "measuring the noise" and not self.job.stopping:
                raise ValueError(f"still {self.job.title}; stop it, or wait for its end.")
            self.job.stop()
            self.job.wait()
        name = "the image" if self.region is None else self.region.name
        self.job = Job(title, work, tell=self.tell, name=name)  # before it starts, for whom it tells
        return self.job.start()


def _solved(region: Region, planes: NoisyPlanes, method: str, minutes: float) -> Result:
    with quiet(method):
        network = planes.network(method, minutes=minutes)
    shape, sides = region.array.shape, named_array(region.array, axes=region.axes)[1].sides
    change, error, level = (np.zeros(shape, np.float32) for _ in range(3))
    share = np.ones([1 if axis in sides else side for axis, side in enumerate(shape)], np.float32)
    for place, prediction, applied in planes.solve(network):
        change[place], error[place] = prediction.at(1.0)
        level[place], share[place] = prediction.noise_sigma, applied
    return Result(region, method, planes.assessment, planes.noise, change, error, level, share)


def quiet(method: str) -> contextlib.AbstractContextManager:
    """Without the progress bar of a training, which a thread would print into another cell."""
    return contextlib.redirect_stderr(io.StringIO()) if method == SELF else contextlib.nullcontext()


def check_room(pixels: int, *, name: str) -> None:
    """Refuse a region that memory does not hold.

    Args:
        pixels: of the region, times its channels.
    Raises:
        ValueError: the sentence says what it takes, and what to do.
    """
    free = psutil.virtual_memory().available // 2
    if pixels * BYTES > free:
        raise ValueError(
            f"{name}: this region has {pixels / 1e6:.0f} million pixels and takes {pixels * BYTES / 1e9:.1f} GB, "
            f"more than half of the {2 * free / 1e9:.1f} GB that are free; zoom in, or choose one slice."
        )
