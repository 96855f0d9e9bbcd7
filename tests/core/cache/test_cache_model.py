"""Any sequence of writing, reading, damaging, repairing, clearing and reopening, compared with a plain dict."""

import shutil
import tempfile
from pathlib import Path

import cachekit as kit
import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from hydrax_core.cache import clear, verify

EPOCHS = st.integers(0, 2)
NUMBERS = st.integers(0, kit.BATCHES - 1)
ARRAYS = st.sampled_from(["x", "label", "half"])


class Cache(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.there = set()  # what must be served
        self.maybe = set()  # what may be there, damaged
        self.rowless = set()  # what was found damaged: its row is gone, and its data is still there
        self.store = None

    @initialize()
    def open(self):
        self.store = kit.open_store(self.folder, shuffle_later="itemwise")

    def teardown(self):
        if self.store is not None:
            self.store.close()
        shutil.rmtree(self.folder)

    @rule(epoch=EPOCHS, number=NUMBERS)
    def write(self, epoch, number):
        self.store.write(epoch, number, kit.batch(number, epoch), kit.additional(number, epoch))
        self.store.flush()
        if (epoch, number) not in self.maybe:  # a bad entry is only known as such once it was asked for
            self.there.add((epoch, number))
            self.rowless.discard((epoch, number))

    @rule(epoch=EPOCHS, number=NUMBERS, ahead=st.booleans())
    def read(self, epoch, number, ahead):
        if ahead:
            self.store.prefetch(epoch, number)
        served = kit.serve(self.store, number, epoch)
        assert served or (epoch, number) not in self.there
        assert not served or (epoch, number) in self.there
        if (epoch, number) in self.maybe:
            self.maybe.remove((epoch, number))
            self.rowless.add((epoch, number))

    @rule()
    def reopen(self):
        self.store.close()
        self.open()

    @precondition(lambda self: self.there)
    @rule(data=st.data(), array=ARRAYS)
    def damage(self, data, array):
        epoch, number = data.draw(st.sampled_from(sorted(self.there)))
        self.store.close()
        path = self.folder / f"epoch-{epoch}" / f"{array}.npy"
        size = (path.stat().st_size - 4096) // kit.BATCHES
        with path.open("r+b") as file:
            file.seek(4096 + number * size + data.draw(st.integers(0, size - 1)))
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ data.draw(st.integers(1, 255))]))
        self.there.discard((epoch, number))
        self.maybe.add((epoch, number))
        self.open()

    @rule()
    def repair(self):
        self.store.close()
        findings = list(verify(self.folder, repair=True))
        found = {(finding.epoch, finding.number) for finding in findings if finding.what == "corrupt"}
        assert found == self.maybe
        for finding in findings:  # of an epoch without any entry left, whole files have no row
            rowless = finding.what == "unfinished" and (finding.epoch, finding.number) in self.rowless
            assert finding.what == "corrupt" or rowless or (finding.what == "orphaned" and self.rowless)
        assert list(verify(self.folder)) == []
        self.maybe.clear()
        self.rowless.clear()
        self.open()

    @rule(epoch=EPOCHS)
    def clear_epoch(self, epoch):
        self.store.close()
        gone = {key for key in self.there | self.maybe if key[0] == epoch}
        assert clear(self.folder, epoch=epoch).entries == len(gone)
        self.there -= gone
        self.maybe -= gone
        self.rowless = {key for key in self.rowless if key[0] != epoch}
        self.open()


Cache.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
TestCache = Cache.TestCase
