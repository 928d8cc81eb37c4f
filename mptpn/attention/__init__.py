"""Attention among pixels: dense and sparse windows, whole-image groups, and tokens grouped by hashing."""

from mptpn.attention.hashed import BACKENDS as HASHED_BACKENDS
from mptpn.attention.hashed import hashed_attention, rotations_from_seed
from mptpn.attention.position_bias import DynamicPositionBias, RelativePositionBias
from mptpn.attention.retractable import BACKENDS as RETRACTABLE_BACKENDS
from mptpn.attention.retractable import retractable_attention
from mptpn.attention.retractable_torch import attention_in_groups, groups_in_turn
from mptpn.attention.whole_image import whole_image_attention

__all__ = [
    "DynamicPositionBias",
    "HASHED_BACKENDS",
    "RETRACTABLE_BACKENDS",
    "RelativePositionBias",
    "attention_in_groups",
    "groups_in_turn",
    "hashed_attention",
    "retractable_attention",
    "rotations_from_seed",
    "whole_image_attention",
]
