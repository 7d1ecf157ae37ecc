"""The part of bench/soak that runs once there is a server and a simulator.

Several sessions begin small jobs of every kind and get in their way, while
the providers fail in every way that the simulator knows.  Meanwhile the
worker is looked at from outside; in the end the books are compared: ours with
the simulator's bill.  Prints a report; the exit status says whether it held.

    soak.py PORT SECONDS SEED SESSIONS      (PGHOST and friends say where)
"""

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
import urllib.request

PORT, SECONDS, SEED, SESSIONS = (int(word) for word in sys.argv[1:5])
MODELS = {"openai": "gpt-6-luna", "anthropic": "claude-haiku-4-5", "gemini": "gemini-3.5-flash-lite"}
MOST_OPEN = 16          # jobs that have not ended, of all sessions together
DRAIN_SECONDS = 240     # for what is under way in the end
ENDED = ("succeeded", "partial", "failed", "cancelled")

# What must hold.
LEAST_ENDED = 0.95      # of jobs, without anyone's hand
MOST_GROWTH_KB = 65536  # of the worker's memory from the end of the warm-up on
MOST_CREEP_KB = 2048    # of that, what is no jump: the allocator keeps what the largest reply took
JUMP_KB = 1024
WARM_SECONDS = 120      # a shorter run says nothing about memory
MOST_XACT_SECONDS = 5   # that a transaction of the worker stays open
MOST_QUEUE_KB = 2048    # of a table that is empty when nothing is under way
MOST_DEAD = 5           # dead rows for each live one, beside 2,000
PASSING_TABLES = ("queue", "unapplied", "command", "leftover")
LASTING_TABLES = ("job", "batch")


# ---- the simulator ----

def sim(method, path, data=None):
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/_sim/{path}", body, method=method)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


MOST_COUNTED = 300000   # requests, items and batches beyond this meet no fault
# One of 20 requests meets one of these, in turn.
REQUEST_FAULTS = [
    {"status": 429, "headers": {"retry-after": "1"}},
    {"status": 429, "headers": {"retry-after-ms": "300"}, "read_body": False, "close": True},
    {"status": 500},
    {"status": 502, "headers": {"content-type": "text/html"}, "body": "<html>Bad gateway</html>"},
    {"status": 503},
    {"status": 529},
    {"status": 408},
    {"status": 500, "commit": True},
    {"cut_before": True},
    {"cut_upload_at": 200},
    {"cut_after_commit": True},
    {"cut_body_at": 40},
    {"cut_body_at": 400, "reset": True},
    {"slow_body": 2000},
    {"stall": 6},
    {"stall_before": 6, "status": 503},
    {"garbage": True},
    {"garbage": "\n"},
    {"redirect": "http://127.0.0.1:9/"},
    {"endless": True},
    {"close": True},
]
# One of 20 single requests, in batches and in real time.
ITEM_FAULTS = [
    {"status_code": 500}, {"status_code": 429}, {"status_code": 400}, {"status_code": 503},
    {"refusal": True}, {"length": True}, {"content_filter": True},
    {"answer": "not what was asked for"}, {"reasoning_tokens": 50},
]
# The same, of what only a result file can have.
LINE_FAULTS = [{"missing": True}, {"duplicate": 1}, {"custom_id": None}, {"malformed": True}]
# One of 20 batches.
BATCH_FAULTS = [
    {"expire": 0.4}, {"expire": 0}, {"fail": {"code": "invalid_request", "line": 1}},
    {"fail": {"code": "token_limit_exceeded", "message": "Enqueued token limit reached. Limit: 2,000,000 enqueued tokens."}},
    {"fail": "INTERNAL"}, {"unlisted_seconds": 1.5}, {"unknown_seconds": 1.5}, {"error_file_id": ""},
    {"shuffle": "reverse", "final_newline": False}, {"run_seconds": 8}, {"cancel_seconds": 3},
    {"extra_lines": {"output": ["this is no JSON", "{\"custom_id\":\"nobody-1\"}"], "error": []}},
]


