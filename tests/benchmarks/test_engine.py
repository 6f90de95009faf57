"""The engines' benchmark: its keys and reasons, a child's protocol, the choice among trials, and what it refuses."""

import json
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import engine, report
from benchmarks.peers import sweep as sweeps
from benchmarks.peers.catalogue import PEERS, Peer
from benchmarks.peers.child import Child, PeerError, processor_s
from benchmarks.peers.cost import step_cost
from benchmarks.peers.environment import python_of, variable
from benchmarks.peers.folders import made_once
from benchmarks.peers.protocol import losses_of
from benchmarks.peers.rounds import Seat, play, ratio
from benchmarks.peers.sweep import Rival, Task, Trial, finalists, sweep
from family.errors import BundleError
from family.manifest import load_manifest

KEYS = {
    "decode_vs_best",
    "prefill_vs_ort_genai",
    "prefill_vs_llama_cpp",
    "prefill_vs_openvino",
    "exit1_vs_full",
    "bytes_ratio_exit1",
    "roofline_share",
    "device_overhead_ms",
}
IDS = [5, 9, 2, 7, 7, 1, 3, 8]


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short text where the benchmark looks for its own."""
    path = tmp_path / "data" / engine.TEXT
    path.parent.mkdir(parents=True)
    path.write_text("the tide comes in and the lamp goes round and round " * 50)
    monkeypatch.setenv("FAMILIAL_DATA", str(tmp_path / "data"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns of a few tokens."""
    for name, value in {"WINDOW": 16, "PROMPT": 12, "TOKENS": 3, "DEVICE_PROMPT": 4, "DEVICE_TOKENS": 5}.items():
        monkeypatch.setattr(engine, name, value)


def options(bundle: Path, cache: Path, peers: tuple[str, ...] = ()) -> engine.Options:
    return engine.Options(bundle, peers, {}, False, cache, rounds=2, windows=2, lock=cache / "lock")


def test_without_rivals_their_ratios_are_null_and_say_why(
    tiny_bundle: Path, tmp_path: Path, text: None, small: None
) -> None:
    result = engine.measure(options(tiny_bundle, tmp_path))
    assert set(engine.RATIOS) == KEYS and set(result) >= KEYS
    rivals = {key for key in KEYS if "_vs_" in key} - {"exit1_vs_full"}
    assert {key for key in KEYS if result[key] is None} == rivals == set(result["null_because"])
    assert result["null_because"]["prefill_vs_openvino"] == "not asked; ask with --peer openvino"
    assert result["exit1_vs_full"] > 0 and result["device"]["bare_cpu_ms"] > 0
    assert all(reason in engine.table({**result, "machine": {}}) for reason in result["null_because"].values())


def test_a_rival_that_cannot_run_is_null_with_its_own_reason(
    tiny_bundle: Path, tmp_path: Path, text: None, small: None
) -> None:
    result = engine.measure(options(tiny_bundle, tmp_path, ("openvino", "ort-genai")))
    assert "run again with --make" in result["null_because"]["prefill_vs_openvino"]
    assert "this bundle's base is" in result["null_because"]["prefill_vs_ort_genai"]


@pytest.fixture
def ours(tiny_bundle: Path) -> Any:
    with Child("familial", "ours", Path(sys.executable)) as child:
        child.ask("open", model=str(tiny_bundle), settings={"threads": 1, "exit": None})
        yield child


def test_a_child_takes_turns_and_starts_afresh_at_each(ours: Child) -> None:
    first = ours.ask("turn", ids=IDS, tokens=4)
    assert first["prefill_s"] > 0 and first["decode_s"] > 0 and len(first["ids"]) == 5
    ours.ask("turn", ids=IDS[:3], tokens=2)
    assert ours.ask("turn", ids=IDS, tokens=4)["ids"] == first["ids"]
    assert ours.ask("turn", ids=IDS + first["ids"][:2], tokens=2)["ids"] == first["ids"][2:]


def test_the_bare_loop_decodes_what_our_engine_does_at_exit_1(tiny_bundle: Path) -> None:
    python = Path(sys.executable)
    with Child("familial", "ours", python) as ours, Child("bare", "bare", python) as bare:
        ours.ask("open", model=str(tiny_bundle), settings={"threads": 1, "exit": 1})
        bare.ask("open", model=str(tiny_bundle), settings={"threads": 1, "context": 32})
        assert bare.ask("turn", ids=IDS, tokens=6)["ids"] == ours.ask("turn", ids=IDS, tokens=6)["ids"]


