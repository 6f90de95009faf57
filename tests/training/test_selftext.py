import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import TEXT
from training.base import LoadedBase, load_base
from training.data import Document, encode, read_documents
from training.errors import DataError
from training.selftext import (
    CHAT,
    PROMPT_TOKENS,
    USER_TOKENS,
    Prompts,
    TextRecipe,
    chat_frame,
    continued,
    given_prompts,
    prompts_of,
    read_samples,
    write_selftext,
)
from training.selftext_cli import main

RECIPE = TextRecipe(tokens=300, batch=4, most=12, temperatures=(0.0, 1.0), chat=1.0, seed=5)
STORY = Prompts("story.txt", 1.0, ["the relay begins on the phone and ends in the data centre " * 20], whole=False)


@pytest.fixture(scope="module")
def base(tiny_base_dir: Path) -> LoadedBase:
    return load_base(str(tiny_base_dir))


def write(base: LoadedBase, out: Path, recipe: TextRecipe = RECIPE, identity: str = "it") -> int:
    return write_selftext(base.model, base.tokenizer, [STORY], recipe, identity, out)


def test_a_greedy_continuation_is_the_models_own_argmax_whatever_it_is_batched_with(base: LoadedBase) -> None:
    prompts = [base.tokenizer(text)["input_ids"] for text in ("the relay", "nobody reads the question twice, she")]
    for prompt, found in zip(prompts, continued(base.model, base.tokenizer, prompts, 8, 0.0), strict=True):
        ids = list(prompt)
        for token in found:
            with torch.no_grad():
                assert int(base.model(torch.tensor([ids])).logits[0, -1].argmax()) == token
            ids.append(token)
        assert len(found) == 8 or found[-1] == base.tokenizer.eos_token_id


def test_a_file_has_chats_and_continued_texts_with_what_was_given(base: LoadedBase, tmp_path: Path) -> None:
    done = write(base, tmp_path / "own.jsonl")
    samples = list(read_samples(tmp_path / "own.jsonl"))
    assert sum(len(s.ids) - s.prompt for s in samples) == done >= RECIPE.tokens
    assert {s.source for s in samples} == {CHAT, "story.txt"}
    opening = base.tokenizer(chat_frame(base.tokenizer)[0], add_special_tokens=False)["input_ids"]
    between = base.tokenizer(chat_frame(base.tokenizer)[1], add_special_tokens=False)["input_ids"]
    for sample in samples:
        given = list(sample.ids[: sample.prompt])
        if sample.source == CHAT:
            assert given[: len(opening)] == opening
            assert given[-len(between) :] == between
            assert len(given) <= len(opening) + USER_TOKENS + len(between)
        else:
            assert PROMPT_TOKENS[0] <= len(given) <= PROMPT_TOKENS[1]
        assert 0 < len(sample.ids) - sample.prompt <= RECIPE.most


def test_what_was_written_is_training_text_id_by_id(base: LoadedBase, tmp_path: Path) -> None:
    write(base, tmp_path / "own.jsonl")
    read = encode(read_documents(tmp_path / "own.jsonl", base.tokenizer), base.tokenizer)
    assert [tuple(ids.tolist()) for ids in read] == [s.ids for s in read_samples(tmp_path / "own.jsonl")]


