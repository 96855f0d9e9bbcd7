"""A dataset of TFDS in the folder ``tfds``: the digits (UCI, CC BY 4.0)."""

import warnings

import numpy as np

with warnings.catch_warnings(action="ignore"):
    import tensorflow_datasets as tfds

from hydrax_core.sources.digits import _data


class Digits(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        image = tfds.features.Tensor(shape=(8, 8), dtype=np.uint8)
        features = {"image": image, "label": tfds.features.ClassLabel(num_classes=10)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):  # noqa: ARG002  the name that the library gives
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number, (image, label) in enumerate(zip(_data()["image"][:200], _data()["label"].tolist(), strict=False)):
            yield number, {"image": image, "label": label}


Digits(data_dir="tfds", file_format="array_record").download_and_prepare()
