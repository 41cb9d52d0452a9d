//! What is asked for, as it comes over HTTP and as the policy is told it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    engine::contract::{
        Key,
        lifecycle::{KeyRequest, RotationSchedule as Schedule, StoredKey},
    },
    error::ApiError,
    storage::{KeyRecord, Mode, RotationSchedule},
};

/// A key that somebody wants, as it comes over HTTP.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// The future owner; left out by a key, and where there is only one account.
    #[serde(default)]
    pub account: Option<String>,
    /// Live or test. Live has to be said.
    #[serde(default)]
    pub livemode: bool,
    /// `restricted`, `secret`, `publishable`, `organization` or `managed`.
    pub kind: String,
    /// What people call it.
    #[serde(default)]
    pub name: String,
    /// Where it will be kept.
    #[serde(default)]
    pub note: String,
    /// What it may do.
    #[serde(default)]
    pub permissions: Vec<String>,
    /// What it may do on connected accounts.
    #[serde(default)]
    pub connect_permissions: Vec<String>,
    /// From where it may be used: IPv4 addresses and networks.
    #[serde(default)]
    pub ip_allowlist: Vec<String>,
    /// When it shall end, as RFC 3339.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
}

/// A key whose secret was made elsewhere, as it comes over HTTP.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(from = "ImportFields")]
pub struct ImportKey {
    /// SHA-256 of the whole secret, in lower-case hexadecimal.
    pub digest: String,
    /// The secret as it may be shown: its readable start, asterisks, and at most
    /// four characters of its end.
    pub redacted: String,
    /// What it shall be.
    #[serde(flatten)]
    pub key: CreateKey,
}

/// The fields of an [`ImportKey`] as they are read, side by side: through
/// `flatten` serde does not know any more which of them was wrong.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportFields {
    digest: String,
    redacted: String,
    #[serde(default)]
    account: Option<String>,
    #[serde(default)]
    livemode: bool,
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    note: String,
    #[serde(default)]
    permissions: Vec<String>,
    #[serde(default)]
    connect_permissions: Vec<String>,
    #[serde(default)]
    ip_allowlist: Vec<String>,
    #[serde(default)]
    expires_at: Option<Timestamp>,
}

impl From<ImportFields> for ImportKey {
    fn from(fields: ImportFields) -> Self {
        let ImportFields {
            digest,
            redacted,
            account,
            livemode,
            kind,
            name,
            note,
            permissions,
            connect_permissions,
            ip_allowlist,
            expires_at,
        } = fields;
        let key = CreateKey {
            account,
            livemode,
            kind,
            name,
            note,
            permissions,
            connect_permissions,
            ip_allowlist,
            expires_at,
        };
        Self { digest, redacted, key }
    }
}

/// What somebody wants changed, as it comes over HTTP. What is left out stays.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateKey {
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What it may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Vec<String>>,
    /// What it may do on connected accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_permissions: Option<Vec<String>>,
    /// From where it may be used. Empty: from everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_allowlist: Option<Vec<String>>,
}

/// How somebody wants a key rotated, as it comes over HTTP.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// How long the old key works beside its replacement, in minutes.
    #[serde(default)]
    pub expire_current_key_in_minutes: u32,
    /// The note of the replacement; left out: that of the old key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// When somebody wants a key rotated by the host, as it comes over HTTP.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleRotation {
    /// The first time, as RFC 3339.
    pub at: Timestamp,
    /// Again after this many days, and so on; left out: once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_days: Option<u32>,
    /// How long the old key works beside its replacement, in minutes.
    #[serde(default)]
    pub expire_current_key_in_minutes: u32,
}

/// Tells whether this is a secret as it may be shown: printable, with a gap that
/// hides nearly all of it.
pub(super) fn is_redacted(text: &str) -> bool {
    let (Some(first), Some(last)) = (text.find('*'), text.rfind('*')) else { return false };
    let (start, stars, end) = (&text[..first], &text[first..=last], &text[last + 1..]);
    let word =
        |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    text.len() <= 64
        && stars.len() >= 4
        && stars.bytes().all(|byte| byte == b'*')
        && start.len() <= 32
        && end.len() <= 4
        && word(start)
        && word(end)
}

pub(super) fn seconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_second()).unwrap_or_default()
}

/// Joins a list as the policy is told it.
pub(super) fn list(names: Option<&[String]>, param: &str) -> Result<Option<String>, ApiError> {
    let Some(names) = names else { return Ok(None) };
    // They travel as one list: a blank inside a name would make two.
    if names.iter().any(|name| name.is_empty() || name.contains(char::is_whitespace)) {
        let message = "an entry is empty or holds a blank".to_owned();
        return Err(ApiError::Invalid { param: param.to_owned(), message });
    }
    Ok(Some(names.join(" ")))
}

/// What is wanted of a new key, with its lists joined.
pub(super) struct Request<'a> {
    account: String,
    wanted: &'a CreateKey,
    permissions: String,
    connect_permissions: String,
    ip_allowlist: String,
}

impl<'a> Request<'a> {
    pub(super) fn new(account: String, wanted: &'a CreateKey) -> Result<Self, ApiError> {
        let list = |names, param| list(Some(names), param).map(Option::unwrap_or_default);
        Ok(Self {
            account,
            wanted,
            permissions: list(&wanted.permissions, "permissions")?,
            connect_permissions: list(&wanted.connect_permissions, "connect_permissions")?,
            ip_allowlist: list(&wanted.ip_allowlist, "ip_allowlist")?,
        })
    }

    pub(super) fn as_wit(&self) -> KeyRequest<'_> {
        KeyRequest {
            account: &self.account,
            mode: if self.wanted.livemode { Mode::Live } else { Mode::Test }.into(),
            kind: &self.wanted.kind,
            name: &self.wanted.name,
            note: &self.wanted.note,
            permissions: &self.permissions,
            connect_permissions: &self.connect_permissions,
            ip_allowlist: &self.ip_allowlist,
            ends_at: self.wanted.expires_at.map(seconds),
        }
    }
}

/// A key as the policy is told of it.
pub(super) struct Stored<'a> {
    record: &'a KeyRecord,
    key: Key,
}

impl<'a> Stored<'a> {
    pub(super) fn new(record: &'a KeyRecord) -> Self {
        Self { record, key: record.clone().into() }
    }

    pub(super) fn as_wit(&self) -> StoredKey<'_> {
        StoredKey {
            key: &self.key,
            name: &self.record.name,
            note: &self.record.note,
            has_secret: self.record.sealed_secret.is_some(),
            imported: self.record.imported,
            replaced_by: self.record.replaced_by.as_deref(),
            rotation: self.record.rotation.as_ref().map(|rotation| Schedule {
                at: rotation.at,
                every_days: rotation.every_days,
                expire_current_in_minutes: rotation.expire_current_in_minutes,
            }),
        }
    }
}

impl From<Schedule> for RotationSchedule {
    fn from(schedule: Schedule) -> Self {
        Self {
            at: schedule.at,
            every_days: schedule.every_days,
            expire_current_in_minutes: schedule.expire_current_in_minutes,
        }
    }
}
