"""Gemini's GenerateContentRequest: what it refuses, and what it answers.

Used for single calls and for the lines of a batch alike.  Names of members
may be written in camelCase or in snake_case, as the API takes both.
"""

import json
import marshal
import re
from typing import NamedTuple

import answers
import prices
from openai_chat import schema_in_words


class Problem(NamedTuple):
    message: str
    status: int = 400


class Prompt(NamedTuple):
    text: str           # every message, for counting and for telling prompts apart
    question: str       # the longest user text, from which the answer is made
    tokens: int


class Bad(Exception):
    """The request is refused; the text says why."""


def camel(name):
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


# Members of the body: each checker gets (path, value) and raises Bad.

def _type(kinds, wanted):
    def check(path, value):
        if not isinstance(value, kinds) or isinstance(value, bool) and bool not in (kinds, *_tuple(kinds)):
            raise Bad(f"Invalid value at '{path}' ({wanted}), {json.dumps(value)[:80]}")
        return value
    return check


def _tuple(kinds):
    return kinds if isinstance(kinds, tuple) else (kinds,)


def _range(kinds, wanted, low, high):
    typed = _type(kinds, wanted)

    def check(path, value):
        if not low <= typed(path, value) <= high:
            raise Bad(f"Unable to submit request because {path} has value {value}, but the supported range is "
                      f"from {low} to {high}.")
    return check


def _one_of(*known):
    def check(path, value):
        if value not in known:
            raise Bad(f"Invalid value at '{path}' (enum), {json.dumps(value)[:80]}")
    return check


def _list_of(check_one, most=None):
    def check(path, value):
        if not isinstance(value, list):
            raise Bad(f"Invalid value at '{path}' (list)")
        if most is not None and len(value) > most:
            raise Bad(f"{path}: at most {most} values, got {len(value)}.")
        for i, one in enumerate(value):
            check_one(f"{path}[{i}]", one)
    return check


def members(known):
    """An object with these members and no others; each has its own checker."""
    def check(path, value):
        if not isinstance(value, dict):
            raise Bad(f"Invalid value at '{path}' (message)")
        seen = set()
        for name, part in value.items():
            plain = camel(name)
            if plain not in known:
                raise Bad(f"Invalid JSON payload received. Unknown name \"{name}\" at '{path}': Cannot find field.")
            if plain in seen:
                raise Bad(f"Invalid JSON payload received. Field \"{name}\" at '{path}' is given twice.")
            seen.add(plain)
            if part is not None:
                known[plain](f"{path}.{name}" if path else name, part)
    return check


def plain(value):
    """An object with its members in camelCase, those that are null left out."""
    return {camel(name): part for name, part in value.items() if part is not None}


_string, _boolean = _type(str, "TYPE_STRING"), _type(bool, "TYPE_BOOL")
_object, _list = _type(dict, "message"), _type(list, "list")
_number = (int, float)
INT32 = 2 ** 31 - 1

_blob = members({"mimeType": _string, "data": _string, "displayName": _string})
_file_data = members({"mimeType": _string, "fileUri": _string, "displayName": _string})
_data = {"text": _string, "inlineData": _blob, "fileData": _file_data, "functionCall": _object,
         "functionResponse": _object, "executableCode": _object, "codeExecutionResult": _object}
_part = members({**_data, "thought": _boolean, "thoughtSignature": _string, "partMetadata": _object,
                 "videoMetadata": _object, "mediaResolution": _object})


def _check_part(path, value):
    _part(path, value)
    if len([name for name in plain(value) if name in _data]) != 1:
        raise Bad(f"{path}: a part has exactly one of {', '.join(_data)}.")


_content = members({"role": _string, "parts": _list_of(_check_part)})


def _check_content(path, value):
    _content(path, value)
    if value.get("role") not in (None, "user", "model"):
        raise Bad("Please use a valid role: user, model.")
    if not value.get("parts"):
        raise Bad(f"* GenerateContentRequest.{path}.parts: contents.parts must not be empty.")


