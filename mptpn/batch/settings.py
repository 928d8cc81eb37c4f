"""What the user of `mptpn denoise` chose."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mptpn.batch.report import FULL, SHORT
from mptpn.inference import AUTO, SELF, colour, load_network
from mptpn.inference.denoiser import Network
from mptpn.inference.noisy_images import PRETRAINED
from mptpn.networks import weights_path


@dataclass(frozen=True)
class Settings:
    """What the user chose.

    Attributes:
        out: folder of the results.
        model: AUTO, SELF (a blind-spot network learns from each scan within `minutes`), or weights.
        strength: 0 (the input) to 1.
        adapt: minutes, see inference.adaptation; None: the pretrained network stays as it is.
        memory: bytes that the process may hold; None: half of what is free more than now.
        overwrite: whether earlier results may be replaced.
        uncertainty: whether the error's standard deviation is written too, as .npy.
        parametric_map: whether that of DICOM is written as a Parametric Map too.
        report: one of REPORTS: none; verdict, numbers and three pictures; the uncertainty too, six pictures.
        axes: names of the files' axes, one letter each; None: as the files say, or guessed.
        part: (i, n), the i-th of n shares of the files, from 1.
        progress: whether a bar shows how far each scan is.
    """

    out: Path
    model: str | Path = AUTO
    strength: float = 1.0
    minutes: float = 3.0
    adapt: float | None = None
    memory: int | None = None
    overwrite: bool = False
    uncertainty: bool = False
    parametric_map: bool = False
    report: str = SHORT
    seed: int = 0
    axes: str | None = None
    part: tuple[int, int] = (1, 1)
    progress: bool = True

    @property
    def wants_uncertainty(self) -> bool:
        """Whether the error's standard deviation is shown or written."""
        return self.uncertainty or self.report == FULL

    @cached_property
    def network(self) -> Network | None:
        """The model, read once for all scans; None: each scan has its own."""
        return None if str(self.model) in (AUTO, SELF) else load_network(self.model)

    @property
    def divides(self) -> bool:
        """Whether shares work on one large scan together: not where each would train a network of its own."""
        return str(self.model) != SELF and self.adapt is None

    @property
    def written(self) -> dict:
        """What a Writer is told."""
        about = {"uncertainty": self.uncertainty, "parametric_map": self.parametric_map}
        return {"note": self.note, "overwrite": self.overwrite} | about

    @cached_property
    def note(self) -> str:
        """All that decides the pixels: an interrupted result is gone on with only under the same note."""
        if str(self.model) == SELF:
            how = f"trained on itself for {self.minutes:g} min, seed {self.seed}"
        else:
            names = (*PRETRAINED, colour.COLOUR) if str(self.model) == AUTO else (self.model,)
            weights = b"".join(weights_path(name).read_bytes() for name in names)
            how = f"model {hashlib.sha256(weights).hexdigest()[:12]}"
        how += f", adapted for {self.adapt:g} min, seed {self.seed}" if self.adapt is not None else ""
        axes = f", axes {self.axes}" if self.axes else ""
        return f"({how}, strength {self.strength:g}{axes})"
