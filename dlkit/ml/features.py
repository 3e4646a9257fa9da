"""Preprocessing that is fitted inside each fold, and again on all rows for the model that is kept.

Each family of models eats what suits it: standardised numbers and one-hot categories, plain numbers, native
categories, or numbers and categories apart (S068, S070).
"""

from typing import Any

import numpy as np
import scipy.sparse as sp
import sklearn
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler, TargetEncoder

from dlkit.ml.block import Block, Layout

# More pixels than this become principal components: 28×28 stays, 64×64×3 does not.
MOST_PIXELS, COMPONENTS = 1024, 128
# Words and pairs of words that are kept; trees and neighbours see them through this many latent dimensions.
WORDS, TOPICS = 20_000, 64


class Features(BaseEstimator):
    """A block -> the matrix that a model is fitted on; learns from the rows given to `fit_transform` alone.

    view    scaled  numbers imputed (median), flagged where missing, standardised; categories one-hot; text as tf-idf
            plain   the same, not standardised; text as latent dimensions
            dense   as scaled, text as latent dimensions
            native  numbers with NaN, categories as codes that the model knows for such; text as latent dimensions
            apart   numbers imputed, then category codes, then tf-idf: naive Bayes treats each in its own way
    target  binary, multiclass or continuous: what categories of many values are encoded by, cross-fitted
    flags   whether a column of numbers with gaps gets one that says where they are

    Categories of many values are target-encoded, except for `apart`. `parts_` is how many columns are numbers,
    categories and words; `categorical_` says which columns of `native` are categories.
    """

    def __init__(self, view: str, layout: Layout, target: str, seed: int = 0, flags: bool = True) -> None:
        self.view, self.layout, self.target, self.seed, self.flags = view, layout, target, seed, flags

    def fit_transform(self, block: Block, y: np.ndarray) -> Any:
        if self.layout.image:
            return self._fit_pixels(block.numbers)
        numbers, words = self._fit_numbers(block.numbers, y), self._fit_texts(block)
        self.parts_ = (*self._widths, 0 if words is None else words.shape[1])
        return _join(numbers, words)

    def transform(self, block: Block) -> Any:
        if self.layout.image:
            return self._pixels(block.numbers)
        return _join(self._numbers(block.numbers), self._texts(block))

    # --- tables ------------------------------------------------------------------------------------------------------

    def _fit_numbers(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        layout, apart = self.layout, self.view == "apart"
        high = () if apart else layout.high
        codes = layout.low + layout.high if apart else layout.low
        self.imputer_ = self.scaler_ = self.categories_ = self.means_ = None
        numeric = x[:, list(layout.numeric)]
        if self.view == "native":
            self.empty_ = np.isnan(numeric).all(0)  # nothing to make bins of
            numeric[:, self.empty_] = 0
        elif layout.numeric:
            self.imputer_ = SimpleImputer(strategy="median", add_indicator=self.flags, keep_empty_features=True)
            numeric = self.imputer_.fit_transform(numeric)
        if high:
            # Each row's encoding comes from the other rows: its own target does not leak into it.
            self.means_ = _means(self.target, self.seed)
            numeric = np.hstack([numeric, self.means_.fit_transform(x[:, list(high)], y)])
        if self.view in ("scaled", "dense") and numeric.shape[1]:
            self.scaler_ = StandardScaler()
            numeric = self.scaler_.fit_transform(numeric)
        categorical = np.zeros((len(x), 0))
        if codes:
            self.categories_ = self._encoder()
            categorical = self.categories_.fit_transform(x[:, list(codes)])
        return self._order(numeric, categorical)

    def _encoder(self) -> OneHotEncoder | OrdinalEncoder:
        if self.view not in ("native", "apart"):
            return OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        # For boosting what is missing or unknown is missing; naive Bayes counts it as a category of its own.
        unknown = {"unknown_value": np.nan} if self.view == "native" else {"unknown_value": -1}
        missing = np.nan if self.view == "native" else -1
        return OrdinalEncoder(handle_unknown="use_encoded_value", encoded_missing_value=missing, **unknown)

    def _numbers(self, x: np.ndarray) -> np.ndarray:
        layout, apart = self.layout, self.view == "apart"
        numeric = x[:, list(layout.numeric)]
        if self.view == "native":
            numeric[:, self.empty_] = 0
        elif self.imputer_ is not None:
            numeric = self.imputer_.transform(numeric)
        if self.means_ is not None:
            numeric = np.hstack([numeric, self.means_.transform(x[:, list(layout.high)])])
        if self.scaler_ is not None:
            numeric = self.scaler_.transform(numeric)
        categorical = np.zeros((len(x), 0))
        if self.categories_ is not None:
            categorical = self.categories_.transform(x[:, list(layout.low + layout.high if apart else layout.low)])
        return self._order(numeric, categorical)

    def _order(self, numeric: np.ndarray, categorical: np.ndarray) -> np.ndarray:
        """Numbers first; categories first where boosting reads them, as it would order them itself."""
        if self.view == "native":
            self.categorical_ = list(range(categorical.shape[1]))
            numeric, categorical = categorical, numeric
        elif self.view == "apart":
            categorical = categorical + 1  # 0 is missing or unknown
        self._widths = (numeric.shape[1], categorical.shape[1])
        return np.hstack([numeric, categorical])

    # --- text --------------------------------------------------------------------------------------------------------

    def _fit_texts(self, block: Block) -> Any:
        self.words_, self.topics_ = [], None
        if not self.layout.texts:
            return None
        for column in block.texts:
            self.words_.append(_vectorizer(column))
        words = self._words(block)
        if words is None or self.view in ("scaled", "apart"):
            return words
        if words.shape[1] <= TOPICS:
            return words.toarray()
        self.topics_ = TruncatedSVD(TOPICS, random_state=self.seed)
        return self.topics_.fit_transform(words)

    def _texts(self, block: Block) -> Any:
        words = self._words(block)
        if words is None or self.view in ("scaled", "apart"):
            return words
        return words.toarray() if self.topics_ is None else self.topics_.transform(words)

    def _words(self, block: Block) -> Any:
        known = [(v, column) for v, column in zip(self.words_, block.texts, strict=True) if v is not None]
        return sp.hstack([v.transform(column) for v, column in known], format="csr") if known else None

    # --- images ------------------------------------------------------------------------------------------------------

    def _fit_pixels(self, x: np.ndarray) -> np.ndarray:
        """Pixels over the largest one, or principal components of those where there are many."""
        self.largest_ = float(np.abs(x).max()) or 1.0
        self.components_ = None
        scaled = self._scaled(x)
        self.parts_ = (scaled.shape[1], 0, 0)
        self.categorical_ = []
        if x.shape[1] > MOST_PIXELS:
            count = min(COMPONENTS, len(x) - 1, x.shape[1])
            self.components_ = PCA(max(count, 1), svd_solver="randomized", random_state=self.seed)
            scaled = self.components_.fit_transform(scaled)
            self.parts_ = (scaled.shape[1], 0, 0)
        return scaled

    def _pixels(self, x: np.ndarray) -> np.ndarray:
        scaled = self._scaled(x)
        return scaled if self.components_ is None else self.components_.transform(scaled)

    def _scaled(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x, np.float32) / np.float32(self.largest_)


def _means(target: str, seed: int) -> TargetEncoder:
    """Cross-fitted over five shuffled folds. From 1.9 on scikit-learn wants the folds, before that it drew them."""
    if tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 9):
        return TargetEncoder(target_type=target, random_state=seed)
    folds = KFold if target == "continuous" else StratifiedKFold
    return TargetEncoder(target_type=target, cv=folds(5, shuffle=True, random_state=seed))


def _vectorizer(column: list[str]) -> TfidfVectorizer | None:
    """Words and pairs of them, sublinear counts; None where a column has no word on this side."""
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), max_features=WORDS, sublinear_tf=True, dtype=np.float32)
    try:
        return vectorizer.fit(column)
    except ValueError:  # "empty vocabulary": nothing but stop signs
        return None


def _join(numbers: np.ndarray, words: Any) -> Any:
    if words is None:
        return numbers
    if sp.issparse(words):
        return sp.hstack([sp.csr_array(numbers.astype(np.float32)), words], format="csr")
    return np.hstack([numbers, words])
