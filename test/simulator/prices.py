"""What the models cost and what they accept, as far as the simulator needs it.

Prices are USD per million tokens, list price, before the batch discount.
Money is Decimal throughout: a bill that a test compares must not round.
"""

import functools
import re
from decimal import Decimal
from typing import NamedTuple, Optional

# Columns: model, input, cached input, cache write, output, most input tokens,
# most output tokens, price band for long prompts (yes/no), dated name.
# "-" means none.  Kept as text because people compare it with price pages.
OPENAI = """
gpt-6-astra             10    1      12.5   50    922000  128000  yes  -
gpt-6.2-sol             2     0.1    2.5    10    922000  128000  yes  -
gpt-6.1-sol             2     0.1    2.5    10    922000  128000  yes  -
gpt-6-sol               2     0.2    2.5    10    922000  128000  yes  -
gpt-6-luna              0.1   0.01   0.125  0.5   922000  128000  yes  -
gpt-5.6-sol             4     0.4    5      20    922000  128000  yes  -
gpt-5.6-terra           2     0.2    2.5    12    922000  128000  yes  -
gpt-5.6-luna            0.2   0.02   0.25   1.2   922000  128000  yes  -
gpt-5.5                 5     0.5    -      30    922000  128000  yes  -
gpt-5.4                 2.5   0.25   -      15    922000  128000  yes  -
gpt-5.4-mini            0.75  0.075  -      4.5   272000  128000  no   -
gpt-5.4-nano            0.2   0.02   -      1.25  272000  128000  no   gpt-5.4-nano-2026-03-17
gpt-5-mini              0.25  0.025  -      2     272000  128000  no   gpt-5-mini-2025-08-07
gpt-5-nano              0.05  0.005  -      0.4   272000  128000  no   gpt-5-nano-2025-08-07
gpt-4.1                 2     0.5    -      8     1047576 32768   no   gpt-4.1-2025-04-14
gpt-4.1-mini            0.4   0.1    -      1.6   1047576 32768   no   gpt-4.1-mini-2025-04-14
gpt-4.1-nano            0.1   0.025  -      0.4   1047576 32768   no   gpt-4.1-nano-2025-04-14
gpt-4o                  2.5   1.25   -      10    128000  16384   no   gpt-4o-2024-08-06
gpt-4o-mini             0.15  0.075  -      0.6   128000  16384   no   gpt-4o-mini-2024-07-18
o3                      2     0.5    -      8     200000  100000  no   o3-2025-04-16
o4-mini                 1.1   0.275  -      4.4   200000  100000  no   o4-mini-2025-04-16
text-embedding-3-small  0.02  -      -      0     8191    0       no   -
text-embedding-3-large  0.13  -      -      0     8191    0       no   -
"""

# One whole request is dearer once its prompt passes this many tokens.
LONG_PROMPT = 272000

# What a batch pays of each token class: (input, cached, written, output).
HALF = Decimal("0.5")
BATCH_FACTORS = {"openai": (HALF, HALF, HALF, HALF)}

MILLION = Decimal(1000000)


class Usage(NamedTuple):
    """Tokens of one reply; `input` includes cached and written ones, `output` reasoning."""
    input: int = 0
    cached: int = 0
    written: int = 0
    output: int = 0
    reasoning: int = 0


class Model(NamedTuple):
    name: str
    provider: str
    input: Decimal
    cached: Decimal
    write: Decimal
    output: Decimal
    max_input: int
    max_output: int
    long_band: bool
    snapshot: str


def _model(provider, line):
    name, inp, cached, write, out, max_in, max_out, band, snapshot = line.split()
    # A class without a price of its own is billed as plain input.
    price = lambda text: Decimal(inp if text == "-" else text)
    return Model(name, provider, Decimal(inp), price(cached), price(write), Decimal(out),
                 int(max_in), int(max_out), band == "yes", name if snapshot == "-" else snapshot)


def _table(provider, text):
    return {model.name: model for model in (_model(provider, line) for line in text.split("\n") if line)}


MODELS = _table("openai", OPENAI)
DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")


def find(name) -> Optional[Model]:
    """The model of that name, also when it is asked for by a dated name."""
    return MODELS.get(name) or MODELS.get(DATE.sub("", name))


@functools.lru_cache(maxsize=None)
def _rates(model, batch, long_prompt):
    """USD per token of (input, cached, written, output)."""
    rates = (model.input, model.cached, model.write, model.output)
    if long_prompt:
        rates = tuple(rate * factor for rate, factor in zip(rates, (2, 2, 2, Decimal("1.5"))))
    if batch:
        rates = tuple(rate * factor for rate, factor in zip(rates, BATCH_FACTORS[model.provider]))
    return tuple(rate / MILLION for rate in rates)


def cost(name, usage, batch) -> Optional[Decimal]:
    """USD of one reply; None when the model's price is unknown."""
    model = find(name)
    if model is None:
        return None
    inp, cached, write, out = _rates(model, batch, model.long_band and usage.input > LONG_PROMPT)
    fresh = usage.input - usage.cached - usage.written
    return fresh * inp + usage.cached * cached + usage.written * write + usage.output * out
