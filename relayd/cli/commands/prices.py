"""`relayd prices`: the prices of models: list them, or make a price file from a list of another program.

    list            every price of the configuration, with the models and upstreams for which it applies
    import FILE     a price file from LiteLLM's model_prices_and_context_window.json, or from the JSON of OpenRouter's
                    /api/v1/models; FILE is on this machine, nothing is downloaded

`import` writes to standard output, or with -o to a file. Prices that relayd cannot express (other prices of long
prompts, of audio, of web searches) are counted on standard error. `--model` selects the models.

Exit codes: 0 done, 1 failed (the reason is on standard error), 2 wrong usage, 78 the configuration has faults.
"""

from __future__ import annotations

import argparse
import json
import os

from relayd.cli.config_file import add_config_option, config_file, show
from relayd.cli.output import err, out, plain, table
from relayd.cli.price_lists import Amounts, PriceList, PriceListFault, price_file, read_price_list
from relayd.config.load import load
from relayd.config.prices import ModelPrice
from relayd.errors import ConfigError
from relayd.money import amount_text
from relayd.schema.files import FileFault, read_file
from relayd.wire.glob import Glob

HELP = "list the prices of models, or import them from LiteLLM or OpenRouter"
FILE_BYTES = 32 << 20
KEYS = ("input", "output", "cached_read", "cache_write", "reasoning", "request", "image")
SHOWN = 12


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", choices=("list", "import"),
        help="list: show the prices of the configuration; import: make a price file from a list of another program",
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="the list to import")
    add_config_option(parser, "the configuration whose prices are listed")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the price file to FILE")
    parser.add_argument("--force", action="store_true", help="replace an existing FILE")
    parser.add_argument(
        "--model", action="append", default=[], metavar="PATTERN",
        help="only models whose name matches, * for any text; may be given several times",
    )
    parser.add_argument(
        "--strip", action="append", default=[], metavar="PREFIX",
        help="remove this beginning of names, as gemini/; may be given several times",
    )
    parser.add_argument("--json", action="store_true", help="print the listed prices as JSON")


def run(arguments: argparse.Namespace) -> int:
    if (arguments.action == "import") != (arguments.file is not None):
        err("relayd prices: import needs a FILE, list has none")
        return 2
    return convert(arguments) if arguments.action == "import" else show_list(arguments)


# ---- import


def convert(arguments: argparse.Namespace) -> int:
    """Print or write the price file."""
    try:
        raw, _ = read_file(arguments.file, FILE_BYTES)
        prices = read_price_list(raw)
    except (FileFault, PriceListFault) as fault:
        err(f"relayd: {plain(arguments.file)} {fault}")
        return 1
    chosen = selected(prices, arguments.strip, arguments.model)
    if not chosen:
        err(f"relayd: {plain(arguments.file)}: no model matches {', '.join(arguments.model)}")
        return 1
    text = "\n".join(price_file(prices, chosen, os.path.basename(plain(arguments.file)))) + "\n"
    if arguments.output is None:
        out(text.rstrip("\n"))
    else:
        try:
            with open(arguments.output, "w" if arguments.force else "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            err(f"relayd: {plain(arguments.output)} exists; --force replaces it")
            return 1
        except OSError as fault:
            err(f"relayd: {plain(arguments.output)}: {fault.strerror}")
            return 1
    report(prices, len(chosen))
    return os.EX_OK


def selected(prices: PriceList, prefixes: list[str], patterns: list[str]) -> dict[str, Amounts]:
    """The models whose names match a pattern, without these prefixes. A model that has the name itself comes before one
    that gets it by a prefix."""
    globs = [Glob.of_model(pattern) for pattern in patterns]
    named: dict[str, Amounts] = {}
    for name, amounts in prices.models.items():
        prefix = next((one for one in prefixes if name.startswith(one) and name != one), "")
        if not prefix:
            named[name] = amounts
        else:
            named.setdefault(name.removeprefix(prefix), prices.models.get(name.removeprefix(prefix), amounts))
    return {
        name: amounts for name, amounts in named.items()
        if not globs or any(glob.match(name) is not None for glob in globs)
    }


def report(prices: PriceList, count: int) -> None:
    """Say on standard error what the price file contains, and what not."""
    err(f"{count} models of {prices.source}")
    for reason, number in prices.skipped.most_common():
        err(f"{number} models are left out: {reason}")
    for name, number in prices.ignored.most_common(SHOWN):
        err(f"{plain(name[:80])} of {number} models has no counterpart and is left out")
    if len(prices.ignored) > SHOWN:
        err(f"... and {len(prices.ignored) - SHOWN} further kinds of prices")


# ---- list


def show_list(arguments: argparse.Namespace) -> int:
    """Print the prices of the configuration."""
    path = config_file(arguments)
    try:
        section = load(path).config.prices
    except ConfigError as error:
        show(error.findings, path, arguments.config)
        return os.EX_CONFIG
    if section is None:
        err("relayd: the configuration has no prices")
        return 1
    rows = [("", name, price) for name, price in section.models.items()]
    for upstream, models in section.upstreams.items():
        rows += [(upstream, name, price) for name, price in models.items()]
    globs = [Glob.of_model(pattern) for pattern in arguments.model]
    rows = [row for row in rows if not globs or any(glob.match(row[1]) is not None for glob in globs)]
    if arguments.json:
        found = [{"upstream": upstream or None, "model": name, **amounts(price)} for upstream, name, price in rows]
        out(json.dumps({"currency": section.currency, "prices": found}, indent=2))
        return os.EX_OK
    heads = ("UPSTREAM", "MODEL", *(key.upper() for key in KEYS))
    lines = [(upstream or "*", plain(name), *cells(price)) for upstream, name, price in rows]
    for line in table([heads, *lines]):
        out(line)
    out(f"in {section.currency}; tokens per million, request and image each")
    return os.EX_OK


def amounts(price: ModelPrice) -> dict[str, str]:
    """The prices that are written, as decimal numbers."""
    return {key: amount_text(value) for key in KEYS if (value := getattr(price, key)) is not None}


def cells(price: ModelPrice) -> tuple[str, ...]:
    written = amounts(price)
    return tuple(written.get(key, "-") for key in KEYS)
