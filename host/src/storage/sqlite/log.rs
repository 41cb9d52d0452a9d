//! The request log in SQLite: a ring of the newest rows.

use std::fmt::Write as _;

use rusqlite::{Connection, Row, Rows, Statement, ToSql, Transaction, params};

use super::{Source, damaged, sql_limit, to_sql_int};
use crate::{
    secret::Digest,
    storage::{LogEntry, StorageResult},
};

/// The index by key is made of blocks of 2^14 rows. Part of the schema.
const BLOCK_BITS: u32 = 14;

const COLUMNS: &str = "request_id, at_ms, key_id, account, method, path, status, code, source, \
     policy, decision_us";

/// How many rows one statement inserts: to start and end a statement costs as
/// much as a row.
const ROWS_PER_INSERT: usize = 16;

/// Appends `entries` and deletes as many of the oldest rows as are more than
/// `max_rows`.
pub(super) fn append(
    transaction: &Transaction<'_>,
    entries: &[LogEntry],
    max_rows: u64,
) -> StorageResult<()> {
    let (blocks, rest) = entries.as_chunks::<ROWS_PER_INSERT>();
    if !blocks.is_empty() {
        let mut insert = transaction.prepare_cached(&insert_of(ROWS_PER_INSERT))?;
        for block in blocks {
            insert_rows(&mut insert, block)?;
        }
    }
    let mut insert = transaction.prepare_cached(&insert_of(1))?;
    for entry in rest {
        insert_rows(&mut insert, std::slice::from_ref(entry))?;
    }
    // Rows go away at the old end only, so that `seq` has no gaps and the bound
    // needs no count: with every batch go as many rows as came with it.
    transaction
        .prepare_cached(
            "DELETE FROM request_log WHERE seq <= (SELECT max(seq) FROM request_log) - ?1",
        )?
        .execute([to_sql_int(max_rows)])?;
    Ok(())
}

/// Returns the statement that inserts this many rows.
fn insert_of(rows: usize) -> String {
    let row = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    format!("INSERT INTO request_log ({COLUMNS}) VALUES {}", vec![row; rows].join(", "))
}

fn insert_rows(insert: &mut Statement<'_>, entries: &[LogEntry]) -> StorageResult<()> {
    let mut column = 0;
    let mut bind = |value: &dyn ToSql| {
        column += 1;
        insert.raw_bind_parameter(column, value)
    };
    let mut source = String::new();
    for entry in entries {
        source.clear();
        // Writing to a string does not fail.
        let _ = write!(source, "{}", entry.source);
        bind(&entry.request_id)?;
        bind(&to_sql_int(entry.at_ms))?;
        bind(&entry.key_id)?;
        bind(&entry.account)?;
        bind(&entry.method)?;
        bind(&entry.path)?;
        bind(&entry.status)?;
        bind(&entry.code)?;
        bind(&source)?;
        bind(&entry.policy.as_ref().map(|policy| &policy.as_bytes()[..]))?;
        bind(&entry.decision_us)?;
    }
    insert.raw_execute()?;
    Ok(())
}

/// Returns the newest rows, newest first. Newest is what was answered last.
pub(super) fn recent(
    connection: &mut Connection,
    key_id: Option<&str>,
    limit: usize,
) -> StorageResult<Vec<LogEntry>> {
    let mut entries = Vec::new();
    let Some(key_id) = key_id else {
        let mut statement = connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM request_log ORDER BY seq DESC LIMIT ?1"
        ))?;
        read_entries(statement.query([sql_limit(limit)])?, &mut entries)?;
        return Ok(entries);
    };

    // One view of all blocks: a batch that is written meanwhile is left out.
    let view = connection.transaction()?;
    let edge = |sql| -> StorageResult<Option<i64>> {
        Ok(view
            .prepare_cached(sql)?
            .query_row([], |row| row.get::<_, Option<i64>>(0))?
            .map(|seq| seq >> BLOCK_BITS))
    };
    let oldest = edge("SELECT min(seq) FROM request_log")?;
    let newest = edge("SELECT max(seq) FROM request_log")?;
    let (Some(oldest), Some(newest)) = (oldest, newest) else {
        return Ok(entries);
    };
    let mut statement = view.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM request_log WHERE seq >> {BLOCK_BITS} = ?1 AND key_id = ?2 \
         ORDER BY seq DESC LIMIT ?3"
    ))?;
    for block in (oldest..=newest).rev() {
        let missing = limit - entries.len();
        if missing == 0 {
            break;
        }
        let rows = statement.query(params![block, key_id, sql_limit(missing)])?;
        read_entries(rows, &mut entries)?;
    }
    Ok(entries)
}

fn read_entries(mut rows: Rows<'_>, entries: &mut Vec<LogEntry>) -> StorageResult<()> {
    while let Some(row) = rows.next()? {
        entries.push(read_entry(row).map_err(|err| damaged(row, err))?);
    }
    Ok(())
}

fn read_entry(row: &Row<'_>) -> Result<LogEntry, Source> {
    Ok(LogEntry {
        request_id: row.get(0)?,
        at_ms: row.get::<_, i64>(1)?.try_into()?,
        key_id: row.get(2)?,
        account: row.get(3)?,
        method: row.get(4)?,
        path: row.get(5)?,
        status: row.get(6)?,
        code: row.get(7)?,
        source: row.get::<_, String>(8)?.parse()?,
        policy: row.get::<_, Option<[u8; 32]>>(9)?.map(Digest::from_bytes),
        decision_us: row.get(10)?,
    })
}
