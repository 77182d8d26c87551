"""Get a published file: once, resumable, checked, into a cache. Nothing here runs at import.

Files on the model hub go through its own client, and so into the cache that other projects share; all others are fetched here,
because no library in use resumes a plain address.
"""

import hashlib
import os
import re
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from phiscale.errors import DownloadError, WeightsError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 20
TRIES = 3  # of one address: a connection that breaks off goes on where it was
HASHES = {"sha256": hashlib.sha256, "md5": hashlib.md5}


def cache_folder() -> Path:
    """Where downloads go: $PHISCALE_CACHE, else the user's cache folder."""
    own = os.environ.get("PHISCALE_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phiscale"


def cached_path(url: str, name: str = "") -> Path:
    """Where the file at `url` is, or will be, in the cache; `name` (of its record) keeps equal file names apart."""
    last = urlsplit(url).path.rpartition("/")[2] or "weights"
    where = name or hashlib.sha256(url.encode()).hexdigest()[:12]
    return cache_folder() / re.sub(r"[^A-Za-z0-9._-]", "_", where) / re.sub(r"[^A-Za-z0-9._-]", "_", last)


def checksum_in(url: str) -> str:
    """The checksum that a file's name carries (torch.hub's convention: `name-355c32eb.pth`), as `sha256:355c32eb`, or none."""
    found = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", urlsplit(url).path)
    return f"sha256:{found.group(1)}" if found else ""


def check(path: Path, checksum: str) -> bool:
    """Whether the file has this checksum: `sha256:` or `md5:` and as many hex digits as were published. An empty one is true."""
    if not checksum:
        return True
    kind, _, digits = checksum.partition(":")
    digest = HASHES[kind]()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest().startswith(digits)


def hub_place(url: str) -> tuple[str, str] | None:
    """(repository, file) of an address on the model hub; None for any other.

    >>> hub_place("https://huggingface.co/timm/efficientnet_b0.ra_in1k/resolve/main/model.safetensors")
    ('timm/efficientnet_b0.ra_in1k', 'model.safetensors')
    """
    found = re.fullmatch(r"https://huggingface\.co/([^/]+/[^/]+)/resolve/main/([^?#]+)", url)
    return (found[1], found[2]) if found else None


def in_hub_cache(url: str) -> Path | None:
    """The file of an address on the hub, where this machine's hub cache has it, whichever project put it there."""
    place = hub_place(url)
    if place is None:
        return None
    from huggingface_hub.constants import HF_HUB_CACHE

    if not os.path.isdir(os.path.join(HF_HUB_CACHE, "models--" + place[0].replace("/", "--"))):  # also where it can't be read
        return None  # as it would say, without importing its client: 0.2 s
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(*place)
    return Path(found) if isinstance(found, str) else None


def download(url: str, *, checksum: str = "", name: str = "") -> Path:
    """The cached file of `url`, fetched if it isn't there.

    An interrupted download goes on where it stopped. WeightsError, naming the file and where to put it by hand, where the
    address can't be reached or what comes is not what was published (which is then deleted).
    """
    if urlsplit(url).scheme not in ("https", "http"):
        raise WeightsError(f"can't download {url}: only http and https addresses")
    target = cached_path(url, name)
    if target.is_file():
        return target
    place = hub_place(url)
    if place is not None:
        return _from_hub(url, place, target, checksum)
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target.with_name(target.name + ".lock")):
            if not target.is_file():  # another process may have been faster
                _fetch(url, part)
                return _settle(part, target, url, checksum)
        return target
    except (OSError, HTTPException) as error:
        raise _unreachable(url, getattr(error, "reason", None) or error, target) from None


def _unreachable(url: str, reason: object, target: Path) -> DownloadError:
    said = (str(reason).strip().splitlines() or [type(reason).__name__])[0].rstrip(".")
    return DownloadError(
        f"can't download {url} ({said}); without a network, fetch it elsewhere and put it at {target}, or give its path as weights"
    )


def _from_hub(url: str, place: tuple[str, str], target: Path, checksum: str) -> Path:
    """Through the hub's client: its cache, mirror (HF_ENDPOINT), token and offline switch are those of every project here."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    try:
        # asked first, because the download would try an unreachable hub for half a minute
        etag = get_hf_file_metadata(hf_hub_url(*place)).etag or ""
        path = Path(hf_hub_download(*place))
    except Exception as error:  # noqa: BLE001  # its errors have no common parent, and change with the version
        raise _unreachable(url, error, target) from None
    # of a large file the hub's tag is its SHA-256
    published = checksum or (f"sha256:{etag}" if re.fullmatch(r"[0-9a-f]{64}", etag) else "")
    if not check(path, published):
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise WeightsError(f"what came from {url} is not the published file: its checksum is not {published}; deleted, try again")
    return path


def _settle(part: Path, target: Path, url: str, checksum: str) -> Path:
    if not check(part, checksum):
        part.unlink()
        raise WeightsError(f"what came from {url} is not the published file: its checksum is not {checksum}; deleted, try again")
    os.replace(part, target)
    return target


@contextmanager
def _alone(lock: Path) -> Generator[None]:
    """One process at a time, where the system can (the ranks of a training start at once)."""
    with lock.open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(url: str, part: Path) -> None:
    for attempt in range(TRIES):
        have = part.stat().st_size if part.exists() else 0
        try:
            if _append(url, part, have):
                return
        except urllib.error.HTTPError as error:
            if error.code == 416 and have:  # nothing after what is there: an old, complete or foreign part
                part.unlink()
                continue
            if error.code < 500 or attempt == TRIES - 1:
                raise
        except (OSError, HTTPException):
            if attempt == TRIES - 1:
                raise
    raise OSError("the connection keeps breaking off")


def _append(url: str, part: Path, have: int) -> bool:
    """Add what is missing to `part`; False where the connection ended early."""
    headers = {"User-Agent": "phiscale", "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(url, headers=headers)
    with cast(HTTPResponse, urllib.request.urlopen(request, timeout=TIMEOUT)) as answer:
        goes_on = answer.status == 206 and (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-")
        if not goes_on:
            have = 0  # the server sends all of it again
        length = answer.headers.get("Content-Length")
        with part.open("ab" if goes_on else "wb") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                have += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        missing = answer.length  # what http still expected when the connection ended
        return length is None or not missing
