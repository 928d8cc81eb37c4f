"""Numbers of the pretrained networks that verify computes: sizes, what their files say, and PSNR on public images."""

import json
import sys
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from safetensors import safe_open

from mptpn.networks.weights import load, load_weights, pretrained_paths
from mptpn.super_resolution import SuperResolutionNetwork, enlarge, resize

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "notebooks"))
from support import datasets, super_resolution_scores, super_resolution_sets  # noqa: E402
from support.folds import differences as fold_differences  # noqa: E402
from support.photographs import white_copies  # noqa: E402
from support.pretraining import psnrs  # noqa: E402
from support.scores import paired_interval  # noqa: E402


def parameters(name: str) -> float:
    """Parameters of a network of the package, millions."""
    with safe_open(pretrained_paths()[name], framework="pt") as file:
        return sum(torch.Size(file.get_slice(one).get_shape()).numel() for one in file.keys()) / 1e6


def megabytes(name: str) -> float:
    return pretrained_paths()[name].stat().st_size / 1e6


def note(name: str) -> dict:
    """What the file of a network says of itself."""
    with safe_open(pretrained_paths()[name], framework="pt") as file:
        return json.loads(file.metadata()["note"])


def _needs(name: str) -> None:
    if not datasets.available(name):
        raise FileNotFoundError(f"the images of {name}, which are not on this machine (MPTPN_DATA)")


@cache
def psnr(name: str, images: str, level: int) -> float:
    """Mean PSNR of a denoiser on white noise of a level (gray levels of 255), the bytes of notebook 09, dB."""
    _needs(images)
    clean = [image.pixels for image in datasets.awgn(images)]
    noisy = white_copies(clean, level=level / 255, seed=0, purpose="comparison noise")
    return sum(psnrs(load(name), noisy, clean)) / len(clean)


@cache
def enlarged(scale: int, *, network: bool = True) -> float:
    """Mean PSNR on Set5 of x2 or x4, or of bicubic resizing, luma, dB."""
    _needs("set5")
    model = load_weights(f"x{scale}", SuperResolutionNetwork)[0] if network else None
    scenes = super_resolution_sets.scenes("Set5", scale=scale)
    made = [enlarge(model, s.low) if model else resize(s.low, scale=scale, eight_bit=True) for s in scenes]
    pairs = zip(made, scenes, strict=True)
    found = [super_resolution_scores.scores(one, s.high, scale=scale)["psnr_db"] for one, s in pairs]
    return sum(found) / len(found)


def gains(table: pd.DataFrame, method: str, other: str) -> pd.Series:
    """Paired differences of PSNR, image by image, dB."""
    wide = table.pivot(index="image", columns="method", values="psnr_db")
    return (wide[method] - wide[other]).dropna()


def interval(table: pd.DataFrame, method: str, other: str) -> tuple[float, float]:
    """95 % interval over subjects of the mean of gains, dB."""
    gained = gains(table, method, other)
    subjects = table.drop_duplicates("image").set_index("image").subject[gained.index]
    return paired_interval(list(gained), list(subjects))[1:]


@cache
def figure_table(stem: str) -> pd.DataFrame:
    """The numbers of a published figure."""
    return pd.read_csv(ROOT / "figures" / f"{stem}.csv", dtype={"image": str, "subject": str})


def pairs(images: str) -> pd.DataFrame:
    """Scores of the three stages on a real set."""
    return figure_table(f"07_real_pairs_{images}")


def calibrated(interval: str) -> list[float]:
    """Share of real pixels inside an interval, of each file of calibration, percent."""
    tables = [figure_table(path.stem) for path in sorted((ROOT / "figures").glob("07_calibration_*.csv"))]
    return [100 * float(t[(t.images == "real test") & (t.interval == "calibrated")][interval].item()) for t in tables]


def folds(comparison: str) -> tuple[float, float, float]:
    """Mean and 95 % interval of a paired difference of Dice over the images of notebook 14."""
    row = fold_differences(figure_table("14_folds_real")).set_index("comparison").loc[comparison]
    return row.difference, row.low, row.high


def gap(table: pd.DataFrame, images: str, row: tuple[int, str], comparison: str) -> tuple[float, float, float]:
    """A paired difference of Dice of notebook 15 with its interval; row: level of noise and segmenter."""
    found = table[(table.kind == "difference") & (table["set"] == images) & (table.comparison == comparison)]
    (one,) = found[(found.sigma == row[0]) & (found.segmenter == row[1])].itertuples()
    return one.difference, one.low, one.high


def instead(table: pd.DataFrame, sigma: int, segmenter: str) -> tuple[float, float, float]:
    """The U-Net of notebook 15 that was trained noisy, without a cure, minus a segmenter that sees denoised images."""
    return gap(table, "all", (sigma, "U-Net, trained noisy"), f"no cure - {segmenter} with mptpn denoise")


USED = (parameters, megabytes, note, psnr, enlarged, gains, interval, pairs, calibrated, folds, gap, instead)
MEASURES = {function.__name__: function for function in USED}
