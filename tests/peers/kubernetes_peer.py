"""As much of a Kubernetes API server as a webhook that looks after its own certificate needs: one MutatingWebhookConfiguration,
and Secrets. Prints its port; says what it was asked on standard error.

    kubernetes_peer.py
    kubernetes_peer.py CERT KEY TOKEN     by HTTPS, for whoever has the token
"""

import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONFIGURATION = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/weir"
webhook = {"name": "pods.weir.proxy", "clientConfig": {"service": {"name": "weir-webhook", "namespace": "weir-system"}}}
objects = {CONFIGURATION: {"metadata": {"name": "weir", "resourceVersion": "1"}, "webhooks": [webhook, json.loads(json.dumps(webhook))]}}


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *said):
        pass

    def parse_request(self):
        if not super().parse_request():
            return False
        if TOKEN and self.headers.get("authorization") != f"Bearer {TOKEN}":
            self.close_connection = True
            self.answer(401, {"kind": "Status", "message": "Unauthorized"})
            return False
        return True

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        return json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))

    def do_GET(self):
        found = objects.get(self.path)
        if found is None:
            self.answer(404, {"kind": "Status", "message": f"{self.path} not found"})
        else:
            self.answer(200, found)

    def do_POST(self):
        new = self.body()
        path = f"{self.path}/{new['metadata']['name']}"
        if path in objects:
            self.answer(409, {"kind": "Status", "message": "it is there already"})
        else:
            new["metadata"]["resourceVersion"] = "7"
            objects[path] = new
            self.answer(201, new)

    def do_PUT(self):
        new = self.body()
        found = objects.get(self.path, {})
        if new["metadata"].get("resourceVersion") != found.get("metadata", {}).get("resourceVersion"):
            self.answer(409, {"kind": "Status", "message": "it has changed meanwhile"})
            return
        objects[self.path] = new
        self.answer(200, new)

    def do_DELETE(self):
        self.answer(200, objects.pop(self.path, {}))

    def do_PATCH(self):
        found = objects[self.path]
        for one in self.body():
            *keys, last = one["path"].strip("/").split("/")
            at = found
            for key in keys:
                at = at[int(key)] if isinstance(at, list) else at[key]
            if one["op"] == "test" and at[last] != one["value"]:
                self.answer(422, {"kind": "Status", "message": "it has changed meanwhile"})
                return
            if one["op"] == "add":
                at[last] = one["value"]
        found["metadata"]["resourceVersion"] = str(int(found["metadata"]["resourceVersion"]) + 1)
        self.answer(200, found)


TOKEN = sys.argv[3] if len(sys.argv) > 3 else None
server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
if TOKEN:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
