//! Storage in one SQLite file.
//!
//! The file is in write-ahead mode and belongs to one process: the data
//! directory's lock sees to that. One thread writes, and a few connections read
//! meanwhile; see `connections`.
//!
//! # Invariants
//!
//! - Everything but the request log, and what is dropped for its age, is on the
//!   disk before `Ok` is returned.
//! - A record that does not decode is [`StorageError::Damaged`], never skipped
//!   and never filled in: a key that lost its restrictions must not be used. Where
//!   the host looks for what is due, it is that in its place, as it must not keep
//!   the others from their turn.

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, ffi};

use self::connections::{Durability, Readers, Writer};
use super::{
    AccountRecord, Activation, AuditFilter, Change, DuePage, DuePosition, KeptReply, KeyFilter,
    KeyRecord, LogEntry, LogFilter, Mode, ObjectRecord, OrganizationRecord, Page, PolicyRecord,
    SealedAuditEntry, Storage, StorageError, StorageResult, StoredAnswer, UsageMark,
};
use crate::{audit::AuditKey, secret::Digest};

mod backup;
mod commit;
mod connections;
mod keys;
mod log;
mod migrations;
mod objects;
mod policies;

/// How many rows the request log holds: three weeks at one request every two
/// seconds, or the last minutes of a busy host, in about 250 MB of disk. The
/// oldest rows give way.
const MAX_LOG_ROWS: u64 = 1_000_000;

/// How many answers to repeated requests are kept, whatever their age: with
/// bodies of a few kilobytes, some hundred megabytes of disk. The oldest give
/// way.
const MAX_ANSWERS: u64 = 100_000;

/// How many connections read: enough that a long list holds up no look-up, few
/// enough that their page caches (2 MiB each) do not count.
const READERS: usize = 4;

/// How many outlived rows are dropped at once: about 10 ms of the thread that
/// writes, which is how long another write may have to wait.
const MAX_DROPPED_AT_ONCE: u64 = 10_000;

/// How long SQLite waits for a lock. This process never meets one; a person who
/// looks into the file or backs it up may hold one for a moment.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How large the write-ahead log's file may stay, in bytes. It grows beyond this
/// while a reader holds back a checkpoint, and is cut afterwards.
const MAX_IDLE_WAL_BYTES: i64 = 64 * 1024 * 1024;

/// The writer's page cache, in KiB: holds the parts of the index of the log that
/// a batch writes to, so that it need not read them first.
const WRITER_CACHE_KIB: i64 = 16 * 1024;

/// Why a database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A newer host has written it. Nothing was changed.
    #[error(
        "the database has schema version {found}, and this version of wardkey knows none \
         after {known}: run the version that wrote it, or a newer one"
    )]
    Newer {
        /// The schema version found.
        found: i64,
        /// The newest one that this host knows.
        known: i64,
    },
    /// The file is something else. Nothing was changed.
    #[error("the file is not a wardkey database")]
    Foreign,
    /// The file cannot be read or written.
    #[error("the database cannot be opened")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
}

impl From<rusqlite::Error> for OpenError {
    fn from(err: rusqlite::Error) -> Self {
        match err.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::Foreign,
            _ => Self::Unavailable(err.into()),
        }
    }
}

/// Storage in one SQLite file.
///
/// Dropping it waits for the writes that were handed over, and closes the file.
pub struct SqliteStorage {
    path: PathBuf,
    readers: Arc<Readers>,
    writer: Writer,
    // Held while a copy is made: one at a time, so that neither the disk nor a
    // file of the same name is fought over.
    backing_up: Arc<tokio::sync::Mutex<()>>,
    bounds: Bounds,
}

/// The bounds of what would otherwise grow for ever. Smaller in tests.
#[derive(Clone, Copy)]
struct Bounds {
    log_rows: u64,
    answers: u64,
}

impl SqliteStorage {
    /// Opens the database, makes it if the file is missing or empty, and brings
    /// it to the newest schema. Blocks.
    ///
    /// # Errors
    ///
    /// [`Newer`](OpenError::Newer) and [`Foreign`](OpenError::Foreign) leave the
    /// file as it was.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let bounds = Bounds { log_rows: MAX_LOG_ROWS, answers: MAX_ANSWERS };
        Self::open_bounded(path, bounds)
    }

    fn open_bounded(path: &Path, bounds: Bounds) -> Result<Self, OpenError> {
        let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        migrations::check(&connection)?;
        set_up_writer(&connection)?;
        migrations::migrate(&mut connection)?;
        let readers = (0..READERS)
            .map(|_| connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            path: path.to_owned(),
            readers: Readers::new(readers),
            writer: Writer::start(connection).map_err(|err| OpenError::Unavailable(err.into()))?,
            backing_up: Arc::default(),
            bounds,
        })
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Connection) -> StorageResult<T> + Send + 'static,
    ) -> StorageResult<T> {
        self.readers.read(read).await
    }

    /// Writes, and waits for the disk.
    async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&rusqlite::Transaction<'_>) -> StorageResult<T> + Send + 'static,
    ) -> StorageResult<T> {
        self.writer.write(Durability::Flushed, write).await
    }
}

impl Drop for SqliteStorage {
    fn drop(&mut self) {
        // Before the writer: the last connection folds the write-ahead log into
        // the file, which one that only reads cannot do.
        self.readers.close();
    }
}

