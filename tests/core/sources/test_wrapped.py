"""Objects of other libraries, and one's own, as sources; torch and grain where they are installed."""

import dataclasses
import pydoc_data.topics
from typing import NamedTuple

import numpy as np
import pytest

from hydrax_core import DataGroup, Dataloader, batched
from hydrax_core.errors import CacheMismatchError, LoaderError
from hydrax_core.sources import grain_source, tfds_source, torch_dataset, uci_digits, wrap
from hydrax_core.sources.digits import _data
from hydrax_core.testing import check_loader, check_source

DIGITS = _data()  # UCI, CC BY 4.0
TOPICS = sorted(pydoc_data.topics.topics.items())  # Python's documentation, PSF licence


class Digits:
    """A map-style dataset as people write it."""

    def __init__(self, count=200, version="1"):
        self.count, self._fingerprint, self.calls = count, version, 0

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError
        return DIGITS["image"][index], int(DIGITS["label"][index])


class Many(Digits):
    def __getitems__(self, indices):
        self.calls += 1
        return [self[index] for index in indices]


def epoch(loader):
    """The real rows of one epoch, in the order of the data."""
    batches = list(loader)
    rows = {name: np.concatenate([np.asarray(b.arrays[name])[: b.size] for b in batches]) for name in batches[0].arrays}
    order = np.argsort(np.concatenate([batch.indices for batch in batches]))
    return {name: values[order] for name, values in rows.items()}


@pytest.mark.parametrize("data", [Digits(), Many(), [1, "a", None], np.arange(12).reshape(4, 3), TOPICS])
def test_anything_with_items_by_index_is_a_source(data):
    assert check_source(wrap(data)) == []
    source = wrap(data)
    assert wrap(source) is source
    with pytest.raises(IndexError):
        source[len(data)]


def test_many_items_are_asked_for_at_once():
    data = Many()
    assert len(wrap(data).__getitems__([5, 3, 5])) == 3
    assert data.calls == 1


@pytest.mark.parametrize("data", ["text", 3, {"a": 1}, (item for item in "ab")])
def test_what_has_no_nth_item_is_refused(data):
    with pytest.raises(TypeError, match=r"wrap: expected an object with __len__ and integer indices"):
        wrap(data)


def test_a_source_is_named_by_its_object_or_by_its_values():
    assert wrap(Digits(version="7")).fingerprint() == "7"
    assert wrap([1, 2]).fingerprint() == wrap([1, 2]).fingerprint() != wrap([1, 3]).fingerprint()
    assert wrap(range(3)).fingerprint() is None


def test_a_wrapped_source_goes_to_a_loader_of_ones_own():
    @batched
    def load(items, arrays, seeds):
        arrays["length"][...] = [len(text) for _, text in items]

    group = DataGroup(8, wrap(TOPICS), loader_func=load, loader_arrays={"length": ((), "int32")}, remainder="pad")
    with Dataloader(group, loader_count=2, end_at=("epoch", 1)) as loader:
        assert epoch(loader)["length"].tolist() == [len(text) for _, text in TOPICS]


@pytest.mark.parametrize("kind", ["process", "inline"])
def test_tuples_become_arrays_by_an_example(kind):
    rows = torch_dataset(Digits(), names=("image", "label"), labels=["label"], batch_size=64)
    assert check_loader(None, rows.training) == []
    with Dataloader(rows.training, loader_kind=kind, end_at=("epoch", 1)) as loader:
        found = epoch(loader)
    np.testing.assert_array_equal(found["image"], DIGITS["image"][:200])
    np.testing.assert_array_equal(found["label"], DIGITS["label"][:200])
    assert found["label"].dtype == np.int32
    assert rows.training.labels == ("label",)


class Named(NamedTuple):
    x: float
    text: str


@dataclasses.dataclass
class Kept:
    x: list[int]
    inner: dict[str, float]


@pytest.mark.parametrize(
    ("item", "shapes"),
    [
        ({"a": np.zeros((2, 3), np.float32), "b": {"c": 1}}, {"a": (2, 3), "b/c": ()}),
        (Named(1.5, "x"), {"x": ()}),
        (Kept([1, 2], {"y": 0.5}), {"x": (2,), "inner/y": ()}),
        ((1, (2, "b")), {"0": (), "1/0": ()}),
        ([np.zeros(2), "text"], {"0": (2,)}),
        (np.float64(3), {"data": ()}),
    ],
)
def test_the_values_of_an_item_are_found_by_name(item, shapes):
    group = torch_dataset([item] * 3, batch_size=1).training
    assert {name: layout.shape[1:] for name, layout in group.loader_layouts.items()} == shapes
    assert check_loader(None, group) == []


