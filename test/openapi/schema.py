"""JSON Schema as OpenAPI documents use it (3.0's dialect and 3.1's), stricter than the standard in one thing.

An object may have no member that its schema does not list, unless the schema
says what further members look like, or lists none at all.  A provider would
let a misspelt member pass in silence, or refuse it in production only.

A word of a schema that is not known here is an error of its own: what is not
understood must not count as checked.
"""

import base64
import binascii
import datetime
import json
import re

# Words that say nothing about what is valid.
SILENT = {"description", "title", "default", "example", "examples", "deprecated", "writeOnly", "externalDocs",
          "discriminator", "nullable", "readOnly", "xml", "$schema", "$id", "$comment", "contentMediaType",
          "contentEncoding", "$defs", "definitions", "x-stainless-const"}
APPLIED = {"$ref", "allOf", "anyOf", "oneOf", "not", "type", "enum", "const", "format", "pattern", "minLength",
           "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "items",
           "minItems", "maxItems", "uniqueItems", "properties", "required", "additionalProperties",
           "propertyNames", "minProperties", "maxProperties", "patternProperties"}
# A schema with none of these leaves an object's members open.
SHAPING = {"$ref", "allOf", "anyOf", "oneOf", "properties", "patternProperties", "additionalProperties", "required"}

TYPES = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "integer": lambda v: not isinstance(v, bool) and (isinstance(v, int) or isinstance(v, float) and v.is_integer()),
    "number": lambda v: not isinstance(v, bool) and isinstance(v, (int, float)),
}


class Everything:
    """The set that holds whatever one asks for."""

    def __contains__(self, name):
        return True


ALL = Everything()


def _join(a, b):
    return ALL if a is ALL or b is ALL else a | b


class BadSchema(Exception):
    """The document, not the value, is at fault, or says what we do not understand."""


class Schemas:
    """A document's schemas; `requests`: values go to the server, so what it alone may set is refused."""

    def __init__(self, document, requests=True):
        self.document, self.requests = document, requests

    def errors(self, schema, value, path=""):
        """What is wrong with the value, as texts; [] if it is valid and has no member too many."""
        errors, known = self._check(schema, value, path)
        if not errors and isinstance(value, dict):
            errors = [f"{path}/{name}: no such member in the document" for name in value if name not in known]
        return errors

    def named(self, name):
        return {"$ref": f"#/components/schemas/{name}"}

    def resolve(self, ref):
        if not ref.startswith("#/"):
            raise BadSchema(f"a reference out of the document: {ref}")
        node = self.document
        for step in ref[2:].split("/"):
            step = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(node, dict) or step not in node:
                raise BadSchema(f"the reference {ref} leads nowhere")
            node = node[step]
        return node

    def _check(self, schema, value, path):
        """(errors, the members that this schema knows)"""
        if isinstance(schema, bool):
            return ([] if schema else [f"{path or '/'}: must not be there"]), ALL
        strange = {word for word in schema if word not in SILENT | APPLIED and not word.startswith("x-")}
        if strange:
            raise BadSchema(f"{path}: words of the schema that are not understood: {sorted(strange)}")
        if value is None and schema.get("nullable"):
            return [], ALL
        errors = [f"{path or '/'}: {text}" for text in _plain(schema, value)]
        known = set() if SHAPING & set(schema) else ALL
        for found, more in self._parts(schema, value, path):
            errors += found
            known = _join(known, more)
        return errors, known

    def _parts(self, schema, value, path):
        if "$ref" in schema:
            yield self._check(self.resolve(schema["$ref"]), value, path)
        for branch in schema.get("allOf", ()):
            yield self._check(branch, value, path)
        for word in ("anyOf", "oneOf"):
            if word in schema:
                yield self._choice(word, schema, value, path)
        if "not" in schema and not self._check(schema["not"], value, path)[0]:
            yield [f"{path or '/'}: is what it must not be"], set()
        if isinstance(value, dict):
            yield self._object(schema, value, path)
        if isinstance(value, list):
            for i, item in enumerate(value if "items" in schema else ()):
                yield self.errors(schema["items"], item, f"{path}/{i}"), set()

    def _choice(self, word, schema, value, path):
        branches = schema[word]
        told = self._told(schema, value)
        if told is not None:
            return self._check(told, value, path)
        tried = [self._check(branch, value, path) for branch in branches]
        good = [known for errors, known in tried if not errors]
        if not good:
            # The branch that went furthest is the one that was meant.
            errors = max((errors for errors, _ in tried), key=lambda e: (_depth(e[0]), -len(e)))
            return [f"{path or '/'}: fits none of {len(branches)} forms; nearest:"] + errors, set()
        if word == "oneOf" and len(good) > 1:
            closed = [known for known in good if not isinstance(value, dict) or all(name in known for name in value)]
            if len(closed) != 1:
                return [f"{path or '/'}: fits {len(good)} forms, of which it must fit one"], set()
            good = closed
        known = good[0]
        for more in good[1:]:
            known = _join(known, more)
        return [], known

    def _told(self, schema, value):
        """The branch that the value names itself, if it does."""
        rule = schema.get("discriminator")
        name = value.get(rule["propertyName"]) if rule and isinstance(value, dict) else None
        ref = rule.get("mapping", {}).get(name) if isinstance(name, str) else None
        return {"$ref": ref} if ref else None

    def _object(self, schema, value, path):
        errors, known = [], set()
        listed = schema.get("properties", {})
        for name in schema.get("required", ()):
            if name not in value and not (self.requests and self._read_only(listed.get(name))):
                errors.append(f"{path}/{name}: is missing")
        for name, member in value.items():
            place, matched = f"{path}/{name}", False
            if "propertyNames" in schema:
                errors += self.errors(schema["propertyNames"], name, place)
            if name in listed:
                matched = True
                if self.requests and self._read_only(listed[name]):
                    errors.append(f"{place}: only the provider sets this")
                errors += self.errors(listed[name], member, place)
            for pattern, part in schema.get("patternProperties", {}).items():
                if re.search(pattern, name):
                    matched = True
                    errors += self.errors(part, member, place)
            if not matched and "additionalProperties" in schema:
                further = schema["additionalProperties"]
                matched = further is not False
                errors += ([f"{place}: no such member in the document"] if further is False
                           else self.errors(further, member, place))
            if matched:
                known.add(name)
        return errors, known

    @staticmethod
    def _read_only(schema):
        return isinstance(schema, dict) and schema.get("readOnly") is True


