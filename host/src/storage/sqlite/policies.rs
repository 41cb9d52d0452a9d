//! Policies, and which of them was put in force when.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, Rows, Transaction, params};

use super::{Source, digest_from_sql, digest_to_sql, insert_error, sql_limit, to_sql_int};
use crate::{
    secret::Digest,
    share::{CanaryBy, Share},
    storage::{Activation, CanaryRecord, PolicyRecord, StorageError, StorageResult},
};

const COLUMNS: &str = "digest, name, version, revision, interfaces, length(bytes), pushed_at, \
     pushed_by, signature, retired_at";

/// Keeps a policy.
pub(super) fn add(
    transaction: &Transaction<'_>,
    policy: &PolicyRecord,
    bytes: &[u8],
) -> StorageResult<()> {
    transaction
        .prepare_cached(
            "INSERT INTO policies (digest, seq, name, version, revision, interfaces, pushed_at, \
             pushed_by, signature, retired_at, bytes) \
             VALUES (?1, (SELECT ifnull(max(seq), 0) + 1 FROM policies), ?2, ?3, ?4, ?5, ?6, ?7, \
             ?8, ?9, ?10)",
        )?
        .execute(params![
            digest_to_sql(policy.digest),
            policy.name,
            policy.version,
            to_sql_int(policy.revision),
            policy.interfaces,
            to_sql_int(policy.pushed_at),
            policy.pushed_by,
            policy.signature,
            policy.retired_at.map(to_sql_int),
            bytes,
        ])
        .map_err(|err| match insert_error(&policy.digest.to_hex(), err) {
            StorageError::Unavailable(err) if is_primary_key(&*err) => {
                StorageError::Exists { id: policy.digest.to_hex() }
            }
            err => err,
        })?;
    Ok(())
}

/// A digest that is there already violates the primary key, which is another
/// code than that of a unique column.
fn is_primary_key(err: &(dyn std::error::Error + 'static)) -> bool {
    let err = err.downcast_ref::<rusqlite::Error>().and_then(|err| err.sqlite_error());
    err.is_some_and(|err| err.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY)
}

/// Notes what somebody has signed of a policy that is there.
pub(super) fn sign(transaction: &Transaction<'_>, policy: &PolicyRecord) -> StorageResult<()> {
    let changed = transaction
        .prepare_cached(
            "UPDATE policies SET name = ?2, version = ?3, revision = ?4, signature = ?5 \
             WHERE digest = ?1",
        )?
        .execute(params![
            digest_to_sql(policy.digest),
            policy.name,
            policy.version,
            to_sql_int(policy.revision),
            policy.signature,
        ])?;
    match changed {
        0 => Err(StorageError::Changed { id: policy.digest.to_hex() }),
        _ => Ok(()),
    }
}

/// Notes that a policy may not be put in force any more. One that was retired
/// before stays so since then.
pub(super) fn retire(transaction: &Transaction<'_>, digest: Digest, at: u64) -> StorageResult<()> {
    let changed = transaction
        .prepare_cached(
            "UPDATE policies SET retired_at = ifnull(retired_at, ?2) WHERE digest = ?1",
        )?
        .execute(params![digest_to_sql(digest), to_sql_int(at)])?;
    match changed {
        0 => Err(StorageError::Changed { id: digest.to_hex() }),
        _ => Ok(()),
    }
}

/// Notes what is in force from now on.
pub(super) fn activate(
    transaction: &Transaction<'_>,
    activation: &Activation,
) -> StorageResult<()> {
    let last: Option<i64> = transaction
        .prepare_cached("SELECT max(seq) FROM activations")?
        .query_row([], |row| row.get(0))?;
    if last.unwrap_or(0) + 1 != to_sql_int(activation.number) {
        return Err(StorageError::Changed { id: "activation".to_owned() });
    }
    // Retired meanwhile, or never there.
    let usable = |digest: Digest| -> StorageResult<()> {
        let found: Option<i64> = transaction
            .prepare_cached("SELECT 1 FROM policies WHERE digest = ?1 AND retired_at IS NULL")?
            .query_row([digest_to_sql(digest)], |row| row.get(0))
            .optional()?;
        found.map(drop).ok_or_else(|| StorageError::Changed { id: digest.to_hex() })
    };
    let canary = activation.canary.as_ref();
    let canary_policy = canary.and_then(|canary| canary.policy);
    let all = activation.policy.iter().chain(&activation.overlays).chain(&canary_policy);
    all.copied().try_for_each(usable)?;
    let overlays: Vec<String> = activation.overlays.iter().map(Digest::to_hex).collect();
    transaction
        .prepare_cached(
            "INSERT INTO activations (seq, digest, overlays, at, actor, reason, min_revision, \
             canary, canary_share, canary_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            to_sql_int(activation.number),
            activation.policy.map(digest_to_sql),
            serde_json::json!(overlays).to_string(),
            to_sql_int(activation.at),
            activation.actor,
            activation.reason,
            to_sql_int(activation.min_revision),
            canary_policy.map(digest_to_sql),
            canary.map(|canary| canary.share.hundredths()),
            canary.map(|canary| canary.by.as_str()),
        ])?;
    Ok(())
}

