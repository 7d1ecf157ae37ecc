"""Recorded requests held against a provider's OpenAPI document.

A document says which operations there are and what their bodies look like.
What it leaves out, and people have to know, is in `Provider` below: what
stands in the lines of an uploaded file, and paths that the document lacks.
"""

import json
import os
import re
import sys
import urllib.parse

from schema import BadSchema, Schemas

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../simulator"))
import multipart    # noqa: E402


class Wrong(Exception):
    """A request that cannot be checked any further."""


class Operation:
    """One method of one path."""

    def __init__(self, method, template, facts, shared):
        self.method, self.template = method.upper(), template
        self.facts = facts
        self.parameters = shared + facts.get("parameters", [])
        # What stands for a name may hold no slash, nor the colon before a verb.
        pattern = "".join("([^/:]+)" if part.startswith("{") else re.escape(part)
                          for part in re.split(r"(\{[^}]*\})", template))
        self.path = re.compile(pattern)

    def __str__(self):
        return f"{self.method} {self.template}"

    def body_schema(self, kind):
        """The schema of a body of this content type; None: it has none."""
        content = self.facts.get("requestBody", {}).get("content", {})
        if kind not in content:
            raise Wrong(f"a body of type {kind!r}; the document has {sorted(content)}" if content
                        else f"a body of type {kind!r}; the document has none")
        return content[kind]["schema"]


class Provider:
    """A document, and what has to be known besides."""

    name = None
    query_for_all = ()      # query parameters that the document takes for granted
    headers = {}            # headers without which the provider refuses everything

    def __init__(self, document):
        self.document, self.schemas = document, Schemas(document)
        base = urllib.parse.urlsplit(document["servers"][0]["url"]).path.rstrip("/")
        self.operations = [Operation(method, base + path, facts, facts_of_path.get("parameters", []))
                           for path, facts_of_path in document["paths"].items()
                           for method, facts in facts_of_path.items() if method in ("get", "post", "put", "patch", "delete")]
        self.operations += [Operation(method, path, facts, []) for method, path, facts in self.missing_operations()]

    @staticmethod
    def missing_operations():
        """(method, path, facts): what exists, and is not in the document."""
        return ()

    def find(self, method, path):
        found = [op for op in self.operations if op.method == method and op.path.fullmatch(path)]
        if not found:
            raise Wrong("no such operation in the document")
        # The most literal one, as /files/{file} also fits where a verb follows.
        return max(found, key=lambda op: len(re.sub(r"\{[^}]*\}", "", op.template)))

    def check(self, request):
        """(name of the operation, errors)"""
        name = f"{request.method} {request.path}"
        try:
            operation = self.find(request.method, request.path)
            name = str(operation)
            errors = list(self.check_query(operation, request)) + list(self.check_headers(request))
            return name, errors + list(self.check_body(operation, request))
        except Wrong as wrong:
            return name, [str(wrong)]

    def check_query(self, operation, request):
        known = {one["name"]: one for one in operation.parameters if one.get("in") == "query"}
        for name, text in request.query.items():
            if name in known:
                yield from self.schemas.errors(known[name]["schema"], _from_text(known[name]["schema"], text), f"?{name}")
            elif name not in self.query_for_all:
                yield f"?{name}: no such parameter in the document"
        for name, one in known.items():
            if one.get("required") and name not in request.query:
                yield f"?{name}: is missing"

    def check_headers(self, request):
        for name, value in {**self.headers, **self.key_headers()}.items():
            if name not in request.headers or value and request.headers[name] != value:
                yield f"header {name}: is {request.headers.get(name)!r}"

    def key_headers(self):
        """Where the document wants the key."""
        for scheme in self.document.get("components", {}).get("securitySchemes", {}).values():
            if scheme.get("type") == "apiKey" and scheme.get("in") == "header":
                return {scheme["name"].lower(): None}
        return {"authorization": None}

    def check_body(self, operation, request):
        body = operation.facts.get("requestBody")
        if not request.body:
            if body and body.get("required"):
                yield "the body is missing"
            return
        if not body and request.body.strip() == b"{}":
            return      # says nothing, as it should
        schema = operation.body_schema(request.kind)
        if request.kind == "multipart/form-data":
            value = request.form()
        else:
            value = _json(request.body)
        errors = self.schemas.errors(schema, value)
        yield from errors or self.check_more(operation, request, value)

    def check_more(self, operation, request, value):
        """Of the body what the document does not say."""
        return ()

    def check_lines(self, data, check):
        """Every line of a request file."""
        ids = set()
        lines = data.split(b"\n")
        if lines and not lines[-1]:
            lines.pop()
        for number, raw in enumerate(lines, 1):
            try:
                line = _json(raw)
                found = list(check(line)) if isinstance(line, dict) else ["is no object"]
            except Wrong as wrong:
                found, line = [str(wrong)], {}
            id = line.get("custom_id") or line.get("key")
            if id in ids:
                found.append(f"the id {id!r} is not unique")
            ids.add(id)
            yield from (f"line {number}: {text}" for text in found)


