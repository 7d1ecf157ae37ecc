"""OpenAI's /v1/chat/completions: what it refuses, and what it answers.

Used for single calls and for the lines of a batch alike.  Another endpoint
is another class with path, check, read and reply (see Chat below).
"""

import json
import marshal
import re
from typing import NamedTuple, Optional

import answers
import prices


class Problem(NamedTuple):
    message: str
    param: Optional[str] = None
    code: Optional[str] = None
    status: int = 400


class Prompt(NamedTuple):
    text: str           # every message, for counting and for telling prompts apart
    question: str       # the longest user text, from which the answer is made
    tokens: int


# Members of the body: each checker gets (name, value) and returns a Problem or None.

def _wrong_type(name, wanted):
    return Problem(f"Invalid type for '{name}': expected {wanted}.", name, "invalid_type")


def _invalid(name, value, known):
    return Problem(f"Invalid value: {json.dumps(value)}. Supported values are: {', '.join(known)}.", name,
                   "invalid_value")


def _range(kind, low, high):
    types = int if kind == "integer" else (int, float)

    def check(name, value):
        if isinstance(value, bool) or not isinstance(value, types):
            return _wrong_type(name, kind)
        if low is not None and value < low:
            return Problem(f"Invalid '{name}': must be at least {low}.", name, f"{kind}_below_min_value")
        if high is not None and value > high:
            return Problem(f"Invalid '{name}': must be at most {high}.", name, f"{kind}_above_max_value")
        return None
    return check


def _type(types, wanted):
    return lambda name, value: None if isinstance(value, types) else _wrong_type(name, wanted)


def _one_of(*known):
    return lambda name, value: None if value in known else _invalid(name, value, known)


def _members(known, required=()):
    """An object with exactly these members; each has its own checker."""
    def check(name, value):
        if not isinstance(value, dict):
            return _wrong_type(name, "an object")
        for member in required:
            if value.get(member) is None:
                return Problem(f"Missing required parameter: '{name}.{member}'.", f"{name}.{member}",
                               "missing_required_parameter")
        for member, part in value.items():
            problem = (_unknown(f"{name}.{member}") if member not in known
                       else known[member](f"{name}.{member}", part))
            if problem:
                return problem
        return None
    return check


def _unknown(name):
    return Problem(f"Unknown parameter: '{name}'.", name, "unknown_parameter")


_string, _boolean = _type(str, "a string"), _type(bool, "a boolean")
_anything = lambda name, value: None    # noqa: E731


def check_metadata(name, value):
    if not isinstance(value, dict):
        return _wrong_type(name, "an object")
    if len(value) > 16:
        return Problem(f"Invalid '{name}': at most 16 pairs, got {len(value)}.", name, "object_above_max_properties")
    for key, text in value.items():
        if len(key) > 64:
            return Problem(f"Invalid '{name}': a key is longer than 64 characters.", name, "invalid_metadata_key")
        if not isinstance(text, str):
            return _wrong_type(f"{name}.{key}", "a string")
        if len(text) > 512:
            return Problem(f"Invalid '{name}.{key}': longer than 512 characters.", f"{name}.{key}",
                           "string_above_max_length")
    return None


def _check_stop(name, value):
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return _wrong_type(name, "a string or an array of strings")
    return None if 1 <= len(texts) <= 4 else Problem(f"Invalid '{name}': one to four texts.", name, "invalid_value")


# Messages

_breakpoint = _members({"mode": _one_of("explicit"), "ttl": _one_of("30m", "12h")}, ("mode",))
PARTS = {
    "text": _members({"type": _string, "text": _string, "prompt_cache_breakpoint": _breakpoint}, ("text",)),
    "image_url": _members({"type": _string, "prompt_cache_breakpoint": _breakpoint,
                           "image_url": _members({"url": _string, "detail": _string}, ("url",))}, ("image_url",)),
    "input_audio": _members({"type": _string, "input_audio": _anything, "prompt_cache_breakpoint": _breakpoint}),
    "file": _members({"type": _string, "file": _anything, "prompt_cache_breakpoint": _breakpoint}),
    "refusal": _members({"type": _string, "refusal": _string}, ("refusal",)),
}
ROLES = {
    "system": ({"text"}, {"name"}),
    "developer": ({"text"}, {"name"}),
    "user": ({"text", "image_url", "input_audio", "file"}, {"name"}),
    "assistant": ({"text", "refusal"}, {"name", "refusal", "audio", "tool_calls", "function_call"}),
    "tool": ({"text"}, {"tool_call_id"}),
}


