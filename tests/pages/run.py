"""Runs the Python blocks of a page of the documents, one after the other, as one program: ``run.py PAGE [LIBRARY]``.

What the reader is taken to have (data, a training step) comes from the file of the page's name beside this one. A block
below ``<!-- needs LIBRARY -->`` is left out, unless that library is named: then those that need nothing are.
"""

import re
import sys
from pathlib import Path

page, wanted = Path(sys.argv[1]), "".join(sys.argv[2:])
prelude = Path(__file__).with_name(f"{page.stem.lower()}{wanted and '-'}{wanted}.py")
parts = [(str(prelude), 1, prelude.read_text())] if prelude.exists() else []
text = page.read_text()
for block in re.finditer(r"(?:^<!-- needs (\w+) -->\n)?^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
    if (block[1] or "") == wanted:
        parts.append((str(page), text.count("\n", 0, block.start(2)) + 1, block[2]))
del sys.argv[1:], block, text, wanted
for name, line, code in parts:
    exec(compile("\n" * (line - 1) + code, name, "exec"), globals())