class OpenAI(Provider):
    name = "openai"

    @staticmethod
    def missing_operations():
        return [("GET", "/v1/models", {}), ("GET", "/v1/models/{model}", {})]

    def key_headers(self):
        return {"authorization": None}

    def check_more(self, operation, request, value):
        if operation.template == "/v1/files":
            yield from self.check_lines(value["file"].encode("utf-8", "surrogateescape"), self.check_line)

    def check_line(self, line):
        yield from self.schemas.errors(self.schemas.named("BatchRequestInput"), line)
        operation = self.find("POST", str(line.get("url")))
        yield from self.schemas.errors(operation.body_schema("application/json"), line.get("body"), "/body")


class Anthropic(Provider):
    name = "anthropic"
    headers = {"anthropic-version": "2023-06-01"}       # the version that the document describes

    def check_more(self, operation, request, value):
        ids = [one.get("custom_id") for one in value.get("requests", ())]
        if len(set(ids)) != len(ids):
            yield "/requests: a custom_id is not unique"


class Gemini(Provider):
    name = "gemini"
    query_for_all = ("alt", "fields", "prettyPrint")    # of every Google API

    @staticmethod
    def missing_operations():
        # Uploads have an address of their own, in Google's discovery documents as "mediaUpload".
        return [("POST", "/upload/v1beta/files", {"requestBody": {}}),
                ("GET", "/download/v1beta/files/{file}:download", {})]

    def check_body(self, operation, request):
        if operation.template != "/upload/v1beta/files":
            yield from super().check_body(operation, request)
        elif request.headers.get("x-goog-upload-command") == "start":
            yield from self.schemas.errors(self.schemas.named("CreateFileRequest"), _json(request.body))
        else:
            yield from self.check_lines(request.body, self.check_line)

    def check_query(self, operation, request):
        if operation.template == "/upload/v1beta/files":
            return ()       # an address that the provider handed out
        return super().check_query(operation, request)

    def key_headers(self):
        return {"x-goog-api-key": None}

    def check_headers(self, request):
        if request.headers.get("x-goog-upload-command", "start") != "start":
            return ()       # the address itself is the permission
        return super().check_headers(request)

    def check_line(self, line):
        for name in sorted(set(line) - {"key", "request"}):
            yield f"/{name}: no such member"
        if not isinstance(line.get("key"), str):
            yield "/key: must be a text"
        embeds = "content" in (line.get("request") or {})
        schema = self.schemas.named("EmbedContentRequest" if embeds else "GenerateContentRequest")
        yield from self.schemas.errors(schema, line.get("request"), "/request")


PROVIDERS = (OpenAI, Anthropic, Gemini)


class Request:
    """One line of a record."""

    def __init__(self, line):
        self.seq, self.provider, self.method, self.path = line["seq"], line["provider"], line["method"], line["path"]
        self.query, self.headers, self.whole = line["query"], line["headers"], line["whole"]
        self.body = line["body"].encode("utf-8", "surrogateescape")
        self.kind = self.headers.get("content-type", "").split(";")[0].strip().lower()

    def form(self):
        """A multipart form as the object that it stands for."""
        at, value = 0, {}

        def read(count):
            nonlocal at
            at += count
            return self.body[at - count:at]

        try:
            for part in multipart.Form(read, self.headers.get("content-type", "")).parts():
                text = b"".join(part.blocks).decode("utf-8", "surrogateescape") if part.name == "file" else part.text()
                inner = re.fullmatch(r"(\w+)\[(\w+)\]", part.name)
                if inner:
                    value.setdefault(inner[1], {})[inner[2]] = int(text) if text.isdigit() else text
                else:
                    value[part.name] = text
        except multipart.BadForm as error:
            raise Wrong(f"the form cannot be read: {error}") from None
        return value


def _json(data):
    def no_constant(name):
        raise ValueError(f"{name} is not JSON")

    def no_duplicates(pairs):
        value = dict(pairs)
        if len(value) != len(pairs):
            raise ValueError("an object has the same member twice")
        return value
    try:
        return json.loads(data.decode("utf-8"), parse_constant=no_constant, object_pairs_hook=no_duplicates)
    except ValueError as error:
        raise Wrong(f"not JSON: {error}") from None


def _from_text(schema, text):
    kinds = schema.get("type", "string")
    whole = "integer" in (kinds if isinstance(kinds, list) else [kinds])
    return int(text) if whole and re.fullmatch(r"-?\d+", text) else text


def load(directory):
    """{name: provider} of the documents in a directory."""
    found = {}
    for kind in PROVIDERS:
        with open(os.path.join(directory, kind.name + ".json"), encoding="utf-8") as file:
            found[kind.name] = kind(json.load(file))
    return found


__all__ = ["BadSchema", "Request", "load"]
