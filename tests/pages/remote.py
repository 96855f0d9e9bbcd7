"""What docs/remote.md names: a server of this machine as the store, made-up rows, scikit-image's photos (CC0)."""

import os
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import skimage.data
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "core" / "sources"))
from remotekit import Server

BUCKET = Path("bucket")
(BUCKET / "diamonds").mkdir(parents=True)
rng = np.random.default_rng(0)
for number in range(2):
    table = pa.table({"carat": rng.random(500), "price": rng.integers(300, 19_000, 500)})
    pq.write_table(table, BUCKET / "diamonds" / f"{number}.parquet")
    (BUCKET / f"articles-{number}.jsonl").write_text('{"size": 3}\n{"size": 4}\n')
np.save(BUCKET / "features.npy", rng.random((1000, 16), np.float32))
for name, photo in (("cat", skimage.data.chelsea()), ("cup", skimage.data.coffee())):
    (BUCKET / "photos" / name).mkdir(parents=True)
    Image.fromarray(photo[:200, :200]).save(BUCKET / "photos" / name / "1.jpg")
server = Server(Path.cwd())
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ.update(
    AWS_ENDPOINT_URL=server.address, AWS_ALLOW_HTTP="true", AWS_SKIP_SIGNATURE="true", AWS_REGION="somewhere"
)
