"""What docs/sources.md names: the digits (UCI, CC BY 4.0) in many formats; made-up rows called diamonds."""

import sqlite3
from pathlib import Path

import datasets
import h5py
import lmdb as lmdb_module
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import zarr as zarr_module
from array_record.python.array_record_module import ArrayRecordWriter

from hydrax_core.sources.digits import _data

IMAGE, LABEL = _data()["image"], _data()["label"]

Path("diamonds").mkdir()
for part in range(2):
    columns = {"carat": np.linspace(0.2, 2, 400), "cut": ["Ideal", "Good"] * 200, "price": np.arange(400) + 300}
    pyarrow.parquet.write_table(pa.table(columns), f"diamonds/{part}.parquet", row_group_size=100)

tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(IMAGE)
table = pa.table({"image": tensors, "label": LABEL})
with pa.ipc.new_file("digits.arrow", table.schema) as file:
    file.write_table(table)

names = datasets.ClassLabel(names=[str(number) for number in range(10)])
features = datasets.Features({"image": datasets.Image(), "label": names})
pictures = [np.repeat(image[..., None] * 15, 3, 2) for image in IMAGE[:600]]
digits = datasets.Dataset.from_dict({"image": pictures, "label": LABEL[:600].tolist()}, features)
datasets.disable_progress_bars()
digits.save_to_disk("digits-hf")
datasets.DatasetDict({"train": digits, "test": digits.select(range(100))}).save_to_disk("digits-both")

with sqlite3.connect("digits.db") as database:
    database.execute("CREATE TABLE digits (label INTEGER, ink REAL, image BLOB)")
    for image, label in zip(IMAGE[:300], LABEL[:300].tolist(), strict=True):
        database.execute("INSERT INTO digits VALUES (?, ?, ?)", (label, float(image.mean()), image.tobytes()))
database.close()

np.savez("digits.npz", image=IMAGE, label=LABEL, made_by=np.array("UCI"))
with h5py.File("digits.h5", "w") as file:
    file.create_dataset("image", data=IMAGE, chunks=(100, 8, 8), compression="gzip")
    file["about/label"] = LABEL
group = zarr_module.open_group("digits.zarr", mode="w")
group.create_array("image", data=IMAGE, chunks=(100, 8, 8))

with lmdb_module.open("digits.lmdb", map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
    for number, image in enumerate(IMAGE[:200]):
        transaction.put(f"{number:05}".encode(), image.tobytes())
writer = ArrayRecordWriter("digits.array_record", "group_size:1")
for image in IMAGE[:200]:
    writer.write(image.tobytes())
writer.close()
