"""Placing a bundle: nothing that can be deployed is left out, and the quickest is first."""

from dataclasses import replace

from scaling.plan.deployment import ConfidenceExit, FixedExit, SpeculativeExit
from scaling.plan.fleet import Link
from scaling.plan.place import Question, choices, place
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


def test_all_choices_are_placed_the_quickest_first() -> None:
    found = place(QUESTION)
    assert {(c.deployment, c.precisions) for c in found} == set(choices(QUESTION))
    assert [c.text_s for c in found] == sorted(c.text_s for c in found)


def test_a_better_link_never_makes_the_quickest_choice_worse() -> None:
    def best(link: Link) -> float:
        found = place(replace(QUESTION, links=(link, QUESTION.links[1])))
        return min(c.text_s for c in found if (c.agreement or 0) >= 0.99)

    for link in (replace(LINK, rtt_s=0.005), replace(LINK, up_bps=1e9), replace(LINK, down_bps=1e9)):
        assert best(link) <= best(LINK)
