"""Word vectors of a prompt from a pretrained encoder, as an option beside the network's own words."""

from pathlib import Path

import torch
from torch import Tensor

OWN, WORDLLAMA = "own", "wordllama"
INSTALL = "install it with: pip install 'mptpn[encoders]'"


class PretrainedWords:
    """Vectors of the tokens of a text; nothing is downloaded.

    Args:
        name: "wordllama" (static vectors inside that package), or a folder with the weights and the tokenizer of a
            BERT-like model.
    Attributes:
        width: length of a vector.
    Raises:
        RuntimeError: the library is not installed. FileNotFoundError: no such folder. ValueError: a folder
            without weights or without a tokenizer.
    """

    def __init__(self, name: str | Path):
        self.name = str(name)
        self._read = _wordllama() if self.name == WORDLLAMA else _bert(Path(name))
        self.width = self("a").shape[1]

    @torch.no_grad()
    def __call__(self, text: str) -> Tensor:
        """[T, width], one vector a token."""
        return self._read(text)

    def together(self, texts: list[str]) -> Tensor:
        """[P, T, width] of several texts, zeros behind the shorter ones."""
        return torch.nn.utils.rnn.pad_sequence([self(text) for text in texts], batch_first=True)


def _wordllama():
    try:
        import wordllama
    except ModuleNotFoundError:
        raise RuntimeError(f"the encoder wordllama is not installed; {INSTALL}") from None
    # its default folder is the user's cache, and what is missing there is looked for on a hub
    inside = Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(cache_dir=inside, disable_download=True)
    table = torch.from_numpy(model.embedding).float()

    def read(text: str) -> Tensor:
        return table[torch.tensor(model.tokenizer.encode(text, add_special_tokens=False).ids)]

    return read


def _bert(folder: Path):
    try:
        from transformers import AutoModel, AutoTokenizer
    except ModuleNotFoundError:
        raise RuntimeError(f"a BERT encoder needs transformers; {INSTALL}") from None
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give own, wordllama or a folder with a BERT model.")
    parts = {"weights": AutoModel, "tokenizer": AutoTokenizer}
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "tokenizer.model")):
        raise ValueError(f"{folder}: holds no tokenizer; give the whole folder of a BERT model.")
    loaded = {}
    for part, kind in parts.items():
        try:
            loaded[part] = kind.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            why = f"no {part} can be read there ({type(error).__name__})"
            raise ValueError(f"{folder}: {why}; give the whole folder of a BERT model.") from None
    model, tokenizer = loaded["weights"].eval(), loaded["tokenizer"]

    def read(text: str) -> Tensor:
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].float()

    return read
