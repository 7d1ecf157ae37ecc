"""Anthropic: message batches, messages, token counts, models."""

import collections
import datetime
import json
import math
import mmap
import os
import re
import secrets
import time

import anthropic_messages as messages
import life
import prices
import rules
import strict_json
from wire import BLOCK, Refusal, Response, json_response

OPTIONS = {
    "max_message_batch_requests": 100000,
    "max_message_batch_bytes": 256000000,
    "max_queued_requests": 0,           # over all message batches; 0: no limit
    "poll_retry_after": 10,             # what polls of a running batch ask for, but no longer than it may take
}

MAX_MESSAGE_BYTES = 32 << 20
KEPT_BODY = 1 << 20                     # larger bodies are on record as files only
RESULTS_SECONDS = 29 * 86400            # from the creation of the batch
CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
HOST = "https://api.anthropic.com"      # of results_url: whoever follows it leaves the test

KINDS = {400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
         404: "not_found_error", 408: "timeout_error", 409: "conflict_error", 413: "request_too_large",
         429: "rate_limit_error", 500: "api_error", 504: "timeout_error", 529: "overloaded_error"}
STATUS = {"not_found_error": 404}
NO_CREDIT = ("Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade "
             "or purchase credits.")


# Errors

def new_request_id():
    return "req_011" + secrets.token_hex(10)


def error_body(message, kind, request_id, details=None):
    return {"type": "error", "error": {"type": kind, "message": message, **({"details": details} if details else {})},
            "request_id": request_id}


def refuse(message, status=400, kind=None, headers=(), details=None):
    id = new_request_id()
    retry = "true" if status in (408, 409, 429) or status >= 500 else "false"
    body = error_body(message, kind or KINDS.get(status, "api_error"), id, details)
    raise Refusal(json_response(body, status, {"request-id": id, "x-should-retry": retry, **dict(headers)}))


def refuse_problem(problem):
    if problem is not None:
        refuse(problem.message, STATUS.get(problem.kind, 400), problem.kind)


def fault_body(status):
    """What the simulator's faults answer with unless they say it themselves."""
    return error_body("simulated fault", KINDS.get(status, "api_error"), new_request_id())


def too_large():
    """From the edge, which does not speak JSON."""
    raise Refusal(Response(413, b"<html><body><h1>413 Request Entity Too Large</h1></body></html>",
                           content_type="text/html"))


def claims(request):
    """Which requests are for this provider: some paths are others' as well."""
    return request.path.startswith("/v1/messages") or "anthropic-version" in request.headers \
        or "x-api-key" in request.headers


def not_found(request):
    if claims(request):
        id = new_request_id()
        return json_response(error_body("Not found", "not_found_error", id), 404, {"request-id": id})
    return None


def reply_headers():
    return {"request-id": new_request_id(), "anthropic-organization-id": "00000000-0000-4000-8000-00000000c1a0"}


# Keys and versions

def _names(text):
    return [name.strip() for name in text.split(",") if name.strip()]


def authenticate(world, request):
    kind, _, bearer = request.headers.get("authorization", "").partition(" ")
    key = request.headers.get("x-api-key") or (bearer.strip() if kind.lower() == "bearer" else "")
    if not key:
        refuse("x-api-key header is required", 401)
    if world.options["keys"] and key not in _names(world.options["keys"]) + _names(world.options["quota_keys"]):
        refuse("invalid x-api-key", 401)
    version = request.headers.get("anthropic-version")
    if version is None:
        refuse("anthropic-version: header is required")
    if version not in messages.VERSIONS:
        refuse(f'anthropic-version: "{version}" is not a valid version')
    spends = request.method == "POST" and request.path in ("/v1/messages", "/v1/messages/batches")
    if spends and key in _names(world.options["quota_keys"]):
        refuse(NO_CREDIT)


# Bodies

