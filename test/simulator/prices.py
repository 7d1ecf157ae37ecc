"""What the models cost and what they accept, as far as the simulator needs it.

Prices are USD per million tokens, list price, before the batch discount.
Money is Decimal throughout: a bill that a test compares must not round.
"""

import functools
import re
from decimal import Decimal
from typing import NamedTuple, Optional

# Columns: model, input, cached input, cache write, write kept for the longer
# time, output, most input tokens, most output tokens, price band for long
# prompts (a name in BANDS), dated name.  "-" means none.  Kept as text because
# people compare it with price pages.
OPENAI = """
gpt-6-astra             10    1      12.5   25     50    922000   128000  272k  -
gpt-6.2-sol             2     0.1    2.5    5      10    922000   128000  272k  -
gpt-6.1-sol             2     0.1    2.5    5      10    922000   128000  272k  -
gpt-6-sol               2     0.2    2.5    5      10    922000   128000  272k  -
gpt-6-luna              0.1   0.01   0.125  0.25   0.5   922000   128000  272k  -
gpt-5.6-sol             4     0.4    5      10     20    922000   128000  272k  -
gpt-5.6-terra           2     0.2    2.5    5      12    922000   128000  272k  -
gpt-5.6-luna            0.2   0.02   0.25   0.5    1.2   922000   128000  272k  -
gpt-5.5                 5     0.5    -      -      30    922000   128000  272k  -
gpt-5.4                 2.5   0.25   -      -      15    922000   128000  272k  -
gpt-5.4-mini            0.75  0.075  -      -      4.5   272000   128000  -     -
gpt-5.4-nano            0.2   0.02   -      -      1.25  272000   128000  -     gpt-5.4-nano-2026-03-17
gpt-5-mini              0.25  0.025  -      -      2     272000   128000  -     gpt-5-mini-2025-08-07
gpt-5-nano              0.05  0.005  -      -      0.4   272000   128000  -     gpt-5-nano-2025-08-07
gpt-4.1                 2     0.5    -      -      8     1047576  32768   -     gpt-4.1-2025-04-14
gpt-4.1-mini            0.4   0.1    -      -      1.6   1047576  32768   -     gpt-4.1-mini-2025-04-14
gpt-4.1-nano            0.1   0.025  -      -      0.4   1047576  32768   -     gpt-4.1-nano-2025-04-14
gpt-4o                  2.5   1.25   -      -      10    128000   16384   -     gpt-4o-2024-08-06
gpt-4o-mini             0.15  0.075  -      -      0.6   128000   16384   -     gpt-4o-mini-2024-07-18
o3                      2     0.5    -      -      8     200000   100000  -     o3-2025-04-16
o4-mini                 1.1   0.275  -      -      4.4   200000   100000  -     o4-mini-2025-04-16
text-embedding-3-small  0.02  -      -      -      0     8191     0       -     -
text-embedding-3-large  0.13  -      -      -      0     8191     0       -     -
"""

ANTHROPIC = """
claude-fable-5-1   10   0.25  12.5   20   50   1000000  128000  -     -
claude-fable-5     10   1     12.5   20   50   1000000  128000  -     -
claude-opus-5-5    4    0.2   5      8    20   1000000  128000  -     -
claude-opus-5      5    0.5   6.25   10   25   1000000  128000  -     -
claude-opus-4-8    5    0.5   6.25   10   25   1000000  128000  -     -
claude-sonnet-5-5  2    0.1   2.5    4    10   1000000  128000  -     -
claude-sonnet-5    2    0.2   2.5    4    10   1000000  128000  -     -
claude-sonnet-4-6  3    0.3   3.75   6    15   1000000  64000   -     -
claude-haiku-5-5   0.1  0.01  0.125  0.2  0.5  1000000  128000  100k  -
claude-haiku-4-5   1    0.1   1.25   2    5    200000   64000   -     claude-haiku-4-5-20251001
"""

