"""Noise2Void (Krull et al. 2019) by CAREamics on one image: PYTHON careamics_noise2void.py STEPS IN.npy OUT.npy

PYTHON's environment holds CAREamics (`pip install "careamics>=0.3,<0.4"`), nothing of this package; the variable
MPTPN_CAREAMICS names its Python for notebook 10. The network learns from the one image IN, float32 [H, W], for STEPS
steps with the defaults of CAREamics 0.3, on the processor and seed 1.
"""

import sys

sys.path.pop(0)  # this folder, whose modules have common names

import tempfile  # noqa: E402

import numpy as np  # noqa: E402

EPOCH, BATCH, PATCH, TILE = 50, 16, 64, 128  # steps, patches a step, px at most, px


def main(steps: int, source: str, target: str) -> None:
    """Train on IN, denoise IN, write OUT, float32 [H, W]."""
    from careamics import CAREamist
    from careamics.config import create_advanced_n2v_config

    image = np.load(source).astype(np.float32)
    patch = min(PATCH, min(image.shape) // 8 * 8)
    patches = (min(steps, EPOCH) + 1) * BATCH  # an epoch goes through the data once, less one batch for validation
    copies = -(-patches // ((image.shape[0] // patch) * (image.shape[1] // patch)))
    shape = {
        "data_type": "array",
        "axes": "SYX",
        "patch_size": [patch, patch],
        "batch_size": BATCH,
        "n_val_patches": BATCH,
    }
    # one process, whose threads OMP_NUM_THREADS says
    here = {"trainer_params": {"accelerator": "cpu"}, "num_workers": 0, "seed": 1}
    config = create_advanced_n2v_config(
        "baseline", num_epochs=-(-steps // EPOCH), num_steps=min(steps, EPOCH), **shape, **here
    )
    with tempfile.TemporaryDirectory() as folder:
        careamist = CAREamist(config, work_dir=folder, enable_progress_bar=False)
        careamist.train(train_data=np.stack([image] * copies))
        # CAREamics would pad a small image with zeros
        padded = np.pad(image, [(0, max(0, TILE - n)) for n in image.shape], mode="reflect")
        found, _ = careamist.predict(padded[None], tile_size=(TILE, TILE))
    np.save(target, np.asarray(found[0], dtype=np.float32).reshape(padded.shape)[: image.shape[0], : image.shape[1]])


if __name__ == "__main__":
    if len(sys.argv) != 4 or not sys.argv[1].isdecimal():
        sys.exit(__doc__)
    main(int(sys.argv[1]), *sys.argv[2:])
