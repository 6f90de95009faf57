"""An epsilon becomes the thresholds that the entry node's bundle was certified with, or a refusal with what to do."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from family.certificate import Certificate, CertifiedRule
from family.errors import ManifestError
from family.manifest import Manifest, load_manifest, save_manifest
from family.strict import to_json
from relay.certified import certified
from relay.errors import InvalidRequestError, NoUpstreamError
from relay.policy import ConfidenceExit, FixedExit, Policy
from tests.relay.bundles import copied, with_field
from tests.relay.servers import chain, config, running, single, text

PROMPT = list(range(3, 20))
GREEDY: dict[str, Any] = {"max_tokens": 20, "ignore_stop": True}


def certificate(manifest: Manifest) -> Certificate:
    """As calibrate-family would write it."""
    rules = tuple(
        CertifiedRule(epsilon, statistic, thresholds, epsilon / 2, (0.5, 0.3, 0.2))
        for epsilon, statistic, thresholds in (
            (0.02, "max_probability", (0.6, 0.5)),
            (0.1, "max_probability", (0.05, 0.02)),
            (0.1, "margin", (0.03, 0.01)),
        )
    )
    fingerprints = (manifest.family_fingerprint, manifest.precision, manifest.export_fingerprint)
    return Certificate(*fingerprints, "q.jsonl", "0" * 64, 20, 60, 16, 0.0, 0.05, "a test", rules)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with a certificate."""
    copy = copied(tiny_bundle, tmp_path_factory.mktemp("certified"))
    manifest = load_manifest(copy)
    save_manifest(replace(manifest, certificate=certificate(manifest)), copy)
    return copy


@pytest.mark.parametrize(
    ("epsilon", "statistic", "thresholds"),
    [
        (0.02, "max_probability", (0.6, 0.5)),
        (0.05, "max_probability", (0.6, 0.5)),
        (0.9, "max_probability", (0.05, 0.02)),
        (0.1, "margin", (0.03, 0.01)),
    ],
)
def test_the_largest_certified_epsilon_up_to_the_asked_one_gives_the_thresholds(
    bundle: Path, epsilon: float, statistic: Any, thresholds: tuple[float, ...]
) -> None:
    found = certified(ConfidenceExit(epsilon=epsilon, statistic=statistic), load_manifest(bundle))
    assert found == ConfidenceExit(thresholds, statistic, deepest=3)


@pytest.mark.parametrize("policy", [FixedExit(2), ConfidenceExit(0.5, "margin", 2)])
def test_other_policies_are_left_as_they_are(bundle: Path, policy: Policy) -> None:
    assert certified(policy, load_manifest(bundle)) is policy


def test_a_certificate_changes_no_fingerprint(tiny_bundle: Path, bundle: Path) -> None:
    before, after = load_manifest(tiny_bundle), load_manifest(bundle)
    assert after.certificate is not None and before.certificate is None
    assert after.family_fingerprint == before.family_fingerprint
    assert after.export_fingerprint == before.export_fingerprint


def test_a_certificate_of_another_family_or_precision_is_refused(bundle: Path, tmp_path: Path) -> None:
    good: Any = to_json(load_manifest(bundle).certificate)
    for field, value in (("family", "0" * 64), ("precision", "int4")):
        bad = with_field(bundle, tmp_path / field, ("certificate",), good | {field: value})
        with pytest.raises(ManifestError, match="run calibrate-family on this bundle"):
            load_manifest(bad)
    good["rules"][1]["thresholds"] = [0.5]
    with pytest.raises(ManifestError, match=r"certificate.rules\[1\].thresholds: expected one for each exit but the"):
        load_manifest(with_field(bundle, tmp_path / "rules", ("certificate",), good))


def test_nodes_decide_by_the_certified_thresholds(bundle: Path) -> None:
    async def scenario() -> None:
        async with chain(bundle) as nodes:
            asked = await text(nodes.device, PROMPT, policy=ConfidenceExit(epsilon=0.1), **GREEDY)
            given = await text(nodes.device, PROMPT, policy=ConfidenceExit((0.05, 0.02)), **GREEDY)
            other = await text(nodes.device, PROMPT, policy=ConfidenceExit(epsilon=0.02), **GREEDY)
        assert [(t.id, t.exit) for t in asked] == [(t.id, t.exit) for t in given]
        assert [t.exit for t in asked] != [t.exit for t in other]

    asyncio.run(scenario())


def test_what_was_not_certified_is_refused_with_what_to_do(bundle: Path, tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with chain(bundle) as nodes:
            with pytest.raises(
                InvalidRequestError, match=r"epsilon 0.01 is below 0.02, .* --epsilon 0.01 and more pro"
            ):
                await text(nodes.device, PROMPT, policy=ConfidenceExit(epsilon=0.01), **GREEDY)
            with pytest.raises(InvalidRequestError, match=r"entropy; give one of margin, max_probability"):
                await text(nodes.device, PROMPT, policy=ConfidenceExit(epsilon=0.1, statistic="entropy"), **GREEDY)
        async with running(config(bundle, "all", segments=(1, 2))) as device:
            with pytest.raises(NoUpstreamError, match="exit 3 lies beyond segment 2"):
                await text(device, PROMPT, policy=ConfidenceExit(epsilon=0.1), **GREEDY)
        async with single(tiny_bundle) as uncertified:
            with pytest.raises(InvalidRequestError, match="run `calibrate-family BUNDLE --prompts"):
                await text(uncertified, PROMPT, policy=ConfidenceExit(epsilon=0.1), **GREEDY)

    asyncio.run(scenario())
