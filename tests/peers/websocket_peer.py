"""A WebSocket echo server, and the fuzzing client of the Autobahn cases.

    websocket_peer.py serve              listens on a free port of 127.0.0.1, prints it, and echoes
    websocket_peer.py cases URL CASE...  runs the cases (globs) against URL and prints what became of each, as JSON
"""

import asyncio
import json
import os
import sys


async def serve():
    listening = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


class Echo(asyncio.Protocol):
    """Answers every event before it looks at the next, so that what comes back does not depend on how the bytes were
    cut: a server that reads ahead fails a connection now before and now after the echo of what it got earlier. It never
    waits for the caller to read, because the fuzzing client does not read while it sends."""

    def connection_made(self, transport):
        from wsproto import ConnectionType, WSConnection

        self.transport = transport
        self.connection = WSConnection(ConnectionType.SERVER)
        self.closed = False

    def data_received(self, data):
        from wsproto.utilities import RemoteProtocolError

        if self.closed:
            return  # To the end: closing with bytes unread would be a reset, and could overtake the close frame.
        try:
            self.connection.receive_data(data)
            for event in self.connection.events():
                self.answer(event)
                if self.closed:
                    break
        except RemoteProtocolError as error:
            self.transport.write(self.connection.send(error.event_hint))
            self.closed = True
        if self.closed:
            self.transport.write_eof()

    def answer(self, event):
        from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Request, TextMessage
        from wsproto.extensions import PerMessageDeflate

        answer = None
        if isinstance(event, Request):
            answer = AcceptConnection(extensions=[PerMessageDeflate()])
        elif isinstance(event, (TextMessage, BytesMessage)):
            answer = type(event)(data=event.data, message_finished=event.message_finished)
        elif isinstance(event, (Ping, CloseConnection)):
            answer = event.response()
            self.closed = isinstance(event, CloseConnection)
        if answer is not None:
            self.transport.write(self.connection.send(answer))


async def cases(url, include):
    from kosoku import FailureError, run_fuzzingclient

    try:
        results = await run_fuzzingclient(url, include, concurrency=4)
    except FailureError as failure:
        results = failure.results
    print(json.dumps({case.case_id: outcome(case) for case in results}), flush=True)
    # Not by the way of the interpreter, which kosoku 0.1.0 may abort while it ends: a thread of its own is still there.
    os._exit(0)


def outcome(case):
    return {
        "passed": case.passed,
        "behaviour": case.behavior.value,
        "close": case.behavior_close.value,
        "code": case.remote_close_code,
        "reason": case.remote_close_reason,
        "clean": case.was_clean,
        "dropped by the client": case.dropped_by_me,
        "why": f"{case.result} {case.result_close} {case.was_not_clean_reason or ''}",
    }


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve())
    else:
        asyncio.run(cases(sys.argv[2], sys.argv[3:]))
