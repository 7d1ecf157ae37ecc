"""multipart/form-data, read as a stream: a part of any size passes through in blocks."""

import re

BLOCK = 1 << 20
MAX_HEADERS = 16384
PARAMETER = re.compile(r';\s*([\w-]+)=(?:"((?:[^"\\]|\\.)*)"|([^;\s]+))')


class BadForm(Exception):
    """The body is not the form that its content type promised."""


class Part:
    def __init__(self, headers, blocks):
        disposition = dict((name, quoted or plain) for name, quoted, plain
                           in PARAMETER.findall(headers.get("content-disposition", "")))
        self.name = disposition.get("name")
        self.filename = disposition.get("filename")
        self.blocks = blocks

    def text(self, limit=65536):
        data = b""
        for block in self.blocks:
            data += block
            if len(data) > limit:
                raise BadForm(f"the field {self.name} is too long")
        return data.decode("utf-8", "replace")


class Form:
    """`read(n)` delivers up to n bytes, b"" at the end."""

    def __init__(self, read, content_type):
        found = [quoted or plain for name, quoted, plain in PARAMETER.findall(content_type) if name == "boundary"]
        if not content_type.lower().startswith("multipart/form-data") or not found:
            raise BadForm("expected multipart/form-data with a boundary")
        self.read = read
        self.mark = b"\r\n--" + found[0].encode()
        self.buffer = b"\r\n"       # so that the first boundary looks like every other

    def parts(self):
        """Each part in turn; its blocks must be consumed before the next one is asked for."""
        for _ in self._until_mark():
            pass                    # text before the first boundary means nothing
        while True:
            after = self._take(2)
            if after == b"--":
                return
            if after != b"\r\n":
                raise BadForm("malformed boundary line")
            yield Part(self._headers(), self._until_mark())

    def _fill(self):
        block = self.read(BLOCK)
        if not block:
            raise BadForm("the body ended in the middle of a part")
        self.buffer += block

    def _take(self, count):
        while len(self.buffer) < count:
            self._fill()
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def _headers(self):
        while b"\r\n\r\n" not in self.buffer:
            if len(self.buffer) > MAX_HEADERS:
                raise BadForm("the headers of a part are too long")
            self._fill()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        lines = (line.partition(":") for line in head.decode("utf-8", "replace").split("\r\n"))
        return {name.strip().lower(): value.strip() for name, _, value in lines}

    def _until_mark(self):
        keep = len(self.mark) - 1   # a boundary may straddle two blocks
        while True:
            at = self.buffer.find(self.mark)
            if at >= 0:
                piece, self.buffer = self.buffer[:at], self.buffer[at + len(self.mark):]
                if piece:
                    yield piece
                return
            if len(self.buffer) > keep:
                piece, self.buffer = self.buffer[:-keep], self.buffer[-keep:]
                yield piece
            self._fill()
