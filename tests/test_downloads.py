"""Downloads, from hosts on this machine that misbehave as real ones do."""

import errno
import hashlib
import io
import itertools
import os
import pickle
import stat
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.response import addinfourl

import numpy as np
import pytest
import torch
import torchvision

from ccnotes import data, files
from ccnotes.data import DataError, Download, download, downloads as room, load_photos
from ccnotes.data.photos import read_cache, write_cache

BODY = np.random.default_rng(0).bytes(300_000)


class Host(ThreadingHTTPServer):
    """Serves ``body``, and does to it what it is told to."""

    def __init__(
        self,
        body=BODY,
        *,
        status=200,
        says=None,
        ranges="honoured",
        cut=None,
        silent=None,
        rate=None,
    ):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.status, self.ranges = body, status, ranges
        self.cut = cut  # bytes of an answer after which it hangs up
        self.silent = silent  # an event for which it waits before it does
        self.waited_in_vain = False
        self.rate = rate  # bytes per second
        self.says = says  # the pieces of an answer, or what makes them for each request
        self.asked = []  # the first byte that each request asked for
        self.url = f"http://127.0.0.1:{self.server_port}/file.bin"

    def handle_error(self, request, client_address):
        pass  # a client that hangs up is no news here


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        host = self.server
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        host.asked.append(start)
        if host.says is not None:
            for piece in host.says() if callable(host.says) else host.says:
                self.wfile.write(piece)
            return None
        if host.status != 200:
            return self.send_error(host.status)
        if start and host.ranges == "refused":
            return self.send_error(416)
        if start and host.ranges == "honoured":
            self.send_response(206)
            self.send_header(
                "Content-Range", f"bytes {start}-{len(host.body) - 1}/{len(host.body)}"
            )
        elif start and host.ranges == "muddled":
            self.send_response(206)
            self.send_header("Content-Range", f"bytes 0-{len(host.body) - 1}/{len(host.body)}")
        else:
            start = 0
            self.send_response(200)
        body = host.body[start:]
        if host.ranges != "no length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        step = 1_000 if host.rate else len(body)
        for at in range(0, len(body[: host.cut]), step):
            self.wfile.write(body[: host.cut][at : at + step])
            time.sleep(step / host.rate if host.rate else 0)
        if host.silent:
            host.waited_in_vain = not host.silent.wait(30)

    def log_message(self, *about):
        pass


@pytest.fixture
def hosts():
    """Starts hosts, and stops them after the test."""
    started = []

    def start(*hosts):
        for host in hosts:
            threading.Thread(target=host.serve_forever, args=(0.01,), daemon=True).start()
            started.append(host)
        return hosts

    yield start
    for host in started:
        host.shutdown()
        host.server_close()


@pytest.fixture(autouse=True)
def impatience(monkeypatch):
    monkeypatch.setattr(room, "TIMEOUT", 5)
    monkeypatch.setattr(room, "SLOW_WINDOW", 0.1)
    monkeypatch.setattr(room, "SLOW_RATE", 1_000_000)
    monkeypatch.setattr(room, "SLOWEST_RATE", 0)  # this machine may be busy


def offered(*hosts, body=BODY):
    return Download(
        filename="file.bin",
        urls=tuple(host.url for host in hosts),
        size=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
    )


def started(tmp_path, content):
    (tmp_path / "file.bin.part").write_bytes(content)


def test_a_file_is_fetched_once(hosts, tmp_path):
    (host,) = hosts(Host())
    path = download(offered(host), tmp_path)
    assert path.read_bytes() == BODY
    assert download(offered(host), tmp_path) == path == tmp_path / "file.bin"
    assert host.asked == [0]
    assert not (tmp_path / "file.bin.part").exists()


def test_the_next_host_is_tried_after_a_404(hosts, tmp_path):
    missing, host = hosts(Host(status=404), Host())
    assert download(offered(missing, host), tmp_path).read_bytes() == BODY
    assert missing.asked == host.asked == [0]


