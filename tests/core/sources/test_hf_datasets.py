"""Datasets of Hugging Face, made of the digits (UCI, CC BY 4.0) and of Python's documentation (PSF licence)."""

import io
import pickle
import pydoc_data.topics
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from hydrax_core import Dataloader
from hydrax_core.errors import CacheMismatchError, LoaderError
from hydrax_core.sources import hugging_face
from hydrax_core.sources.digits import _data
from hydrax_core.testing import check_loader, check_source

datasets = pytest.importorskip("datasets")

DIGITS = _data()
NAMES = [str(number) for number in range(10)]
TOPICS = [text for _, text in sorted(pydoc_data.topics.topics.items())]


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "home"))
    datasets.disable_progress_bars()


def digits(count=300):
    features = datasets.Features(
        {
            "pixels": datasets.Array2D((8, 8), "uint8"),
            "flat": datasets.Sequence(datasets.Value("float32"), length=64),
            "label": datasets.ClassLabel(names=NAMES),
            "ink": datasets.Value("float64"),
            "name": datasets.Value("string"),
        }
    )
    image = DIGITS["image"][:count]
    rows = {
        "pixels": list(image),
        "flat": list(image.reshape(-1, 64).astype(np.float32)),
        "label": DIGITS["label"][:count].tolist(),
        "ink": image.mean((1, 2)),
        "name": [f"digit {number}" for number in range(count)],
    }
    return datasets.Dataset.from_dict(rows, features)


def saved(folder, dataset):
    dataset.save_to_disk(folder, max_shard_size="20KB")
    return datasets.load_from_disk(folder)


def picture(number):
    file = io.BytesIO()
    PIL.Image.fromarray(DIGITS["image"][number] * 15).resize((32, 24)).save(file, "PNG")
    return file.getvalue()


def check_digits(rows, expected):
    """Rows hold the digits of these numbers, in this order."""
    assert len(rows.training) == len(expected)
    items = rows.training.items.__getitems__(range(len(expected)))
    np.testing.assert_array_equal([item["pixels"] for item in items], DIGITS["image"][expected])
    np.testing.assert_array_equal([item["flat"] for item in items], DIGITS["image"].reshape(-1, 64)[expected])
    assert [item["label"] for item in items] == DIGITS["label"][expected].tolist()


def test_a_dataset_on_disk_is_mapped_by_workers_that_do_not_import_datasets(tmp_path):
    rows = hugging_face(saved(tmp_path / "digits", digits()), labels=["label"], additional=["name"], batch_size=50)
    assert check_source(rows.training.items) == []
    assert check_loader(None, rows.training) == []
    assert rows.classes["label"] == tuple(NAMES)
    check_digits(rows, list(range(300)))
    with Dataloader(rows.training, loader_count=2, end_at=("epoch", 1)) as loader:
        for batch in loader:
            indices = list(batch.indices)
            np.testing.assert_array_equal(batch.arrays["pixels"], DIGITS["image"][indices])
            assert batch.additional["name"] == [f"digit {index}" for index in indices]
    program = "import pickle, sys; s = pickle.load(open(sys.argv[1], 'rb')); s[7]; print('datasets' in sys.modules)"
    (tmp_path / "source").write_bytes(pickle.dumps(rows.training.items))
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "source"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False"]


def test_a_folder_and_a_dataset_in_memory(tmp_path):
    digits(60).save_to_disk(tmp_path / "digits")
    check_digits(hugging_face(tmp_path / "digits"), list(range(60)))
    check_digits(hugging_face(digits(60)), list(range(60)))


