"""The one gate through which image files come in: upright 8-bit RGB, or an ImageError with a code.

Codes: `empty`, `not_an_image`, `truncated`, `corrupt`, `too_many_pixels`, `unsupported_depth`, `non_finite`, `bad_shape`, `unreadable`.
Nothing here alters a file, and what a header promises is checked before pixels are decoded.
"""

import io
import math
import os
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import (
    AvifImagePlugin,  # noqa: F401  # pyright: ignore[reportUnusedImport]  # each registers its format
    BmpImagePlugin,  # noqa: F401  # pyright: ignore[reportUnusedImport]
    GifImagePlugin,  # noqa: F401  # pyright: ignore[reportUnusedImport]
    Image,
    JpegImagePlugin,  # noqa: F401  # pyright: ignore[reportUnusedImport]
    PngImagePlugin,  # noqa: F401  # pyright: ignore[reportUnusedImport]
    PpmImagePlugin,  # noqa: F401  # pyright: ignore[reportUnusedImport]
    TiffImagePlugin,  # noqa: F401  # pyright: ignore[reportUnusedImport]
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401  # pyright: ignore[reportUnusedImport]
)

from phiscale.errors import ImageError

T = TypeVar("T")
IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".avif", ".ppm", ".pgm", ".pbm", ".pnm")
)
# never EPS, which would start Ghostscript; nor formats without a signature. JPEG includes MPO, what many cameras write
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "PPM")
MAX_PIXELS = 1 << 26  # 8192 x 8192: 200 MB as RGB. Pillow alone would only warn up to 179 million
MIN_SIDE, MAX_ASPECT = 2, 200

# What Pillow raises on files that lie; the list of its own fuzz target, and what its parsers leak
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    NotImplementedError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    RuntimeError,
    AssertionError,
    MemoryError,
    struct.error,
    zlib.error,
)
_UPRIGHT = {  # EXIF orientation -> what makes it 1
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"BM")


class _Quiet:
    """Pillow's warnings off while any thread is inside; `catch_warnings` alone isn't safe across threads."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._saved = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module="PIL")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._saved.__exit__(None, None, None)


_quiet = _Quiet()


def printable(name: str | os.PathLike[str]) -> str:
    """A file or class name that can be printed and written as UTF-8: odd bytes and control characters as backslash escapes.

    >>> printable("a\\udcff\\nb")
    'a\\\\xff\\\\nb'
    """
    out: list[str] = []
    for letter in os.fspath(name):
        if "\udc80" <= letter <= "\udcff":  # a byte that is not UTF-8, as surrogateescape keeps it
            out.append(f"\\x{ord(letter) - 0xDC00:02x}")
        else:
            out.append(letter if letter.isprintable() else letter.encode("unicode_escape", "backslashreplace").decode("ascii"))
    return "".join(out)


def read_image(
    source: str | Path | bytes,
    *,
    background: tuple[int, int, int] = (255, 255, 255),
    max_pixels: int = MAX_PIXELS,
    at_least: int | None = None,
) -> Image.Image:
    """Decode a file (or its bytes) to an upright 8-bit RGB image.

    EXIF orientation is applied; transparency is laid on `background`; CMYK, grey and palettes become RGB; 16 bits are
    divided by 257; of an animation or a document the first frame counts. ImageError, with a code and the file's name,
    for everything else (see the top of this file). Safe in threads.

    at_least   pixels of the shorter side that are enough: a JPEG of twice as many or more may come at half, a quarter or an eighth of
               its size, which its decoder makes from the low frequencies alone, much faster (DCT scaling). None: every pixel, exactly
    """

    def decoded(image: Image.Image) -> Image.Image:
        if at_least is not None and image.format in ("JPEG", "MPO"):
            enough = at_least / min(image.size)
            image.draft(None, (math.ceil(image.width * enough), math.ceil(image.height * enough)))
        return _decoded(image, background)

    return _opened(source, max_pixels, decoded)


def image_size(source: str | Path | bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) that `read_image` would give, from the header alone; ImageError as there, as far as a header can tell."""

    def upright(image: Image.Image) -> tuple[int, int]:
        width, height = image.size
        return (width, height) if _orientation(image) < 5 else (height, width)

    return _opened(source, max_pixels, upright)