#[async_trait]
impl Storage for SqliteStorage {
    async fn find_key_by_digest(&self, digest: Digest) -> StorageResult<Option<KeyRecord>> {
        self.read(move |db| keys::find_by_digest(db, digest)).await
    }

    async fn find_key(&self, id: &str) -> StorageResult<Option<KeyRecord>> {
        let id = id.to_owned();
        self.read(move |db| keys::find_by_id(db, &id)).await
    }

    async fn list_keys(&self, filter: KeyFilter) -> StorageResult<Vec<KeyRecord>> {
        self.read(move |db| keys::list(db, &filter)).await
    }

    async fn commit(&self, change: Change, chain: Arc<AuditKey>) -> StorageResult<()> {
        self.write(move |tx| commit::commit(tx, &change, &chain)).await
    }

    async fn due_rotations(
        &self,
        now: u64,
        after: Option<DuePosition>,
        limit: usize,
    ) -> StorageResult<DuePage> {
        self.read(move |db| keys::ROTATIONS.find(db, now, after, limit)).await
    }

    async fn unnoted_ends(
        &self,
        now: u64,
        after: Option<DuePosition>,
        limit: usize,
    ) -> StorageResult<DuePage> {
        self.read(move |db| keys::ENDS.find(db, now, after, limit)).await
    }

    async fn imported_digests(&self) -> StorageResult<Vec<Digest>> {
        self.read(|db| keys::imported_digests(db)).await
    }

    async fn sealed_secrets(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> StorageResult<Vec<(String, Vec<u8>)>> {
        let after = after.map(str::to_owned);
        self.read(move |db| keys::sealed_secrets(db, after.as_deref(), limit)).await
    }

    async fn replace_sealed_secrets(
        &self,
        secrets: Vec<(String, Vec<u8>, Vec<u8>)>,
    ) -> StorageResult<()> {
        self.write(move |tx| keys::replace_sealed_secrets(tx, &secrets)).await
    }

    async fn list_policies(&self) -> StorageResult<Vec<PolicyRecord>> {
        self.read(|db| policies::list(db)).await
    }

    async fn find_policies(
        &self,
        first: Digest,
        last: Digest,
        limit: usize,
    ) -> StorageResult<Vec<PolicyRecord>> {
        self.read(move |db| policies::between(db, first, last, limit)).await
    }

    async fn find_policy(
        &self,
        digest: Digest,
    ) -> StorageResult<Option<(PolicyRecord, Arc<[u8]>)>> {
        self.read(move |db| policies::find(db, digest)).await
    }

    async fn list_activations(&self, limit: usize) -> StorageResult<Vec<Activation>> {
        self.read(move |db| policies::activations(db, limit)).await
    }

    async fn find_reply(
        &self,
        caller: &str,
        idempotency_key: &str,
    ) -> StorageResult<Option<KeptReply>> {
        let (caller, idempotency_key) = (caller.to_owned(), idempotency_key.to_owned());
        self.read(move |db| commit::find_reply(db, &caller, &idempotency_key)).await
    }

    async fn list_audit(&self, filter: AuditFilter) -> StorageResult<Vec<SealedAuditEntry>> {
        self.read(move |db| commit::list_audit(db, &filter)).await
    }

    async fn find_accounts(&self, ids: Vec<String>) -> StorageResult<Vec<Option<AccountRecord>>> {
        self.read(move |db| {
            // One view of all of them: an account and its platform belong together.
            let view = db.transaction()?;
            ids.iter().map(|id| keys::find_account(&view, id)).collect()
        })
        .await
    }

    async fn list_accounts(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> StorageResult<Vec<AccountRecord>> {
        let after = after.map(str::to_owned);
        self.read(move |db| keys::list_accounts(db, after.as_deref(), limit)).await
    }

    async fn find_organization(&self, id: &str) -> StorageResult<Option<OrganizationRecord>> {
        let id = id.to_owned();
        self.read(move |db| keys::find_organization(db, &id)).await
    }

    async fn record_usage(&self, marks: Vec<UsageMark>) -> StorageResult<()> {
        self.write(move |tx| keys::record_usage(tx, &marks)).await
    }

    async fn append_log(&self, entries: Arc<[LogEntry]>) -> StorageResult<()> {
        let max_rows = self.bounds.log_rows;
        self.writer.write(Durability::Relaxed, move |tx| log::append(tx, &entries, max_rows)).await
    }

    async fn find_log(&self, filter: LogFilter) -> StorageResult<Vec<(u64, LogEntry)>> {
        self.read(move |db| log::find(db, &filter)).await
    }

    async fn drop_old(
        &self,
        log_before_ms: Option<u64>,
        replies_before: u64,
    ) -> StorageResult<u64> {
        // In parts, between which others write. One that is lost in a power cut
        // is dropped again: it need not be waited for.
        const PART: u64 = MAX_DROPPED_AT_ONCE;
        let drop_replies = move || {
            self.writer.write(Durability::Relaxed, move |tx| {
                commit::drop_replies(tx, replies_before, PART)
            })
        };
        while drop_replies().await? == PART {}
        let Some(before_ms) = log_before_ms else {
            return Ok(0);
        };
        let mut total = 0;
        loop {
            let dropped = self
                .writer
                .write(Durability::Relaxed, move |tx| log::drop_old(tx, before_ms, PART))
                .await?;
            total += dropped;
            if dropped < PART {
                return Ok(total);
            }
        }
    }

    async fn back_up(&self, to: &Path, now: u64) -> StorageResult<()> {
        let turn = Arc::clone(&self.backing_up).lock_owned().await;
        let (database, to) = (self.path.clone(), to.to_owned());
        // Not one of the readers: it takes longer than a read may.
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            backup::back_up(&database, &to, now)
        })
        .await
        .map_err(unavailable)?
    }

