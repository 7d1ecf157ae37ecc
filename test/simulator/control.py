"""The calls by which a test steers the simulator and looks inside: /_sim/..."""

import json

import rules

from wire import Refusal, Response, json_response


def refuse(message, status=400):
    raise Refusal(json_response({"error": message}, status))


def body_of(request):
    try:
        return json.loads(request.body.read_all() or b"null")
    except ValueError as error:
        refuse(f"not JSON: {error}")


def checked(handler):
    """A bad rule or option is the test's mistake and must be heard of."""
    def call(world, request, *groups):
        try:
            return handler(world, request, *groups)
        except (rules.BadRule, AttributeError, KeyError, TypeError, ValueError) as error:
            refuse(f"{type(error).__name__}: {error}")
    return call


def rule_calls(kind, make):
    @checked
    def add(world, request):
        wanted = body_of(request)
        world.rules.add(kind, [make(rule) for rule in (wanted if isinstance(wanted, list) else [wanted])])
        return show(world, request)

    def show(world, request):
        return json_response(world.rules.describe(kind))

    def clear(world, request):
        setattr(world.rules, kind, [])
        return show(world, request)

    return [("POST", f"/_sim/{kind}", add), ("GET", f"/_sim/{kind}", show), ("DELETE", f"/_sim/{kind}", clear)]


@checked
def set_options(world, request):
    for name, value in body_of(request).items():
        world.set_option(name, value)
    return get_options(world, request)


def get_options(world, request):
    return json_response(world.options)


@checked
def set_clock(world, request):
    wanted = body_of(request)
    rules.require(wanted, {"advance", "stop"}, "clock")
    if "stop" in wanted:
        world.clock.stop(bool(wanted["stop"]))
    world.clock.advance(float(wanted.get("advance", 0)))
    # The test may look at once at what the new time has brought.
    return json_response({"now": world.clock.now(), "settled": world.settle()})


def get_clock(world, request):
    return json_response({"now": world.clock.now()})


@checked
def settle(world, request):
    wanted = body_of(request) or {}
    rules.require(wanted, {"timeout", "ended"}, "settle")
    return json_response({"settled": world.settle(float(wanted.get("timeout", 60)), bool(wanted.get("ended")))})


def reset(world, request):
    world.reset()
    return json_response({})


def get_log(world, request):
    entries = [entry for entry in world.log.snapshot("entries")
               if entry["method"] == request.query.get("method", entry["method"])
               and entry["path"].startswith(request.query.get("path", ""))
               and entry["seq"] > int(request.query.get("since", 0))]
    if request.query.get("format") == "jsonl":
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        return Response(200, lines.encode(), content_type="application/x-ndjson")
    return json_response(entries)


def clear_log(world, request):
    world.log.clear()
    return json_response([])


def get_requests(world, request):
    return json_response(world.log.snapshot("records"))


def get_items(world, request):
    return json_response(world.ledger.show_items())


def get_bill(world, request):
    return json_response(world.ledger.bill())


def get_summary(world, request):
    batches = world.all_batches()
    by_status = {}
    for batch in batches:
        by_status[batch.status] = by_status.get(batch.status, 0) + 1
    uploads = [file for file in world.all_files() if file.uploaded]
    summary = {"files_uploaded": len(uploads),
               "files_deleted": sum(file.deleted for file in world.all_files()),
               "batches_created": len(batches),
               "batches": by_status,
               "batch_requests_accepted": sum(batch.total for batch in batches if "in_progress" in batch.times)}
    summary.update(world.ledger.summary())
    summary["usd"] = world.ledger.bill()["usd"]
    summary["max_concurrent"] = dict(world.log.most)
    summary["simulator_failures"] = world.failures
    return json_response(summary)


def get_batches(world, request):
    return json_response([
        {"id": batch.id, "status": batch.status, "total": batch.total, "done": batch.done,
         "completed": batch.completed, "failed": batch.failed, "model": batch.model, "plan": batch.plan,
         "times": batch.times, **batch.job.describe()} for batch in world.all_batches()])


def get_files(world, request):
    return json_response([
        {"id": file.id, "filename": file.filename, "purpose": file.purpose, "bytes": file.bytes,
         "created": file.created, "expires": file.expires, "deleted": file.deleted,
         "uploaded": file.uploaded, "path": file.path} for file in world.all_files()])


def get_file(world, request, id):
    file = world.files.get(id)
    if file is None:
        refuse("no such file", 404)
    return Response(file=file.path, content_type="application/octet-stream")


ROUTES = [
    *rule_calls("faults", rules.Fault),
    *rule_calls("batch_rules", rules.BatchRule),
    ("POST", "/_sim/options", set_options),
    ("GET", "/_sim/options", get_options),
    ("POST", "/_sim/clock", set_clock),
    ("GET", "/_sim/clock", get_clock),
    ("POST", "/_sim/settle", settle),
    ("POST", "/_sim/reset", reset),
    ("GET", "/_sim/log", get_log),
    ("DELETE", "/_sim/log", clear_log),
    ("GET", "/_sim/requests", get_requests),
    ("GET", "/_sim/items", get_items),
    ("GET", "/_sim/bill", get_bill),
    ("GET", "/_sim/summary", get_summary),
    ("GET", "/_sim/batches", get_batches),
    ("GET", "/_sim/files", get_files),
    ("GET", "/_sim/files/([^/]+)", get_file),
]
