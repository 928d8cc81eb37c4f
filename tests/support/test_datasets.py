"""The real sets: fetched once and with the registered bytes or not at all, split as they say, noisy beside its own
clean.
"""

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
real = pytest.mark.skipif(
    not REAL.is_dir(), reason=f"the real images are not here: {REAL} (MPTPN_DATA, else ../shared/data) is no folder"
)
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
SPLIT_BY_SUBJECT = ("w2s", "oct", "bsds500", "div2k")
# mm of table, or slice numbers: at least one slice lies between
GAP = {"ldct_d45f": 100, "ldct_b30f": 80, "m4raw_t1": 2, "m4raw_flair": 2}


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Picture.fromarray(torch.randint(0, 256, (11, 7), generator=generator(seed), dtype=torch.uint8).numpy()).save(
        file, "PNG"
    )
    return file.getvalue()


CONTENT = {"noisy.png": png(0), "first.png": png(1), "second clean.png": png(2)}


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A toy set of three files, its address on this machine, an empty MPTPN_DATA; server.hits counts requests,
    server.body answers them.
    """
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
    source = {
        "folder": "toys",
        "low": "-10",
        "high": "500",
        "unit": "HU",
        "repository": "some/where",
        "commit": "c0ffee",
    }
    monkeypatch.setattr(datasets, "SETS", {"toy": source})
    rows = [
        {
            "set": "toy",
            "split": "test",
            "subject": "s",
            "image": "i",
            "side": "noisy" if name == "noisy.png" else "clean",
            "file": name,
            "path": f"a b/{name}",
        }
        | {"bytes": str(len(body)), "sha256": hashlib.sha256(body).hexdigest()}
        for name, body in CONTENT.items()
    ]
    monkeypatch.setattr(datasets, "FILES", {("toy", row["file"]): row for row in rows})
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


def test_a_missing_file_is_downloaded_into_the_chosen_folder_from_its_encoded_address(server):
    path = datasets.fetch("toy", "second clean.png")
    assert path == server.data / "toys/second clean.png" and path.read_bytes() == CONTENT["second clean.png"]
    assert server.hits == {"/some/where/c0ffee/a%20b/second%20clean.png": 1} and kept(server) == ["second clean.png"]


def test_a_file_that_is_there_is_not_fetched_again(server):
    assert datasets.fetch("toy", "noisy.png") == datasets.fetch("toy", "noisy.png") and server.hits.total() == 1


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
    with pytest.raises(
        ValueError, match=r"^http://127\.\S+noisy\.png: sends other bytes .* put it at .*toys/noisy\.png\.$"
    ):
        datasets.fetch("toy", "noisy.png")
    assert kept(server) == []


def test_a_transfer_that_breaks_off_is_refused_and_not_kept(server):
    server.promised = len(CONTENT["noisy.png"])
    server.body = lambda name: CONTENT[name][:40]
    with pytest.raises(
        ConnectionError, match=r"^http://\S+noisy\.png: not downloaded .* go online, or put the file at .*\.$"
    ):
        datasets.fetch("toy", "noisy.png")
    assert kept(server) == []


def test_a_missing_page_names_its_status(server):
    server.body = lambda name: None
    with pytest.raises(ConnectionError, match=r"\(HTTPError, 404\)"):
        datasets.fetch("toy", "noisy.png")


def test_an_address_that_does_not_answer_stops_at_once(server, monkeypatch):
    monkeypatch.setattr(datasets, "ADDRESS", "http://127.0.0.1:1")  # nobody may listen at port 1
    with pytest.raises(
        ConnectionError, match=r"^http://127\.0\.0\.1:1/\S+: not downloaded \(ConnectionError, no answer\); .*\.$"
    ) as caught:
        datasets.fetch("toy", "noisy.png")
    assert "\n" not in str(caught.value) and kept(server) == []


def test_a_damaged_local_file_is_refused_and_left_alone(server):
    path = datasets.fetch("toy", "noisy.png")
    path.write_bytes(b"damaged")
    with pytest.raises(
        ValueError, match=r"noisy\.png: other bytes than the registered ones \(7, not \d+\); delete the file"
    ):
        datasets.fetch("toy", "noisy.png")
    assert path.read_bytes() == b"damaged" and server.hits.total() == 1


@pytest.mark.parametrize("error", [PermissionError("pooch could not"), OSError(errno.EROFS, "Read-only file system")])
def test_a_folder_that_cannot_be_written_is_named(server, monkeypatch, error):
    def refuse(*_, **__):  # root may write everywhere, so a folder of mode 555 would prove nothing
        raise error

    monkeypatch.setattr(datasets.pooch, "retrieve", refuse)
    with pytest.raises(
        OSError, match=r"toys/noisy\.png: missing, and cannot be written \((pooch|Read-only).*set MPTPN_DATA"
    ):
        datasets.fetch("toy", "noisy.png")


def test_mptpn_data_that_names_no_folder_is_refused_not_made(server, monkeypatch, tmp_path):
    monkeypatch.setenv("MPTPN_DATA", str(tmp_path / "mistyped"))
    with pytest.raises(FileNotFoundError, match="MPTPN_DATA=.*mistyped: no such folder"):
        datasets.fetch("toy", "noisy.png")
    assert not (tmp_path / "mistyped").exists()


def test_an_image_of_several_files_is_their_mean_over_the_sets_range(server, capsys):
    (pair,) = datasets.pairs.__wrapped__("toy", "test")
    low, high = pair.clean.value_range
    mean = np.mean(
        [np.asarray(Picture.open(io.BytesIO(CONTENT[name]))) for name in ("first.png", "second clean.png")], axis=0
    )
    assert (low, high, pair.noisy.unit) == (-10.0, 500.0, "HU") and pair.noisy.value_range == pair.clean.value_range
    # float32 of values up to 265 / 510, back times 510: rounding 510 * 2**-25 = 1.5e-5
    np.testing.assert_allclose(pair.clean.pixels[0, 0].numpy() * (high - low) + low, mean, atol=5e-5)
    assert (
        pair.noisy.pixels.shape == (1, 1, 11, 7)
        and pair.noisy.name == pair.clean.name == "i"
        and "toy test clean" in capsys.readouterr().err
    )
    datasets.pairs.__wrapped__("toy", "test")
    assert capsys.readouterr().err == "" and server.hits.total() == 3  # nothing missing: no bar


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: datasets.files("w2z"), "'w2z' is unknown; choose one of w2s, oct"),
        (lambda: datasets.fetch("w2z", "a"), "'w2z' is unknown"),
        (lambda: datasets.fetch("w2s", "../../etc/passwd"), "'w2s' has no file '../../etc/passwd'"),
        (lambda: datasets.pairs("w2s", "validation"), "no noisy images to 'validation'; it has train noisy"),
        (lambda: datasets.pairs("polyu", "train"), "no noisy images to 'train'; it has test noisy"),
        (lambda: datasets.pairs("bsd68", "test"), "no noisy images to 'test'"),
        (lambda: datasets.natural("test"), "'div2k' has no clean images to 'test'"),
        (lambda: datasets.awgn("w2s"), "'w2s' is no clean test set; choose one of bsd68, set12, cbsd68"),
    ],
)
def test_an_unknown_name_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_registry_is_text_of_hashes_and_public_addresses():
    text = (ROOT / "mptpn/registry.tsv").read_text()
    # names and hashes: 190 bytes a file
    assert len(text) < 250_000 and text.isascii() and "/work" not in text and "://" not in text
    assert all(
        re.fullmatch("[0-9a-f]{40}", row["commit"]) and row["licence"] and row["citation"]
        for row in datasets.SETS.values()
    )
    for row in datasets.FILES.values():
        assert (
            set(row) == {"set", "split", "subject", "image", "side", "file", "bytes", "sha256", "path"}
            and all(row.values())
            and None not in row
        )
        assert re.fullmatch("[0-9a-f]{64}", row["sha256"]) and int(row["bytes"]) > 0 and row["set"] in datasets.SETS
        assert row["split"] in ("train", "val", "test") and row["side"] in ("noisy", "clean")
        assert (
            not Path(row["file"]).is_absolute()
            and ".." not in Path(row["file"]).parts
            and not row["path"].startswith("/")
        )


def test_no_file_is_registered_twice():
    rows = (ROOT / "mptpn/registry.tsv").read_text().split("\n\n")[1].splitlines()[1:]
    hashes = [row["sha256"] for row in datasets.FILES.values()]
    assert len(rows) == len(datasets.FILES) == len(set(hashes))


def test_every_noisy_image_has_its_clean_one_in_the_same_split():
    sides = {
        side: {(r["set"], r["split"], r["subject"], r["image"]) for r in datasets.FILES.values() if r["side"] == side}
        for side in ("noisy", "clean")
    }
    assert sides["noisy"] == {image for image in sides["clean"] if image[0] in COUNTS}
    assert Counter((name, split) for name, split, *_ in sides["noisy"]) == {
        (name, split): n for name, splits in COUNTS.items() for split, n in splits.items()
    }


def test_no_subject_is_in_two_splits():
    subjects = Counter(
        (name, subject) for name, _, subject in {(r["set"], r["split"], r["subject"]) for r in datasets.FILES.values()}
    )
    shared = {name for (name, _), splits in subjects.items() if splits > 1}
    assert shared == set(GAP) and not shared & set(SPLIT_BY_SUBJECT)
    d45f = {(r["split"] == "test", r["subject"]) for r in datasets.FILES.values() if r["set"] == "ldct_d45f"}
    assert d45f == {(False, "L096"), (True, "L192")}


@pytest.mark.parametrize("name", GAP)
def test_splits_within_one_subject_are_a_gap_apart(name):
    rows = [r for r in datasets.FILES.values() if r["set"] == name]
    at = {(r["split"], r["subject"], float(re.search(r"[\d.]+$", r["image"])[0])) for r in rows}
    assert min(abs(i[2] - j[2]) for i in at for j in at if i[1] == j[1] and i[0] != j[0]) >= GAP[name]


def test_photographs_that_are_test_images_are_not_registered_for_training():
    assert not [f for f in datasets.files("bsds500") if f.startswith("val/") or Path(f).stem in ("302003", "12003")]


@real
@pytest.mark.parametrize("name", COUNTS)
def test_pairs_are_gray_in_range_and_share_name_subject_and_range(name, data):
    for split, count in COUNTS[name].items():
        loaded = datasets.pairs(name, split)
        assert len(loaded) == count == len({pair.noisy.name for pair in loaded})
        for pair in loaded:
            assert pair.noisy.pixels.shape == pair.clean.pixels.shape and pair.noisy.pixels.shape[:2] == (1, 1)
            assert all(
                i.pixels.dtype == torch.float32 and 0 <= i.pixels.min() < i.pixels.max() <= 1
                for i in (pair.noisy, pair.clean)
            )
            assert (
                len({(image.name, image.subject, image.value_range, image.unit) for image in (pair.noisy, pair.clean)})
                == 1
            )


def correlations(split) -> list[torch.Tensor]:
    """Of every noisy with every clean image, one matrix for each image shape of a split."""

    def rows(images):
        flat = torch.stack([image.pixels.flatten() for image in images])
        flat = flat - flat.mean(1, keepdim=True)
        return flat / flat.norm(dim=1, keepdim=True)

    groups = [
        [pair for pair in split if pair.noisy.pixels.shape == shape]
        for shape in {pair.noisy.pixels.shape for pair in split}
    ]
    return [rows([pair.noisy for pair in group]) @ rows([pair.clean for pair in group]).T for group in groups]


@real
@pytest.mark.parametrize("name", COUNTS)
def test_every_noisy_image_is_most_like_its_own_clean_one(name, data):
    """The least correlations are noise: 0.48 in one W2S frame and 0.45 in OCT 12, whose average is tilted besides."""
    for split in COUNTS[name]:
        for matrix in correlations(datasets.pairs(name, split)):
            assert matrix.diag().min() > 0.4 and (matrix.argmax(1) == torch.arange(len(matrix))).all()


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
@pytest.mark.parametrize("name", ["ldct_d45f", "set12"])
def test_the_local_files_have_the_registered_bytes(name, data):
    assert datasets.available(name) and all(datasets.fetch(name, file).is_file() for file in datasets.files(name))


def details(images) -> torch.Tensor:
    small = torch.cat([interpolate(image.pixels, (24, 24), mode="area") for image in images])
    small = (small - avg_pool2d(small, 3, 1, 1, count_include_pad=False)).flatten(1)
    return small / small.norm(dim=1, keepdim=True)


@real
def test_the_colour_test_holds_the_scenes_of_the_gray_one(data):
    """So that what is kept out of training for the one is for the other; the gray files are luma of these, rounded."""
    colour, gray = datasets.awgn("cbsd68"), datasets.awgn("bsd68")
    assert len(colour) == len(gray) == 68 and all(image.pixels.shape[1] == 3 for image in colour)
    partners = []
    for image in colour:
        luma = datasets.luminance(image.pixels[0].mul(255).permute(1, 2, 0).numpy())
        off = [
            np.abs(luma - other.pixels[0, 0].mul(255).numpy()).max() if other.pixels.shape[2:] == luma.shape else np.inf
            for other in gray
        ]
        partners.append(int(np.argmin(off)))
        assert min(off) < 2 and sorted(off)[1] > 30  # rounding, and another program that read the JPEG file
    assert sorted(partners) == list(range(68))


@real
def test_no_training_photograph_is_a_test_image(data):
    """Whole pictures by their details at 24 x 24 px, the ten most alike by overlap(); a rescaled, rounded copy is
    found.
    """
    train, val = datasets.natural("train"), datasets.natural("val")
    tests = (*datasets.awgn("bsd68"), *datasets.awgn("set12"), *val)
    assert (len(train), len(val), len(tests)) == (478, 10, 68 + 12 + 10)
    in_bytes = [
        {(image.pixels * 255).round().byte().numpy().tobytes() for image in images} for images in (train, tests)
    ]
    assert not in_bytes[0] & in_bytes[1] and len(in_bytes[0]) == 478
    alike = details(train) @ details(tests).T
    assert alike.max() < SAME
    assert (
        max(overlap(train[k // len(tests)], tests[k % len(tests)]) for k in alike.flatten().topk(10).indices.tolist())
        < SAME
    )
    copies = [
        image.with_pixels(
            (interpolate(image.pixels, scale_factor=0.7, mode="bilinear", antialias=True) * 255).round() / 255
        )
        for image in tests
    ]
    assert (details(copies) @ details(tests).T).diag().min() > SAME
