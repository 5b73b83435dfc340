"""A signal only raises a flag; whoever works looks at it where it can stop.

Nothing heavy is imported here: the handlers stand before torch is read, so that a signal meanwhile is not lost.
"""

import signal
import threading
from types import FrameType
from typing import Any

PREEMPTED = 75
"""Exit code of a run that stopped on SIGTERM or SIGUSR1, after saving: it wants to be started again (EX_TEMPFAIL)."""
STOPPED = 130
"""Exit code of a run that stopped on Ctrl-C."""
CLUSTER = (signal.SIGTERM, signal.SIGUSR1)
"""Signals of a cluster that wants its machines back."""


class Interrupted(Exception):
    """The run stopped before its end, after saving a checkpoint if there was anything to save.

    The signals still only raise the flag; whoever goes on in the same process calls `request.forget()`.
    """

    def __init__(self, message: str, number: int) -> None:
        """`number` is that of the signal."""
        super().__init__(message)
        self.code = STOPPED if number == signal.SIGINT else PREEMPTED


class StopRequest:
    """The flag."""

    def __init__(self) -> None:
        self.number = 0
        """Of the signal that came; 0: none."""
        self.before: dict[int, Any] = {}

    def listen(self, *others: int) -> None:
        """Take the cluster's signals and `others`; again where somebody else has put handlers in front.

        Off the main thread: nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (*CLUSTER, *others):
            found = signal.signal(number, self._ask)
            if found != self._ask:
                self.before.setdefault(number, found)

    def ignore(self) -> None:
        """From now on the cluster's signals mean nothing: this process is ending, in its own time, with its own code.

        A scheduler ends all processes of a job as soon as one of them has ended, and Python's own handlers are gone
        while it cleans up.
        """
        if threading.current_thread() is threading.main_thread():
            for number in CLUSTER:
                signal.signal(number, signal.SIG_IGN)

    def forget(self) -> None:
        """Give the signals back, and take the flag down."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        for number in CLUSTER:  # Lightning gives back what it found, which may have been this flag
            if signal.getsignal(number) == self._ask and threading.current_thread() is threading.main_thread():
                signal.signal(number, signal.SIG_DFL)
        self.before, self.number = {}, 0

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.number == number == signal.SIGINT:  # a second Ctrl-C does not wait
            raise KeyboardInterrupt
        self.number = number


request = StopRequest()
"""That of this process."""
