"""Built-in data, each as a loader function and the groups to give to a ``Dataloader``.

``uci_digits()`` ships with hydrax, ``image_folder()`` reads pictures, ``numpy_rows()`` reads .npy and .npz files.
"""

from hydrax_core.sources.digits import Digits, uci_digits
from hydrax_core.sources.images import ImageFolder, image_folder
from hydrax_core.sources.numpy_files import NumpyRows, numpy_rows

__all__ = ["Digits", "ImageFolder", "NumpyRows", "image_folder", "numpy_rows", "uci_digits"]
