"""Segmentation by prompt: the question, the mask or *not found*, and the training."""

from mptpn.segmentation.examples import Crops, Example
from mptpn.segmentation.files import Outcome, Settings, segment_files
from mptpn.segmentation.folder import read_folder
from mptpn.segmentation.inference import Answer, Segmenter, normalised
from mptpn.segmentation.text import AskBack, Prompt, parse
from mptpn.segmentation.training import fit_segmenter, train_folder
from mptpn.segmentation.words import Target

__all__ = [
    "Answer",
    "AskBack",
    "Crops",
    "Example",
    "Outcome",
    "Prompt",
    "Segmenter",
    "Settings",
    "Target",
    "fit_segmenter",
    "normalised",
    "parse",
    "read_folder",
    "segment_files",
    "train_folder",
]
