"""Calibrated thresholds: texts as nodes write them, rules from one number, and the command from prompts to manifest."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.bundle import export
from exporter.confidence import cli, worker
from exporter.confidence.certify import certificates_of, certify, last_kept
from exporter.confidence.measure import Plan, measure
from exporter.confidence.table import Header, PromptCounts, RuleTested, Table, load_table, save_table
from exporter.confidence.trajectories import Reader, follow
from exporter.confidence.tuning import Observed, candidates, observe, rising_shares
from exporter.confidence.worker import Worker
from family.manifest import load_manifest
from relay.policy import ConfidenceExit, FixedExit, Rule
from tests.relay.bundles import copied
from tests.relay.servers import chain, text
from training.loaded import LoadedFamily

PROMPT = list(range(3, 20))
QUESTIONS = ["Who reads it twice?", "Count to five.", "When was it cold?", "What is a prefix?", "Why?", "And then?"]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Six prompts, as Spec-Bench has them."""
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps({"turns": [question]}) + "\n" for question in QUESTIONS))
    return path


def rules_of(reader: Reader, tokens: int) -> list[Rule]:
    """Rules by which each exit decides some of the tokens: its thresholds are quantiles of what it says."""
    seen = observe(reader, (), tokens).values
    first, second = 0.7, 0.3
    strict = {"max_probability": (first, second), "margin": (first, second), "entropy": (1 - first, 1 - second)}
    thresholds = {name: [float(np.quantile(seen[name][:, g], at[g])) for g in (0, 1)] for name, at in strict.items()}
    return [Rule(name, tuple(found)) for name, found in thresholds.items()]  # type: ignore[arg-type]


def test_texts_are_those_that_nodes_write_and_wrong_tokens_those_that_the_last_exit_would_not(
    tiny_bundle_int4: Path,
) -> None:
    engine = Worker(tiny_bundle_int4, 1).engine
    reader = Reader(engine, PROMPT)
    found = {rule: follow(reader, rule, (), 16) for rule in rules_of(reader, 16)}
    assert {exit_ for one in found.values() for exit_ in one.exits} == {1, 2, 3}

    async def scenario() -> None:
        async with chain(tiny_bundle_int4) as nodes:
            for rule, one in found.items():
                policy = ConfidenceExit(rule.thresholds, rule.statistic)
                tokens = await text(nodes.device, PROMPT, policy=policy, max_tokens=16, ignore_stop=True)
                assert (one.tokens, one.exits) == (tuple(t.id for t in tokens), tuple(t.exit for t in tokens))
                wrong = 0
                for i, token in enumerate(one.tokens):
                    said = [*PROMPT, *one.tokens[:i]]
                    (last,) = await text(nodes.device, said, policy=FixedExit(3), max_tokens=1, ignore_stop=True)
                    wrong += last.id != token
                assert one.wrong == wrong > 0

    asyncio.run(scenario())


def test_without_a_rule_the_last_exit_decides_and_a_stop_id_ends_the_text(tiny_bundle_int4: Path) -> None:
    engine = Worker(tiny_bundle_int4, 1).engine
    whole = follow(Reader(engine, PROMPT), None, (), 12)
    assert (whole.wrong, set(whole.exits), len(whole.tokens)) == (0, {3}, 12)
    stop = whole.tokens[5]
    cut = follow(Reader(engine, PROMPT), None, (stop,), 12)
    assert cut.tokens == whole.tokens[: whole.tokens.index(stop) + 1]


def test_what_was_read_is_not_read_again(tiny_bundle_int4: Path) -> None:
    engine = Worker(tiny_bundle_int4, 1).engine
    reader = Reader(engine, PROMPT)
    rules = rules_of(reader, 16)
    texts = [follow(reader, rule, (), 16) for rule in rules]
    rows = {name: work.rows for name, work in engine.work.items()}
    assert [follow(reader, rule, (), 16) for rule in rules] == texts
    assert {name: work.rows for name, work in engine.work.items()} == rows
    assert [follow(Reader(engine, PROMPT), rule, (), 16) for rule in rules] == texts


def test_shares_rise_with_doubt_and_are_near_the_truth() -> None:
    rng = np.random.default_rng(0)
    doubt = np.round(rng.random(400), 2)
    wrong = rng.random(400) < doubt**2
    ends, shares = rising_shares(doubt, wrong)
    assert (np.diff(ends) > 0).all() and (np.diff(shares) > 0).all()
    fitted = np.interp(doubt, ends, shares)
    assert fitted.mean() == pytest.approx(wrong.mean(), abs=0.02)
    assert np.abs(fitted - doubt**2).mean() < 0.07