def _check_messages(name, value):
    if not isinstance(value, list):
        return _wrong_type(name, "an array of objects")
    if not value:
        return Problem(f"Invalid '{name}': at least one message is needed.", name, "empty_array")
    for i, message in enumerate(value):
        problem = _check_message(f"{name}[{i}]", message)
        if problem:
            return problem
    return None


def _check_message(name, message):
    if not isinstance(message, dict):
        return _wrong_type(name, "an object")
    role = message.get("role")
    if role is None:
        return Problem(f"Missing required parameter: '{name}.role'.", f"{name}.role", "missing_required_parameter")
    if not isinstance(role, str) or role not in ROLES:
        return _invalid(f"{name}.role", role, ROLES)
    kinds, optional = ROLES[role]
    for member in message:
        if member not in ("role", "content") and member not in optional:
            return _unknown(f"{name}.{member}")
    content = message.get("content")
    if isinstance(content, str):
        return None
    if content is None and role == "assistant" and (message.get("tool_calls") or message.get("function_call")):
        return None
    return _check_parts(f"{name}.content", content, kinds)


def _check_parts(name, parts, kinds):
    if not isinstance(parts, list) or not parts:
        return _wrong_type(name, "a string or a non-empty array of content parts")
    for i, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in kinds:
            return _invalid(f"{name}[{i}].type", kind, sorted(kinds))
        problem = PARTS[kind](f"{name}[{i}]", part)
        if problem:
            return problem
    return None


# Answer formats

SCHEMA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_format_members = _members({"name": _string, "description": _string, "strict": _boolean,
                            "schema": _type(dict, "an object")}, ("name",))
# What a strict schema may say; everything else is refused rather than ignored.
KEYWORDS = {"type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "$ref",
            "$defs", "definitions", "description", "title", "format", "pattern", "minimum", "maximum",
            "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems"}
STRING_FORMATS = set(answers.FORMATS)
TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}
MAX_DEPTH, MAX_PROPERTIES, MAX_ENUM = 10, 5000, 1000


class _BadSchema(Exception):
    pass


class _StrictSchema:
    """The rules of strict mode: closed objects, every property required, few keywords."""

    def __init__(self, schema):
        self.root, self.properties, self.enums = schema, 0, 0
        if schema.get("type") != "object" or "anyOf" in schema:
            raise _BadSchema("the root must be of type 'object' and not 'anyOf'")
        self.visit(schema, "$", 0)

    def visit(self, schema, path, depth):
        if not isinstance(schema, dict):
            raise _BadSchema(f"{path}: a schema must be an object")
        if depth > MAX_DEPTH:
            raise _BadSchema(f"{path}: more than {MAX_DEPTH} levels of nesting")
        unknown = set(schema) - KEYWORDS
        if unknown:
            raise _BadSchema(f"{path}: '{sorted(unknown)[0]}' is not permitted")
        if "$ref" in schema:
            self.reference(schema["$ref"], path)
        elif "anyOf" not in schema:
            self.typed(schema, path)
        if schema.get("type") == "object" or "object" in (schema.get("type") or ()):
            self.closed(schema, path)
        self.enums += len(schema.get("enum", ()))
        if self.enums > MAX_ENUM:
            raise _BadSchema(f"more than {MAX_ENUM} enum values")
        for place, sub in self.children(schema, path):
            self.visit(sub, place, depth + (1 if place.startswith(path + ".") else 0))

    def reference(self, ref, path):
        node = self.root
        for step in str(ref).lstrip("#").strip("/").split("/"):
            node = node if not step else node.get(step) if isinstance(node, dict) else None
        if not str(ref).startswith("#") or node is None:
            raise _BadSchema(f"{path}: the reference '{ref}' leads nowhere")

    def typed(self, schema, path):
        kinds = schema.get("type")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if not kinds or not all(kind in TYPES for kind in kinds):
            if "enum" not in schema and "const" not in schema:
                raise _BadSchema(f"{path}: a 'type' is required")
        if "array" in kinds and "items" not in schema:
            raise _BadSchema(f"{path}: an array needs 'items'")
        if schema.get("format") is not None and schema["format"] not in STRING_FORMATS:
            raise _BadSchema(f"{path}: '{schema['format']}' is not a supported format")

    def closed(self, schema, path):
        names = schema.get("properties", {})
        if schema.get("additionalProperties") is not False:
            raise _BadSchema(f"{path}: 'additionalProperties' is required to be false")
        if sorted(schema.get("required", [])) != sorted(names):
            raise _BadSchema(f"{path}: 'required' must name every property")
        self.properties += len(names)
        if self.properties > MAX_PROPERTIES:
            raise _BadSchema(f"more than {MAX_PROPERTIES} properties")

    @staticmethod
    def children(schema, path):
        for name, sub in schema.get("properties", {}).items():
            yield f"{path}.{name}", sub
        for word in ("$defs", "definitions"):
            for name, sub in schema.get(word, {}).items():
                yield f"{path}/{word}/{name}", sub
        for i, sub in enumerate(schema.get("anyOf", ())):
            yield f"{path}/anyOf/{i}", sub
        if "items" in schema:
            yield f"{path}.[]", schema["items"]


