"""A member of the fleet in Python, written from docs/agent-protocol.md alone. Nothing but the standard library.

usage: agent.py ID URL [KEYFILE]
"""
import hashlib, hmac, json, os, socket, sys, threading, time, urllib.error, urllib.request

NAME, URL = sys.argv[1], sys.argv[2]
if len(sys.argv) > 3 and os.path.exists(sys.argv[3]):
    KEY = bytes.fromhex(open(sys.argv[3]).read().strip())
else:
    KEY = os.urandom(32)
    if len(sys.argv) > 3:
        open(sys.argv[3], "w").write(KEY.hex())
VERSION = (0, 1, 0)

def mac(data):
    return hmac.new(KEY, data, hashlib.sha256).digest()[:16]

def text(data, at):
    return data[at + 1 : at + 1 + data[at]].decode(), at + 1 + data[at]

def answer(ping):
    """The pong for a ping, or None for anything else."""
    if len(ping) != 192 or ping[:6] != b"SNOD\x02\x01":
        return None
    if not hmac.compare_digest(mac(ping[:176]), ping[176:]):
        return None
    cluster, at = text(ping, 38)
    member, at = text(ping, at)
    if member != NAME:
        return None
    version = b"".join(part.to_bytes(2, "big") for part in VERSION)
    pong = b"SNOD\x02\x02" + ping[6:30] + version + bytes([len(NAME)]) + NAME.encode()
    return pong + mac(pong)

def enrol(address):
    """Asks until it is a member: 200. 202 means that an operator has to approve."""
    body = {"id": NAME, "address": address, "key": KEY.hex(), "version": ".".join(map(str, VERSION))}
    head = {"Content-Type": "application/json"}
    while True:
        try:
            request = urllib.request.Request(URL + "/v1/members:enrol", json.dumps(body).encode(), head)
            with urllib.request.urlopen(request, timeout=5) as response:
                if response.status == 200:
                    return
        except urllib.error.HTTPError as error:
            print(error.code, error.read().decode(), file=sys.stderr)
        except OSError as error:
            print(error, file=sys.stderr)
        time.sleep(1)

udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
threading.Thread(target=enrol, args=("127.0.0.1:%d" % udp.getsockname()[1],), daemon=True).start()
while True:
    ping, sender = udp.recvfrom(2048)
    pong = answer(ping)
    if pong:
        udp.sendto(pong, sender)
