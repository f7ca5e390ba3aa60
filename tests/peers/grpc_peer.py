"""A gRPC server, and a client that checks what it gets from it through a proxy.

    grpc_peer.py serve                    prints its port, serves until killed
    grpc_peer.py check HOST:PORT GROUP    exits with 0 and says so if all checks of the group pass

Messages are plain bytes: generic handlers need no compiled definitions.
"""

import sys
import threading
import time
import traceback
from concurrent import futures

import grpc

SERVICE = "weir.test.Echo"
LARGE = 8 << 20
OPTIONS = [
    ("grpc.max_receive_message_length", LARGE + 4096),
    ("grpc.max_send_message_length", LARGE + 4096),
    ("grpc.enable_http_proxy", 0),
]

started = threading.Event()
cancelled = threading.Event()


def unary(request, context):
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata(
        [("x-initial", "one"), ("x-initial", "two"), ("x-initial-bin", b"\x00\x01\xff"), ("x-saw", metadata.get("x-ascii", ""))]
    )
    context.set_trailing_metadata(
        [("x-trailing", "end"), ("x-trailing-bin", b"\xff\x00"), ("x-saw-bin", metadata.get("x-up-bin", b""))]
    )
    return request


def client_stream(requests, context):
    return b"+".join(requests)


def server_stream(request, context):
    for number in range(int(request)):
        yield b"item %d" % number


def both_stream(requests, context):
    for request in requests:
        yield b"echo " + request


def failing(request, context):
    from google.protobuf import any_pb2
    from google.rpc import error_details_pb2, status_pb2
    from grpc_status import rpc_status

    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason="NOT_YET", domain="weir.test"))
    status = status_pb2.Status(code=9, message="not yet: \u00fcber 100%", details=[detail])
    context.abort_with_status(rpc_status.to_status(status))


def waiting(request, context):
    cancelled.clear()
    context.add_callback(cancelled.set)
    started.set()
    cancelled.wait(30)
    return b""


def endless(request, context):
    cancelled.clear()
    context.add_callback(cancelled.set)
    while context.is_active():
        yield b"tick"
        time.sleep(0.01)


def has_started(request, context):
    began = started.wait(10)
    started.clear()
    return b"yes" if began else b"no"


def was_cancelled(request, context):
    return b"yes" if cancelled.wait(10) else b"no"


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(16), options=OPTIONS)
    kinds = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "BothStream": grpc.stream_stream_rpc_method_handler(both_stream),
        "Failing": grpc.unary_unary_rpc_method_handler(failing),
        "Waiting": grpc.unary_unary_rpc_method_handler(waiting),
        "Endless": grpc.unary_stream_rpc_method_handler(endless),
        "HasStarted": grpc.unary_unary_rpc_method_handler(has_started),
        "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, kinds),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


def same(got, wanted, what):
    if got != wanted:
        raise AssertionError(f"{what}: got {got!r}, wanted {wanted!r}")


def raises(code, call, what):
    try:
        result = call()
    except grpc.RpcError as error:
        same(error.code(), code, f"{what} ({error.details()})")
        return error
    raise AssertionError(f"{what}: got {result!r}, wanted {code}")


def method(name):
    return f"/{SERVICE}/{name}"


def kinds(channel):
    same(channel.unary_unary(method("Unary"))(b"hello", timeout=10), b"hello", "unary")
    same(channel.unary_unary(method("Unary"))(b"", timeout=10), b"", "unary, empty")
    same(channel.stream_unary(method("ClientStream"))(iter([b"a", b"b", b"c"]), timeout=10), b"a+b+c", "client stream")
    items = list(channel.unary_stream(method("ServerStream"))(b"100", timeout=10))
    same(items, [b"item %d" % number for number in range(100)], "server stream")
    same(list(channel.unary_stream(method("ServerStream"))(b"0", timeout=10)), [], "server stream, empty")

    # Each message is sent only when the answer to the one before is there.
    answered = threading.Semaphore(1)

    def ask():
        for number in range(50):
            if not answered.acquire(timeout=10):
                raise AssertionError("no answer")
            yield b"%d" % number

    count = 0
    for answer in channel.stream_stream(method("BothStream"))(ask(), timeout=20):
        same(answer, b"echo %d" % count, "both stream")
        count += 1
        answered.release()
    same(count, 50, "both stream")

    calls = [channel.unary_unary(method("Unary")).future(b"%d" % number, timeout=20) for number in range(200)]
    same([call.result() for call in calls], [b"%d" % number for number in range(200)], "200 at once")


