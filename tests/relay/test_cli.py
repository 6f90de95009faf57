"""The commands as a shell sees them: stdout, stderr, exit codes, and what they load."""

import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from relay.client.sync import RelayClient
from relay.client.types import GenerateOptions, Prompt
from relay.node.config import NodeConfig
from relay.node.text import TextStream
from relay.policy import ConfidenceExit, ExitSchedule, FixedExit
from tests.relay.processes import (
    PATIENCE_S,
    Gate,
    command,
    environment,
    free_port,
    in_background,
    one_line_error,
    run,
    until,
)
from tests.relay.servers import HOST, Chain, address, config, running

PROMPT = "The café runs out of tea."
HEAVY = ("torch", "transformers", "onnxruntime", "scipy")


def relay(nodes: Chain, *arguments: str, stdin: str | None = None, **changes: str) -> subprocess.CompletedProcess[str]:
    return run("relay", *arguments, "--node", address(nodes.device), stdin=stdin, **changes)


def written(nodes: Chain, prompt: Prompt = PROMPT, **options: Any) -> str:
    """The text that the SDK gives."""
    with RelayClient(address(nodes.device)) as client:
        return "".join(token.text for token in client.generate(prompt, **GenerateOptions(**options)))  # type: ignore[typeddict-item]


# relay generate


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], {}),
        (["--exit", "1"], {"policy": FixedExit(1)}),
        (["--schedule", "7"], {"policy": ExitSchedule(7)}),
        (["--speculative"], {}),
        (["--speculative", "--deepest", "2", "--draft-exit", "1", "--drafts", "3"], {"policy": FixedExit(2)}),
        (["--timeout", "60"], {}),
    ],
)
def test_generate_writes_the_text_and_nothing_else(nodes: Chain, arguments: list[str], options: dict[str, Any]) -> None:
    done = relay(nodes, "generate", PROMPT, "--max-tokens", "9", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == written(nodes, max_tokens=9, **options) + "\n"


SAMPLED = ["--temperature", "1.2", "--top-k", "50", "--top-p", "0.9", "--min-p", "0.01", "--seed", "8"]
SAMPLED_OPTIONS: dict[str, Any] = {"temperature": 1.2, "top_k": 50, "top_p": 0.9, "min_p": 0.01, "seed": 8}


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (SAMPLED, SAMPLED_OPTIONS),
        (["--confidence", "0.02"], {"policy": ConfidenceExit(0.02)}),
        (
            ["--confidence", "0.001", "--statistic", "margin", "--deepest", "2"],
            {"policy": ConfidenceExit(0.001, "margin", 2)},
        ),
        (["--confidence", "0.05,0.02"], {"policy": ConfidenceExit((0.05, 0.02))}),
        (["--stop", "e", "--stop", "a"], {"stop": ["e", "a"]}),
        (["--exit", "1", "--frequency-penalty", "9"], {"policy": FixedExit(1), "frequency_penalty": 9.0}),
    ],
)
def test_generates_flags_are_the_sdks_options(nodes: Chain, arguments: list[str], options: dict[str, Any]) -> None:
    done = relay(nodes, "generate", PROMPT, "--max-tokens", "12", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == written(nodes, max_tokens=12, **options) + "\n"


def test_generate_tells_a_seed_that_it_drew(nodes: Chain) -> None:
    done = relay(nodes, "generate", PROMPT, "--max-tokens", "6", "--temperature", "1")
    seed = done.stderr.removeprefix("seed ").strip()
    again = relay(nodes, "generate", PROMPT, "--max-tokens", "6", "--temperature", "1", "--seed", seed)
    assert (again.stdout, again.stderr) == (done.stdout, "")


def test_generate_reads_standard_input_where_no_prompt_is_given(nodes: Chain) -> None:
    done = relay(nodes, "generate", "--max-tokens", "9", stdin=PROMPT)
    assert done.stdout == written(nodes, max_tokens=9) + "\n"
    assert "the prompt is empty" in one_line_error(relay(nodes, "generate", stdin=""))


def test_generate_tells_several_samples_apart(nodes: Chain) -> None:
    done = relay(nodes, "generate", PROMPT, "--max-tokens", "6", "--samples", "2", *SAMPLED)
    first, second = done.stdout.removeprefix("[1 of 2]\n").split("\n[2 of 2]\n")
    assert first == written(nodes, max_tokens=6, **SAMPLED_OPTIONS) and second != first + "\n"
    as_json = relay(
        nodes, "generate", PROMPT, "--max-tokens", "6", "--samples", "2", "--json", "--logprobs", "1", *SAMPLED
    )
    lines = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert [(line["sample"], "reason" in line) for line in lines] == [
        *[(0, False)] * 6, (0, True), *[(1, False)] * 6, (1, True),
    ]  # fmt: skip
    assert set(lines[0]["logprobs"]) == {"token", "top"} and len(lines[0]["logprobs"]["top"]) == 1


# relay chat


def test_chat_remembers_what_was_said(nodes: Chain) -> None:
    done = relay(nodes, "chat", "--max-tokens", "8", stdin="Who reads first?\n\nAnd then?\n/exit\nnever read\n")
    assert (done.returncode, done.stderr) == (0, "")
    turns = [{"role": "user", "content": "Who reads first?"}]
    first = written(nodes, turns, max_tokens=8)
    turns += [{"role": "assistant", "content": first}, {"role": "user", "content": "And then?"}]
    assert done.stdout == first + "\n" + written(nodes, turns, max_tokens=8) + "\n"


def test_chats_commands_change_the_policy_and_forget(nodes: Chain) -> None:
    lines = ["tea", "/policy exit 1", "/reset", "tea", "/policy confidence 0.5 margin 2", "/reset", "tea"]
    done = relay(nodes, "chat", "--system", "Be brief.", "--max-tokens", "8", "--seed", "1", stdin="\n".join(lines))
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "tea"}]
    policies = (FixedExit(3), FixedExit(1), ConfidenceExit(0.5, "margin", 2))
    assert done.stdout == "".join(written(nodes, said, policy=policy, max_tokens=8) + "\n" for policy in policies)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/dance", "/dance is no command; /help lists them"),
        ("/policy exit", "'exit' is no policy; give exit G | schedule SEED | confidence"),
        ("/policy confidence 7", "the threshold of max_probability cannot be 7.0"),
        ("/policy epsilon 0.1\ntea", "no thresholds were calibrated for this node's bundle"),
        ("tea " * 500, "the prompt has "),
    ],
)
def test_a_chat_that_is_a_script_ends_with_its_first_error(nodes: Chain, line: str, says: str) -> None:
    assert says in one_line_error(relay(nodes, "chat", stdin=line + "\nnever asked\n"))


