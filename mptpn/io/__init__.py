"""Medical files: opened as scans or images, and written back in their own type; and the one entry for pixels.

`open_scan` and `open_scans` give a `Scan`, whose slices are read one by one; a `Writer` writes the denoised slices.
`read_image` and `spread_images` give an `Image`; arrays become one by `image_from_array`.
"""

from mptpn.io.files import open_scan, read_image, spread_images
from mptpn.io.folders import LeftOut, open_scans, walk
from mptpn.io.image import Image, gray_array, image_from_array, write_image
from mptpn.io.scan import Scan, Slice, Unreadable
from mptpn.io.writer import Writer

__all__ = [
    "Image",
    "LeftOut",
    "Scan",
    "Slice",
    "Unreadable",
    "Writer",
    "gray_array",
    "image_from_array",
    "open_scan",
    "open_scans",
    "read_image",
    "spread_images",
    "walk",
    "write_image",
]