def store_body(world, request, most):
    """The body in a file: it may be as large as a batch."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        refuse("content-type: must be application/json")
    if request.body.left > most:
        too_large()
    path, size = world.new_path(), 0
    with open(path, "wb", buffering=0) as out:
        while block := request.body.read(BLOCK):
            size += len(block)
            if size > most:
                too_large()
            out.write(block)
    return path, size


def record(world, request, path, size):
    """For later inspection."""
    facts = {"seq": request.entry["seq"], "method": request.method, "path": request.path, "stored_at": path}
    if size <= KEPT_BODY:
        with open(path, "rb") as file:
            facts["body"] = strict_json.decode(file.read())
    world.log.record(facts)


def message_body(world, request):
    path, size = store_body(world, request, MAX_MESSAGE_BYTES)
    with open(path, "rb") as file:
        body = json_object(file.read())
    record(world, request, path, size)
    os.unlink(path)
    return body


def json_object(raw):
    try:
        body = strict_json.decode(raw)
    except ValueError:
        refuse("The request body is not valid JSON")
    if not isinstance(body, dict):
        refuse("Input should be a valid dictionary")
    return body


# Batches: the calls

def create_batch(world, request):
    path, size = store_body(world, request, world.options["max_message_batch_bytes"])
    requests = Requests(path, size)
    record(world, request, path, size)
    requests.check(world.options["max_message_batch_requests"])
    waiting = sum(batch.total for batch in world.all_batches() if isinstance(batch.job, Job) and not batch.ended())
    limit = world.options["max_queued_requests"]
    if limit and waiting + requests.count > limit:
        refuse(f"This request would exceed your organization's limit of {limit} batch requests in the processing "
               "queue.", 429)
    if world.rules.refuse_create():
        refuse("This request would exceed your organization's rate limit.", 429)
    batch = life.Batch(world, world.new_id("msgbatch_01", 22),
                       Job(world, requests, request.headers["anthropic-version"]))
    batch.total = requests.count
    batch.job.fail, batch.plan["fail"] = batch.plan["fail"], None
    world.add_batch(batch)
    answer = json_response(show_batch(batch))
    batch.start()
    return answer


class Requests:
    """The requests of a body, by where they stand in its file."""

    OPEN, CLOSE = b'{"requests":[', b"]}"

    def __init__(self, path, size):
        self.path = path
        with open(path, "rb") as source:
            self.data = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        self.spans, self.ids, self.problem, self.count = [], [], None, 0
        self.read_lines() or self.read_any()

    def __getitem__(self, index):
        return strict_json.decode(self.data[slice(*self.spans[index])])

    def read_lines(self):
        """One request on each line, which takes less memory than any other form; False when it is not so."""
        data, at = self.data, len(self.OPEN)
        end = len(data) - len(self.CLOSE)
        if end < at or data[:at] != self.OPEN or data[end:] != self.CLOSE:
            return False
        while at < end:
            stop = data.find(b"\n", at, end)
            stop = end if stop < 0 else stop
            start = at + (1 if self.spans and data[at:at + 1] == b"," else 0)
            if self.spans and start == at and data[start:stop].strip():
                return False
            if data[start:stop].strip() and not self.add(start, stop):
                return False
            at = stop + 1
        return bool(self.spans)

    def add(self, start, stop):
        try:
            self.note(strict_json.decode(self.data[start:stop]))
        except ValueError:
            return False
        self.spans.append((start, stop))
        return True

    def read_any(self):
        """Any other JSON: kept anew, one on each line."""
        body = json_object(self.data[:])
        if "requests" not in body:
            refuse("requests: Field required")
        if set(body) != {"requests"}:
            refuse(f"{sorted(set(body) - {'requests'})[0]}: Extra inputs are not permitted")
        if not isinstance(body["requests"], list):
            refuse("requests: Input should be a valid list")
        self.spans, self.ids, self.problem, parts, at = [], [], None, [], 0
        for request in body["requests"]:
            self.note(request)
            parts.append(json.dumps(request).encode())
            self.spans.append((at, at + len(parts[-1])))
            at += len(parts[-1])
        self.data = b"".join(parts)

    def note(self, request):
        """Remember the custom_id, and the first thing that is wrong."""
        problem = self.envelope(request)
        if problem and self.problem is None:
            self.problem = f"requests.{len(self.ids)}{problem}"
        self.ids.append(None if problem else request["custom_id"])

    @staticmethod
    def envelope(request):
        if not isinstance(request, dict):
            return ": Input should be a valid dictionary"
        for name in ("custom_id", "params"):
            if name not in request:
                return f".{name}: Field required"
        if len(request) != 2:
            return f".{sorted(set(request) - {'custom_id', 'params'})[0]}: Extra inputs are not permitted"
        if not isinstance(request["custom_id"], str) or not CUSTOM_ID.fullmatch(request["custom_id"]):
            return ".custom_id: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"
        if not isinstance(request["params"], dict):
            return ".params: Input should be a valid dictionary"
        return None

    def check(self, most):
        """The envelope of each; what is in it is looked at only when it runs."""
        self.count = len(self.spans)
        if not self.count:
            refuse("requests: List should have at least 1 item after validation, not 0")
        if self.count > most:
            refuse(f"requests: List should have at most {most} items after validation, not {self.count}")
        if self.problem:
            refuse(self.problem)
        if len(set(self.ids)) < self.count:
            repeated = next(id for id, times in collections.Counter(self.ids).items() if times > 1)
            refuse(f"requests: custom_ids must be unique within a batch; '{repeated}' is repeated")


def known_batch(world, id):
    batch = world.batches.get(id)
    now = world.clock.now()
    if batch is None or not isinstance(batch.job, Job) or batch.job.deleted \
            or now < batch.created + batch.plan["unknown_seconds"]:
        refuse(f"Could not find message batch with ID {id}", 404)
    return batch


def get_batch(world, request, id):
    batch = known_batch(world, id)
    shown, headers = show_batch(batch), {}
    pace = batch.plan["validate_seconds"] + batch.plan["run_seconds"] + batch.plan["finalize_seconds"]
    wait = min(world.options["poll_retry_after"], math.ceil(pace))
    if shown["processing_status"] != "ended" and wait > 0:
        headers["retry-after"] = wait
    return json_response(shown, headers=headers)


def list_batches(world, request):
    found = [batch for batch in reversed(world.all_batches())
             if isinstance(batch.job, Job) and batch.listed() and not batch.job.deleted]
    return show_page(request, found, show_batch, "message batch")


def show_page(request, items, show, what):
    """One page of a list that is sorted already."""
    limit = request.query.get("limit", "20")
    if not re.fullmatch(r"-?\d{1,9}", limit) or not 1 <= int(limit) <= 1000:
        refuse("limit: Input should be an integer from 1 to 1000")
    if "after_id" in request.query and "before_id" in request.query:
        refuse("Only one of `before_id` and `after_id` may be given")
    ids = [show(item)["id"] for item in items]
    cursor = request.query.get("after_id", request.query.get("before_id"))
    if cursor is not None and cursor not in ids:
        refuse(f"No {what} found with ID {cursor}")
    if "before_id" in request.query:
        end = ids.index(cursor)
        start = max(0, end - int(limit))
        more = start > 0
    else:
        start = ids.index(cursor) + 1 if cursor is not None else 0
        end, more = start + int(limit), start + int(limit) < len(ids)
    data = [show(item) for item in items[start:end]]
    return json_response({"data": data, "has_more": more, "first_id": data[0]["id"] if data else None,
                          "last_id": data[-1]["id"] if data else None})


def cancel_batch(world, request, id):
    batch = known_batch(world, id)
    if not batch.cancel() and batch.ended():
        refuse(f"Batch {id} cannot be canceled: it has already ended.")
    return json_response(show_batch(batch))


def delete_batch(world, request, id):
    batch = known_batch(world, id)
    if not batch.ended():
        refuse(f"Batch {id} cannot be deleted while it is still being processed.")
    batch.job.deleted = True
    return json_response({"id": id, "type": "message_batch_deleted"})


def get_results(world, request, id):
    batch = known_batch(world, id)
    if show_batch(batch)["results_url"] is None:
        refuse(f"The results of message batch {id} are not available.", 404)
    return Response(file=batch.job.results, content_type="application/x-jsonl",
                    headers={"content-disposition": f"attachment; filename*=utf-8''{id}_results.jsonl"})


def stamp(seconds):
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f+00:00")


def show_batch(batch):
    with batch.lock:
        job, times, ended = batch.job, batch.times, batch.status in life.FINAL
        archived = ended and batch.world.clock.now() > batch.created + RESULTS_SECONDS
        counts = job.counts if ended else {"processing": batch.total}
        return {
            "id": batch.id, "type": "message_batch",
            "processing_status": "ended" if ended else "canceling" if batch.status == "cancelling" else "in_progress",
            "request_counts": {name: counts.get(name, 0)
                               for name in ("processing", "succeeded", "errored", "canceled", "expired")},
            "ended_at": stamp(times[batch.status]) if ended else None,
            "created_at": stamp(batch.created), "expires_at": stamp(batch.expires),
            "archived_at": stamp(batch.created + RESULTS_SECONDS) if archived else None,
            "cancel_initiated_at": stamp(times["cancelling"]) if "cancelling" in times else None,
            "results_url": f"{HOST}/v1/messages/batches/{batch.id}/results"
                           if ended and job.results and not archived else None,
        }


# Batches: the work

UNRUN = {"expired": "expired", "cancelled": "canceled"}


class Job:
    """What life.Batch does not know about a message batch: its requests and its lines."""

    unrun_all = True        # also the requests of a batch that was cancelled before it began

    def __init__(self, world, requests, version):
        self.world, self.requests, self.version = world, requests, version
        self.counts = collections.Counter()
        self.results, self.deleted, self.fail = None, False, None
        self.tag = secrets.token_hex(9)

    def describe(self):
        return {"provider": "anthropic", "counts": dict(self.counts), "deleted": self.deleted, "metadata": None}

    def check(self, batch):
        batch.custom_ids = self.requests.ids
        batch.model = self.requests[0]["params"].get("model")
        return []

    def run(self, batch, index):
        request = self.requests[index]
        custom_id, body = request["custom_id"], request["params"]
        problem = messages.check(body, self.version, batch=True) \
            or messages.check_model(body["model"], self.world.options)
        prompt = None if problem else messages.read(body)
        problem = problem or messages.check_prompt(body, prompt)
        if problem:
            return self.failure(custom_id, {}, problem.kind, problem.message)
        effect = rules.effect_on(batch.items, custom_id, prompt.text) if batch.items else {}
        failure = self.wanted_failure(custom_id, effect)
        if failure:
            return failure
        message, usage = messages.reply(body, prompt, effect, self.world.options,
                                        f"msg_01{self.tag}{index:06x}", batch=True)
        return self.line(custom_id, effect, {"type": "succeeded", "message": message})._replace(
            succeeded=True, usage=usage, model=body["model"], prompt=prompt.text)

    def wanted_failure(self, custom_id, effect):
        """The line of a request that a rule wants to fail, or None."""
        if effect.get("line_error") in ("expired", "canceled"):
            return self.line(custom_id, effect, {"type": effect["line_error"]})
        if "line_error" in effect:
            return self.failure(custom_id, effect, effect["line_error"], f"Failed: {effect['line_error']}.")
        if "status_code" in effect:
            kind, message, details = status_error(effect)
            return self.failure(custom_id, effect, kind, message, details)
        if self.fail is not None:
            fail = {"code": self.fail} if isinstance(self.fail, str) else self.fail
            return self.failure(custom_id, effect, fail["code"], fail.get("message", "The whole batch failed."))
        return None

    def unrun(self, batch, index, why):
        return self.line(self.requests[index]["custom_id"], {}, {"type": UNRUN[why]})

    def failure(self, custom_id, effect, kind, message, details=None):
        error = error_body(message, kind, new_request_id(), details)
        return self.line(custom_id, effect, {"type": "errored", "error": error})

    def line(self, custom_id, effect, result):
        self.counts[result["type"]] += 1
        shown_id = effect.get("custom_id", custom_id)
        line = {"result": result} if shown_id is None else {"custom_id": shown_id, "result": result}
        return life.Line("output", line, False, custom_id=custom_id, effect=effect)

    def deliver(self, batch, written):
        if not batch.plan["no_output_file"]:
            self.results = written.get("output") or self.empty()

    def empty(self):
        path = self.world.new_path()
        open(path, "wb").close()
        return path


def status_error(effect):
    """(type, message, details) of a request that a rule wants to fail."""
    status = effect["status_code"]
    error = {"type": KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error"),
             "message": f"Simulated error {status}.", "details": None, **(effect.get("error") or {})}
    return error["type"], error["message"], error["details"]


# Real time

def create_message(world, request):
    body = message_body(world, request)
    refuse_problem(messages.check(body, request.headers["anthropic-version"]))
    refuse_problem(messages.check_model(body["model"], world.options))
    prompt = messages.read(body)
    refuse_problem(messages.check_prompt(body, prompt))
    headers = take_rate(world, request, prompt)
    effect = world.rules.realtime_effect(prompt.text)
    if "status_code" in effect:
        kind, message, details = status_error(effect)
        refuse(message, effect["status_code"], kind, effect.get("headers", {}), details)
    message, usage = messages.reply(body, prompt, effect, world.options, "msg_01" + secrets.token_hex(11), batch=False)
    world.ledger.ran(body["model"], usage, prompt.text, batch=False)
    time.sleep(world.options["realtime_seconds"])
    response = json_response(message, headers=headers)
    if "malformed" in effect:
        response.body = response.body[:len(response.body) // 2]
    return response


def take_rate(world, request, prompt):
    """Charge the key's limits; refuse when they are spent.  Returns the headers that tell of them."""
    requests, tokens = world.options["requests_per_minute"], world.options["tokens_per_minute"]
    if not requests and not tokens:
        return {}
    now, window = world.clock.now(), world.options["rate_window_seconds"]
    most = [max(1, int(limit * window / 60)) if limit else 0 for limit in (requests, tokens)]
    wait, left, tokens_left = world.limiter.take(request.key, now, prompt.tokens, *most, window)
    reset = stamp(math.ceil(now + world.limiter.reset(request.key, now, window)))[:19] + "Z"
    headers = {}
    for name, limit, rest in (("requests", requests, left), ("tokens", tokens, tokens_left),
                              ("input-tokens", tokens, tokens_left)):
        if limit:
            headers.update({f"anthropic-ratelimit-{name}-limit": limit, f"anthropic-ratelimit-{name}-remaining": rest,
                            f"anthropic-ratelimit-{name}-reset": reset})
    if wait:
        refuse("This request would exceed your organization's rate limit.", 429,
               headers={**headers, "retry-after": math.ceil(wait)})
    return headers


