"""Runs the Python blocks of a page of the documents, one after the other, as one program.

What the reader is taken to have (data, a training step) comes from the file of the page's name beside this one.
"""

import re
import sys
from pathlib import Path

page = Path(sys.argv[1])
prelude = Path(__file__).with_name(f"{page.stem.lower()}.py")
parts = [(str(prelude), 1, prelude.read_text())] if prelude.exists() else []
text = page.read_text()
for block in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
    parts.append((str(page), text.count("\n", 0, block.start(1)) + 1, block[1]))
del sys.argv[1:], block, text
for name, line, code in parts:
    exec(compile("\n" * (line - 1) + code, name, "exec"), globals())
