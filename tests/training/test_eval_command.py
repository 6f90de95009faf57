import bz2
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from family.spec import Base, Exit
from tests.tiny import TEXT
from training import eval_cli
from training.base import LoadedBase
from training.checkpoint import save_trained
from training.continuations import MOST, read_prompts
from training.data import eval_ids
from training.errors import DataError
from training.modeling import FamilyForCausalLM
from training.shapes import new_spec
from training.tasks import read_documents

EXITS = (Exit(2, "lowrank", 24), Exit(4, "block"), Exit(6, "norm"))
PROMPTS = ["why does the relay begin on the phone?", "what happens when the link is cut?", "who reads the question?"]


@pytest.fixture(scope="module")
def trained(tiny: LoadedBase) -> FamilyForCausalLM:
    """A family with a low-rank branch, its first components by far the most important."""
    family = FamilyForCausalLM.from_base(EXITS, tiny.model, [torch.arange(3, 259).view(2, 128)]).eval()
    with torch.no_grad():
        for name, parameter in family.branches.named_parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
            parameter.add_(0.05 * noise).copy_(parameter.to(torch.bfloat16))
    return family


@pytest.fixture(scope="module")
def folder(trained: FamilyForCausalLM, tiny: LoadedBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families") / "tiny"
    spec = new_spec("tiny", Base(tiny.id, tiny.weights_sha256), tiny.model, EXITS)
    save_trained(trained.config, trained.state_dict(), spec, "frozen", tiny.tokenizer, folder)
    (folder / "text.txt").write_text(TEXT)
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"turns": [p, "and?"]}) + "\n" for p in PROMPTS))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAMILIAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def evaluate(folder: Path, base: Path, arguments: str, out: Path) -> Any:
    eval_cli.main(f"{folder} --base {base} {arguments.format(folder)} --out {out}".split())
    return json.loads(out.read_text())


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from training.eval_cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    assert "--ranks" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_each_exit_and_rank_is_scored_as_its_own_submodel(
    trained: FamilyForCausalLM, tiny: LoadedBase, folder: Path, tiny_base_dir: Path, tmp_path: Path
) -> None:
    report = evaluate(folder, tiny_base_dir, "--text {}/text.txt --tokens 128 --window 64 --ranks 4,16", tmp_path / "r")
    (text,) = report["text"]
    assert (text["tokens"], text["window"]) == (128, 64)
    assert [(e["exit"], e.get("rank")) for e in text["exits"]] == [(1, 4), (1, 16), (1, 24), (2, None), (3, None)]
    ids = torch.from_numpy(eval_ids(folder / "text.txt", tiny.tokenizer, 129))
    with torch.no_grad():
        last = trained.submodel(3)(ids[:128].view(2, 64)).logits.flatten(0, 1)
        for found in text["exits"]:
            rank = found.get("rank")
            logits = trained.submodel(found["exit"], rank)(ids[:128].view(2, 64)).logits.flatten(0, 1)
            nats = functional.cross_entropy(logits, ids[1:]).item()
            assert found["cross_entropy"] == pytest.approx(nats, 1e-5)
            assert found["perplexity"] == pytest.approx(2.718281828**nats, 1e-4)
            assert found["agreement"] == pytest.approx((logits.argmax(-1) == last.argmax(-1)).float().mean().item())


def test_a_family_that_holds_its_trunk_is_scored_without_a_base(
    trained: FamilyForCausalLM, tiny: LoadedBase, folder: Path, tiny_base_dir: Path, tmp_path: Path
) -> None:
    spec = new_spec("whole", Base("gone", "0" * 64), tiny.model, EXITS)
    save_trained(trained.config, trained.state_dict(), spec, "full", tiny.tokenizer, tmp_path / "whole")
    eval_cli.main(f"{tmp_path}/whole --text {folder}/text.txt --tokens 128 --out {tmp_path}/r".split())
    (found,) = json.loads((tmp_path / "r").read_text())["text"]
    (expected,) = evaluate(folder, tiny_base_dir, "--text {}/text.txt --tokens 128", tmp_path / "s")["text"]
    for one, other in zip(found["exits"], expected["exits"], strict=True):
        assert one["cross_entropy"] == pytest.approx(other["cross_entropy"], 1e-5)


