"""`jaxsens measure`: one network of yours, as a table or as JSON."""

import math

import jax

import jaxsens
from jaxsens.checks import refuse
from jaxsens.cli.data import load_data
from jaxsens.cli.given import as_checkpoint, given_errors, import_paths, load_function, open_model
from jaxsens.cli.options import Measure
from jaxsens.cli.printing import print_json, print_lines, print_note, print_table
from jaxsens.measuring import Untrained, measure
from jaxsens.measuring.selection import SETS

__all__ = ["run"]

# What fits into 80 columns; --json has all.
_COLUMNS = ("measure", "value", "error over", "better")


def run(options: Measure) -> int:
    """Measures the network and prints what came out; 1 where no number did."""
    with import_paths():
        checkpoint = None if options.checkpoint is None else as_checkpoint(options.checkpoint)
        function = load_function(options.model, show=options.traceback)
        model = open_model(function, options.model, checkpoint, show=options.traceback)
        if isinstance(model, Untrained):
            raise refuse(
                f"an architecture from {options.model}",
                "a trained network",
                "rank several by jaxsens compare",
            )
        f, params = model
        data = load_data(options)
        for note in data.notes:
            print_note(note)
        names = options.names(options.measures)
        with given_errors("", show=options.traceback):
            result = measure(
                f,
                params,
                data.xs,
                data.labels_for(names),
                key=jax.random.key(options.seed),
                measures=options.measures if options.measures in SETS else names,
                loss=options.loss,
                noise_std=options.noise_std,
                num_draws=options.num_draws,
                chunk_size=options.chunk_size,
                tangent_examples=options.tangent_examples,
                alpha=options.alpha,
                num_perturbations=options.num_perturbations,
            )
    if options.json:
        print_json(
            {"command": "measure", "jaxsens": jaxsens.__version__, "model": options.model}
            | {"checkpoint": None if checkpoint is None else str(checkpoint)}
            | {"data": data.facts, "seed": options.seed}
            | result.to_dict()
            | {"notes": [*data.notes, *result.notes]}
        )
    else:
        print_table(_COLUMNS, [[row[name] for name in _COLUMNS] for row in result.table_rows()])
        print_lines(["", *result.footnotes(), data.in_words(options.seed)])
    return 0 if any(math.isfinite(row.value) for row in result) else 1