def _opened(source: str | Path | bytes, max_pixels: int, then: Callable[[Image.Image], T]) -> T:
    """What `then` makes of the image at `source`, its header read and checked; errors with the file's name."""
    name = "image" if isinstance(source, bytes) else printable(source)
    try:
        if isinstance(source, bytes):
            return _read(io.BytesIO(source), len(source), max_pixels, then)
        status = os.stat(source)
        if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for ever
            raise ImageError("unreadable", "not a regular file")
        with open(source, "rb") as file:
            return _read(file, status.st_size, max_pixels, then)
    except ImageError as error:
        raise ImageError(error.code, f"{name}: {error}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ImageError("unreadable", f"{name}: {getattr(error, 'strerror', None) or error}") from None


def upright_rgb(image: Image.Image, *, background: tuple[int, int, int] = (255, 255, 255), max_pixels: int = MAX_PIXELS) -> Image.Image:
    """`read_image` for an image that is open already, by the same rules; `image` stays as it is."""
    _check_header(image, max_pixels)
    with _quiet:
        return _decoded(image, background)


def _read(file: BinaryIO, size: int, max_pixels: int, then: Callable[[Image.Image], T]) -> T:
    if size == 0:
        raise ImageError("empty", "the file has no bytes")
    head = file.read(512)
    file.seek(0)
    with _quiet:
        try:
            image = Image.open(file, formats=FORMATS)
        except Image.DecompressionBombError:
            raise ImageError("too_many_pixels", f"claims more pixels than the limit of {max_pixels:,}") from None
        except UnidentifiedImageError:
            raise _unknown(head) from None
        except _BROKEN as error:
            raise _broken(error) from None
        with image:
            _check_header(image, max_pixels)
            return then(image)


def _decoded(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    try:
        image.load()
        return _upright(_to_rgb(image, background), _orientation(image))
    except ImageError:
        raise
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise _broken(error) from None


def _check_header(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    short, long = sorted(image.size)
    if width * height > max_pixels:
        raise ImageError("too_many_pixels", f"{width} x {height} is {width * height:,} pixels; the limit is {max_pixels:,}")
    if short < MIN_SIDE:
        raise ImageError("bad_shape", f"{width} x {height}: the shorter side must have at least {MIN_SIDE} pixels")
    if long > MAX_ASPECT * short:
        raise ImageError("bad_shape", f"{width} x {height}: the longer side is more than {MAX_ASPECT} times the shorter")


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):  # PPM: scaled to 65535 by Pillow
        grey = (np.asarray(image).astype(np.uint32) + 128) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
            raise ImageError("non_finite", "has pixels that are not finite numbers")
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise ImageError("unsupported_depth", f"has {kind} pixels, whose range is not known; save it with 8 or 16 bits")
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), colour).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()  # a copy no longer holds the file


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except _BROKEN:  # the picture is whole; only its metadata isn't
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _broken(error: BaseException) -> ImageError:
    if isinstance(error, OSError) and error.errno is not None:  # the disk, not the picture
        return ImageError("unreadable", error.strerror or str(error))
    text = str(error) or type(error).__name__
    return ImageError("truncated" if "truncated" in text.lower() else "corrupt", f"can't be decoded: {text}")


def _unknown(head: bytes) -> ImageError:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if text.startswith((b"<!doctype html", b"<html")):
        hint = "it looks like a web page (a failed download?)"
    elif text.startswith(b"version https://git-lfs"):
        hint = "it is a git-LFS pointer; run `git lfs pull`"
    elif text.startswith((b"<svg", b"<?xml")):
        hint = "it looks like SVG or XML; export it as PNG"
    elif brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
        hint = "it is HEIC; convert it to JPEG"
    elif text.startswith((b"%!ps", b"%pdf")):
        hint = "it is PostScript or PDF; export it as PNG"
    elif head.startswith(_SIGNATURES) or brand in (b"avif", b"avis") or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return ImageError("corrupt", "begins like an image, but its header can't be read")
    else:
        hint = f"known are {', '.join(FORMATS)}"
    return ImageError("not_an_image", f"not an image: {hint}")
