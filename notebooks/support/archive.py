"""A large .zip from a public address: a broken download is gone on with, its bytes are checked, and its folder appears
whole or not at all.
"""

import hashlib
import http.client
import os
import shutil
import ssl
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from tqdm import tqdm

TIMEOUT = 20  # s without an answer
BLOCK = 2**20  # bytes
# of the connection, not of the disk
BROKEN = (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException, ssl.SSLError)


def unpack_from(url: str, *, folder: Path, size: int, sha256: str) -> Path:
    """Download an archive that holds one folder, and unpack that folder; what came of a broken download waits in
    NAME.zip.part beside it.

    Args:
        url: of the .zip.
        folder: of the same name as the one in the archive; not there, or empty.
        size: of the archive, bytes.
        sha256: of the archive.
    Returns:
        folder; the archive is deleted.
    Raises:
        ConnectionError: no answer, or the connection broke: the next call goes on from there.
        ValueError: another size, or other bytes, which are deleted.
        OSError: no space for the archive and its images, or a folder that cannot be written.
    """
    part = folder.with_name(f"{Path(url).name}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        have = part.stat().st_size if part.is_file() else 0
        free, wanted = shutil.disk_usage(part.parent).free, 2 * size - have  # photographs are no smaller unpacked
        if free < wanted:
            needs = f"{Path(url).name} needs {wanted / 1e9:.1f} GB with its images"
            raise OSError(
                f"{part.parent}: {free / 1e9:.1f} GB are free, and {needs}; free some, or set MPTPN_DATA to a folder with more."
            )
        print(
            f"fetching {url} ({size / 1e9:.1f} GB, {have / 1e9:.1f} GB of it are here) into {folder}", file=sys.stderr
        )
        _complete(part, url=url, size=size, have=have)
        _check(part, url=url, sha256=sha256)
        _unpack(part, folder)
    except OSError as error:
        if error.errno is None:  # a sentence from here
            raise
        raise OSError(
            f"{folder}: cannot be written ({error.strerror}); set MPTPN_DATA to a folder that can."
        ) from error
    return folder


def _complete(part: Path, *, url: str, size: int, have: int) -> None:
    """Append what is missing of the archive; a server that sends no ranges sends all of it again."""
    if have == size:
        return
    if have > size:
        have = 0  # of something else
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    came = have
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            goes_on = answer.status == http.HTTPStatus.PARTIAL_CONTENT
            came = have if goes_on else 0
            offered = answer.headers["Content-Range" if goes_on else "Content-Length"]
            if offered != (f"bytes {have}-{size - 1}/{size}" if goes_on else f"{size}"):
                raise ValueError(
                    f"{url}: offers {offered} and not the {size} bytes of the registered archive; find that elsewhere."
                )
            with (
                part.open("ab" if goes_on else "wb") as file,
                tqdm(desc=part.stem, total=size, initial=came, unit="B", unit_scale=True) as bar,
            ):
                while block := answer.read(BLOCK):
                    file.write(block)
                    came += len(block)
                    bar.update(len(block))
    except BROKEN as error:
        raise ConnectionError(
            f"{url}: {_cause(error)} after {came} of {size} bytes; go online and call again, and it goes on from there."
        ) from error
    if came != size:
        raise ConnectionError(
            f"{url}: the connection broke after {came} of {size} bytes; call again, and it goes on from there."
        )


def _cause(error: Exception) -> str:
    return (
        f"status {error.code}"
        if isinstance(error, urllib.error.HTTPError)
        else f"no answer ({getattr(error, 'reason', error) or type(error).__name__})"
    )


def _check(part: Path, *, url: str, sha256: str) -> None:
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        part.unlink()
        raise ValueError(
            f"{url}: sent other bytes than the registered ones (SHA-256 {found}, not {sha256}); nothing is kept, call again or find it elsewhere."
        )


def _unpack(part: Path, folder: Path) -> None:
    temporary = folder.with_name(f".{os.getpid()}.{folder.name}")
    try:
        with zipfile.ZipFile(part) as archive:
            archive.extractall(temporary)
        os.replace(temporary / folder.name, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    part.unlink()
