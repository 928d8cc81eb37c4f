"""Noise2Void (Krull et al. 2019) by CAREamics on one image, in an environment of its own: PYTHON reproduce/careamics_peer.py IN.npy OUT.npy

That environment holds CAREamics (`pip install "careamics>=0.3,<0.4"`), nothing of this package; the setting MPTPN_CAREAMICS names its Python for notebook 10.
The network learns from the one image IN, float32 [H, W], with the defaults of CAREamics 0.3; MPTPN_CAREAMICS_STEPS (default 1000) is its budget.
"""

import os
import sys
import tempfile

import numpy as np

EPOCH, BATCH, PATCH = 50, 16, 64  # steps, patches a step, px at most


def main(source: str, target: str) -> None:
    """Train on IN, denoise IN, write OUT, float32 [H, W]."""
    from careamics import CAREamist
    from careamics.config import create_n2v_config

    image = np.load(source).astype(np.float32)
    steps = int(os.environ.get("MPTPN_CAREAMICS_STEPS", "1000"))
    patch = min(PATCH, min(image.shape) // 8 * 8)
    copies = -(-min(steps, EPOCH) * BATCH // ((image.shape[0] // patch) * (image.shape[1] // patch)))  # an epoch goes through the data once
    shape = {"data_type": "array", "axes": "SYX", "patch_size": [patch, patch], "batch_size": BATCH}
    config = create_n2v_config("peer", num_epochs=-(-steps // EPOCH), n_val_patches=BATCH, **shape)
    with tempfile.TemporaryDirectory() as folder:
        careamist = CAREamist(config, work_dir=folder, enable_progress_bar=False)
        careamist.train(train_data=np.stack([image] * copies))
        found, _ = careamist.predict(image[None], tile_size=(128, 128))
    np.save(target, np.asarray(found[0], dtype=np.float32).reshape(image.shape))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
