//! The simulated API's objects and its answers to repeated requests.

use rusqlite::{Connection, Row, Transaction, params};

use super::{Source, damaged, digest_from_sql, digest_to_sql, sql_limit, to_sql_int};
use crate::storage::{Mode, ObjectRecord, Page, StorageResult, StoredAnswer};

/// How long an answer is kept at least, in seconds: a day, after which a client
/// no longer repeats a request. Then it goes when the next one is kept.
const ANSWER_LIFETIME_SECS: i64 = 24 * 60 * 60;

/// How many outlived answers go with each one that is kept: more than one, so
/// that what a busy day left behind shrinks, and few, so that no write is slow.
const MAX_ANSWERS_EXPIRED: i64 = 16;

const OBJECT_COLUMNS: &str = "id, collection, created_at, body";

pub(super) fn find(
    connection: &Connection,
    account: &str,
    mode: Mode,
    id: &str,
) -> StorageResult<Option<ObjectRecord>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {OBJECT_COLUMNS} FROM objects WHERE account = ?1 AND mode = ?2 AND id = ?3"
    ))?;
    let mut rows = statement.query(params![account, mode.as_str(), id])?;
    rows.next()?.map(decode_object).transpose()
}

/// Returns a page, newest first, and whether there is more in the direction that
/// was asked for.
pub(super) fn list(
    connection: &Connection,
    account: &str,
    mode: Mode,
    collection: &str,
    page: &Page,
) -> StorageResult<(Vec<ObjectRecord>, bool)> {
    // A cursor that is not there has no `seq`, and nothing compares to NULL: an
    // empty page, and never the first one again.
    const CURSOR: &str = "(SELECT seq FROM objects WHERE account = ?1 AND mode = ?2 AND id = ";
    let mut sql = format!(
        "SELECT {OBJECT_COLUMNS} FROM objects \
         WHERE account = ?1 AND mode = ?2 AND collection = ?3"
    );
    match &page.starting_after {
        Some(_) => sql += &format!(" AND seq < {CURSOR}?4)"),
        None => sql += " AND ?4 IS NULL",
    }
    match &page.ending_before {
        Some(_) => sql += &format!(" AND seq > {CURSOR}?5)"),
        None => sql += " AND ?5 IS NULL",
    }
    // Towards newer objects, the page is what lies next to the cursor.
    let towards_newer = page.ending_before.is_some() && page.starting_after.is_none();
    sql += if towards_newer { " ORDER BY seq ASC LIMIT ?6" } else { " ORDER BY seq DESC LIMIT ?6" };

    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![
        account,
        mode.as_str(),
        collection,
        page.starting_after,
        page.ending_before,
        sql_limit(page.limit.saturating_add(1)),
    ])?;
    let mut objects = Vec::new();
    let mut has_more = false;
    while let Some(row) = rows.next()? {
        if objects.len() == page.limit {
            has_more = true;
            break;
        }
        objects.push(decode_object(row)?);
    }
    if towards_newer {
        objects.reverse();
    }
    Ok((objects, has_more))
}

pub(super) fn put(
    transaction: &Transaction<'_>,
    account: &str,
    mode: Mode,
    object: &ObjectRecord,
) -> StorageResult<()> {
    // An update and no replacement: a changed object keeps its place in lists.
    transaction
        .prepare_cached(
            "INSERT INTO objects (account, mode, id, collection, created_at, body) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
             ON CONFLICT (account, mode, id) DO UPDATE SET collection = excluded.collection, \
             created_at = excluded.created_at, body = excluded.body",
        )?
        .execute(params![
            account,
            mode.as_str(),
            object.id,
            object.collection,
            to_sql_int(object.created_at),
            object.body.to_string(),
        ])?;
    Ok(())
}

pub(super) fn delete(
    transaction: &Transaction<'_>,
    account: &str,
    mode: Mode,
    id: &str,
) -> StorageResult<bool> {
    let deleted = transaction
        .prepare_cached("DELETE FROM objects WHERE account = ?1 AND mode = ?2 AND id = ?3")?
        .execute(params![account, mode.as_str(), id])?;
    Ok(deleted > 0)
}

pub(super) fn find_answer(
    connection: &Connection,
    account: &str,
    mode: Mode,
    idempotency_key: &str,
) -> StorageResult<Option<StoredAnswer>> {
    let mut statement = connection.prepare_cached(
        "SELECT idempotency_key, request_digest, status, body FROM answers \
         WHERE account = ?1 AND mode = ?2 AND idempotency_key = ?3",
    )?;
    let mut rows = statement.query(params![account, mode.as_str(), idempotency_key])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let answer = read_answer(row).map_err(|err| damaged(row, err))?;
    Ok(Some(answer))
}

/// Keeps the first answer under a key; the oldest of more than `max_answers` go.
pub(super) fn keep_answer(
    transaction: &Transaction<'_>,
    account: &str,
    mode: Mode,
    idempotency_key: &str,
    now: u64,
    answer: &StoredAnswer,
    max_answers: u64,
) -> StorageResult<()> {
    // Before the insert: an answer that has outlived its day is not the first
    // one to stay.
    transaction
        .prepare_cached(
            "DELETE FROM answers WHERE kept_at <= ?1 \
             AND seq IN (SELECT seq FROM answers ORDER BY seq LIMIT ?2)",
        )?
        .execute([to_sql_int(now) - ANSWER_LIFETIME_SECS, MAX_ANSWERS_EXPIRED])?;
    transaction
        .prepare_cached(
            "INSERT INTO answers (account, mode, idempotency_key, kept_at, request_digest, \
             status, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
             ON CONFLICT (account, mode, idempotency_key) DO NOTHING",
        )?
        .execute(params![
            account,
            mode.as_str(),
            idempotency_key,
            to_sql_int(now),
            digest_to_sql(answer.request_digest),
            answer.status,
            answer.body,
        ])?;
    transaction
        .prepare_cached("DELETE FROM answers WHERE seq <= (SELECT max(seq) FROM answers) - ?1")?
        .execute([to_sql_int(max_answers)])?;
    Ok(())
}

fn decode_object(row: &Row<'_>) -> StorageResult<ObjectRecord> {
    read_object(row).map_err(|err| damaged(row, err))
}

fn read_object(row: &Row<'_>) -> Result<ObjectRecord, Source> {
    Ok(ObjectRecord {
        id: row.get(0)?,
        collection: row.get(1)?,
        created_at: row.get::<_, i64>(2)?.try_into()?,
        body: serde_json::from_str(row.get_ref(3)?.as_str()?)?,
    })
}

fn read_answer(row: &Row<'_>) -> Result<StoredAnswer, Source> {
    Ok(StoredAnswer {
        request_digest: digest_from_sql(row.get(1)?),
        status: row.get(2)?,
        body: row.get(3)?,
    })
}