def _depth(error):
    return error.split(":")[0].count("/")


def _same(a, b):
    return type(a) is type(b) and a == b or TYPES["number"](a) and TYPES["number"](b) and a == b


def _plain(schema, value):
    """What can be said without looking at other schemas."""
    kinds = schema.get("type")
    if kinds is not None:
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if not any(TYPES[kind](value) for kind in kinds):
            yield f"is {json.dumps(value)[:60]}, must be of type {' or '.join(kinds)}"
            return
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        yield f"is {json.dumps(value)[:60]}, must be one of {json.dumps(schema['enum'])[:200]}"
    if "const" in schema and not _same(value, schema["const"]):
        yield f"is {json.dumps(value)[:60]}, must be {json.dumps(schema['const'])}"
    if isinstance(value, str):
        yield from _text(schema, value)
    elif TYPES["number"](value):
        yield from _number(schema, value)
    elif isinstance(value, list):
        yield from _size(schema, len(value), "minItems", "maxItems", "items")
        if schema.get("uniqueItems") and len({json.dumps(item, sort_keys=True) for item in value}) < len(value):
            yield "has the same item twice"
    elif isinstance(value, dict):
        yield from _size(schema, len(value), "minProperties", "maxProperties", "members")


def _size(schema, size, least, most, what):
    if size < schema.get(least, 0):
        yield f"has {size} {what}, at least {schema[least]} are needed"
    if most in schema and size > schema[most]:
        yield f"has {size} {what}, at most {schema[most]} are allowed"


def _text(schema, value):
    yield from _size(schema, len(value), "minLength", "maxLength", "characters")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"is {json.dumps(value)[:60]}, must match {schema['pattern']}"
    check = FORMATS.get(schema.get("format"))
    if check and not check(value):
        yield f"is {json.dumps(value)[:60]}, not a text of format {schema['format']}"


def _number(schema, value):
    low, high, step = schema.get("minimum"), schema.get("maximum"), schema.get("multipleOf")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    # OpenAPI 3.0 makes these flags of the limits
    if (low is not None and (value < low or above is True and value == low)
            or type(above) in (int, float) and value <= above):
        yield f"is {value}, too small"
    if (high is not None and (value > high or below is True and value == high)
            or type(below) in (int, float) and value >= below):
        yield f"is {value}, too large"
    if step and value % step:
        yield f"is {value}, not a multiple of {step}"
    bits = {"int32": 31, "int64": 63}.get(schema.get("format"))
    if bits and not -2 ** bits <= value < 2 ** bits:
        yield f"is {value}, does not fit {schema['format']}"


def _is_time(value):
    try:
        datetime.datetime.fromisoformat(value[:26].rstrip("Zz") if value.endswith(("Z", "z")) else value)
    except ValueError:
        return False
    return "T" in value


def _is_base64(value):
    try:
        base64.b64decode(value.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


FORMATS = {
    "int32": lambda v: re.fullmatch(r"-?\d{1,10}", v) and -2 ** 31 <= int(v) < 2 ** 31,
    "int64": lambda v: re.fullmatch(r"-?\d{1,19}", v) and -2 ** 63 <= int(v) < 2 ** 63,
    "date-time": _is_time,
    "byte": _is_base64,
    "uri": lambda v: re.fullmatch(r"[a-zA-Z][a-zA-Z0-9+.-]*:\S+", v),
}
