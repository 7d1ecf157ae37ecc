"""Anthropic's /v1/messages: what it refuses, and what it answers.

Used for single calls and for the requests of a batch alike.
"""

import json
import marshal
import re
from typing import NamedTuple, Optional

import answers
import prices

NEWEST_VERSION = "2026-10-21"       # from which on no model takes sampling parameters
VERSIONS = ("2023-01-01", "2023-06-01", NEWEST_VERSION)
MIN_BUDGET = 1024                   # tokens of thinking


class Problem(NamedTuple):
    message: str
    kind: str = "invalid_request_error"


class Prompt(NamedTuple):
    text: str           # all of it, for counting and for telling prompts apart
    question: str       # the longest user text, from which the answer is made
    tokens: int
    cached_prefix: int  # tokens up to the last cache breakpoint
    ttl: str            # of that breakpoint


# Members of the body: each checker gets (name, value) and returns a Problem or None.

def _wrong_type(name, wanted):
    return Problem(f"{name}: Input should be a valid {wanted}")


def _extra(name):
    return Problem(f"{name}: Extra inputs are not permitted")


def _required(name):
    return Problem(f"{name}: Field required")


def _range(types, wanted, low, high=None):
    def check(name, value):
        if isinstance(value, bool) or not isinstance(value, types):
            return _wrong_type(name, wanted)
        if value < low:
            return Problem(f"{name}: Input should be greater than or equal to {low}")
        if high is not None and value > high:
            return Problem(f"{name}: Input should be less than or equal to {high}")
        return None
    return check


def _type(types, wanted):
    return lambda name, value: None if isinstance(value, types) else _wrong_type(name, wanted)


def _one_of(*known):
    texts = " or ".join(repr(text) for text in known)
    return lambda name, value: None if value in known else Problem(f"{name}: Input should be {texts}")


def _or_null(check):
    return lambda name, value: None if value is None else check(name, value)


def _members(known, required=()):
    """An object with exactly these members; each has its own checker."""
    def check(name, value):
        if not isinstance(value, dict):
            return _wrong_type(name, "dictionary")
        for member in required:
            if member not in value:
                return _required(f"{name}.{member}")
        for member, part in value.items():
            problem = known[member](f"{name}.{member}", part) if member in known else _extra(f"{name}.{member}")
            if problem:
                return problem
        return None
    return check


def _list_of(check_item):
    def check(name, value):
        if not isinstance(value, list):
            return _wrong_type(name, "list")
        return next(filter(None, (check_item(f"{name}.{i}", item) for i, item in enumerate(value))), None)
    return check


_string, _boolean = _type(str, "string"), _type(bool, "boolean")
_anything = lambda name, value: None    # noqa: E731
_cache_control = _or_null(_members({"type": _one_of("ephemeral"), "ttl": _one_of("5m", "1h")}, ("type",)))


def _check_text(name, value):
    if not isinstance(value, str):
        return _wrong_type(name, "string")
    if not value:
        return Problem(f"{name}: text content blocks must be non-empty")
    return None if value.strip() else Problem(f"{name}: text content blocks must contain non-whitespace text")


BLOCKS = {
    "text": _members({"type": _string, "text": _check_text, "cache_control": _cache_control,
                      "citations": _anything}, ("text",)),
    "image": _members({"type": _string, "source": _anything, "cache_control": _cache_control}, ("source",)),
    "document": _members({"type": _string, "source": _anything, "title": _anything, "context": _anything,
                          "citations": _anything, "cache_control": _cache_control}, ("source",)),
    "thinking": _members({"type": _string, "thinking": _string, "signature": _string}, ("thinking", "signature")),
    "redacted_thinking": _members({"type": _string, "data": _string}, ("data",)),
    "tool_use": _anything,
    "tool_result": _anything,
}


def _check_block(name, block):
    if not isinstance(block, dict):
        return _wrong_type(name, "dictionary")
    if block.get("type") not in BLOCKS:
        return Problem(f"{name}: Input tag {block.get('type')!r} found using 'type' does not match any of the "
                       f"expected tags: {', '.join(map(repr, BLOCKS))}")
    return BLOCKS[block["type"]](f"{name}.{block['type']}", block)


def _check_system(name, value):
    if isinstance(value, str):
        return None
    return _list_of(_members({"type": _one_of("text"), "text": _check_text, "cache_control": _cache_control,
                              "citations": _anything}, ("type", "text")))(name, value)


