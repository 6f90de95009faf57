import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.tiny import TEXT
from tests.training.disk import room
from training.base import LoadedBase
from training.data import Source, encode, open_windows, read_documents, tokenize
from training.data.tokens import HEADER_NAME, IDS_NAME
from training.errors import DataError


@pytest.fixture
def source(tmp_path: Path) -> Source:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in TEXT.split("\n\n")))
    return Source(str(path))


def test_a_source_is_tokenized_once_for_one_tokenizer_and_content(
    source: Source, tiny: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tokenize(source, tiny.tokenizer, tmp_path / "cache")
    expected = np.concatenate(list(encode(read_documents(source.path, tiny.tokenizer), tiny.tokenizer)))
    assert np.array_equal(first.ids, expected) and first.ids.dtype == np.uint16
    assert (first.header.documents, first.header.tokens) == (2, len(expected))
    assert first.header.longest_document < len(expected) and first.header.max_id == expected.max()
    monkeypatch.setattr("training.data.tokens.encode", None)
    moved = source.path.rename(tmp_path / "elsewhere.jsonl")
    again = tokenize(Source(str(moved)), tiny.tokenizer, tmp_path / "cache")
    assert again.name == "elsewhere.jsonl" and again.header == first.header
    with pytest.raises(TypeError):  # other content: tokenized anew
        moved.write_text('{"text": "other"}')
        tokenize(Source(str(moved)), tiny.tokenizer, tmp_path / "cache")


def test_a_source_that_cannot_be_read_leaves_nothing(tiny: LoadedBase, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"oops\n')
    with pytest.raises(DataError, match="line 2: not JSON"):
        tokenize(Source(str(tmp_path / "bad.jsonl")), tiny.tokenizer, tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


def test_a_full_disk_is_told_with_what_to_do_and_leaves_nothing(tiny: LoadedBase, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 50)
    with room(1000), pytest.raises(DataError, match=r"File too large\); make room, or set FAMILIAL_CACHE"):
        tokenize(Source(str(tmp_path / "text.txt")), tiny.tokenizer, tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


def test_who_wants_the_same_file_at_the_same_time_waits_for_it(
    source: Source, tiny: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr("training.data.tokens.encode", lambda *a: calls.append(a) or encode(*a))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: tokenize(source, tiny.tokenizer, tmp_path / "cache"), range(4)))
    assert len(calls) == 1 and all(np.array_equal(one.ids, found[0].ids) for one in found)


def test_a_vocabulary_with_holes_keeps_its_largest_ids(tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"one": 0, "two": 70_000, "<end>": 1}, unk_token="<end>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    (tmp_path / "text.txt").write_text("one two")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")
    found = tokenize(Source(str(tmp_path / "text.txt")), tokenizer, tmp_path / "cache")
    assert found.ids.tolist() == [0, 70_000, 1] and found.header.max_id == 70_000


def test_a_data_set_is_tokenized_once_for_its_content_and_split(tiny: LoadedBase, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jsonl").write_text('{"text": "one two"}\n{"text": "three"}\n')
    whole = tokenize(Source(f"hf:{tmp_path}/set"), tiny.tokenizer, tmp_path / "cache")
    first = tokenize(Source(f"hf:{tmp_path}/set:train[:1]"), tiny.tokenizer, tmp_path / "cache")
    assert (whole.header.documents, first.header.documents) == (2, 1)
    assert tokenize(Source(f"hf:{tmp_path}/set"), tiny.tokenizer, tmp_path / "cache").ids.filename == whole.ids.filename
    (tmp_path / "set" / "a.jsonl").write_text('{"text": "other words"}\n')
    other = tokenize(Source(f"hf:{tmp_path}/set"), tiny.tokenizer, tmp_path / "cache")
    assert other.header.documents == 1 and other.header.source_sha256 != whole.header.source_sha256


def test_a_damaged_file_is_refused(source: Source, tiny: LoadedBase, tmp_path: Path) -> None:
    tokenize(source, tiny.tokenizer, tmp_path / "cache")
    (folder,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    (folder / IDS_NAME).write_bytes((folder / IDS_NAME).read_bytes()[:-2])
    with pytest.raises(DataError, match=r"tokens, its header says .*delete that folder"):
        tokenize(source, tiny.tokenizer, tmp_path / "cache")
    (folder / HEADER_NAME).unlink()
    with pytest.raises(DataError, match="damaged token file"):
        tokenize(source, tiny.tokenizer, tmp_path / "cache")


def test_ids_that_the_model_has_no_embedding_for_are_refused(source: Source, tiny: LoadedBase, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"text.jsonl: its token id \d+ is outside the model's vocabulary of 100"):
        open_windows([source], tiny.tokenizer, tmp_path / "cache", vocab_size=100, window=8, length=1, seed=0)
