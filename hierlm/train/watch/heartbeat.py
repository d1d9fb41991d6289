"""Every rank says what it is doing; when nothing moves any more, who is behind, with the stacks of all.

heartbeats/7/from-rank-0000.json   what a node's ranks last said, by a thread of each, which lives on when it is stuck
heartbeats/7/hang                  made once, by the rank that first missed progress in this attempt (of generation 7)

A rank that waits in a collective call waits for others, so the ranks that matter are those that did not get as far, or
whose thread is silent too: stopped, swapped out, or on a node that is gone. Silence is counted in the thread's own
beats, not by the clock: a job that was paused as a whole is not hung. How words get around: `node_beats`.
"""

import faulthandler
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TypeVar

from hierlm.train.watch.node_beats import TELL_SECONDS, Heartbeat, NodeBeats

B = TypeVar("B")

BEAT_SECONDS = 2.0
SECONDS_FOR_LAST_WORDS = 10.0
_BEATS_FOR_STACKS = 3  # what the others are given to see that there is a hang, and to write their stacks


class HeartbeatWriter:
    """One on every rank; `mark` is called where the rank gets on, which costs nothing."""

    def __init__(
        self,
        folder: Path,
        *,
        node_folder: Path,
        rank: int,
        hang_after_seconds: float | None,
        on_hang: Callable[[str], None],
        before_exit: Callable[[], None],
        beat_seconds: float = BEAT_SECONDS,
        tell_seconds: float = TELL_SECONDS,
    ) -> None:
        """A hang is told to `on_hang` on the rank that found out; every rank calls `before_exit` and its process ends.

        Both run on this object's thread: the main one is stuck. None for `hang_after_seconds` never ends anything.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._rank, self._beat_seconds, self._tell_seconds = rank, beat_seconds, tell_seconds
        self._node = NodeBeats(node_folder, folder, rank=rank, beat_seconds=beat_seconds, tell_seconds=tell_seconds)
        self._hang, self._hang_of_node = folder / "hang", node_folder / "hang"
        self._looked = float("-inf")
        self._hang_after, self._on_hang, self._before_exit = hang_after_seconds, on_hang, before_exit
        self._marks, self._step, self._activity, self._patience = 0, 0, "starting", 1.0
        self.probe_seconds: float | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def mark(self, activity: str, *, step: int | None = None, patience: float = 1.0) -> None:
        """The rank begins with something, `step` optimizer steps being complete; None: as many as before.

        It may take `patience` times as long as anything else before it counts as a hang.
        """
        self._activity, self._patience = activity, patience
        self._step = self._step if step is None else step
        self._marks += 1

    def marking(self, batches: Iterator[B], *, first_step: int) -> Iterator[B]:
        """The batches of the steps from `first_step` on, with a mark before and behind each wait for one."""
        for step in count(first_step):
            self.mark("waiting for data", step=step)
            batch = next(batches)
            self.mark("training", step=step)
            yield batch

    def stop(self) -> None:
        """The attempt ends in order."""
        self._stopped.set()
        self._thread.join(timeout=10.0)
        self._node.stop()

    def heard(self) -> list[Heartbeat]:
        """The last word of every rank, by rank: of this node's own, of others what is known by now."""
        return self._node.heard()

    def _beat(self) -> None:
        seen, silent = -1, 0.0
        while not self._stopped.is_set():
            silent = 0.0 if seen != self._marks else silent + self._beat_seconds
            seen = self._marks
            self._node.say(self._word(silent))
            if self._is_hang_known(silent):
                self._leave_stacks()
                self._node.tell()
                self._exit(after_seconds=self._seconds_for_others() + self._stack_seconds)  # who found out speaks first
            if self._is_too_long(silent) and self._is_first_to_say():
                self._tell()
            self._stopped.wait(self._beat_seconds)

    def _word(self, seconds: float) -> Heartbeat:
        return Heartbeat(
            rank=self._rank,
            host=socket.gethostname(),
            pid=os.getpid(),
            step=self._step,
            activity=self._activity,
            marks=self._marks,
            seconds=seconds,
            time=time.time(),
            probe_seconds=self.probe_seconds,
        )

    def _is_too_long(self, silent: float) -> bool:
        return self._hang_after is not None and silent >= self._hang_after * self._patience

    def _is_hang_known(self, silent: float) -> bool:
        """Of this node by its memory; of another one the rank that tells looks, and only where there is reason to."""
        is_suspicious = self._hang_after is not None and silent >= self._hang_after / 2
        is_time = time.monotonic() - self._looked >= 2 * self._tell_seconds
        if is_suspicious and is_time and self._node.is_teller:
            self._looked = time.monotonic()
            if self._hang.exists():
                self._tell_node()
        return self._hang_of_node.exists()

    def _tell_node(self) -> None:
        with suppress(OSError):
            self._hang_of_node.touch()

    def _is_first_to_say(self) -> bool:
        try:
            os.close(os.open(self._hang, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            self._tell_node()
            return False
        except OSError:
            return False
        self._tell_node()
        return True

    @property
    def _stack_seconds(self) -> float:
        return _BEATS_FOR_STACKS * self._beat_seconds

    def _seconds_for_others(self) -> float:
        """What they are given to learn of a hang, to write their stacks and to say where they are."""
        return self._stack_seconds + (2 * self._tell_seconds if self._node.knows_other_nodes() else 0.0)

    def _tell(self) -> None:
        self._leave_stacks()
        given = self._seconds_for_others()
        time.sleep(given)
        self._on_hang(diagnosis(self.heard(), now=time.time(), silent_seconds=given + self._stack_seconds))
        self._exit(after_seconds=0.0)

    def _exit(self, *, after_seconds: float) -> None:
        last_words = threading.Thread(target=self._before_exit, daemon=True)
        last_words.start()  # they may well wait for what is stuck too
        last_words.join(timeout=SECONDS_FOR_LAST_WORDS)
        time.sleep(after_seconds)
        self._node.stop()
        os._exit(1)

    def _leave_stacks(self) -> None:
        print(f"no progress: the stacks of rank {self._rank}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)


def diagnosis(beats: Sequence[Heartbeat], *, now: float, silent_seconds: float) -> str:
    """Which ranks are behind and what they were last seen doing, in one line; silent: not heard of for that long."""
    silent = [beat for beat in beats if now - beat.time > silent_seconds]
    front = max(beats, key=lambda beat: beat.marks)
    behind = [beat for beat in beats if beat.marks < front.marks and beat not in silent]
    parts = [
        f"{beat.place} does not answer, last heard {now - beat.time:.0f} s ago {beat.activity} after step {beat.step}"
        for beat in silent
    ]
    parts += [f"{b.place} is behind: {b.activity} after step {b.step} for {b.seconds:.0f} s" for b in behind]
    if not parts:
        parts = [f"all {len(beats)} ranks are {front.activity} after step {front.step}"]
    return "; ".join(parts)
