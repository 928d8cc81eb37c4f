"""A widget to look at a scan and at what denoising does to it: linked pictures, the report, and a button that saves."""

import contextlib
import hashlib
import html
import io
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import ipywidgets
import numpy as np
import torch
from torch import Tensor

from mptpn import batch
from mptpn.filters import gaussian_blur
from mptpn.inference import Assessment, Denoiser, NoisyImages, Prediction, assess, colour, load_network, quality_figure
from mptpn.inference.predictor import ANYWHERE, Place
from mptpn.inference.quality_figure import PANELS, View
from mptpn.io import Scan, Writer, open_scan
from mptpn.noise import NoiseModel, PoissonGaussian, Rician, Speckle
from mptpn.random import generator

STAGE_1, MODEL, WIDTHS = "stage 1, trained on this scan", "model file", (0.7, 1.0, 2.0)
NOISES = ("none", "Gaussian", "Poisson-Gaussian", "speckle", "Rician")
KEPT = 6  # results that are held, so that going back to one costs nothing
FAULTS = (ValueError, OSError, RuntimeError, FloatingPointError, MemoryError)  # become a sentence in the status line
CHANGED_BY = {  # the panels that each control changes: strength leaves the noisy image as it is
    "strength": [name for name in PANELS if name != "noisy"],
    "window": ["noisy", "denoised", "profile"],
    "row": ["noisy", "denoised", "profile"],
    "region": list(PANELS),
}
Filter = Callable[..., Tensor]  # (noisy [1, 1, H, W], noise_model=) -> denoised


@dataclass(frozen=True)
class Settings:
    """What is tried: method, slice, channel of colour, and the noise that is added.

    Attributes:
        level: of the added noise, share of the scan's brightest intensity; 0 for "none".
    """

    method: str
    slice: int = 0
    channel: int = 0
    noise: str = "none"
    level: float = 0.0

    def __post_init__(self):
        if self.noise == "none":
            object.__setattr__(self, "level", 0.0)  # so that equal settings are equal
        elif not 0 < self.level <= 1:
            raise ValueError(
                f"level {self.level}: give the added {self.noise} noise a share of the brightest intensity, "
                "above 0, at most 1."
            )


