"""What FTS5 knows of its rows, as functions of SQL that answer in JSON."""

from __future__ import annotations

import json

import apsw


def occurrences(api: apsw.FTS5ExtensionApi, *_: object) -> str:
    """``[[[word, column, times], …], [length, …]]``: where the query's words stand in a row, and
    how many words its columns have."""
    found = [
        (word, column, len(offsets))
        for word in range(api.phrase_count)
        for column, offsets in enumerate(api.phrase_locations(word))
        if offsets
    ]
    return json.dumps([found, [api.column_size(i) for i in range(api.column_count)]])


def column_totals(api: apsw.FTS5ExtensionApi, *_: object) -> str:
    """``[words, …]``: how many each column has in all rows together."""
    return json.dumps([api.column_total_size(i) for i in range(api.column_count)])
