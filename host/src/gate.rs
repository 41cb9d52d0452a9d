//! The gate: a request comes in, the policy decides, the request is served or
//! refused.
//!
//! `Gate::answer` reads as the life of a request. What it hands to the
//! backend is a `Permit`, and there is no other way to get one.

use std::{borrow::Cow, mem, net::IpAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use ipnet::IpNet;
use tower::ServiceExt as _;

use crate::{
    address_text::AddressText,
    cache::Cache,
    client_address::client_address,
    clock::Clock,
    cohort::{Point, give_way},
    credential::{authorization, secret_in},
    decide::{Decided, Decider},
    engine::contract::{Decision, Grant, Request as Question},
    error::{AnsweredCode, ApiError},
    hygiene,
    keys::{Actor, Ask, Keys},
    metrics::{Metrics, Outcome},
    path::check_path,
    question,
    request_log::RequestLog,
    scrub::scrub,
    secret::{Brand, Digest, Presented, mint_id},
    server::{Peer, Service},
    simulated::{Caller, Simulated},
    storage::{LogEntry, Mode},
    throttle::{self, Throttle},
    upstream::Upstream,
    usage::{Endpoint, UsageMarks},
};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
pub(crate) const STRIPE_VERSION: HeaderName = HeaderName::from_static("stripe-version");
const STRIPE_NOTICE: HeaderName = HeaderName::from_static("stripe-notice");
pub(crate) const STRIPE_CONTEXT: HeaderName = HeaderName::from_static("stripe-context");
pub(crate) const STRIPE_ACCOUNT: HeaderName = HeaderName::from_static("stripe-account");
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const WARDKEY_KEY: HeaderName = HeaderName::from_static("wardkey-key");
const WARDKEY_ACCOUNT: HeaderName = HeaderName::from_static("wardkey-account");
const WARDKEY_MODE: HeaderName = HeaderName::from_static("wardkey-mode");
const WARDKEY_PERMISSIONS: HeaderName = HeaderName::from_static("wardkey-permissions");

/// The start of the paths that a gate serves if nobody says otherwise.
pub const DEFAULT_PREFIX: &str = "/v1/";

/// How often a source may fail to authenticate in a minute: more than a person
/// who tries out keys does, and less than a client that retries in a loop.
pub const DEFAULT_FAILED_AUTH_PER_MINUTE: u32 = 120;

/// The longest path that is kept in the log where no template is known, in
/// bytes.
pub(crate) const MAX_LOGGED_PATH_BYTES: usize = 200;

/// The longest value of a header that the policy is told, in bytes. The longest
/// context has four ids of thirty.
pub(crate) const MAX_HEADER_BYTES: usize = 256;

/// What is logged as the status where the client went away before there was an
/// answer. No such status is ever sent; nginx writes the same.
const CLIENT_GONE: u16 = 499;

/// The route at which a key learns what it is.
pub(crate) const SELF_PATH: &str = "/v2/iam/api_keys/self";

/// What serves the requests that were let through.
pub enum Backend {
    /// The built-in simulated API.
    Simulated(Simulated),
    /// The operator's API.
    Upstream(Upstream),
    /// The operator's API, in the same process: for a service that embeds this
    /// crate. It sees the same headers as an upstream does.
    Router(Router),
}

/// What the operator set for the gate.
#[derive(Clone, Debug)]
pub struct GateConfig {
    /// The start of the paths that it serves, such as `/v1/`.
    pub prefix: String,
    /// The mark before every secret of this host.
    pub brand: Option<Brand>,
    /// Who may say on whose behalf a request comes.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether endpoints that the catalogue does not list may be called.
    pub allow_unlisted: bool,
    /// How often a source may fail to authenticate in a minute before it is told
    /// to wait. Good keys behind it are not held up.
    pub max_failed_auth_per_minute: u32,
}

impl Default for GateConfig {
    fn default() -> Self {
        Self {
            prefix: DEFAULT_PREFIX.to_owned(),
            brand: None,
            trusted_proxies: Vec::new(),
            allow_unlisted: false,
            max_failed_auth_per_minute: DEFAULT_FAILED_AUTH_PER_MINUTE,
        }
    }
}

/// The gate and everything that it asks.
pub struct Gate {
    /// What the operator set.
    pub config: GateConfig,
    /// Decides.
    pub decider: Arc<Decider>,
    /// Is told what a request changes for the next decision.
    pub cache: Arc<Cache>,
    /// Tells a key about itself.
    pub keys: Arc<Keys>,
    /// Serves.
    pub backend: Backend,
    /// Tells the time.
    pub clock: Clock,
    /// Is told of every decision.
    pub log: Arc<RequestLog>,
    /// Is told of every use of a key.
    pub usage: Arc<UsageMarks>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Counts who fails to authenticate.
    pub throttle: Arc<Throttle>,
}

/// Proof that the policy let a request through. Made only by [`Gate::decide`].
struct Permit {
    grant: Grant,
    /// What the cache knows the key by.
    digest: Option<Digest>,
}

/// A request's entry in the log, which is written whatever becomes of it: also
/// where the client goes away, and its future is dropped.
struct Entry<'a> {
    gate: &'a Gate,
    entry: LogEntry,
    outcome: Outcome,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.gate.metrics.answered(self.outcome, self.entry.status);
        // Its last breath: taken apart and not copied.
        let entry = &mut self.entry;
        self.gate.log.record(LogEntry {
            at_ms: entry.at_ms,
            request_id: mem::take(&mut entry.request_id),
            key_id: entry.key_id.take(),
            account: entry.account.take(),
            method: mem::take(&mut entry.method),
            path: mem::take(&mut entry.path),
            status: entry.status,
            code: entry.code.take(),
            source: entry.source,
            policy: entry.policy.take(),
            overlays: mem::take(&mut entry.overlays),
            decision_us: entry.decision_us,
        });
    }
}