_good_formats = set()       # a batch repeats one schema in every line


def _check_format(name, value):
    if not isinstance(value, dict):
        return _wrong_type(name, "an object")
    kind = value.get("type")
    if kind in ("text", "json_object"):
        return None if len(value) == 1 else _unknown(f"{name}.{sorted(set(value) - {'type'})[0]}")
    if kind != "json_schema":
        return _invalid(f"{name}.type", kind, ("text", "json_object", "json_schema"))
    known = marshal.dumps(value)
    if known in _good_formats:
        return None
    problem = _check_json_schema(name, value)
    if problem is None and len(_good_formats) < 1000:
        _good_formats.add(known)
    return problem


def _check_json_schema(name, value):
    problem = _members({"type": _string, "json_schema": _format_members}, ("json_schema",))(name, value)
    if problem:
        return problem
    inner = value["json_schema"]
    if not SCHEMA_NAME.fullmatch(inner["name"]):
        return Problem(f"Invalid '{name}.json_schema.name': does not match '^[a-zA-Z0-9_-]{{1,64}}$'.",
                       f"{name}.json_schema.name", "invalid_value")
    if inner.get("schema") is None:
        return Problem(f"Missing required parameter: '{name}.json_schema.schema'.", f"{name}.json_schema.schema",
                       "missing_required_parameter")
    if inner.get("strict"):
        try:
            _StrictSchema(inner["schema"])
        except (_BadSchema, AttributeError, TypeError) as error:
            return Problem(f"Invalid schema for response_format '{inner['name']}': {error}.", name, None)
    return None


