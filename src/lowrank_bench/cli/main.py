"""`lowrank compress | evaluate | methods | store`."""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from lowrank_bench.cli import commands
from lowrank_bench.cli.evaluate import evaluate_network
from lowrank_bench.cli.steps import CLEAR
from lowrank_bench.cli.store import add_store
from lowrank_bench.errors import LowRankError, LowRankWarning

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; wrong input ends in one line on stderr and exit code 2.

    Exit code 1 says that something was found: damage in a store.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            _print_warnings(options.command)
            code: int | None = options.run(options)
    except LowRankError as error:
        print(f"lowrank {options.command}: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"lowrank {options.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code or 0


def _print_warnings(command: str) -> None:
    """Print a `LowRankWarning` as one line, like an error; others as Python does."""
    usual = warnings.showwarning
    warnings.simplefilter("always", LowRankWarning)

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """Print one warning."""
        if issubclass(category, LowRankWarning):
            begun = CLEAR if sys.stderr.isatty() else ""  # the line of a step, shown again soon
            print(f"{begun}lowrank {command}: warning: {message}", file=sys.stderr)
        else:
            usual(message, category, filename, lineno, file, line)

    warnings.showwarning = show


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lowrank", description="Compress neural networks by low-rank and robust factorization."
    )
    group = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_compress(group)
    _add_evaluate(group)
    listing = group.add_parser("methods", help="list all methods with their parameters")
    _add_methods_from(listing)
    listing.set_defaults(run=commands.list_methods)
    add_store(group)
    return parser


def _add_methods_from(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--methods-from",
        action="append",
        default=[],
        metavar="FOLDER",
        help="folder of further methods, one *.py file each; may be repeated",
    )


def _add_training_data(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="training text, one example per line, for methods that need token counts or inputs",
    )
    command.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="folder of training images, for methods that need the inputs of a CNN",
    )


def _add_compress(group: "Commands") -> None:
    command = group.add_parser(
        "compress",
        help="write a compressed copy of a network",
        description="Load a transformers network, compress it, and write it to a folder that "
        "`lowrank_bench.load` and `lowrank evaluate` can read.",
    )
    command.add_argument("model", metavar="MODEL", help="folder or hub repository of the network")
    command.add_argument(
        "out",
        metavar="OUT",
        type=Path,
        help="folder to write, new or empty; a network that this command wrote there is replaced",
    )
    command.add_argument("--method", default="lp", help="see `lowrank methods` (default: lp)")
    _add_methods_from(command)
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the method, such as p=1; may be repeated",
    )
    _add_size(command)
    _add_training_data(command)
    command.add_argument(
        "--target",
        default="embedding",
        help="layers to compress: embedding, linear (every linear layer and the embedding), or "
        "conv (every convolution and linear layer of a CNN)",
    )
    command.add_argument(
        "--budget",
        default="parameters",
        choices=["parameters", "macs", "latency", "bytes"],
        help="for whole networks: the cost that --compression reduces",
    )
    command.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="NAME",
        help="for whole networks: a layer, or a module with its layers, to leave as it is; "
        "* stands for any part; may be repeated",
    )
    command.add_argument(
        "--rest",
        default="as_is",
        choices=["as_is", "fp16"],
        help="for whole networks: store biases and all that the target leaves out in half "
        "precision (default: as it is)",
    )
    _add_certificate(command)
    command.add_argument("--layer", help="dotted name of the embedding, where there are several")
    command.add_argument("--revision", help="revision of a hub repository")
    _add_trust(command)
    command.set_defaults(run=commands.compress_network)


def _add_size(command: argparse.ArgumentParser) -> None:
    size = command.add_mutually_exclusive_group(required=True)
    size.add_argument(
        "--compression",
        type=float,
        metavar="C",
        help="share of the targeted layers' parameters to save, between 0 and 1",
    )
    size.add_argument(
        "--saved-bytes",
        type=float,
        metavar="C",
        help="share of bytes in float32 to save instead: of the table, or with --target linear or "
        "conv of the whole network, as its folder holds it without the tokenizer",
    )
    command.add_argument(
        "--quantize",
        metavar="BITS",
        help="with --saved-bytes: store the factors of the method in so many bits, 1 to 8 or 16; "
        "auto chooses rank and bits together; '{bits: 4, group: 32, scale: absmax}' says more",
    )


def _add_certificate(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--certificate",
        default=True,
        choices=["full"],
        help="for embeddings: the tightest bounds on how far the errors are from optimal, which "
        "take several times as long as the factors of a large table",
    )
    command.add_argument(
        "--no-certificate",
        dest="certificate",
        action="store_const",
        const=False,
        help="for embeddings: leave the errors, and their bounds, out of the report; saves time",
    )


def _add_evaluate(group: "Commands") -> None:
    command = group.add_parser(
        "evaluate",
        help="score a network, compressed or not, on a task",
        description="Predict on a task's evaluation splits and print its metrics in points.",
    )
    command.add_argument("model", metavar="MODEL", type=Path, help="folder of the network")
    command.add_argument("--task", required=True, help="name of a task in conf/task")
    command.add_argument(
        "--dense",
        metavar="MODEL",
        help="for tasks of similarity: folder or hub repository of the network before compression, "
        "whose sentence vectors are compared",
    )
    command.add_argument(
        "--prefix",
        metavar="TEXT",
        default="",
        help="for tasks of similarity: a text before each sentence, for encoders that were trained "
        "so, such as 'query: '",
    )
    command.add_argument("--conf", type=Path, default=Path("conf"), help="configuration folder")
    command.add_argument("--store", type=Path, default=Path("results/store"), help="artifact store")
    command.add_argument(
        "--max-length", type=int, default=128, help="most tokens of a row; the rest is cut"
    )
    command.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a configuration override, such as hub.revision=main; may be repeated",
    )
    _add_trust(command)
    command.set_defaults(run=evaluate_network)


def _add_trust(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run the code that comes with the network; read it first",
    )
