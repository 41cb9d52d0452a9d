//! What one request has read from storage.

use std::sync::Arc;

use crate::{
    engine::contract::{Account, Key},
    secret::Digest,
};

/// The most ids that one decision may ask for. The standard policy asks for one
/// digest and at most four accounts.
pub const MAX_IDS: usize = 16;

/// The view of storage that one request is decided by.
///
/// It only grows: what was read once, absent or present, stays as it was until
/// the request is answered, even if a key is changed meanwhile. That makes the
/// runs of a decision agree with each other, and it is all that is needed to
/// run the decision again another day.
#[derive(Default)]
pub struct Facts {
    keys: Vec<(Digest, Option<Arc<Key>>)>,
    accounts: Vec<(String, Option<Arc<Account>>)>,
}

impl Facts {
    /// Returns the key with this digest, if it was read: `Some(None)` is known
    /// to be absent.
    pub fn key(&self, digest: Digest) -> Option<Option<Arc<Key>>> {
        self.keys.iter().find(|(known, _)| *known == digest).map(|(_, key)| key.clone())
    }

    /// Returns the account with this id, if it was read.
    pub fn account(&self, id: &str) -> Option<Option<Arc<Account>>> {
        self.accounts.iter().find(|(known, _)| known == id).map(|(_, account)| account.clone())
    }

    /// Adds what was read under a digest.
    pub fn add_key(&mut self, digest: Digest, key: Option<Arc<Key>>) {
        self.keys.push((digest, key));
    }

    /// Adds what was read under an account's id.
    pub fn add_account(&mut self, id: String, account: Option<Arc<Account>>) {
        self.accounts.push((id, account));
    }

    /// Returns how many ids were read.
    pub fn len(&self) -> usize {
        self.keys.len() + self.accounts.len()
    }

    /// Tells whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a run asked for and the request has not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    /// The key with this digest.
    Key(Digest),
    /// The accounts with these ids, those that were read already among them.
    Accounts(Vec<String>),
}
