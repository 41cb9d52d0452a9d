//! The request log in SQLite: a ring of the newest rows.

use rusqlite::{Connection, Row, Rows, Statement, ToSql, Transaction};

use super::{Source, damaged, sql_limit, to_sql_int};
use crate::{
    address_text::AddressText,
    secret::Digest,
    storage::{LogEntry, LogFilter, Mode, StorageResult},
};

/// The index by key is made of blocks of 2^14 rows. Part of the schema.
const BLOCK_BITS: u32 = 14;

const COLUMNS: &str = "request_id, at_ms, key_id, account, method, path, status, code, source, \
     policy, decision_us";

/// How many columns those are: the position comes behind them.
const COLUMN_COUNT: usize = 11;

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
///
/// `OR FAIL`: a row that fails takes the whole transaction with it, in which the
/// statement is. To undo the statement alone, SQLite would keep a copy of each page that
/// it changes.
fn insert_of(rows: usize) -> String {
    let row = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    format!("INSERT OR FAIL INTO request_log ({COLUMNS}) VALUES {}", vec![row; rows].join(", "))
}

fn insert_rows(insert: &mut Statement<'_>, entries: &[LogEntry]) -> StorageResult<()> {
    let mut column = 0;
    let mut bind = |value: &dyn ToSql| {
        column += 1;
        insert.raw_bind_parameter(column, value)
    };
    for entry in entries {
        bind(&entry.request_id)?;
        bind(&to_sql_int(entry.at_ms))?;
        bind(&entry.key_id)?;
        bind(&entry.account)?;
        bind(&entry.method)?;
        bind(&entry.path)?;
        bind(&entry.status)?;
        bind(&entry.code)?;
        bind(&AddressText::new(entry.source).as_str())?;
        match (&entry.policy, &*entry.overlays) {
            (None, _) => bind(&None::<&[u8]>)?,
            (Some(policy), []) => bind(&&policy.as_bytes()[..])?,
            (Some(policy), overlays) => {
                let all = std::iter::once(policy).chain(overlays);
                bind(&all.flat_map(Digest::as_bytes).copied().collect::<Vec<u8>>())?;
            }
        }
        bind(&entry.decision_us)?;
    }
    insert.raw_execute()?;
    Ok(())
}

/// Deletes at most `limit` of the oldest rows that came before this time. Returns
/// how many.
///
/// Stops at the first row that came later, so that rows go away at the old end
/// only. A row is appended when its request was answered: one that came before
/// and was answered behind that row goes with a later call.
pub(super) fn drop_old(
    transaction: &Transaction<'_>,
    before_ms: u64,
    limit: u64,
) -> StorageResult<u64> {
    let oldest: Option<i64> = transaction
        .prepare_cached("SELECT min(seq) FROM request_log")?
        .query_row([], |row| row.get(0))?;
    let Some(oldest) = oldest else {
        return Ok(0);
    };
    let dropped = transaction
        .prepare_cached(
            "DELETE FROM request_log WHERE seq < ifnull((SELECT seq FROM request_log \
             WHERE seq < ?1 AND at_ms >= ?2 ORDER BY seq LIMIT 1), ?1)",
        )?
        .execute([oldest.saturating_add(to_sql_int(limit)), to_sql_int(before_ms)])?;
    Ok(dropped as u64)
}

