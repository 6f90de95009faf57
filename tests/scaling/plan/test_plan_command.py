import argparse
import json
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from family.spec import Exit, load_spec
from relay.node.config import NODE_SETTINGS
from relay.settings.effective import effective
from relay.settings.table import add_flags
from scaling.plan import cli
from scaling.plan.exitlaw import SHIPPED
from scaling.plan.fleetfile import example
from scaling.plan.outputs import LEAST_SESSIONS, NodeFile, write_nodes

FLEET = """\
name: tiny
objective: energy
tiers:
  - name: phone
    count: 50
    hardware: {tflops: {f32: 0.01}, bandwidth_gb_s: 2, memory_gb: 0.0015, busy_w: 3, idle_w: 1, measured: true}
  - name: box
    hardware: {tflops: {f32: 0.5}, bandwidth_gb_s: 30, memory_gb: 1, busy_w: 30, idle_w: 5, measured: true}
    price_per_hour: 0.4
links:
  - {rtt_ms: 5, bandwidth_mbps: 100, jitter_ms: 1}
traffic:
  requests_per_second: 0.1
  prompt_tokens: 40
  output_tokens: 30
  peak: 2
  decided: {phone: 0.7, box: 0.3}
goals:
  ttft_ms: 500
  tpot_ms: 50
  loss: {phone: 3.8, box: 3.235}
  memory_free: {phone: 0.85, box: 0.1}
training:
  compute: 9e12
  trunk: {vocab_size: 512, head_dim: 16, widths: [32, 48, 64, 96], layers: [8], context: 128}
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET, encoding="utf-8")
    return path


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from scaling.plan.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'numpy', 'scipy', 'yaml', 'jsonschema', 'torch'} & set(sys.modules)"
    )
    assert (
        "FLEET.yaml" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )


def test_planning_loads_no_torch_no_engine_and_no_relay(fleet: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from scaling.plan.cli import main\n"
        f"main([{str(fleet)!r}, '--out', {str(tmp_path / 'plan')!r}])\n"
        "assert not {'torch', 'transformers', 'onnxruntime', 'relay', 'grpc'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_a_plan_is_written_that_trainer_node_and_compose_take(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan"
    cli.main([str(fleet), "--out", str(out), "--explain"])
    told = capsys.readouterr().out
    assert "tiny: least energy of" in told and "why this G" in told and "a tenth more of" in told
    plan = json.loads((out / "plan.json").read_text())
    tiers = plan["best"]["tiers"]
    assert [tier["tier"] for tier in tiers] == ["phone", "box"]
    spec = load_spec(out / "family-spec.json")  # as `train-family --spec` reads it
    assert (spec.name, spec.base.id, spec.vocab_size, spec.d_model) == ("tiny", "scratch", 512, plan["best"]["d_model"])
    assert spec.exits == (Exit(tiers[0]["exit_layer"], "norm"), Exit(8, "norm"))
    for i, tier in enumerate(tiers):
        path = out / "nodes" / f"{tier['tier']}.toml"
        settings = _settings(path)
        assert settings["tier"] == tier["tier"] and settings["segments"] == (i + 1,)
        assert settings["upstream"] == ("box.example:7001" if i == 0 else None)
        assert tomllib.loads(path.read_text())["node"]["bundle"] == "/srv/familial/bundle"
        assert settings["listen"] == ("localhost:7001" if i == 0 else "0.0.0.0:7001")
    services = override(out / "replicas.yaml")
    assert list(services) == ["box"]  # nobody starts the users' own machines
    assert services["box"]["deploy"]["replicas"] == tiers[1]["machines"] >= 1
    assert services["box"]["environment"] == {"RELAY_SEGMENTS": "2-2"}
    page = (out / "report.html").read_text()
    assert page.count("<svg") >= 3 and "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "cloud" not in page and "exit 1 after layer" in page


class _Override(yaml.SafeLoader):
    """YAML with Compose's tag for what an override takes away."""


_Override.add_constructor("!reset", lambda loader, node: "reset")


def override(path: Path) -> dict[str, dict[str, Any]]:
    """The services of a replicas.yaml."""
    services: dict[str, dict[str, Any]] = yaml.load(path.read_text(encoding="utf-8"), _Override)["services"]
    return services


def test_replicas_give_their_port_up_and_nodes_hold_the_sessions_of_the_plan(tmp_path: Path) -> None:
    own = NodeFile("phone", (1,), 50, own=True, sessions=1)
    write_nodes([own, NodeFile("box", (2, 3), 3, own=False, sessions=100)], tmp_path)
    box = override(tmp_path / "replicas.yaml")["box"]
    assert box["ports"] == "reset" and box["environment"] == {"RELAY_SEGMENTS": "2-3"}
    assert _settings(tmp_path / "nodes" / "box.toml")["max-sessions"] == 140
    write_nodes([own], tmp_path)
    assert override(tmp_path / "replicas.yaml") == {}
    assert _settings(tmp_path / "nodes" / "phone.toml")["max-sessions"] == LEAST_SESSIONS  # the node's own default


def test_a_folder_has_the_files_of_its_last_plan_only(tmp_path: Path) -> None:
    phone, box = NodeFile("phone", (1,), 50, own=True), NodeFile("box", (2,), 3, own=False)
    write_nodes([phone, box], tmp_path)
    (tmp_path / "nodes" / "mine.toml").write_text("[node]\n")
    write_nodes([replace(box, segments=(1, 2))], tmp_path)
    assert sorted(path.name for path in (tmp_path / "nodes").iterdir()) == ["box.toml", "mine.toml"]
    assert _settings(tmp_path / "nodes" / "box.toml")["listen"] == "0.0.0.0:7001"


