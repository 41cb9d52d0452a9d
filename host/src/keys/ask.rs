//! Who asks for something to be done with keys, and under which conditions.

use std::{net::IpAddr, sync::Arc};

use serde_json::Value;

use crate::{
    engine::contract::{Key, lifecycle::Caller},
    secret::Digest,
};

/// Who asks. That it is them was checked before there was one of these.
#[derive(Clone, Debug)]
pub enum Actor {
    /// Whoever holds the operator credential, or the data directory's socket.
    Operator,
    /// The host itself.
    Platform,
    /// A key, which the policy has let through for the endpoint that it called.
    Key(Arc<Key>),
}

impl Actor {
    /// Returns what the audit log calls them.
    pub fn name(&self) -> &str {
        match self {
            Self::Operator => "operator",
            Self::Platform => "platform",
            Self::Key(key) => &key.id,
        }
    }

    /// Returns what the policy is told of them.
    pub(super) fn caller(&self) -> Caller<'_> {
        match self {
            Self::Operator => Caller::Operator,
            Self::Platform => Caller::Platform,
            Self::Key(key) => Caller::Key(key),
        }
    }
}

/// A request to do something with keys.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Who asks.
    pub actor: Actor,
    /// From which address. `None` for the host itself and for its socket.
    pub source: Option<IpAddr>,
    /// The request, `req_…`.
    pub request_id: Option<String>,
    /// Only if the key is at this revision.
    pub if_match: Option<u64>,
    /// The header with a verification code.
    pub verification: Option<String>,
    /// Not twice, if this was done already.
    pub idempotency: Option<Idempotency>,
    /// What is asked for, word by word: a verification code is good for nothing
    /// else.
    pub arguments: Value,
}

/// What tells a repeated request from another one.
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// The caller's `Idempotency-Key`.
    pub key: String,
    /// SHA-256 of method, path and body.
    pub request_digest: Digest,
}

impl Ask {
    /// Returns a request of this actor, without conditions: for a service that
    /// embeds this crate, and for the host itself.
    pub fn by(actor: Actor) -> Self {
        Self {
            actor,
            source: None,
            request_id: None,
            if_match: None,
            verification: None,
            idempotency: None,
            arguments: Value::Null,
        }
    }
}