def _check_contents(path, value):
    _list_of(_check_content)(path, value)
    if not value:
        raise Bad("* GenerateContentRequest.contents: contents is not specified")


def _check_system(path, value):
    _content(path, value)
    if not value.get("parts"):
        raise Bad(f"* GenerateContentRequest.{path}.parts: must not be empty.")
    if any("text" not in part for part in value["parts"]):
        raise Bad(f"* GenerateContentRequest.{path}: only text is supported.")


# Schemas

TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}
MAX_DEPTH = 20


class _JsonSchema:
    """JSON Schema as far as it is looked at; other keywords are ignored, as the documentation says."""

    def __init__(self, root):
        self.root = root
        self.visit(root, "response_json_schema", 0)

    def visit(self, schema, path, depth):
        if schema is True:
            return
        if not isinstance(schema, dict):
            raise Bad(f"{path}: a schema must be an object.")
        if depth > MAX_DEPTH:
            raise Bad(f"{path}: the schema is nested too deeply.")
        if "$ref" in schema:
            return self.reference(schema, path)
        kinds = schema.get("type")
        kinds = kinds if isinstance(kinds, list) else [] if kinds is None else [kinds]
        if not all(kind in TYPES for kind in kinds):
            raise Bad(f"{path}.type: unknown type {json.dumps(schema.get('type'))}.")
        if "enum" in schema and (not isinstance(schema["enum"], list) or not schema["enum"]):
            raise Bad(f"{path}.enum: must not be empty.")
        if any(isinstance(value, bool) or not isinstance(value, (str, int, float)) for value in schema.get("enum", ())):
            raise Bad(f"{path}.enum: only strings and numbers are supported.")
        if not isinstance(schema.get("properties", {}), dict):
            raise Bad(f"{path}.properties: must be an object.")
        for name in schema.get("required", ()):
            if name not in schema.get("properties", {}):
                raise Bad(f"{path}.required: property {name} is not defined.")
        for place, sub in self.children(schema, path):
            self.visit(sub, place, depth + 1)
        return None

    def reference(self, schema, path):
        if any(not name.startswith("$") for name in schema):
            raise Bad(f"{path}: nothing but members that start with $ may stand beside $ref.")
        node = self.root
        for step in str(schema["$ref"]).lstrip("#").strip("/").split("/"):
            node = node if not step else node.get(step) if isinstance(node, dict) else None
        if not str(schema["$ref"]).startswith("#") or node is None:
            raise Bad(f"{path}: the reference {schema['$ref']} leads nowhere.")

    @staticmethod
    def children(schema, path):
        for word in ("properties", "$defs"):
            for name, sub in schema.get(word, {}).items():
                yield f"{path}.{name}", sub
        for word in ("anyOf", "oneOf", "prefixItems"):
            for i, sub in enumerate(schema.get(word, ())):
                yield f"{path}.{word}[{i}]", sub
        for word in ("items", "additionalProperties"):
            if isinstance(schema.get(word), dict):
                yield f"{path}.{word}", schema[word]


_good_schemas = set()       # a batch repeats one schema in every line


def _check_schema(path, value):
    _object(path, value)
    known = marshal.dumps(value)
    if known not in _good_schemas:
        _JsonSchema(value)
        if len(_good_schemas) < 1000:
            _good_schemas.add(known)


