"""The content hash: what changes it and what does not."""

import content


def test_comments_docstrings_and_blank_lines_are_left_out():
    plain = "x = 1\ndef f(a):\n    return a  + 1\nclass C:\n    y = 2\n"
    worded = '"""Module."""\n\nx = 1  # why\n# alone\ndef f(a):\n    """Does\n\n    this."""\n    return a  + 1\n\n\nclass C:\n    "doc"\n    y = 2\n'
    assert content.stripped(worded) == content.stripped(plain) == plain.strip()


def test_text_that_is_data_is_kept():
    hash_in_text, format_text = 'x = "# no comment"\ny = """a\n\n# b\n"""', 'f"{x!r:>{10}} # {y}"\nz = 1'
    for source in (hash_in_text, format_text, 'def f(): "on its line"', 'if x:\n    "not a docstring"\n    y = 1'):
        assert content.stripped(source) == source


def test_change_of_code_or_indentation_changes_it():
    assert content.stripped("if a:\n    b = 1\n    c = 1") != content.stripped("if a:\n    b = 1\nc = 1")
    assert content.stripped("a = 1") != content.stripped("a = 2")


def test_lines_of_ipython_stand_in_the_way_of_nothing():
    assert content.imported_modules("%matplotlib inline\n!ls\nimport os") == set()
    assert "%matplotlib" in content.stripped("%matplotlib inline\nx = 1  # kept too")


def test_imports_are_found_wherever_they_stand():
    for source in (
        "import mptpn.noise",
        "from mptpn import noise",
        "from mptpn.noise import x",
        "from . import noise",
        "from .noise import x",
    ):
        assert content.imported_modules(source) == {"__init__", "noise"}, source
        assert content.imported_modules(f"def f():\n    if True:\n        {source}") == {"__init__", "noise"}
    assert content.imported_modules("import numpy, os.path\nfrom noise import x") == set()


def test_closure_follows_the_modules_own_imports():
    assert content.modules_behind(["from mptpn.embedded import x"]) >= {"__init__", "embedded", "images"}


def test_other_weights_in_the_box_change_the_hash(monkeypatch, tmp_path):
    (tmp_path / "mptpn").mkdir()
    monkeypatch.setattr(content, "ROOT", tmp_path)

    def hashes() -> tuple[str, ...]:
        return (
            content.weights_hash("x = 1", name="a"),
            content.weights_hash('START = "a"', name="uses"),
            content.weights_hash('load("a")'),
        )

    seen = [hashes()]
    for data in (b"one", b"two"):
        (tmp_path / "mptpn/a.safetensors").write_bytes(data)
        seen.append(hashes())
    assert seen[0] == ("", "", "") and len(set(seen)) == 3 and all(len(set(of_all)) == 1 for of_all in seen)
    assert content.weights_hash("x = 1  # a", name="b") == content.weights_hash('ALL = ["a"]', name="weights") == ""