def test_a_child_scores_the_next_token_of_every_position(ours: Child) -> None:
    window = IDS + ours.ask("turn", ids=IDS, tokens=0)["ids"]
    nats = ours.ask("score", windows=[window])["nats"]
    likely = [ours.ask("score", windows=[[*IDS, token]])["nats"] for token in range(12)]
    assert nats <= min(likely)  # the token that it chose itself is the likeliest at the last position


def test_losses_are_those_of_a_softmax() -> None:
    logits = np.array([[0.0, 0.0], [1000.0, 0.0]], np.float32)
    assert losses_of(logits, [1, 0]) == pytest.approx([np.log(2), 0.0])


def test_a_failure_of_a_child_names_it_and_leaves_it_usable(ours: Child) -> None:
    with pytest.raises(PeerError, match="familial: export failed: ValueError: this engine exports nothing"):
        ours.ask("export", source="", type="", out="")
    with pytest.raises(PeerError, match="familial: dance failed"):
        ours.ask("dance")
    assert ours.ask("turn", ids=IDS, tokens=0)["ids"]


def test_a_child_that_cannot_start_or_dies_says_what_it_said() -> None:
    with pytest.raises(PeerError, match="cannot start /no/python"):
        Child("x", "ours", Path("/no/python"))
    with Child("x", "no_such_module", Path(sys.executable)) as child, pytest.raises(PeerError, match="No module named"):
        child.ask("open")


def test_rounds_rotate_who_is_first_and_charge_idle_time_to_the_idle(ours: Child, tiny_bundle: Path) -> None:
    order: list[str] = []

    class Noted(Seat):
        def take(self, ids: Any, tokens: int) -> None:
            order.append(self.label)
            super().take(ids, tokens)

    with Child("b", "ours", Path(sys.executable)) as other:
        other.ask("open", model=str(tiny_bundle), settings={"threads": 1, "exit": 1})
        seats = [Noted("a", ours), Noted("b", other)]
        disturbed = play(seats, [IDS, IDS[:5]], 2, lambda: None, nullcontext)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert all(len(seat.prefill_s) == len(seat.decode_s) == 2 for seat in seats)
    assert all(0 <= seat.idle_s < seat.waited_s for seat in seats)
    assert len(disturbed) == 2 and all(-0.1 < share <= 1 for share in disturbed)


def test_a_ratio_is_the_median_of_each_rounds() -> None:
    assert ratio([1.0, 10.0, 4.0], [1.0, 5.0, 1.0]) == 2.0


def test_processor_time_counts_this_process() -> None:
    pid = int(Path("/proc/self").resolve().name)
    before = processor_s(pid)
    started = time.process_time()
    while time.process_time() - started < 0.05:  # some ticks of the system's clock
        sum(range(1000))
    assert processor_s(pid) > before


def trial(decode: float, prefill: float, nats: float) -> Trial:
    return Trial("int8", {"threads": 2}, nats, prefill, decode)


def test_finalists_are_the_fastest_of_equal_quality() -> None:
    fast, decoder, reader = trial(99, 999, 3.5), trial(50, 100, 3.1), trial(40, 200, 3.1)
    assert finalists([fast, decoder, reader], 3.2) == [decoder, reader]
    assert finalists([fast, decoder, reader], 3.0) == [fast]