def test_fewer_tokens_than_a_window_are_one_window(folder: Path, tiny_base_dir: Path, tmp_path: Path) -> None:
    (text,) = evaluate(folder, tiny_base_dir, "--text {}/text.txt --tokens 100", tmp_path / "r")["text"]
    assert (text["tokens"], text["window"]) == (100, 100)


def test_answers_are_greedy_kept_and_scored_by_their_own_tokens_alone(
    trained: FamilyForCausalLM, tiny: LoadedBase, folder: Path, tiny_base_dir: Path, tmp_path: Path, cache: Path
) -> None:
    first = evaluate(folder, tiny_base_dir, "--continuations {}/prompts.jsonl", tmp_path / "first")["continuations"]
    (kept,) = cache.rglob("0.json")
    answers = json.loads(kept.read_text())
    prompts = sorted(read_prompts(folder / "prompts.jsonl", tiny.tokenizer, 128, None), key=len)
    assert first["prompts"] == 3 and first["tokens"] == sum(map(len, answers))
    same = [0, 0, 0]
    for prompt, answer in zip(prompts, answers, strict=True):
        assert len(answer) == MOST or answer[-1] == tiny.tokenizer.eos_token_id
        with torch.no_grad():
            tops = [trained.submodel(g)(torch.tensor([prompt + answer])).logits[0].argmax(-1) for g in (1, 2, 3)]
        part = slice(len(prompt) - 1, len(prompt) + len(answer) - 1)
        assert tops[2][part].tolist() == answer
        same = [n + int((top[part] == tops[2][part]).sum()) for n, top in zip(same, tops, strict=True)]
    assert [e["agreement"] for e in first["exits"]] == pytest.approx([n / first["tokens"] for n in same])
    assert {c["disagreement"] for e in first["exits"] for c in e["coverage"]} == {0.05, 0.1}
    kept.write_text(json.dumps([answer[:5] for answer in answers]))  # what is kept is not written again
    again = evaluate(folder, tiny_base_dir, "--continuations {}/prompts.jsonl", tmp_path / "again")["continuations"]
    assert again["tokens"] == 15


def test_tasks_are_scored_by_lm_eval_as_by_hand(
    trained: FamilyForCausalLM, tiny: LoadedBase, folder: Path, tiny_base_dir: Path, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install 'familial[eval]')")
    words = TEXT.split()
    endings = [" ".join(words[i : i + n]) for i, n in ((9, 2), (30, 5), (50, 3), (70, 7))]
    tasks = [(" ".join(words[i : i + 6]), i % 4, endings) for i in range(0, 60, 5)]
    lines = "".join("\n".join([query, str(gold), *choices]) + "\n" for query, gold, choices in tasks)
    (tmp_path / "h.txt.bz2").write_bytes(bz2.compress(lines.encode()))
    (tmp_path / "l.jsonl").write_text("".join(json.dumps({"text": query}) + "\n" for query, _, _ in tasks))
    files = f"hellaswag={tmp_path}/h.txt.bz2 lambada={tmp_path}/l.jsonl"
    report = evaluate(folder, tiny_base_dir, f"--tasks {files} --ranks 8 --limit 10", tmp_path / "r")
    hellaswag, lambada = report["tasks"]
    assert hellaswag["documents"] == lambada["documents"] == 10

    def nats(model: Any, before: str, after: str) -> tuple[float, bool]:
        given, whole = (
            tiny.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, before + after)
        )
        with torch.no_grad():
            logits = model(torch.tensor([whole])).logits[0, len(given) - 1 : -1].log_softmax(-1)
        wanted = torch.tensor(whole[len(given) :])
        return -logits[range(len(wanted)), wanted].sum().item(), bool((logits.argmax(-1) == wanted).all())

    for found, last_word in zip(hellaswag["exits"], lambada["exits"], strict=True):
        model = trained.submodel(found["exit"], found.get("rank"))
        by_choice = [[nats(model, query, f" {e}")[0] for e in choices] for query, _, choices in tasks[:10]]
        right = [
            min(range(4), key=row.__getitem__) == gold for row, (_, gold, _) in zip(by_choice, tasks, strict=False)
        ]
        normed = [[n / len(e) for n, e in zip(row, endings, strict=True)] for row in by_choice]
        assert found["accuracy"] == pytest.approx(sum(right) / 10)
        assert found["accuracy_norm"] == pytest.approx(
            sum(min(range(4), key=row.__getitem__) == t[1] for row, t in zip(normed, tasks, strict=False)) / 10
        )
        said = [
            nats(model, *(query.rpartition(" ")[0], " " + query.rpartition(" ")[2]))[1] for query, _, _ in tasks[:10]
        ]
        assert last_word["accuracy"] == pytest.approx(sum(said) / 10)


