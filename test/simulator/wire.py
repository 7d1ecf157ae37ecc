"""HTTP/1.1 on sockets, with the means to misbehave.

Not http.server: a fault may have to act before the body is read, in the
middle of it, or after the work is done, and header parsing is half of the
time of a small request there.
"""

import email.utils
import hashlib
import json
import os
import re
import select
import socket
import socketserver
import ssl
import struct
import threading
import time
import traceback
import urllib.parse

BLOCK = 1 << 18
MAX_LINE = 65536
MAX_HEADERS = 200
DRAIN_LIMIT = 1 << 20           # unread rests of a body up to this size are read, to keep the connection
LINGER_SECONDS = 5
HANDSHAKE_SECONDS = 10
REASONS = {100: "Continue", 200: "OK", 301: "Moved Permanently", 302: "Found", 307: "Temporary Redirect",
           308: "Permanent Redirect", 400: "Bad Request", 401: "Unauthorized", 402: "Payment Required",
           403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout", 409: "Conflict",
           413: "Content Too Large", 415: "Unsupported Media Type", 422: "Unprocessable Content",
           429: "Too Many Requests", 500: "Internal Server Error", 502: "Bad Gateway",
           503: "Service Unavailable", 504: "Gateway Timeout", 529: "Overloaded"}


SECRET = ("authorization", "x-api-key", "x-goog-api-key", "api-key")


class Disconnected(Exception):
    """The client has gone, or has to be treated so."""


class BadRequest(Exception):
    """Not HTTP as we know it."""


class Refusal(Exception):
    """Raised by a handler to answer something else than success."""

    def __init__(self, response):
        super().__init__(response.status)
        self.response = response


class Response:
    """`file` is a path whose bytes are the body."""

    def __init__(self, status=200, body=b"", headers=(), file=None, content_type="application/json"):
        self.status, self.body, self.file = status, body, file
        self.headers = {"content-type": content_type, **dict(headers)}

    def length(self):
        return os.path.getsize(self.file) if self.file else len(self.body)


def json_response(value, status=200, headers=(), indent=None):
    return Response(status, json.dumps(value, indent=indent, ensure_ascii=False).encode("utf-8", "replace"), headers)


class Body:
    """The body of a request, read when asked for; it counts what it has read."""

    def __init__(self, stream, headers, go_on):
        self.stream, self.taken = stream, 0
        self.chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self.left = 0 if self.chunked else self._length(headers.get("content-length", "0"))
        self.at_end = not self.chunked and self.left == 0
        # Somebody who waits for "100 Continue" has sent nothing yet.
        self.waiting = not self.at_end and headers.get("expect", "").lower() == "100-continue"
        self.go_on = go_on
        self.kept = None            # a list: blocks that were read, for the record

    @staticmethod
    def _length(text):
        if not re.fullmatch(r"\d{1,18}", text):
            raise BadRequest("bad content-length")
        return int(text)

    def read(self, count):
        """Up to count bytes; b"" at the end."""
        if self.waiting:
            self.waiting = False
            self.go_on()
        if self.chunked and not self.at_end and self.left == 0:
            self._next_chunk()
        if self.at_end:
            return b""
        data = self.stream.read(min(count, self.left))
        if not data:
            raise Disconnected
        self.taken += len(data)
        self.left -= len(data)
        if self.kept is not None:
            self.kept.append(data)
        if self.left == 0:
            if self.chunked:
                self.stream.readline(MAX_LINE)
            else:
                self.at_end = True
        return data

    def _next_chunk(self):
        size = self.stream.readline(MAX_LINE).split(b";")[0].strip()
        if not re.fullmatch(rb"[0-9a-fA-F]{1,15}", size):
            raise Disconnected
        self.left = int(size, 16)
        if self.left == 0:
            while self.stream.readline(MAX_LINE) not in (b"\r\n", b"\n", b""):
                pass
            self.at_end = True

    def read_all(self):
        return b"".join(iter(lambda: self.read(BLOCK), b""))

    def drain(self, limit):
        """Read the rest away; False when it is more than limit."""
        while not self.at_end and self.taken < limit:
            self.read(BLOCK)
        return self.at_end


