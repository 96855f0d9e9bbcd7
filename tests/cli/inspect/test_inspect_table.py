"""The filter of the batch table."""

import pytest

from hydrax_cli.inspect.widgets.batch_table import matches
from hydrax_core.monitor import BatchRecord

TRAINING = BatchRecord(1, "training", 1, 3, 14, 80, 64, 12345, 0.1, None, cached=True)
VALIDATION = BatchRecord(2, "validation", 0, 3, 2, 20, 64, None, 0.1, None, cached=False)
FAILED = TRAINING._replace(error="item 17 failed: ValueError: bad header")


@pytest.mark.parametrize(
    ("text", "fitting"),
    [
        ("", {"training", "validation", "failed"}),
        ("epoch:3", {"training", "validation", "failed"}),
        ("epoch:2", set()),
        ("epoch:2-4 in:14", {"training", "failed"}),
        ("batch:20", {"validation"}),
        ("20", {"validation"}),
        ("15-25", {"validation"}),
        ("seed:12345", {"training", "failed"}),
        ("group:0", {"validation"}),
        ("items:64", {"training", "validation", "failed"}),
        ("valid", {"validation"}),
        ("cache", {"training", "failed"}),
        ("loader", {"validation"}),
        ("error", {"failed"}),
        ("HEADER", {"failed"}),
        ("cache error epoch:3", {"failed"}),
        ("epoch:x", set()),
        ("epoch:", set()),
        ("nonsense:3", set()),
    ],
)
def test_a_batch_fits_when_every_word_does(text, fitting):
    records = {"training": TRAINING, "validation": VALIDATION, "failed": FAILED}
    assert {name for name, record in records.items() if matches(record, text.split())} == fitting
