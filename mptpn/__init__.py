"""Medical image denoising when there is no clean truth: noise estimation, pair synthesis, profound denoising."""

import importlib
import importlib.util

__version__ = "0.1.0"


def __getattr__(name: str):
    """The names of mptpn.public open when one is first asked for: the package itself is quick to import, and no notebook stands on what it does not use."""
    if not name.startswith("_") and importlib.util.find_spec(f"mptpn.{name}") is None:  # `from mptpn import noise` asks here before it imports the module
        public = importlib.import_module("mptpn.public")
        if name in public.__all__:
            return getattr(public, name)
    raise AttributeError(f"module 'mptpn' has no attribute {name!r}")
