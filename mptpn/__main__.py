"""The command mptpn: noise (a report on images), train (stages 1 to 3 on a folder of noisy images)."""

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 1 after a sentence on what is wrong."""
    parser = argparse.ArgumentParser(prog="mptpn", description="Denoise medical images without a clean truth.")
    commands = parser.add_subparsers(dest="command", required=True)
    noise = commands.add_parser("noise", help="say what the noise of images is")
    noise.add_argument("images", nargs="+", type=Path, help="DICOM, NIfTI, TIFF, PNG, JPEG or .npy; each is judged alone")
    noise.add_argument("--together", action="store_true", help="the images share one noise law: one report for all")
    train = commands.add_parser("train", help="learn a denoiser from a folder of noisy images alone; a stopped command goes on when it is given again")
    train.add_argument("folder", type=Path, help="folder of noisy images, best of 64 x 64 pixels or more")
    train.add_argument("--out", type=Path, required=True, help="the denoiser's weights, .safetensors")
    train.add_argument("--minutes", type=float, default=8.0, help="wall-clock budget of the trainings, default %(default)g")
    train.add_argument("--photos", type=Path, help="folder of clean natural photographs; default: those inside the installed packages")
    train.add_argument("--accelerator", default="auto", choices=("cpu", "cuda", "auto"))
    train.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        return _noise(options) if options.command == "noise" else _train(options)
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        print(f"mptpn {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nmptpn {options.command}: stopped" + ("; give the same command again and it goes on" if options.command == "train" else ""), file=sys.stderr)
        return 130


def _noise(options: argparse.Namespace) -> int:
    from mptpn.door import estimate_noise

    failures = 0
    for group in [options.images] if options.together else [[path] for path in options.images]:
        try:
            print(f"{group[0]}{f' and {len(group) - 1} more' if len(group) > 1 else ''}: {estimate_noise(group)}")
        except (ValueError, OSError) as error:
            failures += 1
            print(f"mptpn noise: {error}", file=sys.stderr)
    return min(failures, 1)


def _train(options: argparse.Namespace) -> int:
    from mptpn import door, training

    photos = door.read_folder(options.photos)[0] if options.photos else ()
    about = door.train(
        options.folder, out=options.out, minutes=options.minutes, fabric=training.launch(accelerator=options.accelerator), photos=photos, seed=options.seed
    )
    steps = " and ".join(map(str, about["steps"]))
    print(f"{options.out}: trained on {len(about['images'])} images, {steps} steps, {about['seconds']:.0f} s; report in {options.out.with_suffix('.json')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
