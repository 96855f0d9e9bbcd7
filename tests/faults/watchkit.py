"""Who watches a run, for the tests: asks, and waits for answers."""

import select
import time

from waiting import wait_until

from hydrax_core.monitor.client import Connection, find_runs
from hydrax_core.monitor.protocol.messages import Ask, Hello, Moment, Sample
from hydrax_core.monitor.protocol.wire import arrays_of

TIMEOUT = 20.0


def only_run(name=None):
    """The run that can be watched, as soon as there is one (of that name)."""
    (run,) = wait_until(lambda: [run for run in find_runs() if name is None or run.name == name])
    return run


class Watch:
    """A connection; keeps all that came."""

    def __init__(self, run=None):
        self.connection = Connection((run or only_run()).path)
        self.got = []
        self.until(Hello)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def hear(self, seconds=0.0):
        if select.select([self.connection], [], [], seconds)[0]:
            self.got.extend(self.connection.receive())

    def until(self, kind):
        """The next message of that kind."""
        before, deadline = len(self.got), time.monotonic() + TIMEOUT
        while not (found := [message for message, _ in self.got[before:] if isinstance(message, kind)]):
            assert time.monotonic() < deadline, f"no {kind.__name__} came"
            self.hear(0.05)
        return found[0]

    def ask(self, kind, *question):
        self.connection.ask(Ask(*question))
        return self.until(kind)

    def moment(self, **question):
        self.connection.ask(Ask("moment", **question))
        return self.until(Moment)

    def sample(self, loader, *, whole):
        """Rows copied from a batch, their arrays, and that batch; takes batches until one is copied."""
        batches = {}
        self.connection.ask(Ask("batch" if whole else "moment", sample=not whole))
        deadline = time.monotonic() + TIMEOUT
        while True:
            assert time.monotonic() < deadline, "nothing was copied"
            batch = next(loader)
            batches[batch.address.batch_num] = batch
            self.hear(0.01)
            for message, payload in self.got:
                if isinstance(message, Sample):
                    return message, arrays_of(message.arrays, payload), batches[message.record.batch_num]