def test_a_part_is_resumed(hosts, tmp_path):
    (host,) = hosts(Host())
    started(tmp_path, BODY[:1234])
    assert download(offered(host), tmp_path).read_bytes() == BODY
    assert host.asked == [1234]


@pytest.mark.parametrize(
    ("ranges", "asked"), [("ignored", [1234]), ("refused", [1234, 0])], ids=["ignored", "416"]
)
def test_a_host_without_ranges_sends_it_all(ranges, asked, hosts, tmp_path):
    (host,) = hosts(Host(ranges=ranges))
    started(tmp_path, BODY[:1234])
    assert download(offered(host), tmp_path).read_bytes() == BODY
    assert host.asked == asked


def test_a_range_that_was_not_asked_for_is_not_appended(hosts, tmp_path):
    muddled, host = hosts(Host(ranges="muddled"), Host())
    started(tmp_path, BODY[:1234])
    assert download(offered(muddled, host), tmp_path).read_bytes() == BODY
    assert host.asked == [1234]


def test_a_complete_part_needs_no_host(tmp_path):
    started(tmp_path, BODY)
    file = Download(
        filename="file.bin",
        urls=("http://127.0.0.1:9/file.bin",),
        size=len(BODY),
        sha256=hashlib.sha256(BODY).hexdigest(),
    )
    assert download(file, tmp_path).read_bytes() == BODY


def test_a_part_longer_than_the_file_is_started_over(hosts, tmp_path):
    (host,) = hosts(Host())
    started(tmp_path, BODY + b"more")
    assert download(offered(host), tmp_path).read_bytes() == BODY
    assert host.asked == [0]


def test_a_host_that_hangs_up_is_asked_again_for_the_rest(hosts, tmp_path):
    (host,) = hosts(Host(cut=160_000))
    assert download(offered(host), tmp_path).read_bytes() == BODY
    assert host.asked == [0, 160_000]


def test_a_host_has_two_turns_in_one_call(hosts, tmp_path):
    (host,) = hosts(Host(cut=110_000))
    with pytest.raises(DataError, match=r"Run again to resume after 220,000 bytes"):
        download(offered(host), tmp_path)
    assert download(offered(host), tmp_path).read_bytes() == BODY
    assert host.asked == [0, 110_000, 220_000]


def test_another_host_goes_on_where_one_hung_up(hosts, tmp_path):
    cut, host = hosts(Host(cut=110_000), Host())
    assert download(offered(cut, host), tmp_path).read_bytes() == BODY
    assert (cut.asked, host.asked) == ([0], [110_000])


def test_a_host_that_hangs_up_and_cannot_resume_is_given_up(hosts, tmp_path):
    (host,) = hosts(Host(cut=110_000, ranges="ignored"))
    with pytest.raises(DataError, match=r"hung up after 110,000 of 300,000 bytes"):
        download(offered(host), tmp_path)
    assert host.asked == [0, 110_000]


def test_a_host_that_falls_silent_is_left(hosts, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "TIMEOUT", 0.4)
    monkeypatch.setattr(room, "SLOW_RATE", 0)
    silent, host = hosts(Host(cut=110_000, silent=threading.Event()), Host())
    assert download(offered(silent, host), tmp_path).read_bytes() == BODY
    silent.silent.set()
    assert host.asked == [110_000]
    assert not silent.waited_in_vain  # else it was waited for as long as it liked


def test_a_throttled_host_is_left_for_the_next_and_what_it_sent_is_kept(hosts, tmp_path):
    slow, host = hosts(Host(rate=50_000), Host())
    assert download(offered(slow, host), tmp_path).read_bytes() == BODY
    assert slow.asked == [0]
    assert 0 < host.asked[0] < 30_000


def test_a_throttled_host_is_waited_for_when_it_is_the_last(hosts, tmp_path):
    (slow,) = hosts(Host(rate=500_000))
    assert download(offered(slow), tmp_path).read_bytes() == BODY
    assert slow.asked == [0]


def test_a_throttled_host_is_taken_up_again_when_no_other_works(hosts, tmp_path):
    slow, missing = hosts(Host(rate=500_000), Host(status=404))
    assert download(offered(slow, missing), tmp_path).read_bytes() == BODY
    first, second = slow.asked
    assert first == 0 < second
    assert missing.asked == [second]


