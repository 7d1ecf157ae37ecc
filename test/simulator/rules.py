"""What a test asked to go wrong: faults of single requests, and rules for batches.

Both are lists of rules with a `match` that says which occurrences are meant.
A rule counts what it matches from the moment it was posted, so `"nth": 1`
is the next one.  Unknown members are refused: a misspelt fault that silently
never fires would make a test pass for nothing.
"""

import re
import threading
import zlib

FAULTS = {"status", "headers", "body", "read_body", "commit", "cut_before", "cut_upload_at",
          "cut_after_commit", "cut_body_at", "reset", "slow_body", "stall", "stall_before",
          "garbage", "merge", "redirect", "endless", "close"}

PLAN = {"validate_seconds", "run_seconds", "finalize_seconds", "cancel_seconds", "unlisted_seconds",
        "refuse", "fail", "expire", "hang", "items", "shuffle", "error_file_id", "no_output_file",
        "extra_lines", "final_newline", "unknown_seconds"}

SELECTORS = {"custom_id_regex", "prompt_contains", "nth", "times", "share"}
EFFECTS = {"status_code", "headers", "error", "line_error", "refusal", "length", "content_filter",
           "finish_reason", "answer", "usage", "reasoning_tokens", "missing", "duplicate",
           "custom_id", "malformed", "merge"}


class BadRule(Exception):
    """The rule cannot mean anything; the text says why."""


def require(value, allowed, where):
    if not isinstance(value, dict):
        raise BadRule(f"{where} must be an object")
    unknown = set(value) - set(allowed)
    if unknown:
        raise BadRule(f"{where}: unknown {sorted(unknown)}; known are {sorted(allowed)}")


class Occurrences:
    """Counts matches and says which of them are meant."""

    def __init__(self, nth, times):
        self.nth, self.times = self._parse(nth), times
        self.seen = self.fired = 0
        self.lock = threading.Lock()

    @staticmethod
    def _parse(nth):
        if nth is None:
            return lambda n: True
        if isinstance(nth, str):
            step = re.fullmatch(r"every ([1-9]\d*)", nth)
            if step:
                return lambda n: n % int(step[1]) == 0
        elif isinstance(nth, int):
            return lambda n: n == nth
        elif isinstance(nth, list) and all(isinstance(n, int) for n in nth):
            return lambda n: n in nth
        raise BadRule('"nth" is a number from 1, a list of them, or "every N"')

    def hit(self, may_fire=True):
        """Count one occurrence; True if the rule fires for it."""
        with self.lock:
            self.seen += 1
            spent = self.times is not None and self.fired >= self.times
            if spent or not may_fire or not self.nth(self.seen):
                return False
            self.fired += 1
            return True


class Fault:
    """One fault of the HTTP exchange."""

    def __init__(self, rule):
        require(rule, {"match", "do"}, "a fault")
        match = rule.get("match", {})
        require(match, {"method", "path", "key", "nth", "times"}, "match")
        require(rule.get("do"), FAULTS, "do")
        if not rule["do"]:
            raise BadRule("do is empty")
        self.rule = rule
        self.do = rule["do"]
        self.method = match.get("method")
        self.key = match.get("key")
        self.path = match.get("path", "/")
        # A path that starts with ^ is a regular expression, else a prefix.
        self.regex = re.compile(self.path) if self.path.startswith("^") else None
        self.occurrences = Occurrences(match.get("nth"), match.get("times"))

    def concerns(self, request):
        if self.method not in (None, request.method) or self.key not in (None, request.key):
            return False
        return bool(self.regex.search(request.path)) if self.regex else request.path.startswith(self.path)


class Item:
    """A rule for single requests, of a batch or real-time."""

    def __init__(self, rule):
        require(rule, SELECTORS | {"do"}, "an item rule")
        require(rule.get("do"), EFFECTS, "do")
        self.do = rule["do"]
        self.custom_id = re.compile(rule["custom_id_regex"]) if "custom_id_regex" in rule else None
        self.text = rule.get("prompt_contains")
        self.share = rule.get("share", 1)
        self.occurrences = Occurrences(rule.get("nth"), rule.get("times"))

    def concerns(self, custom_id, prompt):
        if self.custom_id and not (custom_id and self.custom_id.search(custom_id)):
            return False
        if self.text is not None and self.text not in prompt:
            return False
        return (self.share >= 1 or self._drawn(prompt)) and self.occurrences.hit()

    def _drawn(self, prompt):
        """By the prompt, not by chance, so that a run can be repeated."""
        return zlib.crc32(prompt.encode("utf-8", "surrogatepass")) % 10000 < self.share * 10000


def effect_on(items, custom_id, prompt):
    """The members of all `do` objects that concern this request."""
    effect = {}
    for item in items:
        if item.concerns(custom_id, prompt):
            effect.update(item.do)
    return effect


class BatchRule:
    """What happens to the batches that it matches."""

    def __init__(self, rule):
        require(rule, PLAN | {"match"}, "a batch rule")
        match = rule.get("match", {})
        require(match, {"nth", "times", "metadata", "mode"}, "match")
        if match.get("mode", "batch") not in ("batch", "realtime", "any"):
            raise BadRule('"mode" is batch, realtime or any')
        self.rule = rule
        self.mode = match.get("mode", "batch")
        self.metadata = match.get("metadata", {})
        self.occurrences = Occurrences(match.get("nth"), match.get("times"))
        self.refusals = rule.get("refuse", 0)
        self.items = [Item(item) for item in rule.get("items", [])]
        self.plan = {name: value for name, value in rule.items() if name in PLAN - {"items", "refuse"}}

    def concerns(self, metadata):
        wanted = self.metadata.items()
        return (self.mode != "realtime" and all((metadata or {}).get(k) == v for k, v in wanted)
                and self.occurrences.hit())


class Rules:
    """The lists in force."""

    def __init__(self):
        self.lock = threading.Lock()
        self.faults, self.batch_rules = [], []

    def add(self, kind, made):
        with self.lock:
            setattr(self, kind, getattr(self, kind) + made)

    def fault(self, request):
        """The first fault that fires; every rule that matches counts the request."""
        chosen = None
        for fault in self.faults:
            if fault.concerns(request) and fault.occurrences.hit(may_fire=chosen is None):
                chosen = fault
        return chosen

    def refuse_create(self):
        """True while a rule still wants creates refused as if the file were unknown."""
        with self.lock:
            for rule in self.batch_rules:
                if rule.refusals > 0:
                    rule.refusals -= 1
                    return True
        return False

    def plan(self, metadata, defaults):
        """The course of a new batch: defaults, changed by every rule that concerns it."""
        plan, items = dict(defaults), []
        for rule in self.batch_rules:
            if rule.concerns(metadata):
                plan.update(rule.plan)
                items += rule.items
        return plan, items

    def realtime_effect(self, prompt):
        items = [item for rule in self.batch_rules if rule.mode != "batch" for item in rule.items]
        return effect_on(items, None, prompt) if items else {}

    def describe(self, kind):
        return [dict(rule.rule, seen=rule.occurrences.seen, fired=rule.occurrences.fired)
                for rule in getattr(self, kind)]
