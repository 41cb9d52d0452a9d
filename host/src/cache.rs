//! The keys and accounts that requests have read lately.
//!
//! # Invariants
//!
//! - No fill that began before a change lands after it. A change commits, then
//!   bumps the generation and evicts under one lock; a fill notes the
//!   generation before it reads and stores what it read only if the generation
//!   is still the same, under that same lock. Without it, a slow read of a key
//!   that is ended meanwhile would put the good key back for good.
//! - Whoever sends made-up keys cannot push out the good ones: what is known to
//!   be absent has a bounded place of its own.

use std::{
    collections::HashSet,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use quick_cache::sync::Cache as Bounded;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    engine::contract::{Account, Ipv4Net, Key, Mode},
    secret::{Brand, Digest, Presented},
    storage::{self, AccountRecord, Ipv4Network, KeyRecord, Storage, StorageError, StorageResult},
};

/// How many keys are kept at hand. A key takes half a kilobyte, so this many
/// take 50 MB when every one of them is in use.
const MAX_KEYS: usize = 100_000;

/// How many accounts are kept at hand: only those that requests name.
const MAX_ACCOUNTS: usize = 20_000;

/// How many digests and ids are remembered as absent. Made-up keys are rarely
/// sent twice; this is for the deleted key that a forgotten job still uses.
const MAX_ABSENT: usize = 10_000;

/// How many reads may wait for storage at once. More do not make it faster, and
/// each holds a request's memory.
const MAX_COLD_READS: usize = 64;

/// How long a request waits for one read of storage, in all. After that its
/// caller is better served by an error and another try.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// What is kept at hand of storage. See the [module's](self) invariants.
pub struct Cache {
    storage: Arc<dyn Storage>,
    keys: Table<Digest, Key>,
    accounts: Table<String, Account>,
    /// When keys moved money, which storage is told a moment later. A key that is
    /// read anew in that moment has it from here.
    moved: Bounded<Digest, u64>,
    /// Bumped by every change. The lock is what orders fills and changes.
    generation: Mutex<u64>,
    cold_reads: Semaphore,
    reads: AtomicU64,
    imports: Imports,
}

/// The digests of all imported keys: 32 bytes each. Their secrets were made
/// elsewhere and have no checksum of ours, so that this is how they are told
/// from what a storage read would be wasted on.
#[derive(Default)]
struct Imports {
    /// Whether there are any: hosts without imported keys pay nothing for them.
    any: AtomicBool,
    digests: RwLock<HashSet<Digest>>,
}

struct Table<Id, T> {
    present: Bounded<Id, Arc<T>>,
    absent: Bounded<Id, ()>,
}

impl<Id: Hash + Eq + Clone, T> Table<Id, T> {
    fn new(capacity: usize) -> Self {
        Self { present: Bounded::new(capacity), absent: Bounded::new(MAX_ABSENT) }
    }

    fn get(&self, id: &Id) -> Option<Option<Arc<T>>> {
        match self.present.get(id) {
            Some(found) => Some(Some(found)),
            None => self.absent.get(id).map(|()| None),
        }
    }

    fn evict(&self, id: &Id) {
        self.present.remove(id);
        self.absent.remove(id);
    }
}

