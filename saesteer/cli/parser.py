"""Every command and option in one place; nothing here imports torch."""

from __future__ import annotations

import argparse

from saesteer.cli.commands import SAE_HELP, count_option
from saesteer.cli.commands import Parser as _Parser
from saesteer.cli.commands import command as _command
from saesteer.cli.commands import group as _group
from saesteer.cli.commands import later as _later
from saesteer.cli.commands import model_option as _model
from saesteer.cli.commands import out_option as _out
from saesteer.cli.commands import text_option as _text
from saesteer.cli.concept_parser import concept_commands
from saesteer.cli.learn_parser import learn_command
from saesteer.cli.localizers import LOCALIZERS
from saesteer.cli.sae_parser import sae_commands
from saesteer.cli.steer_parser import (
    bench_methods,
    bench_steer,
    plan_commands,
    steer_commands,
    tune_command,
)

_ARCHS = ("topk", "batchtopk", "matryoshka")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole program."""
    from saesteer import __version__

    parser = _Parser(
        prog="saesteer",
        description="Steer language models by the features of sparse autoencoders.",
        epilog="First steps: saesteer quickstart",
    )
    parser.add_argument("--version", action="version", version=f"saesteer {__version__}")
    nouns = parser.add_subparsers(dest="noun", metavar="COMMAND", required=True)
    _quickstart(nouns)
    _train(nouns)
    sae_commands(nouns)
    _features(nouns)
    concept_commands(nouns)
    _rules(nouns)
    _methods(nouns)
    _localize(nouns)
    _compare(nouns)
    plan_commands(nouns)
    steer_commands(nouns)
    tune_command(nouns)
    _bench(nouns)
    return parser


def _quickstart(nouns: argparse._SubParsersAction[_Parser]) -> None:
    parser = _command(
        nouns,
        "quickstart",
        _later("compare", "quickstart"),
        "See a real model steered by feature, rule and dense vector, on one page.",
    )
    _out(parser, "quickstart")


def _train(nouns: argparse._SubParsersAction[_Parser]) -> None:
    verbs = _group(nouns, "train", "Train something.")
    sae = _command(verbs, "sae", _later("train", "train_sae"), "Train a sparse autoencoder.")
    cost = _command(
        verbs, "estimate", _later("train", "estimate"), "What a run costs, before it is started."
    )
    sweep = _command(
        verbs, "sweep", _later("train", "sweep"), "Train a grid of SAEs from one stream."
    )
    method = _command(
        verbs, "method", _later("train", "train_method"), "Train a learned method of steering."
    )
    controller = _command(
        verbs, "controller", _later("train", "train_method"), "Train the method Controller."
    )
    controller.set_defaults(only="Controller")
    for parser in (sae, cost, sweep, method, controller):
        example = "train/controller" if parser in (method, controller) else "sae/smollm2-135m"
        parser.add_argument("config", help=f"YAML file, such as configs/{example}.yaml")
        parser.add_argument(
            "overrides", nargs="*", metavar="key.path=value", help="change settings"
        )
    for parser in (sae, sweep, method, controller):
        _out(parser)
        parser.add_argument(
            "--resume", action="store_true", help="go on from the last checkpoint in DIR"
        )
    sweep.add_argument(
        "--grid",
        nargs="+",
        action="extend",
        metavar="key=value,value",
        help="what the SAEs differ in; other settings go before it. Default: k and d_sae at half, "
        "once and twice the config's",
    )
    _text(sweep, default="built-in prose", told="held-out text")
    count_option(cost, "--tokens", None, "instead of the config's n_tokens")
    count_option(cost, "--gpus", None, "cards, instead of this machine")
    cost.add_argument("--gpu", default="h100", help="which card (default h100)")


def _features(nouns: argparse._SubParsersAction[_Parser]) -> None:
    verbs = _group(nouns, "features", "Look at what the model represents.")
    top = _command(
        verbs, "top", _later("features", "top"), "Which features fire on a text, and where."
    )
    top.add_argument("sae", help=SAE_HELP)
    top.add_argument("--text", required=True, help="the text itself, not a file")
    find = _command(
        verbs, "find", _later("features", "find"), "Rank features by a set of contrasting texts."
    )
    find.add_argument("sae", help=SAE_HELP)
    find.add_argument(
        "--contrast", required=True, metavar="FILE", help="JSON lines, or a built-in name"
    )
    count_option(find, "--effects", 5, "measure the steering effect of the N best", least=0)
    show = _command(verbs, "show", _later("features", "show"), "Everything about one feature.")
    show.add_argument("sae", help=SAE_HELP)
    show.add_argument("feature", type=int)
    _text(show, 100_000, default="built-in prose", told="where to look for passages")
    attribute = _command(
        verbs, "attribute", _later("features", "attribute"), "Which features make the next token."
    )
    attribute.add_argument("sae", help=SAE_HELP)
    attribute.add_argument("--prompt", required=True)
    attribute.add_argument("--token", help="the next token to explain; default: the likeliest")
    count_option(attribute, "--last", None, "positions to look at, from the end; default: all")
    told = "also ablate each of the N largest, a pass each"
    count_option(attribute, "--ablations", 0, told, least=0)
    for parser in (top, find, show, attribute):
        _model(parser)
        count_option(parser, "--top", 10, "how many")


def _rules(nouns: argparse._SubParsersAction[_Parser]) -> None:
    verbs = _group(nouns, "rules", "Check and run rules over concepts.")
    check = _command(
        verbs, "check", _later("rules", "check"), "Read a rule file and say what is wrong."
    )
    explain = _command(
        verbs,
        "explain",
        _later("rules", "explain"),
        "What a prompt makes the rules conclude, and why.",
    )
    whatif = _command(
        verbs, "whatif", _later("rules", "whatif"), "The same with concepts forced on or off."
    )
    for name, told in (("--on", "hold everywhere"), ("--off", "hold nowhere")):
        whatif.add_argument(
            name, nargs="+", action="extend", default=[], metavar="CONCEPT", help=told
        )
    explain.add_argument("--html", metavar="FILE", help="draw every conclusion's proof")
    for parser in (explain, whatif):
        parser.add_argument("--prompt", required=True)
        count_option(parser, "--max-new-tokens", 40)
    learn_command(verbs)
    for parser in (check, explain, whatif):
        parser.add_argument("rules", help="YAML file, such as configs/rules/mood.yaml")
        parser.add_argument("--sae", help=SAE_HELP + "; default: the one the file names")
        _model(parser)


def _methods(nouns: argparse._SubParsersAction[_Parser]) -> None:
    verbs = _group(nouns, "methods", "The methods of steering.")
    _command(
        verbs, "list", _later("methods", "list_all"), "Their names in configs, sources and needs."
    )


def _localize(nouns: argparse._SubParsersAction[_Parser]) -> None:
    help_text = "Rank sites, heads, neurons or features by what they do for a contrast."
    parser = _command(nouns, "localize", _later("localize", "rank"), help_text)
    parser.add_argument("method", help="; ".join(f"{k}: {v.about}" for k, v in LOCALIZERS.items()))
    parser.add_argument("contrast", help="JSONL file or built-in; patching needs prompts that swap")
    parser.add_argument("--model", help="language model; default: smollm2-135m-instruct")
    parser.add_argument("--sae", help=SAE_HELP + ", for nodes")
    parser.add_argument(
        "--kind",
        nargs="+",
        action="extend",
        metavar="KIND",
        help="sites, such as head_out mlp_out",
    )
    parser.add_argument("--by", help="position, site, or unit where a gradient is read")
    count_option(parser, "--top", 20, "how many")


def _compare(nouns: argparse._SubParsersAction[_Parser]) -> None:
    parser = _command(
        nouns, "compare", _later("compare", "compare"), "Compare methods of steering on a task."
    )
    parser.add_argument("config", help="YAML file, such as configs/compare/sentiment.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="change settings")
    _out(parser)


def _bench(nouns: argparse._SubParsersAction[_Parser]) -> None:
    verbs = _group(nouns, "bench", "Measure against other libraries (needs a source tree).")

    def add(
        name: str, benchmark: str, help_text: str, shape: str | None, rounds: int = 5
    ) -> _Parser:
        parser = _command(verbs, name, _later("bench", "run"), help_text)
        parser.set_defaults(benchmark=benchmark)
        count_option(parser, "--rounds", rounds)
        parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
        count_option(parser, "--k", 32)
        if shape:
            parser.add_argument("--shape", default=shape, help=f"default {shape}")
            count_option(parser, "--batch", 4096)
            parser.add_argument("--against", choices=("sae-lens",), default="sae-lens")
        return parser

    _bench_train(add("train", "step", "One training step.", "768x24576"))
    memory = add("memory", "step:memory", "Peak memory of a step.", "768x24576")
    memory.add_argument("--arch", choices=_ARCHS, default="topk")
    memory.set_defaults(tuned=False)
    variance = add("variance", "variance", "What many steps explain.", "768x24576")
    count_option(variance, "--steps", 2000)
    variance.add_argument("--arch", choices=_ARCHS, default="topk")
    add("buffer", "buffer", "The shuffle buffer.", "131072x768")
    multi = add("multi", "multi", "Several SAEs from one pass against runs of their own.", None)
    count_option(multi, "--n", 8, "SAEs")
    count_option(multi, "--d-sae", 2048, "latents of each")
    cost = add("estimate", "estimate", "What `train estimate` says against a run.", None)
    count_option(cost, "--d-sae", 8192, "latents")
    bench_steer(verbs)
    bench_methods(verbs)
    control = add("control", "control", "Methods that own the loop, against recomputing.", None)
    count_option(control, "--tokens", 256, "new tokens")
    control.add_argument("--model", default="smollm2-135m-instruct")
    rules = add("rules", "rules", "The rule engine against a loop and clingo.", None, rounds=40)
    count_option(rules, "--threads", 2)
    count_option(rules, "--steps", 250, "decoding steps", least=0, more="; 0: none")
    for parser in (multi, cost):
        parser.add_argument("--model", default="smollm2-135m-instruct")
        parser.add_argument("--site", default="resid_post.9")


def _bench_train(parser: _Parser) -> None:
    """What `bench train` alone can be asked for."""
    count_option(parser, "--steps", 50, "steps whose losses are compared")
    parser.add_argument("--arch", choices=_ARCHS, default="topk")
    parser.add_argument(
        "--end-to-end",
        action="store_true",
        help="the whole trainer on smollm2-135m-instruct; of --shape only the second number counts "
        "(8192 where none is given)",
    )
    parser.add_argument(
        "--text",
        metavar="PATH",
        nargs="+",
        action="extend",
        help="for --end-to-end; default: prose",
    )
    parser.add_argument("--field", help="key of the text in JSON records")
    tuned = "sae-lens with autocast, compile, TF32"
    parser.add_argument("--tuned", action="store_true", help=tuned)
    parser.set_defaults(shape=None)
