"""OpenAI: files, batches, models, and the endpoints in ENDPOINTS."""

import array
import functools
import json
import math
import mmap
import os
import re
import secrets
import time

import core
import life
import multipart
import openai_flavours as flavours
import prices
import rules
from openai_chat import Chat, Problem, check_metadata, dated
from openai_embeddings import Embeddings
from openai_responses import Responses
from wire import Refusal, Response, json_response

OPTIONS = {
    "max_file_bytes": 200 << 20,
    "max_batch_requests": 50000,
    "file_status": "processed",         # of files in listings: uploaded, processed, error
    "max_enqueued_tokens": 0,           # over all batches of a model; 0: no limit
    **flavours.OPTIONS,
}

ENDPOINTS = {endpoint.path: endpoint for endpoint in (Chat, Responses, Embeddings)}
# What the provider accepts, whether simulated or not.
KNOWN_ENDPOINTS = ("/v1/responses", "/v1/chat/completions", "/v1/embeddings", "/v1/completions", "/v1/moderations",
                   "/v1/images/generations", "/v1/images/edits", "/v1/videos")
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
MONTH = 30 * 86400
MAX_ERRORS = 100
FORM_OVERHEAD = 65536                   # what boundaries and fields add to an upload


check_option = flavours.check_option


# Errors

def error_body(message, param=None, code=None, kind="invalid_request_error"):
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refuse(message, param=None, code=None, status=400, kind="invalid_request_error", headers=()):
    raise Refusal(json_response(error_body(message, param, code, kind), status, headers, indent=2))


def refuse_problem(problem):
    if problem is not None:
        refuse(problem.message, problem.param, problem.code, problem.status)


def not_found(request):
    if request.path.startswith(("/v1/", "/openai/", "/api/")):
        return json_response(error_body(f"Invalid URL ({request.method} {request.path})"), 404, indent=2)
    return None


# Keys

def authenticate(world, request):
    key, flavour = flavours.key_of(world, request), flavours.of(world)
    if not key and (flavour.key != "optional" or world.options["keys"]):
        refuse("You didn't provide an API key: use an Authorization header of type Bearer.", status=401)
    valid = _names(world.options["keys"]) + _names(world.options["quota_keys"])
    if world.options["keys"] and key not in valid:
        refuse(f"Incorrect API key provided: {key[:3]}***{key[-2:]}.", code="invalid_api_key", status=401)
    spends = request.method == "POST" and request.path.endswith(("/batches", *(path[3:] for path in ENDPOINTS)))
    if spends and key in _names(world.options["quota_keys"]):
        if world.options["flavour"] == "gateway":
            refuse("Insufficient credits.", code=402, status=402, kind=None)
        refuse("You exceeded your current quota, please check your plan and billing details.",
               code="insufficient_quota", status=429, kind="insufficient_quota")


def _names(text):
    return [name.strip() for name in text.split(",") if name.strip()]


def reply_headers():
    return {"x-request-id": "req_" + secrets.token_hex(16), "openai-version": "2020-10-01",
            "openai-processing-ms": "1"}


def shown(value):
    return json_response(value, indent=2)


# Bodies and queries