    async fn backup_made_at(&self) -> StorageResult<Option<u64>> {
        self.read(|db| backup::made_at(db)).await
    }

    async fn accept_backup(&self) -> StorageResult<()> {
        self.write(backup::accept).await
    }

    async fn find_object(
        &self,
        account: &str,
        mode: Mode,
        id: &str,
    ) -> StorageResult<Option<ObjectRecord>> {
        let (account, id) = (account.to_owned(), id.to_owned());
        self.read(move |db| objects::find(db, &account, mode, &id)).await
    }

    async fn list_objects(
        &self,
        account: &str,
        mode: Mode,
        collection: &str,
        page: Page,
    ) -> StorageResult<(Vec<ObjectRecord>, bool)> {
        let (account, collection) = (account.to_owned(), collection.to_owned());
        self.read(move |db| objects::list(db, &account, mode, &collection, &page)).await
    }

    async fn put_object(
        &self,
        account: &str,
        mode: Mode,
        object: ObjectRecord,
    ) -> StorageResult<()> {
        let account = account.to_owned();
        self.write(move |tx| objects::put(tx, &account, mode, &object)).await
    }

    async fn delete_object(&self, account: &str, mode: Mode, id: &str) -> StorageResult<bool> {
        let (account, id) = (account.to_owned(), id.to_owned());
        self.write(move |tx| objects::delete(tx, &account, mode, &id)).await
    }

    async fn find_answer(
        &self,
        account: &str,
        mode: Mode,
        idempotency_key: &str,
    ) -> StorageResult<Option<StoredAnswer>> {
        let (account, idempotency_key) = (account.to_owned(), idempotency_key.to_owned());
        self.read(move |db| objects::find_answer(db, &account, mode, &idempotency_key)).await
    }

    async fn keep_answer(
        &self,
        account: &str,
        mode: Mode,
        idempotency_key: &str,
        now: u64,
        answer: StoredAnswer,
    ) -> StorageResult<()> {
        let (account, idempotency_key) = (account.to_owned(), idempotency_key.to_owned());
        let max_answers = self.bounds.answers;
        self.write(move |tx| {
            objects::keep_answer(tx, &account, mode, &idempotency_key, now, &answer, max_answers)
        })
        .await
    }

    async fn ping(&self) -> StorageResult<()> {
        // A page of the file, so that a disk that went away is noticed.
        self.read(|db| Ok(db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?))
            .await
    }
}