def count_tokens(world, request):
    body = message_body(world, request)
    refuse_problem(messages.check(body, request.headers["anthropic-version"], counting=True))
    refuse_problem(messages.check_model(body["model"], world.options))
    return json_response({"input_tokens": messages.read(body).tokens})


# Models

def show_model(model):
    kind = messages.model_class(model.name)
    can = lambda yes=True: {"supported": bool(yes)}     # noqa: E731
    return {"id": model.snapshot, "type": "model", "display_name": model.name.replace("-", " ").title(),
            "created_at": "2026-01-01T00:00:00Z", "max_input_tokens": model.max_input, "max_tokens": model.max_output,
            "capabilities": {
                "batch": can(), "citations": can(), "code_execution": can(), "image_input": can(),
                "pdf_input": can(), "structured_outputs": can(), "context_management": {"supported": False, **dict.fromkeys(
                    ("clear_thinking_20251015", "clear_tool_uses_20250919", "compact_20260112"))},
                "effort": {"supported": bool(kind.efforts),
                           **{effort: can(effort in kind.efforts) for effort in messages.EFFORTS}},
                "thinking": {"supported": True, "types": {name: can(name in kind.thinking)
                                                          for name in ("adaptive", "enabled")}}}}


def list_models(world, request):
    return show_page(request, prices.of("anthropic"), show_model, "model")


def get_model(world, request, name):
    model = prices.find(name)
    if model is None or model.provider != "anthropic":
        refuse(f"model: {name}", 404)
    return json_response(show_model(model))


BATCHES = "/v1/messages/batches"
ROUTES = [
    ("POST", BATCHES, create_batch),
    ("GET", BATCHES, list_batches),
    ("GET", BATCHES + "/([^/]+)", get_batch),
    ("DELETE", BATCHES + "/([^/]+)", delete_batch),
    ("POST", BATCHES + "/([^/]+)/cancel", cancel_batch),
    ("GET", BATCHES + "/([^/]+)/results", get_results),
    ("POST", "/v1/messages", create_message),
    ("POST", "/v1/messages/count_tokens", count_tokens),
    ("GET", "/v1/models", list_models),
    ("GET", "/v1/models/([^/]+)", get_model),
]