@pytest.mark.parametrize("statistic", ["max_probability", "entropy"])
def test_rules_accept_the_same_chance_at_every_exit_and_grow_laxer(statistic: Any) -> None:
    rng = np.random.default_rng(1)
    sureness = rng.random((4000, 2))
    wrong = rng.random((4000, 2)) > sureness ** np.array([1.0, 0.2])  # exit 2 errs less often at the same value
    values = 1 - sureness if statistic == "entropy" else sureness
    found = candidates([Observed({statistic: values}, wrong)], statistic, (0.02, 0.1))
    assert len(found) > 5
    assert [one.accepted for one in found] == sorted({one.accepted for one in found})
    assert 0.002 < found[0].expected < 0.006 and 0.09 < found[-1].expected < 0.13
    for one in found[-3:]:
        limits = np.array(one.rule.thresholds)
        sure = 1 - limits if statistic == "entropy" else limits
        assert 1 - sure[0] == pytest.approx(one.accepted, abs=0.06)
        assert 1 - sure[1] ** 0.2 == pytest.approx(one.accepted, abs=0.06)
        decided = np.array([[one.rule.allows(g + 1, v) for g, v in enumerate(row)] for row in values])
        first = decided & (np.cumsum(decided, axis=1) == 1)
        assert (first & wrong).any(axis=1).mean() == pytest.approx(one.expected)


def header(rules: int) -> Header:
    tested = tuple(RuleTested("margin", (0.9 - i / 10, 0.5), i / 10, i / 10) for i in range(rules))
    return Header(1, "f", "int4", "e", "q.jsonl", "0", 0, 80, 64, ("margin",), (0.05,), tested)


def test_testing_stops_at_the_first_rule_that_is_not_certain_and_takes_the_one_before() -> None:
    rng = np.random.default_rng(2)
    means = (0.001, 0.01, 0.06, 0.001)  # the last one is fine too, but comes after one that is not
    risks = np.stack([rng.binomial(64, mean, 400) / 64 for mean in means], axis=1)
    assert last_kept(risks, 0.05, 0.05) == 1
    assert last_kept(risks[:, 2:], 0.05, 0.05) is None


def test_a_certificate_says_what_was_measured(tmp_path: Path) -> None:
    rows = tuple(PromptCounts(i, (0, 1), ((30, 20, 14), (40, 20, 4))) for i in range(200))
    save_table(Table(header(2), rows), tmp_path / "t.jsonl")
    found = certify(load_table(tmp_path / "t.jsonl"), (0.02, 0.05), 0.05)
    assert [(rule.epsilon, rule.thresholds) for rule in found.rules] == [(0.02, (0.9, 0.5)), (0.05, (0.8, 0.5))]
    assert found.rules[1].risk == pytest.approx(1 / 64, abs=1e-6) and found.rules[1].shares == (0.625, 0.3125, 0.0625)
    assert (found.calibration_prompts, found.tuning_prompts, found.tokens, found.temperature) == (200, 80, 64, 0.0)


def run(bundle: Path, prompts: Path, *more: str) -> None:
    few = ["--tokens", "6", "--tuning", "2", "--epsilon", "0.5", "0.9", "--workers", "2"]
    cli.main([str(bundle), "--prompts", str(prompts), *few, *more])


