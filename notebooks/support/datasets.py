"""Real image sets of registry.tsv: found in MPTPN_DATA or downloaded, checked by SHA-256, split by subject."""

import csv
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pooch
from torch import Tensor

from mptpn.io import Image, image_from_array, open_scan
from mptpn.io.image import luminance
from support.scores import fitted

ADDRESS = "https://raw.githubusercontent.com"
TIMEOUT = 20  # s without an answer
AWGN, COLOUR_AWGN = ("bsd68", "set12"), ("cbsd68",)  # standard tests of white noise, gray and colour
SCALED = ("w2s", "m4raw", "fluo")  # beginnings of the names of sets whose files were scaled one by one
CT_WINDOW = tuple((hu + 1024) / 4095 for hu in (-160, 240))  # -160..240 HU, in the unit of pairs()


@dataclass(frozen=True)
class Pair:
    """One scene twice, in the same range and unit.

    Attributes:
        noisy: one exposure, frame, dose or repetition.
        clean: the best estimate of the truth that the set offers; it has noise of its own, see pairs().
    """

    noisy: Image
    clean: Image


def _tables() -> list[list[dict[str, str]]]:
    # the sets, then their files
    blocks = Path(__file__).with_name("registry.tsv").read_text(encoding="utf-8").split("\n\n")
    return [list(csv.DictReader(block.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)) for block in blocks]


_sets, _files = _tables()
SETS = {row["set"]: row for row in _sets}  # set: folder, low, high, unit, repository, commit, licence, citation
# (set, file): split, subject, image, side, bytes, sha256, path
FILES = {(row["set"], row["file"]): row for row in _files}


def files(set: str) -> tuple[str, ...]:
    """Names of a set's files, relative to the set's folder; ValueError if the set is unknown."""
    if set not in SETS:
        raise ValueError(f"set {set!r} is unknown; choose one of {', '.join(SETS)}.")
    return tuple(file for owner, file in FILES if owner == set)


def available(set: str, *, names: Sequence[str] | None = None) -> bool:
    """Whether a set's files (names: some of them) are here in their registered size; nothing is downloaded or hashed.

    Raises:
        ValueError: unknown set or file.
        FileNotFoundError: MPTPN_DATA names no folder.
    """
    sizes = {_path(set, file): int(FILES[set, file]["bytes"]) for file in (files(set) if names is None else names)}
    return all(path.is_file() and path.stat().st_size == size for path, size in sizes.items())


def fetch(set: str, file: str) -> Path:
    """Path of one file with the registered bytes, downloaded if it is missing, under home().

    Raises:
        ValueError: unknown set or file, or other bytes than the registered ones, here or at the public address.
        FileNotFoundError: MPTPN_DATA names no folder.
        ConnectionError: the file is missing and its public address does not answer.
        OSError: the file is missing and the folder cannot be written.
    """
    path = _path(set, file)
    row = FILES[set, file]
    if not path.is_file():
        place = quote("/".join((SETS[set]["repository"], SETS[set]["commit"], row["path"])))
        download(f"{ADDRESS}/{place}", path=path, sha256=row["sha256"])
    status = path.stat()
    if _sha256(path, status.st_size, status.st_mtime_ns) != row["sha256"]:
        sizes = f"({status.st_size}, not {row['bytes']})"
        raise ValueError(
            f"{path}: other bytes than the registered ones {sizes}; delete the file and it is downloaded again."
        )
    return path


def home() -> Path:
    """Folder of all sets: MPTPN_DATA, or the user's cache where it is unset; FileNotFoundError if it is no folder."""
    chosen = os.environ.get("MPTPN_DATA")
    if chosen and not Path(chosen).is_dir():
        raise FileNotFoundError(f"MPTPN_DATA={chosen}: no such folder; make it, and the images are downloaded into it.")
    return Path(chosen or pooch.os_cache("mptpn"))


def _path(set: str, file: str) -> Path:
    if file not in files(set):
        listed = f"its {len(files(set))} files are listed in notebooks/support/registry.tsv"
        raise ValueError(f"set {set!r} has no file {file!r}; {listed}.")
    return home() / SETS[set]["folder"] / file


def download(url: str, *, path: Path, sha256: str, processor=None, progress: bool = False) -> None:
    """Download to path, which appears once the hash is right; processor: pooch's, for an archive.

    Raises:
        ValueError: other bytes. ConnectionError: no answer. OSError: the folder cannot be written.
    """
    pooch.get_logger().setLevel("WARNING")
    settings = {"downloader": pooch.HTTPDownloader(timeout=TIMEOUT, progressbar=progress), "processor": processor}
    try:
        pooch.retrieve(url, f"sha256:{sha256}", fname=path.name, path=path.parent, **settings)
    except OSError as error:  # also the base of what requests raises, without a number
        if isinstance(error, PermissionError) or error.errno:
            why = f"missing, and cannot be written ({error.strerror or error})"
            raise OSError(f"{path}: {why}; set MPTPN_DATA to a folder that can.") from error
        status = getattr(getattr(error, "response", None), "status_code", "no answer")
        why = f"not downloaded ({type(error).__name__}, {status})"
        raise ConnectionError(f"{url}: {why}; go online, or put the file at {path} yourself.") from error
    except ValueError as error:
        advice = f"nothing is kept, find the file elsewhere and put it at {path}"
        raise ValueError(f"{url}: sends other bytes than the registered ones; {advice}.") from error


@cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    return pooch.file_hash(str(path))


