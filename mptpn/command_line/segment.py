"""The commands mptpn segment and mptpn train-segment."""

import argparse
import json
import warnings
from pathlib import Path

from mptpn.command_line.console import complain, told


def add_commands(commands: argparse._SubParsersAction, files: dict, size) -> None:
    """Add both to the parser; files: how images are named; size: reads bytes such as 1G."""
    segment = commands.add_parser("segment", help="find what a prompt names in images, or say that it is not there")
    segment.set_defaults(run=_segment)
    segment.add_argument("images", **files | {"nargs": "*"})
    add = segment.add_argument
    add("--prompt", help='what to look for, such as "large nuclei in the left half"')
    add("--out", type=files["type"], help="folder of the masks, overlays and reports")
    add("--prompts", action="store_true", help="list what the weights know")
    add("--instances", action="store_true", help="write the numbers of the pieces too, NAME.instances.tif")
    add("--denoise", action="store_true", help="denoise each image before it is asked")
    add("--model", default="segmentation", help="weights from mptpn train-segment; default: those of the package")
    add("--memory", type=size, help="bytes that the process may hold in all, such as 1G")
    add("--overwrite", action="store_true", help="replace earlier results")
    train = commands.add_parser("train-segment", help="learn to segment from a folder with img/, mask/, prompts.csv")
    train.set_defaults(run=_train_segment)
    add = train.add_argument
    add("folder", type=Path)
    add("--prompt", default="", help="what the masks show, where there is no prompts.csv")
    add("--out", type=Path, required=True, help="the weights, .safetensors")
    add("--minutes", type=float, default=8.0, help="wall-clock budget, default %(default)g")
    words = "own (the default): words are learned with the network; wordllama; or the folder of a BERT model"
    add("--encoder", default="own", help=words)
    add("--accelerator", default="auto", choices=("cpu", "cuda", "auto"))
    add("--seed", type=int, default=0)


def _segment(options: argparse.Namespace) -> int:
    from mptpn.segmentation import Segmenter, Settings, segment_files

    segmenter = Segmenter.load(options.model)
    if options.prompts:
        for target in segmenter.targets:
            print(f"{target.name}{f' ({target.images})' if target.images else ''}")
        return 0
    if not options.images or options.prompt is None or options.out is None:
        raise ValueError('give images, --prompt "..." and --out FOLDER; --prompts lists what the weights know.')
    warnings.showwarning = lambda message, *_: complain(options, str(message))
    names = ("out", "prompt", "instances", "memory", "overwrite")
    settings = Settings(**{n: getattr(options, n) for n in names}, denoise=_denoised if options.denoise else None)
    failed = False
    for one in told(options, segment_files(options.images, segmenter, settings)):
        if one.failure:
            failed = True
        else:
            print(f"{one.result}: {one.message}", flush=True)
    return int(failed)


def _denoised(pixels):
    from mptpn.api import denoise

    return denoise(pixels).image


def _train_segment(options: argparse.Namespace) -> int:
    from mptpn.atomic import write_atomically
    from mptpn.segmentation import read_folder, train_folder
    from mptpn.training import launch

    examples, targets = read_folder(options.folder, prompt=options.prompt)
    about = {"fabric": launch(accelerator=options.accelerator), "seconds": 60 * options.minutes, "seed": options.seed}
    about["encoder"] = options.encoder
    segmenter, report = train_folder(examples, targets, checkpoint=options.out.with_suffix(".checkpoint"), **about)
    segmenter.save(options.out, {"name": options.out.stem} | report)
    text = json.dumps(report, indent=1) + "\n"
    write_atomically(options.out.with_suffix(".json"), lambda path: path.write_text(text))
    for path in (options.out.with_suffix(".checkpoint"), options.out.with_suffix(".checkpoint.best")):
        path.unlink(missing_ok=True)
    found = ", ".join(f"{name} {value:.3f}" for name, value in report["validation_dice"].items())
    print(f"{options.out}: {report['steps']} steps; Dice on the {report['validation']} images kept aside: {found}")
    return 0
