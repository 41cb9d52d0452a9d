//! What the host keeps, and the promises every backend makes about it.
//!
//! The interface speaks in operations and not in SQL, so that a backend can be
//! SQLite in a folder or a database that several hosts share. Nothing outside
//! `storage/` names a database driver.
//!
//! # Invariants
//!
//! - "There is no such record" is an ordinary answer (`None`), never an error:
//!   a caller that cannot tell the two apart would refuse a good key when the
//!   disk is slow.
//! - An operation that writes has either happened whole and durably when it
//!   returns `Ok`, or has not happened at all. The request log alone is
//!   written without waiting for the disk.

use std::{error::Error, net::IpAddr, sync::Arc};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::secret::Digest;

#[cfg(test)]
pub(crate) mod contract;
#[cfg(test)]
pub(crate) mod double;
mod sqlite;

pub use self::sqlite::{OpenError, SqliteStorage};

/// Test or live: the two separate sets of keys and objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The sandbox.
    Test,
    /// The real thing.
    Live,
}

impl Mode {
    /// Returns `test` or `live`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Live => "live",
        }
    }

    /// Returns the mode of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "test" => Some(Self::Test),
            "live" => Some(Self::Live),
            _ => None,
        }
    }
}

/// An IPv4 network in an allowlist: the network's first address and its prefix
/// length, from 0 to 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Network {
    /// The address as a big-endian number.
    pub address: u32,
    /// How many leading bits count.
    pub prefix_length: u8,
}

/// A key as it is stored. It never holds the secret, only the digest and, where
/// the rules allow a later reveal, the sealed secret.
///
/// Times are whole seconds since 1970-01-01 UTC.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyRecord {
    /// The public name, `key_…`.
    pub id: String,
    /// The owner: an account (`acct_…`) or an organization (`org_…`).
    pub account: String,
    /// Which set of objects the key works on.
    pub mode: Mode,
    /// What the policy calls this kind of key: `secret`, `restricted`, ….
    pub kind: String,
    /// Who made it, in the policy's words: `platform`, `user`, ….
    pub origin: String,
    /// The readable start of the secret, without brand: `sk_live_`.
    pub prefix: String,
    /// The display form of the secret, safe to show.
    pub masked: String,
    /// SHA-256 of the secret. Unique.
    pub digest: Digest,
    /// The secret under the host's key-encryption key; `None` if it can never
    /// be revealed again.
    pub sealed_secret: Option<Vec<u8>>,
    /// The name a person gave it.
    pub name: String,
    /// Where a person said they stored it.
    pub note: String,
    /// Sorted, space-separated; `*` alone means unrestricted; empty grants nothing.
    pub permissions: String,
    /// The same, for acting on a connected account.
    pub connect_permissions: String,
    /// Empty: any source address.
    pub ipv4_networks: Vec<Ipv4Network>,
    /// When it was made.
    pub created_at: u64,
    /// From when on it no longer works; `None`: never.
    pub ends_at: Option<u64>,
    /// When its access was last restored.
    pub restored_at: Option<u64>,
    /// When it last moved money.
    pub money_moved_at: Option<u64>,
    /// When it was last used.
    pub last_used_at: Option<u64>,
    /// What the policy adds, as sorted name and value pairs.
    pub attributes: Vec<(String, String)>,
}

/// An account: it owns keys and objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccountRecord {
    /// `acct_…`.
    pub id: String,
    /// What a person calls it.
    pub name: String,
    /// The organization it is a member of, `org_…`.
    pub organization: Option<String>,
    /// The account that it is connected to (its platform), `acct_…`.
    pub platform: Option<String>,
    /// When it was made.
    pub created_at: u64,
}

/// An organization: it owns organization keys, and has accounts as members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OrganizationRecord {
    /// `org_…`.
    pub id: String,
    /// What a person calls it.
    pub name: String,
    /// When it was made.
    pub created_at: u64,
}

/// Which keys a list is about, newest first.
#[derive(Clone, Debug, Default)]
pub struct KeyFilter {
    /// Only keys of this owner.
    pub account: Option<String>,
    /// Only keys of this mode.
    pub mode: Option<Mode>,
    /// Leave out keys that have ended at this time.
    pub not_ended_at: Option<u64>,
    /// Start behind this key id.
    pub starting_after: Option<String>,
    /// At most this many.
    pub limit: usize,
}

/// What a batch of requests did with one key, coalesced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageMark {
    /// The key that was used.
    pub key_id: String,
    /// The latest use.
    pub last_used_at: u64,
    /// The latest use that moved money, if one did.
    pub money_moved_at: Option<u64>,
}

/// One decided request. Everything here is safe to show: it was scrubbed of
/// secrets before it got here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// When the request came, in milliseconds since 1970.
    pub at_ms: u64,
    /// `req_…`, as in the response.
    pub request_id: String,
    /// The key, if one was recognised, whatever the answer.
    pub key_id: Option<String>,
    /// The account acted on.
    pub account: Option<String>,
    /// The HTTP method.
    pub method: String,
    /// The path's template (`/v1/charges/:id`), or the scrubbed path where no
    /// template is known.
    pub path: String,
    /// The status answered.
    pub status: u16,
    /// The error code answered.
    pub code: Option<String>,
    /// The client's address.
    pub source: IpAddr,
    /// SHA-256 of the policy that decided; `None` if it did not come to that.
    pub policy: Option<Digest>,
    /// How long the decision took, in microseconds.
    pub decision_us: u32,
}