@dataclass(frozen=True, eq=False)
class FilterPredictor:
    """A filter in a network's place; it states no uncertainty, NaN."""

    filter: Filter
    noise_model: NoiseModel
    alignment = 1
    halo = 64  # px: farther than these filters look
    bytes_per_pixel = 64

    @torch.no_grad()
    def mean(self, noisy: Tensor, *, place: Place = ANYWHERE) -> Tensor:
        return torch.cat([self.filter(one[None], noise_model=self.noise_model) for one in noisy])

    def expected(self, denoised: Tensor) -> Tensor:
        return denoised

    def predict(
        self, noisy: Tensor, *, place: Place = ANYWHERE, probes: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.mean(noisy), torch.full_like(noisy, torch.nan)


@dataclass(frozen=True, eq=False)
class Result:
    """One slice, denoised by one method.

    Attributes:
        noisy: [H, W] in the scan's unit, with what was added. before: without. valid: [H, W] bool.
    """

    noisy: np.ndarray
    before: np.ndarray
    valid: np.ndarray
    denoiser: Denoiser
    prediction: Prediction
    assessment: Assessment

    @property
    def sigma(self) -> np.ndarray:
        """Standard deviation of the noise at each pixel, [H, W]."""
        return self.prediction.noise_sigma

    def at(self, strength: float) -> tuple[np.ndarray, np.ndarray]:
        """Denoised image and standard deviation of its error at a strength, 0 (the input) to 1; nothing runs again."""
        return self.prediction.applied(self.noisy, strength)

    @property
    def report(self) -> str:
        """The noise, the gain and every check, a line each."""
        gain = self.assessment.message
        if self.noisy is not self.before:
            errors = [np.sqrt(np.mean((x - self.before)[self.valid] ** 2)) for x in (self.noisy, self.at(1.0)[0])]
            change = f"({20 * np.log10(errors[0] / errors[1]):+.1f} dB)"
            gain += "\nerror against the image before noise was added: "
            gain += f"{errors[0]:.4g} noisy, {errors[1]:.4g} denoised {change}"
        return f"{self.denoiser.noise}\n{gain}\n{self.assessment.quality}"


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
        baselines: Mapping[str, Filter] = {},
        seed: int = 0,
    ):
        """Open a scan; arguments as in explore. An array is saved as .npy."""
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
        sampled = [channel for index in self.samples for channel in batch.channels(self.scan.read(index))]
        inside = np.concatenate([own[valid] for own, valid in sampled])
        self.span = tuple(map(float, np.quantile(inside, [0.002, 0.998])))
        self.black = min(0.0, float(inside.min()))  # intensity without signal: CT is below 0 there
        self._denoisers: dict[Settings, list[Denoiser]] = {}
        self._results: dict[Settings, Result] = {}

    def run(self, settings: Settings) -> Result:
        """Denoise one slice and judge it; from memory where it was done before.

        Raises:
            ValueError: no such method or noise, or a slice that holds no noise.
        """
        if settings.method not in self.methods or settings.noise not in NOISES:
            known = f"{', '.join(self.methods)}, and of {', '.join(NOISES)}"
            raise ValueError(f"method {settings.method!r} with noise {settings.noise!r}: choose one of {known}.")
        return _recalled(self._results, settings, self._run)

    def _run(self, settings: Settings) -> Result:
        plain = self._channels(settings.slice, replace(settings, noise="none"))
        if not plain:
            raise ValueError(f"slice {settings.slice} is constant, masked or too small; it holds no noise.")
        before, valid = plain[settings.channel]
        seen = plain if settings.noise == "none" else self._channels(settings.slice, settings)
        noisy = seen[settings.channel][0]
        denoiser = colour.beside(self._of_slice(settings), seen)[settings.channel]
        if denoiser is None:
            raise ValueError(f"channel {settings.channel + 1} is constant in all sampled slices; it holds no noise.")
        prediction = denoiser.predict(noisy, valid)
        return Result(noisy, before, valid, denoiser, prediction, assess(denoiser, noisy, prediction, valid))

    def shown(self, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
        """Noisy image, [H, W], and mask, whether or not it can be denoised."""
        found = self._channels(settings.slice, settings)
        if found:
            return found[settings.channel]
        slice = self.scan.read(settings.slice)
        own = slice.pixels * slice.slope + slice.intercept
        return (own if own.ndim == 2 else own[..., settings.channel]), slice.valid

    def denoisers(self, settings: Settings) -> list[Denoiser | None]:
        """One for each channel that holds noise, all with one network, prepared on the sampled slices."""
        return _recalled(self._denoisers, replace(settings, slice=0, channel=0), self._prepared)

    def _of_slice(self, settings: Settings) -> list[Denoiser | None]:
        """Those of the channels of one slice."""
        denoisers = self.denoisers(settings)
        return [denoisers[law] for law in batch.laws(self.scan, settings.slice)]

    def _prepared(self, settings: Settings) -> list[Denoiser | None]:
        size, last = batch.colours(self.scan), batch.laws(self.scan, self.scan.slices - 1)
        found: list[list[batch.Channel]] = [[] for _ in range(last.stop)]
        for index in self.samples:
            for law, channel in zip(batch.laws(self.scan, index), self._channels(index, settings), strict=True):
                if not batch.is_constant(*channel):
                    found[law].append(channel)
        each = colour.of_groups(found, size=size)
        if settings.method in self._filters:
            filter = self._filters[settings.method]
            return [one and one.around(FilterPredictor(filter, one.noise.noise_model)) for one in each]
        if settings.method == MODEL:
            network = load_network(self.model)
        else:
            pixels, valid = (list(x) for x in zip(*sum(found, []), strict=True))
            joint = each[0] if len(each) == 1 else NoisyImages.of(pixels, valid=valid)
            with contextlib.redirect_stderr(io.StringIO()):  # its progress bar: a callback's would land in a log
                network = joint.fit(minutes=self.minutes, seed=self.seed)
        return colour.prepare_groups(each, network, size=size)

    def _channels(self, index: int, settings: Settings) -> list[batch.Channel]:
        """Image in the scan's unit, with the noise that is to be added, and mask, of each channel."""
        found = batch.channels(self.scan.read(index))
        if settings.noise == "none":
            return found
        bright = self.span[1] - self.black
        model = added_noise_model(settings.noise, sigma=settings.level * bright, brightest=bright)
        noisy = []
        for channel, (own, valid) in enumerate(found):
            random = generator(self.seed, "added noise", index, channel)
            drawn = model.sample(torch.from_numpy(own - self.black)[None, None], generator=random)[0, 0].numpy()
            noisy.append((np.where(valid, drawn + self.black, own), valid))
        return noisy

    def save(
        self,
        settings: Settings,
        *,
        strength: float,
        folder: str | Path,
        overwrite: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Path:
        """Denoise every slice and write the scan in its own type; progress: called with the number of slices done.

        Raises:
            ValueError, OSError: one sentence; no half-written result is left.
        """
        if settings.noise != "none":
            raise ValueError(f"{settings.noise} noise was added to what is shown; set it to none, then save.")
        if not str(folder).strip():
            raise ValueError("no folder is given; name one to save into.")
        denoisers, wanted = self.denoisers(settings), batch.Settings(out=Path(folder).expanduser(), strength=strength)
        note = f"({settings.method}{_weights_hash(next(filter(None, denoisers)))}, strength {strength:g})"
        with Writer(self.scan, wanted.out, note=note, overwrite=overwrite) as writer:
            for index in range(writer.done, self.scan.slices):
                own = [denoisers[law] for law in batch.laws(self.scan, index)]
                writer.write(index, batch.denoise_slice(self.scan.read(index), own, wanted)[0])
                if progress:
                    progress(index + 1)
        return writer.target


def added_noise_model(kind: str, *, sigma: float, brightest: float) -> NoiseModel:
    """Noise whose standard deviation is sigma at the brightest intensity, half of its variance from the signal."""
    if kind == "Rician":
        return Rician(sigma)
    if kind == "speckle":
        return Speckle((brightest / sigma) ** 2)
    half = PoissonGaussian(sigma / 2**0.5, gain=sigma**2 / (2 * brightest))
    return PoissonGaussian(sigma) if kind == "Gaussian" else half


def _blur(noisy: Tensor, *, noise_model: NoiseModel, width: float) -> Tensor:
    return gaussian_blur(noisy, sigma=width)


def _weights_hash(denoiser: Denoiser) -> str:
    """Two trainings of a minute differ: an interrupted result of one must not be continued by the other."""
    if isinstance(denoiser.predictor, FilterPredictor):
        return ""
    state = denoiser.predictor.network.state_dict().values()
    weights = b"".join(tensor.detach().cpu().numpy().tobytes() for tensor in state)
    return f", weights {hashlib.sha256(weights).hexdigest()[:12]}"


def _recalled(known: dict, key, make: Callable):
    """known[key], made if it is not there; the oldest of more than KEPT is dropped."""
    if key not in known:
        known[key] = make(key)
        if len(known) > KEPT:
            del known[next(iter(known))]
    return known[key]


def explore(
    scan: Scan | str | Path | np.ndarray,
    *,
    minutes: float = 1.0,
    model: str | Path = "",
    method: str | None = None,
    folder: str | Path = "denoised",
    baselines: Mapping[str, Filter] = {},
    seed: int = 0,
) -> "Explorer":
    """Open a scan in the explorer; without a live kernel what it shows stays as a still picture.

    Args:
        scan: from mptpn.io, or one file's path, or an array [H, W] or [N, H, W].
        minutes: budget of each training of stage 1 on the scan itself. model: .safetensors or a network of the package,
            one more method; empty: none.
        method: with which it opens; None: the model, or else stage 1.
        baselines: name -> filter (noisy, noise_model=) -> denoised: further methods.
        folder: first text of the field that says where to save.
    Raises:
        ValueError: the scan holds no noise, or there is no such method.
    """
    return Explorer(
        Session(scan, minutes=minutes, model=model, baselines=baselines, seed=seed), method=method, folder=folder
    )


class Explorer(ipywidgets.VBox):
    """The widget; its controls are attributes, so that a script can move them too.

    Attributes:
        method, strength, noise, level, slice, channel, window, centre_row, centre_col, size, row: what is tried and
        shown; row is the profile's.
        folder, overwrite, save: where and with which button to write. report, status: what is said.
        panels: name -> picture. result: what is shown, None after a failure.
    """

    def __init__(self, session: Session, *, method: str | None, folder: str | Path):
        if method is not None and method not in session.methods:
            raise ValueError(f"method {method!r}: choose one of {', '.join(session.methods)}.")
        self.session, self.result = session, None
        self._make_controls(method or session.methods[0], folder)
        # no Output widget: Matplotlib would draw into it from another thread
        self.panels = {name: ipywidgets.Image(format="png", layout={"width": "98%", "margin": "0"}) for name in PANELS}
        self.report, self.status = ipywidgets.HTML(), ipywidgets.HTML()
        super().__init__(self._laid_out())
        for control in (self.method, self.noise, self.level, self.slice, self.channel):
            control.observe(lambda _: self._try(), names="value")
        for control, changed in self._drawing_controls():
            control.observe(lambda _, changed=changed: self._draw(changed), names="value")
        self.save.on_click(lambda _: self._save())
        self._try()

    def _make_controls(self, method: str, folder: str | Path) -> None:
        session, scan = self.session, self.session.scan
        (height, width), (low, high) = scan.shape[:2], session.span
        room, names = 0.3 * (high - low) or 1.0, ("red", "green", "blue") if scan.shape[2:] == (3,) else ()
        channels = [(name, i) for i, name in enumerate(names or map(str, range(1, 1 + math.prod(scan.shape[2:]))))]
        self.method = ipywidgets.Dropdown(options=session.methods, value=method, description="method")
        self.strength = _slider(1.0, 0.0, 1.0, "strength", step=0.05)
        self.noise = ipywidgets.Dropdown(options=NOISES, description="add noise")
        self.level = _slider(10.0, 1.0, 50.0, "its level, %", step=1.0)
        self.slice = _whole(session.samples[len(session.samples) // 2], 0, scan.slices - 1, "slice")
        self.channel = ipywidgets.Dropdown(options=channels if scan.shape[2:] else [("gray", 0)], description="channel")
        ends = {"value": (low, high), "min": low - room, "max": high + room, "step": room / 100}
        digits = ".0f" if high - low > 50 else ".3g"
        self.window = ipywidgets.FloatRangeSlider(
            **ends, description="window", continuous_update=False, readout_format=digits
        )
        self.centre_row = _whole(height // 2, 0, height - 1, "region row")
        self.centre_col = _whole(width // 2, 0, width - 1, "region col")
        self.size = _whole(max(height, width), min(16, height, width), max(height, width), "region size")
        self.row = _whole(height // 2, 0, height - 1, "profile row")
        wide, narrow = {"width": "60%", "max_width": "600px"}, {"width": "100px"}
        self.folder = ipywidgets.Text(value=str(folder), description="folder", layout=wide)
        self.overwrite = ipywidgets.Checkbox(description="overwrite", indent=False, layout=narrow)
        self.save = ipywidgets.Button(description="Save", icon="save", layout=narrow)

    def _drawing_controls(self) -> list[tuple[ipywidgets.Widget, list[str]]]:
        region = [(control, CHANGED_BY["region"]) for control in (self.centre_row, self.centre_col, self.size)]
        return [(getattr(self, name), CHANGED_BY[name]) for name in ("strength", "window", "row")] + region

    def _laid_out(self) -> list[ipywidgets.Widget]:
        several = [self.slice] * (self.slice.max > 0) + [self.channel] * (len(self.channel.options) > 1)
        first = [self.method, self.strength, self.noise, self.level]
        columns = first, [*several, self.window, self.row], [self.centre_row, self.centre_col, self.size]
        for control in (control for column in columns for control in column):
            control.layout.width = "98%"
        grid = {"grid_template_columns": "repeat(3, minmax(0, 1fr))", "max_width": "1100px", "overflow": "hidden"}
        top = ipywidgets.GridBox([ipywidgets.VBox(column) for column in columns], layout=grid)
        bottom = ipywidgets.HBox([self.folder, self.overwrite, self.save])
        return [top, ipywidgets.GridBox(list(self.panels.values()), layout=grid), bottom, self.status, self.report]

    @property
    def settings(self) -> Settings:
        """What the controls ask for."""
        level = self.level.value / 100
        return Settings(self.method.value, self.slice.value, self.channel.value, self.noise.value, level)

    @property
    def view(self) -> View:
        """What the pictures show."""
        (height, width), size = self.session.scan.shape[:2], self.size.value
        region = _around(self.centre_row.value, size, height), _around(self.centre_col.value, size, width)
        shown = {"window": self.window.value, "region": region, "row": self.row.value}
        shown |= {"unit": self.session.scan.unit, "strength": self.strength.value}
        if self.result is None:
            return View(*self.session.shown(self.settings), **shown)
        shown |= dict(zip(("denoised", "uncertainty"), self.result.at(self.strength.value), strict=True))
        shown |= {"sigma": self.result.sigma, "method": self.method.value}
        return View(self.result.noisy, self.result.valid, **shown)

    def _try(self) -> None:
        """The expensive step: denoise and judge, then draw all."""
        settings, seconds = self.settings, 60 * self.session.minutes
        training = f", up to {seconds:.0f} s of training" if settings.method == STAGE_1 else ""
        self._say(f"working… ({settings.method}{training})")
        self.result = self._attempt(lambda: self.session.run(settings))
        self.report.value = _as_html(self.result.report if self.result else "")
        self._draw(PANELS, keep=self.result is None)

    def _draw(self, changed: Iterable[str], *, keep: bool = False) -> None:
        """Draw these panels again; keep: the status line stays, it says what failed."""
        view = self._attempt(lambda: self.view)
        for name in changed if view else ():
            self.panels[name].value = quality_figure.panel(name, view)
        if view and not keep:
            self._say("")

    def _save(self) -> None:
        self._say("working… (saving)")
        self.save.disabled = True
        try:
            target = self._attempt(self._write)
        finally:
            self.save.disabled = False
        if target:
            self._say(f"saved {target}" + (f"; {self.session.scan.note}" if self.session.scan.note else ""))

    def _write(self) -> Path:
        def progress(done: int) -> None:
            self._say(f"working… (saving, slice {done} of {self.session.scan.slices})")

        where = {"folder": self.folder.value, "overwrite": self.overwrite.value}
        return self.session.save(self.settings, strength=self.strength.value, **where, progress=progress)

    def _attempt(self, step: Callable):
        """The step's result, or None and its error as a sentence in the status line."""
        try:
            return step()
        except FAULTS as error:
            self._say(" ".join(str(error).split()) or type(error).__name__, colour="#c00000")
            return None

    def _say(self, words: str, *, colour: str = "inherit") -> None:
        self.status.value = f'<span style="color: {colour}">{html.escape(words) or "ready"}</span>'

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        """The widget, and a still picture of it for where no kernel is live."""
        words = self.result.report if self.result else ""
        return super()._repr_mimebundle_() | {"image/png": quality_figure.sheet(self.view, words=words)}


def _slider(value: float, least: float, most: float, name: str, *, step: float) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(
        value=value, min=least, max=most, step=step, description=name, continuous_update=False
    )


def _whole(value: int, least: int, most: int, name: str) -> ipywidgets.IntSlider:
    return ipywidgets.IntSlider(value=value, min=least, max=most, description=name, continuous_update=False)


def _around(centre: int, size: int, side: int) -> slice:
    """`size` px around the centre, moved to lie inside."""
    size = min(size, side)
    start = min(max(0, centre - size // 2), side - size)
    return slice(start, start + size)


def _as_html(report: str) -> str:
    """The report, its doubts in red."""
    lines = (
        f'<span style="color: {"#c00000" if line.startswith("DOUBT") else "inherit"}">{html.escape(line)}</span>'
        for line in report.splitlines()
    )
    return '<div style="line-height: 1.4; max-width: 1100px">' + "<br>".join(lines) + "</div>"
