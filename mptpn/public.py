"""What `import mptpn` offers: one name for each thing a user does."""

from mptpn.door import estimate_noise

__all__ = ["estimate_noise"]