def test_a_chat_at_a_terminal_survives_errors_and_colours_the_tiers(nodes: Chain) -> None:
    typed = "/dance\ntea\n/policy\n/help\n/exit\n"
    status, shown = at_terminal("relay", "chat", "--max-tokens", "4", "--node", address(nodes.device), typed=typed)
    assert status == 0
    assert "/dance is no command" in shown and "the deepest exit" in shown and "Ctrl-C ends an answer" in shown
    assert re.search("\x1b\\[36m[^\x1b]+\x1b\\[0m", shown) and "4 tokens (cloud 100%)" in shown
    _, plain = at_terminal(
        "relay", "chat", "--max-tokens", "4", "--node", address(nodes.device), typed="tea\n/exit\n", NO_COLOR="1"
    )
    assert "\x1b[36m" not in plain and "4 tokens" in plain


def test_a_chats_next_turn_computes_only_what_is_new(nodes: Chain) -> None:
    _, shown = at_terminal(
        "relay", "chat", "--max-tokens", "4", "--node", address(nodes.device), typed="tea\nmilk\n/exit\n", NO_COLOR="1"
    )
    first, second = (int(known) for known in re.findall(r"(\d+) of the prompt known", shown))
    assert first == 0 and second > 10


def test_a_prompt_is_asked_for_where_a_person_gives_none(nodes: Chain) -> None:
    status, shown = at_terminal("relay", "generate", "--node", address(nodes.device), typed="")
    assert status == 2 and "error: nothing to continue; give a prompt, for example: relay generate" in shown


