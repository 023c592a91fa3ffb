"""`python -m jaxsens.data prepare NAME --data-dir DIR`: fetch an image set, once, for `load` to read."""

import argparse
import sys
from collections.abc import Sequence

from jaxsens.checks import InputError
from jaxsens.data.archives import RECIPES
from jaxsens.data.prepare import prepare


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, or 2 after an error said in one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m jaxsens.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("prepare", help="fetch the published archive and write the prepared folder")
    fetch.add_argument("name", choices=sorted(RECIPES), metavar="NAME", help=", ".join(sorted(RECIPES)))
    fetch.add_argument("--data-dir", help="default: TFDS_DATA_DIR, else ~/tensorflow_datasets")
    fetch.add_argument("--url", help="a mirror's folder, or the archive itself")
    fetch.add_argument(
        "--checksum",
        action="append",
        default=[],
        metavar="SHA256",
        help="where a mirror's file differs from the published one; once for each file, in their order",
    )
    options = parser.parse_args(argv)
    try:
        path = prepare(options.name, data_dir=options.data_dir, url=options.url, checksums=options.checksum)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
