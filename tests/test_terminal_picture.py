"""Test the screen emulation behind README's terminal picture, and the committed picture."""

import re

import pytest
from conftest import ROOT
from rich.text import Text

pytest.importorskip("pty", reason="the picture is made under POSIX")

from benchmarks import terminal


@pytest.mark.parametrize(
    ("output", "lines"),
    [
        ("one\r\ntwo", ["one", "two"]),
        ("reading\r\x1b[Kread", ["read"]),
        ("50%\r\n[sample]\r\n\x1b[2K\x1b[1A\x1b[2Kdone", ["50%", "done", ""]),
        ("50%\r\n[sample]\r\x1b[2K\x1b[1A\x1b[2Kdone", ["done", ""]),
        ("\x1b[?25l\x1b[1mbold\x1b[0m", ["bold"]),
        ("x" * (terminal.COLUMNS + 2), ["x" * terminal.COLUMNS, "xx"]),
    ],
)
def test_the_screen_shows_what_a_terminal_shows(output, lines):
    whole, split = terminal.Screen(), terminal.Screen()
    whole.feed(output)
    for character in output:
        split.feed(character)
    assert whole.text() == split.text() == lines


def test_the_screen_keeps_colours():
    screen = terminal.Screen()
    screen.feed("plain \x1b[31mred\x1b[0m")
    (line,) = screen.styled()
    assert {line.plain[span.start] for span in line.spans if span.style.color} == set("red")


def test_halfway_is_a_whole_frame_of_the_second_half():
    frame = "text    book\r\n╭─╮\r\n│ iteration 1,{}/2,000 ━━ 50% │\r\n╰─╯\r\n"
    for output, expected in ((frame.format("000"), True), (frame.format("000")[:-5], False), ("╰─╯", False)):
        screen = terminal.Screen()
        screen.feed(output)
        assert terminal.is_halfway(screen) is expected, output
    redrawn = terminal.Screen()
    redrawn.feed(frame.format("000") + "\r\x1b[3A\r\n\x1b[2K│ iteration")  # in the middle of the next frame
    assert not terminal.is_halfway(redrawn)
    early = terminal.Screen()
    early.feed(frame.replace("1,{}", "999"))
    assert not terminal.is_halfway(early)


def test_the_picture_has_the_lines_of_the_session():
    svg = terminal.picture(
        [Text("iteration 1/2")], [Text("lost"), Text("time    1 s"), Text("sample  here"), Text("more")], ["To be"]
    )
    shown = re.sub(r"<[^>]+>", "", svg).replace("&#160;", " ")
    for words in (
        terminal.TRAIN,
        "iteration 1/2",
        "time    1 s",
        "sample  here",
        "To be",
    ):
        assert words.replace('"', "&quot;") in shown or words in shown, words
    assert "lost" not in shown
    assert "more" not in shown


def test_the_picture_in_the_tree_shows_the_session_of_the_script():
    """If this fails, run `python -m benchmarks.terminal`."""
    shown = re.sub(r"<[^>]+>", "", terminal.PICTURE.read_text()).replace("&#160;", " ").replace("&quot;", '"')
    assert f"$ {terminal.TRAIN}" in shown
    assert f"$ {terminal.SAMPLE}" in shown
    page = (ROOT / "README.md").read_text()
    sample = page.partition(terminal.BEGIN)[2].partition(terminal.END)[0].strip().splitlines()
    assert len(sample) == terminal.LINES_IN_README + 2
