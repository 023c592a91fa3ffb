"""Tables in files, each written whole or not at all."""

import contextlib
import csv
import errno
import io
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from jaxsens.table.rows import ARROW_TYPES, COLUMNS, Table, Value, refuse

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = [
    "read_metadata",
    "read_rows",
    "read_table",
    "remove_leftovers",
    "try_lock",
    "whole_file",
    "write_atomically",
    "write_csv",
    "write_rows",
    "write_table",
]


# A temporary file that nobody has locked is left over, but for the moment between its creation and its lock.
_SECONDS_TO_LOCK = 1.0


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[IO[bytes]]:
    """A stream to a new file, whose name never stands for half of it; its folder is made if there is none.

    The bytes go to a temporary file beside it (`.name.*.tmp`), at the end to the disk (fsync), and then under
    the name (`os.replace`). A process killed on the way leaves at most the temporary file, which nothing
    reads and `remove_leftovers` removes.

    Raises:
        OSError: no room, no right to write there, and so on; its `filename` is never None.
    """
    path = Path(path)
    # Not tempfile: its files are closed to every other user, and keep that mode when they are renamed.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as stream:
            with contextlib.suppress(OSError):  # no locks there
                try_lock(stream.fileno())
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            os.replace(temporary, path)
    except OSError as error:
        # A full disk is told by `write`, which knows no names.
        error.filename = error.filename or str(path)
        raise
    finally:
        with contextlib.suppress(OSError):  # such as no right to look there, which is told already
            temporary.unlink(missing_ok=True)


def write_atomically(path: str | Path, data: bytes) -> Path:
    """Writes a file whole or not at all, as `whole_file` does; gives its path."""
    with whole_file(path) as stream:
        stream.write(data)
    return Path(path)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files and folders that killed processes left there."""
    for file in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):  # gone, or no locks to tell by
            if file.is_dir():
                shutil.rmtree(file)
                continue
            with file.open("rb") as stream:
                old = time.time() - file.stat().st_mtime > _SECONDS_TO_LOCK
                if old and try_lock(stream.fileno(), shared=True):
                    file.unlink()


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Locks an open file until it is closed or its process ends; False where another has it locked.

    Raises:
        OSError: the file system, or (ENOSYS) the operating system, has no such locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOSYS, "no file locks on this system")
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_table(table: Table, folder: str | Path) -> Path:
    """Writes `table.csv`, for people, then `table.parquet`, for `read_table`; gives the folder back."""
    folder = Path(folder)
    write_csv(table, folder / "table.csv")
    write_atomically(folder / "table.parquet", _to_parquet(table, {}))
    return folder


def write_csv(table: Table, path: str | Path) -> Path:
    """Writes one table as CSV, every number to the last bit; gives the path back."""
    return write_atomically(path, _to_csv(table))


def read_table(source: str | Path) -> Table:
    """The table in a folder (its `table.parquet`, else its `table.csv`), or in one file of either format.

    Parquet keeps every type. CSV keeps every number to the last bit, but the types of columns outside
    `COLUMNS` are guessed there: text that looks like numbers comes back as numbers.

    Raises:
        TableError: no such file, or one that is cut short, damaged, or of another format.
    """
    source = Path(source)
    if source.is_dir():
        parquet = source / "table.parquet"
        source = parquet if parquet.exists() or not (source / "table.csv").exists() else source / "table.csv"
    readers = {".parquet": read_rows, ".csv": _from_csv}
    if source.suffix not in readers:
        raise refuse(
            f"a file named {source.name}", "a folder, .parquet or .csv", "name the folder of the table"
        )
    return readers[source.suffix](source)


def write_rows(table: Table, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> Path:
    """Writes a finished cell's rows to one Parquet file, with texts (its config's hash) in the schema."""
    return write_atomically(path, _to_parquet(table, metadata or {}))


def read_rows(path: str | Path) -> Table:
    """The rows of one Parquet file; its pages' checksums are verified.

    Raises:
        TableError: no such file, or one that is cut short or damaged.
    """
    try:
        # Opened here, so that pyarrow maps no memory of a file that may be replaced meanwhile.
        read = pq.read_table(io.BytesIO(Path(path).read_bytes()), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    return Table(read.replace_schema_metadata(None))


def read_metadata(path: str | Path) -> dict[str, str]:
    """The texts stored by `write_rows`, without reading the rows. Raises TableError as `read_rows` does."""
    try:
        with Path(path).open("rb") as stream:
            stored = pq.read_schema(stream).metadata
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    return {key.decode(): value.decode() for key, value in (stored or {}).items()}


def _to_parquet(table: Table, metadata: Mapping[str, str]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table.arrow.replace_schema_metadata(dict(metadata)), sink, write_page_checksum=True)
    return sink.getvalue()


def _unreadable(path: str | Path, error: Exception) -> Exception:
    name = Path(path).name
    if isinstance(error, FileNotFoundError):
        return refuse(f"no file {path}", "a written table", "run the experiment first, or name its folder")
    reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
    return refuse(f"{name}, cut short or damaged ({reason})", "a whole file", "delete it and run again")


def _to_csv(table: Table) -> bytes:
    lines = [table.columns, *(row.values() for row in table.rows())]
    return "".join(",".join(map(_field, line)) + "\n" for line in lines).encode()


def _field(value: Value) -> str:
    """Text in quotes and the rest bare, so that None and "" differ; floats by repr, which is exact."""
    if value is None:
        return ""
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"'
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _from_csv(path: Path) -> Table:
    try:
        text = path.read_text(encoding="utf-8")
        names = next(csv.reader(io.StringIO(text, newline="")), [])
        if not names:
            return Table.from_rows([])
        read = pacsv.read_csv(
            io.BytesIO(text.encode()),
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        return Table(
            pa.Table.from_arrays([_parsed(name, read[name]) for name in read.column_names], names=names)
        )
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _parsed(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    if name in COLUMNS:
        return column.cast(ARROW_TYPES[COLUMNS[name]])
    if column.null_count == len(column):
        return pa.nulls(len(column))
    texts = set(column.drop_null().to_pylist())
    # The cast to bool would take 0 and 1 as well.
    guesses = [pa.bool_()] if texts <= {"true", "false"} else [pa.int64(), pa.float64()]
    for guess in guesses:
        try:
            return column.cast(guess)
        except pa.ArrowInvalid:
            continue
    return column
