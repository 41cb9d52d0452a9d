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
//!   written without waiting for the disk, and dropped in parts.
//! - The audit log only grows, and each of its entries is sealed together with
//!   all before it: see [`audit`](crate::audit).

use std::{error::Error, path::Path, sync::Arc};

use async_trait::async_trait;

use crate::{audit::AuditKey, secret::Digest};

#[cfg(test)]
pub(crate) mod contract;
#[cfg(test)]
pub(crate) mod double;
mod records;
mod sqlite;

pub use self::{
    records::*,
    sqlite::{OpenError, SqliteStorage},
};

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
    /// Somebody else has changed the record since it was read. Nothing was
    /// stored: read it again, and decide anew.
    #[error("record `{id}` was changed meanwhile")]
    Changed {
        /// The record's id.
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

    /// Stores a change, its audit entries and its kept reply together, or
    /// nothing. `chain` seals the entries, behind those that are there, in the
    /// order given.
    ///
    /// Its parts may refer to each other: to an account or a key that is made in
    /// the same change. What is changed is changed after what is new was made.
    ///
    /// # Errors
    ///
    /// [`Changed`](StorageError::Changed) if a key has another revision or is not
    /// there, or an account is not there; and [`Exists`](StorageError::Exists) if
    /// a record or a kept reply of that name is there already. Its id is the
    /// idempotency key, then.
    async fn commit(&self, change: Change, chain: Arc<AuditKey>) -> StorageResult<()>;

    /// Returns keys whose scheduled rotation is due at `now`, the longest due
    /// first, without those that have ended. Whoever notes an end takes the
    /// schedule off, so that this need not pass over it each time. With `after`, it
    /// goes on behind those that a page at the same `now` has returned, whatever
    /// became of them.
    ///
    /// A key that is damaged is told of in its place: it keeps no other from its
    /// turn.
    async fn due_rotations(
        &self,
        now: u64,
        after: Option<DuePosition>,
        limit: usize,
    ) -> StorageResult<DuePage>;

    /// Returns keys that have ended at `now` and whose end was not seen to, the
    /// longest ended first, in pages as [`due_rotations`](Self::due_rotations) does.
    async fn unnoted_ends(
        &self,
        now: u64,
        after: Option<DuePosition>,
        limit: usize,
    ) -> StorageResult<DuePage>;

    /// Returns the digests of all imported keys.
    async fn imported_digests(&self) -> StorageResult<Vec<Digest>>;

    /// Returns the sealed secrets behind this key id, in the order of ids.
    async fn sealed_secrets(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> StorageResult<Vec<(String, Vec<u8>)>>;

    /// Puts newly sealed secrets in the place of old ones: key id, old, new. One
    /// that is no longer there as it was is passed over. Raises the revision of
    /// each key, so that a change made from before cannot bring the old one back.
    async fn replace_sealed_secrets(
        &self,
        secrets: Vec<(String, Vec<u8>, Vec<u8>)>,
    ) -> StorageResult<()>;

    /// Returns all policies, the newest first, without their bytes.
    async fn list_policies(&self) -> StorageResult<Vec<PolicyRecord>>;

    /// Returns policies whose digests lie between these two, both included, in the
    /// order of digests and without their bytes.
    async fn find_policies(
        &self,
        first: Digest,
        last: Digest,
        limit: usize,
    ) -> StorageResult<Vec<PolicyRecord>>;

    /// Returns a policy with its bytes, which are those that it is called after:
    /// anything else is damaged.
    async fn find_policy(&self, digest: Digest)
    -> StorageResult<Option<(PolicyRecord, Arc<[u8]>)>>;

    /// Returns the latest activations, the newest first. None: the standard
    /// policy was always in force.
    async fn list_activations(&self, limit: usize) -> StorageResult<Vec<Activation>>;

    /// Returns what was answered to a request with this idempotency key.
    async fn find_reply(
        &self,
        caller: &str,
        idempotency_key: &str,
    ) -> StorageResult<Option<KeptReply>>;

    /// Returns entries of the audit log.
    async fn list_audit(&self, filter: AuditFilter) -> StorageResult<Vec<SealedAuditEntry>>;

    /// Returns the accounts of these ids, in the order asked.
    async fn find_accounts(&self, ids: Vec<String>) -> StorageResult<Vec<Option<AccountRecord>>>;

    /// Returns accounts, oldest first, at most `limit`; those behind `after`.
    async fn list_accounts(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> StorageResult<Vec<AccountRecord>>;

    /// Returns the organization with this id.
    async fn find_organization(&self, id: &str) -> StorageResult<Option<OrganizationRecord>>;

    /// Notes uses of keys. A stored time never goes back, and source and endpoint
    /// are those of the latest use; of two in the same second, those of the mark
    /// that comes later.
    async fn record_usage(&self, marks: Vec<UsageMark>) -> StorageResult<()>;

    /// Appends to the request log and keeps it within its bound.
    async fn append_log(&self, entries: Arc<[LogEntry]>) -> StorageResult<()>;

    /// Returns entries of the request log with their positions.
    async fn find_log(&self, filter: LogFilter) -> StorageResult<Vec<(u64, LogEntry)>>;

    /// Drops entries of the request log that came before `log_before_ms`, and
    /// kept replies from before `replies_before` (in seconds). Returns how many
    /// entries.
    ///
    /// Entries go in the order in which they were appended. One that was appended
    /// behind a later one, as its request took long, goes with that.
    ///
    /// After an error a part of it may be done; the rest goes the next time.
    async fn drop_old(&self, log_before_ms: Option<u64>, replies_before: u64)
    -> StorageResult<u64>;

    /// Writes a copy of everything to a new file that only its owner can read,
    /// while the host runs. The copy is marked with `now`: a host that opens it
    /// knows that it is one.
    ///
    /// The file has its name only when it is whole and on the disk. It goes on to
    /// its end if the caller does not wait for it; copies are made one at a time.
    ///
    /// # Errors
    ///
    /// [`Exists`](StorageError::Exists) with the path if something is there.
    async fn back_up(&self, to: &Path, now: u64) -> StorageResult<()>;

    /// Returns when the copy was made that this storage began as, if it did and
    /// nobody has [accepted](Self::accept_backup) it yet.
    async fn backup_made_at(&self) -> StorageResult<Option<u64>>;

    /// Takes that mark off: the operator knows that this is an older state.
    async fn accept_backup(&self) -> StorageResult<()>;

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
