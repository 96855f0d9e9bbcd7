"""What docs/sources-files.md names: Python's documentation (PSF licence), scikit-image's photos (CC0), small files."""

import io
import json
import pydoc_data.topics
import tarfile
from pathlib import Path

import numpy as np
import skimage.data
import soundfile
from PIL import Image

TOPICS = pydoc_data.topics.topics
Path("articles.jsonl").write_text(
    "".join(json.dumps({"topic": topic, "text": text, "size": len(text)}) + "\n" for topic, text in TOPICS.items())
)
Path("table.csv").write_text("name,height,weight\nAnn,1.7,\nBo,1.8,80\n")
Path("prose.txt").write_text(TOPICS["assert"])
np.frombuffer(TOPICS["assert"].encode() * 10, np.uint8).astype(np.uint16).tofile("stream.bin")
for number in range(20):
    for name, photo in (("cat", skimage.data.chelsea()), ("cup", skimage.data.coffee())):
        file = Path("photos") / name / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo[number : number + 200, 5 * number : 5 * number + 250]).save(file)
for shard in range(2):
    with tarfile.open(f"shard-{shard}.tar", "w") as archive:
        for number in range(8):
            image = Path("photos/cat") / f"{number}.jpg"
            members = {"jpg": image.read_bytes(), "cls": b"3", "json": b'{"width": 250}'}
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{number:04}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
for label, hertz in (("high", 2000), ("low", 200)):
    (Path("tones") / label).mkdir(parents=True)
    for number in range(5):
        sound = np.sin(hertz * np.arange(8000) * 2 * np.pi / 16_000)
        soundfile.write(Path("tones") / label / f"{number}.wav", sound, 16_000)