def test_a_file_with_another_checksum_is_deleted_and_the_next_host_tried(hosts, tmp_path):
    wrong, host = hosts(Host(BODY[:-1] + b"?"), Host())
    assert download(offered(wrong, host), tmp_path).read_bytes() == BODY
    assert host.asked == [0]


def test_a_spoilt_part_is_found_out_and_fetched_anew(hosts, tmp_path):
    (host,) = hosts(Host())
    started(tmp_path, b"x" * 1000)
    assert download(offered(host), tmp_path).read_bytes() == BODY
    assert host.asked == [1000, 0]


def test_a_spoilt_part_as_long_as_the_file_costs_no_turn(hosts, tmp_path):
    (host,) = hosts(Host(cut=160_000))
    started(tmp_path, bytes(len(BODY)))
    assert download(offered(host), tmp_path).read_bytes() == BODY
    assert host.asked == [0, 160_000]


def test_a_wrong_file_leaves_nothing_behind(hosts, tmp_path):
    (wrong,) = hosts(Host(BODY[:-1] + b"?"))
    with pytest.raises(DataError, match=r"what it sent has another SHA-256"):
        download(offered(wrong), tmp_path)
    assert not (tmp_path / "file.bin").exists()
    assert not (tmp_path / "file.bin.part").exists()


@pytest.mark.parametrize("ranges", ["honoured", "ignored"])
def test_a_page_in_place_of_the_file_does_not_cost_what_was_received(ranges, hosts, tmp_path):
    page, host = hosts(Host(b"<html>Log in to the network</html>", ranges=ranges), Host())
    started(tmp_path, BODY[:1234])
    assert download(offered(page, host), tmp_path).read_bytes() == BODY
    assert host.asked == [1234]


@pytest.mark.parametrize(
    ("body", "asked"),
    [(BODY, []), (BODY + b"more", []), (BODY[:-1], [0])],
    ids=["same", "long", "short"],
)
def test_a_host_that_does_not_tell_the_length(body, asked, hosts, tmp_path):
    odd, host = hosts(Host(body, ranges="no length"), Host())
    assert download(offered(odd, host), tmp_path).read_bytes() == BODY
    assert host.asked == asked


def test_a_host_that_starts_over_and_hangs_up_does_not_cost_what_was_received(hosts, tmp_path):
    cut, host = hosts(Host(ranges="ignored", cut=1000), Host())
    started(tmp_path, BODY[:1234])
    assert download(offered(cut, host), tmp_path).read_bytes() == BODY
    assert host.asked == [1234]


def test_parked_pages_around_a_good_host_do_not_spoil_what_it_sends(hosts, tmp_path):
    page = CHUNKED + b"6\r\n<html>\r\n0\r\n\r\n"
    parked, good, other = hosts(Host(says=[page]), Host(cut=160_000), Host(says=[page]))
    assert download(offered(parked, good, other), tmp_path).read_bytes() == BODY
    assert good.asked == [0, 160_000]
    assert parked.asked == [0]


def test_a_wrong_file_in_two_pieces_is_not_asked_for_a_third_time(hosts, tmp_path):
    (wrong,) = hosts(Host(bytes(len(BODY)), cut=160_000))
    with pytest.raises(DataError, match=r"another SHA-256"):
        download(offered(wrong), tmp_path)
    assert wrong.asked == [0, 160_000]


def test_what_one_host_spoilt_the_next_sends_from_its_first_byte(hosts, tmp_path):
    spoilt, good, other = hosts(Host(bytes(len(BODY)), cut=50_000), Host(), Host())
    assert download(offered(spoilt, good, other), tmp_path).read_bytes() == BODY
    assert (good.asked, other.asked) == ([50_000, 0], [])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