MEMBERS = {
    "model": _string,
    "messages": _check_messages,
    "temperature": _range("decimal", 0, 2),
    "top_p": _range("decimal", 0, 1),
    "frequency_penalty": _range("decimal", -2, 2),
    "presence_penalty": _range("decimal", -2, 2),
    "n": _range("integer", 1, 128),
    "seed": _range("integer", -2 ** 63, 2 ** 63 - 1),
    "max_tokens": _range("integer", 1, None),
    "max_completion_tokens": _range("integer", 1, None),
    "top_logprobs": _range("integer", 0, 20),
    "logprobs": _boolean,
    "store": _boolean,
    "stream": _boolean,
    "stop": _check_stop,
    "metadata": check_metadata,
    "response_format": _check_format,
    "reasoning_effort": _one_of("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "verbosity": _one_of("low", "medium", "high"),
    "service_tier": _one_of("auto", "default", "flex", "priority", "fast", "scale"),
    "prompt_cache_key": _string,
    "prompt_cache_retention": _one_of("in_memory", "24h"),
    "prompt_cache_options": _members({"mode": _one_of("implicit", "explicit"), "ttl": _one_of("30m")}),
    "safety_identifier": _string,
    "user": _string,
    "modalities": _type(list, "an array"),
    "logit_bias": _type(dict, "an object"),
    "tools": _type(list, "an array"),
    "tool_choice": _anything,
    "parallel_tool_calls": _boolean,
    "prediction": _anything,
    "stream_options": _anything,
    "web_search_options": _anything,
    "audio": _anything,
    "moderation": _anything,
    "functions": _type(list, "an array"),
    "function_call": _anything,
}


# Classes of models

class ModelClass(NamedTuple):
    names: re.Pattern
    reasons: bool
    sampling: str       # temperature and top_p: "free", "default" (only 1) or "at none" (free at effort none)
    efforts: tuple      # accepted values of reasoning_effort
    effort: str = ""    # what counts when none is given


CLASSES = [
    ModelClass(re.compile(r"gpt-4|gpt-3\.5|chatgpt"), False, "free", ()),
    ModelClass(re.compile(r"o\d"), True, "default", ("low", "medium", "high"), "medium"),
    ModelClass(re.compile(r"gpt-5(-mini|-nano|-pro)?$"), True, "default",
               ("minimal", "low", "medium", "high"), "medium"),
    ModelClass(re.compile(r"gpt-5\.[1-5]"), True, "at none",
               ("none", "minimal", "low", "medium", "high", "xhigh"), "none"),
    ModelClass(re.compile(r"gpt-5\.6|gpt-6-sol|gpt-6-luna"), True, "at none",
               ("none", "minimal", "low", "medium", "high", "xhigh", "max"), "medium"),
    ModelClass(re.compile(r"gpt-6\.1-sol"), True, "default", ("low", "medium", "high", "xhigh"), "medium"),
    ModelClass(re.compile(r"gpt-6"), True, "default", ("low", "medium", "high", "xhigh", "max"), "medium"),
]
OTHER = ModelClass(re.compile(""), False, "free", ("none", "minimal", "low", "medium", "high", "xhigh", "max"))


def model_class(name):
    plain = prices.DATE.sub("", name)
    return next((c for c in CLASSES if c.names.match(plain)), OTHER)


def check_class(body):
    """The parameters that this kind of model does not take."""
    kind = model_class(body["model"])
    if kind.reasons and body.get("max_tokens") is not None:
        return Problem("Unsupported parameter: 'max_tokens' is not supported with this model. "
                       "Use 'max_completion_tokens' instead.", "max_tokens", "unsupported_parameter")
    effort = body.get("reasoning_effort")
    if effort is not None and effort not in kind.efforts:
        if not kind.efforts:
            return Problem("Unrecognized request argument supplied: reasoning_effort", "reasoning_effort",
                           "unsupported_parameter")
        return Problem(f"Unsupported value: 'reasoning_effort' does not support '{effort}' with this model. "
                       f"Supported values are: {', '.join(kind.efforts)}.", "reasoning_effort", "unsupported_value")
    free = kind.sampling == "free" or (kind.sampling == "at none" and (effort or kind.effort) == "none")
    for name in ("temperature", "top_p"):
        value = body.get(name)
        if not free and value is not None and value != 1:
            return Problem(f"Unsupported value: '{name}' does not support {value} with this model. "
                           "Only the default (1) value is supported.", name, "unsupported_value")
    return None


def _check_together(body):
    """Members that do not go together."""
    if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
        return Problem("Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
                       "max_tokens", "invalid_parameter_combination")
    if (body.get("prompt_cache_options") or {}).get("ttl") and body.get("prompt_cache_retention"):
        return Problem("'prompt_cache_options.ttl' cannot be combined with 'prompt_cache_retention'.",
                       "prompt_cache_retention", "invalid_parameter_combination")
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        return Problem("'top_logprobs' needs 'logprobs'.", "top_logprobs", "invalid_parameter_combination")
    return None


def _texts(messages):
    """(role, text) of every text in the messages."""
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            yield message["role"], content
        else:
            for part in content or ():
                if "text" in part:
                    yield message["role"], part["text"]


def embeds(name):
    """Whether it is a model that only makes vectors."""
    model = prices.find(name)
    return model is not None and model.max_output == 0


def wrong_endpoint(message):
    return Problem(message, "model", None, 404)


def check_size(name, cap, prompt, prompt_name, cap_name):
    """What can only be refused once the prompt is counted."""
    model = prices.find(name)
    if model and prompt.tokens > model.max_input:
        return Problem(f"This model's maximum context length is {model.max_input} tokens, "
                       f"but the {prompt_name} have {prompt.tokens}.", prompt_name, "context_length_exceeded")
    if model and cap > model.max_output:
        return Problem(f"max_tokens is too large: {cap}. This model supports at most {model.max_output}.",
                       cap_name, "invalid_value")
    return None


class Chat:
    path = "/v1/chat/completions"
    id_prefix = "chatcmpl-"

    @staticmethod
    def check(body, batch):
        """The first reason to refuse this body, or None."""
        for name in ("model", "messages"):
            if body.get(name) is None:
                return Problem(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
        for name, value in body.items():
            if name not in MEMBERS:
                return _unknown(name)
            if value is not None:
                problem = MEMBERS[name](name, value)
                if problem:
                    return problem
        if body.get("stream"):
            return Problem("Streaming is not available here.", "stream", "unsupported_value")
        if embeds(body["model"]):
            return wrong_endpoint("This is not a chat model and thus not supported in the v1/chat/completions endpoint.")
        return check_class(body) or _check_together(body)

    @staticmethod
    def read(body):
        texts = list(_texts(body["messages"]))
        whole = "\n".join(f"{role}: {text}" for role, text in texts)
        question = max((text for role, text in texts if role == "user"), key=len, default=whole)
        return Prompt(whole, question, answers.tokens(whole))

    @staticmethod
    def check_prompt(body, prompt):
        cap = body.get("max_completion_tokens") or body.get("max_tokens") or 0
        problem = check_size(body["model"], cap, prompt, "messages", "max_completion_tokens")
        if problem:
            return problem
        json_object = (body.get("response_format") or {}).get("type") == "json_object"
        if json_object and "json" not in prompt.text.lower():
            return Problem("'messages' must contain the word 'json' in some form, to use 'response_format' "
                           "of type 'json_object'.", "messages", None)
        return None

    @staticmethod
    def reply(body, prompt, effect, options, id, created):
        """(reply body, usage): effect says how this reply differs from an ordinary one."""
        text, finish, reasoning, refusal = complete(body, prompt, effect, options)
        output = reasoning + answers.tokens(refusal or text or "")
        count = body.get("n") or 1
        usage = prices.Usage(prompt.tokens, *cache_use(body, prompt, options), output * count, reasoning * count)
        message = {"role": "assistant", "content": text, "refusal": refusal, "annotations": []}
        reply = {"id": id, "object": "chat.completion", "created": created, "model": dated(body["model"]),
                 "choices": [{"index": i, "message": message, "logprobs": None, "finish_reason": finish}
                             for i in range(count)],
                 "usage": _show_usage(usage), "service_tier": "default", "system_fingerprint": None}
        if "usage" in effect:
            reply["usage"] = effect["usage"]
        reply.update(effect.get("merge", {}))
        return reply, usage


def dated(name):
    """The name under which replies speak of a model."""
    model = prices.find(name)
    return model.snapshot if model and model.name == name else name


def schema_in_words(text):
    """The JSON schema that stands in the text behind the words "JSON schema:", or None."""
    _, found, rest = text.partition("JSON schema:\n")
    if not found:
        return None
    try:
        schema, _ = json.JSONDecoder().raw_decode(rest)
    except ValueError:
        return None
    return schema if isinstance(schema, dict) else None


def _answer(body, prompt):
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        return json.dumps(answers.from_schema(wanted["json_schema"]["schema"], prompt.question), ensure_ascii=False)
    told = schema_in_words(prompt.text)
    if told is not None:
        text = json.dumps(answers.from_schema(told, prompt.question), ensure_ascii=False)
        # Where nothing but words asks for it, models like to talk.
        return text if wanted else f"Here is the JSON object you asked for:\n```json\n{text}\n```"
    if wanted.get("type") == "json_object":
        return json.dumps({"answer": answers.first_sentence(prompt.question)}, ensure_ascii=False)
    return answers.first_sentence(prompt.question)


def complete(body, prompt, effect, options):
    """(text, finish reason, reasoning tokens, refusal)"""
    kind = model_class(body["model"])
    thinks = kind.reasons and (body.get("reasoning_effort") or kind.effort) != "none"
    reasoning = effect.get("reasoning_tokens", options["reasoning_tokens"] if thinks else 0)
    if effect.get("refusal"):
        refusal = effect["refusal"]
        return None, "stop", reasoning, refusal if isinstance(refusal, str) else "I can't help with that."
    text, finish = effect.get("answer"), "stop"
    text = _answer(body, prompt) if text is None else text if isinstance(text, str) else json.dumps(text)
    cap = body.get("max_completion_tokens") or body.get("max_tokens")
    if cap and reasoning + answers.tokens(text) > cap:
        # Thinking eats the budget first, as it does with the real models.
        reasoning = min(reasoning, cap)
        text, finish = _cut(text, 4 * (cap - reasoning)), "length"
    elif effect.get("length"):
        text, finish = text[:len(text) // 2], "length"
    elif effect.get("content_filter"):
        text, finish = text[:len(text) // 2], "content_filter"
    return text, effect.get("finish_reason", finish), reasoning, None


def _cut(text, size):
    return text.encode("utf-8", "surrogatepass")[:size].decode("utf-8", "ignore")


def cache_use(body, prompt, options):
    """(read, written) tokens.  Here a real model of the prefix cache would go."""
    if prompt.tokens < 1024:
        return 0, 0
    read = int(prompt.tokens * options["cached_fraction"]) // 128 * 128
    written = min(int(prompt.tokens * options["written_fraction"]), prompt.tokens - read)
    return read, written


def _show_usage(usage):
    return {"prompt_tokens": usage.input, "completion_tokens": usage.output,
            "total_tokens": usage.input + usage.output,
            "prompt_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.written,
                                      "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning, "audio_tokens": 0,
                                          "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}}
