#!/usr/bin/env python3
"""Writes and reads through the client Service and judges every answer.

    recorder.py run URL HOST PORT LOG    until SIGTERM: begins the downtime of HOST:PORT with a growing number as its reason, reads it back;
                                         the API's token is in the environment, API_TOKEN
    recorder.py tell LOG                 one line for people; exit code 1 when an answer was wrong

Each line of the log: time, write or read, ok or failed, the number written or read, the highest number acknowledged when it was asked.
An answer is wrong when a read is older than the last write that was acknowledged before it was asked.
"""
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request


def ask(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=2) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def run(url, host, port, log):
    going = True

    def end(*_):
        nonlocal going
        going = False

    signal.signal(signal.SIGTERM, end)
    token = f"Bearer {os.environ['API_TOKEN']}"
    number = acknowledged = 0
    with open(log, "w", encoding="ascii", buffering=1) as lines:
        while going:
            begun = time.time()
            number += 1
            written = ask(f"{url}/api/begin-downtime/{host}/{port}/recorder/{number}/1h", Authorization=token) is not None
            if written:
                acknowledged = number
            print(f"{time.time():.3f} write {'ok' if written else 'failed'} {number} {acknowledged}", file=lines)
            known = acknowledged
            found = ask(f"{url}/api/downtimed")
            if found is None:
                print(f"{time.time():.3f} read failed 0 {known}", file=lines)
            else:
                mine = [i for i in found if i["Key"] == {"Hostname": host, "Port": int(port)} and i["DowntimeOwner"] == "recorder"]
                seen = int(mine[0]["DowntimeReason"]) if mine else 0
                print(f"{time.time():.3f} read ok {seen} {known}", file=lines)
            time.sleep(max(0, begun + 0.1 - time.time()))
    ask(f"{url}/api/end-downtime/{host}/{port}", Authorization=token)


def tell(log):
    counts = {"write": [0, 0], "read": [0, 0]}
    wrong, pause, last = [], 0, None
    with open(log, encoding="ascii") as lines:
        for line in lines:
            at, kind, outcome, number, known = line.split()
            counts[kind][1] += 1
            if outcome != "ok":
                continue
            counts[kind][0] += 1
            if kind == "read" and int(number) < int(known):
                wrong.append(line.strip())
            if kind == "write":
                pause = max(pause, float(at) - last if last else 0)
                last = float(at)
    (writes, asked), (reads, asked_reads) = counts["write"], counts["read"]
    print(f"{writes} of {asked} writes and {reads} of {asked_reads} reads answered, longest pause between writes {pause:.2f} s, {len(wrong)} wrong")
    print("\n".join(wrong[:5]))
    sys.exit(1 if wrong or writes < 20 or pause > 3 else 0)


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(*sys.argv[2:])
    else:
        tell(sys.argv[2])
