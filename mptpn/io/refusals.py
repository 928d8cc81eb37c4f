"""Why a file gives no scan: one sentence, with nothing of a patient in it."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DECODERS = ("pydicom", "tifffile", "nibabel", "nibabel.global", "PIL")
DAMAGED = "the file is damaged, cut off or of a kind that is not supported; export it again"
NO_PICTURE = "give an image with a picture in it"


class Unreadable(ValueError):
    """A file gives no scan: the path, what is wrong, the remedy. Never a tag's value or a decoder's words."""


class NoImage(Unreadable):
    """A whole file that is no image: a text, a table, a report, an index. In a folder it is passed over."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns a decoder's error into a sentence that holds its type alone; words, warnings and logs may quote tags."""
    logs = [log for log in map(logging.getLogger, DECODERS) if not log.disabled]
    try:
        for log in logs:
            log.disabled = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (Unreadable, MemoryError):
        raise
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; check the path.") from None
    except PermissionError:
        raise PermissionError(f"{path}: may not be read; ask for permission to read it.") from None
    except Exception as error:  # every decoder has its own
        if disk := _of_the_disk(error):  # not from a decoder
            raise OSError(disk.errno, f"{disk.strerror}; check the disk", str(path)) from None
        raise Unreadable(f"{path}: cannot be read ({type(error).__name__}); {DAMAGED}.") from None
    finally:
        for log in logs:
            log.disabled = False


def _of_the_disk(error: BaseException) -> OSError | None:
    """The error of the disk behind an error; libraries wrap it in others, without its number."""
    while isinstance(error, OSError):
        if error.errno:
            return error
        error = error.__cause__ or error.__context__
    return None
