"""Results as rows: one per cell and seed, a column per measure; their files; the manifest beside them."""

from jaxsens.table.counts import counts_to_text, text_to_counts
from jaxsens.table.files import (
    read_metadata,
    read_rows,
    read_table,
    write_atomically,
    write_csv,
    write_rows,
    write_table,
)
from jaxsens.table.manifest import config_hash, environment, read_manifest, to_plain, write_manifest
from jaxsens.table.numbers import image_to_text, numbers_to_text, text_to_image, text_to_numbers
from jaxsens.table.rows import COLUMNS, Table, TableError, Value, concatenate

__all__ = [
    "COLUMNS",
    "Table",
    "TableError",
    "Value",
    "concatenate",
    "config_hash",
    "counts_to_text",
    "environment",
    "image_to_text",
    "numbers_to_text",
    "read_manifest",
    "read_metadata",
    "read_rows",
    "read_table",
    "text_to_counts",
    "text_to_image",
    "text_to_numbers",
    "to_plain",
    "write_atomically",
    "write_csv",
    "write_manifest",
    "write_rows",
    "write_table",
]