impl Cache {
    /// Makes an empty cache before this storage.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self {
            storage,
            keys: Table::new(MAX_KEYS),
            accounts: Table::new(MAX_ACCOUNTS),
            moved: Bounded::new(MAX_KEYS),
            generation: Mutex::new(0),
            cold_reads: Semaphore::new(MAX_COLD_READS),
            reads: AtomicU64::new(0),
            imports: Imports::default(),
        }
    }

    /// Notes that the key with this digest is an imported one.
    pub fn imported(&self, digest: Digest) {
        let mut digests = self.imports.digests.write().unwrap_or_else(PoisonError::into_inner);
        digests.insert(digest);
        self.imports.any.store(true, Ordering::Release);
    }

    /// Reads what a caller presents as a secret: one of ours by its checksum, an
    /// imported one by its digest.
    pub fn recognise<'a>(&self, text: &'a str, brand: Option<&Brand>) -> Presented<'a> {
        match Presented::parse(text, brand) {
            Presented::Malformed { prefix, masked } if self.imports.any.load(Ordering::Acquire) => {
                let digest = Digest::of(text);
                let digests = self.imports.digests.read().unwrap_or_else(PoisonError::into_inner);
                if digests.contains(&digest) {
                    Presented::WellFormed { prefix, masked, digest }
                } else {
                    Presented::Malformed { prefix, masked }
                }
            }
            presented => presented,
        }
    }

    /// Returns the key with this digest if it is at hand; `Some(None)` is known
    /// to be absent.
    pub fn known_key(&self, digest: Digest) -> Option<Option<Arc<Key>>> {
        self.keys.get(&digest)
    }

    /// Returns the key with this digest, from storage if need be.
    ///
    /// # Errors
    ///
    /// If storage does not answer (in time), never "no such key".
    pub async fn key(&self, digest: Digest) -> StorageResult<Option<Arc<Key>>> {
        self.find(&self.keys, digest, async || {
            let found = self.storage.find_key_by_digest(digest).await?;
            Ok(found.map(|key| {
                let mut key = Key::from(key);
                key.money_moved_at = key.money_moved_at.max(self.moved.get(&digest));
                Arc::new(key)
            }))
        })
        .await
    }

    /// Returns the account with this id, from storage if need be.
    ///
    /// # Errors
    ///
    /// If storage does not answer (in time), never "no such account".
    pub async fn account(&self, id: &str) -> StorageResult<Option<Arc<Account>>> {
        self.find(&self.accounts, id.to_owned(), async || {
            let found = self.storage.find_accounts(vec![id.to_owned()]).await?;
            Ok(found.into_iter().next().flatten().map(|account| Arc::new(account.into())))
        })
        .await
    }

    /// Forgets a key that was changed. To be called after the change has
    /// committed and before it is answered.
    pub fn key_changed(&self, digest: Digest) {
        self.changed(|| self.keys.evict(&digest));
    }

    /// Notes that a key has moved money, until storage has it: the rules must
    /// not forget it for the second that this takes, also if the key is changed
    /// meanwhile.
    pub fn money_moved(&self, digest: Digest, now: u64) {
        self.changed(|| {
            self.moved.insert(digest, now);
            if let Some(known) = self.keys.present.get(&digest) {
                let mut key = Key::clone(&known);
                key.money_moved_at = key.money_moved_at.max(Some(now));
                self.keys.present.insert(digest, Arc::new(key));
            }
        });
    }

    /// Forgets an account that was changed, like [`Self::key_changed`].
    pub fn account_changed(&self, id: &str) {
        self.changed(|| self.accounts.evict(&id.to_owned()));
    }

    /// Returns how many reads went through to storage.
    pub fn storage_reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    fn changed(&self, evict: impl FnOnce()) {
        let mut generation = self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        *generation += 1;
        evict();
    }

    fn generation(&self) -> u64 {
        *self.generation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn find<Id: Hash + Eq + Clone, T>(
        &self,
        table: &Table<Id, T>,
        id: Id,
        read: impl AsyncFnOnce() -> StorageResult<Option<Arc<T>>>,
    ) -> StorageResult<Option<Arc<T>>> {
        if let Some(known) = table.get(&id) {
            return Ok(known);
        }
        let late = |_| StorageError::Unavailable("the read took too long".into());
        timeout(MAX_WAIT, self.fill(table, id, read)).await.map_err(late)?
    }

    /// Reads what is not at hand. Whoever wants the same waits for the first to
    /// read it, so that a burst of requests with one key is one read.
    async fn fill<Id: Hash + Eq + Clone, T>(
        &self,
        table: &Table<Id, T>,
        id: Id,
        read: impl AsyncFnOnce() -> StorageResult<Option<Arc<T>>>,
    ) -> StorageResult<Option<Arc<T>>> {
        let place = match table.present.get_value_or_guard_async(&id).await {
            Ok(found) => return Ok(Some(found)),
            Err(place) => place,
        };
        // The one before us may have found that there is none.
        if table.absent.get(&id).is_some() {
            return Ok(None);
        }
        let _permit = self.cold_reads.acquire().await.ok();
        let before = self.generation();
        self.reads.fetch_add(1, Ordering::Relaxed);
        let found = read().await?;
        let generation = self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        if *generation == before {
            match &found {
                Some(found) => drop(place.insert(Arc::clone(found))),
                None => table.absent.insert(id, ()),
            }
        }
        Ok(found)
    }
}

impl From<storage::Mode> for Mode {
    fn from(mode: storage::Mode) -> Self {
        match mode {
            storage::Mode::Test => Self::Test,
            storage::Mode::Live => Self::Live,
        }
    }
}

impl From<Mode> for storage::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Test => Self::Test,
            Mode::Live => Self::Live,
        }
    }
}

impl From<Ipv4Net> for Ipv4Network {
    fn from(net: Ipv4Net) -> Self {
        Self { address: net.address, prefix_length: net.prefix_length }
    }
}

impl From<KeyRecord> for Key {
    fn from(key: KeyRecord) -> Self {
        let nets = key.ipv4_networks.into_iter();
        Self {
            id: key.id,
            account: key.account,
            mode: key.mode.into(),
            kind: key.kind,
            origin: key.origin,
            created_at: key.created_at,
            ends_at: key.ends_at,
            restored_at: key.restored_at,
            money_moved_at: key.money_moved_at,
            permissions: key.permissions,
            connect_permissions: key.connect_permissions,
            ipv4_nets: nets
                .map(|net| Ipv4Net { address: net.address, prefix_length: net.prefix_length })
                .collect(),
            attributes: key.attributes,
        }
    }
}

impl From<AccountRecord> for Account {
    fn from(account: AccountRecord) -> Self {
        Self { id: account.id, organization: account.organization, platform: account.platform }
    }
}
