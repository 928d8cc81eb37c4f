"""What went wrong in one sentence, and for --debug where, with nothing of an image or a patient in it."""

import traceback

EXPECTED = (ValueError, OSError, RuntimeError, FloatingPointError)  # their words are written for the user
LONGEST = 600  # characters


def sentence(error: BaseException, name: str = "") -> str:
    """One line; it begins with the name of the input unless the words of the error hold it."""
    words = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        words = "takes more memory than there is; give more, or cut the image into parts."
    elif not isinstance(error, EXPECTED) or not words:
        words = f"cannot be done ({type(error).__name__}); run it again with --debug and report what that prints."
    words = words if len(words) <= LONGEST else f"{words[:LONGEST]} ..."
    return words if name in words else f"{name}: {words}"


def trace(error: BaseException) -> str:
    """Types of the error and of what led to it, and the lines of code, without their words: those may quote tags."""
    lines, seen = [], set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        lines += [f"{type(error).__name__} at\n", *traceback.format_tb(error.__traceback__)]
        error = error.__cause__ or error.__context__
    return "".join(lines)
