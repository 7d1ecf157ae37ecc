#!/usr/bin/env python3
"""Stands between the extension and the simulator, and turns hostile on demand.

    hostile.py --upstream PORT

Prints "port NNNN" when it is ready and ends with its standard input.  What no
rule asks for goes to the simulator and comes back as it is.  Rules come as
JSON to POST /_hostile, the first that matches and has times left wins:

    {"case": "a", "method": "GET", "path": regex, "times": 1, "how": name, "arg": ...}

A path that begins with /case-NAME/ is of that case, and goes on without it:
so many servers can be tested at a time.

how is a function of RAW, which yields the bytes of a reply and sees nothing
but the socket's end, or of EDIT, which is given the simulator's reply (headers
as text, body as bytes) and yields another.  GET /_hostile shows how often each
fired and what came to the trap, a second port where nothing should come;
DELETE /_hostile drops the rules.
"""
import argparse
import gzip
import http.client
import itertools
import json
import os
import re
import socket
import socketserver
import sys
import threading
import time
import zlib

lock = threading.Lock()
rules = []
trapped = []
arguments = None
trap_port = 0
numbers = itertools.count()
# Made once: made for each reply it would keep the others waiting.
BOMB = gzip.compress(bytes(100_000_000), 1)


# ---- replies that are no replies ----

def ok(body=b'{}', *headers, status='200 OK', length=None):
    length = len(body) if length is None else length
    lines = ['HTTP/1.1 ' + status, 'Content-Type: application/json', *headers]
    if length != '':
        lines.append(f'Content-Length: {length}')
    return '\r\n'.join([*lines, '', '']).encode() + body


def forever(start, piece, pause=0):
    yield start
    while True:
        yield piece
        if pause:
            time.sleep(pause)


class RAW:
    def bytes(arg):
        yield arg.encode('latin-1')

    def reply(arg):
        yield ok(arg.get('body', '{}').encode('latin-1'), *arg.get('headers', []),
                 status=arg.get('status', '200 OK'), length=arg.get('length'))

    def redirect(arg):
        yield ok(b'', f'Location: {arg or "http://127.0.0.1:%d/v1/x" % trap_port}', status='307 Temporary Redirect')

    def headers_endless(arg):
        return forever(b'HTTP/1.1 200 OK\r\n', b'X-Padding: and so on, and so on\r\n' * 100)

    def header_huge(arg):
        return itertools.chain([b'HTTP/1.1 200 OK\r\nX-Padding: '], itertools.repeat(b'x' * 65536, 160), [b'\r\n\r\n{}'])

    def interim_storm(arg):
        return forever(b'', b'HTTP/1.1 100 Continue\r\n\r\n' * 100)

    def headers_drip(arg):
        return forever(b'HTTP/1.1 200 OK\r\n', b'a: b\r\n', 0.2)

    def body_drip(arg):
        return forever(ok(b'', length=100000), b' ', 0.2)

    def status_drip(arg):
        return forever(b'', b'H', 0.2)

    def body_endless(arg):
        return forever(ok(b'{"data":[', length=''), b'{"id":"x"},' * 1000)

    def line_endless(arg):
        return forever(ok(b'', length=''), b'x' * 65536)

    def lines_endless(arg):
        return forever(ok(b'', length=''), b'{"custom_id":"nobody","response":null}\n' * 200)

    def blank_lines_endless(arg):
        return forever(ok(b'', length=''), b'\n' * 8192)

    def gzip_bomb(arg):
        yield ok(BOMB, 'Content-Encoding: gzip')

    def gzip_in_transfer(arg):
        yield ok(b'', 'Transfer-Encoding: gzip, chunked', length='')
        yield b'%x\r\n%s\r\n0\r\n\r\n' % (len(BOMB), BOMB)

    def trailers_endless(arg):
        return forever(ok(b'2\r\n{}\r\n0\r\n', 'Transfer-Encoding: chunked', length=''), b'X-Padding: and so on\r\n' * 100)

    def two_replies(arg):
        yield ok(b'{}') + ok(b'{"id":"smuggled","status":"completed"}')

    def gzip_cut(arg):
        packed = gzip.compress(json.dumps({'id': 'x' * 100}).encode())
        yield ok(packed[:-12], 'Content-Encoding: gzip')

    def list_endless(arg):
        """More pages, for ever: the cursor stays the same, or not.  For all providers alike."""
        n = next(numbers) if arg == 'other' else 0
        other = {'id': f'batch_of_others_{n}', 'created_at': int(time.time()) if arg == 'other' else '2999-01-01T00:00:00Z',
                 'status': 'in_progress', 'processing_status': 'in_progress',
                 'request_counts': dict.fromkeys(('processing', 'succeeded', 'errored', 'canceled', 'expired'), 7)}
        yield ok(json.dumps({'data': [other], 'has_more': True, 'operations': [], 'nextPageToken': f'again {n}'}).encode())

    def silence(arg):
        time.sleep(arg or 3600)
        yield b''


# ---- replies of the simulator, changed ----

def lines_of(body):
    return [line for line in body.split(b'\n') if line]


