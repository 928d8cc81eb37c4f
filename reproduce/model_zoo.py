"""Packages of the pretrained networks for the BioImage Model Zoo, and their ONNX files: one folder and one zip each.

    .venv/bin/python reproduce/model_zoo.py OUT            # all of them; needs pip install '.[zoo]'
    .venv/bin/python reproduce/model_zoo.py OUT small x2   # some; each is tested as `bioimageio test` does

Nothing is downloaded. Exit code 1 if a package fails its test.
"""

import argparse
import copy
import json
import sys
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from bioimageio.core import test_description
from bioimageio.spec import save_bioimageio_package, save_bioimageio_yaml_only
from bioimageio.spec.model import v0_5 as spec
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

from mptpn.networks import RetractableTransformer, load_weights
from mptpn.networks.weights import DENOISERS, ENLARGERS, pretrained_paths
from mptpn.random import generator
from mptpn.super_resolution import SuperResolutionNetwork, shrink
from mptpn.super_resolution.network import HashedAttention
from mptpn.zoo import ExportedDenoiser, ZooDenoiser, ZooEnlarger

NAMES = [name for name in (*DENOISERS, *ENLARGERS) if name != "correlated" and name in pretrained_paths()]
SIDE, STEP, HALO = 384, 128, 128  # px, of a denoiser: smallest tile, its step, and what is cut off around it
LOW, LOW_STEP, LOW_HALO = 96, 16, 16  # px, of the small image of an enlarger
TILE = f"tile_{LOW}.onnx"  # of an enlarger: beside the package's weights, for one size alone
LEVEL = 25 / 255  # standard deviation of the noise of the test image
OPSET = 18  # of ONNX
CLOSE = 1e-4  # largest difference of the test output, absolute and relative
PHOTOGRAPHS = {1: "camera.png", 3: "astronaut.png"}  # inside scikit-image, public domain
TERMS = (
    "The weights are for research only: the photographs that trained them are (BSDS500: non-commercial research and "
    "education; DIV2K: academic research only). Nobody has tested them for clinical use. The code is MIT."
)


@dataclass(frozen=True)
class Package:
    """What the package of a pretrained network is made of.

    Attributes:
        name: of the network. scale: of the output's sides over the input's.
        model: the module that the package names. arguments: of the network. source: its noisy or small test image.
    """

    name: str
    scale: int
    model: nn.Module
    arguments: dict
    source: Tensor

    @classmethod
    def of(cls, name: str) -> "Package":
        kind, wrapped = (
            (SuperResolutionNetwork, ZooEnlarger) if name in ENLARGERS else (RetractableTransformer, ZooDenoiser)
        )
        with safe_open(pretrained_paths()[name], framework="pt") as file:
            arguments = json.loads(file.metadata()["arguments"])
        model = wrapped(arguments).eval()
        model.network.load_state_dict(load_weights(name, kind)[0].state_dict())
        scale = model.network.scale if name in ENLARGERS else 1
        return cls(name, scale, model, arguments, _source(arguments.get("channels", 3), scale))

    @cached_property
    def about(self) -> dict:
        """What the file of the weights says of itself."""
        with safe_open(pretrained_paths()[self.name], framework="pt") as file:
            return json.loads(file.metadata()["note"])

    @cached_property
    def result(self) -> Tensor:
        with torch.no_grad():
            return self.model(self.source)

    @property
    def title(self) -> str:
        kind = f"super-resolution x{self.scale}" if self.scale > 1 else "blind image denoising"
        return f"mptpn {self.name} - {kind}"


def _source(channels: int, scale: int) -> Tensor:
    """The test image: a photograph with white noise, or made small."""
    path = Path(str(files("skimage") / "data" / PHOTOGRAPHS[channels]))
    pixels = np.asarray(Image.open(path).convert("RGB" if channels == 3 else "L"), np.float32) / 255
    image = torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1)[None]
    if scale > 1:
        side = scale * LOW
        return shrink(image[..., :side, 128 : 128 + side], scale=scale).float()
    image = image[..., :SIDE, 64 : 64 + SIDE]
    return image + LEVEL * torch.randn(image.shape, generator=generator(0, "model zoo", channels))


