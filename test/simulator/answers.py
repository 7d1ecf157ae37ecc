"""Answers that follow from the prompt alone: the same prompt always gets the same answer.

A test can so foretell what has to stand next to each row, and notices when
an answer lands at the wrong one.
"""

import json
import re
import zlib

SENTENCE_END = re.compile(r"[.!?](?=\s)|\n")
MAX_SENTENCE = 200
MAX_DEPTH = 20          # a recursive schema must end somewhere

FORMATS = {
    "date": "2026-01-31",
    "time": "12:30:00Z",
    "date-time": "2026-01-31T12:30:00Z",
    "duration": "P1DT2H",
    "email": "reader@example.com",
    "hostname": "host.example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "00000000-0000-4000-8000-000000000001",
}


def first_sentence(text):
    """Up to the first end of a sentence or line, at most MAX_SENTENCE characters."""
    text = text.strip()[:MAX_SENTENCE]
    end = SENTENCE_END.search(text)
    return text[:end.end()].strip() if end else text


def tokens(text):
    """The simulator's tokeniser: four bytes make a token."""
    return bytes_to_tokens(len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")))


def bytes_to_tokens(size):
    return (size + 3) // 4


def from_schema(schema, prompt):
    """A value that satisfies the schema, with strings taken from the prompt."""
    return _Writer(schema, prompt).value(schema, "$", 0)


class _Writer:
    def __init__(self, root, prompt):
        self.root = root
        self.prompt = prompt

    def pick(self, path, count):
        """A number below count that depends on the prompt and the place in the answer."""
        return zlib.crc32((path + self.prompt).encode("utf-8", "surrogatepass")) % count

    def value(self, schema, path, depth):
        if depth > MAX_DEPTH or not isinstance(schema, dict):
            return None
        if "$ref" in schema:
            return self.value(self.resolve(schema["$ref"]), path, depth + 1)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][self.pick(path, len(schema["enum"]))]
        if schema.get("anyOf"):
            return self.value(self.first_useful(schema["anyOf"]), path, depth + 1)
        return self.typed(schema, path, depth)

    def resolve(self, ref):
        node = self.root
        for step in ref.lstrip("#").strip("/").split("/"):
            if step:
                node = node.get(step.replace("~1", "/").replace("~0", "~"), {})
        return node

    @staticmethod
    def first_useful(branches):
        """Null is always the least telling of the allowed answers."""
        return next((b for b in branches if b.get("type") != "null"), branches[0])

    def typed(self, schema, path, depth):
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((k for k in kind if k != "null"), "null")
        if kind == "object" or (kind is None and "properties" in schema):
            return {name: self.value(sub, f"{path}.{name}", depth + 1)
                    for name, sub in schema.get("properties", {}).items()}
        if kind == "array":
            return [self.value(schema.get("items", {}), f"{path}[{i}]", depth + 1)
                    for i in range(max(1, schema.get("minItems", 1)))]
        if kind == "integer":
            return self.integer(schema, path)
        if kind == "number":
            return self.number(schema, path)
        if kind == "boolean":
            return bool(self.pick(path, 2))
        if kind == "null":
            return None
        return FORMATS.get(schema.get("format")) or self.text(schema)

    def text(self, schema):
        """What a schema of strict mode cannot say, llm_batch says in the description."""
        said = schema.get("description", "")
        if "written as JSON text inside this string" in said:
            return json.dumps({"text": first_sentence(self.prompt)}, ensure_ascii=False)
        limit = re.search(r"At most (\d+) characters", said)
        return first_sentence(self.prompt)[:int(limit[1])] if limit else first_sentence(self.prompt)

    def integer(self, schema, path):
        step = int(schema.get("multipleOf", 1)) or 1
        low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 101) - 1)
        first = -(-int(low) // step) * step
        return first + step * self.pick(path, max(1, (int(high) - first) // step + 1))

    def number(self, schema, path):
        if "multipleOf" in schema:
            return self.integer(schema, path)
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 1))
        # Strictly inside, in eighths: exact in binary, so it survives a round trip.
        return low + (high - low) * (1 + self.pick(path, 7)) / 8