def test_a_full_disk_is_no_fault_of_the_hosts(hosts, tmp_path):
    first, second = hosts(Host(), Host())
    (tmp_path / "file.bin.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match=rf"{tmp_path} cannot be written to \(No space.*Make room"):
        download(offered(first, second), tmp_path)
    assert (first.asked, second.asked) == ([0], [])


def test_others_may_read_what_was_fetched_as_the_umask_says(hosts, tmp_path):
    (host,) = hosts(Host())
    before = os.umask(0o027)
    try:
        path = download(offered(host), tmp_path)
    finally:
        os.umask(before)
    assert stat.filemode(path.stat().st_mode) == "-rw-r-----"


OK = b"HTTP/1.1 200 OK\r\n"
MOVED = b"HTTP/1.1 302 Found\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def moved(to):
    return [MOVED, b"Location: " + to + b"\r\nContent-Length: 0\r\n\r\n"]


ODD = {
    "a page in chunks": [CHUNKED, b"6\r\n<html>\r\n0\r\n\r\n"],
    "a page without its length": [OK, b"\r\n<html>"],
    "a length that is no number": [OK, b"Content-Length: abc\r\n\r\n", BODY],
    "a negative length": [OK, b"Content-Length: -1\r\n\r\n", BODY],
    "a chunk that is none": [CHUNKED, b"six\r\n<html>"],
    "a part of no range": [b"HTTP/1.1 206 Partial Content\r\n\r\n", BODY],
    "an end before the file's": [
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 1234-1299/1300\r\n\r\n",
        bytes(66),
    ],
    "moved to half an address": moved(b"http://[::1"),
    "moved to no port": moved(b"http://127.0.0.1:99999/"),
    "moved to no host": moved(b"http://" + b"a" * 64 + b".invalid/"),
    "moved to a local file": moved(b"file:///etc/hostname"),
    "moved for ever": moved(b"/file.bin"),
    "too many headers": [OK, b"X: y\r\n" * 1000, b"\r\n"],
    "a header without end": [OK, b"X" * 100_000],
    "another protocol": [b"SSH-2.0-dropbear\r\n"],
    "nothing": [],
}


@pytest.mark.parametrize("says", ODD.values(), ids=ODD)
def test_after_an_answer_that_is_not_the_file_another_host_goes_on(says, hosts, tmp_path):
    odd, host = hosts(Host(says=says), Host())
    started(tmp_path, BODY[:1234])
    assert download(offered(odd, host), tmp_path).read_bytes() == BODY
    assert host.asked == [1234]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.bin", "file.bin.lock"]


@pytest.mark.parametrize("says", [ODD["a page in chunks"], [b"HTTP/1.1 404 \x1b[2J\r\n\r\n"]])
def test_a_page_alone_is_asked_for_once_and_shows_nothing_but_text(says, hosts, tmp_path):
    (page,) = hosts(Host(says=says))
    with pytest.raises(DataError, match=r"could not be downloaded") as caught:
        download(offered(page), tmp_path)
    assert page.asked == [0]
    assert "\x1b" not in str(caught.value)


def test_a_host_that_sends_elsewhere_than_to_the_web_is_left(tmp_path, monkeypatch):
    class Opener:
        def open(self, request, timeout):
            return addinfourl(io.BytesIO(BODY), {}, "ftp://127.0.0.1/file.bin")

    monkeypatch.setattr(room, "build_opener", lambda handler: Opener())
    file = Download(filename="file.bin", urls=("http://127.0.0.1:9/",), size=5, sha256="")
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9: sends elsewhere, to ftp:"):
        download(file, tmp_path)


def test_speed_is_judged_anew_in_each_window(tmp_path, monkeypatch):
    """A fast beginning does not make up for what comes later."""
    now = [0.0]
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(room, "SLOW_WINDOW", 10)
    (tmp_path / "sent").write_bytes(bytes(600_000))
    paced = room.Paced(io.FileIO(tmp_path / "sent"))
    paced.demand(1000)
    for now[0], size in ((1, 500_000), (11, 20_000), (22, 10_000)):
        assert paced.readinto(bytearray(size)) == size
    now[0] = 33
    with pytest.raises(TimeoutError, match=r"sends only 0\.9 kB/s"):  # 10,000 bytes in 11 s
        paced.readinto(bytearray(1))
    paced.close()


def test_a_redirection_that_brings_megabytes_is_not_followed(hosts, tmp_path):
    """Python would read them all first, to memory; of a page without end, for ever."""
    page = [MOVED, b"Location: /\r\n\r\n", *[bytes(10_000)] * 300]
    odd, host = hosts(Host(says=page), Host())
    assert download(offered(odd, host), tmp_path).read_bytes() == BODY
    assert odd.asked == [0]


def slowly(*pieces):
    for piece in pieces:
        for byte in piece:
            time.sleep(0.01)
            yield bytes([byte])


FOREVER = itertools.repeat(ord("1"))
SLOW = {
    "headers": lambda: slowly(OK, b"X: ", FOREVER),
    "continue": lambda: itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "bytes": lambda: itertools.chain([OK, b"Content-Length: 300000\r\n\r\n"], slowly(FOREVER)),
    "chunk": lambda: itertools.chain([CHUNKED], slowly(FOREVER)),
    "moving": lambda: itertools.chain([MOVED, b"Location: /\r\n\r\n"], slowly(FOREVER)),
}


@pytest.mark.parametrize("says", SLOW.values(), ids=SLOW)
def test_a_host_that_answers_for_ever_is_left_even_when_it_is_the_last(
    says, hosts, tmp_path, monkeypatch
):
    """Each byte comes within the time-out; the answer never ends."""
    monkeypatch.setattr(room, "ANSWER_TIME", 0.3)
    monkeypatch.setattr(room, "SLOWEST_RATE", 5_000)
    (slow,) = hosts(Host(says=says))
    with pytest.raises(DataError, match=r"no answer in|sends only 0\.\d kB/s"):
        download(offered(slow), tmp_path)


def test_when_all_fail_one_error_says_why_and_what_to_do(hosts, tmp_path):
    missing, page, cut = hosts(Host(status=404), Host(b"<html>"), Host(cut=5_000, ranges="ignored"))
    gone = Host()
    gone.server_close()
    file = offered(missing, page, gone, cut)
    with pytest.raises(DataError) as caught:
        download(file, tmp_path)
    message = str(caught.value)
    for host, why in [
        (missing, "HTTP Error 404: Not Found"),
        (page, "offers 6 bytes, not the 300,000 asked for"),
        (gone, "Connection refused"),
        (cut, "hung up after 5,000 of 300,000 bytes"),
    ]:
        (line,) = (li for li in message.splitlines() if f":{host.server_port}" in li)
        assert why in line
    assert f"save it as {tmp_path / 'file.bin'} (300,000 bytes, SHA-256 {file.sha256})" in message
    assert "resume after 5,000 bytes" in message


@pytest.mark.parametrize(
    ("content", "why"),
    [(BODY[:1000], "has 1,000 bytes, not 300,000"), (BODY[:-1] + b"?", "has the SHA-256")],
    ids=["truncated", "another"],
)
def test_a_wrong_file_put_in_place_by_hand(content, why, tmp_path):
    (tmp_path / "file.bin").write_bytes(content)
    with pytest.raises(DataError, match=rf"file\.bin is damaged: it {why}.*Delete it"):
        download(offered(), tmp_path)


def test_two_at_once_fetch_once(hosts, tmp_path):
    (host,) = hosts(Host(rate=1_000_000))
    file, paths = offered(host), []
    both = [
        threading.Thread(target=lambda: paths.append(download(file, tmp_path))) for _ in range(2)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert paths == [tmp_path / "file.bin"] * 2
    assert host.asked == [0]


def test_module_and_function_can_both_be_reached():
    assert data.download is room.download
    assert data.downloads is room


def test_who_does_not_wait_is_told_where_the_other_is_at_work(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "NOTICE", "not a moment")
    with (
        files.locked(tmp_path / "run" / "lock", "", wait=False),
        pytest.raises(RuntimeError, match=f"another process is at work in {tmp_path / 'run'}"),
        files.locked(tmp_path / "run" / "lock", "", wait=False),
    ):
        pass
    with files.locked(tmp_path / "run" / "lock", "", wait=False):
        pass


def test_a_lock_that_cannot_be_made_is_an_error_with_the_remedy_of_its_kind(tmp_path):
    (tmp_path / "file").touch()
    for kind in (OSError, DataError):
        with (
            pytest.raises(kind, match=f"{tmp_path / 'file'} cannot be written to .* Go home"),
            files.locked(tmp_path / "file" / "lock", "Go home.", kind),
        ):
            pass


def test_who_waits_for_another_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "NOTICE", 0.01)
    heard = io.StringIO()
    monkeypatch.setattr("sys.stderr", heard)
    started(tmp_path, BODY)
    file, deadline = offered(body=BODY), time.monotonic() + 60
    with ThreadPoolExecutor(1) as pool:
        with files.locked(tmp_path / "file.bin.lock", ""):
            waiting = pool.submit(download, file, tmp_path)
            while "waiting for another process" not in heard.getvalue():
                assert not waiting.done()
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert waiting.result(60) == tmp_path / "file.bin"
    said = heard.getvalue()
    download(file, tmp_path)
    assert heard.getvalue() == said


# --- CIFAR, in small


def tiny_cifar(name, monkeypatch, hosts, spoil=None):
    """An archive laid out like CIFAR's, with 4 training and 2 test images of each class."""
    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}
    kind, label = kind[name], {"cifar10": "labels", "cifar100": "fine_labels"}[name]
    classes = int(name.removeprefix("cifar"))
    pixels = np.random.default_rng(0)

    def batch(each):
        shape = (each * classes, 3072)
        images = pixels.integers(256, size=shape, dtype=np.uint8)
        numbers = list(range(classes)) * each
        content = {"data": images, label: numbers}
        if name == "cifar100":
            content["coarse_labels"] = [7 * n % 20 for n in numbers]
        return content

    trains = [batch(4 // len(kind.train_list) or 1) for _ in kind.train_list]
    parts = dict(zip([file for file, _ in kind.train_list], trains, strict=True))
    parts[kind.test_list[0][0]] = batch(2)
    parts[kind.meta["filename"]] = {kind.meta["key"]: [f"class {n}" for n in range(classes)]}
    files = {file: spoil or pickle.dumps(content, 2) for file, content in parts.items()}
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as tar:
        for file, content in files.items():
            about = tarfile.TarInfo(f"{kind.base_folder}/{file}")
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    md5 = {file: hashlib.md5(content).hexdigest() for file, content in files.items()}
    monkeypatch.setattr(kind, "train_list", [[file, md5[file]] for file, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [[file, md5[file]] for file, _ in kind.test_list])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5[kind.meta["filename"]]})
    (host,) = hosts(Host(whole.getvalue()))
    monkeypatch.setitem(data.ARCHIVES, name, offered(host, body=whole.getvalue()))
    return host, parts


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_from_the_host_to_tensors_and_then_from_the_cache(name, hosts, monkeypatch, tmp_path):
    host, parts = tiny_cifar(name, monkeypatch, hosts)
    photos = load_photos(name, data_dir=tmp_path, validation_size=0)
    assert (photos.name, photos.title) == (name, name.upper().replace("R1", "R-1"))
    assert photos.identity == data.KNOWN[name]
    assert photos.classes[:2] == ("class 0", "class 1")
    test = parts["test_batch" if name == "cifar10" else "test"]
    assert torch.equal(photos.test.images.flatten(1), torch.from_numpy(test["data"]))
    assert photos.test.images.shape[1:] == (3, 32, 32)
    assert photos.test.labels.tolist() == list(range(len(photos.classes))) * 2
    assert len(photos.train) >= 4 * len(photos.classes)
    assert not list(tmp_path.glob("*.unpacked*"))
    superclasses = tuple(7 * n % 20 for n in range(100)) if name == "cifar100" else None
    assert photos.groups == superclasses

    (tmp_path / "file.bin").unlink()
    host.status = 404
    again = load_photos(name, data_dir=tmp_path, validation_size=0)
    assert torch.equal(again.train.images, photos.train.images)
    assert again.groups == superclasses
    assert host.asked == [0]


def test_a_cache_of_cifar100_without_superclasses_is_made_again(hosts, monkeypatch, tmp_path):
    """As earlier versions wrote it."""
    tiny_cifar("cifar100", monkeypatch, hosts)
    load_photos("cifar100", data_dir=tmp_path, validation_size=0)
    cache = tmp_path / "cifar100.safetensors"
    whole = read_cache(cache)
    write_cache(cache, tmp_path / "part", replace(whole, groups=None))
    assert load_photos("cifar100", data_dir=tmp_path, validation_size=0).groups == whole.groups


def test_a_killed_run_s_leftovers_do_no_harm(hosts, monkeypatch, tmp_path):
    tiny_cifar("cifar10", monkeypatch, hosts)
    (tmp_path / "cifar10.unpacked" / "cifar-10-batches-py").mkdir(parents=True)
    (tmp_path / "cifar10.unpacked" / "cifar-10-batches-py" / "test_batch").write_bytes(b"half")
    (tmp_path / "cifar10.part").write_bytes(b"half")
    (tmp_path / "cifar10.unpacked-1a2b").mkdir()
    assert len(load_photos("cifar10", data_dir=tmp_path, validation_size=0).test) == 20
    assert not list(tmp_path.glob("*.unpacked*"))
    assert not list(tmp_path.glob("*.part"))


def test_a_full_disk_while_unpacking_is_said_and_leaves_nothing(hosts, monkeypatch, tmp_path):
    def full(tar, folder):
        (Path(folder) / "half").write_bytes(b"a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    tiny_cifar("cifar10", monkeypatch, hosts)
    monkeypatch.setattr(tarfile.TarFile, "extractall", full)
    with pytest.raises(DataError, match=r"cannot be written to \(No space left.*Make room"):
        load_photos("cifar10", data_dir=tmp_path)
    assert not list(tmp_path.glob("*.unpacked*"))


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("unpickled what was not checked",))


def test_nothing_is_unpickled_before_the_checksum_matches(hosts, monkeypatch, tmp_path):
    host, _ = tiny_cifar("cifar10", monkeypatch, hosts, spoil=pickle.dumps(Bomb(), 2))
    real = offered(host, body=BODY)
    monkeypatch.setitem(data.ARCHIVES, "cifar10", real)
    (tmp_path / "file.bin").write_bytes(host.body)
    with pytest.raises(DataError, match=r"file\.bin is damaged"):
        load_photos("cifar10", data_dir=tmp_path)
    assert not list(tmp_path.glob("cifar10*safetensors"))


def test_every_host_offers_the_file_of_that_name():
    for file in data.ARCHIVES.values():
        open_hosts = ("http://ufldl.stanford.edu/",)  # which has no other; the digest guards it
        assert all(url.startswith(("https://", *open_hosts)) for url in file.urls)
        assert all(url.endswith(f"/{file.filename}") for url in file.urls)


# --- the data folder


def test_the_data_folder_is_the_argument_then_the_variable_then_the_users_cache(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(room, "user_cache_path", lambda name: tmp_path / name)
    monkeypatch.delenv("CCNOTES_DATA", raising=False)
    assert data.data_folder() == tmp_path / "ccnotes" / "data"
    monkeypatch.setenv("CCNOTES_DATA", str(tmp_path / "variable"))
    assert data.data_folder() == tmp_path / "variable"
    assert data.data_folder(str(tmp_path / "argument")) == tmp_path / "argument"
    assert (tmp_path / "argument").is_dir()


def test_a_data_folder_of_nobody(monkeypatch):
    """A user without a home, as in some containers."""
    monkeypatch.setattr(room, "user_cache_path", lambda name: Path("~nobody-at-all") / name)
    monkeypatch.delenv("CCNOTES_DATA", raising=False)
    with pytest.raises(DataError, match=r"cannot be made .*by \$CCNOTES_DATA or data_dir"):
        data.data_folder()


def test_a_data_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be made .*by \$CCNOTES_DATA or data_dir"):
        data.data_folder(tmp_path / "file" / "data")
