"""Files from hosts that may be slow, gone or wrong: resumed, and checked by their SHA-256."""

import io
import os
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path
from socket import socket
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, Request, build_opener

from platformdirs import user_cache_path
from tqdm import tqdm

from ccnotes.data.dataset import DataError
from ccnotes.files import locked, sha256_of, writing

TIMEOUT = 20.0  # seconds to wait for a connection, and for the next byte
ANSWER_TIME = 30.0  # seconds in which a host must have answered, before the file's first byte
ANSWER_SIZE = 1_000_000  # bytes that it may take for that, pages of redirections included
SLOW_WINDOW = 15.0  # seconds over which a host's speed is judged
SLOW_RATE = 100_000  # bytes per second; below it a host is left while there is another
SLOWEST_RATE = 5_000  # bytes per second; below it a host is left in any case
TURNS = 2  # how often a host is asked in one call
MAKE_ROOM = "Make room there, or choose another by $CCNOTES_DATA or data_dir."


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file that several hosts offer."""

    filename: str
    urls: tuple[str, ...]  # tried in this order
    size: int  # bytes
    sha256: str


class HostError(Exception):
    """What a host did instead of sending the file."""


def data_folder(data_dir: Path | str | None = None) -> Path:
    """Where downloads and caches live, made where missing.

    ``data_dir``, else ``$CCNOTES_DATA``, else the user's cache folder. DataError where there is
    none and none can be made.
    """
    folder = data_dir or os.environ.get("CCNOTES_DATA") or user_cache_path("ccnotes") / "data"
    try:
        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # the latter where nobody is at home
        raise DataError(
            f"the data folder {folder} cannot be made ({getattr(error, 'strerror', error)}). "
            f"Choose another by $CCNOTES_DATA or data_dir."
        ) from error
    return folder


def download(file: Download, data_dir: Path | str | None = None) -> Path:
    """The path of ``file``, its SHA-256 checked, fetched where it is not there yet.

    Each host is asked at most twice: one that is slow or hangs up has its second turn after the
    others, if it brought the file further. Whatever was received is kept and resumed, in this call
    or a later one. DataError where no host sends the file, or it cannot be written.
    """
    folder = data_folder(data_dir)
    path = folder / file.filename
    part = path.with_name(f"{path.name}.part")
    with locked(path.with_name(f"{path.name}.lock"), MAKE_ROOM, DataError):
        if path.exists():
            check(path, file)
            return path
        with writing(folder, MAKE_ROOM, DataError):
            failures = fetch_from_any(file, part)
            if not failures:
                os.replace(part, path)
                return path
    reasons = "\n".join(f"  {urlsplit(url).netloc}: {why}" for url, why in failures.items())
    raise DataError(
        f"{file.filename} could not be downloaded:\n{reasons}\n"
        f"Run again to resume after {size_of(part):,} bytes, or fetch the file by other means and "
        f"save it as {path} ({file.size:,} bytes, SHA-256 {file.sha256})."
    )


def fetch_from_any(file: Download, part: Path) -> dict[str, str]:
    """Complete ``part``. Nothing where that succeeds, else why each host's last turn failed."""
    if size_of(part) >= file.size and sha256_of(part) != file.sha256:
        part.unlink()
    failures, asked = {}, Counter[str]()
    turns = deque((url, url == file.urls[-1]) for url in file.urls)
    while turns:
        url, patient = turns.popleft()
        asked[url] += 1
        before = size_of(part)
        try:
            fetch(url, part, file, patient=patient)
        except HostError as error:
            failures[url] = str(error)
            if size_of(part) > before and asked[url] < TURNS:
                turns.append((url, True))
            continue
        if sha256_of(part) == file.sha256:
            return {}
        part.unlink()
        failures[url] = "what it sent has another SHA-256"
        if before and asked[url] < TURNS:  # the fault may lie in what was resumed
            turns.appendleft((url, patient))
    return failures


def fetch(url: str, part: Path, file: Download, *, patient: bool) -> None:
    """Append to ``part`` what it lacks. HostError where that does not succeed.

    An answer that begins at byte 0 again, or does not say how long it is, may be some page in
    place of the file: it takes the place of ``part`` only when it is as long as the file.
    """
    if (have := size_of(part)) == file.size:
        return
    with ask(url, have) as answer:
        start = agreed(answer, have, file.size)
        told = answer.status == 206 or answer.getheader("Content-Length")
        into = part if start == have and told else part.with_suffix(".whole")
        answer.pace.demand(SLOWEST_RATE if patient else SLOW_RATE)
        bar = tqdm(
            desc=f"{file.filename} from {urlsplit(url).netloc}",
            initial=start,
            total=file.size,
            unit="B",
            unit_scale=True,
        )
        try:
            with bar, open(into, "ab" if start else "wb") as out:
                while chunk := received(answer, file.size - start):
                    out.write(chunk)
                    bar.update(len(chunk))
                    start += len(chunk)
            if start < file.size:
                raise HostError(f"hung up after {start:,} of {file.size:,} bytes")
            os.replace(into, part)
        finally:
            if into != part:
                into.unlink(missing_ok=True)