def _check_message(name, message):
    if not isinstance(message, dict):
        return _wrong_type(name, "dictionary")
    for member in ("role", "content"):
        if member not in message:
            return _required(f"{name}.{member}")
    if message["role"] in ("system", "developer"):
        return Problem(f'messages: Unexpected role "{message["role"]}". The Messages API accepts a top-level `system` '
                       'parameter, not "system" as an input message role.')
    if message["role"] not in ("user", "assistant"):
        return Problem(f"{name}.role: Input should be 'user' or 'assistant'")
    if set(message) - {"role", "content"}:
        return _extra(f"{name}.{sorted(set(message) - {'role', 'content'})[0]}")
    return _check_content(name, message)


def _check_content(name, message):
    content = message["content"]
    if isinstance(content, str):
        if message["role"] == "user" and not content:
            return Problem(f"{name}: user messages must have non-empty content")
        return _check_text(name, content)
    if not content:
        return Problem(f"{name}: all messages must have non-empty content")
    return _list_of(_check_block)(f"{name}.content", content)


def _check_messages(name, value):
    if not isinstance(value, list):
        return _wrong_type(name, "list")
    if not value:
        return Problem(f"{name}: at least one message is required")
    problem = _list_of(_check_message)(name, value)
    if problem:
        return problem
    return None if value[0]["role"] == "user" else Problem(f"{name}: first message must use the \"user\" role")


def _check_stops(name, value):
    problem = _list_of(_string)(name, value)
    if problem:
        return problem
    if any(not text.strip() for text in value):
        return Problem(f"{name}: each stop sequence must contain non-whitespace")
    return None


def _check_thinking(name, value):
    kind = value.get("type") if isinstance(value, dict) else None
    display = _one_of("summarized", "omitted")
    known = {"enabled": {"budget_tokens": _range(int, "integer", MIN_BUDGET), "display": display},
             "adaptive": {"display": display}, "disabled": {}, "between_tools": {"display": display}}
    if kind not in known:
        return Problem(f"{name}: Input tag {kind!r} found using 'type' does not match any of the expected tags: "
                       f"{', '.join(map(repr, known))}")
    return _members({"type": _string, **known[kind]}, ("budget_tokens",) if kind == "enabled" else ())(name, value)


# Answer formats

KEYWORDS = {"type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "allOf",
            "$ref", "$defs", "definitions", "description", "title", "default", "format", "pattern", "minItems"}
FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
MAX_UNIONS, MAX_OPTIONAL = 16, 24
_good_schemas = set()       # a batch repeats one schema in every request


class _BadSchema(Exception):
    pass


class _Schema:
    """What structured outputs can enforce; everything else is refused rather than ignored."""

    def __init__(self, schema):
        self.root, self.unions, self.optional = schema, 0, 0
        self.visit(schema, ())
        if self.unions > MAX_UNIONS:
            raise _BadSchema(f"Schemas contains too many parameters with union types ({self.unions} parameters with "
                             f"type arrays or anyOf; limit: {MAX_UNIONS})")
        if self.optional > MAX_OPTIONAL:
            raise _BadSchema(f"Schemas contains too many optional parameters ({self.optional}; limit: {MAX_OPTIONAL})")

    def visit(self, schema, inside):
        """`inside` holds the references that lead here."""
        if not isinstance(schema, dict):
            raise _BadSchema("A schema must be an object")
        kinds = schema.get("type", [])
        kinds = kinds if isinstance(kinds, list) else [kinds]
        self.keywords(schema, "/".join(map(str, kinds)) or "any")
        self.unions += isinstance(schema.get("type"), list) or "anyOf" in schema
        if "object" in kinds or "properties" in schema:
            self.object(schema)
        if "$ref" in schema:
            self.reference(schema["$ref"], inside)
        for sub in self.children(schema):
            self.visit(sub, inside)

    @staticmethod
    def keywords(schema, kind):
        unknown = sorted(set(schema) - KEYWORDS)
        if unknown:
            raise _BadSchema(f"For '{kind}' type, properties {', '.join(unknown)} are not supported")
        if schema.get("minItems", 0) not in (0, 1):
            raise _BadSchema("For 'array' type, 'minItems' values other than 0 or 1 are not supported")
        if schema.get("format") is not None and schema["format"] not in FORMATS:
            raise _BadSchema(f"String format '{schema['format']}' is not supported")
        if any(isinstance(value, (dict, list)) for value in schema.get("enum", ())):
            raise _BadSchema("Enum values must be strings, numbers, booleans or null")

    def object(self, schema):
        if schema.get("additionalProperties") is not False:
            raise _BadSchema("For 'object' type, 'additionalProperties' must be explicitly set to false")
        names = schema.get("properties", {})
        if set(schema.get("required", ())) - set(names):
            raise _BadSchema("'required' names a property that is not defined")
        self.optional += len(set(names) - set(schema.get("required", ())))

    def reference(self, ref, inside):
        node = self.root
        for step in str(ref).lstrip("#").strip("/").split("/"):
            node = node if not step else node.get(step) if isinstance(node, dict) else None
        if not str(ref).startswith("#") or node is None:
            raise _BadSchema(f"The reference '{ref}' cannot be resolved")
        if ref in inside:
            raise _BadSchema("Recursive schemas are not supported")
        self.visit(node, (*inside, ref))

    @staticmethod
    def children(schema):
        yield from schema.get("properties", {}).values()
        for word in ("anyOf", "allOf"):
            yield from schema.get(word, ())
        if "items" in schema:
            yield schema["items"]


