"""Pictures for a browser: a gray range becomes 8 bits, a mask lies over it in colour."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

AUTO, FULL = "auto", "full range"
WINDOWS = {"CT soft tissue (400 / 40)": (40, 400), "CT lung (1500 / -600)": (-600, 1500)}  # level, width, HU
PRESETS = (AUTO, FULL, *WINDOWS)
SHARES = (0.002, 0.998)  # of the pixels below the ends of the automatic window
SAMPLES = 2**20  # pixels from which they are taken
MASK = np.array([255, 90, 30], np.float32)  # colour of what a prompt found
GAP, LINE, SIDE = 8, 18, 360  # px, of a still picture


def window(preset: str, image: np.ndarray, valid: np.ndarray | None = None) -> tuple[float, float]:
    """Lowest and highest intensity of a gray range, one of PRESETS; the image is [H, W] or [H, W, 3]."""
    if preset in WINDOWS:
        level, width = WINDOWS[preset]
        return level - width / 2, level + width / 2
    inside = (image if valid is None else image[valid]).ravel()
    inside = inside[:: max(1, inside.size // SAMPLES)]
    inside = inside[np.isfinite(inside)]
    if not inside.size:
        return 0.0, 1.0
    low, high = np.quantile(inside, (0, 1) if preset == FULL else SHARES)
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def eight_bits(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """[H, W] or [H, W, 3] within a gray range, uint8; NaN is black."""
    share = (np.nan_to_num(image, nan=low) - low) * (255 / max(high - low, 1e-30))
    return np.rint(np.clip(share, 0, 255)).astype(np.uint8)


def with_mask(gray: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A picture of eight_bits() with a mask [H, W] in colour over it and a line around it, [H, W, 3]."""
    colour = np.repeat(gray[..., None], 3, axis=2) if gray.ndim == 2 else gray.copy()
    edge = mask & ~(np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1))
    colour[mask] = (0.65 * colour[mask] + 0.35 * MASK).astype(np.uint8)
    colour[edge] = MASK.astype(np.uint8)
    return colour


def png(picture: np.ndarray) -> bytes:
    """A picture of eight_bits() as PNG."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, format="png", compress_level=1)
    return out.getvalue()


def still(pictures: Sequence[tuple[str, bytes]]) -> bytes:
    """Named pictures side by side as one PNG: what stays where no kernel is live."""
    images = [(name, Image.open(io.BytesIO(data)).convert("RGB")) for name, data in pictures]
    for _, image in images:
        image.thumbnail((SIDE, SIDE))
    height = max(image.height for _, image in images)
    sheet = Image.new("RGB", (GAP + len(images) * (SIDE + GAP), height + LINE + 2 * GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, (name, image) in enumerate(images):
        left = GAP + number * (SIDE + GAP)
        draw.text((left, GAP // 2), name, fill="black", font=font)
        sheet.paste(image, (left, LINE + GAP))
    out = io.BytesIO()
    sheet.save(out, format="png")
    return out.getvalue()
