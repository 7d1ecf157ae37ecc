"""Gemini: resumable uploads, files, batches, models and generateContent, below /v1beta and /v1.

Of /v1, which other providers use as well, only what is asked with a key of
this one.  A file is kept under its id without "files/", a batch with "batches/".
"""

import array
import base64
import binascii
import hashlib
import json
import mmap
import os
import re
import secrets
import time

import core
import gemini_content as content
import life
import prices
import rules
import strict_json
from gemini_content import Bad, members, plain
from wire import Refusal, Response, json_response

OPTIONS = {
    "gemini_max_file_bytes": 2 * 10 ** 9,
    "gemini_file_state": "ACTIVE",          # of files in listings: PROCESSING, ACTIVE, FAILED
    "gemini_max_active": 100,               # batches at the same time
    "gemini_state_prefix": "BATCH_STATE_",  # or JOB_STATE_, as the documentation writes it
    "gemini_inline": "",                    # results inside of the operation: "key", or "bare" without their keys
    "gemini_output": "both",                # where results are named: response, metadata, both, wrapped
    "gemini_partial": False,                # a batch with failed requests ends PARTIALLY_SUCCEEDED
    "gemini_cancelled_results": False,      # a cancelled batch delivers what it has done
    "gemini_thought_parts": False,          # thoughts are shown though nobody asked for them
    "gemini_upload_base": "",               # address that uploads are sent to; empty: where they were asked for
}

VERSIONS = "(v1beta|v1)"
FILE_LIFE = 48 * 3600
RESULT_LIFE = 42 * 86400
GRANULARITY = 256 << 10                     # parts of an upload but the last are multiples of it
MAX_NAME = 512
MAX_ID = 40                                 # longer ids are refused where a file is looked at
INT32 = 2 ** 31 - 1

RPC = {"OK": 0, "CANCELLED": 1, "UNKNOWN": 2, "INVALID_ARGUMENT": 3, "DEADLINE_EXCEEDED": 4, "NOT_FOUND": 5,
       "ALREADY_EXISTS": 6, "PERMISSION_DENIED": 7, "RESOURCE_EXHAUSTED": 8, "FAILED_PRECONDITION": 9, "ABORTED": 10,
       "OUT_OF_RANGE": 11, "UNIMPLEMENTED": 12, "INTERNAL": 13, "UNAVAILABLE": 14, "DATA_LOSS": 15,
       "UNAUTHENTICATED": 16}
STATUS = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 402: "FAILED_PRECONDITION", 403: "PERMISSION_DENIED",
          404: "NOT_FOUND", 408: "DEADLINE_EXCEEDED", 409: "ABORTED", 413: "INVALID_ARGUMENT",
          429: "RESOURCE_EXHAUSTED", 499: "CANCELLED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
TYPE = "type.googleapis.com/google.rpc."
GOOGLE_TYPE = "type.googleapis.com/google.ai.generativelanguage.v1main."


# Errors

def error_body(code, message, status=None, details=()):
    error = {"code": code, "message": message, "status": status or STATUS.get(code, "UNKNOWN")}
    return {"error": {**error, "details": list(details)} if details else error}


def refuse(message, code=400, status=None, details=(), headers=()):
    raise Refusal(json_response(error_body(code, message, status, details), code, headers, indent=2))


def exhausted(message, quota, retry=None, headers=()):
    details = [{"@type": TYPE + "Help", "links": [{"description": "Learn more about Gemini API quotas",
                                                   "url": "https://ai.google.dev/gemini-api/docs/rate-limits"}]}]
    if quota:
        details.append({"@type": TYPE + "QuotaFailure", "violations": [
            {"quotaMetric": "generativelanguage.googleapis.com/generate_requests", "quotaId": quota}]})
    if retry is not None:
        details.append({"@type": TYPE + "RetryInfo", "retryDelay": f"{retry:.9g}s"})
    refuse(message, 429, None, details, headers)


def no_file(name):
    refuse(f"You do not have permission to access the File {name} or it may not exist.", 403)


def claims(request):
    """Which requests are for this provider: below /v1 there are others."""
    return re.match(r"/(upload|download|v1beta)/", request.path) is not None \
        or "x-goog-api-key" in request.headers or "key" in request.query