/// Returns rows with their positions, newest first. Newest is what was answered
/// last.
///
/// By key, asks the index: 2 ms. Otherwise looks at row after row until there are
/// enough: a page of what is common takes a millisecond, and what does not occur
/// at all 70 ms for the 1 000 000 rows that the log may have. With a mode that
/// none of them has it is 2 s, as each row's key is looked up.
pub(super) fn find(
    connection: &mut Connection,
    filter: &LogFilter,
) -> StorageResult<Vec<(u64, LogEntry)>> {
    let before = to_sql_int(filter.before.unwrap_or(u64::MAX));
    let mode = filter.mode.map(Mode::as_str);
    let from_ms = filter.from_ms.map(to_sql_int);
    let until_ms = filter.until_ms.map(to_sql_int);
    // Only what is asked for.
    let mut conditions = vec!["seq < ?"];
    let mut values: Vec<&dyn ToSql> = vec![&before];
    // Its keys are looked up once for all rows: an account has few.
    if let Some(account) = &filter.account {
        conditions.push("(account = ? OR key_id IN (SELECT id FROM keys WHERE account = ?))");
        values.extend_from_slice(&[account, account]);
    }
    let mut only = |condition, value| {
        conditions.push(condition);
        values.push(value);
    };
    if let Some(from_ms) = &from_ms {
        only("at_ms >= ?", from_ms as &dyn ToSql);
    }
    if let Some(until_ms) = &until_ms {
        only("at_ms < ?", until_ms);
    }
    if let Some((lowest, highest)) = &filter.statuses {
        only("status >= ?", lowest);
        only("status <= ?", highest);
    }
    if let Some(code) = &filter.code {
        only("code = ?", code);
    }
    if let Some(method) = &filter.method {
        only("method = ?", method);
    }
    if let Some(path) = &filter.path {
        only("path = ?", path);
    }
    if let Some(mode) = &mode {
        // For each row: half of all keys would be far more than the rows of a
        // page.
        only("(SELECT mode FROM keys WHERE id = request_log.key_id) = ?", mode);
    }
    let conditions = conditions.join(" AND ");

    // One view of all blocks: a batch that is written meanwhile is left out.
    let view = connection.transaction()?;
    let mut entries = Vec::new();
    let Some(key_id) = &filter.key_id else {
        let limit = sql_limit(filter.limit);
        values.push(&limit);
        let mut statement = view.prepare_cached(&format!(
            "SELECT {COLUMNS}, seq FROM request_log WHERE {conditions} ORDER BY seq DESC LIMIT ?"
        ))?;
        read_entries(statement.query(values.as_slice())?, &mut entries)?;
        return Ok(entries);
    };

    let edge = |sql| -> StorageResult<Option<i64>> {
        Ok(view.prepare_cached(sql)?.query_row([], |row| row.get::<_, Option<i64>>(0))?)
    };
    let oldest = edge("SELECT min(seq) FROM request_log")?;
    let newest = edge("SELECT max(seq) FROM request_log")?;
    let (Some(oldest), Some(newest)) = (oldest, newest) else {
        return Ok(entries);
    };
    let mut statement = view.prepare_cached(&format!(
        "SELECT {COLUMNS}, seq FROM request_log WHERE {conditions} \
         AND seq >> {BLOCK_BITS} = ? AND key_id = ? ORDER BY seq DESC LIMIT ?"
    ))?;
    let newest = newest.min(before - 1) >> BLOCK_BITS;
    for block in (oldest >> BLOCK_BITS..=newest).rev() {
        let missing = filter.limit - entries.len();
        if missing == 0 {
            break;
        }
        let missing = sql_limit(missing);
        let block: [&dyn ToSql; 3] = [&block, key_id, &missing];
        let values: Vec<&dyn ToSql> = values.iter().copied().chain(block).collect();
        read_entries(statement.query(values.as_slice())?, &mut entries)?;
    }
    Ok(entries)
}

fn read_entries(mut rows: Rows<'_>, entries: &mut Vec<(u64, LogEntry)>) -> StorageResult<()> {
    while let Some(row) = rows.next()? {
        let position = u64::try_from(row.get::<_, i64>(COLUMN_COUNT)?);
        let position = position.map_err(|err| damaged(row, err.into()))?;
        let entry = read_entry(row).map_err(|err| damaged(row, err))?;
        entries.push((position, entry));
    }
    Ok(())
}

fn read_entry(row: &Row<'_>) -> Result<LogEntry, Source> {
    let (policy, overlays) = read_policies(row.get_ref(9)?.as_blob_or_null()?)?;
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
        policy,
        overlays,
        decision_us: row.get(10)?,
    })
}

/// Reads the policy and its overlays: their digests, one behind the other.
fn read_policies(stored: Option<&[u8]>) -> Result<(Option<Digest>, Vec<Digest>), Source> {
    let Some(stored) = stored else { return Ok((None, Vec::new())) };
    let (digests, []) = stored.as_chunks::<32>() else {
        return Err("its policies are no digests".into());
    };
    let mut digests = digests.iter().copied().map(Digest::from_bytes);
    Ok((digests.next(), digests.collect()))
}
