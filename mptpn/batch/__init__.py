"""Files in, files out: each scan is denoised, written back in its own type, and judged in a report."""

from mptpn.batch.files import denoise_files, outcomes
from mptpn.batch.scans import MIDDLE, denoise_scan
from mptpn.batch.settings import Settings

__all__ = ["MIDDLE", "Settings", "denoise_files", "denoise_scan", "outcomes"]
