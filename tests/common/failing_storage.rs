//! Storage that fails, or does not answer, or is slow, when a test says so.

// Each suite uses a part of it.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each suite is a program of its own, and none uses all of it"
)]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use wardkey::{
    audit::AuditKey,
    secret::Digest,
    storage::{
        AccountRecord, Activation, AuditFilter, Change, DuePage, DuePosition, KeptReply, KeyFilter,
        KeyRecord, LogEntry, LogFilter, Mode, ObjectRecord, OrganizationRecord, Page, PolicyRecord,
        SealedAuditEntry, Storage, StorageError, StorageResult, StoredAnswer, UsageMark,
    },
};

/// How storage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// It answers.
    Well,
    /// It refuses everything.
    Failing,
    /// It answers nothing, until it is well again.
    Silent,
}

/// What a test holds of its storage.
#[derive(Clone)]
pub(crate) struct Switch(Arc<Shared>);

struct Shared {
    health: watch::Sender<Health>,
    hold_next: AtomicBool,
    held: Notify,
    release: Notify,
    reads: AtomicUsize,
    slow_ms: AtomicU64,
    /// How many operations are still done before storage fails.
    good_for: AtomicUsize,
}

impl Switch {
    /// Makes a switch for storage that is well.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            health: watch::Sender::new(Health::Well),
            hold_next: AtomicBool::new(false),
            held: Notify::new(),
            release: Notify::new(),
            reads: AtomicUsize::new(0),
            slow_ms: AtomicU64::new(0),
            good_for: AtomicUsize::new(usize::MAX),
        }))
    }

    /// Puts it before some storage.
    pub(crate) fn wrap(&self, inner: Arc<dyn Storage>) -> Arc<dyn Storage> {
        Arc::new(FailingStorage { inner, switch: self.clone() })
    }

    /// Makes storage well or ill.
    pub(crate) fn set(&self, health: Health) {
        self.0.good_for.store(usize::MAX, Ordering::SeqCst);
        self.0.health.send_replace(health);
    }

    /// Lets storage do so many operations more, and then refuse everything.
    pub(crate) fn fail_after(&self, operations: usize) {
        self.0.good_for.store(operations, Ordering::SeqCst);
    }

    /// Holds back what the next read finds, until it is released.
    pub(crate) fn hold_next(&self) {
        self.0.hold_next.store(true, Ordering::SeqCst);
    }

    /// Waits until a read is held back.
    pub(crate) async fn held(&self) {
        self.0.held.notified().await;
    }

    /// Lets the read go that is held back.
    pub(crate) fn release(&self) {
        self.0.release.notify_one();
    }

    /// Returns how many keys and lists of accounts were asked for.
    pub(crate) fn reads(&self) -> usize {
        self.0.reads.load(Ordering::SeqCst)
    }

    /// Keeps back, from now on and for so long, whatever storage has done. What
    /// was read is that much older when it arrives.
    pub(crate) fn slow_down(&self, by: Duration) {
        self.0.slow_ms.store(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }

    async fn keep_back(&self) {
        let slow_ms = self.0.slow_ms.load(Ordering::SeqCst);
        if slow_ms > 0 {
            tokio::time::sleep(Duration::from_millis(slow_ms)).await;
        }
    }

    async fn ready(&self) -> StorageResult<()> {
        let mut health = self.0.health.subscribe();
        let health = health.wait_for(|health| *health != Health::Silent).await;
        let one_less = |left: usize| match left {
            usize::MAX => Some(left),
            left => left.checked_sub(1),
        };
        let good_for = &self.0.good_for;
        let is_good = good_for.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok();
        match health.as_deref() {
            Ok(Health::Well) if is_good => Ok(()),
            _ => Err(StorageError::Unavailable("switched off by a test".into())),
        }
    }

    /// One read of what requests are decided by.
    async fn read<T>(&self, read: impl Future<Output = StorageResult<T>>) -> StorageResult<T> {
        self.0.reads.fetch_add(1, Ordering::SeqCst);
        self.ready().await?;
        let hold = self.0.hold_next.swap(false, Ordering::SeqCst);
        let found = read.await;
        self.keep_back().await;
        if hold {
            self.0.held.notify_one();
            self.0.release.notified().await;
        }
        found
    }
}

struct FailingStorage {
    inner: Arc<dyn Storage>,
    switch: Switch,
}

/// Writes each operation as: wait until storage is well, and pass it on.
macro_rules! pass_on {
    ($($name:ident($($arg:ident: $type:ty),*) -> $found:ty;)*) => {
        #[async_trait]
        impl Storage for FailingStorage {
            async fn find_key_by_digest(&self, digest: Digest) -> StorageResult<Option<KeyRecord>> {
                self.switch.read(self.inner.find_key_by_digest(digest)).await
            }

            async fn find_accounts(
                &self,
                ids: Vec<String>,
            ) -> StorageResult<Vec<Option<AccountRecord>>> {
                self.switch.read(self.inner.find_accounts(ids)).await
            }

            $(async fn $name(&self, $($arg: $type),*) -> StorageResult<$found> {
                self.switch.ready().await?;
                let done = self.inner.$name($($arg),*).await;
                self.switch.keep_back().await;
                done
            })*
        }
    };
}

pass_on! {
    find_key(id: &str) -> Option<KeyRecord>;
    list_keys(filter: KeyFilter) -> Vec<KeyRecord>;
    commit(change: Change, chain: Arc<AuditKey>) -> ();
    due_rotations(now: u64, after: Option<DuePosition>, limit: usize) -> DuePage;
    unnoted_ends(now: u64, after: Option<DuePosition>, limit: usize) -> DuePage;
    imported_digests() -> Vec<Digest>;
    sealed_secrets(after: Option<&str>, limit: usize) -> Vec<(String, Vec<u8>)>;
    replace_sealed_secrets(secrets: Vec<(String, Vec<u8>, Vec<u8>)>) -> ();
    list_policies() -> Vec<PolicyRecord>;
    find_policies(first: Digest, last: Digest, limit: usize) -> Vec<PolicyRecord>;
    find_policy(digest: Digest) -> Option<(PolicyRecord, Arc<[u8]>)>;
    list_activations(limit: usize) -> Vec<Activation>;
    find_reply(caller: &str, idempotency_key: &str) -> Option<KeptReply>;
    list_audit(filter: AuditFilter) -> Vec<SealedAuditEntry>;
    list_accounts(after: Option<&str>, limit: usize) -> Vec<AccountRecord>;
    find_organization(id: &str) -> Option<OrganizationRecord>;
    record_usage(marks: Vec<UsageMark>) -> ();
    append_log(entries: Arc<[LogEntry]>) -> ();
    find_log(filter: LogFilter) -> Vec<(u64, LogEntry)>;
    drop_old(log_before_ms: Option<u64>, replies_before: u64) -> u64;
    back_up(to: &Path, now: u64) -> ();
    backup_made_at() -> Option<u64>;
    accept_backup() -> ();
    find_object(account: &str, mode: Mode, id: &str) -> Option<ObjectRecord>;
    list_objects(account: &str, mode: Mode, collection: &str, page: Page)
        -> (Vec<ObjectRecord>, bool);
    put_object(account: &str, mode: Mode, object: ObjectRecord) -> ();
    delete_object(account: &str, mode: Mode, id: &str) -> bool;
    find_answer(account: &str, mode: Mode, idempotency_key: &str) -> Option<StoredAnswer>;
    keep_answer(account: &str, mode: Mode, idempotency_key: &str, now: u64, answer: StoredAnswer)
        -> ();
    ping() -> ();
}
