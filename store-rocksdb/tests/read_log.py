#!/usr/bin/env python3
"""Reads an export of a store, and prints each event as a line of JSON.

Written by FORMAT.md alone, without a library: it shows that the page is enough. Data is printed in hexadecimal.

usage: read_log.py FILE
"""

import json
import sys
import uuid

TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    TABLE.append(byte)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283


class Damage(Exception):
    pass


def check(holds, what):
    if not holds:
        raise Damage(what)


class Fields:
    """Bytes that are read from the first to the last."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, length):
        check(self.at + length <= len(self.data), "it ends too early")
        self.at += length
        return self.data[self.at - length : self.at]

    def rest(self):
        return self.take(len(self.data) - self.at)

    def number(self, length, signed=False, order="little"):
        return int.from_bytes(self.take(length), order, signed=signed)

    def varint(self):
        number = shift = 0
        while True:
            byte = self.number(1)
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                check(number < 1 << 64 and (byte or shift == 7), "a varint is too large, or too long")
                return number
            check(shift < 70, "a varint is too long")

    def id(self):
        return str(uuid.UUID(bytes=self.take(16)))

    def name(self):
        length = self.number(1)
        check(length > 0, "a name is empty")
        return self.take(length).decode()


def open_frame(value):
    """The body of a frame, and its checksum."""
    fields = Fields(value)
    version, checksum = fields.take(1), fields.number(4)
    body = fields.rest()
    check(crc32c(version + body) == checksum, "the checksum is wrong")
    if version != b"\x01":
        sys.exit(f"version {version[0]} is newer than this reader")
    return Fields(body), checksum


def read_entry(fields):
    version, flags = fields.varint(), fields.number(1)
    event = {"version": version, "closes_stream": bool(flags & 1), "ends_append": bool(flags & 2)}
    event["id"] = fields.id()
    event["causation_id"] = fields.id() if flags & 4 else None
    event["correlation_id"] = fields.id() if flags & 8 else None
    event["schema_version"] = fields.varint() if flags & 16 else 1
    event["stream"] = fields.name()
    event["type"] = fields.name()
    event["content_type"] = fields.name() if flags & 32 else "application/json"
    event["tags"] = [fields.name() for _ in range(fields.number(1))] if flags & 64 else []
    metadata = fields.varint() if flags & 128 else 0
    event["metadata"] = {}
    for _ in range(metadata):
        key = fields.name()
        event["metadata"][key] = fields.take(fields.varint()).decode()
    event["data"] = fields.rest().hex()
    return event


def read_export(export):
    """The events of an export."""
    check(export.take(16) == b"indelible log 1\n", "this is no export, or a newer one")
    export.id()
    next_position = previous = None
    while True:
        key, length = export.number(8, order="big"), export.number(4)
        if key == length == 0:
            check(not export.rest(), "it goes on behind its end")
            return
        value = Fields(export.take(length))
        head, checksum = open_frame(value.take(value.number(4)))
        first, before, recorded_at, count = head.varint(), head.number(4), head.number(8, signed=True), head.varint()
        check(first + count - 1 == key, f"the block that ends at {key} is another's")
        check(next_position in (None, first), f"the block at {first} is out of order")
        check(previous in (None, before), f"the block at {first} does not follow the one before")
        check(first > 1 or before == 0, "the first block has a predecessor")
        directory = [(head.varint(), head.number(4)) for _ in range(count)]
        check(not head.rest(), f"the head of the block that ends at {key} goes on behind its end")
        for position, (length, entry_checksum) in enumerate(directory, first):
            entry = value.take(length)
            check(crc32c(entry) == entry_checksum, f"the checksum of event {position} is wrong")
            yield {"position": position, "recorded_at": recorded_at, **read_entry(Fields(entry))}
        check(not value.rest(), f"the block that ends at {key} goes on behind its end")
        next_position, previous = key + 1, checksum


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        export = Fields(file.read())
    try:
        for event in read_export(export):
            print(json.dumps(event, ensure_ascii=False, sort_keys=True))
    except (Damage, UnicodeDecodeError) as damage:
        sys.exit(f"damaged at byte {export.at}: {damage}")
