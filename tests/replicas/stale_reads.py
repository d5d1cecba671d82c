#!/usr/bin/env python3
"""A deliberately wrong replica: a leader in the minority of a partition still answers gets.

The leader is the lowest address that was heard of late. A put is acknowledged when a majority has it; a get is answered by
whoever takes itself for the leader.
"""

import json
import socket
import sys
import time

PORT, ME, PEERS = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
MAJORITY = (len(PEERS) + 1) // 2 + 1
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.bind(("127.0.0.1", 0))
link.settimeout(0.05)
heard = {peer: time.monotonic() for peer in PEERS}
store, open_puts, number = {}, {}, 0


def leader():
    now = time.monotonic()
    return min([ME] + [peer for peer, at in heard.items() if now - at < 0.5])


def send(dst, kind, **more):
    message = {"src": ME, "dst": dst, "leader": leader(), "type": kind, **more}
    link.sendto(json.dumps(message).encode(), ("127.0.0.1", PORT))


send("FFFF", "hello")
next_beat = time.monotonic() + 1.0
while True:
    now = time.monotonic()
    if now >= next_beat:
        next_beat = now + 0.1
        send("FFFF", "beat")
    try:
        message = json.loads(link.recv(65535))
    except (socket.timeout, TimeoutError):
        continue
    kind, src = message["type"], message["src"]
    if src in heard:
        heard[src] = time.monotonic()
    if kind == "copy":
        store[message["key"]] = message["value"]
        send(src, "copied", number=message["number"])
    elif kind == "copied" and message["number"] in open_puts:
        put = open_puts[message["number"]]
        put["holders"].add(src)
        if len(put["holders"]) >= MAJORITY:
            del open_puts[message["number"]]
            store[put["key"]] = put["value"]
            send(put["src"], "ok", MID=put["MID"])
    elif kind in ("get", "put") and leader() != ME:
        send(src, "redirect", MID=message["MID"])
    elif kind == "get":
        send(src, "ok", MID=message["MID"], value=store.get(message["key"], ""))
    elif kind == "put":
        number += 1
        open_puts[number] = {**message, "holders": {ME}}
        send("FFFF", "copy", number=number, key=message["key"], value=message["value"])
