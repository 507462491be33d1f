"""Makes the terminal picture and the sample in README.md: ``python -m benchmarks.terminal``.

Both come from one real session with a fixed seed and number of iterations, which takes two minutes on two cores and
runs under a pseudo-terminal. The picture shows the screen halfway through training, its end, and a sample.
"""

import codecs
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from fcntl import ioctl

from rich.console import Console
from rich.text import Text

from benchmarks.pages import filled
from benchmarks.process import ROOT

PICTURE, README = ROOT / "docs" / "terminal.svg", ROOT / "README.md"
BEGIN, END = "<!-- sample:begin -->", "<!-- sample:end -->"
TRAIN = "charlstm train tinyshakespeare --preset quality --iterations 11500 --validation 0.1"
SAMPLE = 'charlstm sample --prime "ROMEO:" --temperature 0.6 --length 251 --seed 4'
IN_README = 'charlstm sample --prime "JULIET:" --temperature 0.6 --seed 6'
COLUMNS, ROWS, LINES_IN_README = 100, 40, 8
STYLE = (
    "<style>text {{ font: {char_height}px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; "
    "white-space: pre }} {styles}</style>"
)
SVG = (
    '<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">\n'
    f"{STYLE}\n"
    '<defs>{lines}</defs>\n{chrome}\n<g transform="translate({terminal_x}, {terminal_y})">\n'
    "{backgrounds}\n<g>{matrix}</g></g></svg>\n"
)


class Screen:
    """A terminal's screen; obeys the control sequences that `charlstm train` and rich write and ignores all others."""

    TOKEN = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|([^\x1b])", re.DOTALL)

    def __init__(self):
        self.lines, self.row, self.column, self.style, self._rest = [[]], 0, 0, "", ""

    def feed(self, text):
        """Process a piece of output; keep a sequence that it cuts off at its end for the next piece."""
        whole, self._rest = re.fullmatch(r"(.*?)(\x1b(?:\[[?\d;]*)?)?", self._rest + text, re.DOTALL).groups("")
        for number, command, character in self.TOKEN.findall(whole):
            if character:
                self._put(character)
            elif command == "m":
                self.style = "" if number in ("", "0") else f"{self.style}\x1b[{number}m"
            elif command == "A":
                self.row -= int(number or 1)
            elif command == "K":
                del self.lines[self.row][0 if number == "2" else self.column :]

    def _put(self, character):
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.row += 1
            if self.row == len(self.lines):
                self.lines.append([])
        else:
            if self.column == COLUMNS:
                self.feed("\r\n")
            line = self.lines[self.row]
            line += [(" ", "")] * (self.column + 1 - len(line))
            line[self.column] = (character, self.style)
            self.column += 1

    def text(self):
        """Return the lines without their styles."""
        return ["".join(character for character, _ in line).rstrip() for line in self.lines]

    def styled(self):
        """Return the lines with their styles, up to the last nonempty one."""
        shown = [Text.from_ansi("".join(f"{style}{one}\x1b[0m" for one, style in line)) for line in self.lines]
        while shown and not shown[-1].plain.strip():
            shown.pop()
        return shown


def run(command, folder):
    """Run a command on its own terminal; yield its screen after each piece of output and at the end."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    arguments = re.findall(r'"[^"]*"|\S+', command)[1:]
    arguments = [sys.executable, "-m", "charlstm", *(each.strip('"') for each in arguments)]
    process = subprocess.Popen(arguments, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    screen, decode = Screen(), codecs.getincrementaldecoder("utf-8")().decode
    while piece := read(ours):
        screen.feed(decode(piece))
        yield screen
    os.close(ours)
    if process.wait() != 0:
        raise SystemExit("\n".join(screen.text()))


def read(terminal):
    """Return the next output; empty at the end, which Linux reports as an error."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""


def is_halfway(screen):
    """Return whether the screen shows a whole frame from the second half of the training run, with the cursor below."""
    lines = screen.text()[: screen.row]
    bar = next((found for line in lines if (found := re.search(r"iteration ([\d,]+)/([\d,]+) ", line))), None)
    done, total = (int(number.replace(",", "")) for number in bar.groups()) if bar else (0, 1)
    return bool(lines) and lines[-1].startswith("╰") and 2 * done >= total


def train(folder):
    """Train, and return the screen halfway through and the screen at the end."""
    halfway = None
    for screen in run(TRAIN, folder):
        if halfway is None and is_halfway(screen):
            halfway = screen.styled()
    return halfway, screen.styled()


def sample(command, folder):
    """Return the lines that `charlstm sample` writes, without its notes."""
    *_, screen = run(command, folder)
    return [line for line in screen.text() if not line.startswith("run ")]


def picture(halfway, after, sampled):
    """Draw the session as SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    first, end = (
        next(k for k, line in enumerate(after) if line.plain.startswith(word)) for word in ("time  ", "sample  ")
    )
    last, dots = after[first : end + 1], Text("...", "dim")
    for line in (Text(f"$ {TRAIN}", "bold"), *halfway, Text(""), dots, *last, dots):
        console.print(line, soft_wrap=True)
    for line in (Text(""), Text(f"$ {SAMPLE}", "bold"), *map(Text, sampled), Text("")):
        console.print(line, soft_wrap=True)
    svg = console.export_svg(title="charlstm", code_format=SVG, unique_id="charlstm")
    return "\n".join(line.strip() for line in svg.splitlines() if line.strip()) + "\n"


def main():
    """Run the session; write the picture, and the first lines of another sample into README.md."""
    with tempfile.TemporaryDirectory() as folder:
        halfway, after = train(folder)
        PICTURE.write_text(picture(halfway, after, sample(SAMPLE, folder)), "utf-8", newline="\n")
        lines = sample(IN_README, folder)[:LINES_IN_README]
    page = filled(README.read_text("utf-8"), BEGIN, END, "\n".join(["```text", *lines, "```"]))
    README.write_text(page, "utf-8", newline="\n")


if __name__ == "__main__":
    main()
