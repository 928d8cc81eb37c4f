"""Each scene of a microscope's file is a scan of its own, with a name of its own."""

import pytest
import tifffile

from file_makers import copied, same, write_lif, write_scenes
from mptpn.io import LeftOut, walk
from mptpn.io.microscopes import Microscope


def test_scenes_of_two_sizes_are_two_results(tmp_path):
    arrays = write_scenes(tmp_path / "a.czi")
    targets = [copied(scan, tmp_path / "out") for scan in walk([tmp_path / "a.czi"])]
    assert [target.name for target in targets] == ["a_scene1.ome.tif", "a_scene2.ome.tif"]
    for target, array in zip(targets, arrays, strict=True):
        same(tifffile.imread(target), array)


def test_scenes_are_named_as_in_the_file(tmp_path):
    pytest.importorskip("liffile", reason="needs the extra microscopes")
    arrays = write_lif(tmp_path / "a.lif", "ZYX", names=("tile 1, left", "b"))
    targets = [copied(scan, tmp_path / "out") for scan in walk([tmp_path / "a.lif"])]
    assert [target.name for target in targets] == ["a_tile-1-left.ome.tif", "a_b.ome.tif"]
    for target, array in zip(targets, arrays, strict=True):
        same(tifffile.imread(target), array)


def test_a_scene_that_cannot_be_read_does_not_stop_the_others(tmp_path, monkeypatch):
    write_scenes(tmp_path / "a.czi")
    monkeypatch.setattr(Microscope, "scene", lambda *_: (_ for _ in ()).throw(ValueError("a.czi: is broken.")))
    first, second = walk([tmp_path / "a.czi"])
    assert first.scenes == 2 and isinstance(second, LeftOut) and second.failed
    assert second.message == "a.czi: is broken. It is image 2 of 2 of its file."


def test_a_file_of_one_scene_keeps_its_name(tmp_path):
    pytest.importorskip("liffile", reason="needs the extra microscopes")
    write_lif(tmp_path / "a.lif", "ZYX")
    (scan,) = walk([tmp_path / "a.lif"])
    assert scan.default_name() == "a.ome.tif"
