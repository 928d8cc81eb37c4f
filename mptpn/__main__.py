"""The command mptpn: noise, denoise, train, enlarge, segment, train-segment."""

import argparse
import json
import sys
import warnings
from pathlib import Path

from mptpn.segment_command import add_commands

UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
DOUBTED = 3  # exit code of --strict
AXES = "names of the axes of the files, such as TCZYX or YXC, where they say none or others; each C has its own noise"
FAULTS = (ValueError, OSError, RuntimeError, FloatingPointError, MemoryError)  # become a sentence


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 1 after a sentence on what is wrong."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except FAULTS as error:
        print(f"mptpn {options.command}: {error}", file=sys.stderr)
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
    return parser


def _add_denoise_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the results")
    known = (
        "auto (the default): the pretrained network for the noise of each scan; small, correlated or base: this one; "
    )
    known += "self: train on each scan and on nothing else; or weights from mptpn train, .safetensors"
    add("--model", default="auto", help=known)
    add("--strength", type=_strength, default=1.0, help="0 (the input) to 1, default %(default)g")
    minutes = "of --model self: wall-clock budget on each scan, default %(default)g"
    add("--minutes", type=float, default=3.0, help=minutes)
    memory = "bytes that the process may hold in all, such as 1G; default: half of what is free more than now"
    add("--memory", type=_bytes, help=memory)
    error = "write NAME.uncertainty.npy too: the error's standard deviation at each pixel"
    add("--axes", type=str.upper, help=AXES)
    add("--uncertainty", action="store_true", help=error)
    kinds = "none; short (the default), a verdict, its numbers and three pictures; full, with the uncertainty too"
    add("--report", default="short", choices=("none", "short", "full"), help=kinds)
    add("--strict", action="store_true", help="exit with 3 where a result is not judged good")
    add("--overwrite", action="store_true", help="replace earlier results")
    add("--seed", type=int, default=0)


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
    from mptpn.api import estimate_noise
    from mptpn.batch import measured_together, message
    from mptpn.io import open_scans

    scans, failures = open_scans(options.images, axes=options.axes)
    estimates = []
    for group in [scans] if options.together and scans else [[scan] for scan in scans]:
        path = f"{group[0].path}{f' and {len(group) - 1} more' if len(group) > 1 else ''}"
        try:
            if group[0].axes.guess:
                print(f"{path}: {group[0].axes.guess}", file=sys.stderr)
            for name, of_scans in measured_together(group):
                subjects = [n for n, images in enumerate(of_scans) for _ in images]
                images, valid = (list(x) for x in zip(*sum(of_scans, []), strict=True))
                found = estimate_noise(images, valid=valid, subjects=subjects)
                estimates.append({"file": path + name, "unit": group[0].unit} | found.to_dict())
                if not options.json:
                    print(f"{path}{name}: {found}")
        except (ValueError, OSError) as error:
            failures[path] = message(path, error)
        finally:
            for scan in group:
                scan.close()
    if options.json:
        print(json.dumps(estimates, indent=1))
    return _failed("noise", failures)


def _denoise(options: argparse.Namespace) -> int:
    from mptpn import report
    from mptpn.batch import Settings, denoise_files
    from mptpn.inference.assessment import USE

    names = ("out", "model", "strength", "minutes", "memory", "overwrite", "uncertainty", "report", "seed", "axes")
    doubted = []

    def tell(path: Path, judged: list) -> None:
        """One line a file, as it is done."""
        print(f"{path}: {report.sentence(judged) if judged else 'not judged'}", flush=True)
        if judged and report.verdict(judged) != USE:
            doubted.append(path)

    warnings.showwarning = lambda message, *_: print(f"mptpn denoise: {message}", file=sys.stderr)
    _, failures = denoise_files(options.images, Settings(**{name: getattr(options, name) for name in names}), tell)
    return _failed("denoise", failures) or (DOUBTED if options.strict and doubted else 0)


def _failed(command: str, failures: dict[str, str]) -> int:
    for sentence in failures.values():
        print(f"mptpn {command}: {sentence}", file=sys.stderr)
    return min(len(failures), 1)


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
