"""One progress display for all workers: what is running, how far it is, how fast, and how long it still takes."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .clock import AwakeClock

RESUME = "give the same command again to resume"
LOG_EVERY = 10.0  # seconds between lines where there is no terminal to draw on


class Display:
    """A total bar, and a bar per running task. Without a terminal: a line now and then. Always on stderr."""

    def __init__(self, title: str, total: float, *, done: float = 0, quiet: bool = False, resumes: bool = True) -> None:
        """`total`, `done`: amount of work over all tasks, in any unit; `done` was finished by an earlier call.

        `resumes`: whether what is finished is kept when the work is stopped.
        """
        self.title, self.total, self.done, self.at_start = title, total, done, done
        self.amounts: dict[int, float] = {}  # running task -> amount done
        self.rows: dict[int, TaskID] = {}
        self.clock = AwakeClock()
        self.began: tuple[float, float] | None = None  # when the first progress was reported, and the amount by then
        self.told = 0.0
        self.quiet, self.resumes = quiet, resumes
        self.live = not quiet and sys.stderr.isatty()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
            disable=not self.live,
            get_time=self.clock,
        )
        self.bar = self.progress.add_task(title, total=total, note="")
        self.progress.update(self.bar, completed=done)

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for row in self.rows.values():
            self.progress.remove_task(row)
        self.progress.stop()
        if isinstance(value, KeyboardInterrupt):
            kept = (
                f"what is finished is kept: {RESUME}" if self.resumes else "nothing was written; give the command again"
            )
            text = f"stopped at {self._share():.0%}; {kept}"
            value.add_note(f"{self.title}: {text}")  # so that whoever catches it knows what was said
            self._log(text)
        elif kind is None and not self.quiet and not self.live:
            self._log(f"done in {_clock(self.clock())}")

    def update(self, task: int, label: str, amount: float, total: float, note: str = "") -> None:
        """A running task has done `amount` of `total`; `note` says more, e.g. its loss."""
        if task not in self.rows:
            self.rows[task] = self.progress.add_task(f"  {label}", total=total, note=note)
        self.amounts[task] = amount
        self.progress.update(self.rows[task], completed=amount, note=note)
        self._refresh(f"{label} {note}")

    def finish(self, task: int, total: float) -> None:
        """A task is done; `total` is all of its amount."""
        self.amounts.pop(task, None)
        self.done += total
        if task in self.rows:
            self.progress.remove_task(self.rows.pop(task))
        self._refresh("")

    def note(self, text: str) -> None:
        """Say more beside the total bar, such as the speed."""
        self.progress.update(self.bar, note=text)

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.live:
            self.progress.console.print(f"{self.title}: {text}", markup=False, highlight=False)
        elif not self.quiet:
            self._log(text)

    def seconds(self) -> tuple[float, float, float]:
        """How long it has taken, how long the rest and how long all of the work would take, at the speed so far."""
        amount, elapsed = self._amount(), self.clock()
        pace = elapsed / (amount - self.at_start) if amount > self.at_start else float("inf")
        return elapsed, (self.total - amount) * pace, self.total * pace

    def _amount(self) -> float:
        return self.done + sum(self.amounts.values())

    def _share(self) -> float:
        return self._amount() / self.total

    def _refresh(self, what: str) -> None:
        amount = self._amount()
        self.progress.update(self.bar, completed=amount)
        now = self.clock()
        if self.began is None and amount > self.at_start:  # what went before was loading, which says nothing of speed
            self.began = now, amount
        if not self.live and not self.quiet and now - self.told >= LOG_EVERY:
            self.told = now
            began, first = self.began or (now, amount)
            left = (
                f", {_clock((self.total - amount) * (now - began) / (amount - first))} left" if amount > first else ""
            )
            self._log(f"{self._share():4.0%}{left}  {what.strip()}")

    def _log(self, text: str) -> None:
        print(f"{self.title}: {text}", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
