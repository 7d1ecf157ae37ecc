#!/usr/bin/env python3
"""A provider that answers at once: the far side of bench/run's part realtime.

One thread, one loop, kept connections; it looks at nothing of a request but
its length, and gives every one the same answer, so that what is measured is
the client.

    realtime_sink.py [DELAY]

prints "port NNNN" and ends when its standard input does.  DELAY: seconds
that each answer takes.
"""

import asyncio
import json
import os
import re
import sys
import threading

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)

BODY = json.dumps({
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1764000000, "model": "gpt-6-luna",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {
        "role": "assistant", "refusal": None,
        "content": "Sales in Europe rose faster than analysts had expected, while costs fell."}}],
    "usage": {"prompt_tokens": 120, "completion_tokens": 18, "total_tokens": 138,
              "prompt_tokens_details": {"cached_tokens": 0},
              "completion_tokens_details": {"reasoning_tokens": 0}}}).encode()
REPLY = (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_1\r\nContent-Length: "
         + str(len(BODY)).encode() + b"\r\n\r\n" + BODY)


class Connection(asyncio.Protocol):
    delay = 0.0
    now = 0         # requests that are being answered
    most = 0
    total = 0

    def connection_made(self, transport):
        self.transport = transport
        self.data = b""

    def data_received(self, data):
        self.data += data
        while True:
            end = self.data.find(b"\r\n\r\n")
            if end < 0:
                return
            length = LENGTH.search(self.data, 0, end + 2)
            whole = end + 4 + (int(length.group(1)) if length else 0)
            if len(self.data) < whole:
                return
            self.data = self.data[whole:]
            self.answer()

    def answer(self):
        cls = Connection
        cls.total += 1
        cls.now += 1
        cls.most = max(cls.most, cls.now)
        if cls.delay > 0:
            asyncio.get_running_loop().call_later(cls.delay, self.send)
        else:
            self.send()

    def send(self):
        Connection.now -= 1
        if not self.transport.is_closing():
            self.transport.write(REPLY)


def end_with_stdin():
    sys.stdin.read()
    os._exit(0)


async def main():
    Connection.delay = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, backlog=1024)
    print("port %d" % server.sockets[0].getsockname()[1], flush=True)
    threading.Thread(target=end_with_stdin, daemon=True).start()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
