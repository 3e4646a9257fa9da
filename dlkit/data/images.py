"""A folder of class folders of photographs, decoded to N×3×S×S bytes."""

import hashlib
import io
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import polars as pl
from PIL import Image, ImageOps

from dlkit.core.errors import DlkitError, ExitCode, bad_data
from dlkit.core.io import missing
from dlkit.core.reading import Reading
from dlkit.data.dataset import Place
from dlkit.data.source import IMAGE_SUFFIXES, short_name
from dlkit.data.table import Table

MOST_PIXELS = 100_000_000
VALID_NAMES = ("valid", "val", "validation", "test")
SIXTEEN_BITS = ("I", "I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True)
class Picture:
    """An image file, the name of its class (None: it lies in no class folder), and whether it is for validation."""

    path: Path
    label: str | None
    is_valid: bool


def read_folder(source: str, reading: Reading, labelled: bool) -> Table:
    """Class folders, or train/ and valid|val|test/ with class folders. Classes are the folders' sorted names.

    A folder with images and no class folders is read too, unless it must be `labelled`.
    """
    root = Path(source)
    try:
        pictures, notes, is_split = find_pictures(root, labelled)
    except OSError as failure:
        raise missing(str(failure.filename or source), failure) from None
    arrays, fingerprint = decode_all(root, pictures, reading.image_size)
    labels = [] if pictures[0].label is None else [pl.Series("class", [picture.label for picture in pictures])]
    fixed = np.array([picture.is_valid for picture in pictures]) if is_split else None
    place = Files(source, files=tuple(str(picture.path) for picture in pictures))
    return Table(short_name(source), place, pl.DataFrame(labels), fingerprint, False, arrays, fixed, tuple(notes))


@dataclass(frozen=True, eq=False)
class Files(Place):
    """Rows that are files of their own."""

    files: tuple[str, ...] = ()

    def where(self, row: int) -> str:
        return self.files[row]

    def take(self, indices: np.ndarray) -> "Files":
        return replace(self, files=tuple(self.files[int(i)] for i in indices))


def find_pictures(root: Path, labelled: bool = True) -> tuple[list[Picture], list[str], bool]:
    """(pictures in order, notes, whether the folder itself says which are for validation)."""
    folders = {folder.name.lower(): folder for folder in _folders(root)}
    valid = next((folders[name] for name in VALID_NAMES if name in folders), None)
    if "train" not in folders or valid is None:
        pictures, notes = _classes(root, False)
        loose = [] if pictures or labelled else sorted(path for path in root.iterdir() if _is_picture(path))
        pictures += [Picture(path, None, False) for path in loose]
        _check_found(root, pictures)
        return pictures, notes, False
    pictures, notes = _classes(folders["train"], False)
    _check_found(folders["train"], pictures)
    held_out, more = _classes(valid, True)
    _check_found(valid, held_out)
    unknown = {picture.label for picture in held_out} - {picture.label for picture in pictures}
    if unknown:
        raise bad_data(f"{valid}: class {min(map(str, unknown))!r} is not in {folders['train']}")
    unread = [name for name in VALID_NAMES if name in folders and folders[name] != valid]
    if unread:
        notes.append(f"{folders[unread[0]]} is not read: {valid.name}/ is the validation side")
    return pictures + held_out, notes + more, True


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _classes(root: Path, is_valid: bool) -> tuple[list[Picture], list[str]]:
    pictures: list[Picture] = []
    notes: list[str] = []
    for folder in _folders(root):
        files = sorted(path for path in _below(folder) if _is_picture(path))
        pictures += [Picture(path, folder.name, is_valid) for path in files]
        if not files:
            notes.append(f"{folder} has no images and is no class")
    return pictures, notes


def _below(folder: Path) -> Iterator[Path]:
    """Every file below a folder. One that cannot be opened is an error: rglob would pass it over in silence."""

    def fail(failure: OSError) -> NoReturn:
        raise failure

    for base, _, names in os.walk(folder, onerror=fail):
        yield from (Path(base, name) for name in names)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _check_found(root: Path, pictures: list[Picture]) -> None:
    if pictures:
        return
    loose = any(_is_picture(path) for path in root.iterdir())
    problem = "its images lie in no class folder" if loose else "no images in it"
    raise bad_data(f"{root}: {problem}", "one folder for each class, with its images: cats/1.jpg dogs/2.jpg")


def decode_all(root: Path, pictures: list[Picture], size: int) -> tuple[np.ndarray, str]:
    """(N×3×size×size uint8, sha256 over names and contents)."""
    arrays = np.empty((len(pictures), 3, size, size), np.uint8)
    digest = hashlib.sha256()

    def work(row: int) -> bytes:
        data = _read(pictures[row].path)
        arrays[row] = decode(pictures[row].path, data, size)
        return hashlib.sha256(data).digest()

    # Pillow warns between one and two times its own limit; ours is checked on every header.
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")
        try:
            for picture, content in zip(pictures, pool.map(work, range(len(pictures))), strict=True):
                digest.update(os.fsencode(picture.path.relative_to(root)) + b"\0" + content)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return arrays, digest.hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as failure:
        raise DlkitError(f"{path}: {(failure.strerror or str(failure)).lower()}", code=ExitCode.NO_INPUT) from None


def whole_pictures(root: Path) -> dict[str, Path]:
    """Every image below a folder, by its path within it; a file is the one image of its own name."""
    if root.is_file():
        return {root.name: root}
    try:
        return {path.relative_to(root).as_posix(): path for path in sorted(_below(root)) if _is_picture(path)}
    except OSError as failure:
        raise missing(str(failure.filename or root), failure) from None


def decode_whole(path: Path) -> np.ndarray:
    """3×H×W uint8, as `decode`, of the size that the file has."""
    return decode(path, _read(path), None)


def decode(path: Path, data: bytes, size: int | None) -> np.ndarray:
    """3×size×size uint8: upright, alpha over white, the shorter side to `size`, the centre cut out.

    A file that is damaged, cut short or has over 100 million pixels is refused by name.
    """
    try:
        with Image.open(io.BytesIO(data), formats=None) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise bad_data(f"{path}: {width}×{height} pixels; {MOST_PIXELS:,} is the most")
            if size is None:
                return np.asarray(_opaque(ImageOps.exif_transpose(image))).transpose(2, 0, 1)
            # A JPEG is decoded at a half, a quarter or an eighth, as long as that is twice what is wanted.
            image.draft(None, (2 * size, 2 * size))
            return _square(_opaque(ImageOps.exif_transpose(image)), size)
    except DlkitError:
        raise
    except Exception as failure:  # noqa: BLE001 - Pillow's decoders raise anything at all on damaged bytes
        problem = str(failure) if isinstance(failure, OSError) and "BytesIO" not in str(failure) else ""
        raise bad_data(f"{path}: not an image that can be decoded" + (f" ({problem})" if problem else "")) from None


def _opaque(image: Image.Image) -> Image.Image:
    """RGB, 8 bits a channel."""
    if image.mode in SIXTEEN_BITS:
        grey = np.asarray(image).astype(np.int64)
        return Image.fromarray(((grey.clip(0, 65535) * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise OSError("floating-point pixels have no known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _square(image: Image.Image, size: int) -> np.ndarray:
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    square = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(square).transpose(2, 0, 1)