def not_found(request):
    if claims(request):
        return Response(404, b"<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>", content_type="text/html")
    return None


def fault_body(status):
    return error_body(status, "Simulated fault.")


def reply_headers():
    return {"server-timing": "gfet4t7; dur=1"}


# Keys

def authenticate(world, request):
    if "upload_id" in request.query:        # knowing it is permission enough
        return
    key = request.headers.get("x-goog-api-key") or request.query.get("key")
    if not key:
        refuse("Method doesn't allow unregistered callers (callers without established identity). Please use API Key "
               "or other form of API consumer identity to call this API.", 403)
    valid = _names(world.options["keys"]) + _names(world.options["quota_keys"])
    if world.options["keys"] and key not in valid:
        refuse("API key not valid. Please pass a valid API key.", 400, None, [
            {"@type": TYPE + "ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com",
             "metadata": {"service": "generativelanguage.googleapis.com"}}])
    if key in _names(world.options["quota_keys"]) and re.search(r":(batchG|g)enerateContent$", request.path):
        exhausted("You exceeded your current quota, please check your plan and billing details.",
                  "GenerateRequestsPerDayPerProjectPerModel-FreeTier", 34)


def _names(text):
    return [name.strip() for name in text.split(",") if name.strip()]


def shown(value, headers=()):
    return json_response(value, 200, headers, indent=2)


def stamp(seconds):
    """RFC 3339 with nanoseconds."""
    whole = int(seconds)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int((seconds - whole) * 1e9):09d}Z"


# Bodies and queries