pub(super) fn list(connection: &Connection) -> StorageResult<Vec<PolicyRecord>> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {COLUMNS} FROM policies ORDER BY seq DESC"))?;
    decode_all(statement.query([])?)
}

pub(super) fn between_query() -> String {
    format!(
        "SELECT {COLUMNS} FROM policies WHERE digest BETWEEN ?1 AND ?2 ORDER BY digest LIMIT ?3"
    )
}

pub(super) fn between(
    connection: &Connection,
    first: Digest,
    last: Digest,
    limit: usize,
) -> StorageResult<Vec<PolicyRecord>> {
    let mut statement = connection.prepare_cached(&between_query())?;
    let (first, last) = (digest_to_sql(first), digest_to_sql(last));
    decode_all(statement.query(params![first, last, sql_limit(limit)])?)
}

fn decode_all(mut rows: Rows<'_>) -> StorageResult<Vec<PolicyRecord>> {
    let mut policies = Vec::new();
    while let Some(row) = rows.next()? {
        policies.push(decode(row)?);
    }
    Ok(policies)
}

pub(super) fn find(
    connection: &Connection,
    digest: Digest,
) -> StorageResult<Option<(PolicyRecord, Arc<[u8]>)>> {
    let mut statement = connection
        .prepare_cached(&format!("SELECT {COLUMNS}, bytes FROM policies WHERE digest = ?1"))?;
    let mut rows = statement.query([digest_to_sql(digest)])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let policy = decode(row)?;
    let bytes: Arc<[u8]> = row.get_ref(10)?.as_blob().map_err(damaged_by(row))?.into();
    // A disk that has changed a bit of the rules must not decide.
    if Digest::of_bytes(&bytes) != policy.digest {
        return Err(damaged_by(row)("its bytes are not those that it is called after"));
    }
    Ok(Some((policy, bytes)))
}

pub(super) fn activations(connection: &Connection, limit: usize) -> StorageResult<Vec<Activation>> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, digest, overlays, at, actor, reason, min_revision, canary, canary_share, \
         canary_by FROM activations ORDER BY seq DESC LIMIT ?1",
    )?;
    let mut rows = statement.query([sql_limit(limit)])?;
    let mut activations = Vec::new();
    while let Some(row) = rows.next()? {
        activations.push(read_activation(row).map_err(|source| {
            let number: i64 = row.get(0).unwrap_or_default();
            StorageError::Damaged { id: format!("activation {number}"), source }
        })?);
    }
    Ok(activations)
}

fn decode(row: &Row<'_>) -> StorageResult<PolicyRecord> {
    read(row).map_err(damaged_by(row))
}

/// A policy is called by its digest, which is no text in the database.
fn damaged_by<E: Into<Source>>(row: &Row<'_>) -> impl FnOnce(E) -> StorageError {
    let digest: [u8; 32] = row.get(0).unwrap_or_default();
    let id = digest_from_sql(digest).to_hex();
    move |err| StorageError::Damaged { id, source: err.into() }
}

fn read(row: &Row<'_>) -> Result<PolicyRecord, Source> {
    let number = |column| -> Result<u64, Source> { Ok(row.get::<_, i64>(column)?.try_into()?) };
    Ok(PolicyRecord {
        digest: digest_from_sql(row.get(0)?),
        name: row.get(1)?,
        version: row.get(2)?,
        revision: number(3)?,
        interfaces: row.get(4)?,
        size_bytes: number(5)?,
        pushed_at: number(6)?,
        pushed_by: row.get(7)?,
        signature: row.get(8)?,
        retired_at: row.get::<_, Option<i64>>(9)?.map(u64::try_from).transpose()?,
    })
}

fn read_activation(row: &Row<'_>) -> Result<Activation, Source> {
    let overlays: Vec<String> = serde_json::from_str(row.get_ref(2)?.as_str()?)?;
    let overlay = |hex: &String| Digest::from_hex(hex).ok_or("an overlay is no digest");
    Ok(Activation {
        number: row.get::<_, i64>(0)?.try_into()?,
        policy: row.get::<_, Option<[u8; 32]>>(1)?.map(digest_from_sql),
        overlays: overlays.iter().map(overlay).collect::<Result<_, _>>()?,
        canary: read_canary(row)?,
        min_revision: row.get::<_, i64>(6)?.try_into()?,
        at: row.get::<_, i64>(3)?.try_into()?,
        actor: row.get(4)?,
        reason: row.get(5)?,
    })
}

fn read_canary(row: &Row<'_>) -> Result<Option<CanaryRecord>, Source> {
    let Some(hundredths) = row.get::<_, Option<u16>>(8)? else { return Ok(None) };
    Ok(Some(CanaryRecord {
        policy: row.get::<_, Option<[u8; 32]>>(7)?.map(digest_from_sql),
        share: Share::of_hundredths(hundredths).ok_or("its share is none")?,
        by: CanaryBy::from_name(row.get_ref(9)?.as_str()?).ok_or("its share is of nothing")?,
    }))
}