GOOGLE = """
gemini-3.8-flash        0.75  0.075  -  -  3.75  1048576  65536  -     -
gemini-3.7-flash        0.75  0.075  -  -  3.75  1048576  65536  -     -
gemini-3.6-flash        0.75  0.075  -  -  3.75  1048576  65536  -     -
gemini-3.5-flash        1.5   0.15   -  -  9     1048576  65536  -     -
gemini-3.5-flash-lite   0.3   0.03   -  -  2.5   1048576  65536  -     -
gemini-3.1-pro-preview  2     0.2    -  -  12    1048576  65536  200k  -
gemini-3.1-flash-lite   0.25  0.025  -  -  1.5   1048576  65536  -     -
gemini-2.5-pro          1.25  0.125  -  -  10    1048576  65536  200k  -
gemini-2.5-flash        0.3   0.03   -  -  2.5   1048576  65536  -     -
gemini-2.5-flash-lite   0.1   0.01   -  -  0.4   1048576  65536  -     -
gemini-embedding-001    0.15  -      -  -  0     2048     0      -     -
"""

# One whole request is dearer once its prompt, cached tokens included, passes
# so many tokens: (limit, factor of all input, factor of output).
BANDS = {
    "272k": (272000, Decimal(2), Decimal("1.5")),
    "200k": (200000, Decimal(2), Decimal("1.5")),
    "100k": (100000, Decimal(5), Decimal(5)),
}

# What a batch pays of each token class: (input, cached, written, written for
# longer, output).  Google takes nothing off what comes from its cache.
HALF, WHOLE = Decimal("0.5"), Decimal(1)
BATCH_FACTORS = {
    "openai": (HALF, HALF, HALF, HALF, HALF),
    "anthropic": (HALF, HALF, HALF, HALF, HALF),
    "google": (HALF, WHOLE, HALF, HALF, HALF),
}

MILLION = Decimal(1000000)


class Usage(NamedTuple):
    """Tokens of one reply: `input` includes cached and written ones, `written` those written for longer,
    `output` reasoning."""
    input: int = 0
    cached: int = 0
    written: int = 0
    output: int = 0
    reasoning: int = 0
    long_written: int = 0


class Model(NamedTuple):
    name: str
    provider: str
    input: Decimal
    cached: Decimal
    write: Decimal
    long_write: Decimal
    output: Decimal
    max_input: int
    max_output: int
    band: Optional[tuple]       # of BANDS
    snapshot: str


def _model(provider, line):
    name, inp, cached, write, long_write, out, max_in, max_out, band, snapshot = line.split()
    # A class without a price of its own is billed as plain input.
    price = lambda text: Decimal(inp if text == "-" else text)
    return Model(name, provider, Decimal(inp), price(cached), price(write), price(long_write), Decimal(out),
                 int(max_in), int(max_out), BANDS.get(band), name if snapshot == "-" else snapshot)


def _table(provider, text):
    return {model.name: model for model in (_model(provider, line) for line in text.split("\n") if line)}


MODELS = {**_table("openai", OPENAI), **_table("anthropic", ANTHROPIC), **_table("google", GOOGLE)}
DATE = re.compile(r"-(\d{4}-\d{2}-\d{2}|20\d{6})$")


def of(provider):
    """The models of one provider."""
    return [model for model in MODELS.values() if model.provider == provider]


def find(name) -> Optional[Model]:
    """The model of that name, also when it is asked for by a dated name."""
    return MODELS.get(name) or MODELS.get(DATE.sub("", name))


@functools.lru_cache(maxsize=None)
def _rates(model, batch, long_prompt):
    """USD per token of (input, cached, written, written for longer, output)."""
    rates = (model.input, model.cached, model.write, model.long_write, model.output)
    if long_prompt:
        _, dearer_input, dearer_output = model.band
        rates = (*(rate * dearer_input for rate in rates[:-1]), rates[-1] * dearer_output)
    if batch:
        rates = tuple(rate * factor for rate, factor in zip(rates, BATCH_FACTORS[model.provider]))
    return tuple(rate / MILLION for rate in rates)


def cost(name, usage, batch) -> Optional[Decimal]:
    """USD of one reply; None when the model's price is unknown."""
    model = find(name)
    if model is None:
        return None
    long_prompt = model.band is not None and usage.input > model.band[0]
    inp, cached, write, long_write, out = _rates(model, batch, long_prompt)
    fresh = usage.input - usage.cached - usage.written
    return (fresh * inp + usage.cached * cached + (usage.written - usage.long_written) * write
            + usage.long_written * long_write + usage.output * out)