def at_terminal(*arguments: str, typed: str, **changes: str) -> tuple[int, str]:
    """A command whose input and output are a terminal: its exit status and all that it showed."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [command(arguments[0]), *arguments[1:]],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment(TERM="xterm", **changes),
        start_new_session=True,
    )
    os.close(slave)
    os.write(master, typed.encode())
    shown = b""
    with suppress(OSError):  # what a terminal's reader gets when the last writer is gone
        while piece := os.read(master, 4096):
            shown += piece
    os.close(master)
    return process.wait(PATIENCE_S), shown.decode()


def test_an_error_names_the_request_that_the_nodes_log_has(nodes: Chain, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "relay.node"):
        line = one_line_error(relay(nodes, "generate", PROMPT, "--exit", "9"))
    (request,) = re.findall(r"\(request ([0-9a-f]{16})\)$", line)
    assert f"request {request}, session " in caplog.text


def test_generate_replaces_what_the_terminals_encoding_lacks(nodes: Chain) -> None:
    expected = written(nodes, max_tokens=9, policy=FixedExit(1))
    assert not expected.isascii()
    done = relay(nodes, "generate", PROMPT, "--max-tokens", "9", "--exit", "1", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == expected.encode("ascii", "replace").decode() + "\n"


def test_generate_chat_speaks_through_the_models_template(nodes: Chain) -> None:
    done = relay(nodes, "generate", PROMPT, "--chat", "--max-tokens", "9")
    assert (done.returncode, done.stderr) == (0, "")
    said = written(nodes, [{"role": "user", "content": PROMPT}], max_tokens=9)
    assert done.stdout == said + "\n"
    assert said != written(nodes, max_tokens=9)


def test_generate_json_is_one_object_for_every_token_and_one_for_the_end(nodes: Chain) -> None:
    done = relay(nodes, "generate", PROMPT, "--max-tokens", "6", "--schedule", "7", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    *tokens, finish = [json.loads(line) for line in done.stdout.splitlines()]
    assert set(tokens[0]) == {
        "id", "text", "position", "exit", "tier", "confidence", "elapsed_ms", "engine_ms", "link_ms", "sample",
    }  # fmt: skip
    assert "".join(token["text"] for token in tokens) == written(nodes, max_tokens=6, policy=ExitSchedule(7))
    assert all(token["tier"] == ("device", "edge", "cloud")[token["exit"] - 1] for token in tokens)
    assert set(finish) == {
        "reason", "prompt_tokens", "tokens", "stop", "cached_tokens", "sample", "seed", "request_id",
    }  # fmt: skip
    assert finish["tokens"] == len(tokens)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([PROMPT, "--exit", "9"], "error: exit 9 is unknown; this family has exits 1..3"),
        ([""], "error: the prompt is empty; give at least one token"),
        (["tea " * 500], "error: the prompt has "),
        ([PROMPT, "--timeout", "0.000001"], "error: the timeout passed before the text was complete; give a larger"),
        ([PROMPT, "--schedule", "-1"], "error: the seed of a schedule is a 64-bit number from 0 on, got -1"),
        ([PROMPT, "--schedule", str(2**64)], "error: the seed of a schedule is a 64-bit number"),
        ([PROMPT, "--max-tokens", str(2**32)], "error: max_tokens cannot be 4294967296"),
        ([PROMPT, "--temperature", "-1"], "error: temperature cannot be -1.0; give 0 (greedy) or more"),
        ([PROMPT, "--confidence", "2"], "error: the threshold of max_probability cannot be 2.0; give a number in 0..1"),
        ([PROMPT, "--confidence", "0.5", "--deepest", "7"], "error: exit 7 is unknown; this family has exits 1..3"),
        ([PROMPT, "--epsilon", "5"], "error: epsilon cannot be 5.0; give a share of tokens between 0 and 1"),
        ([PROMPT, "--epsilon", "0.1"], "error: no thresholds were calibrated for this node's bundle"),
        ([PROMPT, "--epsilon", "0.1", "--deepest", "2"], "error: epsilon is a promise about the family's last exit"),
        ([PROMPT, "--presence-penalty", "1"], "error: penalties need the token ids, which only this node has"),
        ([PROMPT, "--samples", "65"], "error: 65 samples of one prompt; ask for at most 64 at a time"),
        ([PROMPT, "--stop", ""], "error: a stop string of 0 characters; give 1 to 256 characters each"),
        ([PROMPT, "--logprobs", "65", "--json"], "error: logprobs cannot be 65; give 0 to 64"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_exit_code_2(nodes: Chain, arguments: list[str], says: str) -> None:
    assert one_line_error(relay(nodes, "generate", *arguments)).startswith(says)


def test_bytes_that_are_no_text_are_refused_in_one_line(nodes: Chain) -> None:
    done = subprocess.run(
        [command("relay"), "generate", b"\xff\xfe", "--node", address(nodes.device)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env=environment(PYTHONUTF8="1"),
    )
    assert "not valid Unicode" in one_line_error(done)


@pytest.mark.parametrize("arguments", [["generate", PROMPT], ["describe"]])
def test_a_node_that_is_not_there_is_one_line_and_exit_code_2(arguments: list[str]) -> None:
    nobody = f"{HOST}:{free_port()}"
    line = one_line_error(run("relay", *arguments, "--node", nobody))
    assert line == f"error: no relay node answers at {nobody}; start one there, or correct the address"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["generate", PROMPT, "--statistic", "margin"],
            "--statistic and --deepest refine --confidence T; give that too",
        ),
        (["generate", PROMPT, "--drafts", "3"], "--draft-exit and --drafts refine --speculative; give that too"),
        (["generate", PROMPT, "--confidence", "0.5", "--statistic", "mood"], "argument --statistic: invalid choice"),
        (
            ["generate", PROMPT, "--confidence", "0.5,high"],
            "argument --confidence: invalid thresholds value: '0.5,high'",
        ),
        (["generate", PROMPT, "--confidence", "0.5", "--epsilon", "0.1"], "not allowed with argument"),
        (["generate", PROMPT, "--temperature", "hot"], "argument --temperature: invalid float value: 'hot'"),
        (["generate", PROMPT, "--exit", "0"], "argument --exit: expected a positive whole number, got '0'"),
        (["generate", PROMPT, "--exit", "1", "--schedule", "2"], "not allowed with argument"),
        (["generate", PROMPT, "--max-tokens", "few"], "argument --max-tokens: expected a positive whole number"),
        (["generate", PROMPT, "--timeout", "-1"], "argument --timeout: expected a positive number of seconds"),
        (["generate", PROMPT, "--node", "here"], "argument --node: expected HOST:PORT, got 'here'"),
        (["dance"], "invalid choice: 'dance'"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_arguments_of_the_wrong_form_are_refused_by_their_name(arguments: list[str], says: str) -> None:
    done = run("relay", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr.splitlines()[-1]


def test_a_tier_that_no_other_node_would_take_is_refused_at_the_start() -> None:
    for tier in ("", "t" * 129, "dev\nice"):
        done = run("relay-node", "--tier", tier, "--bundle", "b")
        assert (done.returncode, done.stdout) == (2, "")
        assert "argument --tier: expected a name of 1 to 128 printable characters" in done.stderr.splitlines()[-1]


def test_a_reader_that_leaves_ends_the_command_quietly(nodes: Chain) -> None:
    script = f"'{command('relay')}' generate '{PROMPT}' --json --node {address(nodes.device)} | head -n 1"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environment()
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


INTERRUPTIBLE = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Runs a command that hears Ctrl-C even where the tests run in the background of a shell, which ignores it."""