def _check_schema(name, value):
    if not isinstance(value, dict):
        return _wrong_type(name, "dictionary")
    known = marshal.dumps(value)
    if known in _good_schemas:
        return None
    try:
        _Schema(value)
    except (_BadSchema, AttributeError, TypeError) as error:
        return Problem(f"{name}: {error}")
    if len(_good_schemas) < 1000:
        _good_schemas.add(known)
    return None


EFFORTS = ("low", "medium", "high", "xhigh", "max")
MEMBERS = {
    "model": _string,
    "messages": _check_messages,
    "max_tokens": _range(int, "integer", 0),
    "system": _check_system,
    "temperature": _range((int, float), "number", 0, 1),
    "top_p": _range((int, float), "number", 0, 1),
    "top_k": _range(int, "integer", 0),
    "stop_sequences": _check_stops,
    "thinking": _check_thinking,
    "output_config": _members({
        "effort": _or_null(_one_of(*EFFORTS)),
        "format": _or_null(_members({"type": _one_of("json_schema"), "schema": _check_schema}, ("type", "schema"))),
    }),
    "metadata": _members({"user_id": _or_null(_string)}),
    "cache_control": _cache_control,
    "service_tier": _one_of("auto", "standard_only"),
    "inference_geo": _or_null(_string),
    "container": _or_null(_string),
    "stream": _boolean,
    "tools": _type(list, "list"),
    "tool_choice": _type(dict, "dictionary"),
}


# Classes of models

class ModelClass(NamedTuple):
    names: re.Pattern
    sampling: str           # temperature, top_p, top_k: "free", "one" (of the first two) or "" (the default only)
    thinking: tuple         # accepted types; the first is what it does by itself
    efforts: tuple
    prefill: bool = False   # a last message of the assistant


ALWAYS, BY_ITSELF = ("adaptive",), ("adaptive", "disabled")
CLASSES = [
    ModelClass(re.compile(r"claude-opus-5-5|claude-fable|claude-mythos"), "", ALWAYS, EFFORTS),
    ModelClass(re.compile(r"claude-sonnet-5-5"), "", ("adaptive", "between_tools"), EFFORTS),
    ModelClass(re.compile(r"claude-(opus|sonnet|haiku)-5"), "", BY_ITSELF, EFFORTS),
    ModelClass(re.compile(r"claude-opus-4-[78]"), "", ("disabled", "adaptive"), EFFORTS),
    ModelClass(re.compile(r"claude-(opus|sonnet)-4-6"), "free", ("disabled", "enabled", "adaptive"),
               ("low", "medium", "high", "max")),
    ModelClass(re.compile(r"claude-opus-4-5"), "one", ("disabled", "enabled"), ("low", "medium", "high"), True),
    ModelClass(re.compile(r"claude-(haiku|sonnet)-4-5"), "one", ("disabled", "enabled"), (), True),
]
OTHER = ModelClass(re.compile(""), "free", ("disabled", "enabled"), (), True)


def model_class(name):
    return next((c for c in CLASSES if c.names.match(name)), OTHER)


def _check_sampling(body, kind, version):
    given = [name for name in ("temperature", "top_p", "top_k") if body.get(name) is not None]
    if given and version >= NEWEST_VERSION:
        return _extra(given[0])
    for name in given:
        if not kind.sampling and (name == "top_k" or body[name] != 1):
            return Problem(f"`{name}` is deprecated for this model.")
    if kind.sampling == "one" and {"temperature", "top_p"} <= set(given):
        return Problem("`temperature` and `top_p` cannot both be specified for this model. Please use only one.")
    return None