/// Answers one request: the gate as a route, for a router of one's own.
pub async fn serve_request(State(gate): State<Arc<Gate>>, request: Request) -> Response {
    gate.answer(request).await
}

impl Service for Arc<Gate> {
    async fn answer(&self, request: Request) -> Response {
        Gate::answer(self, request).await
    }
}

impl Gate {
    async fn answer(self: &Arc<Self>, mut request: Request) -> Response {
        let at_ms = self.clock.now_ms();
        let source = self.source(&request);
        let version = request.headers().get(STRIPE_VERSION).cloned();
        let request_id = mint_id("req_");
        let mut entry = Entry {
            gate: self,
            outcome: Outcome::Denied,
            entry: LogEntry {
                at_ms,
                request_id: request_id.clone(),
                key_id: None,
                account: None,
                method: logged_method(request.method()),
                path: String::new(),
                status: CLIENT_GONE,
                code: None,
                source,
                policy: None,
                overlays: Vec::new(),
                decision_us: 0,
            },
        };

        let mut response = match self.decide(&mut request, &mut entry).await {
            Ok(permit) => self.serve(permit, &entry.entry, request).await,
            Err(err) if self.must_wait(&err, source, at_ms) => {
                ApiError::TooManyFailures.into_response()
            }
            Err(err) => err.into_response(),
        };

        entry.entry.status = response.status().as_u16();
        let code = response.extensions_mut().remove();
        entry.entry.code = code.and_then(|AnsweredCode(code)| code);
        let headers = response.headers_mut();
        if let Ok(request_id) = HeaderValue::try_from(request_id) {
            headers.insert(REQUEST_ID, request_id);
        }
        if let Some(version) = version {
            headers.entry(STRIPE_VERSION).or_insert(version);
        }
        give_way(Point::Served).await;
        response
    }

    fn must_wait(&self, err: &ApiError, source: IpAddr, now_ms: u64) -> bool {
        err.is_failed_authentication() && self.throttle.is_spent(throttle::network(source), now_ms)
    }

    fn source(&self, request: &Request) -> IpAddr {
        // Without a peer there is no telling where a request comes from, and
        // the unspecified address is in no sensible allowlist.
        let peer = request.extensions().get::<Peer>();
        let peer = peer.map_or(IpAddr::from([0, 0, 0, 0]), |&Peer(address)| address);
        let forwarded = request.headers().get_all(FORWARDED_FOR);
        client_address(peer, forwarded.iter(), &self.config.trusted_proxies)
    }

