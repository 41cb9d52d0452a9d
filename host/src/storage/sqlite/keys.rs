//! Keys, and the accounts and organizations that own them.

use std::net::Ipv4Addr;

use rusqlite::{Connection, Row, ToSql, Transaction, params};

use super::{Source, damaged, digest_from_sql, digest_to_sql, insert_error, sql_limit, to_sql_int};
use crate::{
    secret::Digest,
    storage::{
        AccountRecord, Ipv4Network, KeyFilter, KeyRecord, Mode, OrganizationRecord, StorageResult,
        UsageMark,
    },
};

const KEY_COLUMNS: &str = "id, account, mode, kind, origin, prefix, masked, digest, \
     sealed_secret, name, note, permissions, connect_permissions, ipv4_networks, created_at, \
     ends_at, restored_at, money_moved_at, last_used_at, attributes";

const ACCOUNT_COLUMNS: &str = "id, name, organization, platform, created_at";

pub(super) fn find_by_digest(
    connection: &Connection,
    digest: Digest,
) -> StorageResult<Option<KeyRecord>> {
    find_key(connection, "digest = ?1", &digest_to_sql(digest))
}

pub(super) fn find_by_id(connection: &Connection, id: &str) -> StorageResult<Option<KeyRecord>> {
    find_key(connection, "id = ?1", &id)
}

fn find_key(
    connection: &Connection,
    condition: &str,
    value: &dyn ToSql,
) -> StorageResult<Option<KeyRecord>> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {KEY_COLUMNS} FROM keys WHERE {condition}"))?;
    let mut rows = statement.query([value])?;
    rows.next()?.map(decode_key).transpose()
}

pub(super) fn list(connection: &Connection, filter: &KeyFilter) -> StorageResult<Vec<KeyRecord>> {
    let mode = filter.mode.map(Mode::as_str);
    let not_ended_at = filter.not_ended_at.map(to_sql_int);
    let mut conditions = Vec::new();
    let mut values: Vec<&dyn ToSql> = Vec::new();
    // Only what is asked for: with "or is null" in it, no index would be used.
    let mut only = |condition, value| {
        conditions.push(condition);
        values.push(value);
    };
    if let Some(account) = &filter.account {
        only("account = ?", account as &dyn ToSql);
    }
    if let Some(mode) = &mode {
        only("mode = ?", mode);
    }
    if let Some(at) = &not_ended_at {
        only("(ends_at IS NULL OR ends_at > ?)", at);
    }
    if let Some(id) = &filter.starting_after {
        // A key that is not there has no `seq`, and nothing compares to NULL:
        // an empty list, and never the first page again.
        only("seq < (SELECT seq FROM keys WHERE id = ?)", id);
    }
    let limit = sql_limit(filter.limit);
    values.push(&limit);
    let filter = match conditions.is_empty() {
        true => String::new(),
        false => format!("WHERE {}", conditions.join(" AND ")),
    };

    let mut statement = connection.prepare_cached(&format!(
        "SELECT {KEY_COLUMNS} FROM keys {filter} ORDER BY seq DESC LIMIT ?"
    ))?;
    let mut rows = statement.query(values.as_slice())?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        keys.push(decode_key(row)?);
    }
    Ok(keys)
}

pub(super) fn create(transaction: &Transaction<'_>, key: &KeyRecord) -> StorageResult<()> {
    let networks: Vec<String> = key
        .ipv4_networks
        .iter()
        .map(|net| format!("{}/{}", Ipv4Addr::from(net.address), net.prefix_length))
        .collect();
    let attributes = serde_json::json!(key.attributes).to_string();
    transaction
        .prepare_cached(&format!(
            "INSERT INTO keys ({KEY_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, \
             ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)"
        ))?
        .execute(params![
            key.id,
            key.account,
            key.mode.as_str(),
            key.kind,
            key.origin,
            key.prefix,
            key.masked,
            digest_to_sql(key.digest),
            key.sealed_secret,
            key.name,
            key.note,
            key.permissions,
            key.connect_permissions,
            networks.join(" "),
            to_sql_int(key.created_at),
            key.ends_at.map(to_sql_int),
            key.restored_at.map(to_sql_int),
            key.money_moved_at.map(to_sql_int),
            key.last_used_at.map(to_sql_int),
            attributes,
        ])
        .map_err(|err| insert_error(&key.id, err))?;
    Ok(())
}

/// Notes uses. A mark of a key that is not there is passed over.
pub(super) fn record_usage(
    transaction: &Transaction<'_>,
    marks: &[UsageMark],
) -> StorageResult<()> {
    let mut update = transaction.prepare_cached(
        "UPDATE keys SET last_used_at = max(ifnull(last_used_at, 0), ?2), \
         money_moved_at = CASE WHEN ?3 IS NULL THEN money_moved_at \
         ELSE max(ifnull(money_moved_at, 0), ?3) END WHERE id = ?1",
    )?;
    for mark in marks {
        update.execute(params![
            mark.key_id,
            to_sql_int(mark.last_used_at),
            mark.money_moved_at.map(to_sql_int),
        ])?;
    }
    Ok(())
}

