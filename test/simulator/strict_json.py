"""JSON as the providers read it: UTF-8 without a mark, no NaN, no half of a surrogate pair."""

import json


def _no_constant(name):
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_no_constant)


def decode(raw):
    """The value of these bytes, or ValueError."""
    value = _decoder.decode(raw.decode("utf-8"))
    if b"\\ud" in raw or b"\\uD" in raw:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value