def test_what_becomes_an_array_and_of_which_dtype_is_the_users_choice():
    items = [{"x": number, "text": f"item {number}", "none": None} for number in range(5)]
    rows = torch_dataset(items, {"x": ((), "int8", "float32")}, additional=["text"], batch_size=2)
    assert dict(rows.left_out) == {"none": "a NoneType is no array of numbers"}
    with Dataloader(rows.training, loader_kind="inline", end_at=("epoch", 1)) as loader:
        for batch in loader:
            assert batch.arrays["x"].dtype == np.float32
            assert batch.additional["text"][: batch.size] == [f"item {index}" for index in batch.indices]
    with pytest.raises(ValueError, match="nothing can become an array"):
        torch_dataset(["a", "b"])
    with pytest.raises(ValueError, match="names: expected 2 names"):
        torch_dataset([(1, 2)], names=("x",))
    with pytest.raises(ValueError, match="names: two parts of an item are called alike, one of 'x'"):
        torch_dataset([(1, 2)], names=("x", "x"))
    with pytest.raises(ValueError, match="names: two parts of an item are called alike, one of 'x/y'"):
        torch_dataset([{"x": {"y": 1}, "x/y": 2}])
    with pytest.raises(ValueError, match="it is empty"):
        torch_dataset([])


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"x": np.zeros(3)}, r"item 2: 'x': expected the shape \(2,\), got \(3,\)"),
        ({"y": 1}, r"item 2: no array 'x'; it holds 'y': 1"),
        ({"x": "text"}, r"item 2: no array 'x'"),
        ({"x": np.array([2**40, 0])}, "item 2: 'x': 1099511627776 does not fit into int32"),
    ],
)
def test_an_item_unlike_the_example_is_an_error_of_that_item(bad, text):
    items = [{"x": np.array([number, 0])} for number in range(4)]
    items[2] = bad
    group = torch_dataset(items, batch_size=1).training.replace(shuffle_first=False)
    with Dataloader(group, loader_kind="inline", end_at=("epoch", 1)) as loader:
        assert [next(loader).arrays["x"].tolist() for _ in range(2)] == [[[0, 0]], [[1, 0]]]
        with pytest.raises(LoaderError, match=text):
            next(loader)


def test_two_datasets_stand_in_one_loader():
    first = torch_dataset(Digits(), names=("image", "label"), batch_size=50).training
    second = torch_dataset([{"image": 7, "label": 8}] * 50, batch_size=50).training
    with Dataloader([first, second], validation=("epoch", 1, first), end_at=("epoch", 1)) as loader:
        for batch in loader:
            assert (batch.arrays["image"].ndim == 1) is (batch.is_training and batch.group_index == 1)


def test_a_cache_of_another_dataset_is_refused(tmp_path):
    def first_batch(version):
        group = torch_dataset(Digits(version=version), batch_size=50).training.replace(cache_location=tmp_path)
        with Dataloader(group, loader_kind="inline", end_at=("epoch", 1)) as loader:
            return next(loader).from_cache

    assert [first_batch("1"), first_batch("1")] == [False, True]
    with pytest.raises(CacheMismatchError, match=r"settings\.data"):
        first_batch("2")


def test_without_tensorflow_datasets_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'hydrax-toolkit\[tfds\]'"):
        tfds_source("mnist", "train")


def test_datasets_of_torch():
    torch = pytest.importorskip("torch")
    image, label = torch.tensor(DIGITS["image"]), torch.tensor(DIGITS["label"].astype(np.int64))
    dataset = torch.utils.data.TensorDataset(image.float().requires_grad_(), label)
    rows = torch_dataset(torch.utils.data.Subset(dataset, range(100)), names=("image", "label"), batch_size=32)
    assert check_source(rows.training.items) == []
    with Dataloader(rows.training, loader_count=2, end_at=("epoch", 1)) as loader:
        found = epoch(loader)
    np.testing.assert_array_equal(found["image"], DIGITS["image"][:100])
    assert found["label"].dtype == np.int32


def test_sources_of_grain():
    grain = pytest.importorskip("grain.python")
    digits = grain.MapDataset.source(np.arange(100)).map(lambda n: {"image": DIGITS["image"][n], "n": n})
    rows = grain_source(digits, batch_size=32)
    with Dataloader(rows.training, loader_count=2, end_at=("epoch", 1)) as loader:
        found = epoch(loader)
    np.testing.assert_array_equal(found["image"], DIGITS["image"][found["n"]])
    assert found["n"].tolist() == list(range(100))


@pytest.mark.filterwarnings("ignore")
def test_a_dataset_of_tensorflow_datasets(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")

    class SomeDigits(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image = tfds.features.Tensor(shape=(8, 8), dtype=np.uint8)
            features = {"image": image, "label": tfds.features.ClassLabel(num_classes=10)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):  # noqa: ARG002  the name that the library gives
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number in range(100):
                yield number, {"image": DIGITS["image"][number], "label": int(DIGITS["label"][number])}

    SomeDigits(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    items = tfds_source("some_digits", "train", data_dir=str(tmp_path), batch_size=10).training.items
    found = sorted((int(item["label"]), item["image"].tobytes()) for item in items)
    assert found == sorted((int(DIGITS["label"][n]), DIGITS["image"][n].tobytes()) for n in range(100))


def test_the_digits_are_the_real_ones():
    assert len(uci_digits().training) + len(uci_digits().validation) == len(DIGITS["label"])
