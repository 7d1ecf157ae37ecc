"""The simulated world: clock, options, files, request log, bill, and the batches alive.

Nothing here knows a provider: a provider is a module in PROVIDERS with

    ROUTES              list of (method, path pattern, handler)
    OPTIONS             its options and their defaults
    authenticate(world, request)    raises wire.Refusal
    reply_headers()     a dict of headers for each reply
    not_found(request)  the provider's answer to an unknown path; None if it is not its path

and, where its paths are another's as well, or its errors of another form,

    claims(request)     whether it is meant; without, every request to its paths is for it
    fault_body(status)  what a fault of that status answers
    check_option(name, value)   raises rules.BadRule

and a handler is handler(world, request, *groups of the pattern) -> Response.

Locks: each class below guards its own members and calls nothing while it
holds its lock, so no order between locks is needed.
"""

import collections
import hashlib
import importlib
import itertools
import json
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from decimal import Decimal

import prices
import rules

PROVIDERS = ("anthropic", "gemini", "openai")

OPTIONS = {
    "validate_seconds": 0.2,        # life of a batch, on the simulator's clock
    "run_seconds": 0.5,
    "finalize_seconds": 0.1,
    "cancel_seconds": 0.3,
    "unlisted_seconds": 0.0,        # how long a new batch is missing from listings
    "file_unlisted_seconds": 0.0,   # the same for an uploaded file
    "file_fraction": 1.0,           # share of an upload that is stored
    "window_seconds": 86400.0,      # a batch that runs longer expires
    "shuffle": True,                # order of result lines: true, false (as sent) or "reverse"
    "seed": 0,
    "keys": "",                     # valid keys, separated by commas; empty: every key
    "quota_keys": "",               # keys whose account has run out of money
    "realtime_seconds": 0.0,        # real seconds until a real-time answer
    "requests_per_minute": 0,       # real-time limits, per key; 0: none
    "tokens_per_minute": 0,
    "rate_window_seconds": 60.0,    # over which they are counted: 1 lets a sixtieth through in any second
    "cached_fraction": 0.0,         # share of a prompt of 1,024 tokens or more that counts as
    "written_fraction": 0.0,        # read from, written to the prompt cache
    "reasoning_tokens": 0,          # hidden tokens of each reply of a reasoning model
    "any_model": False,             # accept models without a known price
}

LOG_LENGTH = 500000                 # older entries are dropped: a benchmark must not eat memory
RECORDS_LENGTH = 20000


def usd(amount):
    """Plain digits: a test compares text."""
    return None if amount is None else format(amount.normalize(), "f")


class Clock:
    """Real time, but for what a test adds; it can be stopped."""

    def __init__(self):
        self.changed = threading.Condition()
        self.offset = 0.0
        self.stopped_at = None

    def now(self):
        return (time.time() if self.stopped_at is None else self.stopped_at) + self.offset

    def advance(self, seconds):
        with self.changed:
            self.offset += seconds
            self.changed.notify_all()

    def stop(self, stopped):
        with self.changed:
            if stopped and self.stopped_at is None:
                self.stopped_at = time.time()
            elif not stopped and self.stopped_at is not None:
                self.offset -= time.time() - self.stopped_at
                self.stopped_at = None
            self.changed.notify_all()

    def wake(self):
        """Somebody who waits has something new to look at."""
        with self.changed:
            self.changed.notify_all()

    def wait(self, until, interrupted):
        """Return at that time, or as soon as interrupted() is true."""
        with self.changed:
            while not interrupted():
                left = until - self.now()
                if left <= 0:
                    return
                self.changed.wait(None if self.stopped_at is not None else min(left, 3600))


class Log:
    """Every request that came in, and the bodies that are worth checking later."""

    def __init__(self, record_path=None):
        self.lock = threading.Lock()
        self.entries = collections.deque(maxlen=LOG_LENGTH)
        self.records = collections.deque(maxlen=RECORDS_LENGTH)
        self.running, self.most = collections.Counter(), collections.Counter()
        self.numbers = itertools.count(1)
        self.record_file = open(record_path, "a", encoding="utf-8") if record_path else None

    def begin(self, now, request, route, hidden):
        """A new entry; the calls of the test itself are not kept."""
        entry = {"seq": None if hidden else next(self.numbers), "time": now, "method": request.method,
                 "path": request.target, "key": request.key, "status": None, "fault": None,
                 "bytes_in": 0, "bytes_out": 0, "seconds": None}
        name = f"{request.method} {route}"
        if hidden:
            return entry
        with self.lock:
            self.entries.append(entry)
            self.running[name] += 1
            self.most[name] = max(self.most[name], self.running[name])
        return entry

    def end(self, request, route, hidden):
        if not hidden:
            with self.lock:
                self.running[f"{request.method} {route}"] -= 1

    def clear(self):
        with self.lock:
            self.entries.clear()
            self.records.clear()
            self.most = collections.Counter(self.running)

    def record(self, record):
        """What a provider found worth keeping of a request."""
        with self.lock:
            self.records.append(record)

    def write(self, request):
        """One line of the record file; see wire.App.record."""
        with self.lock:
            self.record_file.write(json.dumps(request) + "\n")
            self.record_file.flush()

    def snapshot(self, name):
        with self.lock:
            return list(getattr(self, name))


