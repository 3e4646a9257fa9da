"""Folders of photographs."""

import io
import os
import zlib

import numpy as np
import pytest
from PIL import Image

from dlkit.core.reading import Reading
from dlkit.data import hold_out, load


def png(image: Image.Image, form: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def plain(colour: object = (200, 100, 50), size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour)


@pytest.fixture
def folder(tmp_path):
    """folder({'cats/1.png': bytes, …}) makes a folder and returns its path."""

    def make(files: dict[str, bytes], name: str = "pets") -> str:
        root = tmp_path / name
        root.mkdir()
        for path, data in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        return str(root)

    return make


def four(data: bytes, suffix: str = ".png", first: bytes | None = None) -> dict[str, bytes]:
    files = {f"{name}/{i}{suffix}": data for name in ("b", "a") for i in (1, 2)}
    return files | ({f"a/1{suffix}": first} if first is not None else {})


def first_pixels(folder, image: bytes, suffix: str = ".png", size: int = 8) -> np.ndarray:
    """size×size×3 of a folder's first image."""
    return load(folder(four(image, suffix)), Reading(image_size=size)).arrays[0].transpose(1, 2, 0)


def test_classes_are_the_folders_names_in_order(folder):
    files = four(png(plain())) | {"a/notes.txt": b"x", ".git/x.png": b"x", "a/.hidden.png": b"x", "README": b"x"}
    dataset = load(folder(files), Reading(image_size=16))
    assert dataset.classes == ("a", "b") and dataset.labels.tolist() == [0, 0, 1, 1]
    assert dataset.arrays.shape == (4, 3, 16, 16) and dataset.arrays.dtype == np.uint8
    assert dataset.arrays[0, :, 5, 5].tolist() == [200, 100, 50]
    assert dataset.name == "pets" and dataset.where(0).endswith("a/1.png") and dataset.fixed_split is None


@pytest.mark.parametrize("side", ["valid", "val", "test"])
def test_a_folder_may_say_how_it_is_split(folder, side):
    files = {f"{part}/{path}": data for part in ("train", side) for path, data in four(png(plain())).items()}
    dataset = load(folder(files | {f"{side}/a/3.png": png(plain())}))
    split = hold_out(dataset, valid=0.5, seed=3)
    train, valid = split.train, split.valid
    assert train.tolist() == [0, 1, 2, 3] and valid.tolist() == [4, 5, 6, 7, 8]
    assert dataset.labels.tolist() == [0, 0, 1, 1, 0, 0, 0, 1, 1]


def test_both_valid_and_test(folder):
    parts = ("train", "valid", "test")
    dataset = load(folder({f"{part}/{path}": d for part in parts for path, d in four(png(plain())).items()}))
    assert dataset.rows == 8 and any("test is not read" in note for note in dataset.notes)


def test_the_centre_is_cut_out_and_the_shorter_side_fitted(folder):
    image = plain((0, 0, 0), (60, 20))
    image.paste((255, 255, 255), (20, 0, 40, 20))
    pixels = first_pixels(folder, png(image))
    assert pixels.shape == (8, 8, 3) and pixels[:, 1:-1].min() == 255  # the filter sees the neighbours of the cut


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (plain((200, 100, 50, 0), mode="RGBA"), 255),
        (plain((0, 0, 0, 128), mode="RGBA"), 127),
        (plain((0, 128), mode="LA"), 127),
        (plain(77, mode="L"), 77),
        (plain(1, mode="1"), 255),
        (Image.fromarray(np.full((30, 40), 51400, np.uint16)), 200),
        (Image.fromarray(np.full((30, 40), 200, np.uint16)), 1),
    ],
)
def test_modes_become_rgb(folder, image, expected):
    pixels = first_pixels(folder, png(image))
    assert pixels.min() == pixels.max() == expected


def test_palettes(folder):
    image = plain(0, mode="P")
    image.putpalette([10, 20, 30] + [0] * 765)
    assert first_pixels(folder, png(image))[4, 4].tolist() == [10, 20, 30]


