"""The three stages: a blind-spot network on noisy images, pairs from photographs, a transformer on the pairs.

`three_stages` is the whole method; the functions that it calls do a step each. The files of the stages do not import
each other, only `pipeline` joins them.
"""

from mptpn.stages.pipeline import (
    SetNoise,
    ThreeStages,
    estimate_set,
    measure_set,
    noise_model_of,
    refine_noise,
    stage_1,
    stage_2,
    stage_3,
    three_stages,
)
from mptpn.stages.synthesis import PairSynthesis, target_statistics

__all__ = [
    "PairSynthesis",
    "SetNoise",
    "ThreeStages",
    "estimate_set",
    "measure_set",
    "noise_model_of",
    "refine_noise",
    "stage_1",
    "stage_2",
    "stage_3",
    "target_statistics",
    "three_stages",
]
