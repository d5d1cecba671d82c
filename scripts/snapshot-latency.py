#!/usr/bin/env python3
"""Measures the latency of writes while a large snapshot is sent.

Starts three super-nodes in a temporary directory, fills them (1024 MiB unless told otherwise), takes away the state of a
follower, so that it fetches the whole of it from the leader, and runs `super-node bench` before and during the transfer.

  scripts/snapshot-latency.py [--mib 1024] [--seconds 12] [--clients 16] [--binary target/release/super-node]
"""

import argparse
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def wait_for(what, ask, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            found = ask()
        except OSError:
            found = None
        if found:
            return found
        time.sleep(0.1)
    sys.exit(f"{what}: not within {seconds} s")


class Cluster:
    def __init__(self, binary, directory):
        self.binary, self.directory = binary, pathlib.Path(directory)
        self.ids = ["n1", "n2", "n3"]
        self.clients = {node: free_port() for node in self.ids}
        self.peers = {node: free_port() for node in self.ids}
        self.processes = {}

    def url(self, node):
        return f"http://127.0.0.1:{self.clients[node]}"

    def start(self, node):
        peers = ",".join(f"{other}=127.0.0.1:{port}" for other, port in self.peers.items())
        # A log that forgets soon: otherwise the state would be made again from it.
        environment = dict(os.environ, SUPER_NODE_LISTEN__AGENTS=f"127.0.0.1:{free_port()}",
                           SUPER_NODE_RAFT__SNAPSHOT_ENTRIES="100")
        environment.pop("MONGODB_URI", None)
        log = open(self.directory / f"{node}.log", "a")
        self.processes[node] = subprocess.Popen(
            [self.binary, "start", "--id", node, "--data-dir", self.directory / node, "--peers", peers,
             "--listen", f"127.0.0.1:{self.clients[node]}", "--peer-listen", f"127.0.0.1:{self.peers[node]}"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=self.directory)

    def stop(self, node, how=signal.SIGKILL):
        process = self.processes.pop(node)
        process.send_signal(how)
        process.wait()

    def leader(self):
        return wait_for("a leader", lambda: get(f"{self.url('n1')}/v1/status")["leader"])

    def bench(self, nodes, clients, seconds):
        endpoints = ",".join(self.url(node) for node in nodes)
        command = [self.binary, "--endpoints", endpoints, "-o", "json", "bench",
                   "--clients", str(clients), "--seconds", str(seconds), "--warm-up", "100ms", "--no-bare"]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def fill(url, mib):
    text = "x" * (1 << 19)
    for number in range(2 * mib):
        request = urllib.request.Request(f"{url}/v1/kv/fill{number:06}", method="PUT",
                                         data=json.dumps(f"{number:06}{text}").encode(),
                                         headers={"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()


def main():
    wishes = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wishes.add_argument("--mib", type=int, default=1024)
    wishes.add_argument("--seconds", type=int, default=12)
    wishes.add_argument("--clients", type=int, default=16)
    wishes.add_argument("--binary", default="target/release/super-node")
    wishes = wishes.parse_args()
    binary = pathlib.Path(wishes.binary).resolve()
    with tempfile.TemporaryDirectory() as directory:
        cluster = Cluster(binary, directory)
        try:
            for node in cluster.ids:
                cluster.start(node)
            leader = cluster.leader()
            fill(cluster.url(leader), wishes.mib)
            victim = next(node for node in cluster.ids if node != leader)
            # The same two before and during: the third is away for a moment, and then busy.
            others = [node for node in cluster.ids if node != victim]
            print("before: ", cluster.bench(others, wishes.clients, wishes.seconds), flush=True)
            # Otherwise it would make its state again from its log.
            wait_for("the follower's log has forgotten its beginning",
                     lambda: get(f"{cluster.url(victim)}/v1/status")["log"]["base_index"] > 0)
            cluster.stop(victim, signal.SIGTERM)
            (cluster.directory / victim / "state.redb").unlink()
            cluster.start(victim)
            lacks = lambda: get(f"{cluster.url(victim)}/v1/status")["lacks_state"]
            wait_for("the follower lacks its state", lacks)
            begun = time.monotonic()
            print("during: ", cluster.bench(others, wishes.clients, wishes.seconds), flush=True)
            overlaps = lacks()
            wait_for("the state is there again", lambda: not lacks(), seconds=600)
            print(f"the snapshot of {wishes.mib} MiB was there after {time.monotonic() - begun:.1f} s; the measurement "
                  + ("lies within that time" if overlaps else "outlasted it: take more --mib or fewer --seconds"))
        finally:
            for node in list(cluster.processes):
                cluster.stop(node)


if __name__ == "__main__":
    main()
