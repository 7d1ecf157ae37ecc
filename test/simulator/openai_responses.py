"""OpenAI's /v1/responses: what it refuses, and what it answers."""

import answers
import openai_chat as chat
import prices
from openai_chat import Problem, Prompt

_string, _boolean = chat._string, chat._boolean

# Items of the input, and the parts of their contents, by role
PARTS = {
    "input_text": chat._members({"type": _string, "text": _string, "prompt_cache_breakpoint": chat._breakpoint},
                                ("text",)),
    "input_image": chat._members({"type": _string, "image_url": _string, "file_id": _string, "detail": _string}),
    "input_file": chat._anything,
    "output_text": chat._members({"type": _string, "text": _string, "annotations": chat._anything,
                                  "logprobs": chat._anything}, ("text",)),
    "refusal": chat._members({"type": _string, "refusal": _string}, ("refusal",)),
}
INPUT = ("input_text", "input_image", "input_file")
ROLES = {"user": INPUT, "system": INPUT, "developer": INPUT, "assistant": ("output_text", "refusal")}


def _check_input(name, value):
    if isinstance(value, str):
        return None
    if not isinstance(value, list):
        return chat._wrong_type(name, "a string or an array of objects")
    if not value:
        return Problem(f"Invalid '{name}': at least one item is needed.", name, "empty_array")
    for i, item in enumerate(value):
        problem = _check_item(f"{name}[{i}]", item)
        if problem:
            return problem
    return None


def _check_item(name, item):
    if not isinstance(item, dict):
        return chat._wrong_type(name, "an object")
    if item.get("type", "message") != "message":
        return chat._invalid(f"{name}.type", item["type"], ("message",))
    role = item.get("role")
    if role not in ROLES:
        return chat._invalid(f"{name}.role", role, ROLES)
    unknown = set(item) - {"type", "role", "content", "phase", "status", "id"}
    if unknown:
        return chat._unknown(f"{name}.{sorted(unknown)[0]}")
    parts = item.get("content")
    if isinstance(parts, str):
        return None
    if not isinstance(parts, list) or not parts:
        return chat._wrong_type(f"{name}.content", "a string or a non-empty array of content parts")
    for i, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ROLES[role]:
            return chat._invalid(f"{name}.content[{i}].type", kind, ROLES[role])
        problem = PARTS[kind](f"{name}.content[{i}]", part)
        if problem:
            return problem
    return None


_flat_members = chat._members({"type": _string, "name": _string, "description": _string, "strict": _boolean,
                               "schema": chat._type(dict, "an object")}, ("name", "schema"))


def _check_format(name, value):
    """Flat, unlike that of Chat Completions; the rules for the schema are the same."""
    if not isinstance(value, dict):
        return chat._wrong_type(name, "an object")
    kind = value.get("type")
    if kind in ("text", "json_object"):
        return None if len(value) == 1 else chat._unknown(f"{name}.{sorted(set(value) - {'type'})[0]}")
    if kind != "json_schema":
        return chat._invalid(f"{name}.type", kind, ("text", "json_object", "json_schema"))
    problem = _flat_members(name, value)
    if problem:
        return problem
    inner = {member: part for member, part in value.items() if member != "type"}
    problem = chat._check_format("response_format", {"type": "json_schema", "json_schema": inner})
    return problem and problem._replace(param=name, message=problem.message.replace("response_format", name))


MEMBERS = {
    "model": _string,
    "input": _check_input,
    "instructions": _string,
    "max_output_tokens": chat._range("integer", 16, None),
    "temperature": chat._range("decimal", 0, 2),
    "top_p": chat._range("decimal", 0, 1),
    "top_logprobs": chat._range("integer", 0, 20),
    "reasoning": chat._members({"effort": chat._one_of("none", "minimal", "low", "medium", "high", "xhigh", "max"),
                                "summary": chat._one_of("auto", "concise", "detailed")}),
    "text": chat._members({"format": _check_format, "verbosity": chat._one_of("low", "medium", "high")}),
    "store": _boolean,
    "stream": _boolean,
    "background": _boolean,
    "metadata": chat.check_metadata,
    "service_tier": chat.MEMBERS["service_tier"],
    "prompt_cache_key": _string,
    "prompt_cache_retention": chat.MEMBERS["prompt_cache_retention"],
    "prompt_cache_options": chat.MEMBERS["prompt_cache_options"],
    "safety_identifier": _string,
    "user": _string,
    "truncation": chat._one_of("auto", "disabled"),
    "include": chat._type(list, "an array"),
    "tools": chat._type(list, "an array"),
    "tool_choice": chat._anything,
    "parallel_tool_calls": _boolean,
    "max_tool_calls": chat._range("integer", 1, None),
    "previous_response_id": _string,
    "conversation": chat._anything,
    "moderation": chat._anything,
    "stream_options": chat._anything,
    "context_management": chat._anything,
    "prompt": chat._anything,
}