@pytest.mark.parametrize("on_disk", [False, True])
def test_selections_and_shuffles_are_honoured(on_disk, tmp_path):
    dataset = saved(tmp_path / "digits", digits()) if on_disk else digits()
    shuffled = dataset.shuffle(seed=3)
    for chosen in (
        dataset.select(range(20, 60)),
        dataset.select([5, 3, 200, 5]),
        shuffled,
        shuffled.select(range(10)),
        dataset.filter(lambda row: row["label"] == 7),
        datasets.concatenate_datasets([dataset.select(range(5)), dataset.select(range(100, 107))]),
    ):
        rows = hugging_face(chosen)
        check_digits(rows, [int(name.split()[1]) for name in chosen["name"]])
        copy = pickle.loads(pickle.dumps(rows.training.items))
        assert copy[2]["label"] == rows.training.items[2]["label"]


def test_columns_renamed_removed_and_cast_are_those_of_the_dataset(tmp_path):
    dataset = saved(tmp_path / "digits", digits(50))
    changed = (
        dataset.rename_column("label", "target").remove_columns("ink").cast_column("target", datasets.Value("int8"))
    )
    rows = hugging_face(changed)
    assert set(rows.training.loader_layouts) == {"pixels", "flat", "target"}
    assert rows.training.loader_layouts["target"].numpy_dtype == np.int8
    copy = pickle.loads(pickle.dumps(rows.training.items))
    assert copy[3]["target"] == 3
    shown = hugging_face(dataset.with_format("numpy", columns=["label"]))
    assert set(shown.training.loader_layouts) == {"label"}


def test_images_are_decoded_to_one_size(tmp_path):
    (tmp_path / "beside.png").write_bytes(picture(1))
    rows = {"image": [{"bytes": picture(0), "path": None}, {"bytes": None, "path": str(tmp_path / "beside.png")}]}
    dataset = datasets.Dataset.from_dict(rows, datasets.Features({"image": datasets.Image()}))
    for made in (dataset, saved(tmp_path / "saved", dataset)):
        group = hugging_face(made, size=(8, 8), batch_size=2).training
        images = np.array([item["image"] for item in group.items])
        assert images.shape == (2, 8, 8, 3)
        for number in (0, 1):
            whole = PIL.Image.open(io.BytesIO(picture(number))).convert("RGB").crop((4, 0, 28, 24))
            assert np.abs(images[number].astype(int) - np.asarray(whole.resize((8, 8)))).mean() < 30
        assert images[0].std() > 20


def test_a_damaged_image_is_an_error_of_its_row():
    rows = {"image": [{"bytes": picture(number)[: 80 if number == 2 else None], "path": None} for number in range(4)]}
    dataset = datasets.Dataset.from_dict(rows, datasets.Features({"image": datasets.Image()}))
    group = hugging_face(dataset, size=8, batch_size=1).training.replace(shuffle_first=False)
    with Dataloader(group, loader_kind="inline", end_at=("epoch", 1)) as loader:
        assert [next(loader).size for _ in range(2)] == [1, 1]
        with pytest.raises(LoaderError, match="row 2: 'image': the image cannot be read"):
            next(loader)


@pytest.mark.parametrize("on_disk", [False, True])
def test_sequences_are_padded_to_the_greatest_or_cut(on_disk, tmp_path):
    tokens = [list(text.encode()[: 3 + number % 5]) for number, text in enumerate(TOPICS)]
    dataset = datasets.Dataset.from_dict({"tokens": tokens, "text": TOPICS})
    dataset = saved(tmp_path / "topics", dataset) if on_disk else dataset
    for columns, most in ((None, 7), ({"tokens": ((5,), "int32")}, 5)):
        rows = hugging_face(dataset, columns, additional=["text"])
        for number, item in enumerate(rows.training.items):
            kept = tokens[number][:most]
            assert item["tokens"].tolist() == kept + [0] * (most - len(kept))
            assert item["tokens_length"] == len(kept)
            assert item["text"] == TOPICS[number]


def test_a_dataset_dict_wants_its_split_named(tmp_path):
    both = datasets.DatasetDict({"train": digits(40), "test": digits(20)})
    both.save_to_disk(tmp_path / "both")
    for dataset in (both, tmp_path / "both"):
        with pytest.raises(ValueError, match="split: the dataset has several; name one of 'train', 'test'"):
            hugging_face(dataset)
        with pytest.raises(ValueError, match="split: expected one of 'train', 'test', got 'valid'"):
            hugging_face(dataset, split="valid")
        check_digits(hugging_face(dataset, split="test"), list(range(20)))