    /// Decides about a request, and leaves it without what its backend must not
    /// see.
    async fn decide(
        &self,
        request: &mut Request,
        entry: &mut Entry<'_>,
    ) -> Result<Permit, ApiError> {
        let uri = request.uri().clone();
        if let Err(err) = check_path(uri.path()) {
            // It may hold a secret in a spelling that the scrubber does not
            // know.
            entry.entry.path = "(invalid)".to_owned();
            return Err(err.into());
        }
        // A secret that was put in the wrong place is no business of the
        // policy's, or of the log's.
        let path = scrub(uri.path());
        let permit = self.decide_clean(request, &path, entry).await;
        if entry.entry.path.is_empty() {
            // Paths that passed are ASCII, and can be cut anywhere.
            let logged = path.get(..MAX_LOGGED_PATH_BYTES).unwrap_or(&path);
            entry.entry.path = logged.to_owned();
        }
        permit
    }

    /// Decides about a request whose path can be read in one way only.
    async fn decide_clean(
        &self,
        request: &mut Request,
        path: &str,
        entry: &mut Entry<'_>,
    ) -> Result<Permit, ApiError> {
        if !path.starts_with(&self.config.prefix) && path != SELF_PATH {
            let method = entry.entry.method.clone();
            return Err(ApiError::NoRoute { method, path: path.to_owned() });
        }
        // Shared and not copied: the headers are cleaned before it was read.
        let authorization = authorization(request.headers())?.cloned();
        let secret = authorization.as_ref().map(secret_in).transpose()?.flatten();
        let brand = self.config.brand.as_ref();
        let presented = secret.as_deref().map(|text| self.cache.recognise(text, brand));
        let digest = presented.as_ref().and_then(Presented::digest);
        // What a `Connection` header names does not go upstream, so it must not
        // be decided by either: the headers are cleaned first.
        hygiene::clean_request_headers(request.headers_mut());
        let context = told(request.headers(), &STRIPE_CONTEXT)?;
        let account = told(request.headers(), &STRIPE_ACCOUNT)?;
        let api_version = told(request.headers(), &STRIPE_VERSION)?;
        let method = scrub(request.method().as_str());
        let question = Question {
            credential: question::credential(presented.as_ref()),
            method: &method,
            path,
            source: question::source(entry.entry.source),
            context: context.as_deref(),
            account: account.as_deref(),
            api_version: api_version.as_deref(),
            now: entry.entry.at_ms / 1000,
            attributes: question::attributes(self.config.allow_unlisted),
        };

        entry.outcome = Outcome::Failed;
        let decided = self.decider.decide(&question, digest).await;
        give_way(Point::Decided).await;
        let Decided { answer, by, took_us, .. } = decided.inspect_err(|err| {
            // Who has not decided.
            entry.entry.policy = err.policy();
        })?;
        self.metrics.decided(took_us);
        let log = &mut entry.entry;
        log.policy = Some(by.policy());
        log.overlays = by.asked_overlays();
        log.decision_us = took_us;
        let (permit, endpoint) = match answer {
            Decision::Allow(mut grant) => {
                entry.outcome = Outcome::Allowed;
                log.key_id = Some(grant.key.clone());
                log.account = Some(grant.account.clone());
                let endpoint = grant.endpoint.take();
                (Ok(Permit { grant, digest }), endpoint)
            }
            Decision::Deny(mut denial) => {
                entry.outcome = Outcome::Denied;
                log.key_id = denial.key.take();
                let endpoint = denial.endpoint.take();
                (Err(denial.into()), endpoint)
            }
        };
        if let Some(endpoint) = endpoint {
            log.path = endpoint;
        }
        permit
    }

    /// Serves a request that was let through, and notes the use of its key.
    async fn serve(
        self: &Arc<Self>,
        permit: Permit,
        entry: &LogEntry,
        request: Request,
    ) -> Response {
        let grant = &permit.grant;
        let now = entry.at_ms / 1000;
        if !has_class(grant, "money-movement") {
            self.usage.mark(&grant.key, now, entry.source, endpoint(entry), false);
            return self.serve_by_backend(grant, entry, request).await;
        }
        // To its end, even if the client goes away: whether money moved must
        // be noted, or the key's access is limited too early.
        let this = Arc::clone(self);
        let entry = entry.clone();
        let served = tokio::spawn(async move {
            let Permit { grant, digest } = permit;
            let response = this.serve_by_backend(&grant, &entry, request).await;
            // Only what was done counts: a refused transfer must not put off
            // the day on which the key's access is limited.
            let moved = response.status().is_success();
            this.usage.mark(&grant.key, now, entry.source, endpoint(&entry), moved);
            if let Some(digest) = digest
                && moved
            {
                this.cache.money_moved(digest, now);
            }
            response
        });
        served.await.unwrap_or_else(|err| ApiError::Internal(err.into()).into_response())
    }

