"""A package index with one package, over HTTP or over TLS.

    index_peer.py              builds the wheel, prints the port on 127.0.0.1, serves until killed
    index_peer.py CERT KEY     the same over TLS, with this certificate and key
"""

import functools
import hashlib
import http.server
import pathlib
import random
import ssl
import sys
import tempfile
import zipfile

WHEEL = "weir_parcel-1.0-py3-none-any.whl"
INFO = "weir_parcel-1.0.dist-info"
FILES = {
    "weir_parcel/__init__.py": b"import pathlib\n\nDATA = (pathlib.Path(__file__).parent / 'data').read_bytes()\n",
    # Large enough for many segments, and not to be compressed.
    "weir_parcel/data": random.Random(1).randbytes(3 << 20),
    f"{INFO}/METADATA": b"Metadata-Version: 2.1\nName: weir-parcel\nVersion: 1.0\n",
    f"{INFO}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass


def build(root):
    project = root / "simple" / "weir-parcel"
    project.mkdir(parents=True)
    with zipfile.ZipFile(project / WHEEL, "w") as wheel:
        for name, content in FILES.items():
            wheel.writestr(name, content)
        wheel.writestr(f"{INFO}/RECORD", "".join(f"{name},,\n" for name in [*FILES, f"{INFO}/RECORD"]))
    # pip compares what it gets with this.
    digest = hashlib.sha256((project / WHEEL).read_bytes()).hexdigest()
    (project / "index.html").write_text(f'<!DOCTYPE html><a href="{WHEEL}#sha256={digest}">{WHEEL}</a>')


def main():
    with tempfile.TemporaryDirectory() as directory:
        build(pathlib.Path(directory))
        handler = functools.partial(Handler, directory=directory)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        if len(sys.argv) > 1:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*sys.argv[1:])
            server.socket = context.wrap_socket(server.socket, server_side=True)
        print(server.server_port, flush=True)
        server.serve_forever()


main()
