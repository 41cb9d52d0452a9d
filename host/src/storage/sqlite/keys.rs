//! Keys, and the accounts and organizations that own them.

use std::net::{IpAddr, Ipv4Addr};

use rusqlite::{Connection, Row, Statement, ToSql, Transaction, named_params, params};

use super::{Source, damaged, digest_from_sql, digest_to_sql, insert_error, sql_limit, to_sql_int};
use crate::{
    secret::Digest,
    storage::{
        AccountRecord, DuePage, DuePosition, Ipv4Network, KeyFilter, KeyRecord, LastUse, Mode,
        OrganizationRecord, RotationSchedule, StorageError, StorageResult, UsageMark,
    },
};

const KEY_COLUMNS: &str = "id, account, mode, kind, origin, prefix, masked, digest, \
     sealed_secret, name, note, permissions, connect_permissions, ipv4_networks, created_at, \
     ends_at, restored_at, money_moved_at, last_used_at, attributes, last_used_source, \
     last_used_endpoint, imported, replaces, replaced_by, rotate_at, rotate_every_days, \
     rotate_overlap_minutes, end_noted, revision";

/// The columns that a change of a key writes: all but the id, and the uses, which
/// have a way of their own.
const CHANGEABLE: [&str; 25] = [
    "account",
    "mode",
    "kind",
    "origin",
    "prefix",
    "masked",
    "digest",
    "sealed_secret",
    "name",
    "note",
    "permissions",
    "connect_permissions",
    "ipv4_networks",
    "created_at",
    "ends_at",
    "restored_at",
    "attributes",
    "imported",
    "replaces",
    "replaced_by",
    "rotate_at",
    "rotate_every_days",
    "rotate_overlap_minutes",
    "end_noted",
    "revision",
];

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
    let columns = CHANGEABLE.join(", ");
    let values = CHANGEABLE.join(", :");
    let last_use = key.last_use.as_ref();
    let (used_at, source, endpoint) = (
        last_use.map(|last| to_sql_int(last.at)),
        last_use.map(|last| last.source.to_string()),
        last_use.map(|last| &last.endpoint),
    );
    let money_moved_at = key.money_moved_at.map(to_sql_int);
    let mut insert = transaction.prepare_cached(&format!(
        "INSERT INTO keys (id, money_moved_at, last_used_at, last_used_source, \
         last_used_endpoint, {columns}) VALUES (:id, :money_moved_at, :used_at, :used_from, \
         :used_for, :{values})"
    ))?;
    let uses: [(&str, &dyn ToSql); 4] = [
        (":money_moved_at", &money_moved_at),
        (":used_at", &used_at),
        (":used_from", &source),
        (":used_for", &endpoint),
    ];
    write(&mut insert, key, key.revision, &uses)?;
    Ok(())
}

/// Stores a key as it is from now on, if it still is at the revision that was
/// read.
pub(super) fn change(transaction: &Transaction<'_>, key: &KeyRecord) -> StorageResult<()> {
    let assignments: Vec<String> =
        CHANGEABLE.iter().map(|column| format!("{column} = :{column}")).collect();
    let mut update = transaction.prepare_cached(&format!(
        "UPDATE keys SET {} WHERE id = :id AND revision = :read",
        assignments.join(", ")
    ))?;
    let read = to_sql_int(key.revision);
    match write(&mut update, key, key.revision.saturating_add(1), &[(":read", &read)])? {
        0 => Err(StorageError::Changed { id: key.id.clone() }),
        _ => Ok(()),
    }
}

