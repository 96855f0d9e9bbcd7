"""The files that docs/sources-files.md names: Python's own documentation (PSF licence), and small made-up ones."""

import json
import pydoc_data.topics
from pathlib import Path

import numpy as np

TOPICS = pydoc_data.topics.topics
Path("articles.jsonl").write_text(
    "".join(json.dumps({"topic": topic, "text": text, "size": len(text)}) + "\n" for topic, text in TOPICS.items())
)
Path("table.csv").write_text("name,height,weight\nAnn,1.7,\nBo,1.8,80\n")
Path("prose.txt").write_text(TOPICS["assert"])
np.frombuffer(TOPICS["assert"].encode() * 10, np.uint8).astype(np.uint16).tofile("stream.bin")
