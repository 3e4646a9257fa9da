"""Several processes for one command on one machine: started, given the signals, ended together, their error shown once.

torchrun does as much for several machines; after a stop in good order it prints a traceback and exits with 1.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dlkit.core import console, signals
from dlkit.core.errors import DlkitError, ExitCode
from dlkit.core.peers import PARENT, REPORT

GRACE = 15.0
"""Seconds that the others have to end after one has failed: what they wait for will not come."""


def run(argv: list[str], processes: int, restarts: int = 0) -> int:
    """Run `dlkit argv` as so many processes; their exit code. Only the first one's stdout is ours.

    A process that is killed ends them all; up to `restarts` times they are started again, to resume from the last
    checkpoint. DlkitError with the error that came first. A second signal kills them.
    """
    with tempfile.TemporaryDirectory(prefix="dlkit-") as folder, signals.deferred():
        for attempt in range(restarts + 1):
            place = Path(folder) / str(attempt)
            place.mkdir()
            code, killed = _Processes(argv, processes, place, attempt).wait()
            if killed is None or attempt == restarts or signals.asked():
                break
            console.warn(f"process {killed} was killed: starting again from the last checkpoint ({attempt + 1})")
        if killed is not None:  # what the others then met is no news
            message = f"process {killed} of {processes} was killed"
            raise DlkitError(message, "go on from the last checkpoint with --resume", ExitCode.INTERNAL)
        report = place / "report"
        if report.exists():
            body = json.loads(report.read_text(encoding="utf-8"))
            raise DlkitError(body["message"], body["hint"], ExitCode(body["code"]), body["context"])
        return code


class _Processes:
    def __init__(self, argv: list[str], count: int, place: Path, attempt: int) -> None:
        self._read, self._write = os.pipe()
        self.report = place / "report"
        env = os.environ | {
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "DLKIT_STORE": str(place / "store"),
            REPORT: str(self.report),
            PARENT: str(self._read),
            "TORCHELASTIC_RESTART_COUNT": str(attempt),
        }
        env.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // count, 1)))
        if sys.platform == "linux":
            env.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all on this machine: no name to look up, no firewall
        self.children = [self._start(argv, env, rank) for rank in range(count)]
        os.close(self._read)

    def _start(self, argv: list[str], env: dict[str, str], rank: int) -> subprocess.Popen[bytes]:
        # A session of their own: Ctrl-C reaches this process alone, which passes it on once.
        return subprocess.Popen(
            [sys.executable, "-m", "dlkit", *argv],
            env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.DEVNULL,
            stdout=None if rank == 0 else subprocess.DEVNULL,
            pass_fds=(self._read,),
            start_new_session=True,
        )

    def wait(self) -> tuple[int, int | None]:
        """(exit code, the number of a process that something killed). Passes signals on while it waits."""
        passed, failed_at, killed = 0, None, None
        try:
            while None in [child.poll() for child in self.children]:
                if signals.take_save():
                    self._send(signals.SAVE)
                if (signum := signals.signum()) and not passed:
                    passed = signum
                    self._send(signum)
                if failed_at is None and any(child.returncode for child in self.children):
                    failed_at, killed = time.monotonic(), self._killed()
                if failed_at is not None and time.monotonic() - failed_at > GRACE:
                    self._send(signal.SIGKILL)
                time.sleep(0.02)
            if failed_at is None:
                killed = self._killed()
        finally:
            self._send(signal.SIGKILL)
            os.close(self._write)
        return next((child.returncode for child in self.children if child.returncode), 0), killed

    def _killed(self) -> int | None:
        return next((i for i, child in enumerate(self.children) if (child.returncode or 0) < 0), None)

    def _send(self, signum: int | None) -> None:
        for child in self.children:
            if signum is not None and child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    child.send_signal(signum)
