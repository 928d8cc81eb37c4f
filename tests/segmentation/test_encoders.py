"""Pretrained word vectors: an option; what is missing is one sentence."""

import json
import sys

import numpy as np
import pytest
import torch

from mptpn.segmentation import Segmenter, train_folder
from mptpn.segmentation.encoders import PretrainedWords
from mptpn.training import launch
from support import prompt_scenes


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    """A BERT of random weights and twelve words, as a folder."""
    transformers = pytest.importorskip("transformers", reason="the extra encoders is not installed")
    folder = tmp_path_factory.mktemp("bert")
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] nuclei vessels white blood cell cyto ##plasm".split()
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    transformers.BertModel(transformers.BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    return folder


def test_a_bert_gives_one_vector_a_token_and_the_same_ones_again(tiny_bert):
    words = PretrainedWords(tiny_bert)
    assert words("white blood cell").shape == (5, 12) and words.width == 12
    assert torch.equal(words("vessels"), words("vessels"))
    assert words.together(["nuclei", "white blood cell"]).shape == (2, 5, 12)
    assert not words.together(["nuclei", "white blood cell"])[0, 3:].any()


def test_a_network_learns_from_pretrained_vectors_and_its_file_finds_them_again(tiny_bert, tmp_path):
    examples = prompt_scenes.scenes("train", count=2)
    settings = {"fabric": launch(threads=1), "seconds": 100, "steps": 2, "width": 8, "encoder": tiny_bert}
    segmenter, report = train_folder(examples, prompt_scenes.TARGETS, **settings)
    assert segmenter.network.vectors is None and report["steps"] == 2
    again = Segmenter.load(segmenter.save(tmp_path / "a.safetensors", report))
    image = examples[0].image[0].permute(1, 2, 0).numpy()
    assert np.array_equal(again.ask(image, "nuclei").mask, segmenter.ask(image, "nuclei").mask)


def test_a_bert_without_a_tokenizer_or_without_weights_is_one_sentence(tiny_bert, tmp_path):
    (tmp_path / "config.json").write_text((tiny_bert / "config.json").read_text())
    with pytest.raises(ValueError, match="holds no tokenizer"):
        PretrainedWords(tmp_path)
    (tmp_path / "vocab.txt").write_text((tiny_bert / "vocab.txt").read_text())
    with pytest.raises(ValueError, match="no weights can be read there"):
        PretrainedWords(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        PretrainedWords(tmp_path / "none")


@pytest.mark.parametrize("name, library", [("wordllama", "wordllama"), ("folder", "transformers")])
def test_a_library_that_is_missing_is_named_with_its_install_line(monkeypatch, name, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(RuntimeError, match=rf"{library}.*pip install 'mptpn\[encoders\]'"):
        PretrainedWords(name)


def test_wordllama_reads_its_own_folder_and_like_words_have_like_vectors():
    pytest.importorskip("wordllama", reason="the extra encoders is not installed")
    words = PretrainedWords("wordllama")
    near, far = (
        torch.cosine_similarity(words("nuclei").mean(0), words(w).mean(0), dim=0) for w in ("nucleus", "bicycle")
    )
    assert words.width == 256 and near > far + 0.1
