"""Real images: data sets, the places of their files, and the layouts they come in."""

from hetpure_lab.data.images import DATASETS, DataError, DataSet, Images, NoData, Shipped, joined
from hetpure_lab.data.sources import (
    embedded_sample,
    load,
    load_or_sample,
    photograph,
    read_parquet,
    shipped,
    stand_in_digits,
    unseen,
)

__all__ = [
    "DATASETS",
    "DataError",
    "DataSet",
    "Images",
    "NoData",
    "Shipped",
    "embedded_sample",
    "joined",
    "load",
    "load_or_sample",
    "photograph",
    "read_parquet",
    "shipped",
    "stand_in_digits",
    "unseen",
]
