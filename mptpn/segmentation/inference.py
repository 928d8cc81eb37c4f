"""Asking a network for a mask: the whole image is looked at once, and tiles equal the whole."""

import hashlib
import json
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mptpn.io.image import as_array, check_type
from mptpn.networks import load_weights, save_weights
from mptpn.networks.noise_level import SMALLEST
from mptpn.networks.segmentation import SegmentationNetwork
from mptpn.segmentation.encoders import PretrainedWords
from mptpn.segmentation.pieces import chosen, pieces, without_specks
from mptpn.segmentation.text import Prompt, parse
from mptpn.segmentation.words import Target, word_numbers
from mptpn.tiling import default_budget, resident, tile_side, tiled

PRETRAINED = "segmentation"
SAMPLES = 2**20  # pixels from which the ends of the gray range are taken
LINES, TINT, COLOURED = 500, 0.08, 0.25  # rows that are looked at for colour, see is_coloured
# what a DICOM file says that it is; of these only ultrasound of the breast was learned from
RADIOLOGY = {"CT": "a CT", "MR": "an MR image", "CR": "an X-ray", "DX": "an X-ray", "MG": "a mammogram", "PT": "a PET"}
RADIOLOGY |= {"NM": "a scintigram", "XA": "an angiogram", "RF": "a fluoroscopy", "US": "an ultrasound"}
OPTICAL = {"SM": "a slide", "GM": "a microscope image", "OP": "a photograph of the eye", "OPT": "an OCT of the eye"}
OPTICAL |= {"XC": "a photograph", "ES": "an endoscopy"}


@dataclass(frozen=True)
class Answer:
    """What was found for one prompt in one image.

    Attributes:
        prompt: as understood.
        mask: [H, W], bool. labels: numbers of its pieces, [H, W], int32.
        found: whether there is anything; if not, `why` says in words why not.
        presence: probability that the image has the target at all; NaN where it was not asked.
        certainty: mean probability of the pixels of the mask; 0 where it is empty.
    """

    prompt: Prompt
    mask: np.ndarray
    labels: np.ndarray
    found: bool
    why: str
    presence: float = float("nan")
    certainty: float = 0.0

    @property
    def count(self) -> int:
        """Number of pieces."""
        return int(self.labels.max(initial=0))

    @property
    def caution(self) -> str:
        """What is known to go wrong with this target, with measured numbers; "" where nothing has to be said."""
        target = self.prompt.target
        if target is None or not target.caution:
            return ""
        return target.caution + (f"; learned from {target.images} alone" if self.found and target.images else "")

    @property
    def sentence(self) -> str:
        """What was found, in one sentence."""
        caution = f"; {self.caution}" if self.caution else ""
        if not self.found:
            return f"not found: {self.why}{caution}"
        share, pieces = self.mask.mean(), f"{self.count} piece{'s' * (self.count != 1)}, "
        pieces = pieces if self.prompt.target.objects else ""
        return f"{self.prompt}: {pieces}{100 * share:.1f} % of the pixels, certainty {self.certainty:.2f}{caution}"

    def to_dict(self) -> dict:
        """For JSON: the prompt as understood, area in pixels, count, how sure, or not found and why."""
        target = self.prompt.target
        about = {"prompt": self.prompt.text, "understood": str(self.prompt), "target": target and target.name}
        about |= {"ignored_words": list(self.prompt.ignored), "found": self.found, "why": self.why}
        about |= {"caution": self.caution}
        about |= {"area_px": int(self.mask.sum()), "area_share": round(float(self.mask.mean()), 6)}
        objects = target is not None and target.objects
        about |= {"count": self.count if objects else None, "certainty": round(self.certainty, 4)}
        return about | {"presence": None if np.isnan(self.presence) else round(self.presence, 4)}


