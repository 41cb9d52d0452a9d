//! Repeating a request without doing it twice.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use axum::http::{HeaderMap, HeaderName};

use super::answer::{Refused, invalid};
use crate::{secret::Digest, storage::Mode};

/// The request header, echoed in the answer.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The header of an answer that was kept from the first request.
pub(super) const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Stripe's limit, which its SDKs know; a longer key is refused.
const MAX_KEY_CHARS: usize = 255;

/// An idempotency key in use, and the request that it stands for.
pub(super) struct Idempotency {
    pub(super) key: String,
    pub(super) request_digest: Digest,
}

impl Idempotency {
    /// Reads the header. `None` if the request has no idempotency key.
    ///
    /// `request` tells apart what is not the same request. Whether a client
    /// secret is asked for has to be in it: else a front-end key could be
    /// handed what a server key was answered.
    pub(super) fn read(headers: &HeaderMap, request: &str) -> Refused<Option<Self>> {
        let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(first) = given.next() else {
            return Ok(None);
        };
        let key = first.to_str().unwrap_or_default();
        if given.next().is_some() || !(1..=MAX_KEY_CHARS).contains(&key.len()) {
            return Err(invalid(
                None,
                format!("Send one Idempotency-Key of 1 to {MAX_KEY_CHARS} ASCII characters."),
            ));
        }
        Ok(Some(Self { key: key.to_owned(), request_digest: Digest::of(request) }))
    }
}

/// The idempotency keys whose first request still runs, of this process. No
/// longer than the requests that run at once.
#[derive(Clone, Default)]
pub(super) struct Running(Arc<Mutex<HashSet<Claimed>>>);

type Claimed = (String, Mode, String);

/// The right to run the request of one idempotency key, released on drop.
pub(super) struct Claim {
    running: Running,
    claimed: Claimed,
}

impl Running {
    /// Returns `None` while somebody else has the claim.
    pub(super) fn claim(&self, account: &str, mode: Mode, key: &str) -> Option<Claim> {
        let claimed = (account.to_owned(), mode, key.to_owned());
        let is_first = self.with(|running| running.insert(claimed.clone()));
        is_first.then(|| Claim { running: self.clone(), claimed })
    }

    fn with<T>(&self, change: impl FnOnce(&mut HashSet<Claimed>) -> T) -> T {
        // A set is whole after each call, so a panic elsewhere spoils nothing.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.running.with(|running| running.remove(&self.claimed));
    }
}
