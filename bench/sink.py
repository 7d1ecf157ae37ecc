#!/usr/bin/env python3
"""A provider that does nothing, fast: the far side of bench/run.

It takes uploads and serves result files over the few calls of OpenAI's batch
API that a batch's life needs, as fast as the loopback carries them, so that
what is measured is the client.  It checks nothing: test/simulator is for that.

    sink.py DIR

prints "port NNNN", then obeys lines of its standard input and answers each
with one line; it ends when its standard input does.

    prepare SIZE
              writes the result file of the batch that was created last, one
              line for each line of its request file, with the same custom_id
              and an answer of SIZE characters: "prepared COUNT FILE"
    complete  from now on a poll is told that this batch is completed:
              "completed ID"

What takes time happens in "prepare", before any clock starts.
"""

import http.server
import json
import os
import random
import re
import socketserver
import sys
import threading

CUSTOM_ID = re.compile(rb'^\{"custom_id": ?"([^"]+)"', re.M)

# Answers are prose with some characters that JSON escapes.
WORDS = ("the report says that sales in Europe rose faster than analysts had "
         "expected while costs fell and the company will hire more people "
         "next year in spite of a weaker market for new cars").split()
DIFFERENT_ANSWERS = 1000


def make_answer(rng, size):
    """An answer of about so many characters, as it stands in JSON."""
    words = []
    length = 0
    while length < size:
        word = rng.choice(WORDS)
        length += len(word) + 1
        words.append(word)
    words[len(words) // 3] += ".\\n\\n\\u201c" + rng.choice(WORDS).title()
    words[len(words) * 2 // 3] += "\\u201d, \\\"as he said\\\","
    return " ".join(words).capitalize() + "."


def make_line_parts(rng, size):
    """What stands before and behind the custom_id in a line."""
    before = '{"id": "batch_req_%032x", "custom_id": "' % rng.getrandbits(128)
    behind = (
        '", "response": {"status_code": 200, "request_id": "%032x", "body": '
        '{"id": "chatcmpl-%s", "object": "chat.completion", "created": 1764000000, '
        '"model": "gpt-6-luna-2026-05-01", "choices": [{"index": 0, "message": {"role": '
        '"assistant", "content": "%s", "refusal": null, "annotations": []}, "logprobs": null, '
        '"finish_reason": "stop"}], "usage": {"prompt_tokens": 263, "completion_tokens": 72, '
        '"total_tokens": 335, "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0}, '
        '"completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0, '
        '"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}}, '
        '"service_tier": "default", "system_fingerprint": "fp_44709d6fcb"}}, "error": null}\n'
        % (rng.getrandbits(128), "%029x" % rng.getrandbits(116), make_answer(rng, size)))
    return before.encode(), behind.encode()


class Batch:
    def __init__(self, number, input_id, metadata):
        self.id = "batch_%d" % number
        self.input_id = input_id
        self.metadata = metadata
        self.status = "in_progress"
        self.path = None            # of its result file, once prepared
        self.total = 0

    def describe(self):
        done = self.total if self.status == "completed" else 0
        return {
            "id": self.id, "object": "batch", "endpoint": "/v1/chat/completions",
            "errors": None, "input_file_id": self.input_id, "completion_window": "24h",
            "status": self.status, "created_at": 1764000000,
            "output_file_id": "file-out-" + self.id if done else None,
            "error_file_id": None, "metadata": self.metadata,
            "request_counts": {"total": self.total, "completed": done, "failed": 0},
        }


class Sink:
    def __init__(self, directory):
        self.directory = directory
        self.lock = threading.Lock()
        self.files = {}             # id: the multipart body, as it came
        self.batches = {}
        self.count = 0
        self.prepared = None

    def number(self):
        self.count += 1
        return self.count

    def add_file(self, body):
        with self.lock:
            name = "file-in-%d" % self.number()
            self.files[name] = body
        return name

    def add_batch(self, request):
        with self.lock:
            batch = Batch(self.number(), request["input_file_id"], request.get("metadata"))
            self.batches[batch.id] = batch
        return batch

    def prepare(self, size):
        """For the batch that came last; others are left to run for ever."""
        rng = random.Random(size)
        parts = [make_line_parts(rng, size) for _ in range(DIFFERENT_ANSWERS)]
        with self.lock:
            batch = list(self.batches.values())[-1]
            body = self.files.pop(batch.input_id)
        ids = CUSTOM_ID.findall(body)
        batch.path = os.path.join(self.directory, batch.id + ".jsonl")
        with open(batch.path, "wb") as out:
            for i, custom_id in enumerate(ids):
                before, behind = parts[i % DIFFERENT_ANSWERS]
                out.write(before + custom_id + behind)
        batch.total = len(ids)
        self.prepared = batch
        return "prepared %d %s" % (len(ids), batch.path)

    def complete(self):
        self.prepared.status = "completed"
        return "completed " + self.prepared.id

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    sink = None

    def log_message(self, format, *args):
        pass

    def reply(self, what, status=200):
        body = json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def read_body(self):
        body = bytearray(int(self.headers.get("Content-Length", 0)))
        view = memoryview(body)
        at = 0
        while at < len(body):
            got = self.rfile.readinto(view[at:])
            if not got:
                raise ConnectionError("the body ended early")
            at += got
        return body

    def batch(self):
        return self.sink.batches[self.path.split("/")[3].split("?")[0]]

    def do_POST(self):
        body = self.read_body()
        if self.path == "/v1/files":
            name = self.sink.add_file(body)
            self.reply({"id": name, "object": "file", "bytes": len(body),
                        "created_at": 1764000000, "filename": "requests.jsonl",
                        "purpose": "batch", "status": "processed"})
        elif self.path == "/v1/batches":
            self.reply(self.sink.add_batch(json.loads(body)).describe())
        else:                       # a cancel
            batch = self.batch()
            batch.status = "cancelled"
            self.reply(batch.describe())

    def do_GET(self):
        if self.path.startswith("/v1/files/file-out-"):
            self.send_file(self.sink.batches[self.path.split("/")[3].removeprefix("file-out-")].path)
        elif self.path.startswith("/v1/batches/"):
            self.reply(self.batch().describe())
        elif self.path.startswith("/v1/batches"):
            self.reply({"object": "list", "has_more": False,
                        "data": [b.describe() for b in reversed(list(self.sink.batches.values()))]})
        else:
            self.reply({"object": "list", "data": []})

    def send_file(self, path):
        with open(path, "rb") as file:
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
            self.end_headers()
            self.wfile.flush()
            self.connection.sendfile(file)

    def do_DELETE(self):
        self.reply({"id": self.path.split("/")[3], "object": "file", "deleted": True})


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that hangs up is no news."""


def main():
    sink = Handler.sink = Sink(sys.argv[1])
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("port %d" % server.server_address[1], flush=True)
    for line in sys.stdin:
        verb, *arguments = line.split()
        answer = {"prepare": sink.prepare, "complete": sink.complete}[verb](*map(int, arguments))
        print(answer, flush=True)


if __name__ == "__main__":
    main()
