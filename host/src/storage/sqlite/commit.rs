//! Changes with the audit log that tells of them, and the replies that were kept.

use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, Transaction, params};

use super::{
    Source, damaged, digest_from_sql, digest_to_sql, insert_error, keys, policies, sql_limit,
    to_sql_int,
};
use crate::{
    audit::{AuditKey, AuditSeal},
    storage::{
        AuditEntry, AuditFilter, Change, KeptReply, SealedAuditEntry, StorageError, StorageResult,
    },
};

const AUDIT_COLUMNS: &str = "seq, text, seal";

const REPLY_COLUMNS: &str = "caller, idempotency_key, request_digest, kept_at, status, body";

/// Stores a change. What it returns as an error rolls back the transaction, and
/// with it everything.
pub(super) fn commit(
    transaction: &Transaction<'_>,
    change: &Change,
    chain: &AuditKey,
) -> StorageResult<()> {
    // Each after what it refers to.
    for organization in &change.new_organizations {
        keys::create_organization(transaction, organization)?;
    }
    for account in &change.new_accounts {
        keys::create_account(transaction, account)?;
    }
    for (account, organization) in &change.memberships {
        keys::set_organization(transaction, account, organization.as_deref())?;
    }
    for key in &change.new_keys {
        keys::create(transaction, key)?;
    }
    for key in &change.changed_keys {
        keys::change(transaction, key)?;
    }
    for (policy, bytes) in &change.new_policies {
        policies::add(transaction, policy, bytes)?;
    }
    for policy in &change.signed_policies {
        policies::sign(transaction, policy)?;
    }
    for &(digest, at) in &change.retired_policies {
        policies::retire(transaction, digest, at)?;
    }
    if let Some(activation) = &change.activation {
        policies::activate(transaction, activation)?;
    }
    append_audit(transaction, &change.audit, chain)?;
    match &change.reply {
        Some(reply) => keep_reply(transaction, reply),
        None => Ok(()),
    }
}

/// Seals entries and appends them. Only the thread that writes comes here, and
/// inside a transaction: the entry read as the last one is the last one.
fn append_audit(
    transaction: &Transaction<'_>,
    entries: &[AuditEntry],
    chain: &AuditKey,
) -> StorageResult<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let last = transaction
        .prepare_cached(&format!(
            "SELECT {AUDIT_COLUMNS} FROM audit_log ORDER BY seq DESC LIMIT 1"
        ))?
        .query_row([], |row| Ok(decode_audit(row)))
        .optional()?
        .transpose()?;
    let mut sequence = last.as_ref().map_or(0, |last| last.sequence);
    let mut previous = last.map(|last| last.seal);
    let mut insert = transaction
        .prepare_cached(&format!("INSERT INTO audit_log ({AUDIT_COLUMNS}) VALUES (?1, ?2, ?3)"))?;
    for entry in entries {
        sequence += 1;
        let text = serde_json::to_string(entry).map_err(|err| StorageError::Damaged {
            id: sequence.to_string(),
            source: err.into(),
        })?;
        let seal = chain.seal(previous.as_ref(), sequence, &text);
        insert.execute(params![to_sql_int(sequence), text, seal.as_bytes()])?;
        previous = Some(seal);
    }
    Ok(())
}

pub(super) fn list_audit(
    connection: &Connection,
    filter: &AuditFilter,
) -> StorageResult<Vec<SealedAuditEntry>> {
    let (edge, condition, order) = match filter.before {
        Some(before) => (before, "seq < ?", "DESC"),
        None => (filter.after.unwrap_or(0), "seq > ?", "ASC"),
    };
    let edge = to_sql_int(edge);
    let mut conditions = vec![condition];
    let mut values: Vec<&dyn ToSql> = vec![&edge];
    if let Some(target) = &filter.target {
        conditions.push("target = ?");
        values.push(target);
    }
    if let Some(actor) = &filter.actor {
        // With a target, its index is the one to use, and the plus hides the
        // other: a few actors have done nearly everything.
        conditions.push(if filter.target.is_some() { "+actor = ?" } else { "actor = ?" });
        values.push(actor);
    }
    let limit = sql_limit(filter.limit);
    values.push(&limit);
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {AUDIT_COLUMNS} FROM audit_log WHERE {} ORDER BY seq {order} LIMIT ?",
        conditions.join(" AND ")
    ))?;
    let mut rows = statement.query(values.as_slice())?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.push(decode_audit(row)?);
    }
    Ok(entries)
}

fn keep_reply(transaction: &Transaction<'_>, reply: &KeptReply) -> StorageResult<()> {
    transaction
        .prepare_cached(&format!(
            "INSERT INTO kept_replies ({REPLY_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
        ))?
        .execute(params![
            reply.caller,
            reply.idempotency_key,
            digest_to_sql(reply.request_digest),
            to_sql_int(reply.at),
            reply.status,
            reply.body,
        ])
        .map_err(|err| insert_error(&reply.idempotency_key, err))?;
    Ok(())
}

pub(super) fn find_reply(
    connection: &Connection,
    caller: &str,
    idempotency_key: &str,
) -> StorageResult<Option<KeptReply>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {REPLY_COLUMNS} FROM kept_replies WHERE caller = ?1 AND idempotency_key = ?2"
    ))?;
    let mut rows = statement.query([caller, idempotency_key])?;
    rows.next()?.map(|row| read_reply(row).map_err(|err| damaged(row, err))).transpose()
}

/// Drops at most `limit` of the replies from before this time. Returns how many.
pub(super) fn drop_replies(
    transaction: &Transaction<'_>,
    before: u64,
    limit: u64,
) -> StorageResult<u64> {
    let dropped = transaction
        .prepare_cached(
            "DELETE FROM kept_replies WHERE seq IN \
             (SELECT seq FROM kept_replies WHERE kept_at < ?1 LIMIT ?2)",
        )?
        .execute([to_sql_int(before), to_sql_int(limit)])?;
    Ok(dropped as u64)
}

fn decode_audit(row: &Row<'_>) -> StorageResult<SealedAuditEntry> {
    read_audit(row).map_err(|source| {
        // Its first column is no text, but a number.
        let sequence: i64 = row.get(0).unwrap_or_default();
        StorageError::Damaged { id: format!("audit log entry {sequence}"), source }
    })
}

fn read_audit(row: &Row<'_>) -> Result<SealedAuditEntry, Source> {
    Ok(SealedAuditEntry {
        sequence: row.get::<_, i64>(0)?.try_into()?,
        text: row.get(1)?,
        seal: AuditSeal::from_bytes(row.get(2)?),
    })
}

fn read_reply(row: &Row<'_>) -> Result<KeptReply, Source> {
    Ok(KeptReply {
        caller: row.get(0)?,
        idempotency_key: row.get(1)?,
        request_digest: digest_from_sql(row.get(2)?),
        at: row.get::<_, i64>(3)?.try_into()?,
        status: row.get(4)?,
        body: row.get(5)?,
    })
}