/// Runs a statement with the values of a key, by the names of their columns.
fn write(
    statement: &mut Statement<'_>,
    key: &KeyRecord,
    revision: u64,
    more: &[(&str, &dyn ToSql)],
) -> StorageResult<usize> {
    let networks: Vec<String> = key
        .ipv4_networks
        .iter()
        .map(|net| format!("{}/{}", Ipv4Addr::from(net.address), net.prefix_length))
        .collect();
    let rotation = key.rotation.as_ref();
    let fields = named_params! {
        ":id": key.id,
        ":account": key.account,
        ":mode": key.mode.as_str(),
        ":kind": key.kind,
        ":origin": key.origin,
        ":prefix": key.prefix,
        ":masked": key.masked,
        ":digest": digest_to_sql(key.digest),
        ":sealed_secret": key.sealed_secret,
        ":name": key.name,
        ":note": key.note,
        ":permissions": key.permissions,
        ":connect_permissions": key.connect_permissions,
        ":ipv4_networks": networks.join(" "),
        ":created_at": to_sql_int(key.created_at),
        ":ends_at": key.ends_at.map(to_sql_int),
        ":restored_at": key.restored_at.map(to_sql_int),
        ":attributes": serde_json::json!(key.attributes).to_string(),
        ":imported": key.imported,
        ":replaces": key.replaces,
        ":replaced_by": key.replaced_by,
        ":rotate_at": rotation.map(|rotation| to_sql_int(rotation.at)),
        ":rotate_every_days": rotation.and_then(|rotation| rotation.every_days),
        ":rotate_overlap_minutes": rotation.map(|rotation| rotation.expire_current_in_minutes),
        ":end_noted": key.end_noted,
        ":revision": to_sql_int(revision),
    };
    for (name, value) in fields.iter().chain(more) {
        // A name that the statement lacks is a mistake in one of the two lists.
        let Some(index) = statement.parameter_index(name)? else {
            return Err(rusqlite::Error::InvalidParameterName((*name).to_owned()).into());
        };
        statement.raw_bind_parameter(index, value)?;
    }
    statement.raw_execute().map_err(|err| insert_error(&key.id, err))
}

/// What may be due with a key.
pub(super) struct Due {
    /// The column with the time.
    at: &'static str,
    /// Which keys count at all. `?1` is the time now.
    only: &'static str,
}

/// Rotations that were scheduled.
pub(super) const ROTATIONS: Due =
    Due { at: "rotate_at", only: "(ends_at IS NULL OR ends_at > ?1)" };
/// Ends that nobody has seen to.
pub(super) const ENDS: Due = Due { at: "ends_at", only: "end_noted = 0" };

impl Due {
    pub(super) fn query(&self) -> String {
        let Self { at, only } = self;
        // An index ends with `seq` in any case: this is its order.
        format!(
            "SELECT {KEY_COLUMNS}, {at} AS due_at, seq AS place FROM keys WHERE {at} <= ?1 AND {only} \
             AND ({at}, seq) > (?2, ?3) AND seq <= ?4 ORDER BY {at}, seq LIMIT ?5"
        )
    }

    pub(super) fn find(
        &self,
        connection: &Connection,
        now: u64,
        after: Option<DuePosition>,
        limit: usize,
    ) -> StorageResult<DuePage> {
        let after = match after {
            Some(after) => after,
            None => DuePosition {
                at: i64::MIN,
                place: i64::MIN,
                newest: connection
                    .prepare_cached("SELECT ifnull(max(seq), 0) FROM keys")?
                    .query_row([], |row| row.get(0))?,
            },
        };
        let mut statement = connection.prepare_cached(&self.query())?;
        let mut rows = statement.query(params![
            to_sql_int(now),
            after.at,
            after.place,
            after.newest,
            sql_limit(limit)
        ])?;
        let (mut keys, mut last) = (Vec::new(), None);
        while let Some(row) = rows.next()? {
            keys.push(decode_key(row));
            last = Some(DuePosition { at: row.get("due_at")?, place: row.get("place")?, ..after });
        }
        let next = last.filter(|_| keys.len() == limit);
        Ok(DuePage { keys, next })
    }
}

pub(super) fn imported_digests(connection: &Connection) -> StorageResult<Vec<Digest>> {
    let mut statement = connection.prepare_cached("SELECT digest FROM keys WHERE imported = 1")?;
    let digests = statement.query_map([], |row| row.get(0).map(digest_from_sql))?;
    Ok(digests.collect::<Result<_, _>>()?)
}

pub(super) fn sealed_secrets(
    connection: &Connection,
    after: Option<&str>,
    limit: usize,
) -> StorageResult<Vec<(String, Vec<u8>)>> {
    // No id is empty: all are behind the empty one.
    let mut statement = connection.prepare_cached(
        "SELECT id, sealed_secret FROM keys WHERE id > ?1 AND sealed_secret IS NOT NULL \
         ORDER BY id LIMIT ?2",
    )?;
    let secrets = statement.query_map(params![after.unwrap_or(""), sql_limit(limit)], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })?;
    Ok(secrets.collect::<Result<_, _>>()?)
}

