"""A fleet's question about a bundle: what is to be placed, and what is known of the machines it may run on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from family.errors import ProfileError
from family.manifest import Manifest, load_manifest
from family.profile import load_profile
from scaling.errors import ScalingError
from scaling.plan.cost import Machine, remembered
from scaling.plan.fleet import Fleet, Tier
from scaling.plan.place import Question, agreement_of
from scaling.plan.profiled import machine
from scaling.plan.roofline import FORMATS, roofline
from scaling.plan.statistics import statistics_for


@dataclass(frozen=True, eq=False)
class Asked:
    """The question with what is needed to answer it in the fleet's words."""

    fleet: Fleet
    manifest: Manifest
    basis: Mapping[str, str]
    """By tier, `profile` or `hardware`."""
    question: Question

    @cached_property
    def machines(self) -> dict[str, Machine]:
        """By tier, at the bundle's precision."""
        precision = self.manifest.precision
        return {tier: kinds[precision] for tier, kinds in self.question.machines.items()}

    def with_machine(self, tier: str, machine: Machine) -> "Asked":
        """The same with another machine for a tier."""
        machines = {**self.question.machines, tier: {self.manifest.precision: machine}}
        return replace(self, question=replace(self.question, machines=machines))


def ask(fleet: Fleet, folder: Path, statistics: Path | None) -> Asked:
    """What is to be placed where, by what is known of the fleet's tiers and the bundle.

    Args:
        fleet: the question.
        folder: the bundle.
        statistics: as `scaling.plan.bundleplan.plan_bundle`.

    Raises:
        ManifestError, ProfileError: the bundle or a profile cannot be read, or a profile is of another family.
        ScalingError: a tier has no profile, and its hardware says nothing of the bundle's precision.
    """
    manifest = load_manifest(folder)
    machines, basis = {}, {}
    for tier in fleet.tiers:
        machines[tier.name], basis[tier.name] = _machine(tier, manifest)
    question = Question(
        manifest.spec,
        {name: {manifest.precision: one} for name, one in machines.items()},
        fleet.links,
        fleet.traffic.prompt_tokens,
        fleet.traffic.output_tokens,
        statistics_for(manifest, statistics),
        agreement_of(manifest),
    )
    return Asked(fleet, manifest, basis, question)


def _machine(tier: Tier, manifest: Manifest) -> tuple[Machine, str]:
    if tier.profile is None:
        if manifest.precision not in FORMATS:
            raise ScalingError(
                f"{tier.name}: a bundle of precision {manifest.precision} is only known by a profile; write one "
                "on that machine with relay-node profile, and name it in the fleet file: profile: FILE"
            )
        return remembered(roofline(manifest.spec, tier.hardware, manifest.precision)), "hardware"
    profile = load_profile(tier.profile)
    try:
        if profile.bundle(manifest.precision).family != manifest.family_fingerprint:
            raise ProfileError("measured another family; run relay-node profile with this bundle")
        return machine(profile, manifest.precision), "profile"
    except ProfileError as error:
        raise ProfileError(f"{tier.profile}: {error}") from None
