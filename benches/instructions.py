#!/usr/bin/env python3
"""Instructions that weir spends on a request, beside a stored baseline: a guard that no machine's mood disturbs.

weir runs under callgrind with one worker, an nginx origin behind it and one caller in front. Each scenario runs twice, with
few requests and with many; the difference is what requests cost, without start and end.

    cargo build --release && python3 benches/instructions.py            # compare; exit code 1 if a scenario costs more
    python3 benches/instructions.py --update                            # after a change that is meant

The baseline (benches/instructions.json) belongs to a compiler version: with another one the figures are shown and nothing
is judged. Needs valgrind, nginx, ab and h2load (Debian); without them it says so and judges nothing.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BASELINE = os.path.join(HERE, "instructions.json")
# Other code around the same work moves a figure by so much: inlining, sizes of allocations.
TOLERANCE = 0.02
FEW, MANY = 1000, 6000

ORIGIN = """
worker_processes 1; daemon off; error_log /dev/null; pid {dir}/origin.pid;
events {{ worker_connections 1024; }}
http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 3600;
  server {{ listen 127.0.0.1:{origin}; location / {{ return 200 "hello, this is a small body\\n"; }} }} }}
"""

WEIR = """
workers: 1
admin: {{ listen: 'off' }}
listeners: [{{ name: out, listen: 127.0.0.1:{port}, direction: outbound }}]
routes: [{{ name: r, hosts: ['*'], rules: [{{ backends: [{{ cluster: c }}]{rule} }}] }}]
clusters: {{ c: {{ endpoints: [127.0.0.1:{origin}], protocol: http1 }} }}
"""

POLICY = """,
  timeout: { request: 10s, per_try: 2s, idle: 300s },
  retry: { attempts: 2, on: [5xx, reset, connect-failure, gateway-error] }"""

AB = ["ab", "-q", "-k", "-c", "1", "-n", "{count}", "http://127.0.0.1:{port}/"]
H2LOAD = ["h2load", "-c", "1", "-m", "8", "-n", "{count}", "http://127.0.0.1:{port}/"]

SCENARIOS = {
    "http1": ("", AB),
    "http1, timeouts and retries configured": (POLICY, AB),
    "http2 to http1": ("", H2LOAD),
}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def until_listening(port, process):
    for _ in range(600):
        if process.poll() is not None:
            sys.exit(f"a program that was needed has ended: {process.args[0]}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"nothing listens on port {port} after a minute")


def stop(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()


def instructions(weir, dir, rule, load, origin, count):
    port = free_port()
    with open(f"{dir}/weir.yaml", "w") as file:
        file.write(WEIR.format(port=port, origin=origin, rule=rule))
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={dir}/out", weir, "run", "-c", f"{dir}/weir.yaml"]
    with open(f"{dir}/log", "w") as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
    try:
        until_listening(port, process)
        done = subprocess.run([a.format(count=count, port=port) for a in load], capture_output=True, text=True)
        failed = re.search(r"Failed requests:\s+([1-9]\d*)|Non-2xx|[1-9]\d* failed", done.stdout)
        if done.returncode != 0 or failed:
            sys.exit(f"the load failed: {done.stdout}{done.stderr}")
    finally:
        stop(process)
    with open(f"{dir}/log") as log:
        found = re.search(r"Collected : (\d+)", log.read())
    if not found:
        sys.exit(f"callgrind said nothing; see {dir}/log")
    return int(found.group(1))


def compiler():
    return subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weir", default=os.path.join(HERE, "..", "target", "release", "weir"))
    parser.add_argument("--update", action="store_true", help="store what is found as the new baseline")
    options = parser.parse_args()
    missing = [name for name in ("valgrind", "nginx", "ab", "h2load") if not shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")]
    if missing:
        print(f"instructions per request: not measured, for want of {', '.join(missing)}")
        return 0
    if not os.path.exists(options.weir):
        sys.exit(f"there is no {options.weir}; run `cargo build --release`")
    baseline = json.load(open(BASELINE)) if os.path.exists(BASELINE) else {"compiler": None, "scenarios": {}}
    with tempfile.TemporaryDirectory() as dir:
        origin_port = free_port()
        with open(f"{dir}/origin.conf", "w") as file:
            file.write(ORIGIN.format(dir=dir, origin=origin_port))
        environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"}
        origin = subprocess.Popen(["nginx", "-c", f"{dir}/origin.conf"], stderr=subprocess.DEVNULL, env=environment)
        try:
            until_listening(origin_port, origin)
            found = {}
            for name, (rule, load) in SCENARIOS.items():
                few, many = (instructions(options.weir, dir, rule, load, origin_port, count) for count in (FEW, MANY))
                found[name] = (many - few) // (MANY - FEW)
        finally:
            stop(origin)
    return judge(found, baseline, options.update)


def judge(found, baseline, update):
    same = baseline["compiler"] == compiler()
    worse = []
    print(f"instructions per request ({compiler()})")
    for name, count in found.items():
        known = baseline["scenarios"].get(name)
        change = f"{100 * (count / known - 1):+.1f} % against {known}" if known else "no baseline"
        print(f"  {name:<42} {count:>8}   {change}")
        if known and count > known * (1 + TOLERANCE):
            worse.append(name)
    if update:
        with open(BASELINE, "w") as file:
            json.dump({"compiler": compiler(), "scenarios": found}, file, indent=2)
            file.write("\n")
        print(f"stored in {os.path.relpath(BASELINE)}")
        return 0
    if not same:
        print(f"not judged: the baseline belongs to {baseline['compiler']}; store a new one with --update")
        return 0
    if worse:
        print(f"more than {TOLERANCE:.0%} above the baseline: {', '.join(worse)}. Find out why, or say so with --update.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