    async fn serve_by_backend(
        &self,
        grant: &Grant,
        entry: &LogEntry,
        request: Request,
    ) -> Response {
        let served = if request.uri().path() == SELF_PATH {
            Box::pin(self.about_key(grant)).await
        } else {
            match &self.backend {
                Backend::Simulated(api) => {
                    let caller = Caller {
                        account: &grant.account,
                        mode: grant.mode.into(),
                        client_secret_required: needs_client_secret(grant),
                    };
                    Ok(Box::pin(api.serve(caller, entry.at_ms / 1000, request)).await)
                }
                Backend::Upstream(upstream) => {
                    Box::pin(upstream.send(identified(request, grant, entry))).await
                }
                Backend::Router(router) => {
                    let answer = router.clone().oneshot(identified(request, grant, entry)).await;
                    Ok(answer.unwrap_or_else(|err| match err {}))
                }
            }
        };
        let mut response = served.unwrap_or_else(IntoResponse::into_response);
        for notice in &grant.notices {
            if let Ok(notice) = HeaderValue::from_str(notice) {
                response.headers_mut().append(STRIPE_NOTICE, notice);
            }
        }
        response
    }

    async fn about_key(&self, grant: &Grant) -> Result<Response, ApiError> {
        // The key itself asks, and may see itself.
        let key = self.keys.find(&Ask::by(Actor::Platform), &grant.key).await?;
        let view = self.keys.view(&key, None)?;
        Ok((StatusCode::OK, axum::Json(view)).into_response())
    }
}

fn endpoint(entry: &LogEntry) -> Endpoint<'_> {
    Endpoint { method: &entry.method, path: &entry.path }
}

fn has_class(grant: &Grant, class: &str) -> bool {
    grant.usage.split(' ').any(|one| one == class)
}

fn needs_client_secret(grant: &Grant) -> bool {
    grant.attributes.iter().any(|(name, value)| name == "client-secret" && value == "required")
}

/// Adds to a request who it comes from. Last of all, so that nothing a client
/// sends can look like it.
fn identified(mut request: Request<Body>, grant: &Grant, entry: &LogEntry) -> Request<Body> {
    let host = request.headers().get(header::HOST).cloned();
    let headers = request.headers_mut();
    headers.insert(WARDKEY_MODE, HeaderValue::from_static(Mode::from(grant.mode).as_str()));
    let mut add = |name: HeaderName, value: &[u8]| {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(name, value);
        }
    };
    add(WARDKEY_KEY, grant.key.as_bytes());
    add(WARDKEY_ACCOUNT, grant.account.as_bytes());
    add(WARDKEY_PERMISSIONS, grant.permissions.as_bytes());
    for (name, value) in &grant.attributes {
        if let Ok(name) = HeaderName::try_from(format!("wardkey-{name}")) {
            add(name, value.as_bytes());
        }
    }
    add(FORWARDED_FOR, AddressText::new(entry.source).as_str().as_bytes());
    add(REQUEST_ID, entry.request_id.as_bytes());
    if let Some(host) = host {
        headers.insert(FORWARDED_HOST, host);
    }
    request
}

/// Returns a header that the policy is told, without secrets.
pub(crate) fn told<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<Cow<'a, str>>, ApiError> {
    let invalid = |message: &str| ApiError::Invalid {
        param: name.as_str().to_owned(),
        message: message.to_owned(),
    };
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid("send this header once"));
    }
    let value = value.to_str().map_err(|_| invalid("use visible ASCII characters"))?;
    if value.len() > MAX_HEADER_BYTES {
        return Err(invalid("this value is too long"));
    }
    Ok(Some(scrub(value)))
}

/// The method as it is logged: what a client makes up must not fill the log.
fn logged_method(method: &Method) -> String {
    let method = method.as_str();
    if method.len() <= 16 { method.to_owned() } else { "(too long)".to_owned() }
}
