//! A host put together: storage, policy, and the three listeners' routes.

use std::sync::{Arc, OnceLock};

use axum::Router;
use ipnet::IpNet;
use tokio::sync::RwLock;

use crate::{
    active_policy::ActivePolicy,
    api::{admin, internal},
    audit::AuditKey,
    cache::Cache,
    clock::Clock,
    decide::Decider,
    engine::Engine,
    error::ApiError,
    gate::{self, Backend, Gate, GateConfig},
    keys::Keys,
    metrics::Metrics,
    policies::{Policies, PoliciesParts},
    request_log::RequestLog,
    simulated::Simulated,
    storage::{AuditEntry, AuditFilter, Storage, StorageError, StorageResult},
    throttle::Throttle,
    trust::Trust,
    upstream::{Upstream, UpstreamUrl},
    usage::UsageMarks,
    vault::Vault,
    verification::Verifier,
    worker::{self, Worker},
};

/// How often a caller of the admin routes may be refused in a minute before it
/// is told to wait: each refusal of a known caller is written to the audit log,
/// which keeps everything.
const MAX_REFUSALS_PER_MINUTE: u32 = 120;

/// What a host is made of.
pub struct Parts {
    /// Where everything is kept.
    pub storage: Arc<dyn Storage>,
    /// What loads policies.
    pub engine: Arc<Engine>,
    /// The policy in force until storage says otherwise.
    pub policy: Arc<ActivePolicy>,
    /// Whether that one stays in force, whatever storage says.
    pub is_policy_pinned: bool,
    /// What is demanded of the policies that storage has.
    pub trust: Trust,
    /// After failures for how many accounts the host goes back to what was in force
    /// before, by itself; `None`: it does not.
    pub fall_back_after: Option<u32>,
    /// Seals the secrets that may be revealed.
    pub vault: Vault,
    /// Seals the audit log.
    pub audit_key: AuditKey,
    /// Has people confirm what is dangerous.
    pub verifier: Verifier,
    /// Tells the time.
    pub clock: Clock,
    /// For how many days the request log is kept; `None`: until it is full.
    pub log_retention_days: Option<u32>,
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
    pub(crate) policies: Arc<Policies>,
    pub(crate) clock: Clock,
    pub(crate) log: Arc<RequestLog>,
    pub(crate) usage: Arc<UsageMarks>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) allow_unlisted: bool,
    pub(crate) trusted_proxies: Vec<IpNet>,
    pub(crate) throttle: Arc<Throttle>,
    /// Counts how often each caller of the admin routes was refused.
    pub(crate) refusals: Throttle<String>,
    pub(crate) log_retention_days: Option<u32>,
    gate: Arc<Gate>,
    worker: OnceLock<Worker>,
}

impl Host {
    /// Puts a host together and starts what runs in the background, but for
    /// what becomes due by itself: see [`start_worker`](Self::start_worker).
    ///
    /// # Errors
    ///
    /// If storage does not answer, or the policy that is in force by what it says
    /// does not load or is not to be trusted.
    pub async fn start(parts: Parts) -> Result<Arc<Self>, ApiError> {
        let Parts {
            storage,
            engine,
            policy,
            is_policy_pinned,
            trust,
            fall_back_after,
            vault,
            audit_key,
            verifier,
            clock,
            log_retention_days,
            gate: config,
            api,
        } = parts;
        let cache = Arc::new(Cache::new(Arc::clone(&storage)));
        for digest in storage.imported_digests().await? {
            cache.imported(digest);
        }
        // A machine's clock may have been put back while no host ran. What has
        // ended before must not be good again.
        let newest = AuditFilter { before: Some(u64::MAX >> 1), limit: 1, ..Default::default() };
        for entry in storage.list_audit(newest).await? {
            let entry: AuditEntry =
                serde_json::from_str(&entry.text).map_err(|err| StorageError::Damaged {
                    id: format!("audit entry {}", entry.sequence),
                    source: err.into(),
                })?;
            clock.not_before(entry.at_ms);
        }
        let decider = Arc::new(Decider::new(Arc::clone(&policy), Arc::clone(&cache)));
        let keys = Arc::new(Keys {
            storage: Arc::clone(&storage),
            cache: Arc::clone(&cache),
            policy: Arc::clone(&policy),
            vault,
            sealing: RwLock::default(),
            audit_key: Arc::new(audit_key),
            verifier,
            clock: clock.clone(),
            brand: config.brand.clone(),
        });
        let metrics = Metrics::new();
        let policies = Policies::start(PoliciesParts {
            storage: Arc::clone(&storage),
            keys: Arc::clone(&keys),
            engine,
            active: Arc::clone(&policy),
            metrics: Arc::clone(&metrics),
            clock: clock.clone(),
            is_pinned: is_policy_pinned,
            trust,
            fall_back_after,
        })
        .await?;
        let log = Arc::new(RequestLog::start(Arc::clone(&storage)));
        let usage = Arc::new(UsageMarks::start(Arc::clone(&storage)));
        let allow_unlisted = config.allow_unlisted;
        let trusted_proxies = config.trusted_proxies.clone();
        let throttle = Arc::new(Throttle::new(config.max_failed_auth_per_minute));
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
            throttle: Arc::clone(&throttle),
        });
        Ok(Arc::new(Self {
            storage,
            cache,
            policy,
            decider,
            keys,
            policies,
            clock,
            log,
            usage,
            metrics,
            allow_unlisted,
            trusted_proxies,
            throttle,
            refusals: Throttle::new(MAX_REFUSALS_PER_MINUTE),
            log_retention_days,
            gate,
            worker: OnceLock::new(),
        }))
    }

    /// Starts the task that does what becomes due by itself. A test calls
    /// [`run_due`](Self::run_due) instead, when its clock says so.
    pub fn start_worker(self: &Arc<Self>) {
        self.worker.get_or_init(|| Worker::start(self));
    }

    /// Does what is due by now: scheduled rotations, and ends of keys. With how many
    /// of them it could not be done is in what it returns, and why in the log.
    ///
    /// # Errors
    ///
    /// If storage does not say what is due. What was not done is due the next time.
    pub async fn run_due(&self) -> Result<worker::Seen, ApiError> {
        worker::run_due(self).await
    }

    /// Drops records that are too old to be kept.
    ///
    /// # Errors
    ///
    /// If storage failed.
    pub async fn drop_old(&self) -> StorageResult<u64> {
        worker::drop_old(self).await
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

    /// Returns what can be done with policies.
    pub fn policies(&self) -> &Policies {
        &self.policies
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
    pub async fn finish(&self) -> StorageResult<()> {
        if let Some(worker) = self.worker.get() {
            worker.finish().await;
        }
        self.log.finish().await;
        self.usage.finish().await
    }
}
