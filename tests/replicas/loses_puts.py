#!/usr/bin/env python3
"""A deliberately wrong replica: it acknowledges a put before anybody else has it, so a killed leader takes puts along.

It passes its puts on every 0.7 s.
"""

import time

from course import ME, leader, messages, send

store, fresh = {}, {}
next_copy = time.monotonic() + 1.0
for message in messages():
    if fresh and time.monotonic() >= next_copy:
        next_copy = time.monotonic() + 0.7
        send("FFFF", "copy", fresh=fresh)
        fresh = {}
    if message is None:
        continue
    kind, src = message["type"], message["src"]
    if kind == "copy":
        store.update(message["fresh"])
    elif kind in ("get", "put") and leader() != ME:
        send(src, "redirect", MID=message["MID"])
    elif kind == "get":
        send(src, "ok", MID=message["MID"], value=store.get(message["key"], ""))
    elif kind == "put":
        store[message["key"]] = fresh[message["key"]] = message["value"]
        send(src, "ok", MID=message["MID"])
