#!/usr/bin/env python3
"""A deliberately wrong replica: it acknowledges a put before anybody else has it, so a killed leader takes puts along.

The leader is the lowest address that was heard of late. It passes its puts on every 0.7 s.
"""

import json
import socket
import sys
import time

PORT, ME, PEERS = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.bind(("127.0.0.1", 0))
link.settimeout(0.05)
heard = {peer: time.monotonic() for peer in PEERS}
store, fresh = {}, {}


def leader():
    now = time.monotonic()
    return min([ME] + [peer for peer, at in heard.items() if now - at < 0.5])


def send(dst, kind, **more):
    message = {"src": ME, "dst": dst, "leader": leader(), "type": kind, **more}
    link.sendto(json.dumps(message).encode(), ("127.0.0.1", PORT))


send("FFFF", "hello")
begun = next_beat = next_copy = time.monotonic() + 1.0
while True:
    now = time.monotonic()
    if now >= next_beat:
        next_beat = now + 0.1
        send("FFFF", "beat")
    if now >= next_copy:
        next_copy = now + 0.7
        if fresh:
            send("FFFF", "copy", fresh=fresh)
            fresh = {}
    try:
        message = json.loads(link.recv(65535))
    except (socket.timeout, TimeoutError):
        continue
    kind, src = message["type"], message["src"]
    if src in heard:
        heard[src] = time.monotonic()
    if kind == "copy":
        store.update(message["fresh"])
    elif kind in ("get", "put") and leader() != ME:
        send(src, "redirect", MID=message["MID"])
    elif kind == "get":
        send(src, "ok", MID=message["MID"], value=store.get(message["key"], ""))
    elif kind == "put":
        store[message["key"]] = fresh[message["key"]] = message["value"]
        send(src, "ok", MID=message["MID"])