@pytest.mark.parametrize("free_forwards", [0, 6], ids=["before the first token", "in mid-sentence"])
def test_ctrl_c_leaves_quietly_and_frees_the_session(free_forwards: int, tiny_bundle: Path) -> None:
    with in_background(running(config(tiny_bundle, "device"))) as device:
        gate = Gate(device.node.engine, free=free_forwards)
        process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTIBLE, command("relay"), "generate", PROMPT, "--node", address(device)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        until(lambda: gate.waiting > 0)
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, complaints) == (130, "")
        gate.open()
        until(lambda: len(device.node.sessions) == 0)


# Colours.


def on_a_terminal(nodes: Chain, **changes: str) -> str:
    """What `relay generate` writes to a terminal."""
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [
            command("relay"),
            "generate",
            PROMPT,
            "--schedule",
            "7",
            "--max-tokens",
            "12",
            "--node",
            address(nodes.device),
        ],
        stdout=theirs,
        stderr=subprocess.PIPE,
        timeout=PATIENCE_S,
        check=False,
        env=environment(**changes),
    )
    assert (done.returncode, done.stderr) == (0, b"")
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the end of a terminal is an error
        while piece := os.read(ours, 1 << 16):
            shown += piece
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def test_a_terminal_sees_a_colour_per_tier_unless_it_asks_for_none(nodes: Chain) -> None:
    plain = written(nodes, max_tokens=12, policy=ExitSchedule(7)) + "\n"
    coloured = on_a_terminal(nodes)
    assert len(set(re.findall(r"\x1b\[3\dm", coloured))) >= 2
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
    assert on_a_terminal(nodes, NO_COLOR="1") == plain