def _lower_types(schema):
    """The older form of a schema, with its upper-case types, as JSON Schema."""
    if isinstance(schema, list):
        return [_lower_types(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {name: value.lower() if name == "type" and isinstance(value, str) else _lower_types(value)
            for name, value in schema.items()}


# Configuration

_thinking = members({"includeThoughts": _boolean, "thinkingBudget": _range(int, "TYPE_INT32", -1, INT32),
                     "thinkingLevel": _one_of("MINIMAL", "LOW", "MEDIUM", "HIGH", "minimal", "low", "medium", "high")})
_config = members({
    "maxOutputTokens": _range(int, "TYPE_INT32", 1, INT32),
    "temperature": _range(_number, "TYPE_FLOAT", 0, 2),
    "topP": _range(_number, "TYPE_FLOAT", 0, 1),
    "topK": _range(int, "TYPE_INT32", 1, INT32),
    "seed": _range(int, "TYPE_INT32", -INT32 - 1, INT32),
    "candidateCount": _range(int, "TYPE_INT32", 1, 8),
    "stopSequences": _list_of(_string, 5),
    "responseMimeType": _one_of("text/plain", "application/json", "text/x.enum"),
    "responseSchema": _object,
    "responseJsonSchema": _check_schema,
    "thinkingConfig": _thinking,
    "presencePenalty": _range(_number, "TYPE_FLOAT", -2, 2),
    "frequencyPenalty": _range(_number, "TYPE_FLOAT", -2, 2),
    "responseLogprobs": _boolean,
    "logprobs": _range(int, "TYPE_INT32", 0, 20),
    "responseModalities": _list_of(_one_of("TEXT")),
    "mediaResolution": _string,
    "speechConfig": _object,
    "imageConfig": _object,
})


def _check_config(path, value):
    _config(path, value)
    config = plain(value)
    schemas = [name for name in ("responseSchema", "responseJsonSchema") if name in config]
    if len(schemas) > 1:
        raise Bad("Only one of response_schema and response_json_schema may be set.")
    if schemas and config.get("responseMimeType") not in ("application/json", "text/x.enum"):
        raise Bad("Response schema is only supported with response mime type application/json.")


_safety = members({"category": _string, "threshold": _one_of(
    "BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH", "BLOCK_NONE", "OFF")})
_request = members({"model": _string, "contents": _check_contents, "systemInstruction": _check_system,
                    "generationConfig": _check_config, "safetySettings": _list_of(_safety),
                    "tools": _list, "toolConfig": _object, "cachedContent": _string, "serviceTier": _string,
                    "store": _boolean})


# Classes of models

class ModelClass(NamedTuple):
    names: re.Pattern
    budget: tuple       # thinkingBudget: (least, most, whether 0 is allowed), or ()
    levels: tuple       # values of thinkingLevel
    thinks: bool        # when nothing is said
    prefill: bool       # whether the last message may be the model's


LEVELS = ("MINIMAL", "LOW", "MEDIUM", "HIGH")
CLASSES = [
    ModelClass(re.compile(r"gemini-2\.5-pro"), (128, 32768, False), (), True, True),
    ModelClass(re.compile(r"gemini-2\.5-flash-lite"), (512, 24576, True), (), False, True),
    ModelClass(re.compile(r"gemini-2\.5"), (1, 24576, True), (), True, True),
    ModelClass(re.compile(r"gemini-3\.1-pro"), (), LEVELS[1:], True, True),
    ModelClass(re.compile(r"gemini-3\.1-flash-lite"), (), LEVELS, False, True),
    ModelClass(re.compile(r"gemini-3\.8"), (), LEVELS[1:], True, False),
    ModelClass(re.compile(r"gemini-3\.[67]"), (), LEVELS, True, False),
]
OTHER = ModelClass(re.compile(""), (), LEVELS, True, True)


def model_class(name):
    return next((c for c in CLASSES if c.names.match(name)), OTHER)


def _check_class(name, config, contents):
    """What this kind of model does not take."""
    kind, thinking = model_class(name), plain(config.get("thinkingConfig") or {})
    if "thinkingLevel" in thinking and thinking["thinkingLevel"].upper() not in kind.levels:
        if not kind.levels:
            raise Bad("Thinking level is not supported for this model.")
        raise Bad(f"Thinking level {thinking['thinkingLevel'].upper()} is not supported for this model. "
                  "Please retry with other thinking level.")
    if "thinkingBudget" in thinking:
        _check_budget(kind, thinking)
    if not kind.budget and config.get("candidateCount", 1) != 1:
        raise Bad("Multiple candidates is not enabled for this model")
    if not kind.prefill and contents[-1].get("role") == "model":
        raise Bad("The last content must not be of the role model with this model.")


def _check_budget(kind, thinking):
    budget = thinking["thinkingBudget"]
    if "thinkingLevel" in thinking:
        raise Bad("You can only set only one of thinking budget and thinking level.")
    if budget == -1 or not kind.budget:
        return
    least, most, off = kind.budget
    if budget == 0 and not off:
        raise Bad("Budget 0 is invalid. This model only works in thinking mode.")
    if budget and not least <= budget <= most:
        raise Bad(f"The thinking budget {budget} is invalid. Please choose a value between {least} and {most}.")


# The request as a whole

def check(body, name):
    """The first reason to refuse this body when it is sent to that model, or None."""
    try:
        _request("", body)
        body = plain(body)
        if body.get("model") not in (None, f"models/{name}", name):
            raise Bad(f"* GenerateContentRequest.model: {body['model']} is not models/{name}.")
        if not body.get("contents"):
            raise Bad("* GenerateContentRequest.contents: contents is not specified")
        _check_class(name, plain(body.get("generationConfig", {})), body["contents"])
    except Bad as bad:
        return Problem(str(bad))
    return None


def _texts(body):
    """(role, text) of every text, with the roles' common names."""
    for part in body.get("systemInstruction", {}).get("parts", ()):
        yield "system", part["text"]
    for content in body["contents"]:
        for part in content["parts"]:
            if "text" in part:
                yield "assistant" if content.get("role") == "model" else "user", part["text"]


def read(body):
    texts = list(_texts(plain(body)))
    whole = "\n".join(f"{role}: {text}" for role, text in texts)
    question = max((text for role, text in texts if role == "user"), key=len, default=whole)
    return Prompt(whole, question, answers.tokens(whole))


def check_prompt(body, name, prompt):
    """What can only be refused once the prompt is counted."""
    model = prices.find(name)
    cap = plain(plain(body).get("generationConfig", {})).get("maxOutputTokens", 0)
    if model and prompt.tokens > model.max_input:
        return Problem(f"The input token count ({prompt.tokens}) exceeds the maximum number of tokens allowed "
                       f"({model.max_input}).")
    if model and cap > model.max_output:
        return Problem(f"Unable to submit request because it has a maxOutputTokens value of {cap} but the supported "
                       f"range is from 1 (inclusive) to {model.max_output + 1} (exclusive).")
    return None


# Replies

BLOCKED = "PROHIBITED_CONTENT"
SIGNATURE = "EpgCCpUCAQw51scATKE1eIjMV2yqGfWMipVKz6x9Lp31207TDc5nAP6bDk3mGU22mmIdm/apj+zBMX8pHYreGx76AhfU3YLXLfCz"


def reply(body, name, prompt, effect, options, id):
    """(reply body, usage): effect says how this reply differs from an ordinary one."""
    config = plain(plain(body).get("generationConfig", {}))
    text, finish, thoughts = _complete(config, name, prompt, effect, options)
    usage = prices.Usage(prompt.tokens, _cached(name, prompt, options), 0,
                         thoughts + answers.tokens(text or ""), thoughts)
    shown = {"candidates": [_candidate(text, finish, thoughts, config, effect, options)],
             "usageMetadata": _show_usage(usage), "modelVersion": name, "responseId": id}
    if effect.get("content_filter"):
        del shown["candidates"]
        shown = {"promptFeedback": {"blockReason": BLOCKED}, **shown}
    if "usage" in effect:
        shown["usageMetadata"] = effect["usage"]
    shown.update(effect.get("merge", {}))
    return shown, usage


def _thinks(config, name):
    thinking = plain(config.get("thinkingConfig") or {})
    if "thinkingBudget" in thinking:
        return thinking["thinkingBudget"] != 0
    if "thinkingLevel" in thinking:
        return thinking["thinkingLevel"].upper() != "MINIMAL"
    return model_class(name).thinks


def _complete(config, name, prompt, effect, options):
    """(text or None, finish reason, tokens of thought)"""
    if effect.get("content_filter"):
        return None, None, 0
    thoughts = effect.get("reasoning_tokens", options["reasoning_tokens"] if _thinks(config, name) else 0)
    if effect.get("refusal"):
        return None, "SAFETY", thoughts
    text, finish = effect.get("answer"), "STOP"
    text = _answer(config, prompt) if text is None else text if isinstance(text, str) else json.dumps(text)
    cap = config.get("maxOutputTokens")
    if cap and thoughts + answers.tokens(text) > cap:
        # Thinking eats the budget first, and may leave no text at all.
        thoughts = min(thoughts, cap)
        text, finish = _cut(text, 4 * (cap - thoughts)), "MAX_TOKENS"
    elif effect.get("length"):
        text, finish = text[:len(text) // 2], "MAX_TOKENS"
    return text, effect.get("finish_reason", finish), thoughts


def _cut(text, size):
    return text.encode("utf-8", "surrogatepass")[:size].decode("utf-8", "ignore")


def _answer(config, prompt):
    wants_json = config.get("responseMimeType") == "application/json"
    schema = config.get("responseJsonSchema") or _lower_types(config.get("responseSchema"))
    told = None if schema else schema_in_words(prompt.text)
    if schema or told is not None:
        text = json.dumps(answers.from_schema(schema or told, prompt.question), ensure_ascii=False)
        # Where nothing but words asks for it, models like to talk.
        return text if wants_json else f"Here is the JSON object you asked for:\n```json\n{text}\n```"
    if wants_json:
        return json.dumps({"answer": answers.first_sentence(prompt.question)}, ensure_ascii=False)
    return answers.first_sentence(prompt.question)


def _candidate(text, finish, thoughts, config, effect, options):
    if finish == "SAFETY" and text is None:
        refusal = effect.get("refusal")
        candidate = {"finishReason": finish, "index": 0, "safetyRatings": [
            {"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH", "blocked": True}]}
        return {**candidate, "finishMessage": refusal} if isinstance(refusal, str) else candidate
    parts = []
    thinking = plain(config.get("thinkingConfig") or {})
    if thoughts and (options["gemini_thought_parts"] or thinking.get("includeThoughts")):
        parts.append({"text": "Let me think about this.", "thought": True})
    if text:
        # In two parts now and then, as long answers are.
        parts += [{"text": text}] if len(text) < 40 else [{"text": text[:30]}, {"text": text[30:]}]
        if thoughts:
            parts[-1]["thoughtSignature"] = SIGNATURE
    content = {"parts": parts, "role": "model"} if parts else {"role": "model"}
    return {"content": content, "finishReason": finish, "index": 0}


def _cached(name, prompt, options):
    """Tokens from the implicit cache; it begins at 2,048 (2.5) or 4,096 (3 and later; of Lite it is not said)."""
    least = 2048 if name.startswith("gemini-2") or "-lite" in name else 4096
    return int(prompt.tokens * options["cached_fraction"]) if prompt.tokens >= least else 0


def _show_usage(usage):
    """Counts that are zero do not come; thoughts are not in the candidates' tokens."""
    counts = {"promptTokenCount": usage.input, "cachedContentTokenCount": usage.cached,
              "candidatesTokenCount": usage.output - usage.reasoning, "thoughtsTokenCount": usage.reasoning,
              "totalTokenCount": usage.input + usage.output}
    shown = {name: count for name, count in counts.items() if count}
    details = [{"modality": "TEXT", "tokenCount": usage.input}]
    return {**shown, "promptTokensDetails": details, "serviceTier": "standard"}
