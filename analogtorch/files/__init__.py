"""Rules of all files of the library: they appear whole, carry checksums, are read within limits."""

from analogtorch.files.atomic import (
    check_writable,
    part_folder,
    remove_parts,
    sync_folder,
    write_atomically,
)
from analogtorch.files.checksum import checked, seal, sealed_bytes, signed
from analogtorch.files.code import digest_of, digests_of, importable, is_code, load_code
from analogtorch.files.folder import made
from analogtorch.files.lock import claimed, locked
from analogtorch.files.packed import packed, unpacked
from analogtorch.files.table import comma_separated, parquet
from analogtorch.files.text import (
    GivenTwice,
    expanded,
    parse_json,
    parse_yaml,
    read_object,
    variables,
    yaml_text,
)

__all__ = [
    "GivenTwice",
    "check_writable",
    "checked",
    "claimed",
    "comma_separated",
    "digest_of",
    "digests_of",
    "expanded",
    "importable",
    "is_code",
    "load_code",
    "locked",
    "made",
    "packed",
    "parquet",
    "parse_json",
    "parse_yaml",
    "part_folder",
    "read_object",
    "remove_parts",
    "seal",
    "sealed_bytes",
    "signed",
    "sync_folder",
    "unpacked",
    "variables",
    "write_atomically",
    "yaml_text",
]