def build(package: Package, folder: Path) -> Path:
    """Write the files of a package and its description; returns the zip."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(package.model.state_dict(), folder / "weights.pt")
    weights = {"pytorch_state_dict": _state_dict(package, folder / "weights.pt")}
    if package.scale > 1:
        export_tile(package, folder / TILE)
    else:
        export(package, folder / "weights.onnx")
        weights["onnx"] = spec.OnnxWeightsDescr(
            source=folder / "weights.onnx", opset_version=OPSET, parent="pytorch_state_dict"
        )
    for stem, tensor in (("test_input", package.source), ("test_output", package.result)):
        np.save(folder / f"{stem}.npy", tensor.numpy())
    _cover(package, folder / "cover.png")
    (folder / "LICENSE.md").write_text(f"# Terms\n\n{TERMS}\n")
    (folder / "README.md").write_text(documentation(package))
    described = description(package, folder, spec.WeightsDescr(**weights))
    save_bioimageio_yaml_only(described, folder / "rdf.yaml")
    return save_bioimageio_package(described, output_path=folder.with_suffix(".zip"))


def export(package: Package, path: Path) -> None:
    """ONNX of a denoiser, for images whose sides are any multiples of its alignment."""
    rows, cols = (torch.export.Dim(name, min=1, max=64) for name in ("rows", "cols"))
    step = package.model.network.alignment
    torch.onnx.export(
        ExportedDenoiser(package.model.network).eval(),
        (package.source,),
        path,
        dynamo=True,
        dynamic_shapes={"noisy": {2: step * rows, 3: step * cols}},
        input_names=["noisy"],
        output_names=["denoised"],
        opset_version=OPSET,
        external_data=False,
        verbose=False,
    )


def export_tile(package: Package, path: Path) -> None:
    """ONNX of an enlarger, for small images of LOW x LOW px and no other: the hashing depends on the size."""
    model = copy.deepcopy(package.model)
    for part in model.modules():
        if isinstance(part, HashedAttention):
            part.backend = "gathered"  # in operations that ONNX knows
    with torch.no_grad():
        model(package.source)  # the weights of the bicubic image are chosen and kept: a trace could not choose them
    names = {"input_names": ["low"], "output_names": ["enlarged"]}
    settings = {"dynamo": True, "opset_version": OPSET, "external_data": False, "verbose": False}
    torch.onnx.export(model, (package.source,), path, **names, **settings)


def _state_dict(package: Package, path: Path) -> spec.PytorchStateDictWeightsDescr:
    architecture = spec.ArchitectureFromLibraryDescr(
        callable=type(package.model).__name__, import_from="mptpn.zoo", kwargs={"arguments": package.arguments}
    )
    version = torch.__version__.partition("+")[0]
    return spec.PytorchStateDictWeightsDescr(source=path, architecture=architecture, pytorch_version=version)


def _axes(package: Package, *, of_input: bool) -> list:
    """Batch of one, channels, rows and columns of the input or the output."""
    count = package.source.shape[1]
    names = [spec.Identifier(name) for name in (("red", "green", "blue") if count == 3 else ("intensity",))]
    axes = [spec.BatchAxis(size=1), spec.ChannelAxis(channel_names=names)]
    if of_input:
        least, step = (SIDE, STEP) if package.scale == 1 else (LOW, LOW_STEP)
        size = spec.ParameterizedSize(min=least, step=step)
        return [*axes, *(spec.SpaceInputAxis(id=spec.AxisId(name), size=size) for name in "yx")]
    halo = HALO if package.scale == 1 else package.scale * LOW_HALO
    for name in "yx":
        same = spec.SizeReference(tensor_id=spec.TensorId("input"), axis_id=spec.AxisId(name))
        axes.append(spec.SpaceOutputAxisWithHalo(id=spec.AxisId(name), size=same, halo=halo, scale=1 / package.scale))
    return axes


def description(package: Package, folder: Path, weights: spec.WeightsDescr) -> spec.ModelDescr:
    """The description by the specification 0.5 of the BioImage Model Zoo."""
    words = "in any unit" if package.scale == 1 else "0 to 1"
    close = spec.ReproducibilityTolerance(
        absolute_tolerance=CLOSE, relative_tolerance=CLOSE, mismatched_elements_per_million=0
    )
    kind = "image-super-resolution" if package.scale > 1 else "denoising"
    return spec.ModelDescr(
        name=package.title,
        description=summary(package),
        authors=[spec.Author(name="The mptpn authors")],
        maintainers=[],
        license=spec.FileDescr(source=folder / "LICENSE.md"),
        documentation=spec.FileDescr(source=folder / "README.md"),
        covers=[spec.FileDescr(source=folder / "cover.png")],
        attachments=[spec.FileDescr(source=folder / TILE)] if package.scale > 1 else [],
        tags=[kind, "pytorch", "2d", "transformer", "research-only"],
        version=spec.Version(version("mptpn")),
        inputs=[
            spec.InputTensorDescr(
                id=spec.TensorId("input"),
                description=f"image, {words}",
                axes=_axes(package, of_input=True),
                test_tensor=spec.FileDescr(source=folder / "test_input.npy"),
            )
        ],
        outputs=[
            spec.OutputTensorDescr(
                id=spec.TensorId("output"),
                description="the same image, " + ("larger" if package.scale > 1 else "denoised, in the same unit"),
                axes=_axes(package, of_input=False),
                test_tensor=spec.FileDescr(source=folder / "test_output.npy"),
            )
        ],
        weights=weights,
        config=spec.Config(bioimageio=spec.BioimageioConfig(reproducibility_tolerance=[close])),
    )


def summary(package: Package) -> str:
    if package.scale > 1:
        return f"Enlarges an image {package.scale} times; invents what is likely in photographs. Research only."
    colour = "colour" if package.source.shape[1] == 3 else "gray"
    return f"Removes white noise of any level from {colour} images; no level is stated. Research only."


def documentation(package: Package) -> str:
    """README.md of the package: what it does, how to use it, how to check it, its terms."""
    if package.scale > 1:
        scores = {f"Set5, image {name}": value for name, value in package.about["set5_psnr_db"].items()}
        use = (
            "The input is 0 to 1. Attention looks at the whole image: tiles with the halo agree with it but for small "
            f"seams. Do not measure on the result. `{TILE}` is ONNX for inputs of exactly {LOW} x {LOW} px."
        )
        check = "Make an image small by bicubic interpolation, enlarge it, and compare luma, without the border."
    else:
        names = {"cbsd68": "CBSD68", "bsd68": "BSD68", "set12": "Set12"}
        split = {tuple(key.rsplit("_", 1)): value for key, value in scores_of(package).items()}
        scores = {f"{names[images]}, sigma {level}": value for (images, level), value in split.items()}
        use = (
            "Any intensities will do: the network works in units of the noise that it finds in the image, a robust "
            "level of all pixels. Correlated noise passes for structure and stays; `mptpn denoise` of the Python "
            "package measures and treats it, and judges each result. The PyTorch weights take any size. The ONNX file "
            "takes sides that are multiples of 128 px and counts areas of one value as noise-free pixels. A tile is "
            "its own image to both: tiles whose noise differs are treated each by its own level."
        )
        check = "Add white Gaussian noise of sigma (of 255) to a clean image, denoise, cut to the range, and compare."
    rows = "\n".join(f"| {name} | {value:.2f} |" for name, value in scores.items())
    return (
        f"# {package.title}\n\n{summary(package)}\n\n## Use\n\n{use}\n\n"
        "The PyTorch weights need the Python package `mptpn` (its module `mptpn.zoo` names the architecture).\n\n"
        f"## Validation\n\n{check} PSNR as measured at its training:\n\n| images | PSNR, dB |\n|---|---|\n{rows}\n\n"
        f"## Terms\n\n{TERMS}\n"
    )


def scores_of(package: Package) -> dict[str, float]:
    return package.about["psnr_db"]


def _cover(package: Package, path: Path) -> None:
    """Input and result side by side, 2 : 1."""
    side = min(SIDE, package.result.shape[2]) // 2
    shown = nn.functional.interpolate(package.source, scale_factor=package.scale, mode="nearest")
    halves = [image[0, :, side // 2 : side // 2 + side, :side].clamp(0, 1) for image in (shown, package.result)]
    pixels = (torch.cat(halves, dim=2) * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels.squeeze()).save(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the packages")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in NAMES]:
        parser.error(f"there is no network {unknown[0]!r}; choose from {', '.join(NAMES)}")
    failed = 0
    for name in given.names or NAMES:
        path = build(Package.of(name), given.out / name)
        tested = test_description(path)
        failed += tested.status != "passed"
        print(f"{path}: {tested.status}")
        if tested.status != "passed":
            print(tested.format(), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