def _check_thinking_class(body, kind):
    thinking = body.get("thinking") or {}
    wanted, effort = thinking.get("type"), (body.get("output_config") or {}).get("effort")
    if wanted and wanted not in kind.thinking:
        return Problem(f'"thinking.type.{wanted}" is not supported for this model.')
    if effort and effort not in kind.efforts:
        return Problem("This model does not support the effort parameter." if not kind.efforts else
                       f"This model does not support effort level '{effort}'. Supported levels: "
                       f"{', '.join(kind.efforts)}.")
    if wanted == "disabled" and effort in ("xhigh", "max") and kind.thinking == BY_ITSELF:
        return Problem(f"thinking: cannot be disabled at effort '{effort}'")
    if wanted == "enabled":
        return _check_budget(body, thinking["budget_tokens"])
    return None


def _check_budget(body, budget):
    if body.get("max_tokens") is not None and budget >= body["max_tokens"]:
        return Problem("`max_tokens` must be greater than `thinking.budget_tokens`.")
    if body.get("temperature") not in (None, 1):
        return Problem("`temperature` may only be set to 1 when thinking is enabled.")
    if body.get("top_k") is not None:
        return Problem("`top_k` must be unset when thinking is enabled.")
    if body.get("top_p") is not None and body["top_p"] < 0.95:
        return Problem("`top_p` must be greater than or equal to 0.95 or unset when thinking is enabled.")
    return None


def check(body, version, batch=False, counting=False):
    """The first reason to refuse this body, or None."""
    for name in ("model", "messages") + (() if counting else ("max_tokens",)):
        if name not in body:
            return _required(name)
    for name, value in body.items():
        problem = MEMBERS[name](name, value) if name in MEMBERS else _extra(name)
        if problem:
            return problem
    if body.get("stream"):
        return Problem("stream: Streaming is not available here")
    if batch and body["max_tokens"] == 0:
        return Problem("max_tokens: Input should be greater than or equal to 1")
    kind = model_class(body["model"])
    if not kind.prefill and body["messages"][-1]["role"] == "assistant":
        return Problem("This model does not support assistant message prefill. The conversation must end with a user "
                       "message.")
    return _check_sampling(body, kind, version) or _check_thinking_class(body, kind)


# Reading

def _texts(body):
    """(role, text, cache_control) of every text, in the order of the cached prefix."""
    system = body.get("system")
    for message in [{"role": "system", "content": system}] * (system is not None) + body["messages"]:
        content = message["content"]
        for block in [{"text": content}] if isinstance(content, str) else content:
            if isinstance(block.get("text"), str):
                yield message["role"], block["text"], block.get("cache_control")


def read(body):
    texts, seen, prefix, ttl = list(_texts(body)), [], "", "5m"
    for role, text, control in texts:
        seen.append(f"{role}: {text}")
        if control:
            prefix, ttl = "\n".join(seen), control.get("ttl", "5m")
    whole = "\n".join(seen)
    if body.get("cache_control"):
        prefix, ttl = whole, body["cache_control"].get("ttl", "5m")
    question = max((text for role, text, _ in texts if role == "user"), key=len, default=whole)
    return Prompt(whole, question, answers.tokens(whole), answers.tokens(prefix), ttl)


def check_prompt(body, prompt):
    """What can only be refused once the prompt is counted."""
    model = prices.find(body["model"])
    if model and prompt.tokens > model.max_input:
        return Problem(f"prompt is too long: {prompt.tokens} tokens > {model.max_input} maximum")
    if model and body.get("max_tokens", 0) > model.max_output:
        return Problem(f"max_tokens: {body['max_tokens']} > {model.max_output}, which is the maximum allowed number of "
                       f"output tokens for {body['model']}")
    return None


def check_model(name, options):
    if not options["any_model"] and (prices.find(name) is None or prices.find(name).provider != "anthropic"):
        return Problem(f"model: {name}", "not_found_error")
    return None


# Answering

TOLD = re.compile(r"\{(\w+: .+)\}\Z")
WORDS = re.compile(r"JSON schema:\n(?=\{)")