def test_the_command_calibrates_and_goes_on_where_it_was(
    tiny_bundle_int4: Path, tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, table = copied(tiny_bundle_int4, tmp_path), tmp_path / "bundle.confidence.jsonl"
    before = load_manifest(bundle)
    run(bundle, prompts, "--limit", "2")
    half = load_table(table)
    assert len(half.rows) == 2
    run(bundle, prompts)
    whole = load_table(table)
    assert whole.rows[:2] == half.rows and len(whole.rows) == 4
    table.unlink()
    run(bundle, prompts, "--json")
    assert load_table(table) == whole
    manifest = load_manifest(bundle)
    assert manifest.certificate == certify(whole, (0.5, 0.9), 0.05)
    assert replace(manifest, certificate=None) == before
    said = capsys.readouterr().out
    assert "questions.jsonl: 2 prompts for tuning, 4 tested" in said
    assert json.loads(said[said.index("\n{\n") :])["tokens"] == 6


def test_the_commands_epsilon_is_served(tiny_bundle_int4: Path, tmp_path: Path, prompts: Path) -> None:
    bundle = copied(tiny_bundle_int4, tmp_path)
    run(bundle, prompts)
    certificate = load_manifest(bundle).certificate
    assert certificate is not None
    rule = next(r for r in certificate.rules if (r.epsilon, r.statistic) == (0.9, "margin"))

    async def scenario() -> None:
        async with chain(bundle) as nodes:
            asked = ConfidenceExit(epsilon=0.9, statistic="margin")
            by_epsilon = await text(nodes.device, PROMPT, policy=asked, max_tokens=20)
            given = ConfidenceExit(rule.thresholds, "margin")
            assert [(t.id, t.exit) for t in by_epsilon] == [
                (t.id, t.exit) for t in await text(nodes.device, PROMPT, policy=given, max_tokens=20)
            ]

    asyncio.run(scenario())


def test_an_export_has_the_certificate_of_its_family_and_precision(
    tiny_family: LoadedFamily, tiny_bundle: Path, tmp_path: Path
) -> None:
    manifest = load_manifest(tiny_bundle)
    rows = tuple(PromptCounts(i, (0, 1), ((30, 20, 14), (40, 20, 4))) for i in range(200))
    for precision in ("int4", "f32"):
        made = replace(header(2), family=manifest.family_fingerprint, precision=precision)
        save_table(Table(made, rows), tmp_path / "family" / f"confidence-{precision}.jsonl")
    int4, f32 = sorted(certificates_of(tmp_path / "family"), key=lambda one: one.precision, reverse=True)
    written = export(tiny_family, tmp_path / "b", "f32", certificates=[int4, f32])
    assert written.certificate == load_manifest(tmp_path / "b").certificate == f32
    assert [rule.epsilon for rule in f32.rules] == [0.05]
    assert written.export_fingerprint == manifest.export_fingerprint


def test_kernels_that_are_not_chunk_invariant_are_noticed(
    tiny_bundle_int4: Path, tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def served(self: Worker, prompt: list[int], rule: Rule, most: int) -> tuple[int, ...]:
        return (7,)

    monkeypatch.setattr(Worker, "served", served)
    rule = Rule("margin", (0.01,))
    monkeypatch.setattr(worker, "_worker", [Worker(tiny_bundle_int4, 1)])
    with pytest.raises(Exception, match="kernels are not chunk-invariant"):
        worker.count(3, QUESTIONS[0], [rule], 6, rule)


def test_what_cannot_be_calibrated_is_refused_with_what_to_do(
    tiny_bundle_int4: Path, tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = copied(tiny_bundle_int4, tmp_path)

    def refused(*arguments: str, file: Path = prompts) -> str:
        with pytest.raises(SystemExit) as exit_:
            run(bundle, file, *arguments)
        assert exit_.value.code == 2
        return capsys.readouterr().err

    bad = tmp_path / "bad.jsonl"
    for content, says in (
        ("", "0 prompts, and 2 of them are for tuning; give more of them"),
        ('{"turns": ["a"]}\n{"turns": []}\n', 'bad.jsonl, line 2: expected an object such as {"turns"'),
        (json.dumps({"turns": ["tea " * 900]}) + "\n" * 3, "0 of them"),
    ):
        bad.write_text(content)
        if "0 of them" not in says:
            assert says in refused(file=bad)
    bad.write_text((json.dumps({"turns": ["tea " * 900]}) + "\n") * 3)
    assert "a prompt is too long for a text of 6 tokens in a context of 256: 'tea tea" in refused(file=bad)
    assert "6 prompts, and 6 of them are for tuning" in refused("--tuning", "6")
    assert "expected a share between 0 and 1, got '5'" in refused("--epsilon", "5")
    table = tmp_path / "other.jsonl"
    save_table(Table(header(1), ()), table)
    assert "other.jsonl: of another bundle, file or setting; remove it" in refused("--table", str(table))
    table.write_text("{}")
    assert "other.jsonl: not what calibrate-family measured" in refused("--table", str(table))
    assert load_manifest(bundle).certificate is None


def test_a_plan_needs_no_more_than_one_process(tiny_bundle_int4: Path, tmp_path: Path, prompts: Path) -> None:
    plan = Plan(tiny_bundle_int4, prompts, ("margin",), (0.5,), tuning_prompts=3, tokens=5)
    one = measure(plan, tmp_path / "one.jsonl")
    two = measure(replace(plan, workers=2), tmp_path / "two.jsonl")
    assert one == two and {row.prompt for row in one.rows} < set(range(len(QUESTIONS)))
