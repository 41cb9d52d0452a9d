//! A host put together: storage, policy, and the three listeners' routes.

use std::sync::Arc;

use axum::Router;

use crate::{
    active_policy::ActivePolicy,
    api::{admin, internal},
    cache::Cache,
    clock::Clock,
    decide::Decider,
    gate::{self, Backend, Gate, GateConfig},
    keys::Keys,
    metrics::Metrics,
    request_log::RequestLog,
    simulated::Simulated,
    storage::Storage,
    upstream::{Upstream, UpstreamUrl},
    usage::UsageMarks,
    vault::Vault,
};

/// What a host is made of.
pub struct Parts {
    /// Where everything is kept.
    pub storage: Arc<dyn Storage>,
    /// The policy in force.
    pub policy: Arc<ActivePolicy>,
    /// Seals the secrets that may be revealed.
    pub vault: Vault,
    /// Tells the time.
    pub clock: Clock,
    /// What the operator set for the gate.
    pub gate: GateConfig,
    /// What serves the requests that were let through.
    pub api: Api,
}

/// The API behind the gate.
pub enum Api {
    /// The built-in simulated API.
    Simulated,
    /// One that listens elsewhere.
    Upstream(UpstreamUrl),
    /// One in the same process.
    Router(Router),
}

/// A host. Its listeners are the caller's to open.
pub struct Host {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) policy: Arc<ActivePolicy>,
    pub(crate) decider: Arc<Decider>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) clock: Clock,
    pub(crate) log: Arc<RequestLog>,
    pub(crate) usage: Arc<UsageMarks>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) allow_unlisted: bool,
    gate: Arc<Gate>,
}

impl Host {
    /// Puts a host together and starts what runs in the background.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn start(parts: Parts) -> Arc<Self> {
        let Parts { storage, policy, vault, clock, gate: config, api } = parts;
        let cache = Arc::new(Cache::new(Arc::clone(&storage)));
        let decider = Arc::new(Decider::new(Arc::clone(&policy), Arc::clone(&cache)));
        let keys = Arc::new(Keys {
            storage: Arc::clone(&storage),
            cache: Arc::clone(&cache),
            policy: Arc::clone(&policy),
            vault,
            clock: clock.clone(),
            brand: config.brand.clone(),
        });
        let log = Arc::new(RequestLog::start(Arc::clone(&storage)));
        let usage = Arc::new(UsageMarks::start(Arc::clone(&storage)));
        let metrics = Metrics::new(&policy.get().digest().to_hex());
        let allow_unlisted = config.allow_unlisted;
        let gate = Arc::new(Gate {
            config,
            decider: Arc::clone(&decider),
            cache: Arc::clone(&cache),
            keys: Arc::clone(&keys),
            backend: match api {
                Api::Simulated => Backend::Simulated(Simulated::new(Arc::clone(&storage))),
                Api::Upstream(url) => Backend::Upstream(Upstream::new(url)),
                Api::Router(router) => Backend::Router(router),
            },
            clock: clock.clone(),
            log: Arc::clone(&log),
            usage: Arc::clone(&usage),
            metrics: Arc::clone(&metrics),
        });
        Arc::new(Self {
            storage,
            cache,
            policy,
            decider,
            keys,
            clock,
            log,
            usage,
            metrics,
            allow_unlisted,
            gate,
        })
    }

    /// Returns what serves the gate's listener.
    pub fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }

    /// Returns the gate as a router, for a server of one's own. It learns the
    /// client's address from the extension [`Peer`](crate::server::Peer).
    pub fn gate_router(&self) -> Router {
        // One handler for every path: a router would decode paths before the
        // gate has looked at them.
        Router::new().fallback(gate::serve_request).with_state(Arc::clone(&self.gate))
    }

    /// Returns the routes of the admin listener.
    pub fn admin_router(self: &Arc<Self>, access: admin::AdminAccess) -> Router {
        admin::router(Arc::clone(self), access)
    }

    /// Returns the routes of the internal listener.
    pub fn internal_router(self: &Arc<Self>, access: internal::InternalAccess) -> Router {
        internal::router(Arc::clone(self), access)
    }

    /// Makes and finds keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Returns the policy in force, and the way to put another there.
    pub fn policy(&self) -> &ActivePolicy {
        &self.policy
    }

    /// Returns how many keys and accounts were read from storage.
    pub fn storage_reads(&self) -> u64 {
        self.cache.storage_reads()
    }

    /// Writes what is still in memory. To be called once nothing is served any
    /// more.
    ///
    /// # Errors
    ///
    /// If storage refused the marks of use. They are kept: call it again.
    pub async fn finish(&self) -> crate::storage::StorageResult<()> {
        self.log.finish().await;
        self.usage.finish().await
    }
}
