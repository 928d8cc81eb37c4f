"""Real scans that lie in the installed packages: what a viewer shows before the user has chosen a file."""

from importlib.resources import files
from pathlib import Path

SAMPLES = {"chest CT": "CT_small.dcm", "abdominal MR": "examples_overlay.dcm"}


def sample(name: str) -> Path:
    """File of a sample, a DICOM slice of pydicom's package; KeyError: no such name."""
    return Path(str(files("pydicom") / "data" / "test_files" / SAMPLES[name]))


def pixel_size(path: Path) -> tuple[float, float]:
    """Height and width of a pixel of a DICOM file, mm; 1 where it says none."""
    import pydicom

    spacing = pydicom.dcmread(path, stop_before_pixels=True).get("PixelSpacing") or (1.0, 1.0)
    return float(spacing[0]), float(spacing[1])
