"""Medical image denoising when there is no clean truth: noise estimation, pair synthesis, profound denoising."""

import importlib

__version__ = "0.2.0"
PUBLIC = {
    "denoise": "mptpn.api",
    "denoise_image": "mptpn.api",
    "denoise_dask": "mptpn.lazy",
    "estimate_noise": "mptpn.api",
    "train": "mptpn.api",
    "enlarge": "mptpn.api",
    "explore": "mptpn.viewers.jupyter",
    "segment": "mptpn.api",
    "load": "mptpn.networks",
}


def __getattr__(name: str):
    """The public names open when one is first asked for, so that the package itself is quick to import."""
    if name in PUBLIC:
        return getattr(importlib.import_module(PUBLIC[name]), name)
    raise AttributeError(f"module 'mptpn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *PUBLIC])
