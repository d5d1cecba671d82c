#!/usr/bin/env python3
"""A second settlement, written from docs/ledger.md alone.

Reads one JSON object per line: what happens to one cluster, in order. Keeps its own books, and answers every interval with
one JSON object per line. tests/reference.rs plays the same to the replicated machine and compares.

    {"cluster": {"kind", "n", "interval_ms", "reward", "penalty", "budget"}}    begins anew
    {"join": name} {"leave": name} {"adjust": name, "delta": d} {"claim": name, "amount": a}
    {"maintain": name, "from": id, "to": id}
    {"interval": id, "members": how many there are, "version": [major, minor] or null,
     "reports": {observer: null or {"whole", "stall", "score", "rows": {member: [sent, answered, p90, version]}}}}
"""

import json
import sys

M = 1_000_000
POINT = 1_000_000
FLOOR = -100 * POINT


class Member:
    def __init__(self):
        self.balance, self.strikes, self.suspensions, self.remaining = 0, 0, 0, 0
        self.status, self.left, self.windows = "active", False, []


def upper_median(values):
    return sorted(values)[len(values) // 2]


def lower_median(values):
    return sorted(values)[(len(values) - 1) // 2]


def version_factor(cluster, stated):
    if cluster is None or stated is None:
        return M
    if stated[0] != cluster[0]:
        return 0
    return 800_000 if stated[1] < cluster[1] else M


def score(policy, version, seen):
    """`seen`: rows of the observers that count. None without enough evidence."""
    n = policy["n"]
    scored = [row for row in seen if 2 * row[0] >= n]
    if not scored:
        return None
    availabilities = [answered * M // sent if sent else 0 for sent, answered, _, _ in scored]
    a = upper_median(availabilities)
    timed = [p90 for _, answered, p90, _ in scored if answered]
    p = lower_median(timed) if timed else 0
    v = upper_median([version_factor(version, row[3]) for row in scored])
    c = min(M, upper_median([row[0] for row in scored]) * M // n)
    if policy["kind"] == "classic":
        if a < M // 2:
            return {"a": a, "s": 0, "reward": 0, "penalty": policy["penalty"]}
        served = v > 0
        return {"a": a, "s": M if served else 0, "reward": policy["reward"] if served else 0, "penalty": 0}
    if p <= 250_000:
        l = M
    elif p >= 2_000_000:
        l = M // 2
    else:
        l = M - (M // 2) * (p - 250_000) // 1_750_000
    s = 0 if a < M // 2 else a * l // M * v // M
    reward = policy["reward"] * s // M * c // M
    miss = M - a
    penalty = 0 if miss <= 100_000 else policy["penalty"] * (miss - 100_000) // 900_000 * c // M
    return {"a": a, "s": s, "reward": reward, "penalty": penalty}


def stand(policy, member, result, strikes_count):
    """Strikes, suspension, probation."""
    if member.status == "suspended":
        if not strikes_count:
            return
        member.remaining -= 1
        if member.remaining > 0:
            return
        if policy["kind"] == "classic":
            member.status, member.strikes, member.remaining = "active", 0, 0
        else:
            member.status, member.strikes, member.remaining = "probation", 20, 3
        return
    if result is None:
        return
    dark, good = result["a"] < M // 2, result["a"] >= 900_000
    if dark and not strikes_count:
        return
    if policy["kind"] == "classic":
        member.strikes = member.strikes + 1 if dark else 0
        limit, cooldown = 10, max(1, -(-600_000 // policy["interval_ms"]))
    else:
        if dark:
            member.strikes += 4
        elif good:
            member.strikes = max(0, member.strikes - 1)
        limit, cooldown = 40, min(640, 10 * 2**member.suspensions)
    if member.strikes >= limit:
        member.status, member.remaining = "suspended", cooldown
        member.suspensions += 1
    elif member.status == "probation" and good:
        member.remaining -= 1
        if member.remaining <= 0:
            member.status, member.remaining = "active", 0


def why_not(report):
    if report is None:
        return "absent"
    if not report["whole"]:
        return "cold"
    if report["stall"] >= 1_000:
        return "stalled"
    return "unhealthy" if report["score"] >= 4 else ""


def rule(policy, event, excused):
    """Who counts, why the others do not, and the verdict."""
    n, reports = policy["n"], event["reports"]
    whys = {observer: why_not(report) for observer, report in reports.items()}
    used = [observer for observer in sorted(reports) if not whys[observer]]
    others = event["members"] - 1

    def is_dark(row):
        return 2 * row[0] >= n and row[0] > 0 and row[1] * M // row[0] < M // 2

    def dark_members(observer):
        rows = reports[observer]["rows"]
        return [name for name, row in rows.items() if is_dark(row) and name not in excused]

    most = [observer for observer in used if 2 * len(dark_members(observer)) > others]
    if len(most) == 1 and len(used) > 1 and event["members"] >= 4:
        agreed = 0
        rest = [observer for observer in used if observer != most[0]]
        for name in {name for observer in rest for name in reports[observer]["rows"]} - excused:
            rows = [reports[o]["rows"][name] for o in rest if name in reports[o]["rows"]]
            seen = [row[1] * M // row[0] if row[0] else 0 for row in rows if 2 * row[0] >= n]
            agreed += bool(seen) and upper_median(seen) < M // 2
        if 2 * agreed <= event["members"]:
            whys[most[0]] = "alone"
            used.remove(most[0])
            most = []
    if len(used) < len(reports) // 2 + 1:
        return whys, used, "void"
    if all(observer in most for observer in used):
        return whys, used, "void" if len(used) == 1 else "correlated"
    return whys, used, "settled"


class Cluster:
    def __init__(self, policy):
        self.policy, self.members, self.correlated = policy, {}, 0

    def interval(self, event):
        excused = {
            name
            for name, member in self.members.items()
            if any(first <= event["interval"] <= last for first, last in member.windows)
        }
        whys, used, verdict = rule(self.policy, event, excused)
        self.correlated = self.correlated + 1 if verdict == "correlated" else 0
        strikes_count = verdict == "settled" or self.correlated > 5
        answer = {"interval": event["interval"], "verdict": verdict, "whys": whys, "members": {}}
        if verdict == "void":
            return answer
        reports = event["reports"]
        judged = []
        for name in sorted(self.members):
            member = self.members[name]
            seen = [reports[o]["rows"][name] for o in used if name in reports[o]["rows"]]
            cooling = member.status == "suspended" and not member.left
            if not seen and not cooling:
                continue
            result = score(self.policy, event["version"], seen)
            earned = 0
            if result and name not in excused and member.status == "active":
                earned = result["reward"]
            judged.append((name, member, result, earned))
        granted = self.share({name: earned for name, _, _, earned in judged if earned > 0})
        for name, member, result, _ in judged:
            reward, penalty = granted.get(name, 0), 0
            counts = None if name in excused else result
            if counts and member.status != "suspended" and verdict != "correlated":
                room = member.balance + reward - FLOOR
                penalty = max(0, min(counts["penalty"], room))
            stand(self.policy, member, counts, strikes_count)
            member.balance += reward - penalty
            answer["members"][name] = {
                "availability": result["a"] if result else 0,
                "score": result["s"] if result else 0,
                "reward": reward,
                "penalty": penalty,
                "balance": member.balance,
                "strikes": member.strikes,
                "status": "left" if member.left else member.status,
                "suspensions": member.suspensions,
                "remaining": member.remaining,
                "excused": name in excused,
            }
        return answer

    def share(self, earned):
        budget, total = self.policy["budget"], sum(earned.values())
        if budget == 0 or total <= budget:
            return earned
        granted = {name: amount * budget // total for name, amount in earned.items()}
        left = budget - sum(granted.values())
        for name in sorted(earned, key=lambda name: (-earned[name], name))[:left]:
            granted[name] += 1
        return granted

    def take(self, event):
        if "join" in event:
            self.members.setdefault(event["join"], Member()).left = False
        elif "leave" in event:
            self.members[event["leave"]].left = True
        elif "adjust" in event:
            self.members[event["adjust"]].balance += event["delta"]
        elif "claim" in event:
            self.members[event["claim"]].balance -= event["amount"]
        elif "maintain" in event:
            self.members[event["maintain"]].windows.append((event["from"], event["to"]))
        else:
            print(json.dumps(self.interval(event)))


def main():
    cluster = None
    for line in sys.stdin:
        event = json.loads(line)
        if "cluster" in event:
            cluster = Cluster(event["cluster"])
        else:
            cluster.take(event)


main()