@contextmanager
def blaming_the_host() -> Iterator[None]:
    """HostError for whatever goes wrong in the block: a bad answer can raise nearly anything."""
    try:
        yield
    except Exception as error:
        why = "".join(filter(str.isprintable, str(error))) or type(error).__name__
        raise HostError(why[:200]) from error


def agreed(answer: "Answer", start: int, size: int) -> int:
    """The byte at which the answer begins. HostError unless it is of a file of ``size`` bytes."""
    with blaming_the_host():
        if answer.status != 206:
            start = 0  # this host sends the whole file whatever it is asked for
        elif not answer.getheader("Content-Range", "").startswith(f"bytes {start}-{size - 1}/"):
            raise ValueError(f"answered with another part of the file than from byte {start:,} on")
        length = answer.getheader("Content-Length")
        if length not in (None, str(size - start)):
            raise ValueError(f"offers {length} bytes, not the {size - start:,} asked for")
    return start


def received(answer: "Answer", most: int) -> bytes:
    with blaming_the_host():
        return answer.read1(min(1 << 16, most))


def ask(url: str, start: int) -> "Answer":
    """The host's answer to a request for the file from byte ``start`` on."""
    headers = {"User-Agent": "Mozilla/5.0 (compatible; ccnotes)"}  # some refuse Python's own
    if start:
        headers["Range"] = f"bytes={start}-"
    with blaming_the_host():
        try:
            answer = build_opener(Handler).open(Request(url, headers=headers), timeout=TIMEOUT)
        except HTTPError as error:
            error.close()
            if error.code == 416 and start:
                return ask(url, 0)
            raise
        if not isinstance(answer, Answer):
            raise ValueError(f"sends elsewhere, to {answer.url}")
        return answer


class Paced(io.RawIOBase):
    """What a socket receives; TimeoutError where that takes too long.

    A socket's own time-out is for the next byte only: a byte every few seconds passes it for ever.
    """

    def __init__(self, source: io.RawIOBase):
        self.source = source
        self.rate: int | None = None  # none is due until the host has answered
        self.since, self.count = time.monotonic(), 0

    def demand(self, rate: int) -> None:
        """From now on, at least ``rate`` bytes per second."""
        self.rate, self.since, self.count = rate, time.monotonic(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        seconds = time.monotonic() - self.since
        if self.rate is None:
            if seconds > ANSWER_TIME or self.count > ANSWER_SIZE:
                raise TimeoutError(f"no answer in {seconds:.0f} s and {self.count:,} bytes")
        elif seconds > SLOW_WINDOW:
            if self.count < self.rate * seconds:
                raise TimeoutError(f"sends only {self.count / seconds / 1000:.1f} kB/s")
            self.demand(self.rate)
        count = self.source.readinto(buffer)
        self.count += count or 0
        return count

    def close(self) -> None:
        self.source.close()
        super().close()


class Answer(HTTPResponse):
    """A response whose bytes, from the first header on, must not take too long."""

    def __init__(
        self, sock: socket, debuglevel: int = 0, method: str | None = None, url: str | None = None
    ):
        super().__init__(sock, debuglevel, method, url)
        self.pace = Paced(self.fp.detach())
        self.fp = io.BufferedReader(self.pace)


class Connection(HTTPConnection):
    response_class = Answer


class SecureConnection(HTTPSConnection):
    response_class = Answer


class Handler(HTTPHandler, HTTPSHandler):
    def http_open(self, request: Request) -> HTTPResponse:
        return self.do_open(Connection, request)

    def https_open(self, request: Request) -> HTTPResponse:
        return self.do_open(SecureConnection, request)


def check(path: Path, file: Download) -> None:
    """DataError unless ``path`` is ``file``, byte for byte."""
    if (size := path.stat().st_size) != file.size:
        wrong = f"has {size:,} bytes, not {file.size:,}"
    elif (sha256 := sha256_of(path)) != file.sha256:
        wrong = f"has the SHA-256 {sha256}, not {file.sha256}"
    else:
        return
    raise DataError(f"{path} is damaged: it {wrong}. Delete it, then run again to download it.")


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
