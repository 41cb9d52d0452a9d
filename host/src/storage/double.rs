//! A storage for tests of what writes in the background: it keeps log entries
//! and usage marks in memory, and answers when and as a test tells it to.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::Semaphore;

use super::*;

/// Keeps what it is given once [`answer`](Self::answer) lets it.
pub(crate) struct GatedStorage {
    gate: Semaphore,
    // How many operations wait at the gate, or have passed it.
    arrivals: Semaphore,
    failing: AtomicBool,
    largest_batch: AtomicUsize,
    log: Mutex<Vec<LogEntry>>,
    usage: Mutex<Vec<UsageMark>>,
}

impl GatedStorage {
    /// A storage that does not answer yet.
    pub(crate) fn stalled() -> Self {
        Self {
            gate: Semaphore::new(0),
            arrivals: Semaphore::new(0),
            failing: AtomicBool::new(false),
            largest_batch: AtomicUsize::new(0),
            log: Mutex::default(),
            usage: Mutex::default(),
        }
    }

    /// A storage that answers at once.
    pub(crate) fn answering() -> Self {
        let storage = Self::stalled();
        storage.answer(Semaphore::MAX_PERMITS);
        storage
    }

    /// Lets this many operations pass.
    pub(crate) fn answer(&self, operations: usize) {
        self.gate.add_permits(operations);
    }

    /// Makes operations that pass the gate fail, or succeed again.
    pub(crate) fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    /// Waits until one more operation has come to the gate.
    pub(crate) async fn arrival(&self) {
        self.arrivals.acquire().await.unwrap().forget();
    }

    pub(crate) fn log(&self) -> Vec<LogEntry> {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn usage(&self) -> Vec<UsageMark> {
        self.usage.lock().unwrap().clone()
    }

    pub(crate) fn largest_batch(&self) -> usize {
        self.largest_batch.load(Ordering::SeqCst)
    }

    async fn pass(&self, batch: usize) -> StorageResult<()> {
        self.arrivals.add_permits(1);
        self.gate.acquire().await.unwrap().forget();
        self.largest_batch.fetch_max(batch, Ordering::SeqCst);
        match self.failing.load(Ordering::SeqCst) {
            true => Err(StorageError::Unavailable("told to fail".into())),
            false => Ok(()),
        }
    }
}

fn not_kept<T>() -> StorageResult<T> {
    Err(StorageError::Unavailable("only log and usage are kept".into()))
}

#[async_trait]
impl Storage for GatedStorage {
    async fn record_usage(&self, marks: Vec<UsageMark>) -> StorageResult<()> {
        self.pass(marks.len()).await?;
        self.usage.lock().unwrap().extend(marks);
        Ok(())
    }

    async fn append_log(&self, entries: Arc<[LogEntry]>) -> StorageResult<()> {
        self.pass(entries.len()).await?;
        self.log.lock().unwrap().extend(entries.iter().cloned());
        Ok(())
    }

    async fn find_key_by_digest(&self, _: Digest) -> StorageResult<Option<KeyRecord>> {
        not_kept()
    }

    async fn find_key(&self, _: &str) -> StorageResult<Option<KeyRecord>> {
        not_kept()
    }

    async fn list_keys(&self, _: KeyFilter) -> StorageResult<Vec<KeyRecord>> {
        not_kept()
    }

    async fn commit(&self, _: Change, _: Arc<AuditKey>) -> StorageResult<()> {
        not_kept()
    }

    async fn due_rotations(
        &self,
        _: u64,
        _: Option<DuePosition>,
        _: usize,
    ) -> StorageResult<DuePage> {
        not_kept()
    }

    async fn unnoted_ends(
        &self,
        _: u64,
        _: Option<DuePosition>,
        _: usize,
    ) -> StorageResult<DuePage> {
        not_kept()
    }

    async fn imported_digests(&self) -> StorageResult<Vec<Digest>> {
        not_kept()
    }

    async fn sealed_secrets(
        &self,
        _: Option<&str>,
        _: usize,
    ) -> StorageResult<Vec<(String, Vec<u8>)>> {
        not_kept()
    }

    async fn replace_sealed_secrets(
        &self,
        _: Vec<(String, Vec<u8>, Vec<u8>)>,
    ) -> StorageResult<()> {
        not_kept()
    }

    async fn list_policies(&self) -> StorageResult<Vec<PolicyRecord>> {
        not_kept()
    }

    async fn find_policies(
        &self,
        _: Digest,
        _: Digest,
        _: usize,
    ) -> StorageResult<Vec<PolicyRecord>> {
        not_kept()
    }

    async fn find_policy(&self, _: Digest) -> StorageResult<Option<(PolicyRecord, Arc<[u8]>)>> {
        not_kept()
    }

    async fn list_activations(&self, _: usize) -> StorageResult<Vec<Activation>> {
        not_kept()
    }

    async fn find_reply(&self, _: &str, _: &str) -> StorageResult<Option<KeptReply>> {
        not_kept()
    }

    async fn list_audit(&self, _: AuditFilter) -> StorageResult<Vec<SealedAuditEntry>> {
        not_kept()
    }

    async fn find_accounts(&self, _: Vec<String>) -> StorageResult<Vec<Option<AccountRecord>>> {
        not_kept()
    }

    async fn list_accounts(&self, _: Option<&str>, _: usize) -> StorageResult<Vec<AccountRecord>> {
        not_kept()
    }

    async fn find_organization(&self, _: &str) -> StorageResult<Option<OrganizationRecord>> {
        not_kept()
    }

    async fn find_log(&self, _: LogFilter) -> StorageResult<Vec<(u64, LogEntry)>> {
        not_kept()
    }

    async fn drop_old(&self, _: Option<u64>, _: u64) -> StorageResult<u64> {
        not_kept()
    }

    async fn back_up(&self, _: &Path, _: u64) -> StorageResult<()> {
        not_kept()
    }

    async fn backup_made_at(&self) -> StorageResult<Option<u64>> {
        not_kept()
    }

    async fn accept_backup(&self) -> StorageResult<()> {
        not_kept()
    }

    async fn find_object(&self, _: &str, _: Mode, _: &str) -> StorageResult<Option<ObjectRecord>> {
        not_kept()
    }

    async fn list_objects(
        &self,
        _: &str,
        _: Mode,
        _: &str,
        _: Page,
    ) -> StorageResult<(Vec<ObjectRecord>, bool)> {
        not_kept()
    }

    async fn put_object(&self, _: &str, _: Mode, _: ObjectRecord) -> StorageResult<()> {
        not_kept()
    }

    async fn delete_object(&self, _: &str, _: Mode, _: &str) -> StorageResult<bool> {
        not_kept()
    }

    async fn find_answer(&self, _: &str, _: Mode, _: &str) -> StorageResult<Option<StoredAnswer>> {
        not_kept()
    }

    async fn keep_answer(
        &self,
        _: &str,
        _: Mode,
        _: &str,
        _: u64,
        _: StoredAnswer,
    ) -> StorageResult<()> {
        not_kept()
    }

    async fn ping(&self) -> StorageResult<()> {
        not_kept()
    }
}
