import pytest

from scaling.plan.words import aim, plain, share, span


@pytest.mark.parametrize(
    ("value", "text"), [(17390.0, "17,390"), (999.94, "999.9"), (0.00012345, "0.0001234"), (4.5e21, "4.5e+21")]
)
def test_no_number_of_a_goal_is_written_with_an_exponent_that_people_would_not_write(value: float, text: str) -> None:
    assert plain(value) == text


def test_what_is_rare_is_not_shown_as_never_nor_what_is_usual_as_always() -> None:
    assert [share(x) for x in (0.0, 0.005, 0.43, 0.999, 1.0)] == ["0%", "<1%", "43%", ">99%", "100%"]


def test_a_span_of_one_is_one_number() -> None:
    assert (span(1, 3), span(2, 2)) == ("1-3", "2")


def test_an_aim_says_which_way_is_good() -> None:
    assert aim("cost", "quality") == "least cost" and aim("quality", "latency") == "best quality"
    assert aim("pareto", "latency") == "least latency (of the Pareto set)"
