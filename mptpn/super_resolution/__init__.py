"""Super-resolution: the network that enlarges images, bicubic resizing, and the scores that papers print."""

from mptpn.super_resolution.bicubic import as_bytes, as_floats, check_scale, crop_to_multiple, resize, shrink
from mptpn.super_resolution.inference import enlarge, scores, seams
from mptpn.super_resolution.network import SuperResolutionNetwork, start_from

__all__ = [
    "SuperResolutionNetwork",
    "as_bytes",
    "as_floats",
    "check_scale",
    "crop_to_multiple",
    "enlarge",
    "resize",
    "scores",
    "seams",
    "shrink",
    "start_from",
]
