"""Whether a JPEG file is whole: decoders paint what they cannot read grey, without a word."""

import io
import re

from PIL import Image

MARKER = re.compile(rb"\xff+([^\x00\xff])")  # what lies between two is coded picture
RESTARTS, END, SCAN, INTERVAL = range(0xD0, 0xD8), 0xD9, 0xDA, 0xDD
AMID_SCANS = (0xC4, SCAN, 0xDB, 0xDC, INTERVAL, *range(0xE0, 0xF0), 0xFE)
MORE = bytes(range(1, 255)) * 2  # coded picture, if need be


def check_jpeg(data: bytes, pixels: bytes) -> None:
    """ValueError where the first picture of a JPEG file is cut off or overwritten.

    ``pixels`` are what is decoded from ``data``, the file. It is whole where its markers follow one
    another as they may (ITU-T T.81, annex B), and where more coded picture before its end does not
    change the pixels: then none is missing. What was overwritten by bytes that may stand there
    just as well, and that are enough, is not noticed.

    >>> file = io.BytesIO()
    >>> Image.new("L", (8, 8), 77).save(file, "jpeg")
    >>> check_jpeg(file.getvalue()[:-2], bytes([77] * 64))
    Traceback (most recent call last):
    ValueError: it is cut off: it has no end marker
    """
    end = end_of_picture(data)
    with Image.open(io.BytesIO(data[:end] + MORE + b"\xff\xd9"), formats=("JPEG",)) as longer:
        if longer.tobytes() != pixels:
            raise ValueError("it is cut off: pixels are missing")


def end_of_picture(data: bytes) -> int:
    """Where the first picture's end marker stands. ValueError where none does, or a wrong one."""
    place, scans, interval, restarts = 2, 0, 0, 0
    while marker := MARKER.search(data, place):
        code, place = marker[1][0], marker.end()
        if code == END:
            return place - 2
        due = RESTARTS[restarts % 8] if interval else None
        if scans and code not in (*AMID_SCANS, due):
            raise ValueError(f"it is damaged, at byte {marker.start():,}")
        if code == due:
            restarts += 1
            continue
        if code == SCAN:
            scans, restarts = scans + 1, 0
        if code == INTERVAL:
            interval = int.from_bytes(data[place + 2 : place + 4])
        place += int.from_bytes(data[place : place + 2])
    raise ValueError("it is cut off: it has no end marker")