def metadata(channel):
    sent = [("x-ascii", "a b, c"), ("x-up-bin", b"\x00\xfe\xff")]
    _, call = channel.unary_unary(method("Unary")).with_call(b"hello", metadata=sent, timeout=10)
    initial, trailing = list(call.initial_metadata()), list(call.trailing_metadata())
    same([value for key, value in initial if key == "x-initial"], ["one", "two"], "initial metadata, twice")
    same(dict(initial).get("x-initial-bin"), b"\x00\x01\xff", "initial binary metadata")
    same(dict(initial).get("x-saw"), "a b, c", "metadata upstream")
    same(dict(trailing).get("x-trailing"), "end", "trailing metadata")
    same(dict(trailing).get("x-trailing-bin"), b"\xff\x00", "trailing binary metadata")
    same(dict(trailing).get("x-saw-bin"), b"\x00\xfe\xff", "binary metadata upstream")

    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    error = raises(grpc.StatusCode.FAILED_PRECONDITION, lambda: channel.unary_unary(method("Failing"))(b"", timeout=10), "failing")
    same(error.details(), "not yet: \u00fcber 100%", "message")
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    same(len(status.details), 1, "details")
    same(status.details[0].Unpack(info), True, "detail")
    same((info.reason, info.domain), ("NOT_YET", "weir.test"), "detail")
    raises(grpc.StatusCode.UNIMPLEMENTED, lambda: channel.unary_unary(method("Absent"))(b"", timeout=10), "absent method")


def cancel(channel):
    call = channel.unary_unary(method("Waiting")).future(b"", timeout=30)
    # The server keeps the metadata of a unary call back until it answers, so it is asked.
    same(channel.unary_unary(method("HasStarted"))(b"", timeout=15), b"yes", "the call is in the server")
    call.cancel()
    same(channel.unary_unary(method("WasCancelled"))(b"", timeout=15), b"yes", "the server sees the cancelled call")

    stream = channel.unary_stream(method("Endless"))(b"", timeout=30)
    same([next(stream), next(stream)], [b"tick", b"tick"], "stream")
    stream.cancel()
    same(channel.unary_unary(method("WasCancelled"))(b"", timeout=15), b"yes", "the server sees the cancelled stream")

    begin = time.monotonic()
    raises(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: channel.unary_unary(method("Waiting"))(b"", timeout=0.5), "deadline")
    took = time.monotonic() - begin
    if not 0.3 < took < 5:
        raise AssertionError(f"the deadline took {took} s")
    same(channel.unary_unary(method("WasCancelled"))(b"", timeout=15), b"yes", "the server sees the deadline")


def large(channel):
    message = bytes(range(256)) * (LARGE // 256)
    for _ in range(2):
        same(channel.unary_unary(method("Unary"))(message, timeout=30) == message, True, "large unary")
    pieces = list(channel.stream_stream(method("BothStream"))(iter([message, message]), timeout=30))
    same([piece == b"echo " + message for piece in pieces], [True, True], "large streams")


def nobody(channel):
    error = raises(grpc.StatusCode.UNAVAILABLE, lambda: channel.unary_unary(method("Unary"))(b"", timeout=10), "server gone")
    same("connection" in error.details(), True, f"says why: {error.details()}")
    stream = channel.unary_stream(method("ServerStream"))(b"1", timeout=10)
    raises(grpc.StatusCode.UNAVAILABLE, lambda: list(stream), "server gone, stream")
    raises(grpc.StatusCode.UNIMPLEMENTED, lambda: channel.unary_unary("/other.Service/Call")(b"", timeout=10), "no route")


GROUPS = {"kinds": kinds, "metadata": metadata, "cancel": cancel, "large": large, "nobody": nobody}


def main():
    if sys.argv[1] == "serve":
        serve()
        return
    with grpc.insecure_channel(sys.argv[2], options=OPTIONS) as channel:
        try:
            GROUPS[sys.argv[3]](channel)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
    print("all checks passed")


main()
