"""Placing a bundle: nothing that can be deployed is left out, the best is the best, and goals that fail are named."""

from dataclasses import replace

from scaling.plan.deployment import ConfidenceExit, FixedExit, SpeculativeExit
from scaling.plan.place import Question, Wanted, choices, nearest, pareto, place, shared_s, text_s
from tests.scaling.plan.machines import LINK, SPEC, STATISTICS, machine

AGREEMENT = {(1, "f32"): 0.4, (2, "f32"): 0.75, (3, "f32"): 1.0, (3, "int8"): 0.99, (3, "bf16"): 1.0, (3, "int4"): 0.95}
QUESTION = Question(
    SPEC,
    {"phone": {"int4": machine(0.5), "f32": machine(0.2)}, "box": {"int4": machine(2)}, "pool": {"int4": machine(10)}},
    (LINK, replace(LINK, rtt_s=0.01)),
    64,
    64,
    STATISTICS,
    AGREEMENT,
)


def test_every_kind_of_choice_is_tried() -> None:
    found = list(choices(QUESTION))
    assert {len(d.places) for d, _ in found} == {1, 2, 3}
    assert {d.send for d, _ in found} == {"rows", "ids"}
    assert {d.codec for d, _ in found} == {"f32", "bf16", "int8", "int4"}
    assert {type(d.policy) for d, _ in found} == {FixedExit, ConfidenceExit, SpeculativeExit}
    assert any(d.client is not None and d.places[0].tier == "pool" for d, _ in found), "everything in the cloud"
    assert any(d.places == d.places[:1] and d.places[0].tier == "phone" for d, _ in found), "everything on the phone"
    assert len({(d, p) for d, p in found}) == len(found), "none twice"


def test_the_best_choice_is_the_least_of_all_and_keeps_the_goals() -> None:
    wanted = Wanted(agreement=0.99)
    ranked = place(QUESTION, wanted, most=10**6)
    kept = [choice for choice in ranked if not choice.misses]
    assert 0 < len(kept) < len(ranked)
    assert ranked[0].text_s == min(choice.text_s for choice in kept)
    assert all((choice.agreement or 0) >= 0.99 for choice in kept)
    assert nearest(ranked, wanted) == ""


def test_a_better_link_never_makes_the_best_choice_worse() -> None:
    best = place(QUESTION, Wanted(agreement=0.99))[0].text_s
    for link in (replace(LINK, rtt_s=0.005), replace(LINK, up_bps=1e9), replace(LINK, down_bps=1e9)):
        assert place(replace(QUESTION, links=(link, QUESTION.links[1])), Wanted(agreement=0.99))[0].text_s <= best


def test_memory_and_goals_that_fail_are_named() -> None:
    small = {
        tier: {kind: replace(m, memory_bytes=1e6) for kind, m in kinds.items()}
        for tier, kinds in QUESTION.machines.items()
    }
    wanted = Wanted(tpot_s=1e-6)
    ranked = place(replace(QUESTION, machines=small), wanted)
    assert "tpot_s" in ranked[0].misses and any(miss.startswith("memory of") for miss in ranked[0].misses)
    assert "time per token" in nearest(ranked, wanted)


def test_the_front_has_what_nothing_beats() -> None:
    found = place(QUESTION, Wanted(agreement=0.9), most=10**6)
    front = pareto([choice for choice in found if not choice.misses], (text_s, shared_s))
    assert front[0].text_s == min(choice.text_s for choice in front)
    ordered = sorted(front, key=text_s)
    assert [shared_s(c) for c in ordered] == sorted((shared_s(c) for c in front), reverse=True)