class Account:
    """One line of the bill."""

    def __init__(self):
        self.requests = self.input = self.cached = self.written = self.output = self.reasoning = self.long_written = 0
        self.usd, self.unpriced = Decimal(0), 0

    def add(self, usage, cost):
        self.requests += 1
        self.input += usage.input
        self.cached += usage.cached
        self.written += usage.written
        self.output += usage.output
        self.reasoning += usage.reasoning
        self.long_written += usage.long_written
        if cost is None:
            self.unpriced += 1
        else:
            self.usd += cost

    def show(self):
        return dict(requests=self.requests, input_tokens=self.input, cached_tokens=self.cached,
                    cache_write_tokens=self.written,
                    long_write_tokens=self.long_written, output_tokens=self.output,
                    reasoning_tokens=self.reasoning, usd=usd(self.usd), unpriced=self.unpriced)


class Item:
    """What became of one custom_id."""
    __slots__ = ("accepted", "runs", "usd", "prompt")

    def __init__(self):
        self.accepted, self.runs, self.usd, self.prompt = 0, 0, Decimal(0), None


class Ledger:
    """Who ran how often, and what it cost."""

    def __init__(self):
        self.lock = threading.Lock()
        self.items = collections.defaultdict(Item)
        # By the hash of the prompt, since custom_ids differ between attempts: [in batches, in real time].
        self.prompts = collections.defaultdict(lambda: [0, 0])
        self.accounts = collections.defaultdict(Account)

    @staticmethod
    def hash(prompt):
        return hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=8).digest()

    def accepted(self, custom_ids):
        with self.lock:
            for custom_id in custom_ids:
                self.items[custom_id].accepted += 1

    def ran(self, model, usage, prompt, custom_id=None, batch=True):
        """A reply was made and is paid for."""
        cost, key = prices.cost(model, usage, batch), self.hash(prompt)
        with self.lock:
            self.accounts[model, batch].add(usage, cost)
            self.prompts[key][0 if batch else 1] += 1
            if batch:
                item = self.items[custom_id]
                item.runs += 1
                item.prompt = key
                item.usd += cost or 0

    def bill(self):
        with self.lock:
            accounts = list(self.accounts.items())
        total = sum((account.usd for _, account in accounts), Decimal(0))
        lines = [dict(model=model, mode="batch" if batch else "realtime", **account.show())
                 for (model, batch), account in sorted(accounts, key=lambda pair: pair[0])]
        return {"usd": usd(total), "unpriced": sum(a.unpriced for _, a in accounts), "lines": lines}

    def show_items(self):
        with self.lock:
            ids = {custom_id: {"accepted": item.accepted, "runs": item.runs, "usd": usd(item.usd),
                               "prompt": item.prompt and item.prompt.hex(),
                               "realtime": self.prompts[item.prompt][1] if item.prompt else 0}
                   for custom_id, item in self.items.items()}
            prompts = {key.hex(): {"batch": counts[0], "realtime": counts[1]}
                       for key, counts in self.prompts.items()}
        return {"custom_ids": ids, "prompts": prompts}

    def summary(self):
        with self.lock:
            runs = [item.runs for item in self.items.values()]
            prompts = list(self.prompts.values())
        return {"distinct_custom_ids": len(runs),
                "requests_run": sum(batch for batch, _ in prompts),
                "realtime_calls": sum(realtime for _, realtime in prompts),
                "max_times_one_custom_id_ran": max(runs, default=0),
                "distinct_prompts_run": len(prompts),
                "max_times_one_prompt_ran": max((sum(pair) for pair in prompts), default=0)}


class File:
    """A stored file: the bytes are on disk, and stay there for tests after a DELETE."""

    def __init__(self, id, path, **facts):
        self.id, self.path, self.deleted = id, path, False
        self.bytes, self.created, self.expires = 0, 0.0, None
        self.filename = self.purpose = None
        self.uploaded = False           # by a client, not made here
        self.__dict__.update(facts)


def cut_upload(file, fraction):
    """Stores less of an upload than has come, as a provider does that lost its connection."""
    if fraction < 1:
        file.bytes = int(file.bytes * fraction)
        os.truncate(file.path, file.bytes)