/// Replaces sealed secrets that are still there as they were read. Counts as a
/// change: one that was made from before it would bring back the old.
pub(super) fn replace_sealed_secrets(
    transaction: &Transaction<'_>,
    secrets: &[(String, Vec<u8>, Vec<u8>)],
) -> StorageResult<()> {
    let mut update = transaction.prepare_cached(
        "UPDATE keys SET sealed_secret = ?3, revision = revision + 1 \
         WHERE id = ?1 AND sealed_secret = ?2",
    )?;
    for (id, old, new) in secrets {
        update.execute(params![id, old, new])?;
    }
    Ok(())
}

/// Notes uses. A mark of a key that is not there is passed over.
pub(super) fn record_usage(
    transaction: &Transaction<'_>,
    marks: &[UsageMark],
) -> StorageResult<()> {
    // On the right of each `=` are the values from before.
    let mut update = transaction.prepare_cached(
        "UPDATE keys SET last_used_at = max(ifnull(last_used_at, 0), ?2), \
         last_used_source = iif(?2 >= ifnull(last_used_at, 0), ?4, last_used_source), \
         last_used_endpoint = iif(?2 >= ifnull(last_used_at, 0), ?5, last_used_endpoint), \
         money_moved_at = CASE WHEN ?3 IS NULL THEN money_moved_at \
         ELSE max(ifnull(money_moved_at, 0), ?3) END WHERE id = ?1",
    )?;
    for mark in marks {
        update.execute(params![
            mark.key_id,
            to_sql_int(mark.last_use.at),
            mark.money_moved_at.map(to_sql_int),
            mark.last_use.source.to_string(),
            mark.last_use.endpoint,
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
    after: Option<&str>,
    limit: usize,
) -> StorageResult<Vec<AccountRecord>> {
    // Behind an account that is not there, nothing is: nothing compares to NULL.
    let condition = match after {
        Some(_) => "WHERE seq > (SELECT seq FROM accounts WHERE id = ?1)",
        None => "WHERE ?1 IS NULL",
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {ACCOUNT_COLUMNS} FROM accounts {condition} ORDER BY seq LIMIT ?2"
    ))?;
    let mut rows = statement.query(params![after, sql_limit(limit)])?;
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
) -> StorageResult<()> {
    let updated = transaction
        .prepare_cached("UPDATE accounts SET organization = ?2 WHERE id = ?1")?
        .execute(params![account, organization])?;
    match updated {
        0 => Err(StorageError::Changed { id: account.to_owned() }),
        _ => Ok(()),
    }
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
        last_use: secs(18)?.map(|at| read_last_use(row, at)).transpose()?,
        attributes: serde_json::from_str(row.get_ref(19)?.as_str()?)?,
        imported: read_flag(row, 22)?,
        replaces: row.get(23)?,
        replaced_by: row.get(24)?,
        rotation: read_rotation(row, secs(25)?)?,
        end_noted: read_flag(row, 28)?,
        revision: secs(29)?.ok_or("no revision")?,
    })
}

fn read_last_use(row: &Row<'_>, at: u64) -> Result<LastUse, Source> {
    // Of a use from before 0002 only the time is known.
    let source: Option<String> = row.get(20)?;
    let endpoint: Option<String> = row.get(21)?;
    Ok(LastUse {
        at,
        source: match source {
            Some(source) => source.parse()?,
            None => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        },
        endpoint: endpoint.unwrap_or_default(),
    })
}

fn read_rotation(row: &Row<'_>, at: Option<u64>) -> Result<Option<RotationSchedule>, Source> {
    let every_days: Option<u32> = row.get(26)?;
    let overlap: Option<u32> = row.get(27)?;
    match (at, every_days, overlap) {
        (None, None, None) => Ok(None),
        (Some(at), every_days, Some(expire_current_in_minutes)) => {
            Ok(Some(RotationSchedule { at, every_days, expire_current_in_minutes }))
        }
        // A part of it alone would be another schedule, or none.
        _ => Err("half a rotation".into()),
    }
}

/// SQLite has no truth values, and takes every number but 0 for true.
fn read_flag(row: &Row<'_>, column: usize) -> Result<bool, Source> {
    let flag: i64 = row.get(column)?;
    match flag {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(format!("a flag of {other}").into()),
    }
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