def json_body(world, request):
    """The body as an object, kept for later inspection."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        refuse("Unsupported content type: send application/json.", code="unsupported_content_type")
    raw = request.body.read_all()
    try:
        body = decode(raw)
    except ValueError:
        refuse("We could not parse the JSON body of your request.")
    if not isinstance(body, dict):
        refuse("The body must be a JSON object.", code="invalid_type")
    record(world, request, body=body)
    return body


def record(world, request, **facts):
    world.log.record({"seq": request.entry["seq"], "method": request.method, "path": request.path, **facts})


def _no_constant(name):
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_no_constant)


def decode(raw):
    """Strict: UTF-8 without a mark, no NaN, no half of a surrogate pair."""
    value = _decoder.decode(raw.decode("utf-8"))
    if b"\\ud" in raw or b"\\uD" in raw:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def page(request, items, most, default, what):
    """One page of a list that is sorted already: (items, whether there are more)."""
    limit = request.query.get("limit", str(default))
    if not re.fullmatch(r"-?\d{1,9}", limit):
        refuse("Invalid type for 'limit': expected an integer.", "limit", "invalid_type")
    if not 1 <= int(limit) <= most:
        refuse(f"Invalid 'limit': must be from 1 to {most}.", "limit",
               "integer_below_min_value" if int(limit) < 1 else "integer_above_max_value")
    start = 0
    if "after" in request.query:
        ids = [item.id for item in items]
        if request.query["after"] not in ids:
            refuse(f"No {what} found with id '{request.query['after']}'.", "after", status=404)
        start = ids.index(request.query["after"]) + 1
    return items[start:start + int(limit)], start + int(limit) < len(items)


def show_list(data, more):
    return shown({"object": "list", "data": data, "first_id": data[0]["id"] if data else None,
                  "last_id": data[-1]["id"] if data else None, "has_more": more})


# Files

def show_file(file):
    return {"object": "file", "id": file.id, "purpose": file.purpose, "filename": file.filename, "bytes": file.bytes,
            "created_at": int(file.created), "expires_at": file.expires and int(file.expires),
            "status": "processed", "status_details": None}


def show_listed_file(world, file):
    return {**show_file(file), "status": world.options["file_status"] if file.uploaded else "processed"}


def known_file(world, id):
    return world.file(id) or refuse(f"No such File object: {id}", "id", status=404)


def create_file(world, request):
    most = world.options["max_file_bytes"]
    if request.body.left > most + FORM_OVERHEAD:
        refuse(f"File is too large: at most {most} bytes.", "file", status=413)
    fields, file = {}, None
    try:
        for part in multipart.Form(request.body.read, request.headers.get("content-type", "")).parts():
            if part.name == "file":
                file = store_part(world, part, most)
            else:
                fields[part.name] = part.text()
    except multipart.BadForm as error:
        refuse(f"Could not parse the multipart form: {error}.")
    check_upload(fields, file)
    file.purpose = fields["purpose"]
    file.created = world.clock.now()
    file.expires = expiry(fields, file)
    core.cut_upload(file, world.options["file_fraction"])
    world.add_file(file)
    record(world, request, file_id=file.id, filename=file.filename, fields=fields, bytes=file.bytes,
           stored_at=file.path)
    return shown(show_file(file))


def store_part(world, part, most):
    if part.filename is None:
        refuse("The part 'file' has no filename.", "file")
    path = world.new_path()
    size = 0
    with open(path, "wb", buffering=0) as out:
        for block in part.blocks:
            size += len(block)
            if size > most:
                refuse(f"File is too large: at most {most} bytes.", "file", status=413)
            out.write(block)
    return core.File(world.new_id("file-", 22), path, filename=part.filename, bytes=size, uploaded=True)


def check_upload(fields, file):
    unknown = set(fields) - {"purpose", "expires_after[anchor]", "expires_after[seconds]"}
    if unknown:
        refuse(f"Unknown parameter: '{sorted(unknown, key=str)[0]}'.", code="unknown_parameter")
    if "purpose" not in fields:
        refuse("'purpose' is a required property")
    if file is None:
        refuse("'file' is a required property")
    if fields["purpose"] not in PURPOSES:
        refuse(f"'{fields['purpose']}' is not one of {list(PURPOSES)} - 'purpose'")
    if fields["purpose"] == "batch" and not file.filename.endswith(".jsonl"):
        refuse("Invalid file format for Batch API. Must be .jsonl")


def expiry(fields, file):
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return file.created + MONTH if file.purpose == "batch" else None
    if anchor != "created_at" or not (seconds or "").isdigit() or not 3600 <= int(seconds) <= MONTH:
        refuse("Invalid 'expires_after': anchor 'created_at' and 3600 to 2592000 seconds.", "expires_after",
               "invalid_value")
    return file.created + int(seconds)


def list_files(world, request):
    order = request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        refuse("Invalid 'order': asc or desc.", "order", "invalid_value")
    files = [file for file in world.listed_files() if file.purpose == request.query.get("purpose", file.purpose)]
    files.sort(key=lambda file: file.created, reverse=order == "desc")
    found, more = page(request, files, 10000, 10000, "file")
    return show_list([show_listed_file(world, file) for file in found], more)


def get_file(world, request, id):
    return shown(show_file(known_file(world, id)))


def delete_file(world, request, id):
    known_file(world, id).deleted = True
    return shown({"object": "file", "deleted": True, "id": id})


def get_content(world, request, id):
    file = known_file(world, id)
    return Response(file=file.path, content_type="application/octet-stream",
                    headers={"content-disposition": f'attachment; filename="{file.filename}"'})


# Batches: the calls

def create_batch(world, request):
    body = json_body(world, request)
    check_create(body, flavours.of(world).windows)
    if world.rules.refuse_create():
        refuse(f"Invalid file_id: no such file '{body['input_file_id']}'.", "file_id")
    file = world.file(body["input_file_id"])
    if file is None:
        refuse(f"Invalid file_id: no such file '{body['input_file_id']}'.", "file_id")
    if file.purpose != "batch":
        refuse(f"Invalid file purpose: expected 'batch', got '{file.purpose}'.", "input_file_id")
    if body["endpoint"] not in ENDPOINTS:
        refuse(f"The simulator has no endpoint {body['endpoint']}.", "endpoint", "invalid_value")
    batch = life.Batch(world, world.new_id("batch_", 32), Job(world, body, file), body.get("metadata"))
    world.add_batch(batch)
    answer = shown(show_batch(batch))       # before it lives: the reply is always "validating"
    batch.start()
    return answer


def check_create(body, windows):
    for name in ("input_file_id", "endpoint", "completion_window"):
        if body.get(name) is None:
            refuse(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
        if not isinstance(body[name], str):
            refuse(f"Invalid type for '{name}': expected a string.", name, "invalid_type")
    unknown = set(body) - {"input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"}
    if unknown:
        name = sorted(unknown)[0]
        refuse(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
    if body["endpoint"] not in KNOWN_ENDPOINTS:
        refuse(f"Invalid value: '{body['endpoint']}'.", "endpoint", "invalid_value")
    if body["completion_window"] not in windows:
        refuse(f"Invalid value: '{body['completion_window']}'. Value must be one of {', '.join(windows)}.",
               "completion_window", "invalid_value")
    if body.get("metadata") is not None:
        refuse_problem(check_metadata("metadata", body["metadata"]))
    if body.get("output_expires_after") is not None:
        check_output_expiry(body["output_expires_after"])


def check_output_expiry(value):
    seconds = value.get("seconds") if isinstance(value, dict) else None
    if (not isinstance(value, dict) or set(value) != {"anchor", "seconds"} or value["anchor"] != "created_at"
            or type(seconds) is not int or not 3600 <= seconds <= MONTH):
        refuse("Invalid 'output_expires_after': anchor 'created_at' and 3600 to 2592000 seconds.",
               "output_expires_after", "invalid_value")


def known_batch(world, id):
    batch = world.batches.get(id)
    if batch is None or not isinstance(batch.job, Job):
        refuse(f"No batch found with id '{id}'.", status=404)
    return batch


def get_batch(world, request, id):
    return shown(show_batch(known_batch(world, id)))


def list_batches(world, request):
    batches = [batch for batch in reversed(world.all_batches()) if isinstance(batch.job, Job) and batch.listed()]
    if not flavours.of(world).cursor:
        return shown({"object": "list", "data": [show_batch(batch) for batch in batches]})
    found, more = page(request, batches, 100, 20, "batch")
    return show_list([show_batch(batch) for batch in found], more)


def cancel_batch(world, request, id):
    batch = known_batch(world, id)
    if not batch.cancel():
        refuse(f"Cannot cancel a batch with status '{batch.status}'.", status=409)
    return shown(show_batch(batch))


def show_batch(batch):
    with batch.lock:
        job, body, times, status = batch.job, batch.job.body, batch.times, batch.status
        at = lambda name: int(times[name]) if name in times else None     # noqa: E731
        started, ended = "in_progress" in times, status in life.FINAL
        usage = batch.usage if ended else prices.Usage()
        return {
            "id": batch.id, "object": "batch", "endpoint": body["endpoint"],
            "model": dated(batch.model) if started else None,
            "errors": {"object": "list", "data": batch.errors} if status == "failed" else None,
            "input_file_id": body["input_file_id"], "completion_window": body["completion_window"], "status": status,
            "output_file_id": job.output_file_id, "error_file_id": job.error_file_id,
            "created_at": int(batch.created), "in_progress_at": at("in_progress"), "expires_at": int(batch.expires),
            "finalizing_at": at("finalizing"), "completed_at": at("completed"), "failed_at": at("failed"),
            "expired_at": at("expired"), "cancelling_at": at("cancelling"), "cancelled_at": at("cancelled"),
            "request_counts": {"total": batch.total if started else 0,
                               "completed": batch.completed, "failed": batch.failed},
            "usage": {"input_tokens": usage.input, "input_tokens_details": {"cached_tokens": usage.cached},
                      "output_tokens": usage.output,
                      "output_tokens_details": {"reasoning_tokens": usage.reasoning},
                      "total_tokens": usage.input + usage.output},
            "metadata": body.get("metadata"),
        }


# Batches: the work

UNRUN = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "cancelled": ("batch_cancelled", "This request was not executed because the batch was cancelled."),
}


class Job:
    """What life.Batch does not know about an OpenAI batch: its input and its lines."""

    def __init__(self, world, body, file):
        self.world, self.body, self.file = world, body, file
        self.endpoint = ENDPOINTS[body["endpoint"]]
        self.output_file_id = self.error_file_id = None
        # Opened now: deleting the file later must not hurt a batch under way.
        with open(file.path, "rb") as source:
            self.data = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) if file.bytes else b""
        self.spans = array.array("Q")       # where each line starts and ends
        self.tag = secrets.token_hex(12)

    def describe(self):
        return {"input_file_id": self.file.id, "output_file_id": self.output_file_id,
                "error_file_id": self.error_file_id, "metadata": self.body.get("metadata")}

    def check(self, batch):
        return Check(self, batch).errors

    def run(self, batch, index):
        line = self.request(index)
        custom_id, body = line["custom_id"], line["body"]
        problem = check(self.world, self.endpoint, body, batch=True)
        prompt = None if problem else self.endpoint.read(body)
        problem = problem or self.endpoint.check_prompt(body, prompt)
        if problem:
            error = error_body(problem.message, problem.param, problem.code)
            return self.failure(index, custom_id, {}, problem.status, error)
        effect = rules.effect_on(batch.items, custom_id, prompt.text) if batch.items else {}
        if "status_code" in effect:
            return self.failure(index, custom_id, effect, effect["status_code"], status_error(effect))
        if "line_error" in effect:
            code = effect["line_error"]
            return self.line("error", index, custom_id, effect, None, {"code": code, "message": f"Failed: {code}."})
        reply, usage = self.endpoint.reply(body, prompt, effect, self.world.options,
                                           f"{self.endpoint.id_prefix}{self.tag}{index:06x}", int(self.world.clock.now()))
        response = {"status_code": 200, "request_id": self.request_id(index), "body": reply}
        return self.line("output", index, custom_id, effect, response, None)._replace(
            succeeded=True, usage=usage, model=flavours.model_name(self.world, batch.model), prompt=prompt.text)

    def unrun(self, batch, index, why):
        code, message = UNRUN[why]
        return self.line("error", index, self.request(index)["custom_id"], {}, None, {"code": code, "message": message})

    def request(self, index):
        return decode(self.data[self.spans[2 * index]:self.spans[2 * index + 1]])

    def request_id(self, index):
        return f"{self.tag}{index:08x}"

    def failure(self, index, custom_id, effect, status, error):
        response = {"status_code": status, "request_id": self.request_id(index), "body": error}
        return self.line("error", index, custom_id, effect, response, None)

    def line(self, file, index, custom_id, effect, response, error):
        shown_id = effect.get("custom_id", custom_id)
        record = {"id": f"batch_req_{self.tag}{index:08x}", "custom_id": shown_id, "response": response, "error": error}
        if shown_id is None:
            del record["custom_id"]
        return life.Line(file, record, False, custom_id=custom_id, effect=effect)

    def deliver(self, batch, written):
        plan = batch.plan
        if "output" in written and not plan["no_output_file"]:
            self.output_file_id = self.publish(batch, written["output"], "output")
        if "error" in written:
            self.error_file_id = self.publish(batch, written["error"], "error")
        elif plan["error_file_id"] is not None:
            self.error_file_id = plan["error_file_id"]

    def publish(self, batch, path, kind):
        expires = self.body.get("output_expires_after") or {"seconds": MONTH}
        now = self.world.clock.now()
        return self.world.add_file(core.File(
            self.world.new_id("file-", 22), path, filename=f"{batch.id}_{kind}.jsonl", purpose="batch_output",
            bytes=os.path.getsize(path), created=now, expires=now + expires["seconds"])).id


def status_error(effect):
    """The body of a request that a rule wants to fail."""
    status = effect["status_code"]
    kind, code = {429: ("requests", "rate_limit_exceeded"), 400: ("invalid_request_error", "invalid_value")}.get(
        status, ("server_error", None) if status >= 500 else ("invalid_request_error", None))
    error = {"message": f"Simulated error {status}.", "type": kind, "param": None, "code": code}
    return {"error": {**error, **(effect.get("error") or {})}}


class Check:
    """Validation of an input file, line by line."""

    def __init__(self, job, batch):
        self.job, self.batch, self.errors = job, batch, []
        self.options = job.world.options
        self.ids, self.models, self.count = set(), {}, 0
        self.read_lines()
        if not self.count and not self.errors:
            self.fault("empty_file", "The input file is empty.", None)
        elif self.count > self.options["max_batch_requests"]:
            self.errors = []
            self.fault("too_many_tasks", f"The batch has {self.count} requests; the limit is "
                       f"{self.options['max_batch_requests']}.", None)
        self.check_models()
        batch.total, batch.custom_ids = self.count, self.ids

    def fault(self, code, message, line, param=None):
        if len(self.errors) < MAX_ERRORS:
            self.errors.append({"code": code, "message": message, "param": param, "line": line})

    def read_lines(self):
        data, start, size = self.job.data, 0, len(self.job.data)
        while start < size:
            end = data.find(b"\n", start)
            end = size if end < 0 else end
            raw = data[start:end]
            # Only the end of the file may be blank.
            if raw.strip() or data[end:].strip():
                self.count += 1
                self.line(raw)
                self.job.spans.extend((start, end))
            start = end + 1

    def line(self, raw):
        try:
            request = decode(raw)
        except ValueError:
            return self.fault("invalid_json_line", "This line is not parseable as valid JSON.", self.count)
        wrong = self.envelope(request)
        if wrong:
            return self.fault(wrong[0], wrong[1], self.count, wrong[2])
        self.ids.add(request["custom_id"])
        self.models.setdefault(request["body"]["model"], self.count)
        if self.options["max_enqueued_tokens"]:
            self.batch.tokens += math.ceil(len(raw) / 4)
        return None

    def envelope(self, request):
        """(code, message, param) of what is wrong around the body, or None."""
        if not isinstance(request, dict):
            return "invalid_json_line", "This line is not a JSON object.", None
        for name, kind in (("custom_id", str), ("method", str), ("url", str), ("body", dict)):
            if not isinstance(request.get(name), kind):
                return "invalid_request", f"Missing or invalid parameter: '{name}'.", name
        if len(request) != 4:
            name = sorted(set(request) - {"custom_id", "method", "url", "body"})[0]
            return "invalid_request", f"Unknown parameter: '{name}'.", name
        if not request["custom_id"]:
            return "invalid_request", "The custom_id is empty.", "custom_id"
        if request["custom_id"] in self.ids:
            return "duplicate_custom_id", f"The custom_id '{request['custom_id']}' is not unique.", "custom_id"
        if request["method"] != "POST":
            return "invalid_request", "The method must be POST.", "method"
        if request["url"] != self.job.body["endpoint"]:
            return "url_mismatch", "The url does not match the endpoint of the batch.", "url"
        if not isinstance(request["body"].get("model"), str):
            return "invalid_request", "Missing required parameter: 'body.model'.", "body.model"
        return None

    def check_models(self):
        names = list(self.models)
        for name in names[1:]:
            self.fault("model_mismatch", f"The model '{name}' differs from '{names[0]}'; a batch has one model.",
                       self.models[name], "body.model")
        if names and not knows_model(self.job.world, names[0]):
            self.fault("model_not_found", f"The model '{names[0]}' does not exist or you do not have access to it.",
                       self.models[names[0]], "body.model")
        self.batch.model = names[0] if names else None


# Real time

def check(world, endpoint, body, batch):
    """The first reason to refuse this body, or None."""
    if isinstance(body.get("model"), str):
        # A deployment has the rules of its model.
        body = {**body, "model": flavours.model_name(world, body["model"])}
    return flavours.check(world, body) or endpoint.check(body, batch)


def knows_model(world, name):
    return flavours.knows_any_model(world) or prices.find(flavours.model_name(world, name)) is not None


def call(world, request, endpoint, deployment=None):
    body = json_body(world, request)
    if deployment is not None:
        body["model"] = deployment
    refuse_problem(check(world, endpoint, body, batch=False))
    if not knows_model(world, body["model"]):
        refuse_problem(Problem(f"The model '{body['model']}' does not exist or you do not have access to it.",
                               None, "model_not_found", 404))
    body["model"] = flavours.model_name(world, body["model"])
    prompt = endpoint.read(body)
    refuse_problem(endpoint.check_prompt(body, prompt))
    headers = take_rate(world, request, body, prompt)
    effect = world.rules.realtime_effect(prompt.text)
    if "status_code" in effect:
        error = status_error(effect)["error"]
        refuse(error["message"], error["param"], error["code"], effect["status_code"], error["type"],
               effect.get("headers", {}))
    reply, usage = endpoint.reply(body, prompt, effect, world.options, endpoint.id_prefix + secrets.token_hex(15),
                                  int(world.clock.now()))
    if endpoint is Chat:
        reply.update(flavours.of(world).extra)
    world.ledger.ran(body["model"], usage, prompt.text, batch=False)
    time.sleep(world.options["realtime_seconds"])
    response = json_response(reply, headers=headers)
    if "malformed" in effect:
        response.body = response.body[:len(response.body) // 2]
    return response


def take_rate(world, request, body, prompt):
    """Charge the key's limits; refuse when they are spent.  Returns the headers that tell of them."""
    requests, tokens = world.options["requests_per_minute"], world.options["tokens_per_minute"]
    if not requests and not tokens:
        return {}
    charge = prompt.tokens + (body.get("max_completion_tokens") or body.get("max_output_tokens") or 0)
    now, window = world.clock.now(), world.options["rate_window_seconds"]
    most = [max(1, int(limit * window / 60)) if limit else 0 for limit in (requests, tokens)]
    wait, left, tokens_left = world.limiter.take(request.key, now, charge, *most, window)
    reset = _go_duration(world.limiter.reset(request.key, now, window))
    headers = {}
    for name, limit, rest in (("requests", requests, left), ("tokens", tokens, tokens_left)):
        if limit:
            headers.update({f"x-ratelimit-limit-{name}": limit, f"x-ratelimit-remaining-{name}": rest,
                            f"x-ratelimit-reset-{name}": reset})
    if wait:
        headers.update({"retry-after-ms": math.ceil(wait * 1000), "retry-after": math.ceil(wait)})
        refuse(f"Rate limit reached for {body['model']}. Please try again in {wait:.3f}s.", None,
               "rate_limit_exceeded", 429, "requests", headers)
    return headers