class RateLimiter:
    """Requests and tokens of the last minute, per key."""

    def __init__(self):
        self.lock = threading.Lock()
        self.spent = collections.defaultdict(collections.deque)

    def take(self, key, now, tokens, most_requests, most_tokens, window=60):
        """(seconds to wait or 0, requests left, tokens left); failed requests count as well."""
        with self.lock:
            spent = self.spent[key]
            while spent and spent[0][0] <= now - window:
                spent.popleft()
            used = sum(n for _, n in spent)
            over = (most_requests and len(spent) >= most_requests) or (most_tokens and used + tokens > most_tokens)
            wait = max(0.001, spent[0][0] + window - now) if over and spent else float(window) if over else 0
            spent.append((now, 0 if over else tokens))
            return wait, max(0, most_requests - len(spent)), max(0, most_tokens - used - tokens)

    def reset(self, key, now, window=60):
        """Seconds until the first of what was spent counts no more."""
        with self.lock:
            return max(0.0, self.spent[key][0][0] + window - now) if self.spent[key] else 0.0


class World:
    """Everything that one simulator holds."""

    def __init__(self, directory=None, record=None):
        self.providers = [importlib.import_module(name) for name in PROVIDERS]
        self.defaults = dict(OPTIONS)
        for provider in self.providers:
            self.defaults.update(provider.OPTIONS)
        self.start_options = {}
        self.tls = False                # replies that hold addresses need to know
        self.root = tempfile.mkdtemp(prefix="llm_simulator.", dir=directory)
        self.clock = Clock()
        self.log = Log(record)
        self.lock = threading.Lock()
        self.serial = itertools.count(1)
        self.batches = {}
        self.generation = 0
        self.reset()

    def reset(self):
        """As on the first day; batches under way are forgotten."""
        for batch in self.batches.values():
            batch.abandon()
        self.generation += 1
        self.directory = os.path.join(self.root, str(self.generation))
        os.mkdir(self.directory)
        shutil.rmtree(os.path.join(self.root, str(self.generation - 1)), ignore_errors=True)
        self.options = {**self.defaults, **self.start_options}
        self.rules, self.ledger, self.limiter = rules.Rules(), Ledger(), RateLimiter()
        self.log.clear()
        self.files, self.batches = {}, {}
        self.failures = []              # tracebacks: the simulator's own faults, which no test wants
        self.clock.stop(False)

    def close(self):
        shutil.rmtree(self.root, ignore_errors=True)

    def set_option(self, name, value):
        if name not in self.defaults:
            raise rules.BadRule(f"unknown option {name}; known are {sorted(self.defaults)}")
        value = _like(self.defaults[name], name, value)
        for provider in self.providers:
            getattr(provider, "check_option", lambda name, value: None)(name, value)
        self.options[name] = value

    def new_id(self, prefix, length):
        """Never seen before, not even by a client that met an earlier simulator."""
        return prefix + secrets.token_hex(length)[:length]

    def new_path(self):
        return os.path.join(self.directory, f"f{next(self.serial)}")

    def add_file(self, file):
        with self.lock:
            self.files[file.id] = file
        return file

    def file(self, id):
        """The file, unless it was deleted or its time is over."""
        file = self.files.get(id)
        gone = file is None or file.deleted or (file.expires is not None and file.expires <= self.clock.now())
        return None if gone else file

    def add_batch(self, batch):
        with self.lock:
            self.batches[batch.id] = batch

    def listed_files(self):
        """Those that are there and appear in listings by now."""
        before = self.clock.now() - self.options["file_unlisted_seconds"]
        return [file for file in self.all_files() if self.file(file.id)
                and (not file.uploaded or file.created <= before)]

    def all_batches(self):
        with self.lock:
            return list(self.batches.values())

    def all_files(self):
        with self.lock:
            return list(self.files.values())

    def settle(self, timeout=60, ended=False):
        """Wait until no batch has work to do at the present time of the clock, or until all have ended."""
        end = time.monotonic() + timeout
        while any(not batch.ended() if ended else batch.busy() for batch in self.all_batches()):
            if time.monotonic() > end:
                return False
            time.sleep(0.002)
        return True

    def routes(self):
        return [(method, re.compile(pattern + r"\Z"), pattern, handler, provider)
                for provider in self.providers for method, pattern, handler in provider.ROUTES]


def _like(default, name, value):
    """A value of the default's type, also from the text of a command line."""
    if name == "shuffle" and value == "reverse":
        return value
    if isinstance(default, bool):
        text = str(value).lower()
        if text not in ("true", "on", "yes", "1", "false", "off", "no", "0"):
            raise rules.BadRule(f"{name} must be true or false")
        return text in ("true", "on", "yes", "1")
    try:
        return type(default)(value)
    except (TypeError, ValueError):
        raise rules.BadRule(f"{name} must be a {type(default).__name__}") from None
