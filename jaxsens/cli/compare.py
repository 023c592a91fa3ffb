"""`jaxsens compare`: checkpoints, networks or architectures of yours, ranked."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

import jaxsens
from jaxsens.checks import refuse
from jaxsens.cli.data import load_data
from jaxsens.cli.given import Checkpoint, as_checkpoint, given_errors, import_paths, load_function, open_model
from jaxsens.cli.options import Compare
from jaxsens.cli.printing import print_json, print_lines, print_note, print_table
from jaxsens.measuring import Comparison, Ranked, compare

__all__ = ["distinguishing_names", "run"]

# Of the models that cannot be told from one, in the table; --json has all.
_SHOWN_NAMES = 3


class _Target(NamedTuple):
    """A model to be made: by which function, of which checkpoint."""

    function: str
    checkpoint: Checkpoint | None


class _Progress:
    """A bar on a terminal, a line a model elsewhere, both on stderr; and which model is at work."""

    def __init__(self, count: int):
        from tqdm import tqdm

        self.terminal, self.count, self.done, self.model = sys.stderr.isatty(), count, 0, ""
        self.bar = tqdm(total=count, unit="model", disable=not self.terminal, file=sys.stderr)
        self.began = time.monotonic()

    def watch(self, stage: str, model: str) -> None:
        """A model begins; the one before it is done."""
        self.model = model
        if stage != "measuring":
            return
        self.bar.set_postfix_str(model)
        self.bar.update(self.done - self.bar.n)
        self.done += 1
        if not self.terminal:
            seconds = time.monotonic() - self.began
            print(
                f"measuring {model}, {self.done} of {self.count}, after {seconds:.0f} s",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        """Leaves the terminal as it was."""
        self.bar.close()


def run(options: Compare) -> int:
    """Ranks the models and prints what the data tell; 1 where fewer than two could be ranked."""
    targets = _targets(options)
    with import_paths():
        models = _open(targets, show=options.traceback)
        data = load_data(options)
        for note in data.notes:
            print_note(note)
        also = options.names(options.also)
        progress = _Progress(len(models))
        try:
            with given_errors(lambda: progress.model, show=options.traceback):
                result = compare(
                    models,
                    data.xs,
                    data.labels_for((options.by or "", *also)),
                    key=jax.random.key(options.seed),
                    by=options.by,
                    also=also,
                    confidence=options.confidence,
                    num_seeds=options.num_seeds,
                    loss=options.loss,
                    noise_std=options.noise_std,
                    num_draws=options.num_draws,
                    chunk_size=options.chunk_size,
                    tangent_examples=options.tangent_examples,
                    alpha=options.alpha,
                    num_perturbations=options.num_perturbations,
                    watch=progress.watch,
                )
            progress.bar.update(1)  # the last one
        finally:
            progress.close()
    if options.json:
        given = {
            name: {
                "model": target.function,
                "checkpoint": None if target.checkpoint is None else str(target.checkpoint),
            }
            for name, target in targets.items()
        }
        print_json(
            {"command": "compare", "jaxsens": jaxsens.__version__, "given": given}
            | {"data": data.facts, "seed": options.seed}
            | result.to_dict()
            | {"notes": [*data.notes, *result.notes]}
        )
    else:
        _print(result)
        print_lines([data.in_words(options.seed)])
    return 0 if sum(row.best_rank is not None for row in result) > 1 else 1


def distinguishing_names(paths: Sequence[str]) -> list[str]:
    """What differs in paths: runs/a/best.npz and runs/b/best.npz are a and b, a.npz and b.npz as well."""
    parts = [path.rstrip("/").split("/") for path in paths]
    most = min(map(len, parts)) - 1
    start = _in_common([words[:most] for words in parts])
    end = _in_common([words[::-1][: most - start] for words in parts])
    names = ["/".join(words[start : len(words) - end]) for words in parts]
    suffixes = {name[name.rfind(".") :] if "." in name[1:] else "" for name in names}
    if end == 0 and len(suffixes) == 1 and not (suffix := suffixes.pop())[1:].isdigit():
        names = [name.removesuffix(suffix) for name in names]
    return names if len(set(names)) == len(names) else list(paths)


def _in_common(lists: Sequence[Sequence[str]]) -> int:
    """With how many equal entries all begin."""
    alike = (len(set(entries)) == 1 for entries in zip(*lists, strict=False))
    count = 0
    for same in alike:
        if not same:
            break
        count += 1
    return count


def _targets(options: Compare) -> dict[str, _Target]:
    """Each model's name, and how it is made."""
    if options.checkpoints:
        if len(options.models) != 1 or "@" in options.models[0]:
            raise refuse(
                f"--checkpoints with {' '.join(options.models)}",
                "one MODULE:FUNCTION for all",
                "write others as NAME=MODULE:FUNCTION@CHECKPOINT",
            )
        names = distinguishing_names(options.checkpoints)
        given = [
            (name, _Target(options.models[0], as_checkpoint(path)))
            for name, path in zip(names, options.checkpoints, strict=True)
        ]
    else:
        given = [_parse(text) for text in options.models]
    repeated = sorted({name for name, _ in given if [other for other, _ in given].count(name) > 1})
    if repeated:
        raise refuse(f"{', '.join(repeated)} twice", "each model once", "give each a name of its own")
    return dict(given)


def _parse(text: str) -> tuple[str, _Target]:
    """`[NAME=]MODULE:FUNCTION[@CHECKPOINT]`; without a name the whole is the name."""
    before, equals, after = text.partition("=")
    named = bool(equals) and not set(":@") & set(before)
    name, rest = (before, after) if named else (text, text)
    function, at, checkpoint = rest.partition("@")
    return name, _Target(function, as_checkpoint(checkpoint) if at else None)


def _open(targets: dict[str, _Target], *, show: bool) -> dict[str, Any]:
    """All models, before any is measured. A function is looked up once, so that models share programs."""
    functions: dict[str, Callable[..., Any]] = {}
    models = {}
    for name, target in targets.items():
        if target.function not in functions:
            functions[target.function] = load_function(target.function, show=show)
        with given_errors(name, show=show):
            models[name] = open_model(
                functions[target.function], target.function, target.checkpoint, show=show
            )
    return models


def _print(result: Comparison) -> None:
    """The ranking with each model's interval against the first, then the conclusions."""
    contrast = "times the first" if result.by.ratio else "less the first"
    shown = []
    for row, texts in zip(result, result.table_rows(), strict=True):
        shown.append(
            [texts["rank"], texts["model"], texts[result.by.name], _against(result, row), _ties(row)]
            + [texts[name] for name in row.also]
        )
    print_table(("rank", "model", result.by.name, contrast, "not told from", *result.rows[0].also), shown)
    print_lines(["", *result.footnotes()])


def _against(result: Comparison, row: Ranked) -> str:
    """Its value over, or less, that of the model of the first row, with the interval."""
    for pair in result.pairs:
        if (pair.first, pair.second) == (result.rows[0].name, row.name):
            if not math.isfinite(pair.contrast) or pair.low == pair.high:
                return f"{pair.contrast:#.3g}"
            return f"{pair.contrast:#.3g} ({pair.low:#.3g} to {pair.high:#.3g})"
    return ""


def _ties(row: Ranked) -> str:
    more = len(row.tied_with) - _SHOWN_NAMES
    return ", ".join(row.tied_with[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
