//! What one request has read from storage.

use std::sync::Arc;

use crate::engine::contract::Account;

/// The most accounts that one decision may ask for. The standard policy asks for at
/// most four.
pub const MAX_IDS: usize = 16;

/// The view of storage that one request is decided by, beside the key that it
/// presents.
///
/// It only grows: what was read once, absent or present, stays as it was until
/// the request is answered, even if an account is changed meanwhile. That makes
/// the runs of a decision agree with each other, and with the key it is all that
/// is needed to run the decision again another day.
#[derive(Default)]
pub struct Facts {
    accounts: Vec<(String, Option<Arc<Account>>)>,
}

impl Facts {
    /// Returns the account with this id, if it was read: `Some(None)` is known to
    /// be absent.
    pub fn account(&self, id: &str) -> Option<Option<Arc<Account>>> {
        self.accounts.iter().find(|(known, _)| known == id).map(|(_, account)| account.clone())
    }

    /// Adds what was read under an account's id.
    pub fn add_account(&mut self, id: String, account: Option<Arc<Account>>) {
        self.accounts.push((id, account));
    }

    /// Returns how many ids were read.
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Tells whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The accounts that a run asked for, when the request had not read all of them
/// yet: their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread(pub Vec<String>);
