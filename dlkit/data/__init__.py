"""Data sets: read from what the user names, typed by our own rules, split, and encoded by a fitted schema."""

from dlkit.data.corpus import Corpus, is_text, read_text_corpus
from dlkit.data.dataset import Column, Dataset, Role, Rows
from dlkit.data.leak import tell_tales
from dlkit.data.load import load, read
from dlkit.data.schema import Schema, fit_schema
from dlkit.data.split import Split, folds, hold_out

__all__ = [
    "Column",
    "Corpus",
    "Dataset",
    "Role",
    "Rows",
    "Schema",
    "Split",
    "fit_schema",
    "folds",
    "hold_out",
    "is_text",
    "load",
    "read",
    "read_text_corpus",
    "tell_tales",
]
