"""`Certificate`: the thresholds that `calibrate-family` found for a bundle, and what it promises of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CertifiedRule:
    """The thresholds that may be used for one epsilon and statistic."""

    epsilon: float
    """With probability 1 - delta over the calibration's prompts, the expected risk of a prompt is at most this. Its
    risk is the share of its text's tokens that differ from what the last exit would have chosen after the same ones."""
    statistic: str
    """As in `relay.policy.Statistic`."""
    thresholds: tuple[float, ...]
    """Of every exit but the last."""
    risk: float
    """Mean over the calibration's prompts."""
    shares: tuple[float, ...]
    """Of the tokens, by the exit that decided; mean over the prompts."""


@dataclass(frozen=True)
class Certificate:
    """What was measured, on what, and the rules that came of it. Each rule's promise holds by itself."""

    family: str
    """Family fingerprint of the bundle."""
    precision: str
    """Of the bundle, as `Manifest.precision` says it."""
    export: str
    """Export fingerprint of the bundle that was measured. Another export of the same family and precision computes the
    same but for rounding."""
    prompts: str
    """Name of the file."""
    prompts_sha256: str
    tuning_prompts: int
    """Those that the tested thresholds were made of."""
    calibration_prompts: int
    """Those that they were tested on: others."""
    tokens: int
    """Most tokens of a text."""
    temperature: float
    """At which the tokens were drawn: the promise is of such texts only."""
    delta: float
    method: str
    rules: tuple[CertifiedRule, ...]
