"""The data set, its split, its batches and its pictures.

Rule: a dataset class is found here by the name that a configuration gives in `dataset.name`.
"""

from vathos.data_loader.dense_depth import DenseDepth

__all__ = ["DenseDepth"]
