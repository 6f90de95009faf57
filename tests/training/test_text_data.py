import copy
import json
import sys
from pathlib import Path

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from training.base import LoadedBase
from training.data import Document, Source, encode, eval_ids, parse_source, read_documents
from training.data.detokenise import detokenise, drop_unknown, looks_tokenised, wikitext_articles
from training.data.documents import iter_documents
from training.errors import DataError

WIKITEXT = """
 = Du Fu =

 Du Fu ( 712 \u2013 770 ) wrote 1 @,@ 500 poems . He was <unk> . " It 's a well @-@ known fact , " said Watson .

 = = Life = =

 = = = Early years = = =

 Born in <unk> .

 = = Works = =

 About 99 @.@ 5 % survive .
 = Next =
 Text .
"""


@pytest.mark.parametrize(
    ("line", "plain"),
    [
        (" a 17 @-@ match run , 1 @,@ 234 , 5 @.@ 6 . ", "a 17-match run, 1,234, 5.6."),
        ('He said , " hello , " and left .', 'He said, "hello," and left.'),
        ('" One " and " two " .', '"One" and "two".'),
        ("the club 's ( first ) [ and last ] goal ; really ?", "the club's (first) [and last] goal; really?"),
        ("`` nineteen , '' she said , `` was n't it ? ''", '"nineteen," she said, "wasn\'t it?"'),
        ("the ships ' endurance", "the ships' endurance"),
        ("in 2012 \u2013 13 they", "in 2012\u201313 they"),
        ("it cost $ 5 .", "it cost $5."),
        ("plain text, already fine.", "plain text, already fine."),
    ],
)
def test_tokenised_text_reads_as_people_write(line: str, plain: str) -> None:
    assert detokenise(line) == plain


def test_sentences_with_unknown_words_are_dropped() -> None:
    assert drop_unknown("One is good. Two is <unk>. Three is fine.") == "One is good. Three is fine."
    assert drop_unknown("All <unk> here.") == ""


def test_wikitext_is_split_into_articles_without_headings_that_lost_their_text() -> None:
    first, second = wikitext_articles(WIKITEXT)
    assert first == (
        'Du Fu\n\nDu Fu (712\u2013770) wrote 1,500 poems. "It\'s a well-known fact," said Watson.\n\n'
        "Works\n\nAbout 99.5% survive."
    )
    assert second == "Next\n\nText."


def test_only_tokenised_text_is_taken_for_it() -> None:
    assert looks_tokenised("one , two , three, four")
    assert not looks_tokenised("one, two, three , four")


def test_lines_are_documents_only_where_there_are_no_blank_lines(tmp_path: Path, tiny: LoadedBase) -> None:
    (tmp_path / "lines.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "play.txt").write_text("one\ntwo\n\nthree\n")
    assert [d.text for d in read_documents(tmp_path / "lines.txt", tiny.tokenizer)] == ["one", "two", "three"]
    assert len(read_documents(tmp_path / "play.txt", tiny.tokenizer)) == 1


def test_questions_and_answers_go_through_the_chat_template(tmp_path: Path, tiny: LoadedBase) -> None:
    record = {"question": "2 + 2?", "answer": "It is <<2+2=4>>4."}
    (tmp_path / "qa.jsonl").write_text(json.dumps(record) + "\n\n" + json.dumps({"text": "plain"}) + "\n")
    chat, plain = read_documents(tmp_path / "qa.jsonl", tiny.tokenizer)
    assert chat.text == "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\nIt is 4.<|im_end|>\n"
    chat_ids, plain_ids = encode([chat, plain], tiny.tokenizer)
    assert chat_ids[-1] != tiny.tokenizer.eos_token_id  # it ended itself, with a newline after
    assert plain_ids[-1] == tiny.tokenizer.eos_token_id
    assert plain.text == "plain"


def test_only_newlines_end_a_line_of_json(tmp_path: Path, tiny: LoadedBase) -> None:
    text = "one\u2028two\x85three"  # which JSON allows inside strings
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": text}, ensure_ascii=False) + "\r\n", encoding="utf-8", newline="")
    assert [d.text for d in read_documents(path, tiny.tokenizer)] == [text]


def test_a_text_begins_as_the_tokenizer_begins_it(tiny: LoadedBase) -> None:
    tokenizer = copy.deepcopy(tiny.tokenizer)
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    documents = [Document("one two"), Document("<|im_start|>one<|im_end|>", closed=True)]
    plain = [ids.tolist() for ids in encode(documents, tokenizer)]
    assert start != plain[0][0] and plain[0][-1] == end
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    assert [ids.tolist() for ids in encode(documents, tokenizer)] == [[start, *plain[0]], plain[1]]


def test_a_tokenizer_without_an_end_of_text_is_refused(tiny: LoadedBase) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer.backend_tokenizer)
    with pytest.raises(DataError, match=r"no end-of-text token.*set eos_token"):
        list(encode([Document("one")], tokenizer))


def test_chats_of_several_turns_go_through_the_chat_template(tmp_path: Path, tiny: LoadedBase) -> None:
    turns = [{"role": r, "content": f"<<{r}>>"} for r in ("system", "user", "assistant", "user", "assistant")]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": turns}))
    (chat,) = read_documents(tmp_path / "chats.jsonl", tiny.tokenizer)
    assert chat.closed and chat.text == tiny.tokenizer.apply_chat_template(turns, tokenize=False)
    assert chat.text.count("<<assistant>>") == 2


