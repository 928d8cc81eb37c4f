"""Another runtime for the networks on a CPU: OpenVINO, where the environment variable MPTPN_BACKEND says so."""

import copy
import hashlib
import os
import tempfile
import warnings
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from mptpn.networks import RetractableTransformer
from mptpn.networks.aligned import AlignedTransformer

# differences from PyTorch, rms, in the noise's standard deviation: 5e-7, 7e-4 and 6e-3
PRECISIONS = {"openvino": "f32", "openvino-f16": "f16", "openvino-bf16": "bf16"}
VARIABLE = "MPTPN_BACKEND"


def accelerated(network: RetractableTransformer) -> RetractableTransformer:
    """The network, whose forward OpenVINO computes where it can and MPTPN_BACKEND is one of PRECISIONS.

    It can where no gradient is asked for, where the noise's correlation is not told, and on images (or tiles) whose
    sides are multiples of the network's alignment. All else PyTorch computes as before.

    Raises:
        ValueError: MPTPN_BACKEND is something else. ImportError: OpenVINO is not installed.
    """
    chosen = os.environ.get(VARIABLE, "torch")
    if chosen != "torch" and chosen not in PRECISIONS:
        raise ValueError(f"{VARIABLE}={chosen}: no such backend; choose torch, {', '.join(PRECISIONS)}.")
    if chosen in PRECISIONS and isinstance(network, RetractableTransformer) and network.description is None:
        network.forward = _Forward(network, PRECISIONS[chosen])
    return network


class _Forward:
    """forward of a network that is compiled beside it; a copy of the network, whose weights may change, has its own."""

    def __init__(self, network: RetractableTransformer, precision: str):
        self.network, self.compiled = network, Compiled(network, precision)

    def __call__(self, noisy: Tensor, correlation: Tensor | None = None) -> Tensor:
        whole = all(side % self.network.alignment == 0 for side in noisy.shape[2:])
        if torch.is_grad_enabled() or self.network.training or correlation is not None or not whole or noisy.is_cuda:
            return RetractableTransformer.forward(self.network, noisy, correlation)
        return self.compiled(noisy)

    def __deepcopy__(self, memo: dict) -> partial:
        return partial(RetractableTransformer.forward, copy.deepcopy(self.network, memo))


class Compiled:
    """A network compiled by OpenVINO for each size of image that comes; callable on [B, C, H, W]."""

    def __init__(self, network: RetractableTransformer, precision: str):
        try:
            import openvino
        except ImportError:
            raise ImportError(f"{VARIABLE} asks for OpenVINO, which is missing; pip install mptpn[openvino].") from None
        self.openvino, self.core = openvino, openvino.Core()
        self.network, self.precision = network, precision
        self.of_size = lru_cache(maxsize=4)(self._of_size)

    def __call__(self, noisy: Tensor) -> Tensor:
        found = self.of_size(tuple(noisy.shape)).infer_new_request([noisy.float().contiguous().numpy()])
        return torch.from_numpy(next(iter(found.values())))

    def _of_size(self, shape: tuple[int, ...]):
        model = self.core.read_model(self._converted())
        model.reshape(list(shape))
        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": self.precision}
        return self.core.compile_model(model, "CPU", settings)

    def _converted(self) -> Path:
        """The network in OpenVINO's form, kept in the user's cache, for the conversion takes seconds."""
        digest = hashlib.sha256(repr(sorted(self.network.arguments.items())).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mptpn"
        path = folder / f"openvino-{version('openvino')}-{digest.hexdigest()[:16]}.xml"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            side = self.network.alignment
            with torch.no_grad(), tempfile.TemporaryDirectory(dir=folder) as new, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of tracing: the sizes that it sees are whole groups at every size
                example = torch.zeros(1, self.network.channels, 2 * side, 2 * side)
                model = self.openvino.convert_model(AlignedTransformer(self.network), example_input=example)
                self.openvino.save_model(model, Path(new) / path.name, compress_to_fp16=False)
                for name in (path.with_suffix(".bin").name, path.name):  # the second says that both are whole
                    os.replace(Path(new) / name, folder / name)
        return path