def _settings(path: Path) -> dict[str, object]:
    """As `relay-node --config` reads them."""
    parser = argparse.ArgumentParser()
    add_flags(parser, NODE_SETTINGS)
    arguments = parser.parse_args(["--config", str(path)])
    return {entry.setting.name: entry.value for entry in effective(NODE_SETTINGS, arguments, {})}


def test_the_numbers_of_a_plan_fit_each_other(fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([str(fleet), "--out", str(tmp_path / "plan"), "--json"])
    plan = json.loads(capsys.readouterr().out)
    assert plan == json.loads((tmp_path / "plan" / "plan.json").read_text())
    best = plan["best"]
    tiers = best["tiers"]
    assert best["loss"] == pytest.approx(sum(tier["decides"] * tier["loss"]["value"] for tier in tiers))
    assert best["cost_per_hour"] == pytest.approx(sum(tier["cost_per_hour"] for tier in tiers))
    assert best["power_w"] == pytest.approx(sum(tier["power_w"] for tier in tiers))
    assert [tier["first_layer"] for tier in tiers[1:]] == [tier["exit_layer"] for tier in tiers[:-1]]
    phone, box = tiers
    rows = 50 * 0.1 * 2 * 0.3 * (40 + 30)  # what comes up at the peak, each of four bytes a component
    assert phone["rows_mbps"] == 0
    assert box["rows_mbps"] * box["machines"] == pytest.approx(rows * 4 * best["d_model"] * 8e-6, rel=0.15)
    for tier in tiers:
        assert tier["loss"]["low"] <= tier["loss"]["value"] <= tier["loss"]["high"]
        assert tier["loss"]["value"] <= tier["loss_goal"] and tier["memory_gb"] <= tier["room_gb"]
        assert tier["ttft_s"] <= 0.5 and tier["tpot_s"] <= 0.05
    for shares in plan["chosen"].values():
        assert sum(one["share"] for one in shares) <= 1 + 1e-9
    assert sum(one["share"] for one in plan["chosen"]["tiers"]) == pytest.approx(1)
    scores = [other["power_w"] for other in (best, *plan["others"])]
    assert scores == sorted(scores)
    for one in plan["pareto"]:
        better = [
            other
            for other in plan["pareto"]
            if other is not one
            and all(other[key] <= one[key] for key in ("cost_per_hour", "tpot_s", "loss", "power_w"))
        ]
        assert not better


def test_what_lies_outside_of_the_law_is_marked_and_refused_if_strict(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main([str(fleet), "--out", str(tmp_path / "inside"), "--strict"])
    assert "outside:" not in capsys.readouterr().out
    fleet.write_text(
        FLEET.replace("compute: 9e12", "compute: 9e14").replace("widths: [32, 48, 64, 96]", "widths: [256]")
    )
    cli.main([str(fleet), "--out", str(tmp_path / "plan"), "--law", "sweep-exits"])
    assert "outside: C = 9e+14 is 100 times above the law's" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        cli.main([str(fleet), "--out", str(tmp_path / "strict"), "--law", "sweep-exits", "--strict"])
    assert left.value.code == 2
    assert "--strict: the best plan lies outside" in capsys.readouterr().err
    assert not (tmp_path / "strict").exists()


def test_init_writes_an_example_once_that_can_be_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    cli.main(["init", str(path)])
    assert path.read_text() == example()
    with pytest.raises(SystemExit):
        cli.main(["init", str(path)])
    assert "is there already" in capsys.readouterr().err
    cli.main([str(path), "--out", str(tmp_path / "plan")])
    assert (tmp_path / "plan" / "report.html").is_file()


def test_schema_and_hardware_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["schema"])
    assert json.loads(capsys.readouterr().out)["title"] == "Fleet of plan-family"
    cli.main(["hardware"])
    assert "Snapdragon 8 Gen 3" in capsys.readouterr().out
    cli.main(["hardware", "--json"])
    machines = json.loads(capsys.readouterr().out)
    assert len(machines) > 60 and all(one["source"] and one["price_usd"] >= 0 for one in machines)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("{fleet}", "--out DIR: say where"),
        ("{fleet} more.yaml --out {out}", "only init takes a second name"),
        ("{fleet} --out {fleet}", "is a file; name a folder"),
        ("{fleet} --out {out} --law chinchila", "no such file, and the planner comes with sweep-exits and chinchilla"),
        ("init --strict", "--strict: init takes no such option"),
        ("schema --json", "--json: schema takes no such option"),
        ("hardware L4", "L4: only init takes a second name"),
        ("none.yaml --out {out}", "none.yaml: no such file; write one with: plan-family init"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    arguments: str, problem: str, fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments.format(fleet=fleet, out=tmp_path / "plan").split())
    assert left.value.code == 2
    assert problem in capsys.readouterr().err


def test_the_law_that_is_nearest_to_the_budget_is_taken(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main([str(fleet), "--out", str(tmp_path / "plan"), "--json"])
    assert json.loads(capsys.readouterr().out)["law"]["name"] == SHIPPED[0]
    path = tmp_path / "example.yaml"
    path.write_text(example())
    cli.main([str(path), "--out", str(tmp_path / "plan"), "--json"])
    assert json.loads(capsys.readouterr().out)["law"]["name"] == SHIPPED[1]
