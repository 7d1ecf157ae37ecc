"""The life of a batch, whatever the provider.

    validating -> in_progress -> finalizing -> completed | expired
         |             |             |
         +-> failed    +-------------+--> cancelling -> cancelled

Each batch is walked through its states by a thread of its own, on the
world's clock.  What a provider's batches have in particular is in its job:

    check(batch)            read the input; set batch.total, .model, .custom_ids; return errors
    run(batch, index)       answer one request -> Line
    unrun(batch, index, why)  the line of a request that was not reached -> Line or None
    deliver(batch, written) make the written results available
    unrun_all               (if true) a batch that was cancelled before it began has lines, too

Requests are run in the order in which their lines are to appear, as fast as
run_seconds asks for, so that counts move and a cancel finds some of them done.
"""

import json
import random
import threading
import time
import traceback
from typing import NamedTuple, Optional

import prices

FINAL = ("failed", "completed", "expired", "cancelled")
SLICE = 200                     # requests between two looks at the clock
STEP = 0.01                     # seconds; no need to wake up more often


class Line(NamedTuple):
    """One line of a result file, and what making it cost."""
    file: str                           # which result file: a name that the job understands
    record: dict
    succeeded: bool
    usage: Optional[prices.Usage] = None    # None: not billed
    model: Optional[str] = None
    prompt: str = ""
    custom_id: Optional[str] = None
    effect: dict = {}


class Cancelled(Exception):
    """Unwinds the thread when a cancel was asked for."""


class Abandoned(Exception):
    """Unwinds the thread when the world was reset."""


class Results:
    """The result files of a batch while they are written."""

    def __init__(self, world):
        self.world, self.files = world, {}

    def write(self, line):
        self._file(line.file).write(_text(line))

    def _file(self, name):
        if name not in self.files:
            self.files[name] = open(self.world.new_path(), "wb", buffering=1 << 20)
        return self.files[name]

    def close(self, plan):
        """Finish the files: {name: path} of those that hold anything."""
        for name, texts in plan["extra_lines"].items():
            self._file(name).write("".join(text + "\n" for text in texts).encode())
        paths = {}
        for name, file in self.files.items():
            if file.tell():
                paths[name] = file.name
                file.truncate(file.tell() - (0 if plan["final_newline"] else 1))
            file.close()
        return paths


