"""The page of promises names the tests that hold them: all of this folder, and none that there is not."""

import re
from pathlib import Path

from faultkit import limit

pytestmark = limit(30)

FOLDER = Path(__file__).parent


def test_the_page_of_promises_names_every_test_and_no_other():
    page = (FOLDER.parents[1] / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    made = {
        name
        for path in FOLDER.glob("test_fault_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named == made - {"test_the_page_of_promises_names_every_test_and_no_other"}
