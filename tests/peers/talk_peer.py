"""Services in which somebody other than HTTP speaks, and clients of theirs that check what they hear.

    talk_peer.py serve ADDRESS PORT       greets every caller, then echoes lines in capitals
    talk_peer.py eager ADDRESS PORT       sends SETTINGS of HTTP/2 to every caller at once, and says no more
    talk_peer.py who ADDRESS PORT         answers HTTP/1.1 with the address of whoever called
    talk_peer.py mirror ADDRESS PORT WORD   says WORD and what it heard first, and ends
    talk_peer.py late ADDRESS PORT SECONDS   answers a request of HTTP/1.1 with a body after it has not read on for so long
    talk_peer.py proxy ADDRESS PORT       consents to CONNECT, or to any upgrade, says which head it saw, and echoes in capitals; refuses with a `refuse` header
    talk_peer.py says ADDRESS PORT TEXT [end]   connects, says TEXT (with escapes), ends its side if told to; prints what it hears
    talk_peer.py greeted ADDRESS PORT N   connects N times, waits for the greeting, says a line; prints the median milliseconds to the greeting
    talk_peer.py silent ADDRESS PORT      connects, sends nothing, and ends its side at once; prints what it hears
    talk_peer.py slow ADDRESS PORT        an HTTP/2 preface after some silence, one byte each 100 ms; prints the type of the first frame that comes back
    talk_peer.py torn ADDRESS PORT        a request of HTTP/1.1, one byte each 20 ms; prints the first line of the answer
"""

import socket
import socketserver
import statistics
import sys
import time


class Greeter(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 at your service\r\n")
        for line in self.rfile:
            self.wfile.write(line.upper())


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def connect(address, port):
    connection = socket.create_connection((address, int(port)), timeout=20)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def serve(address, port):
    Server.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with Server((address, int(port)), Greeter) as server:
        print("serving", flush=True)
        server.serve_forever()


class Eager(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"\0\0\0\x04\0\0\0\0\0")
        while self.request.recv(1000):
            pass


def eager(address, port):
    with Server((address, int(port)), Eager) as server:
        print("serving", flush=True)
        server.serve_forever()


class Who(socketserver.StreamRequestHandler):
    def handle(self):
        caller = self.client_address[0].removeprefix("::ffff:")
        while True:
            head = []
            for line in self.rfile:
                if line == b"\r\n":
                    break
                head.append(line)
            if not head:
                return
            body = caller.encode() + b"\n"
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


def who(address, port):
    Server.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with Server((address, int(port)), Who) as server:
        print("serving", flush=True)
        server.serve_forever()


class Mirror(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(self.server.word.encode() + b": " + self.request.recv(65536))


def mirror(address, port, word):
    with Server((address, int(port)), Mirror) as server:
        server.word = word
        print("serving", flush=True)
        server.serve_forever()


class Late(socketserver.StreamRequestHandler):
    def handle(self):
        size = 0
        for line in self.rfile:
            if line.lower().startswith(b"content-length:"):
                size = int(line.split(b":")[1])
            if line == b"\r\n":
                break
        time.sleep(self.server.seconds)
        body = str(len(self.rfile.read(size))).encode() + b"\n"
        self.wfile.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


def late(address, port, seconds):
    with Server((address, int(port)), Late) as server:
        server.seconds = float(seconds)
        print("serving", flush=True)
        server.serve_forever()


class Proxy(socketserver.StreamRequestHandler):
    def handle(self):
        head = []
        for line in self.rfile:
            if line != b"\r\n":
                head.append(line.strip())
                continue
            if not any(line.lower().startswith(b"refuse:") for line in head):
                break
            self.wfile.write(b"HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n")
            head = []
        upgrade = [line for line in head if line.lower().startswith(b"upgrade:")]
        said = b"101 Go on\r\nconnection: upgrade\r\n" + upgrade[0] if upgrade else b"200 Go on\r\ncontent-length: 5"
        self.wfile.write(b"HTTP/1.1 " + said + b"\r\n\r\n" + b"|".join(head) + b"|")
        while data := self.rfile.read1(1000):
            self.wfile.write(data.upper())


def proxy(address, port):
    with Server((address, int(port)), Proxy) as server:
        print("serving", flush=True)
        server.serve_forever()


def says(address, port, text, end=""):
    with connect(address, port) as connection:
        connection.sendall(text.encode().decode("unicode_escape").encode("latin-1"))
        if end:
            connection.shutdown(socket.SHUT_WR)
        print(connection.makefile("rb").read().decode("latin-1").encode("unicode_escape").decode(), end="")


def greeted(address, port, count):
    took = []
    for _ in range(int(count)):
        begun = time.perf_counter()
        with connect(address, port) as connection:
            stream = connection.makefile("rwb", buffering=0)
            assert stream.readline() == b"220 at your service\r\n"
            took.append(time.perf_counter() - begun)
            stream.write(b"hello\n")
            assert stream.readline() == b"HELLO\n"
    print(f"{statistics.median(took) * 1000:.3f}")


def silent(address, port):
    with connect(address, port) as connection:
        connection.shutdown(socket.SHUT_WR)
        print(connection.makefile("rb").read().decode(), end="")


def drip(address, port, data, pause):
    connection = connect(address, port)
    for place in range(len(data)):
        time.sleep(pause)
        connection.sendall(data[place : place + 1])
    return connection.makefile("rb")


def slow(address, port):
    stream = drip(address, port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0.1)
    print(stream.read(9)[3])


def torn(address, port):
    stream = drip(address, port, b"GET / HTTP/1.1\r\nhost: torn\r\nconnection: close\r\n\r\n", 0.02)
    print(stream.readline().decode().strip())


globals()[sys.argv[1]](*sys.argv[2:])
