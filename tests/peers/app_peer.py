"""An app: HTTP/1.1 with keep-alive on a port, which at SIGTERM finishes what it has begun and leaves.

    app_peer.py ADDRESS PORT [WORK_MS]   says at the end how many POSTs it has served
    app_peer.py calls URL                calls the URL without end; prints every answer, flushed; leaves 3 s after SIGTERM
"""

import asyncio
import http.client
import signal
import sys
import time
import urllib.parse


class App:
    def __init__(self, work):
        self.work = work
        self.leaving = False
        self.posts = 0
        self.idle = {}
        self.open = set()

    async def serve(self, reader, writer):
        self.open.add(writer)
        try:
            while not self.leaving:
                self.idle[writer] = reader
                head = await reader.readuntil(b"\r\n\r\n")
                self.idle.pop(writer, None)
                length = 0
                for line in head.split(b"\r\n")[1:]:
                    name, _, value = line.partition(b":")
                    if name.lower() == b"content-length":
                        length = int(value)
                if length:
                    await reader.readexactly(length)
                if self.work:
                    await asyncio.sleep(self.work / 1000)
                self.posts += head.startswith(b"POST ")
                if head.startswith(b"GET /bye "):
                    print("asked to say goodbye", file=sys.stderr, flush=True)
                close = b"connection: close\r\n" if self.leaving else b""
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n" + close + b"\r\nok\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
            pass
        finally:
            self.idle.pop(writer, None)
            self.open.discard(writer)
            writer.close()

    async def run(self, address, port):
        server = await asyncio.start_server(self.serve, address, port, backlog=1024)
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        print("serving", flush=True)
        await stop.wait()
        self.leaving = True
        server.close()
        # What has been read of a request will be answered.
        for writer, reader in list(self.idle.items()):
            if not reader._buffer:
                writer.close()
        while self.open - self.idle.keys() or any(reader._buffer for reader in self.idle.values()):
            await asyncio.sleep(0.01)
        print(f"served {self.posts} posts", file=sys.stderr, flush=True)


def calls(url):
    parts = urllib.parse.urlsplit(url)
    until = [None]
    signal.signal(signal.SIGTERM, lambda *_: until.__setitem__(0, time.monotonic() + 3))
    while until[0] is None or time.monotonic() < until[0]:
        try:
            connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=5)
            connection.request("GET", parts.path or "/", headers={"host": "shop"})
            print(connection.getresponse().status, flush=True)
            connection.close()
        except OSError as error:
            print(error, flush=True)
        time.sleep(0.05)


if sys.argv[1] == "calls":
    calls(sys.argv[2])
else:
    asyncio.run(App(int(sys.argv[3]) if len(sys.argv) > 3 else 0).run(sys.argv[1], int(sys.argv[2])))
