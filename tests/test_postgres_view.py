"""Damage in PostgreSQL: `verify` names the first bad event, and what is wrong with a table."""

from __future__ import annotations

from contextlib import closing
from typing import Any, cast

import psycopg
import pytest

from ledger import Ledger
from ledger.findings import first_bad
from tests import scripted
from tests.scripted import delta, feed, fill, says, snapshot

AT = "notification_id = 4"
DAMAGE: dict[str, tuple[str, str, int | None]] = {
    "state": (f"UPDATE stored_events SET state = set_byte(state, 20, 1) WHERE {AT}", "seal", 4),
    "topic": (f"UPDATE stored_events SET topic = 'BalanceSnapshot' WHERE {AT}", "seal", 4),
    "account": (f"UPDATE stored_events SET originator_id = 'scripted:x' WHERE {AT}", "missing", 4),
    "version": (f"UPDATE stored_events SET originator_version = 40 WHERE {AT}", "missing", 4),
    "an event": (f"DELETE FROM stored_events WHERE {AT}", "missing", 4),
    "a seal": (
        f"UPDATE stored_events SET seal = set_byte(seal, 0, 1 - get_byte(seal, 0) % 2) WHERE {AT}",
        "seal",
        4,
    ),
    "no seal": (f"UPDATE stored_events SET seal = NULL WHERE {AT}", "seal", 4),
    "a frame": ("UPDATE evidence SET payload = payload || 'x'::bytea WHERE ordinal = 3", "frame", 4),
    "no frame": ("DELETE FROM evidence WHERE ordinal = 3", "frame", 4),
    "another frame": (
        "INSERT INTO evidence (session, ordinal, payload) VALUES ('s9', 1, 'x')",
        "frame",
        None,
    ),
    "a key": ("UPDATE natural_keys SET key = 'fill:other' WHERE key LIKE 'fill:%'", "key", 4),
    "no key": ("DELETE FROM natural_keys WHERE key LIKE 'fill:%'", "key", 4),
    "another key": ("INSERT INTO natural_keys VALUES ('scripted:main', 0, 'fill:f77')", "key", None),
    "no constraint": ("ALTER TABLE natural_keys DROP CONSTRAINT natural_keys_pkey", "file", None),
    "a trigger": (
        "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER t BEFORE INSERT ON evidence FOR EACH ROW EXECUTE FUNCTION lose()",
        "file",
        None,
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_verify_names_the_first_bad_event(new_schema: str, what: str) -> None:
    sql, finding, place = DAMAGE[what]
    with Ledger(new_schema) as ledger:
        feed(
            ledger,
            says(snapshot(1, {"A": "1"})),
            says(delta(2, {"A": "2"})),
            says(fill("f1", 3, key="fill:f1")),
            says(delta(4, {})),
        )
        assert [] == list(ledger.verify([scripted.VENUE]))
        with closing(psycopg.connect(new_schema, autocommit=True)) as other:
            assert other.execute(cast("Any", sql)).rowcount in (-1, 1)
        found = list(ledger.verify([scripted.VENUE]))
        bad = first_bad(found) or found[0]
        assert (finding, place) == (bad.what, bad.version or bad.position), found


def test_a_table_of_somebody_else_in_the_same_schema_is_no_finding(new_schema: str) -> None:
    with Ledger(new_schema) as ledger:
        feed(ledger)
        with closing(psycopg.connect(new_schema, autocommit=True)) as other:
            other.execute("CREATE TABLE mine (a BIGINT PRIMARY KEY)")
            other.execute("CREATE INDEX mine_at ON stored_events (topic)")
        assert [] == list(ledger.verify())
