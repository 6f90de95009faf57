import json
import re
from pathlib import Path

import pytest
import yaml

from scaling.errors import ScalingError
from scaling.plan.fleetcheck import schema
from scaling.plan.fleetfile import example, read_fleet
from scaling.plan.yamlmarks import read_yaml

FLEET = """\
name: home
objective: energy
tiers:
  - name: phone
    count: 20
    hardware: Snapdragon 8 Gen 3
    precision: [int8, int4]
  - name: box
    hardware: {tflops: {f32: 2, int8: 8}, bandwidth_gb_s: 60, memory_gb: 16, price_usd: 600, busy_w: 30, idle_w: 5}
links:
  - {rtt_ms: 8, up_mbps: 20, down_mbps: 80, jitter_ms: 1.5, loss: 0.01}
traffic:
  requests_per_second: 0.5
  prompt_tokens: 100
  output_tokens: 50
  decided: {phone: 0.75, box: 0.25}
goals:
  ttft_ms: 900
  tpot_ms: 80
  percentile: 90
  loss: {box: 2.9}
  memory_free: {phone: 0.8}
  budget_per_hour: 3
training:
  compute: 1e20
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "fleet.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_fleet_is_read_in_si_units(tmp_path: Path) -> None:
    fleet = read_fleet(written(tmp_path, FLEET))
    phone, box = fleet.tiers
    assert (fleet.name, fleet.objective, phone.count, box.count) == ("home", "energy", 20, None)
    assert phone.hardware.name == "Snapdragon 8 Gen 3" and phone.precisions == ("int8", "int4")
    assert box.hardware.flops == {"f32": 2e12, "int8": 8e12} and box.hardware.memory_bytes == 16e9
    (link,) = fleet.links
    assert (link.rtt_s, link.up_bps, link.down_bps, link.jitter_s) == pytest.approx((0.008, 2e7, 8e7, 0.0015))
    assert fleet.traffic.requests_per_second == pytest.approx(10.0)  # of 20 phones
    assert fleet.decided == (0.75, 0.25)
    assert (fleet.goals.ttft_s, fleet.goals.tpot_s, fleet.goals.percentile) == pytest.approx((0.9, 0.08, 90))
    assert fleet.goals.memory_free == {"phone": 0.8} and fleet.training.compute_flops == 1e20


def test_the_example_is_a_fleet_and_the_schema_takes_it(tmp_path: Path) -> None:
    fleet = read_fleet(written(tmp_path, example()))
    assert len(fleet.tiers) == 3 and sum(fleet.decided) == pytest.approx(1)
    assert schema()["$schema"].startswith("https://json-schema.org/")
    json.dumps(schema())


def test_the_example_explains_every_key_and_so_does_the_schema() -> None:
    keys = {
        key: value
        for kind in (schema(), *schema()["$defs"].values())
        for key, value in kind.get("properties", {}).items()
    }
    told = {key for key in keys if re.search(rf"\b{key}\b", example())}
    assert set(keys) - told == set()
    plain = {"traffic", "goals", "training", "trunk"}
    assert {key for key, value in keys.items() if "description" not in value} <= plain


def test_the_line_for_editors_is_a_schema_that_fits_the_example(tmp_path: Path) -> None:
    (named,) = re.findall(r"yaml-language-server: \$schema=(\S+)", example())
    assert f"plan-family schema > {named}" in example()
    assert not re.search(r"(?m)^#\s*yaml-language-server", example())  # the file may not be there


def test_a_trace_gives_rate_lengths_and_peak(tmp_path: Path) -> None:
    rows = "".join(f"2023-11-16 18:{i // 60:02}:{i % 60:02}.5000000,{100 + i},{20}\n" for i in range(0, 600, 2))
    rows += "".join(f"2023-11-16 18:05:{i:02}.2500000,100,20\n" for i in range(60))  # a busy minute
    (tmp_path / "trace.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows, encoding="utf-8")
    lengths = "  requests_per_second: 0.5\n  prompt_tokens: 100\n  output_tokens: 50\n"
    fleet = read_fleet(written(tmp_path, FLEET.replace(lengths, "  trace: trace.csv\n")))
    assert fleet.traffic.requests_per_second == pytest.approx(360 / 598, rel=0.01)
    assert fleet.traffic.output_tokens == 20 and fleet.traffic.prompt_tokens > 300
    assert fleet.traffic.peak == pytest.approx(90 / 36, rel=0.1)
    given = read_fleet(written(tmp_path, FLEET.replace(lengths, "  trace: trace.csv\n  requests_per_second: 2\n")))
    assert given.traffic.requests_per_second == pytest.approx(40)
    with pytest.raises(ScalingError, match=r"fleet.yaml:\d+: traffic.trace: .*none.csv"):
        read_fleet(written(tmp_path, FLEET.replace(lengths, "  trace: none.csv\n")))


@pytest.mark.parametrize(
    ("old", "new", "line", "problem"),
    [
        ("    count: 20\n", "    count: many\n", 5, "tiers[0].count: expected a whole number"),
        ("    count: 20\n", "    count: 0\n", 5, "tiers[0].count: expected a number at least 1"),
        ("    count: 20\n", "", 4, "tiers[0]: count is missing"),
        ("    count: 20\n", "    cuont: 20\n", 5, "tiers[0].cuont: no such key; expected one of name, count"),
        ("    count: 20\n", "    count: 20\n    count: 21\n", 6, "tiers[0].count: stands here a second time"),
        ("Snapdragon 8 Gen 3", "Snapdragon 8 Gen 33", 6, "tiers[0].hardware: no hardware 'Snapdragon 8 Gen 33'"),
        ("    count: 20\n", "    count: 10k\n", 5, 'a whole number, got "10k"; write digits alone'),
        ("hardware: Snap", "hardwre: Snap", 6, "tiers[0].hardwre: no such key; expected one of name, count, hardware"),
        ("hardware: Snap", "hardwre: Snap", 6, "did you mean hardware?"),
        ("hardware: Snapdragon 8 Gen 3", "hardware: 8", 6, "hardware: expected text or keys with values, got 8"),
        ("[int8, int4]", "fp16", 7, 'tiers[0].precision: expected one of f32, int8, int4, got "fp16"'),
        ("[int8, int4]", "[int8, int3]", 7, 'tiers[0].precision[1]: expected one of f32, int8, int4, got "int3"'),
        ("[int8, int4]", "[]", 7, "tiers[0].precision: expected a list of at least 1, got []"),
        ("name: box", "name: Box", 8, "tiers[1].name: expected small letters, digits and dashes"),
        ("{tflops: {f32: 2, int8: 8}", "{tflops: 2", 9, "tiers[1].hardware.tflops: expected keys with values, got 2"),
        ("rtt_ms: 8,", "rtt_s: 0.008,", 11, "links[0].rtt_s: no such key"),
        ("ttft_ms: 900", "ttft_ms:", 18, "goals.ttft_ms: expected a number, got nothing"),
        ("{phone: 0.8}", "{phone: 80}", 22, "expected a number at most 1, got 80; it is a share: 80% is 0.8"),
        (
            "prompt_tokens: 100",
            "prompt_tokens: 5000",
            12,
            "5,050 positions in the mean, training.trunk",
        ),
        ("  compute: 1e20\n", "  compute: 1e20\n  trunk: {widths: [1024, 1000]}\n", 26, "head_dim, 64; 1000 is none"),
        ("    count: 20\n", "    count 20\n", 6, "is a colon missing?"),
        ("    count: 20\n", "   count: 20\n", 5, "indent it as its neighbours"),
        ("    count: 20\n", "\tcount: 20\n", 5, "indent by spaces"),
        ("name: box", "name: phone", 8, "tiers[1].name: there is a tier phone already"),
        ("tflops: {f32: 2, int8: 8}, ", "", 9, "tiers[1].hardware"),
        ("  - {rtt_ms: 8, up_mbps: 20", "  - {rtt_ms: 8, up: 20", 11, "links[0].up: no such key"),
        ("up_mbps: 20, ", "", 11, "links[0]: bandwidth_mbps is missing, or up_mbps and down_mbps"),
        ("loss: 0.01}", "loss: 1.5}", 11, "links[0].loss: expected a number less than 1"),
        (
            "  - {rtt_ms: 8, up_mbps: 20, down_mbps: 80, jitter_ms: 1.5, loss: 0.01}\n",
            "  []\n",
            10,
            "links: expected 1",
        ),
        ("  prompt_tokens: 100\n", "", 12, "traffic: prompt_tokens is missing"),
        ("{phone: 0.75, box: 0.25}", "{phone: 0.75, box: 0.5}", 16, "traffic.decided: shares are 1 together"),
        ("{phone: 0.75, box: 0.25}", "{phone: 0.75, cube: 0.25}", 16, "traffic.decided.cube: no such tier"),
        ("loss: {box: 2.9}", "loss: {cube: 2.9}", 21, "goals.loss.cube: no such tier; there are phone, box"),
        ("percentile: 90", "percentile: 100", 20, "goals.percentile: expected a number less than 100"),
        ("  compute: 1e20\n", "  parameters: 1e9\n", 24, "training: give compute, or parameters and tokens"),
        ("  compute: 1e20\n", "  compute: 1e20\n  tokens: 1e9\n", 24, "training: give compute, or parameters"),
        ("  compute: 1e20\n", "  compute: -1\n", 25, "training.compute"),
        ("  compute: 1e20\n", "  compute: 1e20\n  trunk: {branch: lowrank}\n", 26, "rank: goes with branch: lowrank"),
        ("  compute: 1e20\n", "  compute: 1e20\n  trunk: {head_dim: 33}\n", 26, "head_dim: expected an even number"),
        ("objective: energy", "objective: beauty", 2, "objective: expected one of cost, latency, quality"),
        ("tiers:\n", "tiers: [\n", 0, "not YAML"),
    ],
)
def test_an_error_names_the_line_and_the_key(old: str, new: str, line: int, problem: str, tmp_path: Path) -> None:
    assert old in FLEET
    path = written(tmp_path, FLEET.replace(old, new, 1))
    with pytest.raises(ScalingError) as found:
        read_fleet(path)
    told = str(found.value)
    assert problem in told
    assert told.startswith(f"{path}:{line}:" if line else f"{path}:")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty; write an example with: plan-family init"),
        ("- 1\n", "expected keys with values, got [1]"),
        ("a: &a\n  b: *a\n", "contains itself"),
        ("? [a, b]\n: c\n", "expected a name before the colon"),
        ("a: !!python/object/apply:os.system ['true']\n", "os.system"),
    ],
)
def test_what_is_no_fleet_at_all_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ScalingError) as found:
        read_fleet(written(tmp_path, text))
    assert problem in str(found.value)


def test_anchors_cannot_blow_a_file_up(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(ScalingError, match="more than 20,000 values"):
        read_yaml(written(tmp_path, "\n".join(lines)))


def test_a_missing_file_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(ScalingError, match="no such file; write one with: plan-family init"):
        read_fleet(tmp_path / "none.yaml")
    with pytest.raises(ScalingError, match="is a folder"):
        read_fleet(tmp_path)


@pytest.mark.parametrize(
    "text", ["1e20", "1.5E+3", "-2e-3", "0.5", ".5", "7.", "yes", "no", "on", "null", "true", "12"]
)
def test_plain_values_are_those_of_yaml_1_2(text: str, tmp_path: Path) -> None:
    value = read_yaml(written(tmp_path, f"a: {text}\n")).data["a"]
    if text in ("yes", "no", "on"):
        assert value == text
    elif text in ("null", "true", "12"):
        assert value == yaml.safe_load(text)
    else:
        assert value == float(text)
