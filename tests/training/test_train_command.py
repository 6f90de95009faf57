import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from family.spec import SCRATCH, SCRATCH_UNTIED, Base, Exit, load_spec, save_spec
from scaling.plan.fleet import Trunk
from scaling.plan.shapes import spec_of, trunk_shape
from tests.tiny import TEXT
from training import cli, eval_cli, selftext_cli
from training.base import load_base
from training.checkpoint import load_trained, open_family
from training.data import Source, open_windows
from training.loaded import LoadedFamily
from training.lowrank import LowRankLinear
from training.presets import PRESETS
from training.run import calibration
from training.trainer import has_fast_bf16


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAMILIAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def files(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text(TEXT)
    return (
        f"--text {tmp_path}/text.txt --eval {tmp_path}/text.txt --out {tmp_path}/out "
        "--tokens 512 --batch 2 --window 32 --threads 1 --eval-tokens 100 --json"
    )


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from training.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    assert "--layers" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("--spec none.json", "none.json: no such file"),
        ("--layers 2,4,5 --base {base}", "--layers: exits: the last exit must be after the last layer, 6"),
        ("--layers 4,2,6 --base {base}", "--layers: exits: layers must be positive and rise"),
        (
            "--layers 6 --base {base}",
            "its one exit is the base itself, so there is nothing to train; give an early exit",
        ),
        ("--layers 2,4,6 --base {base} --window 257", "--window 257: more than the family's context of 256 tokens"),
        ("--layers 2,4,6 --base {base} --trunk lora", "--lora-rank: goes with --trunk lora"),
        ("--layers 2,4,6 --base {base} --weights 1,2", "objective: weights: expected one per exit, 3; got 2"),
        ("--layers 2,4,6 --base {base} --branch lowrank --rank 65", "--layers: exits[0].rank: expected 1..64"),
        ("--preset family-9b --base {base}", "--preset family-9b: expected one of dense-1b"),
        ("--layers 2,4,6 --base ./nowhere", "./nowhere: no such folder"),
        ("--layers 2,4,6 --base {base}", "t.txt: no such file"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    tiny_base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, problem: str
) -> None:
    rest = f"--text {tmp_path}/t.txt --eval {tmp_path}/e.txt --tokens 9999 --out {tmp_path}/out"
    (tmp_path / "e.txt").write_text("word " * 500)
    with pytest.raises(SystemExit) as caught:
        cli.main(f"{arguments} {rest}".format(base=tiny_base_dir).split())
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and problem in lines[0]


def test_a_spec_file_is_trained_and_reported_as_json(
    family: LoadedFamily, tiny_base_dir: Path, tmp_path: Path, files: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_spec(family.spec.with_base(Base("another", "0" * 64)), tmp_path / "wanted.json")
    cli.main(f"--base {tiny_base_dir} --spec {tmp_path}/wanted.json {files}".split())
    report = json.loads(capsys.readouterr().out)
    assert report["tokens_seen"] == 512 and report["command"].startswith("train-family --base")
    assert (report["recipe"]["trunk"], report["recipe"]["objective"]) == ("frozen", "kl")
    assert load_spec(tmp_path / "out" / "spec.json") == family.spec  # with the base that it was trained on


def test_a_preset_is_trained_from_random_weights_with_the_bases_tokenizer(
    tiny_base_dir: Path, tmp_path: Path, files: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = replace(
        PRESETS["smollm2-135m"],
        d_model=64,
        d_ff=160,
        n_layers=3,
        n_heads=4,
        kv_heads=2,
        head_dim=16,
        vocab_size=600,
        exits=(Exit(1, "norm"), Exit(3, "norm")),
    )
    monkeypatch.setitem(PRESETS, "small", shape)  # type: ignore[arg-type]
    cli.main(f"--preset small --base {tiny_base_dir} {files}".split())
    report = json.loads(capsys.readouterr().out)
    assert (report["start"]["id"], report["recipe"]["trunk"], report["recipe"]["objective"]) == ("small", "full", "ce")
    spec = load_spec(tmp_path / "out" / "spec.json")
    assert (spec.n_layers, spec.vocab_size, spec.base.id) == (3, 600, "out")
    assert spec.exits == (Exit(1, "norm"), Exit(3, "norm"))
    assert report["curve"][-1]["loss"][0] < report["curve"][0]["loss"][0]
    monkeypatch.setitem(PRESETS, "small", replace(shape, vocab_size=100))  # type: ignore[arg-type]
    with pytest.raises(SystemExit):
        cli.main(f"--preset small --base {tiny_base_dir} {files}".split())
    assert "vocabulary of 100 is smaller than the tokenizer's 512" in capsys.readouterr().err


@pytest.mark.parametrize(("base", "tied"), [(SCRATCH, True), (SCRATCH_UNTIED, False)])
def test_a_planned_family_is_trained_from_scratch_as_its_spec_says(
    base: str, tied: bool, tiny_base_dir: Path, tmp_path: Path, files: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = trunk_shape(Trunk(head_dim=16, vocab_size=600, tied=tied, context=64), 64, 3)
    shape = replace(shape, exits=(Exit(2, "block"), Exit(3, "norm")))
    planned = spec_of(shape, Trunk(context=64), "planned")
    assert planned.base.id == base
    save_spec(planned, tmp_path / "planned.json")
    cli.main(f"--base {tiny_base_dir} --spec {tmp_path}/planned.json {files}".split())
    report = json.loads(capsys.readouterr().out)
    assert (report["start"]["id"], report["recipe"]["trunk"], report["recipe"]["objective"]) == (base, "full", "ce")
    assert report["curve"][-1]["loss"][0] < report["curve"][0]["loss"][0]
    family = open_family(tmp_path / "out")
    assert replace(family.spec, base=planned.base) == planned
    assert family.base.model.config.tie_word_embeddings is tied
    with pytest.raises(SystemExit):
        cli.main(f"--base {tiny_base_dir} --spec {tmp_path}/planned.json --trunk frozen {files}".split())
    assert "begins with weights at random" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("has", "fast"), [({}, False), ({"avx512_bf16": True}, False), ({"avx512_bf16": True, "amx_bf16": True}, True)]
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU decides, not the CPU")
def test_a_cpu_without_amx_trains_in_float32_unless_told_otherwise(
    has: dict[str, bool], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: has)
    assert has_fast_bf16() is fast


def test_low_rank_branches_are_saved_with_their_components_in_order(
    tiny_base_dir: Path, tmp_path: Path, files: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(f"--layers 2,6 --branch lowrank --rank 16 --lr 1e-2 --base {tiny_base_dir} {files}".split())
    assert load_spec(tmp_path / "out" / "spec.json").exits[0] == Exit(2, "lowrank", 16)
    base = load_base(str(tiny_base_dir))
    family = load_trained(tmp_path / "out", base)
    source, cache = Source(f"{tmp_path}/text.txt"), tmp_path / "cache" / "tokens"
    windows = open_windows([source], base.tokenizer, cache, vocab_size=512, window=32, length=16, seed=0)
    moments = family.moments(calibration(windows))[1]
    maps = {name: m for name, m in family.branch(1).block.named_modules() if isinstance(m, LowRankLinear)}
    assert len(maps) == 7
    for name, map_ in maps.items():
        outputs = map_.u.square().sum(0) * ((map_.v @ moments[name].float()) * map_.v).sum(1)
        assert (outputs[1:] < 1.02 * outputs[:-1]).all()  # the file's bfloat16 aside


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "--layers a,b",
        "--layers 2,6 --spec x.json",
        *(f"--layers 2,4,6 {wrong}" for wrong in ("--tokens -5", "--seed -1", "--lr nan", "--lr 0", "--lr -1e-3")),
        *(
            f"--layers 2,6 {wrong}"
            for wrong in (
                "--weights a,b",
                "--weights 2:1,1",
                "--warmup 2",
                "--objective mse",
                "--trunk half",
            )
        ),
    ],
)
def test_malformed_options_are_refused_by_the_parser(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments += " --text t --eval e --tokens 9 --out o" if "--tokens" not in arguments else ""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments.split())
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert "train-family: error" in told and "required: --text" not in told


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("--from f --branch norm", "--branch and --rank: are of --layers"),
        ("--spec s.json --rank 8", "--branch and --rank: are of --layers"),
        ("--preset family-2b --branch block", "--branch and --rank: are of --layers"),
        ("--preset family-2b --trunk frozen", "--trunk frozen: --preset begins with weights at random"),
        ("--layers 2,6 --branch lowrank", "--rank: goes with --branch lowrank, which needs it"),
        ("--layers 2,6 --branch norm --rank 3", "--rank: goes with --branch lowrank"),
        ("--layers 2,6 --lr -1", "argument --lr: expected a positive number, such as 1e-3; got '-1'"),
    ],
)
def test_options_that_would_do_nothing_or_harm_are_refused(
    arguments: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(f"{arguments} --text t --eval e --tokens 9 --out o".split())
    assert caught.value.code == 2 and f"train-family: error: {problem}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parse", "others", "option"),
    [
        (cli._parse, "--layers 2,6 --tokens 9 --out o --eval e", "--text"),
        (cli._parse, "--layers 2,6 --tokens 9 --out o --text t", "--eval"),
        (eval_cli._parse, "family", "--text"),
        (selftext_cli._parser().parse_args, "--tokens 9 --out o", "--prompts"),
    ],
)
def test_files_given_one_by_one_add_up(parse: Callable[[list[str]], Namespace], others: str, option: str) -> None:
    for given in ([option, "a", "b", option, "c"], [option, "a", "b", "c"]):  # nothing is left from before
        found = getattr(parse([*others.split(), *given]), option.removeprefix("--"))
        assert [str(file) for file in found] == ["a", "b", "c"]


def test_a_missing_extra_prints_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "training.base", None)
    with pytest.raises(SystemExit) as caught:
        cli.main(["--layers", "2,4,6", "--text", "t", "--eval", "e", "--tokens", "9", "--out", "o"])
    assert caught.value.code == 2
    assert "pip install 'familial[train]'" in capsys.readouterr().err
