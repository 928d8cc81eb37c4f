"""Medical image denoising when there is no clean truth: noise estimation, pair synthesis, profound denoising."""

__version__ = "0.1.0"