class EDIT:
    def merge(body, arg):
        reply = json.loads(body)
        for path, value in arg.items():
            node = reply
            *way, last = path.split('.')
            for name in way:
                node = node[int(name)] if isinstance(node, list) else node.setdefault(name, {})
            node[int(last) if isinstance(node, list) else last] = value
        return json.dumps(reply).encode()

    def text(body, arg):
        """[[regex, replacement], ...], in latin-1"""
        for pattern, replacement in arg:
            body = re.sub(pattern.encode('latin-1'), lambda m: replacement.encode('latin-1'), body)
        return body

    def same(body, arg):
        """Only the content type differs."""
        return body

    def before(body, arg):
        return arg.encode('latin-1') + body

    def after(body, arg):
        return body + arg.encode('latin-1')

    def bom(body, arg):
        return b'\xef\xbb\xbf' + body

    def crlf(body, arg):
        return body.replace(b'\n', b'\r\n')

    def empty(body, arg):
        return b''

    def nul(body, arg):
        return b'\0\0\n' + b'\n'.join(line[:20] + b'\0' + line[20:] if n == 0 else line for n, line in enumerate(lines_of(body))) + b'\n'

    def deep(body, arg):
        return b'[' * 100_000 + b']' * 100_000 + b'\n' + b'{"custom_id":' * 100_000 + b'\n' + body

    def hide(body, arg):
        """Done, and answered by nothing that can be read."""
        return b'{"done": '

    def twice(body, arg):
        return body + body

    def half(body, arg):
        lines = lines_of(body)
        return b'\n'.join(lines[:len(lines) // 2]) + b'\n'

    def strangers(body, arg):
        """Lines of nobody: no id, one that is no text, ordinals out of range."""
        lines = lines_of(body)
        changed = [json.dumps(dict(json.loads(lines[0]), **{arg: value})).encode()
                   for value in (None, 7, '', 'nobody-1', '../../x', "'; DROP TABLE articles; --", 'x' * 100000)]
        token = re.search(rb'"%s": ?"([^"]*)-\d+"' % arg.encode(), lines[0]).group(1)
        changed += [re.sub(token + rb'-\d+', token + b'-' + n, lines[0])
                    for n in (b'0', b'-1', b'999999999', b'99999999999999999999', b'1.5', b'0x1', b'1 ')]
        return b'\n'.join(changed + lines) + b'\n'

    def long_line(body, arg):
        """A line of so many MB among the others, streamed."""
        lines = lines_of(body)
        yield lines[0] + b'\n'
        for _ in range(arg * 16):
            yield b'x' * 65536
        yield b'\n' + b'\n'.join(lines[1:]) + b'\n'


# ---- the proxy ----

def take_rule(case, method, path):
    with lock:
        for rule in rules:
            if rule.get('case', case) != case or rule.get('method', method) != method or not re.search(rule['path'], path):
                continue
            if rule['fired'] < rule.get('times', 1 << 30):
                rule['fired'] += 1
                return rule
    return None


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        head = b''
        while not head.endswith(b'\r\n\r\n'):
            line = self.rfile.readline()
            if not line:
                return
            head += line
        text = head.decode('latin-1').split('\r\n')
        method, path, _ = text[0].split(' ', 2)
        headers = [line.split(': ', 1) for line in text[1:] if ': ' in line]
        length = next((int(v) for n, v in headers if n.lower() == 'content-length'), 0)
        body = self.rfile.read(length)
        if path.startswith('/_hostile'):
            self.control(method, body)
            return
        case, path = re.fullmatch('(?:/case-([^/]+))?(/.*)', path).groups()
        rule = take_rule(case, method, path)
        if rule is not None and hasattr(RAW, rule['how']):
            self.send(getattr(RAW, rule['how'])(rule.get('arg')))
            return
        upstream = http.client.HTTPConnection('127.0.0.1', arguments.upstream, timeout=60)
        upstream.request(method, path, body or None, {n: v for n, v in headers if n.lower() != 'connection'})
        reply = upstream.getresponse()
        content = reply.read()
        pieces = None
        if rule is not None:
            changed = getattr(EDIT, rule['how'])(content, rule.get('arg'))
            pieces = [changed] if isinstance(changed, bytes) else changed
        start = [f'HTTP/1.1 {reply.status} {reply.reason}']
        here = f'http://127.0.0.1:{self.server.server_address[1]}'
        start += [f'{n}: {v.replace(here, here + "/case-" + case) if case else v}' for n, v in reply.getheaders()
                  if n.lower() not in ('content-length', 'connection', 'transfer-encoding', 'keep-alive')]
        if rule is not None and rule['how'] == 'same':
            start = [f'Content-Type: {rule["arg"]}' if line.lower().startswith('content-type') else line for line in start]
        start += ['Connection: close', '', '']
        self.send(itertools.chain(['\r\n'.join(start).encode('latin-1')], pieces or [content]))

    def send(self, pieces):
        try:
            for piece in pieces:
                self.request.sendall(piece)
        except OSError:
            pass                        # it has seen enough

    def control(self, method, body):
        with lock:
            if method == 'DELETE':
                rules.clear()
            elif method == 'POST':
                rules.extend(dict(rule, fired=0) for rule in json.loads(body))
            self.request.sendall(ok(json.dumps({'rules': rules, 'trapped': trapped}).encode(), 'Connection: close'))


class Trap(socketserver.BaseRequestHandler):
    def handle(self):
        with lock:
            trapped.append(self.request.recv(65536).decode('latin-1'))


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128


def main():
    global arguments, trap_port
    parser = argparse.ArgumentParser()
    parser.add_argument('--upstream', type=int, required=True)
    arguments = parser.parse_args()
    trap = Server(('127.0.0.1', 0), Trap)
    trap_port = trap.server_address[1]
    server = Server(('127.0.0.1', 0), Handler)
    for one in (trap, server):
        threading.Thread(target=one.serve_forever, daemon=True).start()
    print(f'port {server.server_address[1]}', flush=True)
    sys.stdin.read()
    os._exit(0)


main()
