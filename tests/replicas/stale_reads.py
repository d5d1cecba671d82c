#!/usr/bin/env python3
"""A deliberately wrong replica: a leader in the minority of a partition still answers gets.

A put is acknowledged when a majority has it; a get is answered by whoever takes itself for the leader.
"""

from course import MAJORITY, ME, leader, messages, send

store, open_puts, number = {}, {}, 0
for message in messages():
    if message is None:
        continue
    kind, src = message["type"], message["src"]
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