def test_a_run_that_was_cut_goes_on_to_the_same_file(base: LoadedBase, tmp_path: Path) -> None:
    write(base, tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    write(base, tmp_path / "cut.jsonl")
    (tmp_path / "cut.jsonl").write_bytes(whole[: len(whole) // 2])  # in mid-line, as a kill leaves it
    write(base, tmp_path / "cut.jsonl")
    assert (tmp_path / "cut.jsonl").read_bytes() == whole


def test_another_seed_writes_another_text(base: LoadedBase, tmp_path: Path) -> None:
    write(base, tmp_path / "a.jsonl")
    write(base, tmp_path / "b.jsonl", replace(RECIPE, seed=6))
    assert (tmp_path / "a.jsonl").read_bytes() != (tmp_path / "b.jsonl").read_bytes()


def test_a_file_of_another_recipe_model_or_origin_is_refused(base: LoadedBase, tmp_path: Path) -> None:
    write(base, tmp_path / "own.jsonl")
    kept = (tmp_path / "own.jsonl").read_bytes()
    with pytest.raises(DataError, match="another recipe"):
        write(base, tmp_path / "own.jsonl", replace(RECIPE, most=5))
    with pytest.raises(DataError, match="another recipe"):
        write(base, tmp_path / "own.jsonl", identity="another model")
    (tmp_path / "notes.jsonl").write_text("mine")
    with pytest.raises(DataError, match="nothing says what it is"):
        write(base, tmp_path / "notes.jsonl")
    assert (tmp_path / "own.jsonl").read_bytes() == kept
    assert (tmp_path / "notes.jsonl").read_text() == "mine"


def test_prompts_of_chats_end_where_the_answer_begins(base: LoadedBase) -> None:
    turns = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "because"}]
    chat = Document(base.tokenizer.apply_chat_template(turns, tokenize=False), closed=True)
    prompts = prompts_of([chat], base.tokenizer, "chats.jsonl", 1.0)
    (ids,) = given_prompts(prompts, base.tokenizer, 1, np.random.default_rng(0))
    assert base.tokenizer.decode(ids) == base.tokenizer.apply_chat_template(
        turns[:1], tokenize=False, add_generation_prompt=True
    )


def test_a_damaged_file_and_a_recipe_without_any_source_are_refused_by_name(base: LoadedBase, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(json.dumps({"ids": [1]}) + "\n")
    with pytest.raises(DataError, match="line 1"):
        list(read_samples(tmp_path / "bad.jsonl"))
    with pytest.raises(DataError, match="--prompts"):
        write_selftext(base.model, base.tokenizer, [], replace(RECIPE, chat=0.0), "it", tmp_path / "none.jsonl")


@pytest.mark.parametrize("wrong", ["--seed -1", "--seed 1.5", "--chat nan", "--temperatures 0,hot", "--tokens 0"])
def test_malformed_options_are_refused_by_the_parser(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(f"--tokens 9 --out o.jsonl {wrong}".split())
    assert caught.value.code == 2 and "sample-text: error: argument" in capsys.readouterr().err


def test_the_command_writes_training_text_and_goes_on_with_it(
    tiny_base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "story.txt").write_text(TEXT)
    chat = {"question": "why does the relay begin on the phone?", "answer": "it was cold."}
    (tmp_path / "chats.jsonl").write_text(json.dumps(chat) + "\n")
    prompts = f"--prompts {tmp_path}/story.txt=2 {tmp_path}/chats.jsonl"
    command = f"--base {tiny_base_dir} {prompts} --batch 4 --most 8 --out {tmp_path}/new/own.jsonl --seed 4"
    main(f"{command} --tokens 200".split())
    assert "own.jsonl: 2" in capsys.readouterr().out
    whole = (tmp_path / "new" / "own.jsonl").read_bytes()
    assert {sample.source for sample in read_samples(tmp_path / "new" / "own.jsonl")} == {
        "chat",
        "story.txt",
        "chats.jsonl",
    }
    (tmp_path / "new" / "own.jsonl").write_bytes(whole[: len(whole) // 2])
    main(f"{command} --tokens 200".split())
    assert (tmp_path / "new" / "own.jsonl").read_bytes() == whole
    tokenizer = load_base(str(tiny_base_dir)).tokenizer
    assert all(document.ids for document in read_documents(tmp_path / "new" / "own.jsonl", tokenizer))


@pytest.mark.parametrize("content", ['{"ids": [5, 6, 7]}', '{"messages": [{"role": "user", "content": "why?"}]}'])
def test_a_file_that_begins_no_text_is_refused_by_name(
    content: str, tiny_base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(SystemExit):
        main(f"--base {tiny_base_dir} --prompts {tmp_path}/p.jsonl --tokens 9 --out {tmp_path}/o.jsonl".split())
    assert "p.jsonl: holds nothing to begin a text with" in capsys.readouterr().err


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from training.selftext_cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    assert (
        "--prompts" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )
