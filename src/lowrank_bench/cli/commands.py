"""The commands `lowrank methods` and `lowrank compress`."""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lowrank_bench.cli.out import advice, check_out, left_out, not_written
from lowrank_bench.cli.steps import Steps
from lowrank_bench.errors import LowRankError
from lowrank_bench.methods import make_method, method_class, method_names, register_folders
from lowrank_bench.methods.registry import origin_of
from lowrank_bench.problem import data_used

if TYPE_CHECKING:
    from lowrank_bench.compression.report import CompressionReport


def list_methods(options: Namespace) -> None:
    """Print every method with its parameters, its source, and the file of a plug-in."""
    register_folders(options.methods_from)
    for name in method_names():
        cls = method_class(name)
        print(f"{name}: {cls.title}")
        for key, field in cls.model_fields.items():
            text = f" - {field.description}" if field.description else ""
            print(f"    --set {key}={field.default}{text}")
        print(f"    source: {cls.source}")
        print(f"    uses: {data_used(make_method(name).needs)}")
        if place := origin_of(name):
            print(f"    defined in: {place}")


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """Return `NAME=VALUE` settings as parameters; values are read as YAML.

    Raises
    ------
    LowRankError
        When a setting has no `=`, or its value is not YAML.
    """
    params = {}
    for setting in settings:
        name, separator, value = setting.partition("=")
        if not separator or not name:
            raise LowRankError(f"--set {setting!r} is not NAME=VALUE; write --set p=1")
        try:
            params[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise LowRankError(f"--set {setting!r}: {value!r} is not a value") from None
    return params


def parse_precision(options: Namespace) -> Any:
    """Return the value of `--quantize`, read as YAML; None where it is left out.

    Raises
    ------
    LowRankError
        When it is not YAML, or the budget or the target does not go with it.
    """
    if any(setting.partition("=")[0] == "quantize" for setting in options.set):
        raise LowRankError("quantize is an option of its own; write --quantize BITS")
    if options.quantize is None:
        return None
    if options.target != "embedding":
        raise LowRankError(
            f"--quantize is for embeddings, not for the target {options.target!r}; leave it out"
        )
    if options.saved_bytes is None:
        raise LowRankError(
            "--quantize stores factors in few bits, which --compression does not count; give "
            "--saved-bytes instead"
        )
    try:
        value = yaml.safe_load(options.quantize)
    except yaml.YAMLError:
        value = None
    if value is None:
        raise LowRankError(
            f"--quantize {options.quantize!r} is not a precision; write 8, auto or "
            "'{bits: 4, group: 32}'"
        )
    return value


def compress_network(options: Namespace) -> None:
    """Load, compress and write a network, and print the report as JSON."""
    register_folders(options.methods_from)
    params = parse_settings(options.set)
    quantize = parse_precision(options)
    method = make_method(options.method, **params, quantize=quantize)
    texts = _texts(options, method.needs)
    _check_images(options, method.needs)
    _check_share(options)
    check_out(options.out)
    from lowrank_bench.artifact import save
    from lowrank_bench.cli.calibration import image_example
    from lowrank_bench.cli.load import load_network
    from lowrank_bench.compression.front import compress

    bounded = options.target == "embedding" and options.certificate is not False
    with Steps(4 if bounded else 3) as steps:
        steps.begin(f"load {options.model}")
        model, tokenizer = load_network(options.model, options.revision, options.trust_remote_code)
        small, report = compress(
            model,
            options.method,
            options.compression,
            target=options.target,
            saved_bytes=options.saved_bytes,
            quantize=quantize,
            layer=options.layer,
            tokenizer=tokenizer,
            texts=texts,
            example=image_example(model, options.model) if options.target == "conv" else None,
            batches=_batches(options, method.needs, model, tokenizer, texts),
            budget=options.budget,
            exclude=options.exclude,
            rest=options.rest,
            certificate=options.certificate,
            on_step=steps.begin,
            **params,
        )
        steps.begin(f"save to {options.out}")
        save(small, options.out)
        if tokenizer is not None:
            tokenizer.save_pretrained(options.out)
    _say_what_to_know(model, options, report)
    print(json.dumps(report.to_dict(), indent=2))


def _say_what_to_know(model: Any, options: Namespace, report: "CompressionReport") -> None:
    """Print on stderr what was left out or not written, and what would keep more."""
    folder = Path(getattr(model.config, "_name_or_path", "") or options.model)
    for line in (left_out(report), not_written(folder), advice(report)):
        if line:
            print(line, file=sys.stderr)


def _check_share(options: Namespace) -> None:
    """Refuse a budget that nothing can keep, before the network is read."""
    name = "--compression" if options.saved_bytes is None else "--saved-bytes"
    share = options.compression if options.saved_bytes is None else options.saved_bytes
    if not 0 < share < 1:
        raise LowRankError(f"{name} {share:g} is not between 0 and 1")


def _texts(options: Namespace, needs: tuple[str, ...]) -> list[str] | None:
    """Return the lines of the training text where the method needs them, else None."""
    if "fisher" in needs:
        raise LowRankError(
            f"{options.method} needs the Fisher information of a task, which the workflow computes;"
            " run an experiment with it, or call lowrank_bench.compress(..., fisher=...)"
        )
    if "labels" in needs:
        raise LowRankError(
            f"{options.method} needs labelled examples; run an experiment with it, or call "
            "lowrank_bench.compress(..., batches=...)"
        )
    wanted = "counts" in needs or ("inputs" in needs and options.target == "linear")
    if not wanted:
        if options.text is not None:
            raise LowRankError(
                f"{options.method} with these settings uses no text; leave out --text"
            )
        return None
    if options.text is None:
        raise LowRankError(f"{options.method} needs a training text; name one with --text")
    try:
        lines: list[str] = options.text.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise LowRankError(f"--text {options.text} is not UTF-8; convert it first") from None
    if not any(line.strip() for line in lines):
        raise LowRankError(f"--text {options.text} has no text in it")
    return lines


def _check_images(options: Namespace, needs: tuple[str, ...]) -> None:
    wanted = "inputs" in needs and options.target == "conv"
    if wanted and options.images is None:
        raise LowRankError(f"{options.method} needs training images; name a folder with --images")
    if not wanted and options.images is not None:
        raise LowRankError(
            f"{options.method} on {options.target} uses no images; leave out --images"
        )
    if options.images is not None and not options.images.is_dir():
        raise LowRankError(f"--images {options.images} is not a folder")


def _batches(
    options: Namespace, needs: tuple[str, ...], model: Any, tokenizer: Any, texts: Any
) -> Any:
    """Return calibration batches where a method for whole networks needs them, else None."""
    if "inputs" not in needs:
        return None
    from lowrank_bench.cli.calibration import image_batches, text_batches

    if options.target == "conv":
        return image_batches(options.images, model, options.model)
    if tokenizer is None:
        raise LowRankError(f"{options.model} has no tokenizer to encode --text with")
    return text_batches(texts, tokenizer)
