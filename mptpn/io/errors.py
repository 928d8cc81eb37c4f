"""What is said of a file that gives no scan."""


class Unreadable(ValueError):
    """A file gives no scan: the path, what is wrong, the remedy. Never a tag's value or a decoder's words."""
