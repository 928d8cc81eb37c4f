"""What the command mptpn takes: noise, denoise, train, enlarge, segment, train-segment."""

import argparse
from pathlib import Path

from mptpn.command_line import commands
from mptpn.command_line.segment import add_commands

UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
AXES = "names of the axes of the files, such as TCZYX or YXC, where they say none or others; each C has its own noise"


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; each puts the function that runs it into `run`."""
    all_commands = argparse.ArgumentParser(prog="mptpn", description="Denoise medical images without a clean truth.")
    named = all_commands.add_subparsers(dest="command", required=True)
    files = {"nargs": "+", "type": _path, "metavar": "IN"}
    files["help"] = "files or folders: DICOM (a series is one scan), NIfTI, MGH, NRRD, TIFF, OME-Zarr, CZI, ND2, LIF, "
    files["help"] += "PNG, JPEG, BMP or .npy"
    noise = named.add_parser("noise", help="estimate the noise of images")
    noise.set_defaults(run=commands.noise)
    noise.add_argument("images", **files)
    noise.add_argument("--together", action="store_true", help="the images share one noise model: one estimate for all")
    noise.add_argument("--axes", type=str.upper, help=AXES)
    noise.add_argument("--json", action="store_true", help="print numbers, not sentences")
    noise.add_argument("--csv", type=Path, help="also a table, one row a file: level, gain, read noise, intervals")
    denoise = named.add_parser("denoise", help="denoise files; a report beside each result says how far to trust it")
    denoise.set_defaults(run=commands.denoise, refuse=denoise.error)
    denoise.add_argument("images", **files)
    _add_denoise_options(denoise)
    train = named.add_parser("train", help="learn a denoiser from a folder of noisy images alone; can be continued")
    train.set_defaults(run=commands.train)
    _add_train_options(train)
    enlarge = named.add_parser("enlarge", help="super-resolution by 2 or 4")
    enlarge.set_defaults(run=commands.enlarge)
    enlarge.add_argument("image", type=Path, metavar="IN", help="one image; of several slices the middle one")
    enlarge.add_argument("--out", type=Path, required=True, help="the larger image, .npy or .tif")
    enlarge.add_argument("--scale", type=int, default=2, choices=(2, 4))
    enlarge.add_argument("--tile", type=int, default=0, help="side of tiles, px, for little memory; 0: the whole image")
    enlarge.add_argument("--overwrite", action="store_true", help="replace the larger image where it is there")
    add_commands(named, files, _bytes)
    for command in named.choices.values():
        command.add_argument("--debug", action="store_true", help="print where in the program a fault came from")
    return all_commands


def _add_denoise_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=_path, required=True, help="folder of the results")
    known = (
        "auto (the default): the pretrained network for the noise of each scan; small, correlated, base, tiny (a "
        "preview) or colour (of colour images): this one; "
    )
    known += "self: train on each scan and on nothing else; or weights from mptpn train, .safetensors"
    add("--model", default="auto", help=known)
    add("--strength", type=_strength, default=1.0, help="0 (the input) to 1, default %(default)g")
    minutes = f"of --model self: wall-clock budget on each scan, default {commands.MINUTES:g}"
    add("--minutes", type=float, help=minutes)
    adapt = "adapt the pretrained network to each scan first; on one core about this time, in a fixed number of steps"
    add("--adapt", type=float, metavar="MINUTES", help=adapt)
    memory = "bytes that the process may hold in all, such as 1G; default: what the process holds and half of what is "
    memory += "free"
    add("--memory", type=_bytes, help=memory)
    error = "write NAME.uncertainty.npy too: the error's standard deviation at each pixel"
    add("--axes", type=str.upper, help=AXES)
    add("--uncertainty", action="store_true", help=error)
    map = "with --uncertainty: of DICOM write a Parametric Map too, NAME.uncertainty.dcm"
    add("--parametric-map", action="store_true", help=map)
    kinds = "none; short (the default), a verdict, its numbers and three pictures; full, with the uncertainty too"
    add("--report", default="short", choices=("none", "short", "full"), help=kinds)
    add("--strict", action="store_true", help="exit with 3 where a result is not judged good")
    add("--overwrite", action="store_true", help="replace earlier results")
    add("--seed", type=int, default=0)
    add("--jobs", type=_jobs, default=1, metavar="N", help="processes side by side, default %(default)s")
    share = "the i-th of n shares of the files, and of the tiles of a large OME-Zarr, such as 2/10: each of n machines "
    share += "takes its own; the bytes stay the same"
    add("--part", type=_part, default=(1, 1), metavar="i/n", help=share)


def _add_train_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    folder = "noisy images, in it and below, best of 64 x 64 pixels or more; of a series or volume up to 16 slices"
    add("folder", type=Path, help=folder)
    add("--out", type=Path, required=True, help="the denoiser's weights, .safetensors")
    add("--minutes", type=float, default=8.0, help="wall-clock budget of the trainings, default %(default)g")
    photos = "folder of clean natural photographs; default: those inside the installed packages"
    add("--photos", type=Path, help=photos)
    add("--accelerator", default="auto", choices=("cpu", "cuda", "auto"))
    add("--overwrite", action="store_true", help="replace weights and report where they are there")
    add("--seed", type=int, default=0)


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("an empty path; give a file or a folder, . for the current one")
    return Path(text)


def _strength(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: give a number from 0 (the input) to 1 (all the noise)")
    return value


def _jobs(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text}: give a number of processes, 1 or more")
    return int(text)


def _part(text: str) -> tuple[int, int]:
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text}: give the number of the share and of all, such as 1/10")
    return int(first), int(count)


def _bytes(text: str) -> int:
    number, unit = text.lower().removesuffix("b").removesuffix("i"), ""
    if number[-1:] in UNITS:
        number, unit = number[:-1], number[-1]
    try:
        value = int(float(number) * UNITS[unit])
    except (ValueError, OverflowError):
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a size such as 800M or 1.5G")
    return value