def _text(line):
    """The bytes of a line, spoilt as its effect asks."""
    effect = line.effect
    if effect.get("missing"):
        return b""
    text = json.dumps(line.record)
    if effect.get("malformed"):
        text = effect["malformed"] if isinstance(effect["malformed"], str) else text[:len(text) // 2]
    copies = 1 + int(effect.get("duplicate", 0))
    return (text + "\n").encode("utf-8", "surrogateescape") * copies


class Batch:
    PLAN = {"fail": None, "expire": None, "hang": None, "error_file_id": None, "no_output_file": False,
            "extra_lines": {}, "final_newline": True, "unknown_seconds": 0}
    OPTIONS = ("validate_seconds", "run_seconds", "finalize_seconds", "cancel_seconds", "unlisted_seconds", "shuffle")

    def __init__(self, world, id, job, metadata=None):
        options = world.options
        defaults = {**self.PLAN, **{name: options[name] for name in self.OPTIONS}}
        self.world, self.id, self.job = world, id, job
        self.plan, self.items = world.rules.plan(metadata, defaults)
        self.created = world.clock.now()
        self.expires = self.created + options["window_seconds"]
        self.seed = f"{options['seed']}/{len(world.batches)}"
        self.status, self.times = "validating", {"validating": self.created}
        self.total = self.completed = self.failed = self.done = self.tokens = 0
        self.model, self.custom_ids, self.errors = None, [], []
        self.usage = prices.Usage()
        self.worked = 0.0               # real seconds spent on answering
        self.order, self.results = None, Results(world)
        self.lock = threading.Lock()
        self.asleep_until, self.dropped = None, False
        self.committed = False          # past the point where a cancel can change anything
        self.winding_up = False         # a cancel is being carried out
        self.expired = False            # known when the run is over

    def start(self):
        threading.Thread(target=self._live, daemon=True, name=self.id).start()

    # What the request handlers ask

    def listed(self):
        return self.world.clock.now() >= self.created + self.plan["unlisted_seconds"]

    def cancel(self):
        """False when it is too late."""
        with self.lock:
            if self.committed or self.status in FINAL or self.status == "cancelling":
                return False
            self.times["cancelling"] = self.world.clock.now()
            self.status = "cancelling"
        self.world.clock.wake()
        return True

    def abandon(self):
        self.dropped = True
        self.world.clock.wake()

    def ended(self):
        return self.status in FINAL

    def busy(self):
        """Something is still to be done at the present time."""
        until = self.asleep_until
        asleep = until is not None and until > self.world.clock.now() and not self._cancel_pending()
        return not self.ended() and not asleep

    # The thread

    def _live(self):
        try:
            try:
                self._validate()
                if self.status != "failed":
                    self._run()
                    self._finish()
            except Cancelled:
                self._finish_cancel()
        except Abandoned:
            pass
        except Exception:
            self.world.failures.append(traceback.format_exc())
            self.errors = [{"code": "simulator_error", "message": traceback.format_exc(), "line": None, "param": None}]
            self.status = "failed"

    def _cancel_pending(self):
        return self.status == "cancelling" and not self.winding_up

    def _sleep(self, until):
        self.asleep_until = until
        self.world.clock.wait(until, lambda: self.dropped or self._cancel_pending())
        self.asleep_until = None
        self._check_interrupt()

    def _check_interrupt(self):
        if self.dropped:
            raise Abandoned
        if self._cancel_pending():
            raise Cancelled

    def _enter(self, status, at):
        with self.lock:
            if self._cancel_pending():
                raise Cancelled
            self.times[status] = at
            self.status = status

    def _commit(self):
        with self.lock:
            if self._cancel_pending():
                raise Cancelled
            self.committed = True

    def _later(self, start, planned, took):
        """When a phase ended: as planned, or later if the work itself took longer."""
        return max(start + planned, min(self.world.clock.now(), start + took))

    def _validate(self):
        began = time.monotonic()
        self.errors = self.job.check(self)
        took = time.monotonic() - began
        self._sleep(self.created + self.plan["validate_seconds"])
        if self.plan["fail"] is not None:
            self.errors = [self._failure(self.plan["fail"])]
        self.errors = self.errors or self._over_token_limit()
        at = self._later(self.created, self.plan["validate_seconds"], took)
        self._enter("failed" if self.errors else "in_progress", at)
        if not self.errors:
            self.world.ledger.accepted(self.custom_ids)
            self.order = _order(self.total, self.plan["shuffle"], self.seed)
        self.custom_ids = None          # as large as the batch

    @staticmethod
    def _failure(fail):
        fail = {"code": fail} if isinstance(fail, str) else fail
        return {"code": fail["code"], "message": fail.get("message", f"The batch failed: {fail['code']}."),
                "param": fail.get("param"), "line": fail.get("line")}

    def _over_token_limit(self):
        limit = self.world.options.get("max_enqueued_tokens")
        if not limit:
            return []
        others = sum(b.tokens for b in self.world.all_batches()
                     if b is not self and b.model == self.model and b.status in ("in_progress", "finalizing"))
        if others + self.tokens <= limit:
            return []
        return [self._failure({"code": "token_limit_exceeded", "message":
                f"Enqueued token limit reached for {self.model} in organization org-simulator. "
                f"Limit: {limit:,} enqueued tokens."})]

    # Running

    def _goal(self):
        """How many requests this batch ever answers."""
        stop = self.plan["expire"] if self.plan["expire"] is not None else self.plan["hang"]
        return self.total if stop is None else int(self.total * (0 if stop is True else stop))

    def _run(self):
        start, goal, pace = self.times["in_progress"], self._goal(), self.plan["run_seconds"]
        end = min(start + pace, self.expires)
        while self.done < goal:
            now = min(self.world.clock.now(), self.expires)
            due = goal if now >= start + pace else min(goal, int(self.total * (now - start) / pace))
            began = time.monotonic()
            while self.done < due:
                self._run_some(min(due, self.done + SLICE))
                self._check_interrupt()
            self.worked += time.monotonic() - began
            if now >= self.expires:
                break
            if self.done < goal:
                self._sleep(min(end, max(now + STEP, start + pace * (self.done + 1) / self.total)))
        self._sleep(end if self.plan["hang"] is None else self.expires)

    def _run_some(self, until):
        """Answer the next requests; the counts are seen to move once for all of them."""
        completed = failed = 0
        usage = self.usage
        for place in range(self.done, until):
            line = self.job.run(self, self.order[place])
            self.results.write(line)
            if line.usage is not None:
                usage = prices.Usage(*map(sum, zip(usage, line.usage)))
                self.world.ledger.ran(line.model, line.usage, line.prompt, line.custom_id)
            completed += line.succeeded
            failed += not line.succeeded
        with self.lock:
            self.done, self.usage = until, usage
            self.completed += completed
            self.failed += failed

    def _write_unrun(self, why):
        for place in range(self.done, self.total):
            line = self.job.unrun(self, self.order[place], why)
            if line:
                self.results.write(line)

    # Ending

    def _finish(self):
        expired = self.done < self.total or self.plan["expire"] is not None or self.plan["hang"] is not None
        self.expired = expired
        at = self._later(self.times["in_progress"], self.plan["run_seconds"], self.worked)
        at = self.expires if self.plan["hang"] is not None else min(at, self.expires)
        self._enter("finalizing", at)
        at += self.plan["finalize_seconds"]
        self._sleep(at)
        self._commit()
        if expired:
            self._write_unrun("expired")
        self.job.deliver(self, self.results.close(self.plan))
        self._enter("expired" if expired else "completed", at)

    def _finish_cancel(self):
        self.winding_up = True
        if self.order is None and getattr(self.job, "unrun_all", False):
            self.order = _order(self.total, self.plan["shuffle"], self.seed)
        if self.order is not None:
            self._write_unrun("cancelled")
            written = self.results.close(self.plan)
        at = self.times["cancelling"] + self.plan["cancel_seconds"]
        self._sleep(at)
        if self.order is not None:
            self.job.deliver(self, written)
        self._enter("cancelled", at)


def _order(total, shuffle, seed):
    order = list(range(total))
    if shuffle == "reverse":
        order.reverse()
    elif shuffle:
        random.Random(seed).shuffle(order)
    return order