def test_a_table_has_a_line_for_every_exit(
    folder: Path, tiny_base_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    eval_cli.main(f"{folder} --base {tiny_base_dir} --text {folder}/text.txt --tokens 64 --window 32 --ranks 8".split())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "text.txt: 64 tokens in windows of 32"
    assert [line.split("  ")[1] for line in lines[2:]] == ["exit 1 rank 8", "exit 1 rank 24", "exit 2", "exit 3"]
    assert lines[-1].count("100.0%") == 3


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("--text {}/none.txt", "none.txt: no such file"),
        ("--text {}/text.txt --window 300", "--window 300: more than the family's context of 256 tokens"),
        ("--text {}/text.txt --tokens 100 --window 200", "text.txt: 101 tokens, fewer than one window of 200"),
        ("--text {}/text.txt --ranks 8,25", "rank 25: more than the family can be cut to"),
        ("--continuations {}/text.txt", 'line 1: expected an object such as {"turns"'),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    folder: Path, tiny_base_dir: Path, capsys: pytest.CaptureFixture[str], arguments: str, problem: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        eval_cli.main(f"{folder} --base {tiny_base_dir} {arguments.replace('{}', str(folder))}".split())
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and problem in lines[0]


@pytest.mark.parametrize(
    "arguments", ["", "--text t --limit 3", "--text t --ranks 0", "--tasks mmlu=x", "--tasks hellaswag=/none"]
)
def test_malformed_options_are_refused_by_the_parser(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        eval_cli.main(["family", *arguments.split()])
    assert caught.value.code == 2
    assert "eval-family: error" in capsys.readouterr().err


def test_a_prompt_that_leaves_no_room_for_its_answer_is_refused_by_its_line(tiny: LoadedBase, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps({"turns": ["long " * 200]}) + "\n")
    with pytest.raises(DataError, match=r"line 1: .* the context has room for 128"):
        read_prompts(tmp_path / "p.jsonl", tiny.tokenizer, 128, None)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("hellaswag", "a\n0\nb\nc\nd\n", "5 lines; expected 6 for each task"),
        ("hellaswag", "a\n4\nb\nc\nd\ne\n", "line 2: expected the right ending's index"),
        ("lambada", '{"text": "one"}\n', "line 1: expected an object"),
        ("lambada", "not json\n", "line 1: expected an object"),
    ],
)
def test_a_file_that_is_not_the_tasks_is_refused_by_its_line(
    tmp_path: Path, name: str, text: str, problem: str
) -> None:
    (tmp_path / "f").write_text(text)
    with pytest.raises(DataError, match=problem):
        read_documents(name, tmp_path / "f")
