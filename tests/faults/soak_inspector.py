"""Inspectors for the soak: each attaches to the training in a terminal of its own, lives for a while, and goes."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

from click.testing import CliRunner

from hydrax_cli.inspect.command import inspect

PROGRAM = "from hydrax_cli.main import main; main()"
QUIT_SECONDS = 10.0
READ_SECONDS = 0.1


def attach_is_there():
    """Whether ``hydrax inspect`` can look at a loader of another process."""
    return "--attach" in CliRunner().invoke(inspect, ["--help"]).output


class Inspectors:
    """One inspector after the other."""

    def __init__(self, pid, chance, environment):
        self._arguments = [sys.executable, "-c", PROGRAM, "inspect", "--attach", str(pid)]
        self._environment = {**environment, "TERM": "xterm-256color"}
        self._chance = chance
        self._process = None
        self._terminal = -1
        self._output = b""
        self.started = self.quits = self.kills = self.shown = 0
        self.wrong = []

    def step(self):
        """Start one, or end the one there is; how long until the next turn."""
        if self._process is None:
            self._start()
            return self._chance.uniform(1, 20)
        if self._chance.random() < 0.5:
            self.kills += 1
            self._process.kill()
        else:
            self.quits += 1
            os.write(self._terminal, b"q")
        self._end()
        return self._chance.uniform(0.2, 3)

    def read(self):
        """Take what it draws, so that it is never held up; how long until the next time."""
        with contextlib.suppress(OSError):  # nothing more for now, or the other side is closed
            while self._process is not None and (data := os.read(self._terminal, 1 << 16)):
                self._output = (self._output + data)[-(1 << 20) :]
        return READ_SECONDS

    def close(self):
        """End the last one."""
        if self._process is not None:
            self.kills += 1
            self._process.kill()
            self._end()

    def hold(self):
        return not self.wrong and (self.shown > 0 or self.started == 0)

    def report(self):
        wrong = f"; WRONG: {self.wrong[:3]}" if self.wrong else ""
        return (
            f"{self.started} inspectors, {self.shown} of which showed it, {self.quits} quit, {self.kills} killed{wrong}"
        )

    def _start(self):
        self._terminal, other = pty.openpty()
        os.set_blocking(self._terminal, False)
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self._output = b""
        self._process = subprocess.Popen(
            self._arguments, stdin=other, stdout=other, stderr=other, env=self._environment, start_new_session=True
        )
        os.close(other)
        self.started += 1

    def _end(self):
        killed = self._process.poll() is None
        for _ in range(int(QUIT_SECONDS / 0.05)):
            self.read()
            try:
                code = self._process.wait(0.05)
                break
            except subprocess.TimeoutExpired:
                continue
        else:
            self._process.kill()
            self._process.wait()
            code = None
            self.wrong.append("it does not quit")
        self.read()
        os.close(self._terminal)
        self.shown += b"running" in self._output
        if code not in (0, -9, None) or (code == 0 and not killed):
            self.wrong.append(f"exit code {code}: {self._output[-300:]!r}")
        self._process = None