pub(super) fn find_account(
    connection: &Connection,
    id: &str,
) -> StorageResult<Option<AccountRecord>> {
    let mut statement = connection
        .prepare_cached(&format!("SELECT {ACCOUNT_COLUMNS} FROM accounts WHERE id = ?1"))?;
    let mut rows = statement.query([id])?;
    rows.next()?.map(decode_account).transpose()
}

pub(super) fn list_accounts(
    connection: &Connection,
    limit: usize,
) -> StorageResult<Vec<AccountRecord>> {
    let mut statement = connection
        .prepare_cached(&format!("SELECT {ACCOUNT_COLUMNS} FROM accounts ORDER BY seq LIMIT ?1"))?;
    let mut rows = statement.query([sql_limit(limit)])?;
    let mut accounts = Vec::new();
    while let Some(row) = rows.next()? {
        accounts.push(decode_account(row)?);
    }
    Ok(accounts)
}

pub(super) fn create_account(
    transaction: &Transaction<'_>,
    account: &AccountRecord,
) -> StorageResult<()> {
    transaction
        .prepare_cached(&format!(
            "INSERT INTO accounts ({ACCOUNT_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5)"
        ))?
        .execute(params![
            account.id,
            account.name,
            account.organization,
            account.platform,
            to_sql_int(account.created_at),
        ])
        .map_err(|err| insert_error(&account.id, err))?;
    Ok(())
}

pub(super) fn create_organization(
    transaction: &Transaction<'_>,
    organization: &OrganizationRecord,
) -> StorageResult<()> {
    transaction
        .prepare_cached("INSERT INTO organizations (id, name, created_at) VALUES (?1, ?2, ?3)")?
        .execute(params![organization.id, organization.name, to_sql_int(organization.created_at),])
        .map_err(|err| insert_error(&organization.id, err))?;
    Ok(())
}

pub(super) fn find_organization(
    connection: &Connection,
    id: &str,
) -> StorageResult<Option<OrganizationRecord>> {
    let mut statement = connection
        .prepare_cached("SELECT id, name, created_at FROM organizations WHERE id = ?1")?;
    let mut rows = statement.query([id])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let organization = read_organization(row).map_err(|err| damaged(row, err))?;
    Ok(Some(organization))
}

pub(super) fn set_organization(
    transaction: &Transaction<'_>,
    account: &str,
    organization: Option<&str>,
) -> StorageResult<bool> {
    let updated = transaction
        .prepare_cached("UPDATE accounts SET organization = ?2 WHERE id = ?1")?
        .execute(params![account, organization])?;
    Ok(updated > 0)
}

fn decode_key(row: &Row<'_>) -> StorageResult<KeyRecord> {
    read_key(row).map_err(|err| damaged(row, err))
}

fn read_key(row: &Row<'_>) -> Result<KeyRecord, Source> {
    let secs = |column| -> Result<Option<u64>, Source> {
        let value: Option<i64> = row.get(column)?;
        Ok(value.map(u64::try_from).transpose()?)
    };
    Ok(KeyRecord {
        id: row.get(0)?,
        account: row.get(1)?,
        mode: Mode::from_name(row.get_ref(2)?.as_str()?).ok_or("unknown mode")?,
        kind: row.get(3)?,
        origin: row.get(4)?,
        prefix: row.get(5)?,
        masked: row.get(6)?,
        digest: digest_from_sql(row.get(7)?),
        sealed_secret: row.get(8)?,
        name: row.get(9)?,
        note: row.get(10)?,
        permissions: row.get(11)?,
        connect_permissions: row.get(12)?,
        ipv4_networks: row
            .get_ref(13)?
            .as_str()?
            .split_ascii_whitespace()
            .map(read_network)
            .collect::<Result<_, _>>()?,
        created_at: secs(14)?.ok_or("no time of creation")?,
        ends_at: secs(15)?,
        restored_at: secs(16)?,
        money_moved_at: secs(17)?,
        last_used_at: secs(18)?,
        attributes: serde_json::from_str(row.get_ref(19)?.as_str()?)?,
    })
}

fn read_network(text: &str) -> Result<Ipv4Network, Source> {
    let (address, prefix_length) = text.split_once('/').ok_or("network without a length")?;
    let address: Ipv4Addr = address.parse()?;
    let prefix_length = prefix_length.parse()?;
    // A longer prefix than 32 bits would match nothing, or everything: neither
    // is what somebody meant to allow.
    if prefix_length > 32 {
        return Err("network longer than an address".into());
    }
    Ok(Ipv4Network { address: address.into(), prefix_length })
}

fn decode_account(row: &Row<'_>) -> StorageResult<AccountRecord> {
    read_account(row).map_err(|err| damaged(row, err))
}

fn read_account(row: &Row<'_>) -> Result<AccountRecord, Source> {
    Ok(AccountRecord {
        id: row.get(0)?,
        name: row.get(1)?,
        organization: row.get(2)?,
        platform: row.get(3)?,
        created_at: row.get::<_, i64>(4)?.try_into()?,
    })
}

fn read_organization(row: &Row<'_>) -> Result<OrganizationRecord, Source> {
    Ok(OrganizationRecord {
        id: row.get(0)?,
        name: row.get(1)?,
        created_at: row.get::<_, i64>(2)?.try_into()?,
    })
}
