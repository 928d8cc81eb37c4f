"""The command mptpn: noise (a report on images), denoise (files in, files of the same type out), train (stages 1 to 3
on a folder of noisy images).
"""

import argparse
import json
import sys
from pathlib import Path

UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
AGAIN = "; give the same command again and it goes on"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 1 after a sentence on what is wrong."""
    options = _parser().parse_args(arguments)
    try:
        return {"noise": _noise, "denoise": _denoise, "train": _train}[options.command](options)
    except (ValueError, OSError, RuntimeError, FloatingPointError, MemoryError) as error:
        print(f"mptpn {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nmptpn {options.command}: stopped" + ("" if options.command == "noise" else AGAIN), file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mptpn", description="Denoise medical images without a clean truth.")
    commands = parser.add_subparsers(dest="command", required=True)
    files = {
        "nargs": "+",
        "type": Path,
        "metavar": "IN",
        "help": "files or folders: DICOM (a series is one scan), NIfTI, TIFF, PNG, JPEG, BMP or .npy",
    }
    noise = commands.add_parser("noise", help="say what the noise of images is")
    noise.add_argument("images", **files)
    noise.add_argument(
        "--together", action="store_true", help="the images share one noise noise model: one report for all"
    )
    noise.add_argument("--json", action="store_true", help="print numbers, not sentences")
    denoise = commands.add_parser(
        "denoise", help="denoise files; the results have their type, and a report each says how far to trust it"
    )
    denoise.add_argument("images", **files)
    denoise.add_argument("--out", type=Path, required=True, help="folder of the results")
    how = denoise.add_mutually_exclusive_group()
    how.add_argument(
        "--self",
        action="store_true",
        dest="on_itself",
        help="train on each scan itself and on nothing else (the default)",
    )
    how.add_argument(
        "--model",
        type=Path,
        help="a network of the package (small, base: no training), or weights from mptpn train, .safetensors",
    )
    denoise.add_argument("--strength", type=_strength, default=1.0, help="0 (the input) to 1, default %(default)g")
    denoise.add_argument(
        "--minutes",
        type=float,
        default=3.0,
        help="wall-clock budget of training on each scan, default %(default)g; the report tells if it was too short",
    )
    denoise.add_argument(
        "--memory",
        type=_bytes,
        help="bytes that the process may hold in all, such as 1G; default: half of what is free more than now",
    )
    denoise.add_argument(
        "--uncertainty",
        action="store_true",
        help="write NAME.uncertainty.npy too: the error's standard deviation at each pixel",
    )
    denoise.add_argument("--overwrite", action="store_true", help="replace earlier results")
    denoise.add_argument("--seed", type=int, default=0)
    train = commands.add_parser(
        "train",
        help="learn a denoiser from a folder of noisy images alone; a stopped command goes on when it is given again",
    )
    train.add_argument(
        "folder",
        type=Path,
        help="noisy images, in it and below, best of 64 x 64 pixels or more; of a series or volume up to 16 slices",
    )
    train.add_argument("--out", type=Path, required=True, help="the denoiser's weights, .safetensors")
    train.add_argument(
        "--minutes", type=float, default=8.0, help="wall-clock budget of the trainings, default %(default)g"
    )
    train.add_argument(
        "--photos", type=Path, help="folder of clean natural photographs; default: those inside the installed packages"
    )
    train.add_argument("--accelerator", default="auto", choices=("cpu", "cuda", "auto"))
    train.add_argument("--seed", type=int, default=0)
    return parser


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
    from mptpn.batch import message, samples, to_dict, whole_slices
    from mptpn.io.files import open_scans

    scans, failures = open_scans(options.images)
    reports = []
    groups = [scans] if options.together and scans else [[scan] for scan in scans]
    for group in groups:
        name = f"{group[0].path}{f' and {len(group) - 1} more' if len(group) > 1 else ''}"
        try:
            of_scans = [whole_slices(scan, samples(scan)) for scan in group]
            images, subjects = sum(of_scans, []), [number for number, images in enumerate(of_scans) for _ in images]
            if not images:
                raise ValueError(f"{name}: no slice of at least 16 x 16 px holds noise.")
            found = estimate_noise(images, subjects=subjects)
        except (ValueError, OSError) as error:
            failures[name] = message(name, error)
            continue
        reports.append({"file": name, "unit": group[0].unit} | to_dict(found))
        if not options.json:
            print(f"{name}: {found}")
    if options.json:
        print(json.dumps(reports, indent=1))
    return _said("noise", failures)


def _denoise(options: argparse.Namespace) -> int:
    from mptpn.batch import Settings, denoise_files

    settings = Settings(
        out=options.out,
        model=options.model,
        strength=options.strength,
        minutes=options.minutes,
        memory=options.memory,
        overwrite=options.overwrite,
        uncertainty=options.uncertainty,
        seed=options.seed,
    )
    written, failures = denoise_files(options.images, settings)
    for path in written:
        print(f"{path}; report in {path.name}.trust.json and .trust.png")
    return _said("denoise", failures)


def _said(command: str, failures: dict[str, str]) -> int:
    for sentence in failures.values():
        print(f"mptpn {command}: {sentence}", file=sys.stderr)
    return min(len(failures), 1)


def _train(options: argparse.Namespace) -> int:
    from mptpn import api
    from mptpn.training import loop

    photos = api.read_folder(options.photos)[0] if options.photos else ()
    about = api.train(
        options.folder,
        out=options.out,
        minutes=options.minutes,
        fabric=loop.launch(accelerator=options.accelerator),
        photos=photos,
        seed=options.seed,
    )
    steps = " and ".join(map(str, about["steps"]))
    print(
        f"{options.out}: trained on {len(about['images'])} images, {steps} steps, {about['seconds']:.0f} s; report in {options.out.with_suffix('.json')}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