def test_what_the_table_does_not_know_is_refused():
    with pytest.raises(TypeError, match=r"transforms its items.*torch_dataset\(dataset\)"):
        hugging_face(digits(10).with_transform(lambda rows: rows))
    with pytest.raises(TypeError, match="an IterableDataset has no n-th row"):
        hugging_face(digits(10).to_iterable_dataset())
    with pytest.raises(ValueError, match="it is empty"):
        hugging_face(digits(10).select([]))
    with pytest.raises(ValueError, match="'name' cannot become an array: its type is string"):
        hugging_face(digits(10), ["name"])


def test_damaged_files_are_refused_by_name(tmp_path):
    digits(100).save_to_disk(tmp_path / "digits")
    group = hugging_face(tmp_path / "digits").training
    packed = pickle.dumps(group.items)
    file = next((tmp_path / "digits").glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ValueError, match=file.name):
        pickle.loads(packed)[0]


def test_two_splits_stand_in_one_loader_and_a_cache_of_another_is_refused(tmp_path):
    dataset = saved(tmp_path / "digits", digits(100))
    training, validation = (
        hugging_face(dataset.select(numbers), ["label"], batch_size=20).training
        for numbers in (range(80), range(80, 100))
    )
    with Dataloader(training, validation=("epoch", 1, validation), end_at=("epoch", 1)) as loader:
        for batch in loader:
            first = 80 if batch.is_validation else 0
            assert batch.arrays["label"].tolist() == DIGITS["label"][first:][list(batch.indices)].tolist()
    for group, from_cache in ((training, False), (training, True)):
        with Dataloader(group.replace(cache_location=tmp_path / "cache"), loader_kind="inline") as loader:
            assert next(loader).from_cache is from_cache
    other = hugging_face(dataset.shuffle(seed=1).select(range(80)), ["label"], batch_size=20).training
    with (
        pytest.raises(CacheMismatchError, match=r"settings\.data"),
        Dataloader(other.replace(cache_location=tmp_path / "cache"), loader_kind="inline") as loader,
    ):
        next(loader)


def test_without_datasets_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'hydrax-toolkit\[hf\]'"):
        hugging_face("folder")


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_lists_of_lists_of_one_shape_are_matrices(tmp_path, place):
    rows = {"image": DIGITS["image"][:300].tolist(), "cube": DIGITS["image"][:300].reshape(-1, 4, 2, 8).tolist()}
    dataset = datasets.Dataset.from_dict(rows)
    if place == "disk":
        dataset = saved(tmp_path / "a", dataset)
    group = hugging_face(dataset.shuffle(seed=1)).training
    shapes = {name: layout.shape[1:] for name, layout in group.loader_layouts.items()}
    assert shapes == {"image": (8, 8), "cube": (4, 2, 8)}
    order = dataset.shuffle(seed=1)._indices.column(0).to_pylist()
    for index in (0, 7, 299):
        np.testing.assert_array_equal(group.items[index]["image"], DIGITS["image"][order[index]])
        np.testing.assert_array_equal(group.items[index]["cube"].ravel(), DIGITS["image"][order[index]].ravel())
    assert check_loader(None, group) == []


def test_lists_of_lists_of_several_shapes_are_no_matrices():
    for odd in ([[1, 2, 3]], [[1], [2, 3]], None):
        dataset = datasets.Dataset.from_dict({"x": [[[1, 2]], odd], "y": [1, 2]})
        assert hugging_face(dataset).left_out["x"] == "lists of lists that differ in their lengths"
        with pytest.raises(ValueError, match="'x': lists of lists that differ in their lengths"):
            hugging_face(dataset, {"x": ((1, 2), "int32")}).training.items[0]
