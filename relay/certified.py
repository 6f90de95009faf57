"""From the epsilon of a request to thresholds that the bundle's calibration certifies. Pure."""

from family.manifest import Manifest
from relay.errors import InvalidRequestError
from relay.policy import ConfidenceExit, Policy


def certified(policy: Policy, manifest: Manifest) -> Policy:
    """The policy with thresholds in place of its epsilon: those of the largest certified epsilon up to it.

    Raises `InvalidRequestError` where there are none.
    """
    if not isinstance(policy, ConfidenceExit) or policy.epsilon is None:
        return policy
    if manifest.certificate is None:
        raise InvalidRequestError(
            "no thresholds were calibrated for this node's bundle, so it cannot promise an epsilon; run "
            "`calibrate-family BUNDLE --prompts FILE.jsonl`, copy the bundle's manifest.json to this node and start it "
            "again; or give a threshold"
        )
    rules = {rule.epsilon: rule for rule in manifest.certificate.rules if rule.statistic == policy.statistic}
    if not rules:
        known = sorted({rule.statistic for rule in manifest.certificate.rules})
        raise InvalidRequestError(
            f"nothing was certified for the statistic {policy.statistic}; "
            + (f"give one of {', '.join(known)}, or " if known else "")
            + "run calibrate-family with more prompts"
        )
    kept = max((epsilon for epsilon in rules if epsilon <= policy.epsilon), default=None)
    if kept is None:
        raise InvalidRequestError(
            f"epsilon {policy.epsilon:g} is below {min(rules):g}, the smallest that was certified for the statistic "
            f"{policy.statistic}; give that or more, or run calibrate-family with --epsilon {policy.epsilon:g} and "
            "more prompts"
        )
    return ConfidenceExit(rules[kept].thresholds, policy.statistic, deepest=manifest.spec.granularity)