def one_in_20(kinds, share=1):
    """For each kind the occurrences that it gets; together one in 20 (or of 20 / share) of them all."""
    step = 20 * share
    period = step * len(kinds)
    return zip(kinds, (list(range(step * i + step // 2, MOST_COUNTED, period)) for i in range(len(kinds))))


def post_faults():
    sim("POST", "faults", [{"match": {"nth": nth}, "do": do} for do, nth in one_in_20(REQUEST_FAULTS)])
    items = [{"nth": nth, "do": do} for do, nth in one_in_20(ITEM_FAULTS)]
    lines = [{"nth": nth, "do": do} for do, nth in one_in_20(LINE_FAULTS, 2)]
    rules = [{"match": {"mode": "any"}, "items": items}, {"match": {"mode": "batch"}, "items": lines}]
    rules += [dict(plan, match={"nth": nth}) for plan, nth in one_in_20(BATCH_FAULTS)]
    sim("POST", "batch_rules", rules)


# ---- sessions ----

def quote(value):
    if value is None:
        return "NULL"
    return "'" + str(value).replace("'", "''") + "'"


class Session:
    """A psql that stays; text in, text out.  Errors are raised unless asked for."""

    def __init__(self):
        self.number = 0
        self.psql = subprocess.Popen(["psql", "-XAtq", "-v", "ON_ERROR_STOP=0", "-P", "pager=off"],
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                     text=True, bufsize=1)

    def ask(self, text, errors=False):
        self.number += 1
        end = f"-- end {self.number}"
        self.psql.stdin.write(f"{text};\n\\echo '{end}'\n")
        self.psql.stdin.flush()
        lines = []
        for line in self.psql.stdout:
            line = line.rstrip("\n")
            if line == end:
                break
            lines.append(line)
        else:
            raise RuntimeError("psql has ended: " + "\n".join(lines))
        said = "\n".join(lines)
        if "ERROR:" in said and not errors:
            raise RuntimeError(f"{text}\n{said}")
        return said

    def rows(self, query):
        said = self.ask(f"SELECT coalesce(json_agg(q), '[]') FROM ({query}) q")
        return json.loads(said)

    def number_of(self, query):
        return int(re.findall(r"^\d+$", self.ask(query), re.M)[-1])


class World:
    """What the sessions share."""

    def __init__(self):
        self.lock = threading.Lock()
        self.next_id = 1
        self.failures = []      # of the sessions themselves
        self.jobs = {}          # id -> what it is
        self.touched = set()    # rows that were changed or deleted
        self.stop = threading.Event()
        self.done = {"cancel": 0, "pause": 0, "retry": 0, "update": 0, "delete": 0, "lock": 0}

    def ids(self, count):
        with self.lock:
            first = self.next_id
            self.next_id += count
            return first


SETUP = """
CREATE TYPE kind AS ENUM ('news', 'sport', 'other');
CREATE TABLE article (id bigint PRIMARY KEY, body text NOT NULL, summary text, score int, kind kind);
"""
SERVER = """
CREATE SERVER {api} FOREIGN DATA WRAPPER llm_batch OPTIONS (api '{api}', base_url 'http://127.0.0.1:{port}{path}',
    poll_min '100ms', poll_max '1s', retry_base '200ms', retry_max '3s', connect_timeout '2s', request_timeout '3s',
    settle_time '2s', batch_timeout '60s', realtime_concurrency '8', max_batch_requests '30');
CREATE USER MAPPING FOR CURRENT_USER SERVER {api} OPTIONS (api_key 'sk-soak');
"""
FILLER = " words and" * 12


class Actor(threading.Thread):
    """One session: begins jobs and disturbs them."""

    def __init__(self, world, number):
        super().__init__(daemon=True)
        self.world, self.dice = world, random.Random(SEED * 1000 + number)

    def run(self):
        try:
            self.session, self.other = Session(), Session()
            while not self.world.stop.is_set():
                if self.session.number_of("SELECT count(*) FROM llm_batch.job WHERE finished_at IS NULL") < MOST_OPEN:
                    self.disturb(self.begin())
                self.world.stop.wait(self.dice.uniform(0.1, 0.8))
        except Exception as failure:
            self.world.failures.append(repr(failure))

    def begin(self):
        dice = self.dice
        api = dice.choice(list(MODELS))
        count = dice.choice([1, 3, 8, 15, 25, 40, 70])
        first = self.world.ids(count)
        mode = dice.choice(["batch", "batch", "batch", "realtime", "auto"])
        kind = dice.choice(["text", "text", "typed", "query", "prompts"])
        common = f"model => '{MODELS[api]}', server => '{api}', mode => '{mode}', labels => '{{\"soak\": \"{kind}\"}}'"
        rows = f"SELECT n AS id, format('Article %s speaks.{FILLER}', n) AS body FROM generate_series({first}, {first + count - 1}) n"
        if kind == "prompts":
            call = f"SELECT llm_batch.submit_prompts((SELECT array_agg('Say: ' || body ORDER BY id) FROM ({rows}) r), {common})"
        elif kind == "query":
            call = "SELECT llm_batch.submit_query(" + quote(f"SELECT id AS key, 'Say: ' || body AS prompt FROM ({rows}) r") + f", {common})"
        else:
            self.session.ask(f"INSERT INTO article {rows}".replace("article SELECT", "article (id, body) SELECT"))
            target = "summary" if kind == "text" else "summary, score, kind"
            call = (f"SELECT llm_batch.submit('article', 'Say: {{{{body}}}}', target => '{target}', "
                    f"filter => 'id BETWEEN {first} AND {first + count - 1}', {common})")
        job = self.session.number_of(call)
        with self.world.lock:
            self.world.jobs[job] = {"api": api, "kind": kind, "mode": mode, "first": first, "count": count, "hand": None}
        return job

    def some_rows(self, facts, most):
        ids = range(facts["first"], facts["first"] + facts["count"])
        chosen = self.dice.sample(ids, min(len(ids), self.dice.randint(1, most)))
        return ", ".join(map(str, chosen)), chosen

    def disturb(self, job):
        facts = self.world.jobs[job]
        has_rows = facts["kind"] in ("text", "typed")
        deed = self.dice.choices(["none", "cancel", "pause", "retry", "update", "delete", "lock"],
                                 [50, 7, 10, 10, 8 * has_rows, 5 * has_rows, 10 * has_rows])[0]
        if deed == "none":
            return
        self.world.stop.wait(self.dice.uniform(0, 1.5))
        getattr(self, deed)(job, facts)
        with self.world.lock:
            self.world.done[deed] += 1

    # What has ended meanwhile says so, by an error that is expected.

    def cancel(self, job, facts):
        self.session.ask(f"SELECT llm_batch.cancel({job})", errors=True)

    def pause(self, job, facts):
        self.session.ask(f"SELECT llm_batch.pause({job})", errors=True)
        time.sleep(self.dice.uniform(0, 2))
        self.session.ask(f"SELECT llm_batch.resume({job})", errors=True)

    def retry(self, job, facts):
        # of one that ended before
        with self.world.lock:
            known = list(self.world.jobs)
        self.session.ask(f"SELECT llm_batch.retry(job_id) FROM llm_batch.progress WHERE job_id = {self.dice.choice(known)}"
                         " AND state IN ('partial', 'failed')", errors=True)

    def update(self, job, facts):
        ids, chosen = self.some_rows(facts, 4)
        self.world.touched.update(chosen)
        self.session.ask(f"UPDATE article SET body = body || ' And more.' WHERE id IN ({ids})")

    def delete(self, job, facts):
        ids, chosen = self.some_rows(facts, 2)
        self.world.touched.update(chosen)
        self.session.ask(f"DELETE FROM article WHERE id IN ({ids})")

    def lock(self, job, facts):
        ids, _ = self.some_rows(facts, 5)
        self.other.ask(f"BEGIN; SELECT count(*) FROM (SELECT FROM article WHERE id IN ({ids}) FOR UPDATE) l; "
                       f"SELECT pg_sleep({self.dice.uniform(0.3, 2.5):.2f}); COMMIT")


# ---- looking ----

def worker_rss(pid):
    """Resident memory in kB without shared memory, which is there once for all."""
    try:
        with open(f"/proc/{pid}/status") as status:
            facts = dict(line.split(":", 1) for line in status)
    except OSError:
        return None
    return int(facts["VmRSS"].split()[0]) - int(facts["RssShmem"].split()[0])


class Watch(threading.Thread):
    """Samples the worker and the tables every few seconds."""

    def __init__(self, world):
        super().__init__(daemon=True)
        self.world, self.samples, self.oldest = world, [], 0.0

    def run(self):
        try:
            session = Session()
            begin, every = time.time(), max(0.5, min(3, SECONDS / 100))
            while not self.world.stop.wait(every):
                self.samples.append(dict(self.look(session), at=time.time() - begin))
        except Exception as failure:
            self.world.failures.append(repr(failure))

    def look(self, session):
        workers = session.rows("""
            SELECT pid, coalesce(extract(epoch FROM clock_timestamp() - xact_start), 0) AS age, backend_xmin IS NOT NULL AS holds
            FROM pg_stat_activity WHERE backend_type = 'llm_batch worker'""")
        tables = session.rows("""
            SELECT relname AS name, n_live_tup AS live, n_dead_tup AS dead, pg_relation_size(relid) / 1024 AS kb
            FROM pg_stat_user_tables WHERE schemaname = 'llm_batch'""")
        self.oldest = max([self.oldest] + [worker["age"] for worker in workers])
        pid = workers[0]["pid"] if workers else None
        return {"pid": pid, "rss": pid and worker_rss(pid), "tables": {table["name"]: table for table in tables}}


# ---- the report ----

class Report:
    def __init__(self):
        self.held = True

    def say(self, text):
        print(text, flush=True)

    def claim(self, held, text):
        self.held &= bool(held)
        print(("ok      " if held else "NOT OK  ") + text, flush=True)
        return held


def drain(session):
    """Waits until all jobs have ended; the jobs that have not."""
    until = time.time() + DRAIN_SECONDS
    while time.time() < until:
        left = session.rows("SELECT job_id, state, reason, queued, in_flight FROM llm_batch.progress WHERE finished_at IS NULL")
        # whom a session left paused, since it was told to stop
        for job in left:
            if job["reason"] == "paused by request":
                session.ask(f"SELECT llm_batch.resume({job['job_id']})", errors=True)
        if not left:
            return []
        time.sleep(1)
    return left


def report_jobs(report, session, world, left):
    states = session.rows("SELECT state, count(*) AS n, sum(total) AS items FROM llm_batch.progress GROUP BY 1 ORDER BY 1")
    jobs = sum(state["n"] for state in states)
    report.say(f"jobs    {jobs}: " + ", ".join(f"{s['n']} {s['state']}" for s in states)
               + f"; items {sum(s['items'] or 0 for s in states)}; by people: "
               + ", ".join(f"{n} {deed}" for deed, n in world.done.items()))
    codes = session.rows("SELECT coalesce(error_code, '-') AS code, state, count(*) AS n FROM llm_batch.results "
                         "WHERE state <> 'succeeded' GROUP BY 1, 2 ORDER BY 3 DESC")
    report.say("items   not succeeded: " + (", ".join(f"{c['n']} {c['code']}" for c in codes) or "none"))
    retried = session.rows("SELECT error_code AS code, count(*) AS n FROM llm_batch.result WHERE state = 'retried' GROUP BY 1 ORDER BY 2 DESC")
    report.say("items   sent again by themselves: " + (", ".join(f"{c['n']} {c['code']}" for c in retried) or "none"))
    share = (jobs - len(left)) / jobs if jobs else 0
    report.claim(jobs and share >= LEAST_ENDED, f"jobs that ended without anyone's hand: {100 * share:.1f} %")
    for job in left[:20]:
        report.say(f"        job {job['job_id']} is {job['state']}: {job['reason'] or 'no reason given'}; "
                   f"queued {job['queued']}, in flight {job['in_flight']}")
    report.claim(all(job["reason"] for job in left), "the others say why")


LOST = """
SELECT p.job_id FROM llm_batch.progress p
LEFT JOIN LATERAL (
    SELECT count(*) AS total, count(DISTINCT ordinal) AS ordinals, count(*) FILTER (WHERE state = 'succeeded') AS succeeded,
        count(*) FILTER (WHERE state = 'failed') AS failed, count(*) FILTER (WHERE state = 'cancelled') AS cancelled
    FROM llm_batch.results r WHERE r.job_id = p.job_id) c ON true
WHERE p.finished_at IS NOT NULL AND (p.queued <> 0 OR p.in_flight <> 0 OR p.unapplied <> 0
    OR (p.total, p.succeeded, p.failed, p.cancelled) <> (c.total, c.succeeded, c.failed, c.cancelled)
    OR c.total <> c.ordinals)"""


def report_loss(report, session, world):
    lost = session.rows(LOST)
    report.claim(not lost, f"every item of an ended job ended once, and the counters agree{': not ' + str(lost[:10]) if lost else ''}")
    wrong = [row["id"] for row in session.rows("""
        SELECT a.id FROM llm_batch.results r JOIN llm_batch.job_def d ON d.job_id = r.job_id JOIN article a ON a.id::text = r.key
        WHERE r.state = 'succeeded' AND d.source_table = 'article' AND a.summary IS DISTINCT FROM 'not what was asked for'
            AND a.summary IS DISTINCT FROM format('Say: Article %s speaks.', a.id)""")
             if row["id"] not in world.touched]
    written = session.number_of("SELECT count(*) FROM article WHERE summary IS NOT NULL")
    report.claim(not wrong, f"rows with an answer: {written}; wrong: {len(wrong)} {wrong[:5] or ''}")


# An attempt that ended so may have been run, and does not rule another out.
MAY_HAVE_RUN = ("unanswered", "invalid_output", "truncated", "refused", "provider_error", "timeout", "expired", "rate_limited", "stale")


def report_money(report, session, world):
    bill = sim("GET", "items")["prompts"]
    attempts = session.rows("""
        SELECT r.job_id, r.ordinal, p.prompt, count(*) AS sent, bool_or(r.state IN ('succeeded', 'stored')) AS answered,
            array_agg(r.error_code ORDER BY r.attempt) AS codes,
            count(*) FILTER (WHERE r.error_code IN ('unanswered', 'invalid_output', 'truncated', 'refused', 'provider_error', 'timeout')
                AND r.state IN ('retried', 'failed')) AS perhaps
        FROM llm_batch.result r JOIN llm_batch.prompt p USING (job_id, ordinal) GROUP BY 1, 2, 3""")
    unknown, unexplained, extra, uncertain = [], [], 0, 0
    for item in attempts:
        key = hashlib.blake2b(("user: " + item["prompt"]).encode(), digest_size=8).digest().hex()
        runs = sum(bill.get(key, {}).values())
        extra += max(runs - 1, 0)
        name = f"{item['job_id']}/{item['ordinal']}"
        if item["answered"] and runs == 0:
            unknown.append(name)
        # each run is of an attempt that is known; only one of them may have brought the answer
        if runs > item["sent"] or (item["answered"] and runs > 1 + item["perhaps"]):
            unexplained.append((name, runs, item["codes"]))
    uncertain = session.number_of("SELECT coalesce(sum(uncertain), 0) FROM llm_batch.job")
    totals = sim("GET", "summary")
    known = session.ask("SELECT trim_scale(coalesce(sum(cost), 0)), coalesce(sum(cost_unknown), 0) FROM llm_batch.progress").split("|")
    report.say(f"bill    {totals['requests_run']} requests in {totals['batches_created']} batches, {totals['realtime_calls']} in real time: "
               f"{totals['usd']} USD; known to us: {known[0]} USD, and {known[1]} attempts of unknown cost")
    report.claim(not unknown, f"every answer is on the bill{': not ' + str(unknown[:5]) if unknown else ''}")
    report.claim(not unexplained, f"nothing was paid twice that we do not know of: {extra} runs more than one for a prompt, "
                 f"uncertain {uncertain}" + (f"; unexplained: {unexplained[:5]}" if unexplained else ""))


def report_worker(report, world, watch):
    samples = [sample for sample in watch.samples if sample["rss"]]
    pids = sorted({sample["pid"] for sample in samples})
    report.claim(len(pids) == 1, f"one worker all the time: {len(pids)}")
    warm = [s["rss"] for s in samples if s["at"] > watch.samples[-1]["at"] / 3 and s["pid"] == pids[-1]]
    steps = [after - before for before, after in zip(warm, warm[1:])]
    creep = sum(step for step in steps if abs(step) < JUMP_KB)
    jumps = [step for step in steps if abs(step) >= JUMP_KB]
    # in a short run all of it is warm-up
    report.claim(SECONDS < WARM_SECONDS or (warm[-1] - warm[0] <= MOST_GROWTH_KB and creep <= MOST_CREEP_KB),
                 f"worker's memory: {samples[0]['rss']} kB at first, {warm[0]} after the warm-up, {warm[-1]} in the end; "
                 f"creep {creep:+d} kB, jumps {jumps or 'none'}")
    report.claim(watch.oldest <= MOST_XACT_SECONDS, f"oldest transaction of the worker: {watch.oldest:.2f} s ({len(watch.samples)} looks)")


def report_tables(report, watch):
    last = watch.samples[-1]["tables"]
    for name in PASSING_TABLES:
        if name in last:
            most = max(sample["tables"][name]["kb"] for sample in watch.samples)
            dead = max(sample["tables"][name]["dead"] for sample in watch.samples)
            report.claim(most <= MOST_QUEUE_KB, f"table {name}: at most {most} kB, {dead} dead rows")
    for name in LASTING_TABLES:
        worst = max((s["tables"][name]["dead"] - MOST_DEAD * s["tables"][name]["live"], s["tables"][name]["dead"]) for s in watch.samples)
        report.claim(worst[0] <= 2000, f"table {name}: {last[name]['live']} rows, {last[name]['kb']} kB, at most {worst[1]} dead rows")


def report_idle(report, session):
    """Nothing is written when nothing is to be done, but what the server itself logs now and then."""
    # request files that could not be deleted at the provider are tried again
    for _ in range(60):
        if session.number_of("SELECT count(*) FROM llm_batch.leftover") == 0:
            break
        time.sleep(1)
    # vacuuming goes on for a while after the last change
    session.ask("ALTER SYSTEM SET autovacuum = off")
    session.ask("SELECT pg_reload_conf()")
    for _ in range(60):
        if session.number_of("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'") == 0:
            break
        time.sleep(1)
    session.ask("CHECKPOINT")
    moves, spans = [], []
    for _ in range(5):
        before = session.ask("SELECT pg_current_wal_insert_lsn()")
        time.sleep(2)
        after = session.ask("SELECT pg_current_wal_insert_lsn()")
        spans.append(f"{before} {after}")
        moves.append(session.number_of(f"SELECT pg_wal_lsn_diff('{after}', '{before}')::bigint"))
    report.claim(min(moves) == 0 and sum(moves) < 1024, f"idle in the end: {moves} bytes of WAL in 2 s each"
                 + (f"; between {', '.join(span for span, move in zip(spans, moves) if move)}" if sum(moves) else ""))


def main():
    report, world, session = Report(), World(), Session()
    session.ask(SETUP)
    for api in MODELS:
        session.ask(SERVER.format(api=api, port=PORT, path="/v1" if api == "openai" else ""))
    post_faults()
    watch, actors = Watch(world), [Actor(world, number) for number in range(SESSIONS)]
    for thread in [watch] + actors:
        thread.start()
    begin = time.time()
    while time.time() < begin + SECONDS and not world.failures:
        time.sleep(min(1, SECONDS / 10))
    # no more jobs, but the same faults
    world.stop.set()
    for actor in actors:
        actor.join(30)
    busy = time.time() - begin
    left = drain(session)
    faults = sim("GET", "faults")
    rules = sim("GET", "batch_rules")
    # no request meets it any more: what is idle must be idle
    report.say(f"soak    {busy:.0f} s, {SESSIONS} sessions, seed {SEED}; then {time.time() - begin - busy:.0f} s until all was quiet")
    seen, fired = max(fault["seen"] for fault in faults), sum(fault["fired"] for fault in faults)
    report.say(f"faults  {fired} of {seen} requests ({100 * fired / max(seen, 1):.1f} %), of {sum(f['fired'] > 0 for f in faults)} of {len(faults)} kinds; "
               f"of batches {sum(rule['fired'] for rule in rules[2:])}, of {sum(rule['fired'] > 0 for rule in rules[2:])} of {len(rules) - 2} kinds")
    report.claim(not world.failures, f"the sessions met no error of their own {world.failures[:3] or ''}")
    report_jobs(report, session, world, left)
    report_loss(report, session, world)
    report_money(report, session, world)
    report_worker(report, world, watch)
    report_tables(report, watch)
    report_idle(report, session)
    failures = sim("GET", "summary")["simulator_failures"]
    report.claim(not failures, f"the simulator met nothing that it cannot do {failures[:1] or ''}")
    report.say("It held." if report.held else "It did NOT hold.")
    return 0 if report.held else 1


if __name__ == "__main__":
    sys.exit(main())
