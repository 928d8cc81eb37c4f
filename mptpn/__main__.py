"""The command mptpn: noise, denoise, train, enlarge, segment, train-segment."""

import argparse
import json
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path

from mptpn import faults
from mptpn.console import complain, told
from mptpn.segment_command import add_commands

UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
DOUBTED = 3  # exit code of --strict
AXES = "names of the axes of the files, such as TCZYX or YXC, where they say none or others; each C has its own noise"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 1 after a sentence on what is wrong."""
    _open_closed()
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except BrokenPipeError:  # nobody reads what is printed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        complain(options, faults.sentence(error), faults.trace(error))
        return 1
    except KeyboardInterrupt:
        again = "" if options.command == "noise" else "; give the same command again and it goes on"
        print(f"\nmptpn {options.command}: stopped{again}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mptpn", description="Denoise medical images without a clean truth.")
    commands = parser.add_subparsers(dest="command", required=True)
    files = {"nargs": "+", "type": Path, "metavar": "IN"}
    files["help"] = "files or folders: DICOM (a series is one scan), NIfTI, TIFF, PNG, JPEG, BMP or .npy"
    noise = commands.add_parser("noise", help="estimate the noise of images")
    noise.set_defaults(run=_noise)
    noise.add_argument("images", **files)
    noise.add_argument("--together", action="store_true", help="the images share one noise model: one estimate for all")
    noise.add_argument("--axes", type=str.upper, help=AXES)
    noise.add_argument("--json", action="store_true", help="print numbers, not sentences")
    noise.add_argument("--csv", type=Path, help="also a table, one row a file: level, gain, read noise, intervals")
    denoise = commands.add_parser("denoise", help="denoise files; a report beside each result says how far to trust it")
    denoise.set_defaults(run=_denoise)
    denoise.add_argument("images", **files)
    _add_denoise_options(denoise)
    train = commands.add_parser("train", help="learn a denoiser from a folder of noisy images alone; can be continued")
    train.set_defaults(run=_train)
    _add_train_options(train)
    enlarge = commands.add_parser("enlarge", help="super-resolution by 2 or 4")
    enlarge.set_defaults(run=_enlarge)
    enlarge.add_argument("image", type=Path, metavar="IN", help="one image; of several slices the middle one")
    enlarge.add_argument("--out", type=Path, required=True, help="the larger image, .npy or .tif")
    enlarge.add_argument("--scale", type=int, default=2, choices=(2, 4))
    enlarge.add_argument("--tile", type=int, default=0, help="side of tiles, px, for little memory; 0: the whole image")
    add_commands(commands, files, _bytes)
    for command in commands.choices.values():
        command.add_argument("--debug", action="store_true", help="print where in the program a fault came from")
    return parser


def _add_denoise_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the results")
    known = (
        "auto (the default): the pretrained network for the noise of each scan; small, correlated, base or tiny (a "
        "preview): this one; "
    )
    known += "self: train on each scan and on nothing else; or weights from mptpn train, .safetensors"
    add("--model", default="auto", help=known)
    add("--strength", type=_strength, default=1.0, help="0 (the input) to 1, default %(default)g")
    minutes = "of --model self: wall-clock budget on each scan, default %(default)g"
    add("--minutes", type=float, default=3.0, help=minutes)
    adapt = "adapt the pretrained network to each scan first; on one core about this time, in a fixed number of steps"
    add("--adapt", type=float, metavar="MINUTES", help=adapt)
    memory = "bytes that the process may hold in all, such as 1G; default: half of what is free more than now"
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
    add("--seed", type=int, default=0)


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


def _noise(options: argparse.Namespace) -> int:
    from mptpn.jobs import noise_files
    from mptpn.tables import NOISE, add_row, noise_row

    failed, found = False, []
    warnings.showwarning = lambda message, *_: complain(options, str(message))
    if options.csv:
        options.csv.open("w").close()
    for one in told(options, noise_files(options.images, together=options.together, axes=options.axes)):
        if one.failure:
            failed = True
        elif options.json:
            found.append({"file": str(one.file), "unit": one.unit} | one.estimate.to_dict())
        else:
            print(f"{one.file}: {one.estimate}", flush=True)
        if options.csv:
            row = noise_row(one.file, one.unit, one.estimate) if one.estimate else {"file": one.file}
            add_row(options.csv, NOISE, row | {"failure": one.failure})
    if options.json:
        print(json.dumps(found, indent=1))
    return int(failed)


def _denoise(options: argparse.Namespace) -> int:
    from mptpn.batch import Settings
    from mptpn.inference.assessment import USE
    from mptpn.jobs import denoise_with

    names = ("out", "model", "strength", "minutes", "memory", "overwrite", "uncertainty", "report", "seed")
    names += ("adapt", "axes", "part", "parametric_map")
    settings = Settings(**{name: getattr(options, name) for name in names})
    failed = doubted = False
    warnings.showwarning = lambda message, *_: complain(options, str(message))
    for one in told(options, denoise_with(options.jobs, options.images, settings)):
        if one.failure:
            failed = True
        else:
            print(f"{one.result or one.file}: {one.message or 'not judged'}", flush=True)
            doubted |= one.verdict not in ("", USE)
    return 1 if failed else DOUBTED if options.strict and doubted else 0


def _open_closed() -> None:
    """Opens the standard channels that the caller has closed: else the next file would be taken for one of them."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # for as long as the process lives
    sys.stderr = _Patient(sys.stderr)


class _Patient:
    """An error channel that passes over what it cannot write: a full disk behind it stops no work."""

    def __init__(self, channel):
        self._channel = channel

    def __getattr__(self, name: str):
        return getattr(self._channel, name)

    def write(self, words: str) -> int:
        with suppress(OSError):
            self._channel.write(words)
        return len(words)

    def flush(self) -> None:
        with suppress(OSError):
            self._channel.flush()


def _train(options: argparse.Namespace) -> int:
    from mptpn import api
    from mptpn.training import launch

    photos = api.read_folder(options.photos)[0] if options.photos else ()
    settings = {"fabric": launch(accelerator=options.accelerator), "photos": photos, "seed": options.seed}
    about = api.train(options.folder, out=options.out, minutes=options.minutes, **settings)
    steps, report = " and ".join(map(str, about["steps"])), options.out.with_suffix(".json")
    done = f"trained on {len(about['images'])} images, {steps} steps, {about['seconds']:.0f} s"
    print(f"{options.out}: {done}; report in {report}")
    return 0


def _enlarge(options: argparse.Namespace) -> int:
    from mptpn import api
    from mptpn.io import read_image, write_image

    image = read_image(options.image)
    larger = api.enlarge_image(image, scale=options.scale, tile=options.tile)
    print(write_image(options.out, larger))
    return 0


if __name__ == "__main__":
    sys.exit(main())
