"""A large archive: downloaded whole, gone on with after a cut, refused in another size or with other bytes, unpacked at
once or not at all.
"""

import errno
import hashlib
import http.server
import io
import shutil
import threading
import zipfile
from types import SimpleNamespace

import pytest

from support import archive

FILES = {"0001.png": bytes(range(256)) * 40, "0800.png": b"a photograph"}


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as one:
        for name, content in FILES.items():
            one.writestr(f"PHOTOS_HR/{name}", content)
    return file.getvalue()


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The archive on this machine; asked: the ranges that were asked for, cut: bytes after which the connection is
    dropped, ranges: whether they are served.
    """
    body = zipped()
    state = SimpleNamespace(
        asked=[], cut=None, ranges=True, promised=None, status=200, folder=tmp_path / "data/PHOTOS_HR"
    )

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers["Range"]
            state.asked.append(wanted)
            first = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and state.ranges else 0
            self.send_response(206 if first else state.status)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(state.promised or len(body) - first))
            self.end_headers()
            self.wfile.write(body[first : state.cut])

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    state.call = {
        "url": f"http://127.0.0.1:{httpd.server_port}/PHOTOS_HR.zip",
        "size": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    state.fetch = lambda **change: archive.unpack_from(**(state.call | {"folder": state.folder} | change))
    yield state
    httpd.shutdown()
    httpd.server_close()


def is_whole_and_alone(state) -> bool:
    return {path.name: path.read_bytes() for path in state.folder.iterdir()} == FILES and list(
        state.folder.parent.iterdir()
    ) == [state.folder]


def cut_after(state, count: int) -> None:
    state.cut = count
    with pytest.raises(
        ConnectionError,
        match=rf"PHOTOS_HR.zip: .* after {count} of {state.call['size']} bytes; .*call again, and it goes on from there",
    ):
        state.fetch()
    state.cut = None
    assert not state.folder.exists() and [path.name for path in state.folder.parent.iterdir()] == ["PHOTOS_HR.zip.part"]


def test_it_is_downloaded_unpacked_and_announced(server, capsys):
    assert server.fetch() == server.folder and is_whole_and_alone(server) and server.asked == [None]
    assert f"fetching {server.call['url']} (0.0 GB" in capsys.readouterr().err


def test_an_empty_folder_is_no_hindrance(server):
    server.folder.mkdir(parents=True)
    server.fetch()
    assert is_whole_and_alone(server)


def test_a_broken_download_is_gone_on_with(server):
    cut_after(server, 4000)
    server.fetch()
    assert is_whole_and_alone(server) and server.asked == [None, "bytes=4000-"]


def test_a_server_without_ranges_sends_it_all_again(server):
    cut_after(server, 4000)
    server.ranges = False
    server.fetch()
    assert is_whole_and_alone(server)


def test_a_download_that_was_whole_is_not_asked_for_again(server):
    server.folder.parent.mkdir()
    server.folder.with_name("PHOTOS_HR.zip.part").write_bytes(zipped())
    server.fetch()
    assert is_whole_and_alone(server) and server.asked == []


@pytest.mark.parametrize("begun", [0, 4000])
def test_another_size_is_refused_before_a_byte_is_read(server, begun):
    if begun:
        cut_after(server, begun)
    with pytest.raises(ValueError, match=r"offers .* and not the \d+ bytes of the registered archive"):
        server.fetch(size=server.call["size"] + 1)
    assert not server.folder.exists()


def test_other_bytes_are_refused_and_not_kept(server):
    cut_after(server, 4000)
    part = server.folder.with_name("PHOTOS_HR.zip.part")
    part.write_bytes(b"?" + part.read_bytes()[1:])
    with pytest.raises(
        ValueError,
        match=rf"other bytes than the registered ones \(SHA-256 [0-9a-f]{{64}}, not {server.call['sha256']}\); nothing is kept",
    ):
        server.fetch()
    assert list(server.folder.parent.iterdir()) == []


def test_a_failure_in_unpacking_leaves_no_folder_and_keeps_the_archive(server, monkeypatch):
    def breaks(one, target):
        (target / "PHOTOS_HR").mkdir(parents=True)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extractall", breaks)
    with pytest.raises(OSError, match=r"PHOTOS_HR: cannot be written \(No space left on device\); set MPTPN_DATA"):
        server.fetch()
    assert [path.name for path in server.folder.parent.iterdir()] == ["PHOTOS_HR.zip.part"]


def test_too_little_space_is_found_before_the_download(server, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * server.call["size"] - 1))
    with pytest.raises(
        OSError,
        match=r"data: 0\.0 GB are free, and PHOTOS_HR.zip needs 0\.0 GB with its images; free some, or set MPTPN_DATA",
    ):
        server.fetch()
    assert server.asked == []


def test_offline_and_missing_pages_are_one_sentence_each(server):
    with pytest.raises(
        ConnectionError, match=r"^http://\S+PHOTOS_HR.zip: no answer \(.*refused\) after 0 of \d+ bytes; go online"
    ) as caught:
        server.fetch(url="http://127.0.0.1:1/PHOTOS_HR.zip")  # nobody may listen at port 1
    assert "\n" not in str(caught.value)
    server.status = 404
    with pytest.raises(ConnectionError, match=r"PHOTOS_HR.zip: status 404 after 0 of"):
        server.fetch()