def as_chat(body):
    """The same request as a chat completion: model classes and answers are one matter for both."""
    text = body.get("text") or {}
    wanted = text.get("format") or {}
    same = {"model": body["model"], "reasoning_effort": (body.get("reasoning") or {}).get("effort"),
            "max_completion_tokens": body.get("max_output_tokens")}
    same.update((name, body[name]) for name in ("temperature", "top_p", "prompt_cache_options",
                                                "prompt_cache_retention") if name in body)
    if wanted.get("type") == "json_schema":
        same["response_format"] = {"type": "json_schema", "json_schema": wanted}
    elif wanted:
        same["response_format"] = wanted
    return same


def _texts(body):
    if body.get("instructions"):
        yield "instructions", body["instructions"]
    if isinstance(body["input"], str):
        yield "user", body["input"]
        return
    for item in body["input"]:
        if isinstance(item["content"], str):
            yield item["role"], item["content"]
            continue
        for part in item["content"]:
            if "text" in part:
                yield item["role"], part["text"]


class Responses:
    path = "/v1/responses"
    id_prefix = "resp_"

    @staticmethod
    def check(body, batch):
        for name in ("model", "input"):
            if body.get(name) is None:
                return Problem(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
        for name, value in body.items():
            if name not in MEMBERS:
                return chat._unknown(name)
            if value is not None:
                problem = MEMBERS[name](name, value)
                if problem:
                    return problem
        if body.get("stream") or body.get("background"):
            return Problem("Neither streams nor background responses are available here.", None, "unsupported_value")
        if chat.embeds(body["model"]):
            return chat.wrong_endpoint("This is not a model that generates text.")
        problem = chat.check_class(as_chat(body))
        if problem and problem.param == "reasoning_effort":
            problem = problem._replace(param="reasoning.effort",
                                       message=problem.message.replace("reasoning_effort", "reasoning.effort"))
        return problem

    @staticmethod
    def read(body):
        texts = list(_texts(body))
        whole = "\n".join(f"{role}: {text}" for role, text in texts)
        question = max((text for role, text in texts if role == "user"), key=len, default=whole)
        return Prompt(whole, question, answers.tokens(whole))

    @staticmethod
    def check_prompt(body, prompt):
        problem = chat.check_size(body["model"], body.get("max_output_tokens") or 0, prompt, "input",
                                  "max_output_tokens")
        if problem:
            return problem
        spoken = "\n".join(text for role, text in _texts(body) if role != "instructions")
        if (as_chat(body).get("response_format") or {}).get("type") == "json_object" and "json" not in spoken.lower():
            return Problem("Response input messages must contain the word 'json' in some form to use 'text.format' "
                           "of type 'json_object'.", "input", None)
        return None

    @staticmethod
    def reply(body, prompt, effect, options, id, created):
        same = as_chat(body)
        text, finish, reasoning, refusal = chat.complete(same, prompt, effect, options)
        output = reasoning + answers.tokens(refusal or text or "")
        usage = prices.Usage(prompt.tokens, *chat.cache_use(same, prompt, options), output, reasoning)
        cut = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(finish)
        reply = {"id": id, "object": "response", "created_at": created,
                 "status": "incomplete" if cut else "completed", "background": False,
                 "completed_at": None if cut else created, "error": None,
                 "incomplete_details": {"reason": cut} if cut else None,
                 "instructions": body.get("instructions"), "max_output_tokens": body.get("max_output_tokens"),
                 "model": chat.dated(body["model"]), "output": _output(id, text, cut, reasoning, refusal),
                 "reasoning": {"effort": (body.get("reasoning") or {}).get("effort"), "summary": None},
                 "service_tier": "default", "store": body.get("store", True),
                 "temperature": body.get("temperature", 1), "text": body.get("text") or {"format": {"type": "text"}},
                 "tool_choice": "auto", "tools": [], "parallel_tool_calls": True, "top_p": body.get("top_p", 1),
                 "usage": {"input_tokens": usage.input,
                           "input_tokens_details": {"cached_tokens": usage.cached,
                                                    "cache_write_tokens": usage.written},
                           "output_tokens": usage.output,
                           "output_tokens_details": {"reasoning_tokens": usage.reasoning},
                           "total_tokens": usage.input + usage.output},
                 "metadata": body.get("metadata") or {}}
        if "usage" in effect:
            reply["usage"] = effect["usage"]
        reply.update(effect.get("merge", {}))
        return reply, usage


def _output(id, text, cut, reasoning, refusal):
    items = []
    if reasoning:
        items.append({"id": "rs_" + id[5:], "type": "reasoning", "summary": []})
    if refusal is None and not text and cut:
        return items                    # thinking has eaten it all
    part = ({"type": "refusal", "refusal": refusal} if refusal is not None
            else {"type": "output_text", "annotations": [], "logprobs": [], "text": text})
    items.append({"id": "msg_" + id[5:], "type": "message", "status": "incomplete" if cut else "completed",
                  "role": "assistant", "content": [part]})
    return items
