"""Medical image denoising when there is no clean truth: noise estimation, pair synthesis, profound denoising."""

import importlib

__version__ = "0.1.0"
__all__ = ["denoise", "estimate_noise"]
_HOMES = {"denoise": "mptpn.denoise", "estimate_noise": "mptpn.door"}


def __getattr__(name: str):
    """The door opens when something is first asked of it: the package itself stays quick to import, and no notebook stands on what it does not use."""
    if name in __all__:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mptpn' has no attribute {name!r}")