fn connect(path: &Path, access: OpenFlags) -> Result<Connection, OpenError> {
    // No mutex: each connection is used by one thread at a time, which the
    // compiler checks. Created if missing only by the one that writes.
    let mut flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if access.contains(OpenFlags::SQLITE_OPEN_READ_WRITE) {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // More than there are different statements, so that none is compiled twice.
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn set_up_writer(connection: &Connection) -> Result<(), OpenError> {
    let journal: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if journal != "wal" {
        // Network file systems lack the shared memory that readers need.
        let reason = "the file system does not support write-ahead logging";
        return Err(OpenError::Unavailable(reason.into()));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    // On macOS an ordinary flush stops at the drive's cache. No effect elsewhere.
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "journal_size_limit", MAX_IDLE_WAL_BYTES)?;
    // Negative means KiB.
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    Ok(())
}

type Source = Box<dyn Error + Send + Sync>;

/// Everything that SQLite reports and that is not told apart below.
impl From<rusqlite::Error> for StorageError {
    fn from(err: rusqlite::Error) -> Self {
        unavailable(err)
    }
}

fn unavailable(source: impl Into<Source>) -> StorageError {
    StorageError::Unavailable(source.into())
}

/// The error of a row that does not decode. Its first column is its id.
fn damaged(row: &Row<'_>, source: Source) -> StorageError {
    StorageError::Damaged { id: row.get(0).unwrap_or_default(), source }
}

fn insert_error(id: &str, err: rusqlite::Error) -> StorageError {
    match err.sqlite_error().map(|err| err.extended_code) {
        Some(ffi::SQLITE_CONSTRAINT_UNIQUE) => StorageError::Exists { id: id.to_owned() },
        _ => err.into(),
    }
}

/// SQLite's integers are signed. What does not fit is a time after the end of
/// the sun or a limit beyond all rows: the largest number means the same.
fn to_sql_int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn digest_to_sql(digest: Digest) -> [u8; 32] {
    let (a, b, c, d) = digest.to_words();
    let mut bytes = [0; 32];
    for (part, word) in bytes.chunks_exact_mut(8).zip([a, b, c, d]) {
        part.copy_from_slice(&word.to_be_bytes());
    }
    bytes
}

fn digest_from_sql(bytes: [u8; 32]) -> Digest {
    let mut words = [0; 4];
    for (word, part) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_be_bytes(*part);
    }
    let [a, b, c, d] = words;
    Digest::from_words((a, b, c, d))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::{
        audit::ChainVerifier,
        storage::{
            LastUse,
            contract::{self, CHAIN, audit_entry, commit, create_key, entry, key, verified_head},
        },
    };

    const SMALL: Bounds = Bounds { log_rows: 10, answers: 10 };

    fn empty() -> (Arc<dyn Storage>, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Arc::new(open(&dir)), dir)
    }

    fn open(dir: &TempDir) -> SqliteStorage {
        SqliteStorage::open(&dir.path().join("test.db")).unwrap()
    }

    /// Someone else's connection to the same file, which checks nothing.
    fn intrude(dir: &TempDir) -> Connection {
        let connection = Connection::open(dir.path().join("test.db")).unwrap();
        connection.pragma_update(None, "ignore_check_constraints", true).unwrap();
        connection
    }

    async fn log(storage: &dyn Storage, key_id: Option<&str>, limit: usize) -> Vec<LogEntry> {
        let key_id = key_id.map(str::to_owned);
        let found = storage.find_log(LogFilter { key_id, limit, ..LogFilter::default() }).await;
        found.unwrap().into_iter().map(|(_, entry)| entry).collect()
    }

    contract::storage_contract!(empty);

    #[tokio::test]
    async fn what_was_stored_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let storage = open(&dir);
        create_key(&storage, key(1)).await.unwrap();
        storage.append_log([entry(1, Some("key_1"))].into()).await.unwrap();
        drop(storage);
        let names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(names, ["test.db"], "the write-ahead log is folded in");

        let storage = open(&dir);
        assert_eq!(storage.find_key("key_1").await.unwrap(), Some(key(1)));
        assert_eq!(log(&storage, None, 9).await, [entry(1, Some("key_1"))]);
    }

    #[tokio::test]
    async fn a_write_whose_caller_has_gone_runs_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let storage = open(&dir);
        let change = Change { new_keys: vec![key(1)], ..Change::default() };
        let mut create = storage.commit(change, Arc::clone(&CHAIN));
        // Polled once, it is handed over; then its caller loses interest.
        let waker = std::task::Waker::noop();
        let polled = create.as_mut().poll(&mut std::task::Context::from_waker(waker));
        assert!(polled.is_pending());
        drop(create);
        drop(storage);
        let found = open(&dir).find_key("key_1").await.unwrap();
        assert_eq!(found, Some(key(1)));
    }

    #[tokio::test]
    async fn a_panic_is_rolled_back_and_stops_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let storage = open(&dir);
        let panicked: StorageResult<()> = storage
            .write(|tx| {
                keys::create(tx, &key(1)).unwrap();
                panic!("a bug");
            })
            .await;
        assert!(matches!(panicked, Err(StorageError::Unavailable(_))));
        for _ in 0..=READERS {
            let panicked: StorageResult<()> = storage.read(|_| panic!("a bug")).await;
            assert!(matches!(panicked, Err(StorageError::Unavailable(_))));
        }
        assert_eq!(storage.find_key("key_1").await.unwrap(), None);
        create_key(&storage, key(1)).await.unwrap();
    }

    #[tokio::test]
    async fn a_read_does_not_wait_for_a_write() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Arc::new(open(&dir));
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let (started, starting) = tokio::sync::oneshot::channel();
        let writing = Arc::clone(&storage);
        let write = tokio::spawn(async move {
            writing
                .write(move |tx| {
                    keys::create(tx, &key(1))?;
                    started.send(()).unwrap();
                    wait.recv().unwrap();
                    Ok(())
                })
                .await
        });
        starting.await.unwrap();
        assert_eq!(storage.find_key("key_1").await.unwrap(), None);
        go_on.send(()).unwrap();
        write.await.unwrap().unwrap();
        assert_eq!(storage.find_key("key_1").await.unwrap(), Some(key(1)));
    }

    #[test]
    fn only_a_database_of_ours_is_opened() {
        let rows = [
            ("PRAGMA user_version = 99", "newer"),
            ("PRAGMA application_id = 7", "foreign"),
            ("PRAGMA application_id = 0", "foreign"),
        ];
        for (sql, expected) in rows {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("test.db");
            drop(SqliteStorage::open(&path).unwrap());
            Connection::open(&path).unwrap().execute_batch(sql).unwrap();
            let before = std::fs::read(&path).unwrap();
            let found = match SqliteStorage::open(&path).err() {
                Some(OpenError::Newer { found: 99, .. }) => "newer",
                Some(OpenError::Foreign) => "foreign",
                other => panic!("{sql}: {other:?}"),
            };
            assert_eq!(found, expected, "{sql}");
            assert_eq!(std::fs::read(&path).unwrap(), before, "{sql}: unchanged");
        }
    }

    #[test]
    fn a_file_that_is_no_database_is_foreign() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.db");
        let text = "dear diary, ".repeat(1_000);
        std::fs::write(&path, &text).unwrap();
        let refused = SqliteStorage::open(&path).err();
        assert!(matches!(refused, Some(OpenError::Foreign)), "{refused:?}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        let folder = SqliteStorage::open(dir.path()).err();
        assert!(matches!(folder, Some(OpenError::Unavailable(_))));
    }

    #[tokio::test]
    async fn a_damaged_key_is_reported_by_its_id() {
        let rows = [
            "mode = 'prod'",
            "digest = x'00'",
            "created_at = -1",
            "ends_at = -1",
            "attributes = '{'",
            "attributes = '[[\"only a name\"]]'",
            "ipv4_networks = '10.0.0.0'",
            "ipv4_networks = '10.0.0.0/33'",
            "ipv4_networks = '10.0.0/8'",
            "ipv4_networks = x'ff'",
            "permissions = CAST(x'ff' AS TEXT)",
            "last_used_source = 'somewhere'",
            "imported = 2",
            "rotate_at = NULL",
            "rotate_overlap_minutes = NULL",
            "rotate_every_days = -1",
            "end_noted = 2",
            "revision = -1",
        ];
        for damage in rows {
            let dir = tempfile::tempdir().unwrap();
            let storage = open(&dir);
            create_key(&storage, key(1)).await.unwrap();
            let sql = format!("UPDATE keys SET {damage}");
            if let Err(err) = intrude(&dir).execute_batch(&sql) {
                // STRICT refuses it, so that it cannot be met.
                assert!(damage.ends_with("x'ff'"), "{damage}: {err}");
                continue;
            }
            let all = KeyFilter { limit: 9, ..KeyFilter::default() };
            for result in
                [storage.find_key("key_1").await.map(drop), storage.list_keys(all).await.map(drop)]
            {
                match result {
                    Err(StorageError::Damaged { id, .. }) => assert_eq!(id, "key_1", "{damage}"),
                    other => panic!("{damage}: {other:?}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn a_damaged_key_that_is_due_is_told_of_in_its_place() {
        // How many are damaged of those that are due first, and in which way.
        let rows = [
            (1, "mode = 'prod'"),
            (1, "digest = x'00'"),
            (1, "id = CAST(x'ff' AS TEXT)"),
            (2, "attributes = '{'"),
            (2, "rotate_overlap_minutes = NULL"),
            (2, "rotate_at = -1"),
            (2, "ends_at = -1"),
            (120, "revision = -1"),
        ];
        for (damaged, damage) in rows {
            let dir = tempfile::tempdir().unwrap();
            let storage = open(&dir);
            let all = 1..=damaged + 3;
            let new_keys =
                all.map(|number| KeyRecord { end_noted: false, ..key(number) }).collect();
            commit(&storage, Change { new_keys, ..Change::default() }).await.unwrap();
            let sql = format!("UPDATE keys SET {damage} WHERE seq <= {damaged}");
            intrude(&dir).execute_batch(&sql).unwrap();

            let expected: Vec<_> = (1..=damaged)
                .map(|number| match damage.starts_with("id") {
                    true => "damaged: ".to_owned(),
                    false => format!("damaged: key_{number}"),
                })
                .chain((1..=3).map(|more| format!("key_{}", damaged + more)))
                .collect();
            let told = |found: &StorageResult<KeyRecord>| match found {
                Ok(key) => key.id.clone(),
                Err(StorageError::Damaged { id, .. }) => format!("damaged: {id}"),
                Err(err) => panic!("{damage}: {err}"),
            };
            for limit in [1, 2, 3, 99] {
                // All rotations are due by then, and no end; and then all ends.
                for (is_rotation, now) in [(true, 1_999), (false, 2_999)] {
                    let pages = contract::due(&storage, is_rotation, now, limit).await;
                    let found: Vec<_> =
                        pages.iter().flat_map(|page| &page.keys).map(told).collect();
                    // What has ended, if at no time, is not rotated.
                    let passed = match is_rotation && damage.starts_with("ends_at") {
                        true => damaged as usize,
                        false => 0,
                    };
                    assert_eq!(found, expected[passed..], "{damage}, {limit}");
                }
            }
            // Whoever may be let in by what is found is told.
            let all = KeyFilter { limit: 999, ..KeyFilter::default() };
            let listed = storage.list_keys(all).await;
            assert!(matches!(listed, Err(StorageError::Damaged { .. })), "{damage}");
            let found = storage.find_key_by_digest(key(1).digest).await;
            if damage.starts_with("digest") {
                assert_eq!(found.unwrap(), None);
            } else {
                assert!(matches!(found, Err(StorageError::Damaged { .. })), "{damage}");
            }
        }
    }

    #[tokio::test]
    async fn the_log_stays_within_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.db");
        let storage = SqliteStorage::open_bounded(&path, SMALL).unwrap();
        let mut number = 0;
        for batch in [4, 6, 1, 25, 3] {
            let entries = (0..batch).map(|_| {
                number += 1;
                entry(number, Some("key_1"))
            });
            storage.append_log(entries.collect()).await.unwrap();
            let log = log(&storage, Some("key_1"), 99).await;
            assert_eq!(log.len() as u64, number.min(SMALL.log_rows));
            assert_eq!(log[0].request_id, format!("req_{number}"));
        }
    }

    #[tokio::test]
    async fn answers_stay_within_their_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.db");
        let storage = SqliteStorage::open_bounded(&path, SMALL).unwrap();
        let answer = StoredAnswer { request_digest: key(1).digest, status: 200, body: Vec::new() };
        for number in 0..15 {
            let key = number.to_string();
            storage.keep_answer("acct_1", Mode::Test, &key, 0, answer.clone()).await.unwrap();
        }
        for (number, expected) in [("4", None), ("5", Some(answer))] {
            let found = storage.find_answer("acct_1", Mode::Test, number).await;
            assert_eq!(found.unwrap(), expected, "{number}");
        }
    }

    #[test]
    fn a_digest_survives_the_way_through_sql() {
        let digest = Digest::of("secret");
        assert_eq!(digest_from_sql(digest_to_sql(digest)), digest);
        let hex: String = digest_to_sql(digest).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, digest.to_hex());
    }

    #[tokio::test]
    async fn a_key_is_found_in_every_block_of_the_log() {
        let (storage, _dir) = empty();
        let entries = (1..50_000).map(|number| match number % 10_000 {
            0 => entry(number, Some("key_1")),
            _ => entry(number, Some("key_2")),
        });
        storage.append_log(entries.collect()).await.unwrap();
        for (limit, expected) in [(9, &[4, 3, 2, 1][..]), (3, &[4, 3, 2]), (0, &[])] {
            let found = log(&*storage, Some("key_1"), limit).await;
            let expected: Vec<_> =
                expected.iter().map(|number| entry(number * 10_000, Some("key_1"))).collect();
            assert_eq!(found, expected, "{limit}");
        }
    }

    #[tokio::test]
    async fn an_older_database_is_brought_up_to_date_with_its_rows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.db");
        let mut old = Connection::open(&path).unwrap();
        migrations::run(&mut old, &migrations::MIGRATIONS[..1]).unwrap();
        // As the version that knew no other migration wrote them.
        let used_at = [Some(5), None];
        for (number, used_at) in (1..).zip(used_at) {
            old.execute(
                "INSERT INTO keys VALUES (NULL, ?1, 'acct_1', 'live', 'restricted', 'user', \
                 'rk_live_', 'rk_live_****', ?2, x'0001ff', 'name', 'note', 'charge_read', '', \
                 '10.0.0.0/8', 1000, 2000, 3, 4, ?3, '[[\"a\",\"b\"]]')",
                rusqlite::params![
                    format!("key_{number}"),
                    digest_to_sql(key(number).digest),
                    used_at.map(to_sql_int)
                ],
            )
            .unwrap();
        }
        old.execute_batch(
            "INSERT INTO request_log VALUES (7, 1700000000001, 'req_1', 'key_1', 'acct_1', 'GET', \
             '/v1/charges/:id', 200, NULL, '203.0.113.5', NULL, 17)",
        )
        .unwrap();
        drop(old);

        let storage = open(&dir);
        for (number, used_at) in (1..).zip(used_at) {
            // When it was used is known, and nothing more of that.
            let last_use = used_at.map(|at| LastUse {
                at,
                source: [0, 0, 0, 0].into(),
                endpoint: String::new(),
            });
            let expected = KeyRecord {
                masked: "rk_live_****".to_owned(),
                name: "name".to_owned(),
                note: "note".to_owned(),
                permissions: "charge_read".to_owned(),
                connect_permissions: String::new(),
                ipv4_networks: vec![crate::storage::Ipv4Network {
                    address: 0x0A00_0000,
                    prefix_length: 8,
                }],
                created_at: 1_000,
                ends_at: Some(2_000),
                last_use,
                attributes: vec![("a".to_owned(), "b".to_owned())],
                imported: false,
                replaces: None,
                replaced_by: None,
                rotation: None,
                end_noted: false,
                revision: 1,
                ..key(number)
            };
            let id = format!("key_{number}");
            assert_eq!(storage.find_key(&id).await.unwrap(), Some(expected.clone()));
            let changed_keys = vec![KeyRecord { end_noted: true, ..expected }];
            commit(&storage, Change { changed_keys, ..Change::default() }).await.unwrap();
        }
        let log = storage.find_log(LogFilter { limit: 9, ..LogFilter::default() }).await.unwrap();
        let expected = LogEntry { policy: None, overlays: Vec::new(), ..entry(1, Some("key_1")) };
        assert_eq!(log, [(7, expected)]);
        assert_eq!(verified_head(&storage).await, None);
        assert_eq!(storage.backup_made_at().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_database_without_policies_gets_room_for_them_and_keeps_its_rows() {
        let dir = tempfile::tempdir().unwrap();
        let mut old = Connection::open(dir.path().join("test.db")).unwrap();
        migrations::run(&mut old, &migrations::MIGRATIONS[..2]).unwrap();
        // As the version that knew no policies wrote them: the tables that a key
        // and an entry are written to are the same still.
        let transaction = old.transaction().unwrap();
        let change = Change {
            new_keys: vec![key(1)],
            audit: vec![audit_entry("operator", None)],
            ..Change::default()
        };
        commit::commit(&transaction, &change, &CHAIN).unwrap();
        transaction.commit().unwrap();
        drop(old);

        let storage = open(&dir);
        assert_eq!(storage.find_key("key_1").await.unwrap(), Some(key(1)));
        assert_eq!(verified_head(&storage).await.unwrap().sequence, 1);
        // What was in force then is: the standard policy.
        assert_eq!(storage.list_activations(9).await.unwrap(), []);
        assert_eq!(storage.list_policies().await.unwrap(), []);
        contract::a_policy_comes_back_byte_for_byte(Arc::new(storage)).await;
    }

    #[tokio::test]
    async fn a_damaged_policy_is_reported_by_its_digest() {
        // What is damaged, and whether it is met without reading the bytes.
        let rows = [
            ("bytes = x'00'", false),
            ("bytes = CAST('rulez' AS BLOB)", false),
            ("bytes = CAST(bytes || x'00' AS BLOB)", false),
            ("bytes = x''", false),
            ("revision = -1", true),
            ("pushed_at = -1", true),
            ("retired_at = -1", true),
            ("signature = x'00'", true),
            ("name = CAST(x'ff' AS TEXT)", true),
        ];
        let (record, bytes) = contract::policy(b"rules");
        for (damage, is_listed) in rows {
            let dir = tempfile::tempdir().unwrap();
            let storage = open(&dir);
            let new_policies = vec![(record.clone(), Arc::clone(&bytes))];
            commit(&storage, Change { new_policies, ..Change::default() }).await.unwrap();
            intrude(&dir).execute_batch(&format!("UPDATE policies SET {damage}")).unwrap();
            let found = storage.find_policy(record.digest).await.map(drop);
            let listed = storage.list_policies().await.map(drop);
            assert_eq!(listed.is_err(), is_listed, "{damage}");
            for result in [found].into_iter().chain(is_listed.then_some(listed)) {
                match result {
                    Err(StorageError::Damaged { id, .. }) => {
                        assert_eq!(id, record.digest.to_hex(), "{damage}");
                    }
                    other => panic!("{damage}: {other:?}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn every_bit_of_a_policy_counts() {
        let (record, bytes) = contract::policy(b"rules");
        let dir = tempfile::tempdir().unwrap();
        let storage = open(&dir);
        let new_policies = vec![(record.clone(), Arc::clone(&bytes))];
        commit(&storage, Change { new_policies, ..Change::default() }).await.unwrap();
        let write = |bytes: &[u8]| {
            intrude(&dir).execute("UPDATE policies SET bytes = ?1", [bytes]).unwrap();
        };
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            write(&damaged);
            let found = storage.find_policy(record.digest).await;
            assert!(matches!(found, Err(StorageError::Damaged { .. })), "bit {bit}");
        }
        write(&bytes);
        assert_eq!(storage.find_policy(record.digest).await.unwrap(), Some((record, bytes)));
    }

    #[tokio::test]
    async fn a_damaged_activation_is_reported_by_its_number() {
        let rows = ["digest = x'00'", "overlays = '{'", "overlays = '[\"0\"]'", "at = -1"];
        for damage in rows {
            let dir = tempfile::tempdir().unwrap();
            let storage = open(&dir);
            let activation = Some(crate::storage::Activation {
                number: 1,
                policy: None,
                canary: None,
                min_revision: 0,
                overlays: Vec::new(),
                at: 5,
                actor: "operator".to_owned(),
                reason: "activated".to_owned(),
            });
            commit(&storage, Change { activation, ..Change::default() }).await.unwrap();
            let intruder = intrude(&dir);
            intruder.pragma_update(None, "foreign_keys", false).unwrap();
            intruder.execute_batch(&format!("UPDATE activations SET {damage}")).unwrap();
            match storage.list_activations(9).await {
                Err(StorageError::Damaged { id, .. }) => assert_eq!(id, "activation 1", "{damage}"),
                other => panic!("{damage}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn the_audit_log_is_only_ever_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let storage = open(&dir);
        let audit = vec![audit_entry("operator", Some("key_1")); 3];
        commit(&storage, Change { audit, ..Change::default() }).await.unwrap();
        let seal = "zeroblob(32)";
        let rows = [
            "UPDATE audit_log SET text = '{}' WHERE seq = 2".to_owned(),
            "DELETE FROM audit_log WHERE seq = 3".to_owned(),
            "DELETE FROM audit_log".to_owned(),
            format!("INSERT INTO audit_log VALUES (5, '{{}}', {seal})"),
            format!("INSERT INTO audit_log VALUES (NULL, '{{}}', {seal})"),
            format!("INSERT OR REPLACE INTO audit_log VALUES (3, '{{}}', {seal})"),
            format!("REPLACE INTO audit_log VALUES (1, '{{}}', {seal})"),
        ];
        for sql in rows {
            let refused = intrude(&dir).execute_batch(&sql).unwrap_err().to_string();
            assert!(refused.contains("only ever appended"), "{sql}: {refused}");
        }
        assert_eq!(verified_head(&storage).await.unwrap().sequence, 3);
    }

    #[tokio::test]
    async fn who_changes_the_database_is_found_out() {
        let rows = [
            ("UPDATE audit_log SET text = '{}' WHERE seq = 2", "entry 2 of the audit log was"),
            ("UPDATE audit_log SET text = text || ' ' WHERE seq = 1", "entry 1 of the audit"),
            ("DELETE FROM audit_log WHERE seq = 2", "entry 2 of the audit log is missing"),
            ("DELETE FROM audit_log WHERE seq = 1", "entry 1 of the audit log is missing"),
            ("DELETE FROM audit_log WHERE seq = 4", "cut off"),
            (
                "DELETE FROM audit_log WHERE seq = 2; \
                 UPDATE audit_log SET seq = seq - 1 WHERE seq > 2",
                "entry 2 of the audit log was changed",
            ),
            (
                "UPDATE audit_log SET seq = -seq WHERE seq IN (2, 3); \
                 UPDATE audit_log SET seq = 5 + seq WHERE seq < 0",
                "entry 2 of the audit log was changed",
            ),
            ("UPDATE audit_log SET seal = zeroblob(32)", "no entry of the audit log fits"),
        ];
        for (sql, expected) in rows {
            let dir = tempfile::tempdir().unwrap();
            let storage = open(&dir);
            let audit = ["a", "b", "c", "d"].map(|actor| audit_entry(actor, None)).to_vec();
            commit(&storage, Change { audit, ..Change::default() }).await.unwrap();
            let head = verified_head(&storage).await;
            let intruder = intrude(&dir);
            for trigger in ["has_no_gaps", "is_not_changed", "is_not_shortened"] {
                intruder.execute_batch(&format!("DROP TRIGGER audit_log_{trigger}")).unwrap();
            }
            intruder.execute_batch(sql).unwrap();
            let mut verifier = ChainVerifier::new(&CHAIN, head);
            let all = AuditFilter { limit: 99, ..AuditFilter::default() };
            for entry in storage.list_audit(all).await.unwrap() {
                verifier.feed(&entry);
            }
            let fault = verifier.finish().unwrap_err().to_string();
            assert!(fault.contains(expected), "{sql}: {fault}");
        }
    }

    #[tokio::test]
    async fn a_copy_is_whole_private_and_knows_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Arc::new(open(&dir));
        create_key(&*storage, key(0)).await.unwrap();
        // Left by a crash, and open to others.
        let copy = dir.path().join("copy.db");
        std::fs::write(crate::secret_file::unfinished(&copy), "half of it").unwrap();

        // While changes go on, of which the copy has all up to one, and none after.
        let writing = Arc::clone(&storage);
        let (started, starting) = tokio::sync::oneshot::channel();
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let writer = tokio::spawn(async move {
            let mut started = Some(started);
            for number in 1.. {
                let change = Change {
                    new_keys: vec![key(number)],
                    audit: vec![audit_entry("operator", None)],
                    ..Change::default()
                };
                commit(&*writing, change).await.unwrap();
                started.take().map(|started| started.send(()));
                if stopped.try_recv().is_ok() {
                    return number;
                }
            }
            0
        });
        starting.await.unwrap();
        storage.back_up(&copy, 77).await.unwrap();
        stop.send(()).unwrap();
        let written = writer.await.unwrap();
        assert_eq!(storage.backup_made_at().await.unwrap(), None, "only the copy is marked");

        let names: std::collections::BTreeSet<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        let expected = ["copy.db", "test.db", "test.db-shm", "test.db-wal"];
        assert!(names.iter().eq(expected.iter()), "nothing else is left: {names:?}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(&copy).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        for round in 0..2 {
            let opened = SqliteStorage::open(&copy).unwrap();
            let all = KeyFilter { limit: usize::MAX, ..KeyFilter::default() };
            let keys = opened.list_keys(all).await.unwrap().len() as u64;
            let head = verified_head(&opened).await.unwrap();
            assert!(head.sequence >= 1 && head.sequence <= written);
            assert_eq!(keys, head.sequence + 1);
            let expected = (round == 0).then_some(77);
            assert_eq!(opened.backup_made_at().await.unwrap(), expected);
            opened.accept_backup().await.unwrap();
        }

        // Whatever is there stays there.
        let before = std::fs::read(&copy).unwrap();
        match storage.back_up(&copy, 78).await {
            Err(StorageError::Exists { id }) => assert_eq!(id, copy.display().to_string()),
            other => panic!("{other:?}"),
        }
        assert_eq!(std::fs::read(&copy).unwrap(), before);
        let nowhere = storage.back_up(&dir.path().join("no/folder.db"), 78).await;
        assert!(matches!(nowhere, Err(StorageError::Unavailable(_))), "{nowhere:?}");
    }

    #[tokio::test]
    async fn old_rows_are_dropped_in_parts() {
        let (storage, _dir) = empty();
        let rows = MAX_DROPPED_AT_ONCE * 2 + 5;
        let entries = (1..=rows).map(|number| entry(number, None));
        storage.append_log(entries.collect()).await.unwrap();
        let at_ms = entry(rows, None).at_ms;
        assert_eq!(storage.drop_old(Some(at_ms), 0).await.unwrap(), rows - 1);
        assert_eq!(log(&*storage, None, 9).await, [entry(rows, None)]);
    }

    #[test]
    fn what_is_asked_often_uses_its_index() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(&dir));
        let rows = [
            (keys::ROTATIONS.query(), "USING INDEX keys_by_rotation (rotate_at>? AND rotate_at<?)"),
            (keys::ENDS.query(), "USING INDEX keys_by_unnoted_end (ends_at>? AND ends_at<?)"),
            (policies::between_query(), "USING PRIMARY KEY (digest>? AND digest<?)"),
            (
                "SELECT digest FROM keys WHERE imported = 1".to_owned(),
                "USING COVERING INDEX keys_imported",
            ),
            (
                "SELECT text FROM audit_log WHERE seq < ? AND target = ? AND +actor = ? \
                 ORDER BY seq DESC LIMIT ?"
                    .to_owned(),
                "USING INDEX audit_log_by_target (target=? AND rowid<?)",
            ),
            (
                "SELECT text FROM audit_log WHERE seq > ? AND actor = ? ORDER BY seq LIMIT ?"
                    .to_owned(),
                "USING INDEX audit_log_by_actor (actor=? AND rowid>?)",
            ),
            (
                "SELECT code FROM request_log WHERE seq < ? AND code = ? AND seq >> 14 = ? \
                 AND key_id = ? ORDER BY seq DESC LIMIT ?"
                    .to_owned(),
                "USING INDEX request_log_by_key (<expr>=? AND key_id=? AND rowid<?)",
            ),
        ];
        for (sql, expected) in rows {
            let intruder = intrude(&dir);
            let mut statement = intruder.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let count = statement.parameter_count();
            let plan: Vec<String> = statement
                .query_map(rusqlite::params_from_iter(vec![1; count]), |row| row.get(3))
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap();
            let plan = plan.join("; ");
            assert!(plan.contains(expected), "{sql}: {plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{sql} is not sorted: {plan}");
        }
    }
}
