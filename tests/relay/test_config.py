"""Where settings come from, what overrules what, and how a wrong one is told of."""

import argparse
import dataclasses
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from relay.cli.config import CLIENT_SETTINGS, ClientConfig
from relay.node.config import NODE_SETTINGS, NodeConfig
from relay.settings.effective import as_toml, configuration, effective
from relay.settings.errors import SettingsError
from relay.settings.table import Table, add_flags
from tests.relay.processes import PATIENCE_S, command, environment, one_line_error

REQUIRED = ("--tier", "edge", "--bundle", "b")


def settled(*flags: str, table: Table = NODE_SETTINGS, **variables: str) -> dict[str, tuple[Any, str]]:
    """Value and source of each setting."""
    return {each.setting.name: (each.value, each.source) for each in resolved(flags, table, variables)}


def resolved(flags: tuple[str, ...], table: Table, variables: dict[str, str]) -> Any:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_flags(parser, table)
    return effective(table, parser.parse_args(flags), {"XDG_CONFIG_HOME": "/nowhere", **variables})


def node_config(*flags: str, **variables: str) -> NodeConfig:
    return configuration(NodeConfig, NODE_SETTINGS, resolved(flags, NODE_SETTINGS, variables))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def shell(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command started in `folder`, by a user without a configuration elsewhere."""
    given = environment(XDG_CONFIG_HOME=str(folder / "none"), **variables)
    return subprocess.run(
        [command(arguments[0]), *arguments[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env=given,
    )


# What overrules what.


def test_a_flag_overrules_the_variable_that_overrules_the_file_that_overrules_the_default(tmp_path: Path) -> None:
    file = write(tmp_path / "node.toml", '[node]\ntier = "file"\ngrace = 1\ndrain = 1.5\nmax-sessions = 1\n')
    given = settled(
        "--tier", "flag", "--config", str(file), RELAY_TIER="variable", RELAY_GRACE="2", RELAY_UPSTREAM="here:1"
    )
    assert given["tier"] == ("flag", "--tier")
    assert given["grace"] == (2.0, "RELAY_GRACE")
    assert given["upstream"] == ("here:1", "RELAY_UPSTREAM")
    assert given["drain"] == (1.5, str(file))
    assert given["max-sessions"] == (1, str(file))
    assert given["listen"] == ("localhost:7001", "default")
    assert given["segments"] == (None, "default")


@pytest.mark.parametrize(("configuration_", "table"), [(NodeConfig, NODE_SETTINGS), (ClientConfig, CLIENT_SETTINGS)])
def test_every_field_of_a_configuration_is_a_setting_of_all_sources(configuration_: type, table: Table) -> None:
    assert {entry.field for entry in table.settings} == {field.name for field in dataclasses.fields(configuration_)}
    for entry in table.settings:
        assert entry.flag == f"--{entry.name}"
        assert entry.variable == "RELAY_" + entry.name.upper().replace("-", "_")


def test_the_same_values_from_each_source_make_the_same_configuration(tmp_path: Path) -> None:
    texts = {
        "tier": "my tier", "bundle": str(tmp_path), "listen": "0.0.0.0:0", "upstream": "[::1]:9", "segments": "2-3",
        "threads": "3", "codec": "int4", "send": "ids", "max-sessions": "5", "kv-memory": "2GiB", "grace": "0.5",
        "drain": "7", "tls-cert": "/c", "tls-key": "/k",
        "tls-client-ca": "/a", "upstream-ca": "/A", "upstream-cert": "/C",
        "upstream-key": "/K",
    }  # fmt: skip
    assert set(texts) == {entry.name for entry in NODE_SETTINGS.settings}
    files = [Path(texts[name]) for name in list(texts)[-6:]]
    wanted = NodeConfig(
        "my tier", tmp_path, "0.0.0.0:0", "[::1]:9", (2, 3), 3, 5, 2**31, 0.5, 7.0, *files, codec="int4", send="ids"
    )
    assert node_config(*(part for name, text in texts.items() for part in (f"--{name}", text))) == wanted
    assert node_config(**{f"RELAY_{name.upper().replace('-', '_')}": text for name, text in texts.items()}) == wanted
    lines = [f"{name} = {text if re.fullmatch(r'[0-9.]+', text) else repr(text)}" for name, text in texts.items()]
    file = write(tmp_path / "all.toml", "\n".join(["[node]", *lines]))
    assert node_config("--config", str(file)) == wanted


def test_an_empty_variable_is_not_set() -> None:
    assert settled(*REQUIRED, RELAY_UPSTREAM="", RELAY_CONFIG="")["upstream"] == (None, "default")


# Which file.


def test_the_file_is_the_named_one_else_the_first_of_the_usual_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    home = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert settled(**home)["tier"][1] == "default"
    write(tmp_path / "config/familial/relay.toml", '[node]\ntier = "user"')
    assert settled(**home)["tier"] == ("user", str(tmp_path / "config/familial/relay.toml"))
    assert settled(XDG_CONFIG_HOME="", HOME=str(tmp_path))["tier"][1] == "default"
    write(tmp_path / ".config/familial/relay.toml", '[node]\ntier = "home"')
    assert settled(XDG_CONFIG_HOME="", HOME=str(tmp_path))["tier"][0] == "home"
    write(here / "relay.toml", '[node]\ntier = "here"')
    assert settled(**home)["tier"] == ("here", "relay.toml")
    variable = write(tmp_path / "variable.toml", '[node]\ntier = "variable"')
    assert settled(RELAY_CONFIG=str(variable), **home)["tier"][0] == "variable"
    flag = write(tmp_path / "flag.toml", '[node]\ntier = "flag"')
    assert settled("--config", str(flag), RELAY_CONFIG=str(variable), **home)["tier"][0] == "flag"
    assert settled("--config", "/dev/null", **home)["tier"][1] == "default"


def test_one_file_serves_both_commands(tmp_path: Path) -> None:
    file = write(tmp_path / "relay.toml", '[node]\ntier = "edge"\n[client]\nnode = "far:1"\ntimeout = 3\n')
    assert settled("--config", str(file))["tier"][0] == "edge"
    client = settled("--config", str(file), table=CLIENT_SETTINGS)
    assert (client["node"], client["timeout"]) == (("far:1", str(file)), (3.0, str(file)))


def test_a_path_in_a_file_is_beside_the_file_and_in_a_flag_where_one_stands(tmp_path: Path) -> None:
    file = write(tmp_path / "node.toml", '[node]\nbundle = "bundles/b"')
    assert settled("--config", str(file))["bundle"][0] == tmp_path / "bundles/b"
    assert settled("--bundle", "bundles/b")["bundle"][0] == Path("bundles/b")
    write(file, '[node]\nbundle = "/bundles/b"')
    assert settled("--config", str(file))["bundle"][0] == Path("/bundles/b")


# What is refused.


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("tier", "dev\tice", "expected a name of 1 to 128 printable characters, got 'dev\\tice'"),
        ("listen", "here", "expected HOST:PORT, got 'here'"),
        ("upstream", "here:70000", "expected HOST:PORT, got 'here:70000'"),
        ("segments", "two", "expected A or A-B, for example 1-2, got 'two'"),
        ("segments", "3-2", "expected A-B with A up to B, and B up to 1000, got '3-2'"),
        ("segments", "1-999999999", "expected A-B with A up to B, and B up to 1000, got '1-999999999'"),
        ("threads", "100000", "expected at most 1024, got '100000'"),
        ("threads", "0", "expected a positive whole number, got '0'"),
        ("max-sessions", "-1", "expected a positive whole number, got '-1'"),
        ("kv-memory", "much", "expected a size such as 1.5GiB or 800MiB, got 'much'"),
        ("kv-memory", "-1GiB", "expected a size such as 1.5GiB or 800MiB, got '-1GiB'"),
        ("grace", "0", "expected a positive number of seconds, got '0'"),
        ("drain", "inf", "expected a positive number of seconds, got 'inf'"),
    ],
)
def test_a_wrong_value_is_the_same_error_from_each_source(tmp_path: Path, name: str, text: str, problem: str) -> None:
    with pytest.raises(argparse.ArgumentError, match=rf"^argument --{name}: {re.escape(problem)}$"):
        settled(f"--{name}={text}")
    variable = f"RELAY_{name.upper().replace('-', '_')}"
    with pytest.raises(SettingsError, match=rf"^{variable}: {re.escape(problem)}$"):
        settled(**{variable: text})
    quoted = text if re.fullmatch(r"[-0-9]+|inf", text) and name != "segments" else f'"{text}"'.replace("\t", "\\t")
    file = write(tmp_path / "f.toml", f"[node]\n{name} = {quoted}")
    with pytest.raises(SettingsError, match=rf"^{re.escape(str(file))}: node\.{name}: {re.escape(problem)}$"):
        settled("--config", str(file))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[node]\ngrace_s = 3", r"node\.grace_s: unknown; the nearest is grace; there are tier, bundle, listen, "),
        ("[node]\nmax_sessions = 3", r"node\.max_sessions: unknown; the nearest is max-sessions; "),
        ("[node]\nTier = 'edge'", r"node\.Tier: unknown; the nearest is tier; "),
        ("[nodes]\ntier = 'edge'", r"nodes: unknown; the nearest is node; there are node, client"),
        ("tier = 'edge'", r"tier: stands outside of a table; put it under \[node\]"),
        ("node = 3", r"node: expected a table, \[node\]"),
        ("[node]\ngrace = '3'", r"node\.grace: expected a number, got '3'"),
        ("[node]\nthreads = true", r"node\.threads: expected a whole number, got True"),
        ("[node]\nthreads = 1.0", r"node\.threads: expected a whole number, got 1\.0"),
        ("[node]\ntier = 5", r"node\.tier: expected a string, got 5"),
        ("[node\n", r"not a TOML file: .*line 1"),
    ],
)
def test_a_file_that_says_something_else_is_refused_by_its_name_and_key(
    tmp_path: Path, text: str, problem: str
) -> None:
    file = write(tmp_path / "f.toml", text)
    with pytest.raises(SettingsError, match=f"^{re.escape(str(file))}: {problem}"):
        settled("--config", str(file))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.toml")
    with pytest.raises(SettingsError, match=rf"^--config: {missing}: no such file$"):
        settled("--config", missing)
    with pytest.raises(SettingsError, match=rf"^RELAY_CONFIG: {missing}: no such file$"):
        settled(RELAY_CONFIG=missing)
    with pytest.raises(SettingsError, match=rf"^{tmp_path}: cannot be read: Is a directory$"):
        settled("--config", str(tmp_path))
    (tmp_path / "latin").write_bytes(b"[node]\ntier = '\xe9'")
    with pytest.raises(SettingsError, match="latin: not a TOML file: "):
        settled("--config", str(tmp_path / "latin"))


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("RELAY_UPSTRAEM", "RELAY_UPSTREAM"),
        ("RELAY_MAX_SESSION", "RELAY_MAX_SESSIONS"),
        ("RELAY_BUNDEL", "RELAY_BUNDLE"),
        ("RELAY_CONFIGS", "RELAY_CONFIG"),
    ],
)
def test_a_variable_that_is_a_slip_is_refused(slip: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=f"^{slip}: unknown; the nearest is {meant}$"):
        settled(**{slip: "x"})


def test_variables_of_others_are_left_alone() -> None:
    others = dict.fromkeys(("RELAY_NODE", "RELAY_TIMEOUT", "RELAY_NODE_PORT", "RELAY_NODE_SERVICE_HOST", "X"), "x")
    assert settled(**others) == settled()
    theirs = dict.fromkeys((*(e.variable for e in NODE_SETTINGS.settings), "RELAY_NODE_SERVICE_HOST"), "x")
    assert settled(table=CLIENT_SETTINGS, **theirs) == settled(table=CLIENT_SETTINGS)


# As commands.


def test_what_is_missing_is_told_with_all_ways_to_give_it(tmp_path: Path) -> None:
    assert one_line_error(shell(tmp_path, "relay-node", "--bundle", "b")) == (
        "error: relay-node needs a tier: give --tier NAME, the variable RELAY_TIER, or tier under [node] in relay.toml"
    )


def test_a_wrong_setting_is_one_line_for_each_command(tmp_path: Path) -> None:
    line = one_line_error(shell(tmp_path, "relay", "describe", RELAY_NODE="here"))
    assert line == "error: RELAY_NODE: expected HOST:PORT, got 'here'"
    write(tmp_path / "relay.toml", "[client]\nnod = 1")
    line = one_line_error(shell(tmp_path, "relay", "generate", "hello"))
    assert line == "error: relay.toml: client.nod: unknown; the nearest is node; there are node, timeout, ca, cert, key"
    line = one_line_error(shell(tmp_path, "relay-node", "--print-config", RELAY_GRACE="soon"))
    assert line == "error: RELAY_GRACE: expected a positive number of seconds, got 'soon'"


def test_print_config_says_what_holds_and_where_it_came_from(tmp_path: Path) -> None:
    write(tmp_path / "relay.toml", '[node]\nbundle = "b"\nthreads = 2\ntls-client-ca = "ca.pem"\n')
    done = shell(tmp_path, "relay-node", "--print-config", "--tier", "edge", RELAY_SEGMENTS="2-3")
    assert (done.returncode, done.stderr) == (0, "")
    assert [re.split(r" {2,}", line) for line in done.stdout.splitlines()] == [
        ["[node]"],
        ['tier = "edge"', "# --tier"],
        [f'bundle = "{tmp_path}/b"', "# relay.toml"],
        ['listen = "localhost:7001"', "# default"],
        ["# upstream = HOST:PORT", "# not set"],
        ['segments = "2-3"', "# RELAY_SEGMENTS"],
        ["threads = 2", "# relay.toml"],
        ["max-sessions = 64", "# default"],
        ["# kv-memory = SIZE", "# not set"],
        ["grace = 30.0", "# default"],
        ["drain = 30.0", "# default"],
        ["# tls-cert = FILE", "# not set"],
        ["# tls-key = FILE", "# not set"],
        [f'tls-client-ca = "{tmp_path}/ca.pem"', "# relay.toml"],
        ["# upstream-ca = FILE", "# not set"],
        ["# upstream-cert = FILE", "# not set"],
        ["# upstream-key = FILE", "# not set"],
        ['codec = "f32"', "# default"],
        ['send = "rows"', "# default"],
    ]


def test_print_config_needs_nothing_and_has_colours_only_where_they_are_wanted(tmp_path: Path) -> None:
    plain = shell(tmp_path, "relay-node", "--print-config")
    assert "# tier = NAME" in plain.stdout and "# required, and not given" in plain.stdout
    assert "\x1b" not in plain.stdout
    forced = shell(tmp_path, "relay-node", "--print-config", FORCE_COLOR="1")
    assert re.sub(r"\x1b\[\d*m", "", forced.stdout) == plain.stdout != forced.stdout
    assert shell(tmp_path, "relay-node", "--print-config", FORCE_COLOR="1", NO_COLOR="1").stdout == plain.stdout


def test_relay_config_is_the_clients(tmp_path: Path) -> None:
    done = shell(tmp_path, "relay", "config", "--timeout", "2", RELAY_NODE="far:1")
    assert (done.returncode, done.stderr) == (0, "")
    assert tomllib.loads(done.stdout) == {"client": {"node": "far:1", "timeout": 2.0}}
    assert "# RELAY_NODE" in done.stdout and "# --timeout" in done.stdout


@pytest.mark.parametrize(
    "flags",
    [
        REQUIRED,
        ("--tier", 'a "b" \\ ñ 🜁', "--bundle", "with # and\ttab\x7f\x01", "--segments", "3", "--threads", "4"),
        ("--tier", "t", "--bundle", "/b", "--upstream", "[::1]:1", "--grace", "1e-7", "--drain", "1e22"),
    ],
)
def test_what_print_config_wrote_is_a_file_that_says_the_same(tmp_path: Path, flags: tuple[str, ...]) -> None:
    settings = resolved(flags, NODE_SETTINGS, {})
    file = write(tmp_path / "again.toml", as_toml(NODE_SETTINGS, settings, lambda text: text))
    again = node_config("--config", str(file))
    before = configuration(NodeConfig, NODE_SETTINGS, settings)
    assert again == dataclasses.replace(before, bundle=before.bundle.absolute())
