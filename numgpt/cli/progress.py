"""Show how a download gets on: a bar on a terminal, a plain line now and then elsewhere."""

import shutil
import sys
import time
from typing import TextIO

BAR = 20  # columns


class Bar:
    """Shows the progress of files, one after the other: call it as bar(name, bytes so far, bytes in all or None).

    stream  where it is shown: a bar that is drawn anew ten times a second if that is a terminal, else a line every ten
            seconds and one at the end of a file

    >>> bar = Bar(sys.stdout)
    >>> bar("config.json", 0, 665)
    >>> bar("config.json", 665, 665)
    config.json: 665 B
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.terminal = self.stream.isatty()
        self.name = ""

    def __call__(self, name: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if name != self.name:
            self.name, self.start, self.first, self.shown = name, now, done, now
        if done == total:
            self._write(self._line(now, done, total), end="\n")
            self.name = ""
        elif now - self.shown >= (0.1 if self.terminal else 10):
            self.shown = now
            self._write(self._line(now, done, total), end="" if self.terminal else "\n")

    def close(self) -> None:
        """End the line of a file that did not come to its end, so that what is said next has its own."""
        if self.name and self.terminal:
            print(file=self.stream, flush=True)
        self.name = ""

    def _write(self, line: str, end: str) -> None:
        if self.terminal:  # over the last one
            columns = shutil.get_terminal_size().columns - 1
            line = "\r" + line[:columns].ljust(columns)
        print(line, end=end, file=self.stream, flush=True)

    def _line(self, now: float, done: int, total: int | None) -> str:
        text = self._amount(done)
        if total and done < total:
            text = f"{done / total:.0%} of {self._amount(total)}"
        seconds = now - self.start
        if seconds > 0.1 and done > self.first:  # what an earlier process fetched is not of this rate
            rate = (done - self.first) / seconds
            text += f", {self._speed(rate, seconds)}"
            if total and done < total:
                text += f", {format_time((total - done) / rate)} left"
        if not (self.terminal and total and done < total):
            return f"{self.name}: {text}"
        full = BAR * done // total
        return f"{self.name}: [{'#' * full}{'.' * (BAR - full)}] {text}"

    def _amount(self, count: int) -> str:
        return format_bytes(count)

    def _speed(self, rate: float, seconds: float) -> str:
        return f"{format_bytes(rate)}/s"


class LineBar(Bar):
    """Shows how many lines of a job are done, and how many tokens a second: set `tokens` before each call.

    >>> bar = LineBar(sys.stdout)
    >>> bar("out.jsonl", 0, 1500)
    >>> bar("out.jsonl", 1500, 1500)
    out.jsonl: 1,500 lines
    """

    tokens = 0

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self._write(message, end="\n")

    def _amount(self, count: int) -> str:
        return f"{count:,} lines"

    def _speed(self, rate: float, seconds: float) -> str:
        return f"{rate:.1f} lines/s, {self.tokens / seconds:.0f} tokens/s"


def format_bytes(count: float) -> str:
    """Write a number of bytes in three digits.

    >>> format_bytes(665), format_bytes(1_042_301), format_bytes(548_105_171), format_bytes(6_431_829_962)
    ('665 B', '1.04 MB', '548 MB', '6.43 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            break
        count /= 1000
    digits = 0 if unit == "B" or count >= 99.95 else 1 if count >= 9.995 else 2
    return f"{count:.{digits}f} {unit}"


def format_time(seconds: float) -> str:
    """Write a time in hours, minutes and seconds.

    >>> format_time(7), format_time(83), format_time(3600)
    ('0:07', '1:23', '1:00:00')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
