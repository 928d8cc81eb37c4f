"""Noise2Void (Krull et al. 2019) by CAREamics on one image, in an environment of its own: PYTHON reproduce/careamics_peer.py IN.npy OUT.npy

That environment holds CAREamics (`pip install careamics`) and nothing of this package; the setting MPTPN_CAREAMICS names its Python for notebook 10.
The network learns from the one image IN, float32 [H, W], with CAREamics' defaults; MPTPN_CAREAMICS_EPOCHS (default 50) is its budget.
"""

import os
import sys
import tempfile

import numpy as np


def main(source: str, target: str) -> None:
    """Train on IN, denoise IN, write OUT, float32 [H, W]."""
    from careamics import CAREamist
    from careamics.config import create_n2v_configuration

    image = np.load(source).astype(np.float32)
    epochs = int(os.environ.get("MPTPN_CAREAMICS_EPOCHS", "50"))
    config = create_n2v_configuration(experiment_name="peer", data_type="array", axes="YX", patch_size=[64, 64], batch_size=16, num_epochs=epochs)
    with tempfile.TemporaryDirectory() as folder:
        careamist = CAREamist(source=config, work_dir=folder)
        careamist.train(train_source=image, val_percentage=0.1)
        found = careamist.predict(source=image, data_type="array", axes="YX", tile_size=(128, 128), tile_overlap=(48, 48))
    np.save(target, np.asarray(found, dtype=np.float32).reshape(image.shape))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