class GrayRange:
    """An image in any unit as the network reads it: its 1st percentile is 0 and its 99.5th is 1, cut at -0.2 and 1.3.

    Percentiles are of all channels together, of about a million pixels; a constant image is 0.

    Args:
        image: [1, C, H, W]. valid: [H, W], bool; pixels that count.
    """

    def __init__(self, image: Tensor, valid: Tensor | None = None):
        step = max(1, image.shape[2] * image.shape[3] // SAMPLES)
        pixels = image.flatten(2)[0, :, ::step].float()
        if valid is not None:
            pixels = pixels[:, valid.flatten()[::step]]
        pixels = pixels.flatten() if pixels.numel() else torch.zeros(1)
        low, high = torch.quantile(pixels[:: max(1, pixels.numel() // SAMPLES)], torch.tensor([0.01, 0.995])).tolist()
        if high <= low:
            low, high = float(pixels.min()), float(pixels.max())
        self.low, self.span = low, high - low if high > low else 1.0

    def __call__(self, image: Tensor) -> Tensor:
        """[1, 1 or 3, H, W] -> [1, 3, H, W], float32."""
        return ((image.float() - self.low) / self.span).clamp(-0.2, 1.3).expand(-1, 3, -1, -1)


def normalised(image: Tensor) -> Tensor:
    """An image in any unit, [1, 1 or 3, H, W], as the network reads it, [1, 3, H, W] (see GrayRange)."""
    return GrayRange(image)(image)


def is_coloured(image: Tensor, gray: GrayRange) -> bool:
    """Whether at least a quarter of the pixels of an image [1, 1 or 3, H, W] have a colour, not marks on it alone.

    A pixel has one where its channels differ by more than 8 % of the gray range.
    """
    some = gray(image[:, :, :: max(1, image.shape[2] // LINES), :: max(1, image.shape[3] // LINES)])
    return float((some.amax(1) - some.amin(1) > TINT).float().mean()) >= COLOURED


class Segmenter:
    """A network, and the targets that it knows.

    Args:
        network: repaired configuration.
        targets: what can be asked for.
        note: of the weights file.
        encoder: reads the targets' names where the network has no words of its own.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        targets: Sequence[Target],
        note: dict | None = None,
        *,
        encoder: PretrainedWords | None = None,
    ):
        self.network, self.targets, self.note, self.encoder = network.eval(), tuple(targets), note or {}, encoder
        if network.published:
            raise ValueError("the network is of the published configuration; prompts need a repaired one.")
        if (network.vectors is None) == (encoder is None):
            raise ValueError(f"the network has {len(network.words)} words of its own; give either these or an encoder.")
        self.length = max(len(target.words) for target in targets)

    @classmethod
    def load(cls, model: str | Path = PRETRAINED) -> "Segmenter":
        """From a weights file of `mptpn train-segment`, or the package's own.

        Raises:
            FileNotFoundError, ValueError: no such file, or weights of another kind or configuration.
        """
        network, note = load_weights(model, SegmentationNetwork)
        if "targets" not in note:
            raise ValueError(f"{model}: names no targets; give weights from mptpn train-segment.")
        network = network.to(memory_format=torch.channels_last)
        targets = [Target(**{**one, "words": tuple(one["words"])}) for one in note["targets"]]
        return cls(network, targets, note, encoder=PretrainedWords(note["encoder"]) if note.get("encoder") else None)

    def save(self, path: str | Path, note: dict) -> Path:
        """Write the weights with what they know; `note`: how they came about."""
        about = (
            note
            | {"encoder": self.encoder.name if self.encoder else ""}
            | {"targets": [asdict(target) for target in self.targets]}
        )
        return save_weights(path, self.network, arguments=self.network.arguments, note=json.loads(json.dumps(about)))

    def digest(self) -> str:
        """Twelve letters that stand for all that decides the answers: weights, targets and encoder."""
        found = hashlib.sha256(repr((self.targets, self.encoder and self.encoder.name)).encode())
        for name, tensor in self.network.state_dict().items():
            found.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:12]

    def text(self, target: Target) -> Tensor:
        """Word vectors of a target, [1, T, D]."""
        if self.encoder is not None:
            return self.encoder(target.name)[None]
        return self.network.read(word_numbers(target.words, self.network.words, length=self.length)[None])

    def of(self, network: SegmentationNetwork) -> "Segmenter":
        """The same questions to another network."""
        return Segmenter(network, self.targets, self.note, encoder=self.encoder)

    def with_target(self, target: Target) -> "Segmenter":
        """The same network with other thresholds for the target of this name."""
        found = copy(self)
        found.targets = tuple(target if one.name == target.name else one for one in self.targets)
        return found

    def questions(self) -> Tensor:
        """What `PromptLoss` reads of all targets: their word numbers [P, T], or an encoder's vectors [P, T, D]."""
        if self.encoder is not None:
            return self.encoder.together([target.name for target in self.targets])
        words = [word_numbers(target.words, self.network.words, length=self.length) for target in self.targets]
        return torch.stack(words)

    @torch.no_grad()
    def presence(self, image: Tensor, target: Target, *, gray: GrayRange | None = None) -> float:
        """Probability that an image [1, C, H, W] in any unit has the target."""
        gray = gray or GrayRange(image)
        return float(self.network.presence(self._look(image, gray), self.text(target)).sigmoid())

    def _look(self, image: Tensor, gray: GrayRange) -> Tensor:
        if image.shape[2] * image.shape[3] > 4 * SAMPLES:  # a large image is reduced before it is normalised
            image = F.adaptive_avg_pool2d(image.float(), 1024)
        return self.network.look(gray(image))

    @torch.no_grad()
    def probability(
        self, image: Tensor, target: Target, *, gray: GrayRange | None = None, tile: int = 0, memory: int | None = None
    ) -> Tensor:
        """Probability of the target at each pixel, [1, 1, H, W].

        Args:
            image: [1, 1 or 3, H, W], any unit and size.
            tile: side of the tiles, px, a multiple of 16; 0: as large as memory allows.
            memory: bytes that the process may hold; None: what it holds and half of what is free.
        """
        gray, network = gray or GrayRange(image), self.network
        size, asked = image.shape[2:], image
        if target.side and max(size) != target.side:
            sides = [max(1, round(n * target.side / max(size))) for n in size]
            asked = F.interpolate(image.float(), size=sides, mode="bilinear", antialias=True)
        look, text = self._look(image, gray) if network.overview else None, self.text(target)

        def part(pixels: Tensor) -> Tensor:
            pixels = gray(pixels).contiguous(memory_format=torch.channels_last)
            return network(pixels, text, look).sigmoid()

        if not tile:
            free = (memory or default_budget()) - resident()
            settings = {"bytes_per_pixel": network.bytes_per_pixel, "multiple": network.alignment}
            area = asked.shape[2] * asked.shape[3]
            fits = area * network.bytes_per_pixel < free
            tile = max(asked.shape[2:]) if fits else tile_side(free, halo=network.halo, **settings)
        found = tiled(part, asked, tile=-(-tile // network.alignment) * network.alignment, halo=network.halo)
        return found if found.shape[2:] == size else F.interpolate(found, size=size, mode="bilinear")

    def ask(
        self,
        image: np.ndarray,
        prompt: str | Prompt,
        *,
        valid: np.ndarray | None = None,
        tile: int = 0,
        memory: int | None = None,
        modality: str = "",
    ) -> Answer:
        """The mask of what a prompt asks for, or that it is not found.

        Args:
            image: [H, W] or [H, W, 3], finite, any unit, at least 16 x 16 px.
            prompt: in words. valid: [H, W], bool; where it is False nothing is found.
            tile, memory: as in probability(). modality: what the file says that it is, such as CT, as DICOM has it.
        Raises:
            AskBack: the prompt cannot be answered as it stands. TypeError: no prompt.
            ValueError: no image, or no number of bytes.
        """
        prompt = prompt if isinstance(prompt, Prompt) else parse(prompt, self.targets)
        if memory is not None and not (isinstance(memory, int | float | np.integer) and memory >= 1):
            raise ValueError(f"memory {memory!r} is no number of bytes; give a positive one, or None.")
        pixels = _tensor(image)
        usable = None if valid is None else torch.from_numpy(np.ascontiguousarray(valid))
        empty, target = np.zeros(pixels.shape[2:], bool), prompt.target
        nothing = Answer(prompt, empty, empty.astype(np.int32), False, prompt.why)
        if target is None:
            return nothing
        gray = GrayRange(pixels, usable)
        if why := _foreign(target, modality, coloured=target.gray and is_coloured(pixels, gray)):
            return replace(nothing, why=why + (f"; learned from {target.images}" if target.images else ""))
        presence = self.presence(pixels, target, gray=gray)
        nothing = replace(nothing, presence=presence)
        if presence < target.presence:
            why = f"this image does not look like one that has {target.name} (probability {presence:.2f}, "
            why += f"least {target.presence:.2f})" + (f"; learned from {target.images}" if target.images else "")
            return replace(nothing, why=why)
        probability = self.probability(pixels, target, gray=gray, tile=tile, memory=memory)[0, 0].numpy()
        return _marked(nothing, probability if valid is None else np.where(valid, probability, 0))


def _foreign(target: Target, modality: str, *, coloured: bool) -> str:
    """Why an image is not of the kind that the target was learned from, by what its file says and by its colour."""
    kind = (RADIOLOGY | OPTICAL).get(modality)
    same = modality == "US" if "ultrasound" in target.images else modality in OPTICAL
    if kind and target.images and not same:
        return f"the file says that it is {kind} ({modality}), and {target.name} is not known there"
    return f"this image is coloured, and {target.name} is in gray images only" if coloured else ""


def _marked(nothing: Answer, probability: np.ndarray) -> Answer:
    """The answer of an image that has the target by the probability of its pixels, [H, W]; or nothing, and why."""
    prompt, target = nothing.prompt, nothing.prompt.target
    if (peak := float(probability.max())) < target.peak:
        why = f"nothing here is sure enough to be a {target.name} (its surest pixel has probability {peak:.3f}, "
        return replace(nothing, why=f"{why}least {target.peak:.3f})")
    labels = without_specks(pieces(probability >= target.threshold, split=target.objects), target.least)
    asked = chosen(labels, prompt)
    if not asked.any():
        return replace(nothing, why=f"no {prompt if labels.any() else target.name} in this image")
    mask = asked > 0
    return replace(nothing, mask=mask, labels=asked, found=True, why="", certainty=float(probability[mask].mean()))


def _tensor(image: np.ndarray) -> Tensor:
    """[H, W] or [H, W, 3] as [1, C, H, W], float32, without a copy where that is possible."""
    image = as_array(image)
    check_type(image, name="the image")
    if image.ndim not in (2, 3) or 0 in image.shape or image.shape[2:] not in ((), (3,)):
        raise ValueError(f"an image of shape {image.shape} cannot be segmented; give [H, W] or [H, W, 3].")
    if min(image.shape[:2]) < SMALLEST:
        size = f"{image.shape[0]} x {image.shape[1]}"
        raise ValueError(f"the image: {size} pixels are too few to segment; give at least {SMALLEST} x {SMALLEST}.")
    array = image if image.dtype == np.float32 else image.astype(np.float32)
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(f"{bad} of {array.size} pixels are NaN or infinite; replace or crop them first.")
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return (tensor[..., None] if tensor.ndim == 2 else tensor).permute(2, 0, 1)[None]
