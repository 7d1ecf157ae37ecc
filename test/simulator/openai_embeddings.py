"""OpenAI's /v1/embeddings: what it refuses, and vectors that follow from the text."""

import base64
import hashlib
import math
import struct

import answers
import openai_chat as chat
import prices
from openai_chat import Problem, Prompt

MAX_INPUTS = 2048
# Numbers in a vector: OpenAI's embeddings guide; of other servers' models some number.
DIMENSIONS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072}
OTHER_DIMENSIONS = 8


def _check_input(name, value):
    if isinstance(value, str):
        return None if value else Problem(f"Invalid '{name}': input cannot be an empty string.", name,
                                          "invalid_value")
    if not isinstance(value, list) or not value or len(value) > MAX_INPUTS:
        return chat._wrong_type(name, f"a string or an array of 1 to {MAX_INPUTS} inputs")
    if all(isinstance(text, str) and text for text in value):
        return None
    tokens = value if isinstance(value[0], list) else [value]
    if all(isinstance(list_, list) and list_ and all(type(number) is int for number in list_) for list_ in tokens):
        return None
    return chat._wrong_type(name, "strings that are not empty, or arrays of tokens")


MEMBERS = {
    "model": chat._string,
    "input": _check_input,
    "dimensions": chat._range("integer", 1, None),
    "encoding_format": chat._one_of("float", "base64"),
    "user": chat._string,
}


def _inputs(body):
    """(text or tokens, how many tokens) of each input."""
    value = body["input"]
    if isinstance(value, str):
        value = [value]
    elif isinstance(value[0], int):
        value = [value]
    return [(item, answers.tokens(item) if isinstance(item, str) else len(item)) for item in value]


def vector(text, dimensions):
    """Of length 1, the same for the same text, and nearly at right angles to any other."""
    numbers, block = [], 0
    while len(numbers) < dimensions:
        digest = hashlib.blake2b(f"{block}/{text}".encode("utf-8", "surrogatepass")).digest()
        numbers += (word / 32768 - 1 for word in struct.unpack("<32H", digest))
        block += 1
    numbers = numbers[:dimensions]
    length = math.sqrt(sum(number * number for number in numbers)) or 1
    return [round(number / length, 8) for number in numbers]


class Embeddings:
    path = "/v1/embeddings"
    id_prefix = "embd-"

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
        if prices.find(body["model"]) and not chat.embeds(body["model"]):
            return chat.wrong_endpoint("You are not allowed to generate embeddings from this model.")
        most = DIMENSIONS.get(body["model"])
        if most and (body.get("dimensions") or 0) > most:
            return Problem(f"Invalid value for 'dimensions': must be at most {most}.", "dimensions", "invalid_value")
        return None

    @staticmethod
    def read(body):
        inputs = _inputs(body)
        text = "\n".join(str(item) for item, _ in inputs)
        return Prompt(text, text, sum(count for _, count in inputs))

    @staticmethod
    def check_prompt(body, prompt):
        model = prices.find(body["model"])
        longest = max(count for _, count in _inputs(body))
        if model and longest > model.max_input:
            return Problem(f"This model's maximum context length is {model.max_input} tokens, however you requested "
                           f"{longest} tokens.", "input", "context_length_exceeded")
        return None

    @staticmethod
    def reply(body, prompt, effect, options, id, created):
        dimensions = body.get("dimensions") or DIMENSIONS.get(body["model"], OTHER_DIMENSIONS)
        vectors = [effect.get("answer") or vector(str(item), dimensions) for item, _ in _inputs(body)]
        if body.get("encoding_format") == "base64":
            vectors = [base64.b64encode(struct.pack(f"<{len(v)}f", *v)).decode() for v in vectors]
        usage = prices.Usage(prompt.tokens)
        reply = {"object": "list", "data": [{"object": "embedding", "index": i, "embedding": v}
                                            for i, v in enumerate(vectors)],
                 "model": chat.dated(body["model"]),
                 "usage": {"prompt_tokens": prompt.tokens, "total_tokens": prompt.tokens}}
        if "usage" in effect:
            reply["usage"] = effect["usage"]
        reply.update(effect.get("merge", {}))
        return reply, usage