def test_a_sweep_goes_on_where_it_was_cut_and_forgets_another_task(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").symlink_to(tiny_bundle)
    peer = Peer("mirror", "ours", "hf", types=("tiny",), options={"exit": (1, None)})
    rival = Rival(peer, Path(sys.executable), tmp_path, tmp_path)
    task = Task(tuple(IDS), 2, (tuple(IDS),), "key")
    monkeypatch.setattr(sweeps, "QUIET", 1.0)
    found = sweep(rival, task, 2, nullcontext, lambda _: None)
    assert [(t.settings["threads"], t.settings["exit"]) for t in found[:2]] == [(2, 1), (2, None)]
    assert {t.settings["threads"] for t in found[2:]} == {1}
    assert all(t.prefill_tps > 0 and t.decode_tps > 0 for t in found)

    monkeypatch.setattr(sweeps, "Child", None)  # nothing is measured again
    assert sweep(rival, task, 2, nullcontext, lambda _: None)[:2] == found[:2]
    with pytest.raises(TypeError):
        sweep(rival, replace(task, key="another"), 2, nullcontext, lambda _: None)


def test_disturbed_trials_are_used_and_not_kept(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").symlink_to(tiny_bundle)
    monkeypatch.setattr(sweeps, "QUIET", -1.0)
    peer = Peer("mirror", "ours", "hf", types=("tiny",), options={"exit": (None,)})
    rival = Rival(peer, Path(sys.executable), tmp_path, tmp_path)
    assert len(sweep(rival, Task(tuple(IDS), 2, (tuple(IDS),), "key"), 1, nullcontext, lambda _: None)) == 1
    kept = json.loads((tmp_path / "trials.json").read_text())
    assert kept["trials"] == [] and list(kept["nats"]) == ["tiny exit=None"]


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        folder.mkdir()
        raise ValueError

    with pytest.raises(ValueError):
        made_once(tmp_path / "x", fail)
    assert list(tmp_path.iterdir()) == []
    made_once(tmp_path / "x", Path.mkdir)
    assert made_once(tmp_path / "x", fail) == tmp_path / "x"


def test_the_bytes_of_a_step_are_the_weights_less_the_embedding_and_the_cache(tiny_bundle: Path) -> None:
    manifest = load_manifest(tiny_bundle)
    spec = manifest.spec
    at = {position: step_cost(tiny_bundle, manifest, spec.granularity, position) for position in (0, 9)}
    block = spec.d_model * (2 * spec.n_heads + 2 * spec.kv_heads) * spec.head_dim + 3 * spec.d_model * spec.d_ff
    head = spec.d_model * spec.vocab_size
    norms = (2 * spec.n_layers + 1) * spec.d_model
    assert at[0].weight_bytes == pytest.approx(4 * (spec.n_layers * block + head + norms), rel=0.01)
    assert at[9].cache_bytes == 10 * at[0].cache_bytes == 10 * spec.n_layers * 2 * spec.kv_heads * spec.head_dim * 4
    assert at[9].weight_bytes == at[0].weight_bytes
    assert at[0].flops == pytest.approx(2 * (spec.n_layers * block + head), rel=0.01)
    assert step_cost(tiny_bundle, manifest, 1, 0).bytes_read < at[0].bytes_read


def test_a_step_in_eight_bits_computes_as_much_and_reads_about_a_quarter(
    tiny_bundle: Path, tiny_bundle_int8: Path
) -> None:
    exact, whole = (step_cost(b, load_manifest(b), 3, 0) for b in (tiny_bundle, tiny_bundle_int8))
    assert whole.flops == exact.flops and whole.cache_bytes == exact.cache_bytes
    assert 1 / 4 < whole.weight_bytes / exact.weight_bytes < 1 / 3


def test_a_rivals_python_is_named_or_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = PEERS["llama.cpp"]
    monkeypatch.delenv(variable(peer), raising=False)
    with pytest.raises(PeerError, match=r"run again with --make.*FAMILIAL_PEER_LLAMA_CPP"):
        python_of(peer, {}, tmp_path, make=False)
    with pytest.raises(PeerError, match="/no/python: no such file"):
        python_of(peer, {peer.name: Path("/no/python")}, tmp_path, make=False)
    monkeypatch.setenv(variable(peer), sys.executable)
    assert python_of(peer, {}, tmp_path, make=False) == Path(sys.executable)
    monkeypatch.delenv(variable(peer))
    hopeless = replace(peer, requirements=(("--no-index", "no-such-package-at-all"),))
    with pytest.raises(PeerError, match=r"its environment cannot be made: .*name a Python"):
        python_of(hopeless, {}, tmp_path, make=True)
    with pytest.raises(PeerError, match="run again with --make"):
        python_of(hopeless, {}, tmp_path, make=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--peer", "vllm"], "invalid choice: 'vllm'"),
        (["--python", "vllm=/bin/python"], "expected PEER=PATH with PEER one of ort-genai, openvino, llama.cpp"),
        (["--python", "openvino"], "expected PEER=PATH"),
        (["--rounds", "0"], "expected a positive whole number"),
        (["--bundle", "no-such-folder"], "give the directory that export-family wrote"),
    ],
)
def test_bad_arguments_are_one_line_that_says_what_was_expected(arguments: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.engine", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_the_command_prints_one_object(
    tiny_bundle: Path,
    tmp_path: Path,
    text: None,
    small: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["engine", "--json", "--bundle", str(tiny_bundle), "--peer", "--rounds", "1", "--windows", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--cache", str(tmp_path)])
    engine.main()
    result = json.loads(capsys.readouterr().out)
    assert result["benchmark"] == "engine" and result["machine"]["cores"] > 0 and result["ours"]["nats"] > 0


def test_a_text_that_is_too_short_is_named(tiny_bundle: Path, tmp_path: Path, text: None, small: None) -> None:
    with pytest.raises(report.MissingInputError, match=r"test\.txt: \d+ tokens where 160001 are needed"):
        engine.measure(replace(options(tiny_bundle, tmp_path), windows=10_000))


def test_a_context_that_is_too_short_is_named(tiny_bundle: Path, tmp_path: Path, text: None) -> None:
    with pytest.raises(BundleError, match="a context of 256 tokens where 576 are measured"):
        engine.measure(options(tiny_bundle, tmp_path))