def test_ids_that_a_model_wrote_are_taken_as_they_are(tmp_path: Path, tiny: LoadedBase) -> None:
    (tmp_path / "ids.jsonl").write_text('{"ids": [5, 6, 511]}\n{"ids": [7]}\n')
    documents = read_documents(tmp_path / "ids.jsonl", tiny.tokenizer)
    assert [ids.tolist() for ids in encode(documents, tiny.tokenizer)] == [[5, 6, 511], [7]]


def test_parquet_and_data_sets_are_read_as_json_lines_are(tmp_path: Path, tiny: LoadedBase) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("datasets")
    turns = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "so."}]
    rows = [{"text": "one", "id": 1, "messages": None}, {"text": None, "id": 2, "messages": turns}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "folder").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "folder" / "a.parquet")
    expected = read_documents(tmp_path / "a.jsonl", tiny.tokenizer)
    assert [d.closed for d in expected] == [False, True]
    for ref in (f"{tmp_path}/folder/a.parquet", f"hf:{tmp_path}/folder", f"hf:{tmp_path}/folder:train[:2]"):
        assert list(iter_documents(Source(ref), tiny.tokenizer)) == expected


def test_held_out_text_keeps_its_order(tmp_path: Path, tiny: LoadedBase) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join(f"cat {i} went to the sea\n" for i in range(50)))
    assert tiny.tokenizer.decode(eval_ids(path, tiny.tokenizer, 20)).startswith("cat 0 went to the sea<|im_end|>cat 1")
    assert len(eval_ids(path, tiny.tokenizer, 20)) == 20


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.txt", None, "no such file"),
        ("a.txt", b"", "holds no text"),
        ("a.txt", b"  \n \n", "holds no text"),
        ("a.txt", b"\xff\xfe\x00", "not readable as UTF-8"),
        ("a.jsonl", b"\n", "holds no text"),
        ("a.jsonl", b"\xff\xfe\x00", "not readable as UTF-8"),
        ("a.jsonl", b"{oops\n", "line 1: not JSON"),
        ("a.jsonl", b'{"text": "fine"}\n{"title": "no"}\n', "line 2: expected an object with `text`"),
        ("a.jsonl", b'{"messages": [{"role": "user"}]}\n', "line 1: expected an object with `text`"),
        ("a.jsonl", b'{"ids": [1, 512]}\n', "line 1: `ids` has 512, expected token ids below 512"),
        ("a.jsonl", b'{"ids": [1, -1]}\n', "line 1: `ids` has -1"),
        ("a.jsonl", b'{"ids": [1, true]}\n', "line 1: `ids` has True"),
        ("a.jsonl", b'{"messages": []}\n', "line 1: a chat that the base's chat template does not take"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": "\\ud83d."}\n', "line 2: half of a surrogate pair"),
        ("a.parquet", b"PAR1 not really", "not readable as Parquet"),
    ],
)
def test_bad_text_is_named_with_its_problem(
    tmp_path: Path, tiny: LoadedBase, name: str, content: bytes | None, problem: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        read_documents(tmp_path / name, tiny.tokenizer)
    assert name in str(caught.value)


@pytest.mark.parametrize("package", ["datasets", "pyarrow"])
def test_a_missing_reader_is_named_with_the_command_that_installs_it(
    package: str, tmp_path: Path, tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "a.parquet").touch()
    ref = {"datasets": "hf:some/set", "pyarrow": f"{tmp_path}/a.parquet"}[package]
    with pytest.raises(
        DataError, match=rf"needs the package {package}; install it with: pip install 'familial\[data\]'"
    ):
        list(iter_documents(Source(ref), tiny.tokenizer))


def test_a_data_set_that_is_not_there_is_named(tmp_path: Path, tiny: LoadedBase) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match=r"hf:.*nowhere: cannot be loaded \(.*expected hf:ID"):
        list(iter_documents(Source(f"hf:{tmp_path}/nowhere"), tiny.tokenizer))


def test_a_chat_that_its_template_refuses_is_named(tmp_path: Path, tiny: LoadedBase) -> None:
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"messages": [{"role": "user", "content": "hello"}]}\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: a chat .* does not take \(roles must alternate\)"):
        read_documents(tmp_path / "a.jsonl", tokenizer)


def test_a_parquet_file_without_a_column_of_text_is_named(tmp_path: Path, tiny: LoadedBase) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"title": ["one"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, row 0: expected an object with `text`"):
        read_documents(tmp_path / "a.parquet", tiny.tokenizer)


def test_chats_need_a_chat_template(tmp_path: Path, tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny.tokenizer, "chat_template", None)
    (tmp_path / "qa.jsonl").write_text('{"question": "a", "answer": "b"}')
    with pytest.raises(DataError, match="need a chat template"):
        read_documents(tmp_path / "qa.jsonl", tiny.tokenizer)


def test_sources_have_weights(tmp_path: Path) -> None:
    assert parse_source("a.txt") == Source("a.txt")
    assert parse_source("dir/a.txt=0.25") == Source("dir/a.txt", 0.25)
    assert parse_source("hf:some/set@en:train=2") == Source("hf:some/set@en:train", 2)
    (tmp_path / "odd=1").touch()
    assert parse_source(str(tmp_path / "odd=1")) == Source(str(tmp_path / "odd=1"))
    for wrong in ("a.txt=half", "a.txt=0", "a.txt=-1", "a.txt=nan"):
        with pytest.raises(DataError, match="FILE=WEIGHT"):
            parse_source(wrong)