def test_transparent_palette_entries_are_white(folder):
    image = plain(0, mode="P")
    image.putpalette([10, 20, 30] + [0] * 765)
    assert first_pixels(folder, png(image, transparency=0)).min() == 255


def test_exif_rotation(folder):
    image = plain((0, 0, 0), (40, 40))
    image.paste((255, 255, 255), (0, 0, 40, 20))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pixels = first_pixels(folder, png(image, "JPEG", exif=exif, quality=100), ".jpg")
    assert pixels[0].max() < 20 and pixels[-1].min() > 235


def test_large_photographs_are_decoded_small_and_look_the_same(folder):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8)).resize((1600, 1200), Image.Resampling.BICUBIC)
    found = first_pixels(folder, png(smooth, "JPEG", quality=95), ".jpg", 64).astype(int)
    exact = np.asarray(smooth.resize((64, 64), Image.Resampling.BILINEAR, box=(200, 0, 1400, 1200))).astype(int)
    assert np.abs(found - exact).max() <= 12 and np.abs(found - exact).mean() < 2


def test_bad_images_are_named(folder, refused):
    good, photo = png(plain()), png(plain(size=(300, 300)), "JPEG")
    header = bytearray(good)
    header[16:24] = (20_000).to_bytes(4, "big") * 2  # 400 megapixels, which Pillow refuses by itself
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    cases = {
        "cut": (photo[:-500], ".jpg"),
        "text": (b"no image", ".jpg"),
        "empty": (b"", ".jpg"),
        "huge": (header, ".png"),
    }
    for name, (data, suffix) in cases.items():
        error = refused(folder(four(photo if suffix == ".jpg" else good, suffix, bytes(data)), name))
        assert error.code == 65 and f"a/1{suffix}" in error.message, name


def test_the_pixel_cap_is_read_from_the_header(folder, refused):
    header = bytearray(png(plain()))
    header[16:24] = (10_500).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    assert "100,000,000" in refused(folder(four(png(plain()), first=bytes(header)))).message


def test_bad_folders(folder, refused, tmp_path):
    image = png(plain())
    cases = [
        ({}, "no images"),
        ({"a/x.txt": b"x"}, "no images"),
        ({"1.png": image}, "no class folder"),
        ({"a/1.png": image, "a/2.png": image}, "nothing to learn"),
        ({"train/a/1.png": image, "valid/b/1.png": image}, "class 'b'"),
        ({"train/a/1.png": image, "valid/x": b""}, "no images"),
    ]
    for i, (files, said) in enumerate(cases):
        error = refused(folder(files, str(i)))
        assert error.code == 65 and said in error.message
    assert any("empty" in note for note in load(folder(four(image) | {"empty/x": b""}, "e")).notes)


def test_options_of_tables_do_not_apply(folder, refused):
    path = folder(four(png(plain())))
    for options in ({"target": "x"}, {"numeric": ["x"]}, {"na": ["?"]}, {"delimiter": ";"}, {"image_size": 0}):
        assert refused(path, **options).code == 2


def test_the_fingerprint_follows_names_and_contents(folder):
    image, other = png(plain()), png(plain((1, 2, 3)))
    prints = [
        load(folder(files, str(i))).fingerprint
        for i, files in enumerate(
            [four(image), four(image), four(image, first=other), four(image) | {"a/3.png": image}]
        )
    ]
    assert prints[0] == prints[1] and len(set(prints)) == 3


def test_hymenoptera(shared):
    dataset = load(str(shared("hymenoptera")), Reading(image_size=32))
    assert dataset.classes == ("ants", "bees") and dataset.arrays.shape == (398, 3, 32, 32)
    assert dataset.fixed_split.sum() == 153 and 100 < dataset.arrays.mean() < 160


def test_a_folder_that_cannot_be_opened_is_an_error(folder, refused, monkeypatch):
    path = folder(four(png(plain())))
    scan = os.scandir

    def closed(place):
        if str(place).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr("os.scandir", closed)
    error = refused(path)
    assert error.code == 66 and "/b: permission denied" in error.message
