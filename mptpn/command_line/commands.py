"""The commands mptpn noise, denoise, train and enlarge; each imports what it needs when it runs."""

import argparse
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from mptpn.command_line.console import complain, told

if TYPE_CHECKING:
    from mptpn.noise import NoiseEstimate

DOUBTED = 3  # exit code of --strict
MINUTES = 3.0  # of --model self
STORED = "stored value"  # the unit of a file that names none


def noise(options: argparse.Namespace) -> int:
    """Print the noise of files, or write it as a table; the exit code is 1 where a file failed."""
    from mptpn.command_line.jobs import noise_files
    from mptpn.command_line.tables import NOISE, add_row, noise_row

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
            print(f"{one.file}: {_with_unit(one.estimate, one.unit)}", flush=True)
        if options.csv:
            row = noise_row(one.file, one.unit, one.estimate) if one.estimate else {"file": one.file}
            add_row(options.csv, NOISE, row | {"failure": one.failure})
    if options.json:
        print(json.dumps(found, indent=1))
    return int(failed)


def _with_unit(estimate: "NoiseEstimate", unit: str) -> str:
    first, *findings = str(estimate).splitlines()
    return "\n".join([first + f" {unit}" * (unit not in ("", STORED)), *findings])


def denoise(options: argparse.Namespace) -> int:
    """Denoise files; the exit code is 1 where one failed, and with --strict 3 where a result is doubted."""
    if options.minutes is not None and options.model != "self":
        options.refuse("--minutes is the budget of --model self; give --model self, or leave --minutes out")
    if options.parametric_map and not options.uncertainty:
        options.refuse("--parametric-map writes the uncertainty; give --uncertainty too")
    options.minutes = MINUTES if options.minutes is None else options.minutes
    from mptpn.batch import Settings
    from mptpn.command_line.jobs import denoise_with
    from mptpn.inference.assessment import USE

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


def train(options: argparse.Namespace) -> int:
    """Train on a folder and write weights and a report."""
    _check_free(options, options.out, *(options.out.with_suffix(end) for end in (".stage1.safetensors", ".json")))
    from mptpn import api
    from mptpn.training import launch

    photos = api.read_folder(options.photos)[0] if options.photos else ()
    settings = {"fabric": launch(accelerator=options.accelerator), "photos": photos, "seed": options.seed}
    about = api.train(options.folder, out=options.out, minutes=options.minutes, **settings)
    steps, report = " and ".join(map(str, about["steps"])), options.out.with_suffix(".json")
    done = f"trained on {len(about['images'])} images, {steps} steps, {about['seconds']:.0f} s"
    print(f"{options.out}: {done}; report in {report}")
    return 0


def enlarge(options: argparse.Namespace) -> int:
    """Write the larger image."""
    _check_free(options, options.out)
    from mptpn import api
    from mptpn.io import read_image, write_image

    image = read_image(options.image)
    larger = api.enlarge_image(image, scale=options.scale, tile=options.tile)
    print(write_image(options.out, larger))
    return 0


def _check_free(options: argparse.Namespace, *paths: Path) -> None:
    """Raises FileExistsError where one of these is there and may not be replaced."""
    for path in paths:
        if path.is_file() and not options.overwrite:
            raise FileExistsError(f"{path}: exists already; choose another name, or replace it with --overwrite.")