def test_a_text_cannot_command_the_terminal(nodes: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TextStream, "step", lambda *_, **__: "\x1b[2J\x07a\x9b\r\tb\n")
    assert on_a_terminal(nodes, NO_COLOR="1") == "[2Ja\tb\n" * 12 + "\n"
    assert relay(nodes, "generate", PROMPT, "--max-tokens", "1").stdout.startswith("\x1b[2J")


# relay describe


def test_describe_tells_of_every_node_in_relay_order(nodes: Chain) -> None:
    done = relay(nodes, "describe")
    assert (done.returncode, done.stderr) == (0, "")
    heads = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert [head.partition(":")[0] for head in heads] == ["device", "edge", "cloud"]
    assert all(f"tiny-g3, segments {i} of 3, f32, context 256" in head for i, head in enumerate(heads, 1))
    upstreams = [line for line in done.stdout.splitlines() if line.startswith("  upstream ")]
    assert [line.split()[1].rstrip(":") for line in upstreams] == [address(nodes.edge), address(nodes.cloud)]
    assert "\x1b" not in done.stdout


def test_describe_json_is_one_object_for_every_node(nodes: Chain) -> None:
    done = relay(nodes, "describe", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    reported = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(node["tier"], node["segments"]) for node in reported] == [("device", [1]), ("edge", [2]), ("cloud", [3])]
    assert len({node["export_fingerprint"] for node in reported}) == 1
    assert all(node["chunk_invariant"] and node["rss_bytes"] > 0 for node in reported)


def test_describe_says_which_upstream_it_did_not_reach(tiny_bundle: Path) -> None:
    nobody = f"{HOST}:{free_port()}"
    alone = NodeConfig("device", tiny_bundle, listen=f"{HOST}:0", upstream=nobody, threads=1, drain_s=0.0)
    with in_background(running(alone)) as device:
        text = run("relay", "describe", "--node", address(device))
        as_json = run("relay", "describe", "--json", "--node", address(device))
    assert f"  upstream {nobody}: not reached: unavailable\n" in text.stdout
    assert text.returncode == as_json.returncode == 1
    (node,) = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert (node["upstream"], node["upstream_error"]) == (nobody, "unavailable")


# What is loaded.


def interpreter(script: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter."""
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environment())


def loaded_after(code: str, names: tuple[str, ...]) -> set[str]:
    """Which of these packages a fresh interpreter has loaded after `code`."""
    script = (
        f"import sys\ntry:\n    {code}\nexcept SystemExit as left:\n    assert not left.code, left\n"
        f"print('loaded', *(name for name in {names} if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
        env=environment(),
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    ("home", "arguments"),
    [
        ("relay.cli.main", ["--help"]),
        ("relay.cli.main", ["generate", "--help"]),
        ("relay.cli.main", ["describe", "--help"]),
        ("relay.cli.node", ["--help"]),
        ("training.cli", ["--help"]),
        ("exporter.cli", ["--help"]),
        ("scaling.cli", ["--help"]),
    ],
)
def test_help_loads_nothing_heavy(home: str, arguments: list[str]) -> None:
    code = f"sys.argv[1:] = {arguments}; from {home} import main; sys.exit(main())"
    assert loaded_after(code, (*HEAVY, "grpc", "numpy", "google.protobuf", "tokenizers", "onnx")) == set()


def test_importing_relay_loads_almost_nothing() -> None:
    assert loaded_after("import relay", (*HEAVY, "grpc", "numpy")) == set()


def test_the_whole_sdk_loads_nothing_that_only_nodes_and_training_need() -> None:
    each = "import relay; [getattr(relay, name) for name in relay.__all__]"
    assert loaded_after(each, (*HEAVY, "tokenizers", "jinja2")) == set()


def test_every_command_is_installed_and_has_help() -> None:
    for name in ("relay", "relay-node", "train-family", "export-family", "fit-law"):
        done = run(name, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"usage: {name} ")


def test_a_node_without_its_extra_names_the_command_that_installs_it() -> None:
    hide = "sys.modules['onnxruntime'] = None; sys.argv[1:] = ['--tier', 'edge', '--bundle', 'b']"
    script = f"import sys; {hide}; from relay.cli.node import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env=environment(),
    )
    assert one_line_error(done) == (
        "error: relay-node needs the package onnxruntime; install it with: pip install 'familial[node]'"
    )