def _heed(schema):
    """The schema with what its descriptions tell: "{minimum: 1, maximum: 5}", as the SDKs write it."""
    if isinstance(schema, list):
        return [_heed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    told = {}
    match = TOLD.search(schema["description"]) if isinstance(schema.get("description"), str) else None
    for part in match[1].split(", ") if match else ():
        name, _, value = part.partition(": ")
        try:
            told[name] = json.loads(value)
        except ValueError:
            return {name: _heed(value) for name, value in schema.items()}
    return {**{name: _heed(value) for name, value in schema.items()}, **told}


def _wanted_schema(body, prompt):
    """The schema that is asked for, in its own place or in words."""
    wanted = (body.get("output_config") or {}).get("format")
    if wanted:
        return _heed(wanted["schema"])
    words = WORDS.search(prompt.text) if body.get("system") else None
    try:
        return json.JSONDecoder().raw_decode(prompt.text, words.end())[0] if words else None
    except ValueError:
        return None


def _answer(body, prompt):
    schema = _wanted_schema(body, prompt)
    if schema is None:
        return answers.first_sentence(prompt.question)
    return json.dumps(answers.from_schema(schema, prompt.question), ensure_ascii=False)


def thinks(body):
    kind = model_class(body["model"])
    return (body.get("thinking") or {}).get("type", kind.thinking[0]) in ("adaptive", "enabled")


def _cut(text, size):
    return text.encode("utf-8", "surrogatepass")[:size].decode("utf-8", "ignore")


def _complete(body, prompt, effect, reasoning):
    """(text or None, stop reason, stop details, tokens of thinking)"""
    if effect.get("refusal") or effect.get("content_filter"):
        words = effect.get("refusal")
        details = {"type": "refusal", "category": "cyber", "explanation": words if isinstance(words, str) else None}
        return None, "refusal", details, reasoning
    text, stop = effect.get("answer"), "end_turn"
    text = _answer(body, prompt) if text is None else text if isinstance(text, str) else json.dumps(text)
    cap = body["max_tokens"]
    if reasoning + answers.tokens(text) > cap:
        # Thinking counts as well, and comes first.
        reasoning = min(reasoning, cap)
        text, stop = _cut(text, 4 * (cap - reasoning)), "max_tokens"
    elif effect.get("length"):
        text, stop = text[:len(text) // 2], "max_tokens"
    return text, effect.get("finish_reason", stop), None, reasoning


def _cache_use(body, prompt, options):
    """(read, written) tokens.  Nothing is cached that is not marked."""
    if prompt.cached_prefix < minimum_prefix(body["model"]):
        return 0, 0
    read_tokens = int(prompt.cached_prefix * options["cached_fraction"])
    return read_tokens, min(int(prompt.cached_prefix * options["written_fraction"]),
                            prompt.cached_prefix - read_tokens)


MINIMUM_PREFIX = [(512, r"claude-(fable-5|mythos-5|opus-5|sonnet-5-5)"), (4096, r"claude-(opus-4-[56]|haiku-4-5)"),
                  (2048, r"claude-(opus-4-7|haiku-3-5|mythos-preview)")]


def minimum_prefix(model):
    """Tokens below which nothing is cached.  Not published for Haiku 5.5."""
    return next((tokens for tokens, names in MINIMUM_PREFIX if re.match(names, model)), 1024)


def reply(body, prompt, effect, options, id, batch):
    """(message, usage): effect says how this reply differs from an ordinary one."""
    thinking = thinks(body)
    reasoning = effect.get("reasoning_tokens", options["reasoning_tokens"] if thinking else 0)
    text, stop, details, reasoning = _complete(body, prompt, effect, reasoning)
    read_tokens, written = _cache_use(body, prompt, options)
    usage = prices.Usage(prompt.tokens, read_tokens, written, reasoning + answers.tokens(text or ""), reasoning,
                         written if prompt.ttl == "1h" else 0)
    content = [{"type": "thinking", "thinking": "", "signature": "c2lnbmF0dXJl"}] if thinking else []
    if text or (text is not None and stop == "end_turn"):
        content.append({"type": "text", "text": text})
    message = {"model": dated(body["model"]), "id": id, "type": "message", "role": "assistant", "content": content,
               "stop_reason": stop, "stop_sequence": None, "stop_details": details,
               "usage": _show_usage(body, usage, batch)}
    if "usage" in effect:
        message["usage"] = effect["usage"]
    message.update(effect.get("merge", {}))
    return message, usage


def dated(name) -> Optional[str]:
    """The name under which replies speak of a model."""
    model = prices.find(name)
    return model.snapshot if model and model.name == name else name


def _show_usage(body, usage, batch):
    return {"input_tokens": usage.input - usage.cached - usage.written,
            "cache_creation_input_tokens": usage.written, "cache_read_input_tokens": usage.cached,
            "cache_creation": {"ephemeral_5m_input_tokens": usage.written - usage.long_written,
                               "ephemeral_1h_input_tokens": usage.long_written},
            "output_tokens": usage.output,
            **({"output_tokens_details": {"thinking_tokens": usage.reasoning}} if thinks(body) else {}),
            "service_tier": "batch" if batch else "standard",
            "inference_geo": "not_available" if body["model"].startswith("claude-haiku-4-5") else "global"}
