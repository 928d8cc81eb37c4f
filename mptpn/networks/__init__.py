"""The networks, and the weights files that describe them."""

from mptpn.networks.blind_spot import BlindSpotNetwork
from mptpn.networks.noise_level import NoiseLevelNetwork, pretrained_noise_level
from mptpn.networks.segmentation import SegmentationNetwork
from mptpn.networks.transformer import RetractableTransformer
from mptpn.networks.weights import load, load_weights, pretrained_paths, save_weights, weights_path

__all__ = [
    "BlindSpotNetwork",
    "NoiseLevelNetwork",
    "RetractableTransformer",
    "SegmentationNetwork",
    "load",
    "load_weights",
    "pretrained_noise_level",
    "pretrained_paths",
    "save_weights",
    "weights_path",
]
