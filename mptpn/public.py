"""What `import mptpn` offers: one name for each thing a user does."""

from mptpn.denoised import denoise
from mptpn.door import estimate_noise
from mptpn.pretrained import load

__all__ = ["denoise", "estimate_noise", "load"]