@cache
def pairs(set: str, split: str) -> tuple[Pair, ...]:
    """Noisy and clean images of one scene, gray, 0..1 over the same value_range in the whole set.

    Pairs to train, validate, test; subject; noisy / clean, and what is wrong with the clean side:
    - w2s 36, 6, 6; field of view; one frame / mean of 400; each file scaled to 0..255.
    - oct 8, 2, 2; person; one B-scan / registered average of others, to 1-3 px. The averages of 09 (val; another
      section) and 12 (test; tilted by up to 27 rows) do not fit: a PSNR of these two says nothing.
    - ldct_d45f 7, 3, 4; L096, L192 for test; quarter / full dose, whose own noise (16-31 HU) is in both.
    - ldct_b30f 3, 2, 2; L192 alone; the same, smooth kernel; splits are at least 84 mm apart.
    - m4raw_t1 9, 2, 4; one volunteer; repetition 1 / mean of 2 and 3; each slice scaled to 0..255.
    - m4raw_flair 9, 2, 4; the same volunteer; repetition 1 / repetition 2, as noisy as the first.
    - polyu 0, 0, 80; scene; one exposure / mean of many, luma of JPEG files.
    - fluo_misc 0, 0, 2; specimen; low / high signal-to-noise, first channel of pseudo-coloured pictures.
    CT: 0 and 1 stand for -1024 and 3071 HU, the ends of the 12 stored bits, where noise is cut off (air, metal). L192
    is in both CT sets: never test on ldct_d45f what was trained on ldct_b30f.

    Raises:
        ValueError: unknown set, or a split in which it has no pairs; and what fetch raises.
    """
    noisy, clean = (_images(set, split=split, side=side) for side in ("noisy", "clean"))
    return tuple(Pair(noisy=n, clean=c) for n, c in zip(noisy, clean, strict=True))


def comparable(set: str, image: Tensor, clean: Tensor) -> tuple[Tensor, Tensor, float]:
    """Image, truth and peak from which the PSNR of a set is taken, the same for every method, [1, 1, H, W].

    Where the files were scaled one by one (w2s, m4raw, fluo_misc), gain and offset of the image are fitted to the
    truth; CT is cut to the window -160..240 HU, and the window is the peak.
    """
    if set.startswith("ldct"):
        low, high = CT_WINDOW
        return image.clamp(low, high), clean.clamp(low, high), high - low
    return (fitted(image, clean) if set.startswith(SCALED) else image), clean, 1.0


def target(set: str, pair: Pair) -> Tensor:
    """The clean image, at the gain and offset of the noisy one where files were scaled one by one, [1, 1, H, W]."""
    return fitted(pair.clean.pixels, pair.noisy.pixels) if set.startswith(SCALED) else pair.clean.pixels


@cache
def natural(split: str, *, colour: bool = False) -> tuple[Image, ...]:
    """Clean natural photographs, luma or colour, value_range (0, 255).

    train: 478 (BSDS500 train and test 398, DIV2K 0801-0880), val: 10 (DIV2K 0881-0890). BSDS500 val holds the test set
    CBSD68; 302003 (Set5's woman) and 12003 (Set12's starfish) are not in the registry.

    Raises:
        ValueError: another split; and what fetch raises.
    """
    sets = ("bsds500", "div2k") if split == "train" else ("div2k",)
    return tuple(image for set in sets for image in _images(set, split=split, side="clean", colour=colour))


def sha256_of_photos(*splits: str) -> str:
    """SHA-256 over those of the photographs of natural(), by which weights say what they have seen."""
    return hashlib.sha256("".join(x.sha256 for split in splits for x in natural(split)).encode()).hexdigest()


@cache
def awgn(set: str) -> tuple[Image, ...]:
    """Clean images of a standard test: bsd68 (68) or set12 (12) in gray, cbsd68 (bsd68's scenes) in colour, (0, 255).

    Raises:
        ValueError: another set; and what fetch raises.
    """
    if set not in AWGN + COLOUR_AWGN:
        raise ValueError(f"set {set!r} is no clean test set; choose one of {', '.join(AWGN + COLOUR_AWGN)}.")
    return tuple(_images(set, split="test", side="clean", colour=set in COLOUR_AWGN))


def _images(set: str, *, split: str, side: str, colour: bool = False) -> list[Image]:
    """One image for each name in the registry, in its order: the mean of the files that share the name."""
    rows = [FILES[set, file] for file in files(set)]
    there = dict.fromkeys(f"{row['split']} {row['side']}" for row in rows)
    rows = [row for row in rows if (row["split"], row["side"]) == (split, side)]
    if not rows:
        raise ValueError(f"set {set!r} has no {side} images to {split!r}; it has {', '.join(there)}.")
    value_range, unit = (float(SETS[set]["low"]), float(SETS[set]["high"])), SETS[set]["unit"]
    images = []
    for (name, subject), group in groupby(rows, key=itemgetter("image", "subject")):
        arrays = [_read(fetch(set, row["file"]), first_channel=set == "fluo_misc", colour=colour) for row in group]
        about = {"name": name, "subject": subject, "value_range": value_range, "unit": unit}
        images.append(image_from_array(np.mean(arrays, axis=0), **about))
    return images


def _read(path: Path, *, first_channel: bool, colour: bool) -> np.ndarray:
    scan = open_scan(path)
    array = scan.in_unit(scan.slices // 2)
    if array.ndim == 2 or colour:
        return array
    return array[..., 0] if first_channel else luminance(array)
