"""The real sets: fetched once and with the registered bytes or not at all, split as they say."""

import errno
import hashlib
import http.server
import io
import os
import re
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torch.nn.functional import avg_pool2d, interpolate

from mptpn.random import generator
from support import datasets
from support.embedded import SAME, overlap

ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("MPTPN_DATA") or ROOT.parent / "shared/data")
real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real images are not here: {REAL} is no folder")
COUNTS = {  # pairs
    "w2s": {"train": 36, "val": 6, "test": 6},
    "oct": {"train": 8, "val": 2, "test": 2},
    "ldct_d45f": {"train": 7, "val": 3, "test": 4},
    "ldct_b30f": {"train": 3, "val": 2, "test": 2},
    "m4raw_t1": {"train": 9, "val": 2, "test": 4},
    "m4raw_flair": {"train": 9, "val": 2, "test": 4},
    "polyu": {"test": 80},
    "fluo_misc": {"test": 2},
}
# mm of table, or slice numbers: at least one slice lies between; the other sets are split by subject
GAP = {"ldct_d45f": 100, "ldct_b30f": 80, "m4raw_t1": 2, "m4raw_flair": 2}


def png(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = torch.randint(0, 256, (11, 7), generator=generator(seed), dtype=torch.uint8)
    Picture.fromarray(pixels.numpy()).save(file, "PNG")
    return file.getvalue()


CONTENT = {"noisy.png": png(0), "first.png": png(1), "second clean.png": png(2)}


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A toy set of three files, its address on this machine, an empty MPTPN_DATA; hits counts requests."""
    state = SimpleNamespace(hits=Counter(), body=lambda name: CONTENT[name], promised=None, data=tmp_path / "data")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            state.hits[self.path] += 1
            body = state.body(self.path.rsplit("/", 1)[1].replace("%20", " "))
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(state.promised or len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(datasets, "ADDRESS", f"http://127.0.0.1:{httpd.server_port}")
    source = {"folder": "toys", "low": "-10", "high": "500", "unit": "HU", "repository": "some/where"}
    monkeypatch.setattr(datasets, "SETS", {"toy": source | {"commit": "c0ffee"}})
    files = {}
    for name, body in CONTENT.items():
        row = {"set": "toy", "split": "test", "subject": "s", "image": "i", "file": name, "path": f"a b/{name}"}
        row |= {"side": "noisy" if name == "noisy.png" else "clean", "bytes": str(len(body))}
        files["toy", name] = row | {"sha256": hashlib.sha256(body).hexdigest()}
    monkeypatch.setattr(datasets, "FILES", files)
    state.data.mkdir()
    monkeypatch.setenv("MPTPN_DATA", str(state.data))
    yield state
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def data(monkeypatch):
    monkeypatch.setenv("MPTPN_DATA", str(REAL))


def kept(state) -> list[str]:
    return [path.name for path in state.data.rglob("*") if path.is_file()]


def test_a_missing_file_is_downloaded_once_from_its_encoded_address(server):
    path = datasets.fetch("toy", "second clean.png")
    assert path == datasets.fetch("toy", "second clean.png") == server.data / "toys/second clean.png"
    assert path.read_bytes() == CONTENT["second clean.png"] and kept(server) == ["second clean.png"]
    assert server.hits == {"/some/where/c0ffee/a%20b/second%20clean.png": 1}


def test_without_mptpn_data_the_users_cache_is_used(server, monkeypatch, tmp_path):
    monkeypatch.delenv("MPTPN_DATA")
    monkeypatch.setattr(datasets.pooch, "os_cache", lambda project: tmp_path / project)
    assert datasets.fetch("toy", "noisy.png") == tmp_path / "mptpn/toys/noisy.png"


def test_available_downloads_nothing_and_counts_a_shorter_file_as_missing(server):
    assert not datasets.available("toy") and not server.hits
    for name in CONTENT:
        datasets.fetch("toy", name)
    assert datasets.available("toy") and server.hits.total() == 3
    (server.data / "toys/first.png").write_bytes(CONTENT["first.png"][:-1])
    assert not datasets.available("toy") and datasets.available("toy", names=("noisy.png",))


def test_wrong_bytes_from_the_public_address_are_refused_and_not_kept(server):
    server.body = lambda name: CONTENT[name][:-1] + b"?"
    with pytest.raises(ValueError, match=r"^http://127\.\S+noisy\.png: sends other bytes .*toys/noisy\.png\.$"):
        datasets.fetch("toy", "noisy.png")
    assert kept(server) == []


def test_a_download_that_breaks_off_or_fails_is_refused_in_one_line_and_not_kept(server, monkeypatch):
    server.promised, server.body = len(CONTENT["noisy.png"]), lambda name: CONTENT[name][:40]
    with pytest.raises(ConnectionError, match=r"^http://\S+noisy\.png: not downloaded .* go online"):
        datasets.fetch("toy", "noisy.png")
    server.promised, server.body = None, lambda name: None
    with pytest.raises(ConnectionError, match=r"\(HTTPError, 404\)"):
        datasets.fetch("toy", "noisy.png")
    monkeypatch.setattr(datasets, "ADDRESS", "http://127.0.0.1:1")  # nobody may listen at port 1
    with pytest.raises(ConnectionError, match=r"\(ConnectionError, no answer\)") as caught:
        datasets.fetch("toy", "noisy.png")
    assert "\n" not in str(caught.value) and kept(server) == []


def test_a_damaged_local_file_is_refused_and_left_alone(server):
    path = datasets.fetch("toy", "noisy.png")
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"noisy\.png: other bytes than the registered ones \(7, not \d+\); delete"):
        datasets.fetch("toy", "noisy.png")
    assert path.read_bytes() == b"damaged" and server.hits.total() == 1


@pytest.mark.parametrize("error", [PermissionError("pooch could not"), OSError(errno.EROFS, "Read-only file system")])
def test_a_folder_that_cannot_be_written_is_named(server, monkeypatch, error):
    def refuse(*_, **__):  # root may write everywhere, so a folder of mode 555 would prove nothing
        raise error

    monkeypatch.setattr(datasets.pooch, "retrieve", refuse)
    with pytest.raises(OSError, match=r"toys/noisy\.png: missing, and cannot be written .*set MPTPN_DATA"):
        datasets.fetch("toy", "noisy.png")


def test_mptpn_data_that_names_no_folder_is_refused_and_not_made(server, monkeypatch, tmp_path):
    monkeypatch.setenv("MPTPN_DATA", str(tmp_path / "mistyped"))
    with pytest.raises(FileNotFoundError, match="MPTPN_DATA=.*mistyped: no such folder"):
        datasets.fetch("toy", "noisy.png")
    assert not (tmp_path / "mistyped").exists()


def test_an_image_of_several_files_is_their_mean_over_the_sets_range(server, capsys):
    (pair,) = datasets.pairs.__wrapped__("toy", "test")
    low, high = pair.clean.value_range
    arrays = [np.asarray(Picture.open(io.BytesIO(CONTENT[name]))) for name in ("first.png", "second clean.png")]
    assert (low, high, pair.noisy.unit) == (-10.0, 500.0, "HU") and pair.noisy.value_range == pair.clean.value_range
    # float32 of values up to 265 / 510, back times 510: rounding 510 * 2**-25 = 1.5e-5
    np.testing.assert_allclose(pair.clean.pixels[0, 0].numpy() * (high - low) + low, np.mean(arrays, axis=0), atol=5e-5)
    assert pair.noisy.pixels.shape == (1, 1, 11, 7) and pair.noisy.name == pair.clean.name == "i"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: datasets.files("w2z"), "'w2z' is unknown; choose one of w2s, oct"),
        (lambda: datasets.fetch("w2s", "../../etc/passwd"), "'w2s' has no file '../../etc/passwd'"),
        (lambda: datasets.pairs("w2s", "validation"), "no noisy images to 'validation'; it has train noisy"),
        (lambda: datasets.natural("test"), "'div2k' has no clean images to 'test'"),
        (lambda: datasets.awgn("w2s"), "'w2s' is no clean test set; choose one of bsd68, set12, cbsd68"),
    ],
)
def test_an_unknown_name_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_registry_is_text_of_hashes_and_relative_paths_and_holds_no_file_twice():
    text = (ROOT / "notebooks/support/registry.tsv").read_text()
    assert text.isascii() and "/work" not in text and "://" not in text
    for row in datasets.SETS.values():
        assert re.fullmatch("[0-9a-f]{40}", row["commit"]) and row["licence"] and row["citation"]
    for row in datasets.FILES.values():
        assert all(row.values()) and None not in row and row["set"] in datasets.SETS
        assert re.fullmatch("[0-9a-f]{64}", row["sha256"]) and int(row["bytes"]) > 0
        assert row["split"] in ("train", "val", "test") and row["side"] in ("noisy", "clean")
        assert not Path(row["file"]).is_absolute() and ".." not in Path(row["file"]).parts
    hashes = {row["sha256"] for row in datasets.FILES.values()}
    assert len(text.split("\n\n")[1].splitlines()) - 1 == len(datasets.FILES) == len(hashes)


def test_every_noisy_image_has_its_clean_one_in_the_same_split():
    keys = ("set", "split", "subject", "image")
    sides = {side: set() for side in ("noisy", "clean")}
    for row in datasets.FILES.values():
        sides[row["side"]].add(tuple(row[key] for key in keys))
    assert sides["noisy"] == {image for image in sides["clean"] if image[0] in COUNTS}
    counts = Counter((name, split) for name, split, *_ in sides["noisy"])
    assert counts == {(name, split): n for name, splits in COUNTS.items() for split, n in splits.items()}


def test_splits_share_no_subject_or_are_a_gap_apart():
    rows = datasets.FILES.values()
    subjects = Counter((name, subject) for name, _, subject in {(r["set"], r["split"], r["subject"]) for r in rows})
    assert {name for (name, _), splits in subjects.items() if splits > 1} == set(GAP)
    for name, gap in GAP.items():
        own = [
            (r["split"], r["subject"], float(re.search(r"[\d.]+$", r["image"])[0])) for r in rows if r["set"] == name
        ]
        assert min(abs(i[2] - j[2]) for i in set(own) for j in set(own) if i[1] == j[1] and i[0] != j[0]) >= gap
    d45f = {(r["split"] == "test", r["subject"]) for r in rows if r["set"] == "ldct_d45f"}
    assert d45f == {(False, "L096"), (True, "L192")}


def test_photographs_that_are_test_images_are_not_registered_for_training():
    assert not [f for f in datasets.files("bsds500") if f.startswith("val/") or Path(f).stem in ("302003", "12003")]


@real
@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_every_noisy_image_is_gray_in_range_and_most_like_its_own_clean_one(name, data):
    """The least correlations are noise: 0.48 in one W2S frame and 0.45 in OCT 12, whose average is tilted besides."""
    for split, count in COUNTS[name].items():
        loaded = datasets.pairs(name, split)
        assert len(loaded) == count == len({pair.noisy.name for pair in loaded})
        for pair in loaded:
            assert pair.noisy.pixels.shape == pair.clean.pixels.shape and pair.noisy.pixels.shape[:2] == (1, 1)
            assert all(0 <= i.pixels.min() < i.pixels.max() <= 1 for i in (pair.noisy, pair.clean))
            about = {(image.name, image.subject, image.value_range, image.unit) for image in (pair.noisy, pair.clean)}
            assert len(about) == 1
        for shape in {pair.noisy.pixels.shape for pair in loaded}:
            same = [pair for pair in loaded if pair.noisy.pixels.shape == shape]
            matrix = unit_rows(p.noisy.pixels for p in same) @ unit_rows(p.clean.pixels for p in same).T
            assert matrix.diag().min() > 0.4 and (matrix.argmax(1) == torch.arange(len(matrix))).all()


def unit_rows(images) -> torch.Tensor:
    flat = torch.stack([image.flatten() for image in images])
    flat = flat - flat.mean(1, keepdim=True)
    return flat / flat.norm(dim=1, keepdim=True)


@real
@pytest.mark.parametrize("name", ["ldct_d45f", "ldct_b30f"])
def test_air_in_ct_is_near_minus_1000_hu(name, data):
    """Air's noise is cut off at -1024, so its median is up to 34 HU high; stored values, 1024 higher, would fail."""
    for pair in datasets.pairs(name, "test"):
        low, high = pair.clean.value_range
        hu = pair.clean.pixels * (high - low) + low
        assert (low, high, pair.clean.unit) == (-1024.0, 3071.0, "HU") and -1010 < hu[hu < -900].median() < -960
        assert hu.max() > 300  # bone


@real
def test_local_files_have_the_registered_bytes(data):
    assert datasets.available("set12") and all(datasets.fetch("set12", f).is_file() for f in datasets.files("set12"))


def details(images) -> torch.Tensor:
    small = torch.cat([interpolate(image.pixels, (24, 24), mode="area") for image in images])
    small = (small - avg_pool2d(small, 3, 1, 1, count_include_pad=False)).flatten(1)
    return small / small.norm(dim=1, keepdim=True)


@real
@pytest.mark.slow
def test_no_training_photograph_is_a_test_image(data):
    """Whole pictures by their details at 24 x 24 px, the ten most alike by overlap(); a rescaled copy is found."""
    train, val = datasets.natural("train"), datasets.natural("val")
    tests = (*datasets.awgn("bsd68"), *datasets.awgn("set12"), *val)
    assert (len(train), len(val), len(tests)) == (478, 10, 68 + 12 + 10)
    alike = details(train) @ details(tests).T
    places = [divmod(k, len(tests)) for k in alike.flatten().topk(10).indices.tolist()]
    assert alike.max() < SAME and max(overlap(train[i], tests[j]) for i, j in places) < SAME
    small = [interpolate(i.pixels, scale_factor=0.7, mode="bilinear", antialias=True) for i in tests]
    copies = [image.with_pixels((x * 255).round() / 255) for image, x in zip(tests, small, strict=True)]
    assert (details(copies) @ details(tests).T).diag().min() > SAME


@real
@pytest.mark.slow
def test_the_colour_test_holds_the_scenes_of_the_gray_one(data):
    """So that what is kept out of training for the one is for the other; the gray files are luma of these, rounded."""
    colour, gray = datasets.awgn("cbsd68"), datasets.awgn("bsd68")
    lumas = [datasets.luminance(image.pixels[0].mul(255).permute(1, 2, 0).numpy()) for image in colour]
    for luma, own in zip(lumas, gray, strict=True):
        # rounding, and another program that read the JPEG file
        assert np.abs(luma - own.pixels[0, 0].mul(255).numpy()).max() < 2