def _go_duration(seconds):
    """As Go writes durations, which is how these headers come: 6m0s, 1.5s, 20ms."""
    ms = math.ceil(seconds * 1000)
    if ms < 1000:
        return f"{ms}ms"
    minutes, rest = divmod(ms, 60000)
    rest = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{minutes}m{rest}" if minutes else rest


def show_model(model):
    return {"id": model.name, "object": "model", "created": 1700000000, "owned_by": "openai"}


def models():
    return [model for model in prices.MODELS.values() if model.provider == "openai"]


def list_models(world, request):
    return shown({"object": "list", "data": [show_model(model) for model in models()]})


def get_model(world, request, name):
    model = prices.find(name)
    if model not in models():
        refuse(f"The model '{name}' does not exist or you do not have access to it.", "model", "model_not_found", 404)
    return shown(show_model(model))


def _call_of(endpoint):
    return functools.partial(call, endpoint=endpoint)


def _deployment_call_of(endpoint):
    return lambda world, request, name: call(world, request, endpoint, name)


PATHS = [
    ("POST", "/v1/files", create_file),
    ("GET", "/v1/files", list_files),
    ("GET", "/v1/files/([^/]+)", get_file),
    ("DELETE", "/v1/files/([^/]+)", delete_file),
    ("GET", "/v1/files/([^/]+)/content", get_content),
    ("POST", "/v1/batches", create_batch),
    ("GET", "/v1/batches", list_batches),
    ("GET", "/v1/batches/([^/]+)", get_batch),
    ("POST", "/v1/batches/([^/]+)/cancel", cancel_batch),
    ("GET", "/v1/models", list_models),
    ("GET", "/v1/models/([^/]+)", get_model),
    *[("POST", path, _call_of(endpoint)) for path, endpoint in ENDPOINTS.items()],
]
# Azure's older addresses name the deployment; they are below /v1 only in here.
DEPLOYMENT_PATHS = [("POST", "/v1/deployments/([^/]+)" + endpoint.path[3:], _deployment_call_of(endpoint))
                    for endpoint in (Chat, Embeddings)]


def _of_flavour(handler):
    """The handler, for the addresses that the present flavour has."""
    def call(world, request, *groups):
        path = flavours.plain_path(world, request)
        if path is None or not flavours.has(world, path):
            raise Refusal(flavours.missing(world, request))
        return handler(world, request, *groups)
    return call


ROUTES = [(method, path, _of_flavour(handler)) for method, path, handler in PATHS] + \
    [(method, f"/(?:openai|api)(?:/v1)?{path[3:]}", _of_flavour(handler))
     for method, path, handler in PATHS + DEPLOYMENT_PATHS]