def json_body(world, request):
    """The body as an object, kept for later inspection."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        refuse("Invalid content type: send application/json.")
    raw = request.body.read_all()
    try:
        body = strict_json.decode(raw) if raw.strip() else {}
    except ValueError:
        refuse("Invalid JSON payload received. Unable to parse.")
    if not isinstance(body, dict):
        refuse("Invalid JSON payload received. The root must be an object.")
    record(world, request, body=body)
    return body


def record(world, request, **facts):
    world.log.record({"seq": request.entry["seq"], "method": request.method, "path": request.path, **facts})


def checked(check, value):
    try:
        check("", value)
    except Bad as bad:
        refuse(str(bad))
    return plain(value)


_text, _object = content._string, content._object


def page(request, items, most, default):
    """One page of a list: (items, token of the next or None).  Tokens hold characters that must be escaped."""
    size = request.query.get("pageSize", "0")
    if not re.fullmatch(r"\d{1,9}", size):
        refuse(f"Invalid value at 'page_size' (TYPE_INT32), \"{size}\"")
    size = min(int(size) or default, most)
    start = 0
    if request.query.get("pageToken"):
        try:
            start = int(base64.b64decode(request.query["pageToken"], validate=True).split(b"\xfb\xff\xfe")[1])
        except (binascii.Error, IndexError, ValueError):
            refuse("Invalid page token.")
    token = base64.b64encode(b"\xfb\xff\xfe%d" % (start + size)).decode()
    return items[start:start + size], token if start + size < len(items) else None


def show_page(name, shown_items, token):
    reply = {name: shown_items} if shown_items else {}
    return shown({**reply, "nextPageToken": token} if token else reply)


# Files

def show_file(world, version, file):
    with open(file.path, "rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else ""
    reply = {"name": f"files/{file.id}", "displayName": file.filename, "mimeType": file.mime,
             "sizeBytes": str(file.bytes), "createTime": stamp(file.created), "updateTime": stamp(file.created),
             "expirationTime": stamp(file.expires), "sha256Hash": base64.b64encode(digest.encode()).decode(),
             "uri": f"https://generativelanguage.googleapis.com/{version}/files/{file.id}",
             "state": "ACTIVE", "source": "UPLOADED"}
    return {name: value for name, value in reply.items() if value}


class Session:
    """A resumable upload under way."""

    def __init__(self, world, size, mime, name):
        self.path, self.size, self.mime, self.name, self.taken = world.new_path(), size, mime, name, 0
        open(self.path, "wb").close()


def sessions(world):
    if not hasattr(world, "gemini_sessions"):
        world.gemini_sessions = {}
    return world.gemini_sessions


def upload(world, request, version):
    if "upload_id" in request.query:
        return upload_part(world, request, version)
    headers = request.headers
    if headers.get("x-goog-upload-protocol") != "resumable" or headers.get("x-goog-upload-command") != "start":
        refuse("Upload protocol resumable and upload command start are expected.")
    size = headers.get("x-goog-upload-header-content-length", "")
    if not re.fullmatch(r"\d{1,15}", size) or int(size) == 0:
        refuse("X-Goog-Upload-Header-Content-Length is missing or invalid.")
    if int(size) > world.options["gemini_max_file_bytes"]:
        refuse(f"File is too large: at most {world.options['gemini_max_file_bytes']} bytes.", 413)
    mime = headers.get("x-goog-upload-header-content-type")
    if not mime:
        refuse("X-Goog-Upload-Header-Content-Type is missing.")
    file = checked(members({"file": members({"displayName": _text, "mimeType": _text, "sizeBytes": _text})}),
                   json_body(world, request)).get("file", {})
    name = plain(file).get("displayName", "")
    if len(name) > MAX_NAME:
        refuse("* CreateFileRequest.file.display_name: must be at most 512 characters long")
    id = secrets.token_urlsafe(48)
    sessions(world)[id] = Session(world, int(size), mime, name)
    base = world.options["gemini_upload_base"] or \
        f"{'https' if world.tls else 'http'}://{headers.get('host', 'localhost')}"
    url = f"{base}/upload/{version}/files?upload_id={id}&upload_protocol=resumable"
    return Response(200, b"", {"x-goog-upload-url": url, "x-goog-upload-control-url": url,
                               "x-goog-upload-status": "active", "x-goog-upload-chunk-granularity": str(GRANULARITY)})


def upload_part(world, request, version):
    session = sessions(world).get(request.query["upload_id"])
    if session is None:
        refuse("Upload has already been terminated.", 404)
    command = [word.strip() for word in request.headers.get("x-goog-upload-command", "").split(",")]
    if command == ["query"]:
        return Response(200, b"", {"x-goog-upload-status": "active", "x-goog-upload-size-received": str(session.taken)})
    if not command or set(command) - {"upload", "finalize"}:
        refuse("Invalid upload command.")
    if request.headers.get("x-goog-upload-offset") != str(session.taken):
        refuse(f"Invalid upload offset: {session.taken} bytes were received.")
    if "upload" in command:
        take_part(request, session)
    if "finalize" not in command:
        if session.taken % GRANULARITY:
            refuse(f"Parts but the last must be multiples of {GRANULARITY} bytes.")
        return Response(200, b"", {"x-goog-upload-status": "active"})
    if session.taken != session.size:
        refuse(f"{session.size} bytes were announced, {session.taken} have come.")
    return finish_upload(world, request, version, session)


def take_part(request, session):
    with open(session.path, "r+b", buffering=0) as out:
        out.seek(session.taken)
        size = session.taken
        while block := request.body.read(1 << 18):
            size += len(block)
            if size > session.size:
                refuse(f"More than the {session.size} bytes that were announced.")
            out.write(block)
    session.taken = size


def finish_upload(world, request, version, session):
    del sessions(world)[request.query["upload_id"]]
    now = world.clock.now()
    file = world.add_file(core.File(world.new_id("", 12), session.path, filename=session.name, bytes=session.size,
                                    uploaded=True, purpose="upload", created=now, expires=now + FILE_LIFE,
                                    mime=session.mime))
    core.cut_upload(file, world.options["file_fraction"])
    record(world, request, file_id=f"files/{file.id}", filename=file.filename, fields={}, bytes=file.bytes,
           stored_at=file.path)
    return shown({"file": show_file(world, version, file)}, {"x-goog-upload-status": "final"})


def known_file(world, id):
    file = world.file(id)
    return file if file is not None and hasattr(file, "mime") else no_file(id)


def check_file_id(id):
    if len(id) > MAX_ID or not re.fullmatch(r"[a-z0-9-]+", id):
        refuse(f"* GetFileRequest.name: the id may have up to {MAX_ID} of a-z, 0-9 and -, got {len(id)} characters")


def list_files(world, request, version):
    files = sorted((file for file in world.listed_files() if file.uploaded and hasattr(file, "mime")), key=lambda f: f.id)
    found, token = page(request, files, 100, 10)
    state = world.options["gemini_file_state"]
    return show_page("files", [{**show_file(world, version, file), "state": state} for file in found], token)


def get_file(world, request, version, id):
    check_file_id(id)
    return shown(show_file(world, version, known_file(world, id)))


def delete_file(world, request, version, id):
    check_file_id(id)
    known_file(world, id).deleted = True
    return shown({})


def download(world, request, version, id):
    file = known_file(world, id)
    if request.query.get("alt") != "media":
        refuse("Only alt=media downloads are supported.")
    if file.uploaded:
        refuse(f"File {id} is not a generated file, it cannot be downloaded.")
    return Response(file=file.path, content_type="application/jsonl")


# Models

def our_models():
    return [model for model in prices.MODELS.values() if model.provider == "google"]


def known_model(world, name, method):
    model = prices.find(name)
    generates = model in our_models() and model.max_output
    if not generates and not (model is None and world.options["any_model"]):
        refuse(f"models/{name} is not found for API version v1beta, or is not supported for {method}. Call ListModels "
               "to see the list of available models and their supported methods.", 404)


def show_model(model):
    methods = ["generateContent", "countTokens", "batchGenerateContent"] if model.max_output else \
        ["embedContent", "asyncBatchEmbedContent"]
    return {"name": f"models/{model.name}", "baseModelId": model.name, "version": "001", "displayName": model.name,
            "inputTokenLimit": model.max_input, "outputTokenLimit": max(1, model.max_output),
            "supportedGenerationMethods": methods}


def list_models(world, request, version):
    found, token = page(request, our_models(), 1000, 50)
    return show_page("models", [show_model(model) for model in found], token)


def get_model(world, request, version, name):
    if prices.find(name) not in our_models():
        refuse(f"models/{name} is not found for API version {version}.", 404)
    return shown(show_model(prices.find(name)))


# Batches: the calls

def _integer_text(path, value):
    if not re.fullmatch(r"-?\d{1,19}", str(value)) or isinstance(value, bool):
        raise Bad(f"Invalid value at '{path}' (TYPE_INT64), {json.dumps(value)}")


_create = members({"batch": members({
    "model": _text, "displayName": _text, "name": _text, "priority": _integer_text,
    "inputConfig": members({"fileName": _text, "requests": _object}),
    "webhookConfig": members({"uris": content._list_of(_text), "userMetadata": _object})})})


def create_batch(world, request, version, name):
    body = checked(_create, json_body(world, request))
    batch = plain(body.get("batch") or refuse("* BatchGenerateContentRequest.batch: must be set"))
    known_model(world, name, "batchGenerateContent")
    if batch.get("model") not in (None, f"models/{name}"):
        refuse(f"* BatchGenerateContentRequest.batch.model: is not models/{name}")
    if not batch.get("displayName"):
        refuse("* BatchGenerateContentRequest.batch.display_name: must not be empty")
    file = input_file(world, plain(batch.get("inputConfig") or {}))
    job = Job(world, name, batch["displayName"], file)
    refuse_crowd(world, job)
    made = life.Batch(world, "batches/" + world.new_id("", 36), job, {"displayName": batch["displayName"]})
    made.expires = made.created + 2 * world.options["window_seconds"]       # 48 hours
    world.add_batch(made)
    answer = shown(show_batch(made))        # before it lives: the reply is always "pending"
    made.start()
    return answer


def input_file(world, config):
    if "requests" in config:
        refuse("The simulator takes batches from files only.")
    name = config.get("fileName") or refuse("* BatchGenerateContentRequest.batch.input_config: must be set")
    if not re.fullmatch("files/[a-z0-9-]{1,40}", name):
        refuse(f"* BatchGenerateContentRequest.batch.input_config.file_name: {name} is not the name of a file")
    if world.rules.refuse_create():
        no_file(name[6:])
    return known_file(world, name[6:])


def refuse_crowd(world, job):
    """Too many batches, or too many tokens; neither is said in so many words."""
    others = [b for b in our_batches(world) if not b.ended()]
    most, tokens = world.options["gemini_max_active"], world.options["max_enqueued_tokens"]
    enqueued = job.tokens + sum(b.job.tokens for b in others if b.job.name == job.name)
    if len(others) >= most or (tokens and enqueued > tokens):
        exhausted("You exceeded your current quota, please check your plan and billing details. For more information "
                  "on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits.", None)


def our_batches(world):
    return [batch for batch in world.all_batches() if isinstance(batch.job, Job) and not batch.job.deleted]


def known_batch(world, id):
    batch = world.batches.get(f"batches/{id}")
    if batch is None or batch not in our_batches(world):
        refuse("Requested entity was not found.", 404)
    return batch


def get_batch(world, request, version, id):
    return shown(show_batch(known_batch(world, id)))


def list_batches(world, request, version):
    """In an order that tells nothing, since none is promised."""
    batches = sorted((batch for batch in our_batches(world) if batch.listed()), key=lambda batch: batch.id)
    found, token = page(request, batches, 1000, 50)
    return show_page("operations", [show_batch(batch, listed=True) for batch in found], token)


def cancel_batch(world, request, version, id):
    batch = known_batch(world, id)
    checked(members({}), json_body(world, request))
    if not batch.cancel():
        refuse("The batch cannot be cancelled any more.", 400, "FAILED_PRECONDITION")
    return shown({})


def delete_batch(world, request, version, id):
    batch = known_batch(world, id)
    batch.job.deleted = True
    batch.cancel()
    return shown({})


STATES = {"validating": "PENDING", "in_progress": "RUNNING", "finalizing": "RUNNING", "cancelling": "CANCELLING",
          "completed": "SUCCEEDED", "failed": "FAILED", "expired": "EXPIRED", "cancelled": "CANCELLED"}


def show_batch(batch, listed=False):
    with batch.lock:
        job, world, status = batch.job, batch.world, batch.status
        state, ended = STATES[status], status in life.FINAL
        if status == "completed" and batch.failed and world.options["gemini_partial"]:
            state = "PARTIALLY_SUCCEEDED"
        elif status == "cancelling" and world.options["gemini_state_prefix"] == "BATCH_STATE_":
            state = "RUNNING"       # the API's own enum has no word for it
        output = job.output if ended and not (listed and job.inline) else None
        where = world.options["gemini_output"]
        metadata = {"@type": GOOGLE_TYPE + "GenerateContentBatch", "model": f"models/{job.name}",
                    "displayName": job.display_name, "inputConfig": {"fileName": f"files/{job.file.id}"},
                    "output": output if where in ("both", "metadata") else None,
                    "createTime": stamp(batch.created), "endTime": stamp(batch.times[status]) if ended else None,
                    "updateTime": stamp(max(batch.times.values())), "batchStats": stats(batch),
                    "state": world.options["gemini_state_prefix"] + state, "name": batch.id}
        if job.inline:
            del metadata["inputConfig"]
        reply = {"name": batch.id, "metadata": {name: value for name, value in metadata.items() if value is not None}}
        if ended:
            reply["done"] = True
        if status == "failed":
            reply["error"] = failure(batch.errors[0])
        elif status == "cancelled":
            reply["error"] = {"code": 1, "message": "The operation was cancelled."}
        if output is not None and where != "metadata":
            typed = {"@type": GOOGLE_TYPE + "GenerateContentBatchOutput", **output}
            reply["response"] = {"output": output} if where == "wrapped" else typed
        return reply


def stats(batch):
    """Strings, without those that are zero."""
    total = batch.total or batch.job.count
    counts = {"requestCount": total, "successfulRequestCount": batch.completed, "failedRequestCount": batch.failed,
              "pendingRequestCount": total - batch.completed - batch.failed}
    return {name: str(count) for name, count in counts.items() if count}


def failure(error):
    code = error["code"]
    code = code if isinstance(code, int) else RPC.get(code, 8 if code == "token_limit_exceeded" else 3)
    return {"code": code, "message": error["message"]}


# Batches: the work

class Job:
    """What life.Batch does not know about a batch of Gemini's: its input and its lines."""

    def __init__(self, world, name, display_name, file):
        self.world, self.name, self.display_name, self.file = world, name, display_name, file
        self.output, self.inline, self.deleted = None, False, False
        # Opened now: deleting the file later must not hurt a batch under way.
        with open(file.path, "rb") as source:
            self.data = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)
        self.spans = array.array("Q")       # where each line starts and ends
        self.tokens = (len(self.data) + 3) // 4
        self.count = sum(1 for _ in self.lines())
        self.charges = []                   # paid for when delivered: (usage, prompt, key)

    def describe(self):
        return {"input_file_id": f"files/{self.file.id}", "output_file_id": (self.output or {}).get("responsesFile"),
                "display_name": self.display_name}

    def lines(self):
        """(start, end) of each line; blank ones are passed over."""
        start, size = 0, len(self.data)
        while start < size:
            end = self.data.find(b"\n", start)
            end = size if end < 0 else end
            if self.data[start:min(end, start + 64)].strip() or self.data[start:end].strip():
                yield start, end
            start = end + 1

    def check(self, batch):
        """Lines must be JSON with a key of their own; what is wrong inside of a request is told in its result."""
        errors, keys = [], set()
        for number, (start, end) in enumerate(self.lines(), 1):
            wrong = self.envelope(self.data[start:end], keys)
            if wrong and not errors:
                errors.append({"code": "INVALID_ARGUMENT", "message": f"Line {number}: {wrong}"})
            self.spans.extend((start, end))
        if not self.spans:
            errors.append({"code": "INVALID_ARGUMENT", "message": "The input file is empty."})
        batch.total, batch.model, batch.custom_ids = len(self.spans) // 2, self.name, keys
        return errors

    @staticmethod
    def envelope(raw, keys):
        try:
            line = strict_json.decode(raw)
        except ValueError:
            return "not parseable as JSON."
        if not isinstance(line, dict) or set(line) - {"key", "request"} or not isinstance(line.get("request"), dict):
            return "a line has a key and a request, and nothing else."
        if not isinstance(line.get("key"), str) or not line["key"]:
            return "the key is missing."
        if line["key"] in keys:
            return f"the key {line['key']} is not unique."
        keys.add(line["key"])
        return None

    def run(self, batch, index):
        line = strict_json.decode(self.data[self.spans[2 * index]:self.spans[2 * index + 1]])
        key, body = line["key"], line["request"]
        problem = content.check(body, self.name)
        prompt = None if problem else content.read(body)
        problem = problem or content.check_prompt(body, self.name, prompt)
        if problem:
            return self.line(key, {}, error={"code": RPC["INVALID_ARGUMENT"], "message": problem.message})
        effect = rules.effect_on(batch.items, key, prompt.text) if batch.items else {}
        error = item_error(effect)
        if error:
            return self.line(key, effect, error=error)
        reply, usage = content.reply(body, self.name, prompt, effect, self.world.options, secrets.token_urlsafe(17))
        self.charges.append((usage, prompt.text, key))
        return self.line(key, effect, response=reply)._replace(succeeded=True)

    @staticmethod
    def line(key, effect, **result):
        shown_key = effect.get("custom_id", key)
        record = {"key": shown_key, **result} if shown_key is not None else result
        return life.Line("output", record, False, custom_id=key, effect=effect)

    def unrun(self, batch, index, why):
        return None                         # nothing is said of what was not reached

    def deliver(self, batch, written):
        ended = batch.status == "finalizing" and not batch.expired
        if not ended and not (batch.status == "cancelling" and self.world.options["gemini_cancelled_results"]):
            return
        for usage, prompt, key in self.charges:
            self.world.ledger.ran(self.name, usage, prompt, key)
        if "output" in written and not batch.plan["no_output_file"]:
            self.inline = self.world.options["gemini_inline"] != ""
            self.output = self.inlined(written["output"]) if self.inline else self.publish(batch, written["output"])

    def publish(self, batch, path):
        now = self.world.clock.now()
        file = self.world.add_file(core.File(
            "batch-" + batch.id[8:], path, filename="", purpose="batch_output", mime="application/jsonl",
            bytes=os.path.getsize(path), created=now, expires=now + RESULT_LIFE))
        return {"responsesFile": f"files/{file.id}"}

    def inlined(self, path):
        """The lines as they stand in an operation, with their keys or without."""
        responses = []
        with open(path, encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                try:
                    result = json.loads(line)
                except ValueError:
                    continue
                key = result.pop("key", None)
                if key is not None and self.world.options["gemini_inline"] == "key":
                    result["metadata"] = {"key": key}
                responses.append(result)
        return {"inlinedResponses": {"inlinedResponses": responses}}


# What rules written for others mean here.
OTHERS_CODES = {"request_timeout": RPC["DEADLINE_EXCEEDED"], "batch_expired": RPC["DEADLINE_EXCEEDED"],
                "batch_cancelled": RPC["CANCELLED"]}


def item_error(effect):
    """The error of a request that a rule wants to fail, or None."""
    if "status_code" in effect:
        status = effect["status_code"]
        error = {"code": RPC[STATUS.get(status, "UNKNOWN")], "message": f"Simulated error {status}."}
    elif "line_error" in effect:
        code = effect["line_error"]
        code = code if isinstance(code, int) else OTHERS_CODES.get(code, RPC.get(code, RPC["INTERNAL"]))
        error = {"code": code, "message": f"Failed: {effect['line_error']}."}
    else:
        return None
    return {**error, **(effect.get("error") or {})}


# Real time

def generate(world, request, version, name):
    body = json_body(world, request)
    known_model(world, name, "generateContent")
    problem = content.check(body, name)
    prompt = None if problem else content.read(body)
    problem = problem or content.check_prompt(body, name, prompt)
    if problem:
        refuse(problem.message, problem.status)
    take_rate(world, request, body, prompt)
    effect = world.rules.realtime_effect(prompt.text)
    if "status_code" in effect:
        refuse_single(effect)
    reply, usage = content.reply(body, name, prompt, effect, world.options, secrets.token_urlsafe(17))
    world.ledger.ran(name, usage, prompt.text, batch=False)
    time.sleep(world.options["realtime_seconds"])
    response = shown(reply)
    if "malformed" in effect:
        response.body = response.body[:len(response.body) // 2]
    return response


def refuse_single(effect):
    """A rule wants this status; its `error` may change members of the error."""
    status = effect["status_code"]
    details = [{"@type": TYPE + "RetryInfo", "retryDelay": "1s"}] if status == 429 else []
    body = error_body(status, f"Simulated error {status}.", None, details)
    body["error"].update(effect.get("error") or {})
    raise Refusal(json_response(body, status, effect.get("headers", {}), indent=2))


def take_rate(world, request, body, prompt):
    """Charge the key's limits; refuse when they are spent.  No header tells of them."""
    requests, tokens = world.options["requests_per_minute"], world.options["tokens_per_minute"]
    if not requests and not tokens:
        return
    wait, _, _ = world.limiter.take(request.key, world.clock.now(), prompt.tokens, requests, tokens)
    if wait:
        exhausted(f"You exceeded your current quota. Please retry in {wait:.9f}s.",
                  "GenerateRequestsPerMinutePerProjectPerModel", wait)


ROUTES = [
    ("POST", f"/upload/{VERSIONS}/files", upload),
    ("GET", f"/{VERSIONS}/files", list_files),
    ("GET", f"/{VERSIONS}/files/([^/:]+)", get_file),
    ("DELETE", f"/{VERSIONS}/files/([^/:]+)", delete_file),
    ("GET", f"/(?:download/)?{VERSIONS}/files/([^/:]+):download", download),
    ("POST", f"/{VERSIONS}/models/([^/:]+):batchGenerateContent", create_batch),
    ("POST", f"/{VERSIONS}/models/([^/:]+):generateContent", generate),
    ("GET", f"/{VERSIONS}/batches", list_batches),
    ("GET", f"/{VERSIONS}/batches/([^/:]+)", get_batch),
    ("POST", f"/{VERSIONS}/batches/([^/:]+):cancel", cancel_batch),
    ("DELETE", f"/{VERSIONS}/batches/([^/:]+)", delete_batch),
    ("GET", f"/{VERSIONS}/models", list_models),
    ("GET", f"/{VERSIONS}/models/([^/:]+)", get_model),
]
