"""Tables in files, each written whole or not at all."""

import csv
import io
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from jaxsens.table.rows import ARROW_TYPES, COLUMNS, Table, Value, refuse

__all__ = [
    "read_metadata",
    "read_rows",
    "read_table",
    "write_atomically",
    "write_csv",
    "write_rows",
    "write_table",
]


def write_atomically(path: str | Path, data: bytes) -> Path:
    """Writes a file so that its name never stands for half of it, and makes the folder if there is none.

    The bytes go to a temporary file beside it (`.name.*.tmp`), to the disk (fsync), and then under the name
    (`os.replace`). A process killed on the way leaves at most the temporary file, which nothing reads.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are closed to every other user, and keep that mode when they are renamed.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


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
