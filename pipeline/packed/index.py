"""The last two files of a packed dataset: index.parquet, made of the shards' side tables, and dataset.json."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.packed.card import card_bytes
from pipeline.packed.output_folder import replace_file
from pipeline.packed.shards import ShardJob, ShardResult, index_schema

ROW_GROUP = 16384  # rows of the index; bounds the memory that reading it takes


def write_index(
    out: Path, shards: Sequence[ShardResult], members: Sequence[str] = (), weighted: bool = False
) -> tuple[pa.Table, dict[str, Any]]:
    """index.parquet of all shards; the table, and what the card says of the file."""
    tables = [shard.table.replace_schema_metadata(None) for shard in shards]
    index = pa.concat_tables(tables).cast(index_schema(members, weighted)).combine_chunks()
    sink = pa.BufferOutputStream()
    pq.write_table(index, sink, compression="zstd", row_group_size=ROW_GROUP)
    data = sink.getvalue().to_pybytes()
    replace_file(out, "index.parquet", data)
    return index, {"file": "index.parquet", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def list_shards(jobs: Sequence[ShardJob], shards: Sequence[ShardResult]) -> list[dict[str, Any]]:
    return [
        {"file": job.tar.name, "bytes": shard.bytes, "images": len(shard.table), "sha256": shard.sha256}
        for job, shard in zip(jobs, shards, strict=True)
    ]


def write_card(out: Path, card: dict[str, Any]) -> None:
    """dataset.json: with it the dataset exists. Shards that an unfinished run over more images left are removed."""
    kept = {shard["file"] for shard in card["shards"]}
    for path in out.glob("shard-*.tar"):
        if path.name not in kept:
            path.unlink()
    replace_file(out, "dataset.json", card_bytes(card))
