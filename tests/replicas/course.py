"""What the wrong replicas of this folder do right: the course's datagrams, and a leader that is the lowest address heard of late."""

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


def leader():
    now = time.monotonic()
    return min([ME] + [peer for peer, at in heard.items() if now - at < 0.5])


def send(dst, kind, **more):
    message = {"src": ME, "dst": dst, "leader": leader(), "type": kind, **more}
    link.sendto(json.dumps(message).encode(), ("127.0.0.1", PORT))


def messages():
    """Every message that comes; None now and then when none does. Says hello, and from 1 s on every 0.1 s that it lives."""
    send("FFFF", "hello")
    next_beat = time.monotonic() + 1.0
    while True:
        now = time.monotonic()
        if now >= next_beat:
            next_beat = now + 0.1
            send("FFFF", "beat")
        try:
            message = json.loads(link.recv(65535))
        except TimeoutError:
            yield None
            continue
        if message["src"] in heard:
            heard[message["src"]] = time.monotonic()
        yield message
