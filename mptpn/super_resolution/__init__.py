"""Super-resolution: the network that enlarges images, and the bicubic resizing that made the test sets."""

from mptpn.super_resolution.bicubic import (
    as_bytes,
    as_floats,
    check_scale,
    crop_to_multiple,
    resize,
    shrink,
    to_eight_bit,
)
from mptpn.super_resolution.inference import enlarge
from mptpn.super_resolution.network import SuperResolutionNetwork, start_from

__all__ = [
    "SuperResolutionNetwork",
    "as_bytes",
    "as_floats",
    "check_scale",
    "crop_to_multiple",
    "enlarge",
    "resize",
    "shrink",
    "start_from",
    "to_eight_bit",
]
