"""How commands are put together; nothing here imports torch."""

from __future__ import annotations

import argparse
import importlib
import math
import sys
from collections.abc import Callable
from typing import Any, NoReturn

Run = Callable[[argparse.Namespace], int | None]

SAE_HELP = "a folder, RELEASE:ID of a published one, or smollm2-135m-instruct/resid_post.9"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        print(f"{self.prog}: {message}; see {self.prog} --help.", file=sys.stderr)
        raise SystemExit(2)


class Extend(argparse._ExtendAction):
    """`extend` for an option with a default: what is given takes its place, then adds up."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Add the values of one more use."""
        if getattr(namespace, self.dest) is self.default:
            setattr(namespace, self.dest, None)
        super().__call__(parser, namespace, values, option_string)


def positive_int(text: str) -> int:
    """The type of an option that counts something of which there must be one at least."""
    return _at_least(1, text)


def whole_number(text: str) -> int:
    """The type of an option that counts something, where 0 is none of it."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number.is_integer() or number < least:
        raise argparse.ArgumentTypeError(f"give a whole number of {least} or more, got {text!r}")
    return int(number)


def later(module: str, function: str) -> Run:
    """A command whose module is imported only when it runs."""

    def run(args: argparse.Namespace) -> int | None:
        return getattr(importlib.import_module(f"saesteer.cli.{module}"), function)(args)

    return run


def command(
    verbs: argparse._SubParsersAction[Parser], name: str, run: Run, help_text: str
) -> Parser:
    """A command with the options that all have."""
    parser = verbs.add_parser(name, help=help_text, description=help_text)
    parser.set_defaults(run=run)
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON")
    parser.add_argument("--device", help="cuda, mps or cpu; default: the best one present")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser


def group(
    nouns: argparse._SubParsersAction[Parser], name: str, help_text: str
) -> argparse._SubParsersAction[Parser]:
    """A noun, whose verbs are commands."""
    parser = nouns.add_parser(name, help=help_text, description=help_text)
    return parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)


def out_option(parser: Parser, default: str | None = None) -> None:
    """`--out DIR`, required where there is no default."""
    parser.add_argument(
        "--out",
        type=_named,
        metavar="DIR",
        default=default,
        required=default is None,
        help="folder for the results" + (f" (default {default})" if default else ""),
    )


def _named(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("an empty name is no folder; '.' is the current one")
    return text


def count_option(
    parser: Parser,
    name: str,
    default: int | None,
    told: str = "",
    *,
    least: int = 1,
    more: str = "",
) -> None:
    """An option that counts something; its help ends in the default.

    Args:
        least: 1, or 0 where none of it may be asked for.
        more: said behind the default.
    """
    said = "" if default is None else f"default {default}"
    parser.add_argument(
        name,
        type=positive_int if least else whole_number,
        default=default,
        metavar="N",
        help=(f"{told} ({said})" if told and said else told or said) + more,
    )


def model_option(parser: Parser) -> None:
    """`--model`."""
    parser.add_argument("--model", help="language model; default: the one the SAE was made for")


def text_option(
    parser: Parser,
    max_tokens: int = 20_000,
    share: str = " in all, shared by the paths",
    default: str | None = None,
    told: str = "files, folders or data set names",
) -> None:
    """`--text PATH ...`, `--field` and `--max-tokens`.

    Args:
        share: said behind the number of tokens: whether it is in all or of each path.
        default: what is read without `--text`; None where it is required.
    """
    parser.add_argument(
        "--text",
        metavar="PATH",
        nargs="+",
        action="extend",
        required=default is None,
        help=told + (f"; default: {default}" if default else ""),
    )
    parser.add_argument("--field", help="key of the text in JSON records")
    count_option(parser, "--max-tokens", max_tokens, more=share)