/// An object of the simulated API.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectRecord {
    /// The object's id, with its type's prefix.
    pub id: String,
    /// Where it is listed: the collection's path without `/v1/`, such as
    /// `customers` or `accounts/acct_1/persons`.
    pub collection: String,
    /// When it was made.
    pub created_at: u64,
    /// The object as it is served.
    pub body: Value,
}

/// A page of a list, newest first.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// At most this many objects.
    pub limit: usize,
    /// Only objects older than this one.
    pub starting_after: Option<String>,
    /// Only objects newer than this one.
    pub ending_before: Option<String>,
}

/// A finished answer that a repeated idempotency key gets again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// SHA-256 of method, path and body: another request under the same key is
    /// the caller's mistake.
    pub request_digest: Digest,
    /// The status answered.
    pub status: u16,
    /// The body answered.
    pub body: Vec<u8>,
}

/// Why storage could not answer.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The backend did not answer in time or at all. Trying again may help.
    #[error("storage is unavailable")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// A stored record does not decode. Trying again will not help.
    #[error("stored record `{id}` is damaged")]
    Damaged {
        /// The record's id.
        id: String,
        /// What is wrong with it.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A record of that id, digest or name is there already.
    #[error("record `{id}` exists already")]
    Exists {
        /// The id that was to be made.
        id: String,
    },
}

/// The result of a storage operation.
pub type StorageResult<T> = Result<T, StorageError>;

/// What the host keeps. See the [module's](self) invariants.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// Returns the key with this digest, ended ones included.
    async fn find_key_by_digest(&self, digest: Digest) -> StorageResult<Option<KeyRecord>>;

    /// Returns the key with this id.
    async fn find_key(&self, id: &str) -> StorageResult<Option<KeyRecord>>;

    /// Returns keys, newest first, at most `filter.limit`.
    async fn list_keys(&self, filter: KeyFilter) -> StorageResult<Vec<KeyRecord>>;

    /// Stores a new key.
    async fn create_key(&self, key: KeyRecord) -> StorageResult<()>;

    /// Returns the accounts of these ids, in the order asked.
    async fn find_accounts(&self, ids: Vec<String>) -> StorageResult<Vec<Option<AccountRecord>>>;

    /// Stores a new account together with its first keys, or nothing.
    async fn create_account(
        &self,
        account: AccountRecord,
        keys: Vec<KeyRecord>,
    ) -> StorageResult<()>;

    /// Returns all accounts, oldest first, at most `limit`.
    async fn list_accounts(&self, limit: usize) -> StorageResult<Vec<AccountRecord>>;

    /// Stores a new organization.
    async fn create_organization(&self, organization: OrganizationRecord) -> StorageResult<()>;

    /// Returns the organization with this id.
    async fn find_organization(&self, id: &str) -> StorageResult<Option<OrganizationRecord>>;

    /// Makes an account a member of an organization, or of none. Returns
    /// whether there is such an account.
    async fn set_organization(
        &self,
        account: &str,
        organization: Option<&str>,
    ) -> StorageResult<bool>;

    /// Notes uses of keys. A stored time never goes back.
    async fn record_usage(&self, marks: Vec<UsageMark>) -> StorageResult<()>;

    /// Appends to the request log and keeps it within its bound.
    async fn append_log(&self, entries: Arc<[LogEntry]>) -> StorageResult<()>;

    /// Returns the newest entries of the request log, of one key or of all.
    async fn recent_log(&self, key_id: Option<&str>, limit: usize) -> StorageResult<Vec<LogEntry>>;

    /// Returns an object of the simulated API.
    async fn find_object(
        &self,
        account: &str,
        mode: Mode,
        id: &str,
    ) -> StorageResult<Option<ObjectRecord>>;

    /// Returns objects of one collection, newest first, and whether there are
    /// more behind them.
    async fn list_objects(
        &self,
        account: &str,
        mode: Mode,
        collection: &str,
        page: Page,
    ) -> StorageResult<(Vec<ObjectRecord>, bool)>;

    /// Stores an object, new or changed.
    async fn put_object(
        &self,
        account: &str,
        mode: Mode,
        object: ObjectRecord,
    ) -> StorageResult<()>;

    /// Removes an object. Returns whether it was there.
    async fn delete_object(&self, account: &str, mode: Mode, id: &str) -> StorageResult<bool>;

    /// Returns what was answered under an idempotency key.
    async fn find_answer(
        &self,
        account: &str,
        mode: Mode,
        idempotency_key: &str,
    ) -> StorageResult<Option<StoredAnswer>>;

    /// Keeps an answer under an idempotency key. The first one stays.
    async fn keep_answer(
        &self,
        account: &str,
        mode: Mode,
        idempotency_key: &str,
        now: u64,
        answer: StoredAnswer,
    ) -> StorageResult<()>;

    /// Returns `Ok` if the backend answers.
    async fn ping(&self) -> StorageResult<()>;
}
