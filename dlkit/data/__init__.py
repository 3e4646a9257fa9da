"""Data sets: read from what the user names, typed by our own rules, split, and encoded by a fitted schema."""

from dlkit.data.dataset import Column, Dataset, Role
from dlkit.data.leak import tell_tales
from dlkit.data.load import load
from dlkit.data.schema import Schema, fit_schema
from dlkit.data.split import split_indices

__all__ = ["Column", "Dataset", "Role", "Schema", "fit_schema", "load", "split_indices", "tell_tales"]
