"""When output is coloured, and what a colour is put around."""

import io

import pytest

from relay.cli.colours import Palette, shown, wants_colour


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize(
    ("variables", "on_a_terminal", "in_a_pipe"),
    [
        ({}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": ""}, True, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False, False),
        ({"TERM": "dumb"}, False, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True, True),
    ],
)
def test_colours_are_for_terminals_unless_a_variable_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], on_a_terminal: bool, in_a_pipe: bool
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wants_colour(Stream(terminal=True)) is on_a_terminal
    assert wants_colour(Stream(terminal=False)) is in_a_pipe


def test_a_name_keeps_its_colour_and_others_have_another() -> None:
    palette = Palette(enabled=True)
    device, edge = palette.paint("device", "a"), palette.paint("edge", "a")
    assert device != edge
    assert palette.paint("device", "a") == device
    assert device.endswith("ma\x1b[0m") and palette.faint("a") == "\x1b[2ma\x1b[0m"
    assert palette.paint("cloud", "") == palette.faint("") == ""


def test_without_colours_a_text_is_itself() -> None:
    palette = Palette(enabled=False)
    assert (palette.paint("device", "a"), palette.faint("a")) == ("a", "a")


def test_only_a_terminal_is_kept_from_control_characters() -> None:
    assert shown("a\x1b[2J\x9b\r\tb\n", Stream(terminal=True)) == "a[2J\tb\n"
    assert shown("a\x1b[2J", Stream(terminal=False)) == "a\x1b[2J"
