"""Weights that describe themselves: a safetensors file with the network's name, its arguments and a note."""

import json
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from mptpn.atomic import write_atomically
from mptpn.networks.schema import arguments_of, check_state
from mptpn.networks.transformer import RetractableTransformer
from mptpn.random import seeded

DENOISERS = {name: name for name in ("small", "correlated", "base", "colour", "tiny")}  # see MODEL_CARD.md
ENLARGERS = {"x2": "super_resolution_x2", "x4": "super_resolution_x4"}  # trained by notebook 08
SEGMENTERS = {"segmentation": "segmentation"}
OTHERS = {  # kinds that do not denoise: what is offered instead of a file that is not there
    "SegmentationNetwork": {"offered": SEGMENTERS, "command": "train-segment"},
    "SuperResolutionNetwork": {"offered": ENLARGERS},
}
KEPT = {"white_noise": "false", "note": "{}"}  # what a file says beside its arguments, and where it does not
RENAMED = {"hole": "half_size"}  # arguments of networks, as weights files of version 0.1.0 name them


def load(name: str) -> RetractableTransformer:
    """A pretrained denoiser in eval mode, for `profound.denoise`; its attribute `about` is the note of its file.

    Args:
        name: "small", "base" or "tiny" (a preview), for white noise in gray images (each channel of colour is one);
            "correlated", for other noise, which it must be told; "colour", for three channels with noise of one level.
    Raises:
        ValueError: another name.
    """
    names = pretrained_paths(DENOISERS)
    if not isinstance(name, str) or name not in names:
        raise ValueError(
            f"network {name!r} is no denoiser of the package; choose one of {', '.join(names)}, "
            "or read your own with mptpn.networks.load_weights."
        )
    network, network.about = load_weights(name, RetractableTransformer)
    return network


def pretrained_paths(stems: dict[str, str] = DENOISERS | ENLARGERS | SEGMENTERS) -> dict[str, Path]:
    """Paths of the networks that come with the package, by name."""
    paths = {name: Path(str(files("mptpn") / "weights" / f"{stem}.safetensors")) for name, stem in stems.items()}
    return {name: path for name, path in paths.items() if path.is_file()}


def weights_path(model: str | Path, *, offered: Iterable[str] = DENOISERS, command: str = "train") -> Path:
    """Path of a network of the package, given its name, or of the user's file, given its path.

    Args:
        offered: names of the networks that do what is asked, for the message; command: what trains others.
    Raises:
        FileNotFoundError: neither.
    """
    path = pretrained_paths().get(str(model), Path(model))
    if not path.is_file():
        near = get_close_matches(str(model), offered, n=1)
        meant = f"; did you mean {near[0]}?" if near else "."
        raise FileNotFoundError(
            f"{model}: no such weights file; give one from mptpn {command}, or a network of the package: "
            f"{', '.join(offered)}{meant}"
        )
    return path


def save_weights(
    path: str | Path,
    network: nn.Module,
    *,
    arguments: dict,
    note: dict | None = None,
    half: bool = False,
    white_noise: bool = False,
) -> Path:
    """Write a network's state, and what is needed to build it again.

    Args:
        path: ends in .safetensors; an older file survives a failed write.
        network: any module.
        arguments: keyword arguments of its constructor, JSON values.
        note: anything worth keeping beside it (data, steps, metrics), JSON values.
        half: in half precision, half the size; the network that is read back computes in float32.
        white_noise: the network was trained for white noise of one level; other noise is stabilised and whitened
            before it.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    if half:
        state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    about = {"network": type(network).__name__, "arguments": json.dumps(arguments), "note": json.dumps(note or {})}
    about["white_noise"] = json.dumps(white_noise)
    return write_atomically(path, lambda temporary: save_file(state, temporary, metadata=about))


def load_weights(path: str | Path, *kinds: type[nn.Module]) -> tuple[nn.Module, dict]:
    """Build the network that a file describes, in eval mode, and return it with its note.

    Its attribute `for_white_noise` is what save_weights was given as white_noise; False for files of version 0.1.0,
    which do not hold it.

    Args:
        path: written by save_weights, or the name of a network of the package.
        kinds: the classes that are welcome.
    Raises:
        FileNotFoundError, ValueError: no such file; not a weights file; a network of another kind.
    """
    welcome = {kind.__name__: kind for kind in kinds}
    path = weights_path(path, **next((OTHERS[name] for name in welcome if name in OTHERS), {}))
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            kind = welcome.get(about.get("network"))
            if kind is None:
                names = ", ".join(welcome)
                raise ValueError(f"{path}: holds {about.get('network')!r:.40}; expected one of {names}.")
            arguments = arguments_of(kind, about.get("arguments"), RENAMED)
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
            check_state(kind, arguments, shapes)
            state = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({error}); pickled checkpoints are not read.") from error
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: its {str(error).rstrip('.')}; give weights that mptpn train has written.") from None
    if bad := [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]:
        raise ValueError(f"{path}: its tensor {bad[0]!r:.60} holds NaN or infinite numbers; train it again.")
    with seeded(0):  # its first weights are drawn, and replaced at once
        network = kind(**arguments)
    network.load_state_dict(state)
    network.for_white_noise, note = (_json(about.get(name, default)) for name, default in KEPT.items())
    if isinstance(network, RetractableTransformer):
        network = network.to(memory_format=torch.channels_last)  # as its tokens lie: a third less time on a CPU
    return network.eval(), note


def _json(text: str) -> object:
    """A value of the file's note; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
