"""Compressed DICOM: the pixels are those that were compressed, and a missing decoder is named."""

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import HTJ2KLossless, JPEGLosslessSV1, JPEGLSLossless

from file_makers import copied, dataset, same, samples
from mptpn.io import open_scan

KINDS = {"jpegls_encode": JPEGLSLossless, "ljpeg_encode": JPEGLosslessSV1, "htj2k_encode": HTJ2KLossless}


def compressed(path, name):
    imagecodecs = pytest.importorskip("imagecodecs", reason="needs the extra formats")
    array = samples((40, 51), "u2") >> 4
    data = dataset(array, bits=12)
    data.file_meta.TransferSyntaxUID = KINDS[name]
    data.PixelData = encapsulate([getattr(imagecodecs, name)(array)])
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.save_as(path, enforce_file_format=True)
    return array


@pytest.mark.parametrize("name", KINDS)
def test_lossless_kinds_come_back_as_they_were(tmp_path, name):
    pytest.importorskip("pylibjpeg", reason="pylibjpeg is not installed (pip install mptpn[dicom])")
    array = compressed(tmp_path / "a.dcm", name)
    scan = open_scan(tmp_path / "a.dcm")
    same(scan.read(0).pixels.astype("u2"), array)
    back = pydicom.dcmread(copied(scan, tmp_path / "out"))
    same(back.pixel_array, array)
    assert scan.note == "It is compressed and is written uncompressed."


@pytest.mark.parametrize("name", KINDS)
def test_a_missing_decoder_is_named_with_what_installs_it(tmp_path, monkeypatch, name):
    compressed(tmp_path / "a.dcm", name)
    decoder = pydicom.pixels.get_decoder(KINDS[name])
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(ValueError, match=r'pip install "pylibjpeg\[libjpeg,openjpeg\]"'):
        open_scan(tmp_path / "a.dcm")


def test_the_picture_is_what_was_compressed(tmp_path):
    array = compressed(tmp_path / "a.dcm", "jpegls_encode")
    assert len(np.unique(array)) > 1000