class Request:
    def __init__(self, method, target, headers, body):
        self.method, self.target, self.headers, self.body = method, target, headers, body
        path, _, query = target.partition("?")
        self.path = urllib.parse.unquote(path)
        self.query = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        self.secret = self._secret()
        # Enough to tell keys apart in a log, not enough to use one.
        self.key = hashlib.sha256(self.secret.encode()).hexdigest()[:8] if self.secret else None
        self.entry = None

    def _secret(self):
        kind, _, token = self.headers.get("authorization", "").partition(" ")
        return (token.strip() if kind.lower() == "bearer" else None) or self.headers.get("x-api-key") \
            or self.headers.get("x-goog-api-key") or self.headers.get("api-key") or self.query.get("key")


class Connection(socketserver.BaseRequestHandler):
    """One client: requests one after the other, in a thread of its own."""

    def handle(self):
        try:
            self.open()
            while self.one_request():
                pass
        except (Disconnected, OSError, ssl.SSLError):
            pass
        except BadRequest as error:
            self.quietly(lambda: self.send_all(self.head(400, {"connection": "close", "content-length": "0"})))
            self.server.app.note(f"bad request: {error}")
        finally:
            self.close()

    def open(self):
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tls = self.server.tls is not None
        if self.tls:
            # Here and not in accept(): a client that stalls in its handshake stops only itself.
            self.request.settimeout(HANDSHAKE_SECONDS)
            self.request = self.server.tls.wrap_socket(self.request, server_side=True, do_handshake_on_connect=False)
            self.request.do_handshake()
            self.request.settimeout(None)
        self.stream = self.request.makefile("rb", buffering=BLOCK)

    def close(self):
        for thing in (getattr(self, "stream", None), self.request):
            if thing is not None:
                self.quietly(thing.close)

    @staticmethod
    def quietly(action):
        try:
            action()
        except (OSError, ssl.SSLError, ValueError):
            pass

    # Reading

    def one_request(self):
        """Serve one; True if the connection stays."""
        line = self.stream.readline(MAX_LINE)
        if not line.strip():
            return bool(line)
        words = line.decode("latin-1").split()
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise BadRequest(line[:80])
        headers = self.read_headers()
        body = Body(self.stream, headers, lambda: self.send_all(b"HTTP/1.1 100 Continue\r\n\r\n"))
        request = Request(words[0], words[1], headers, body)
        wants_close = headers.get("connection", "").lower() == "close" or words[2] == "HTTP/1.0"
        return self.server.app.serve(self, request) and not wants_close and self.finish_body(body)

    def read_headers(self):
        headers = {}
        for _ in range(MAX_HEADERS):
            line = self.stream.readline(MAX_LINE)
            if line in (b"\r\n", b"\n"):
                return headers
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon:
                raise BadRequest("malformed header")
            headers[name.strip().lower()] = value.strip()
        raise BadRequest("too many headers")

    def finish_body(self, body):
        """Leave the connection where the next request begins, or give it up."""
        if not body.waiting and body.drain(body.taken + DRAIN_LIMIT):
            return True
        self.linger()
        return False

    def linger(self):
        """Say that we are done, but hear the client out: a reset would eat our answer."""
        if not self.tls:
            self.request.shutdown(socket.SHUT_WR)
        end = time.monotonic() + LINGER_SECONDS
        while time.monotonic() < end and select.select([self.request], [], [], 0.5)[0]:
            if not self.request.recv(BLOCK):
                return

    # Writing

    def send_all(self, data):
        try:
            self.request.sendall(data)
        except (OSError, ssl.SSLError) as error:
            raise Disconnected from error

    @staticmethod
    def head(status, headers):
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")

    def send(self, response, do, entry):
        """Send it, as slowly and as incompletely as the fault asks."""
        headers = dict(response.headers)
        headers["content-length"] = str(response.length())
        head = self.head(response.status, headers)
        if response.file is None and not do:
            self.send_all(head + response.body)
            entry["bytes_out"] += len(response.body)
            return
        self.send_all(head)
        if response.file and not do and not self.tls:
            with open(response.file, "rb") as file:
                entry["bytes_out"] += self.request.sendfile(file)
            return
        self.send_pieces(self.pieces(response), do, entry)

    @staticmethod
    def pieces(response):
        if response.file is None:
            yield response.body
            return
        with open(response.file, "rb") as file:
            while block := file.read(BLOCK):
                yield block

    def send_pieces(self, pieces, do, entry):
        rate, stop = do.get("slow_body"), do.get("cut_body_at")
        step = max(1, int(rate / 20)) if rate else BLOCK
        for piece in pieces:
            for at in range(0, len(piece), step):
                part = piece[at:at + step]
                if stop is not None and entry["bytes_out"] + len(part) >= stop:
                    self.send_all(part[:stop - entry["bytes_out"]])
                    entry["bytes_out"] = stop
                    raise Disconnected
                self.send_all(part)
                entry["bytes_out"] += len(part)
                if rate:
                    time.sleep(len(part) / rate)

    def send_endless(self, response, what, entry):
        """A body without an end, until the client has enough."""
        text = what.encode() if isinstance(what, str) else b'{"endless": "' + b"a" * 65523
        headers = dict(response.headers)
        headers["transfer-encoding"] = "chunked"
        self.send_all(self.head(response.status, headers))
        block = text * max(1, 65536 // len(text))
        if not isinstance(what, str):
            self.send_all(b"%x\r\n%s\r\n" % (len(block), block))
            block = b"a" * 65536
        while True:
            self.send_all(b"%x\r\n%s\r\n" % (len(block), block))
            entry["bytes_out"] += len(block)

    def reset(self):
        """Cut so that the client sees "connection reset"."""
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Disconnected


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(self, port, app, tls=None):
        self.app, self.tls = app, tls
        super().__init__(("127.0.0.1", port), Connection)

    def shutdown_request(self, request):
        # The connection closes itself; a shutdown here would turn a reset into a polite end.
        self.close_request(request)

    def handle_error(self, request, client_address):
        self.app.note(traceback.format_exc())


class App:
    """Routes requests to the world's providers and to the control calls."""

    def __init__(self, world, control):
        self.world = world
        self.provider_routes = world.routes()
        self.control_routes = [(method, re.compile(pattern + r"\Z"), pattern, handler, None)
                               for method, pattern, handler in control]

    def note(self, text):
        self.world.failures.append(text)

    def serve(self, connection, request):
        """Answer one request; True if the connection may stay."""
        control = request.path.startswith("/_sim/")
        routes = self.control_routes if control else self.provider_routes
        route = self.find(routes, request)
        name = route[2] if route else "unknown"
        began = time.monotonic()
        log = self.world.log
        entry = request.entry = log.begin(self.world.clock.now(), request, name, control)
        fault = None if control else self.world.rules.fault(request)
        if log.record_file and not control:
            request.body.kept = []
        try:
            return self.exchange(connection, request, route, fault.do if fault else {}, entry)
        finally:
            entry["bytes_in"] = request.body.taken
            entry["seconds"] = round(time.monotonic() - began, 4)
            log.end(request, name, control)
            if request.body.kept is not None:
                log.write(self.record(request, route))

    @staticmethod
    def record(request, route):
        """The request as it came in, but for keys; bytes that are no UTF-8 become lone surrogates."""
        headers = {name: "(secret)" if name in SECRET else value for name, value in request.headers.items()}
        return {"seq": request.entry["seq"], "provider": route[3].__name__ if route else None,
                "method": request.method, "path": request.path, "query": request.query, "headers": headers,
                "whole": request.body.at_end,
                "body": b"".join(request.body.kept).decode("utf-8", "surrogateescape")}

    @staticmethod
    def find(routes, request):
        for method, regex, pattern, handler, provider in routes:
            match = regex.match(request.path)
            if match and method == request.method and getattr(provider, "claims", lambda _: True)(request):
                return handler, match.groups(), pattern, provider
        return None

    def exchange(self, connection, request, route, do, entry):
        if do:
            entry["fault"] = ",".join(sorted(do))
            self.before(connection, request, do)
        response = self.response(request, route, do)
        if do:
            response = self.spoil(response, do, route and route[3])
        entry["status"] = response.status
        if "stall" in do:
            time.sleep(do["stall"])
        if do.get("cut_after_commit"):
            entry["status"] = None
            request.body.drain(1 << 40)
            connection.reset()
        if do.get("endless"):
            connection.send_endless(response, do["endless"], entry)
        try:
            connection.send(response, do, entry)
        except Disconnected:
            if do.get("reset"):
                connection.reset()
            raise
        return not do.get("close")

    @staticmethod
    def before(connection, request, do):
        if do.get("cut_before"):
            connection.reset()
        if "cut_upload_at" in do:
            while request.body.taken < do["cut_upload_at"] and request.body.read(
                    min(BLOCK, do["cut_upload_at"] - request.body.taken)):
                pass
            connection.reset()
        if "stall_before" in do:
            time.sleep(do["stall_before"])

    def response(self, request, route, do):
        """The handler's answer, unless a fault stands for it."""
        instead = "status" in do or "redirect" in do or do.get("endless")
        if do.get("commit", not instead):
            return self.call(request, route)
        if do.get("read_body", True):
            request.body.drain(1 << 40)
        return Response(200)

    def call(self, request, route):
        if route is None:
            return self.not_found(request)
        handler, groups, _, provider = route
        response = self.guarded(handler, provider, request, groups)
        if provider is not None:
            response.headers = {"date": date(self.world.clock.now()), **provider.reply_headers(), **response.headers}
        return response

    def guarded(self, handler, provider, request, groups):
        try:
            if provider is not None:
                provider.authenticate(self.world, request)
            return handler(self.world, request, *groups)
        except Refusal as refusal:
            return refusal.response
        except (Disconnected, OSError, ssl.SSLError):
            raise
        except Exception:
            self.note(traceback.format_exc())
            return json_response({"error": {"message": traceback.format_exc(), "type": "simulator_error"}}, 500)

    def not_found(self, request):
        for provider in self.world.providers:
            response = provider.not_found(request)
            if response:
                return response
        return json_response({"error": "no such path"}, 404)

    @staticmethod
    def fault_body(status):
        return {"error": {"message": "simulated fault", "type": "server_error", "param": None, "code": None}}

    @classmethod
    def spoil(cls, response, do, provider):
        """The answer as the fault wants it."""
        if "redirect" in do:
            response = Response(do.get("status", 307), b"", {"location": do["redirect"]})
        elif "status" in do:
            body = do["body"] if "body" in do else getattr(provider, "fault_body", cls.fault_body)(do["status"])
            body = body if isinstance(body, str) else json.dumps(body)
            response = Response(do["status"], body.encode())
        elif "body" in do:
            body = do["body"] if isinstance(do["body"], str) else json.dumps(do["body"])
            response = Response(response.status, body.encode(), response.headers)
        if "merge" in do and not response.file:
            response.body = json.dumps({**json.loads(response.body), **do["merge"]}).encode()
        if do.get("garbage"):
            garbage = do["garbage"] if isinstance(do["garbage"], str) else '{"id": "garb\x00\udcff", "object": [1,'
            response = Response(response.status, garbage.encode("utf-8", "surrogateescape"), response.headers)
        response.headers.update({name.lower(): str(value) for name, value in do.get("headers", {}).items()})
        return response


def date(now):
    return email.utils.formatdate(now, usegmt=True)


def serve_in_thread(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
    thread.start()
    return thread
