"""A gRPC server with nothing but the health service (grpc.health.v1): serves on a port; SIGUSR1 has it say that it does not.

    health_peer.py PORT
"""

import signal
import sys
from concurrent import futures

import grpc

serving = [1]


def check(request, context):
    return bytes([0x08, serving[0]])


def sick(*_):
    serving[0] = 2
    print("not serving", flush=True)


signal.signal(signal.SIGUSR1, sick)
server = grpc.server(futures.ThreadPoolExecutor(2))
handler = grpc.unary_unary_rpc_method_handler(check)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler}),))
server.add_insecure_port(f"0.0.0.0:{sys.argv[1]}")
server.start()
print("serving", flush=True)
while True:
    signal.pause()
