"""Every file is upright 8-bit RGB or an ImageError with the right code. All files are made here."""

import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from phiscale.errors import ImageError
from phiscale.runtime.image import image_size, printable, read_image, upright_rgb

PHOTO = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def photo(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(PHOTO).convert(mode)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def raw(mode: str, numbers: np.ndarray) -> Image.Image:
    return Image.frombytes(mode, numbers.shape[::-1], numbers.tobytes())


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises width x height grey pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


JPEG, PNG = encode(photo(), "JPEG", quality=90), encode(photo(), "PNG")

UNUSABLE: dict[str, tuple[bytes, str, str]] = {
    "no bytes": (b"", "empty", "no bytes"),
    "one byte": (b"\xff", "not_an_image", "not an image"),
    "text": (b"just some text, named like a picture\n", "not_an_image", "known are JPEG"),
    "web page": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "not_an_image", "web page"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "not_an_image", "git lfs pull"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"></svg>', "not_an_image", "SVG"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200), "not_an_image", "HEIC"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n", "not_an_image", "PostScript"),
    "archive": (b"PK\x03\x04" + bytes(100), "not_an_image", "known are"),
    "JPEG cut in half": (JPEG[: len(JPEG) // 2], "truncated", "decoded"),
    "JPEG without its end": (JPEG[:-2], "truncated", "decoded"),
    "progressive JPEG cut": (encode(photo(), "JPEG", progressive=True)[:2000], "truncated", "decoded"),
    "PNG cut in half": (PNG[: len(PNG) // 2], "truncated", "decoded"),
    "PNG with wrong data": (flipped(PNG, PNG.index(b"IDAT") + 24), "corrupt", "decoded"),
    "PNG with a wrong header": (flipped(PNG, 29), "corrupt", "header"),
    "PNG with a text that swells": (PNG[:33] + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(4 << 20))) + PNG[33:], "corrupt", "decoded"),
    "half an AVIF": (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(200), "corrupt", "header"),
    "GIF of no size": (b"GIF89a" + struct.pack("<HH", 0, 0) + b"\0\0\0;", "corrupt", "header"),
    "claims 3600 million pixels": (claims(60000, 60000), "too_many_pixels", "67,108,864"),
    "claims 169 million pixels": (claims(13000, 13000), "too_many_pixels", "13000 x 13000 is 169,000,000"),
    "one pixel": (claims(1, 1), "bad_shape", "at least 2"),
    "a line": (claims(2, 401), "bad_shape", "200 times"),
    "32-bit": (encode(raw("I", np.arange(64, dtype=np.int32).reshape(8, 8)), "TIFF"), "unsupported_depth", "32-bit"),
    "floating point": (encode(raw("F", np.ones((8, 8), np.float32)), "TIFF"), "unsupported_depth", "floating-point"),
    "not a number": (encode(raw("F", np.full((8, 8), np.nan, np.float32)), "TIFF"), "non_finite", "finite"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_files_are_refused_with_their_code(name: str, tmp_path: Path) -> None:
    data, code, words = UNUSABLE[name]
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    for source in (data, path):
        with pytest.raises(ImageError, match=words) as caught:
            read_image(source)
        assert caught.value.code == code
    assert str(caught.value).startswith(f"{path}: ")
    assert path.read_bytes() == data


@pytest.mark.parametrize("cut", range(0, len(JPEG) - 2, 97))
def test_a_jpeg_cut_anywhere_is_refused(cut: int) -> None:
    with pytest.raises(ImageError):
        read_image(JPEG[:cut])


USABLE = {
    "garbage after the end": JPEG + bytes(range(256)),
    "PNG without its end": PNG[:-12],
    "CMYK": encode(photo("CMYK"), "JPEG"),
    "grey": encode(photo("L"), "JPEG"),
    "one bit": encode(photo("1"), "PNG"),
    "grey with alpha": encode(photo("LA"), "PNG"),
    "palette": encode(photo("P"), "PNG"),
    "palette with alpha": encode(photo().convert("P", palette=Image.Palette.ADAPTIVE), "PNG", transparency=bytes(range(256))),
    "BMP": encode(photo(), "BMP"),
    "GIF": encode(photo("P"), "GIF"),
    "WebP": encode(photo(), "WEBP"),
    "AVIF": encode(photo(), "AVIF"),
    "PPM": encode(photo(), "PPM"),
    "TIFF": encode(photo(), "TIFF"),
    "broken EXIF": JPEG[:2] + b"\xff\xe1" + struct.pack(">H", 18) + b"Exif\0\0II*\0\xff\xff\xff\xff\xff\xff" + JPEG[2:],
    "broken colour profile": encode(photo(), "JPEG", icc_profile=b"not a profile" * 10),
}


@pytest.mark.parametrize("name", USABLE)
def test_usable_files_become_rgb_of_their_size(name: str) -> None:
    image = read_image(USABLE[name])
    assert (image.mode, image.size) == ("RGB", (64, 48))


def test_what_is_lossless_comes_back_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"  # the content counts, not the suffix
    path.write_bytes(PNG)
    assert np.array_equal(np.asarray(read_image(path)), PHOTO)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP"])
def test_exif_orientation_is_applied_once(kind: str) -> None:
    halves = np.zeros((40, 64, 3), np.uint8)
    halves[:, 32:] = 255  # left black, right white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: the left edge goes up
    image = read_image(encode(Image.fromarray(halves), kind, exif=exif))
    assert image.size == (40, 64)
    pixels = np.asarray(image).astype(int)
    assert pixels[4:28].mean() < 20
    assert pixels[36:60].mean() > 235


@pytest.mark.parametrize("orientation", range(2, 9))
def test_every_orientation_is_what_pillow_does(orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(), "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(read_image(data)), np.asarray(expected))


def test_an_unknown_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 99
    assert np.array_equal(np.asarray(read_image(encode(photo(), "PNG", exif=exif))), PHOTO)


@pytest.mark.parametrize("kind", ["PNG", "PPM", "TIFF"])
def test_sixteen_bits_are_divided_by_257(kind: str) -> None:
    deep = np.linspace(0, 65535, 48 * 64).astype(np.uint16).reshape(48, 64)
    image = np.asarray(read_image(encode(raw("I;16", deep), kind)))
    assert np.array_equal(image[..., 0], np.round(deep / 257).astype(np.uint8))
    assert np.array_equal(image[..., 0], image[..., 2])


def test_transparency_is_laid_on_the_background() -> None:
    clear = np.dstack([PHOTO, np.zeros((48, 64), np.uint8)])
    clear[:, :32, 3] = 255
    data = encode(Image.fromarray(clear), "PNG")
    image = np.asarray(read_image(data, background=(10, 20, 30)))
    assert np.array_equal(image[:, :32], PHOTO[:, :32])
    assert (image[:, 32:] == (10, 20, 30)).all()
    assert (np.asarray(read_image(data))[:, 32:] == 255).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_of_several_counts(kind: str) -> None:
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "lime", "blue")]
    image = read_image(encode(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert np.abs(np.asarray(image).astype(int) - (255, 0, 0)).max() <= 2  # WebP is lossy


def test_an_image_in_memory_follows_the_same_rules() -> None:
    clear = Image.new("RGBA", (8, 6), (0, 0, 0, 0))
    assert upright_rgb(clear, background=(1, 2, 3)).getpixel((0, 0)) == (1, 2, 3)
    with pytest.raises(ImageError, match="floating-point"):
        upright_rgb(Image.new("F", (8, 6)))


def test_what_is_no_regular_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.png").symlink_to("nowhere")
    for name in ("fifo.png", "folder.png", "dangling.png", "absent.png", "nul\0.png"):
        with pytest.raises(ImageError) as caught:
            read_image(tmp_path / name)
        assert caught.value.code == "unreadable"


def test_a_file_that_may_not_be_read_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)

    def refuse(*_: object) -> None:  # chmod would not stop root
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ImageError, match="Permission denied") as caught:
        read_image(path)
    assert caught.value.code == "unreadable"


def test_odd_names_are_read_and_can_be_printed(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"\xff\xfe\n.png")
    with open(path, "wb") as file:
        file.write(PNG[:100])
    with pytest.raises(ImageError) as caught:
        read_image(os.fsdecode(path))
    assert "\\xff\\xfe\\n.png" in str(caught.value)
    str(caught.value).encode("utf-8")
    assert printable("Käfer 1.jpg") == "Käfer 1.jpg"
    assert printable("\u202egpj.exe") == "\\u202egpj.exe"


def test_warnings_of_pillow_are_silent_in_threads_and_filters_come_back() -> None:
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_image, [USABLE["broken EXIF"], USABLE["palette with alpha"], encode(photo(), "PNG")] * 20))
    assert list(warnings.filters) == before


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_header_tells_the_size_of_the_upright_image(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.new("RGB", (40, 30)), "JPEG", exif=exif)
    assert image_size(data) == read_image(data).size
    with pytest.raises(ImageError) as error:
        image_size(b"no picture")
    assert error.value.code == "not_an_image"


@pytest.mark.parametrize(("at_least", "side"), [(1000, 400), (201, 400), (200, 200), (101, 200), (100, 100), (1, 50)])
def test_a_jpeg_may_come_smaller_but_never_smaller_than_asked(at_least: int, side: int) -> None:
    wide, turned = Image.linear_gradient("L").resize((600, 400)).convert("RGB"), Image.Exif()
    turned[0x0112] = 6
    exact = read_image(encode(wide, "JPEG", exif=turned))
    small = read_image(encode(wide, "JPEG", exif=turned), at_least=at_least)
    assert small.size == (side, side * 3 // 2)
    off = np.abs(np.asarray(small).astype(int) - np.asarray(exact.resize(small.size, Image.Resampling.BOX)))
    assert off.mean() < 1
    if side == 400:
        assert np.array_equal(np.asarray(small), np.asarray(exact))
    assert read_image(encode(wide, "PNG"), at_least=at_least).size == (600, 400)
