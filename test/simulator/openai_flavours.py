"""Servers that speak OpenAI's protocol, and how they differ; see others' documentation for each.

The option `flavour` chooses one.  A flavour changes addresses, keys, what is
there at all, and which members of a body are taken; everything else is as
with OpenAI.
"""

from typing import NamedTuple

import rules
from openai_chat import Problem
from wire import Response, json_response


class Flavour(NamedTuple):
    prefix: str = ""            # before /v1
    key: str = "bearer"         # "api-key": that header or a bearer token; "optional": none is needed
    batches: bool = True        # files and batches
    responses: bool = True
    any_model: bool = True      # models without a price are served
    cap: str = "both"           # name of the output limit in Chat Completions: "both" or "max_tokens"
    json_schema: bool = True    # else only json_object
    windows: tuple = ("24h",)
    cursor: bool = True         # listings come in pages
    extra: dict = {}            # members of each chat completion that OpenAI has not
    missing: object = None      # body of a 404; None: OpenAI's


_LLAMA_CPP_404 = {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}

FLAVOURS = {
    "openai": Flavour(any_model=False),
    "azure": Flavour("/openai", "api-key", any_model=False),
    # groq-sdk 1.6.0: windows from 24h to 7d, no cursor
    "groq": Flavour("/openai", windows=("24h", "48h", "72h", "7d"), cursor=False,
                    extra={"x_groq": {"id": "req_simulated"}}),
    # Its batches have a form of their own, which is not simulated.
    "together": Flavour(batches=False, responses=False, extra={"prompt": []},
                        missing={"id": "nx", "error": {"message": "Not simulated", "type": "invalid_request_error",
                                                       "param": None, "code": None}}),
    "vllm": Flavour(key="optional", batches=False, missing={"detail": "Not Found"},
                    extra={"prompt_logprobs": None, "kv_transfer_params": None}),
    "ollama": Flavour(key="optional", batches=False, responses=False, cap="max_tokens", missing="404 page not found"),
    "llama.cpp": Flavour(key="optional", batches=False, responses=False, missing=_LLAMA_CPP_404,
                         extra={"timings": {"prompt_n": 1, "predicted_n": 1}}),
    # LiteLLM is at /v1, OpenRouter at /api/v1
    "gateway": Flavour("/api", batches=False, responses=False, json_schema=False, extra={"provider": "Somebody"},
                       missing={"detail": "Not Found"}),
}

OPTIONS = {
    "flavour": "openai",
    "deployments": "",                  # Azure: "name=model,name=model"; others are served under their own name
}


def check_option(name, value):
    if name == "flavour" and value not in FLAVOURS:
        raise rules.BadRule(f"unknown flavour {value}; known are {sorted(FLAVOURS)}")


def of(world):
    return FLAVOURS[world.options["flavour"]]


def plain_path(world, request):
    """The path as OpenAI has it, or None when this flavour has no such address."""
    prefix = of(world).prefix
    if world.options["flavour"] == "gateway" and request.path.startswith("/v1/"):
        return request.path
    if not request.path.startswith(prefix + "/"):
        return None
    path = request.path[len(prefix):]
    if path.startswith("/v1/"):
        return path
    # Azure's older addresses: no /v1, but a version in the query
    return "/v1" + path if world.options["flavour"] == "azure" and request.query.get("api-version") else None


def has(world, path):
    """Whether this flavour has anything at OpenAI's path."""
    flavour = of(world)
    if path.startswith(("/v1/files", "/v1/batches")):
        return flavour.batches
    return flavour.responses or not path.startswith("/v1/responses")


def missing(world, request):
    """The answer to a path that this flavour does not have."""
    body = of(world).missing
    if isinstance(body, str):
        return Response(404, body.encode(), content_type="text/plain")
    if body is None:
        body = {"error": {"message": f"Invalid URL ({request.method} {request.path})",
                          "type": "invalid_request_error", "param": None, "code": None}}
    return json_response(body, 404)


def key_of(world, request):
    """The key that came with the request, or "" when there is none where it should be."""
    if of(world).key == "api-key" and "api-key" in request.headers:
        return request.headers["api-key"].strip()
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if kind.lower() == "bearer" else ""


def model_name(world, name):
    """The model that a name stands for; Azure's are names of deployments."""
    pairs = (pair.partition("=") for pair in world.options["deployments"].split(",") if pair.strip())
    return {alias.strip(): model.strip() for alias, _, model in pairs}.get(name, name)


def knows_any_model(world):
    return world.options["any_model"] or of(world).any_model


def check(world, body):
    """What OpenAI would take, but this server does not: the first Problem, or None."""
    flavour = of(world)
    if flavour.cap == "max_tokens" and body.get("max_completion_tokens") is not None:
        return Problem("max_completion_tokens is unknown here: use max_tokens.", "max_completion_tokens",
                       "unknown_parameter")
    kind = (body.get("response_format") or {}).get("type") if isinstance(body.get("response_format"), dict) else None
    if kind == "json_schema" and not flavour.json_schema:
        return Problem("response_format of type json_schema is not supported by this model.", "response_format",
                       "unsupported_value")
    return None
