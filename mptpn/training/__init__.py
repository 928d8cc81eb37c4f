"""The training loop, which knows no stage and no network."""

from mptpn.training.loop import Batch, code_hash, fit, launch, learning_rate

__all__ = ["Batch", "code_hash", "fit", "launch", "learning_rate"]
