//! The admin listener: what the operator does, and what keys may do with keys.
//!
//! [`ROUTES`] is the whole of it. A route says who may call it: the operator
//! alone, or also the keys of an account, which the policy decides about like
//! about any other request.

use std::{borrow::Cow, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody as _},
    extract::{DefaultBodyLimit, Extension, Request, State},
    handler::Handler as _,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{bearer, internal};
use crate::{
    client_address::client_address,
    credential::presented_secret,
    data_dir::DataDir,
    decide::Decided,
    engine::{
        LoadError, MAX_COMPONENT_BYTES,
        contract::{Decision, Key, Request as Question},
    },
    error::ApiError,
    gate::{
        MAX_LOGGED_PATH_BYTES, REQUEST_ID, STRIPE_ACCOUNT, STRIPE_CONTEXT, STRIPE_VERSION, told,
    },
    host::Host,
    keys::{Actor, Ask, Idempotency},
    path::check_path,
    question,
    scrub::scrub,
    secret::{Digest, Presented, mint_id},
    server::Peer,
    throttle,
    usage::Endpoint,
    verification,
};

mod accounts;
mod keys;
mod logs;
mod maintenance;
mod policies;
mod rules;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The longest body of a management request, in bytes: a key with all
/// permissions and networks has a tenth of it.
const MAX_BODY_BYTES: usize = 256 * 1024;

/// How long a caller may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest idempotency key, in characters: Stripe's limit, which its SDKs
/// know.
const MAX_IDEMPOTENCY_KEY_CHARS: usize = 255;

/// Who may call the admin routes.
#[derive(Clone)]
pub enum AdminAccess {
    /// Whoever has the operator credential of this data directory; and keys,
    /// where a route is theirs too.
    Credential(Arc<DataDir>),
    /// Whoever reaches them: the socket in this data directory, which only its
    /// owner can open.
    Socket(Arc<DataDir>),
}

/// Whose a route is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callers {
    /// The operator's. No key of an account may call it, whatever it holds.
    Operator,
    /// The operator's, at the socket only: it names files of this machine.
    Socket,
    /// Also that of keys that the policy lets through.
    Keys,
}

/// A route of the admin listener.
pub struct Route {
    /// The HTTP method.
    pub method: &'static str,
    /// The path, with `{id}` for what varies.
    pub path: &'static str,
    /// Who may call it.
    pub callers: Callers,
    handler: fn() -> MethodRouter<Arc<Host>>,
}

const fn route(
    method: &'static str,
    path: &'static str,
    callers: Callers,
    handler: fn() -> MethodRouter<Arc<Host>>,
) -> Route {
    Route { method, path, callers, handler }
}

/// Every route of the admin listener.
pub const ROUTES: &[Route] = &[
    route("GET", "/v2/iam/api_keys", Callers::Keys, || get(keys::list)),
    route("POST", "/v2/iam/api_keys", Callers::Keys, || post(keys::create)),
    route("POST", "/v2/iam/api_keys/import", Callers::Operator, || post(keys::import)),
    route("GET", "/v2/iam/api_keys/self", Callers::Keys, || get(keys::show_self)),
    route("GET", "/v2/iam/api_keys/{id}", Callers::Keys, || get(keys::show)),
    route("POST", "/v2/iam/api_keys/{id}", Callers::Keys, || post(keys::update)),
    route("POST", "/v2/iam/api_keys/{id}/expire", Callers::Keys, || post(keys::expire)),
    route("POST", "/v2/iam/api_keys/{id}/rotate", Callers::Keys, || post(keys::rotate)),
    route("POST", "/v2/iam/api_keys/{id}/schedule_rotation", Callers::Keys, || {
        post(keys::schedule_rotation)
    }),
    route("POST", "/v2/iam/api_keys/{id}/cancel_rotation", Callers::Keys, || {
        post(keys::cancel_rotation)
    }),
    route("POST", "/v2/iam/api_keys/{id}/reveal", Callers::Keys, || post(keys::reveal)),
    route("POST", "/v2/iam/api_keys/{id}/restore", Callers::Keys, || post(keys::restore)),
    route("GET", "/v2/iam/permissions", Callers::Keys, || get(rules::list_permissions)),
    route("POST", "/v2/iam/permissions/resolve", Callers::Keys, || {
        post(rules::resolve_permissions)
    }),
    route("GET", "/v2/request_logs", Callers::Keys, || get(logs::list_requests)),
    route("GET", "/v2/audit_log", Callers::Operator, || get(logs::list_audit)),
    route("GET", "/v2/audit_log/head", Callers::Operator, || get(logs::audit_head)),
    route("POST", "/v2/audit_log/verify", Callers::Operator, || post(logs::verify_audit)),
    route("GET", "/v2/accounts", Callers::Operator, || get(accounts::list)),
    route("POST", "/v2/accounts", Callers::Operator, || post(accounts::create)),
    route("GET", "/v2/accounts/{id}", Callers::Operator, || get(accounts::show)),
    route("POST", "/v2/accounts/{id}", Callers::Operator, || post(accounts::update)),
    route("POST", "/v2/organizations", Callers::Operator, || post(accounts::create_organization)),
    route("GET", "/v2/policies", Callers::Operator, || get(policies::list)),
    route("POST", "/v2/policies", Callers::Operator, || post(policies::push)),
    route("POST", "/v2/policies/rollback", Callers::Operator, || post(policies::roll_back)),
    route("GET", "/v2/policies/in_force", Callers::Operator, || get(policies::in_force)),
    route("GET", "/v2/policies/shadow", Callers::Operator, || get(policies::show_shadow)),
    route("POST", "/v2/policies/shadow/end", Callers::Operator, || post(policies::end_shadow)),
    route("POST", "/v2/policies/canary/end", Callers::Operator, || post(policies::end_canary)),
    route("GET", "/v2/policies/{digest}", Callers::Operator, || get(policies::show)),
    route("POST", "/v2/policies/{digest}/activate", Callers::Operator, || post(policies::activate)),
    route("POST", "/v2/policies/{digest}/canary", Callers::Operator, || post(policies::canary)),
    route("POST", "/v2/policies/{digest}/shadow", Callers::Operator, || post(policies::shadow)),
    route("POST", "/v2/policies/{digest}/retire", Callers::Operator, || post(policies::retire)),
    route("POST", "/v2/backup", Callers::Socket, || post(maintenance::back_up)),
    route("POST", "/v2/key_encryption_key/replace", Callers::Socket, || {
        post(maintenance::replace_key_encryption_key)
    }),
    route("GET", "/openapi.json", Callers::Operator, || get(openapi)),
];

/// The description of these routes, for client generators.
pub const OPENAPI: &str = include_str!("openapi.json");

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// Returns the routes of the admin listener. On the socket, where the command
/// line calls, those of the internal listener are there too.
pub fn router(host: Arc<Host>, access: AdminAccess) -> Router {
    let at_socket = matches!(access, AdminAccess::Socket(_));
    let mut routes = Router::new();
    for route in ROUTES.iter().filter(|route| at_socket || route.callers != Callers::Socket) {
        let doorman =
            Doorman { host: Arc::clone(&host), access: access.clone(), callers: route.callers };
        // Bodies were bounded already when the doorman read them.
        let handler = (route.handler)()
            .layer(DefaultBodyLimit::disable())
            .layer(middleware::from_fn_with_state(doorman, admit));
        routes = routes.route(route.path, handler);
    }
    let routes = routes.with_state(Arc::clone(&host));
    if at_socket {
        return routes.merge(internal::routes(host));
    }
    let doorman = Doorman { host, access, callers: Callers::Operator };
    // Neither which paths there are nor with which methods is a stranger's to
    // find out.
    let nowhere = internal::no_route.layer(middleware::from_fn_with_state(doorman, admit));
    routes.fallback(nowhere.clone()).method_not_allowed_fallback(nowhere)
}

/// Who stands before a route.
#[derive(Clone)]
struct Doorman {
    host: Arc<Host>,
    access: AdminAccess,
    callers: Callers,
}

/// Finds out who calls, and hands the handler an [`Ask`]. Answers a repeated
/// request by itself.
async fn admit(State(doorman): State<Doorman>, request: Request, next: Next) -> Response {
    let request_id = mint_id("req_");
    let answered = doorman.admit(request, next, &request_id).await;
    let mut response = answered.unwrap_or_else(IntoResponse::into_response);
    let headers = response.headers_mut();
    if let Ok(request_id) = HeaderValue::try_from(request_id) {
        headers.insert(REQUEST_ID, request_id);
    }
    // Secrets may be in it, and what is in it changes.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl Doorman {
    async fn admit(
        &self,
        request: Request,
        next: Next,
        request_id: &str,
    ) -> Result<Response, ApiError> {
        let (mut parts, body) = request.into_parts();
        let source = self.source(&parts);
        let now_ms = self.host.clock.now_ms();
        let actor = match self.actor(&parts, source, request_id).await {
            Err(err)
                if err.is_failed_authentication()
                    && self
                        .host
                        .throttle
                        .is_spent(throttle::network(source.unwrap_or(UNKNOWN)), now_ms) =>
            {
                return Err(ApiError::TooManyFailures);
            }
            actor => actor?,
        };
        let body = read_body(&parts, body).await?;
        let ask = Ask {
            actor,
            source,
            request_id: Some(request_id.to_owned()),
            if_match: if_match(&parts.headers)?,
            verification: verification::presented(&parts.headers)?.map(str::to_owned),
            idempotency: idempotency(&parts, &body)?,
            arguments: json!([
                parts.method.as_str(),
                parts.uri.path(),
                serde_json::from_slice::<Value>(&body).unwrap_or_default(),
            ]),
        };
        if let Some(answer) = self.kept_reply(&ask).await? {
            return Ok(answer);
        }
        // A caller that goes on being refused fills the audit log. Reading is
        // not written there.
        let caller = ask.actor.name().to_owned();
        // Who is at the socket owns the data directory, and must not be kept out by
        // somebody else with the same credential.
        let at_socket = matches!(self.access, AdminAccess::Socket(_));
        let changes = parts.method != Method::GET && !at_socket;
        if changes && self.host.refusals.would_be_spent(caller.clone(), now_ms) {
            return Err(ApiError::TooManyRefusals);
        }
        parts.extensions.insert(ask.clone());
        let (AdminAccess::Credential(data_dir) | AdminAccess::Socket(data_dir)) = &self.access;
        parts.extensions.insert(Arc::clone(data_dir));
        let response = next.run(Request::from_parts(parts, Body::from(body))).await;
        // The same request was a moment faster, and has left nothing to do: a key
        // that was rotated, or has ended. Its answer is this one's.
        if response.status().is_client_error()
            && let Some(answer) = self.kept_reply(&ask).await?
        {
            return Ok(answer);
        }
        if changes && response.status().is_client_error() {
            self.host.refusals.is_spent(caller, now_ms);
        }
        Ok(response)
    }

    fn source(&self, parts: &Parts) -> Option<IpAddr> {
        let Peer(peer) = *parts.extensions.get::<Peer>()?;
        let forwarded = parts.headers.get_all(crate::gate::FORWARDED_FOR);
        Some(client_address(peer, forwarded.iter(), &self.host.trusted_proxies))
    }

    async fn actor(
        &self,
        parts: &Parts,
        source: Option<IpAddr>,
        request_id: &str,
    ) -> Result<Actor, ApiError> {
        let data_dir = match &self.access {
            AdminAccess::Socket(_) => return Ok(Actor::Operator),
            AdminAccess::Credential(data_dir) => data_dir,
        };
        if bearer(parts).is_some_and(|presented| data_dir.operator().matches(presented)) {
            return Ok(Actor::Operator);
        }
        let caller = Knock { parts, source: source.unwrap_or(UNKNOWN), request_id };
        if self.callers != Callers::Keys {
            // Not for any key. But whose key was tried is worth knowing.
            if let Ok(Decided { key: Some(key), .. }) = self.decide(&caller).await {
                self.note_refusal(&caller, key, "operator_required").await?;
            }
            return Err(ApiError::OperatorRequired);
        }
        self.key(&caller).await
    }

    /// Has the policy decide about a key that calls: whether it is good at all,
    /// from this address, for this endpoint. Which keys it may touch is asked
    /// later.
    async fn key(&self, caller: &Knock<'_>) -> Result<Actor, ApiError> {
        let host = &self.host;
        let decided = self.decide(caller).await?;
        match (decided.answer, decided.key) {
            (Decision::Allow(grant), Some(key)) => {
                let endpoint = Endpoint {
                    method: caller.parts.method.as_str(),
                    path: grant.endpoint.as_deref().unwrap_or_default(),
                };
                host.usage.mark(&grant.key, host.clock.now(), caller.source, endpoint, false);
                if grant.account == key.account {
                    return Ok(Actor::Key(key));
                }
                // It manages its own account, and nothing says otherwise; unless
                // it manages nothing at all.
                let ask = Ask::by(Actor::Key(Arc::clone(&key)));
                let err = host.keys.scope(&ask, None, None).err().unwrap_or(ApiError::Invalid {
                    param: "Stripe-Account".to_owned(),
                    message: "keys are managed by keys of their own account; leave out this \
                              header and Stripe-Context"
                        .to_owned(),
                });
                if let Some(code) = err.refusal() {
                    self.note_refusal(caller, key, &code).await?;
                }
                Err(err)
            }
            (Decision::Allow(_), None) => {
                Err(ApiError::Internal("a request was let through without a key".into()))
            }
            (Decision::Deny(denial), key) => {
                let err = ApiError::from(denial);
                // It is known who it was, although it may not do this.
                if let (Some(key), Some(code)) = (key, err.refusal()) {
                    self.note_refusal(caller, key, &code).await?;
                }
                Err(err)
            }
        }
    }

    async fn decide(&self, caller: &Knock<'_>) -> Result<Decided<Decision>, ApiError> {
        let host = &self.host;
        let headers = &caller.parts.headers;
        check_path(caller.parts.uri.path())?;
        let path = caller.path();
        let secret = presented_secret(headers)?;
        let brand = host.keys.brand.as_ref();
        let presented = secret.as_deref().map(|text| host.cache.recognise(text, brand));
        let context = told(headers, &STRIPE_CONTEXT)?;
        let account = told(headers, &STRIPE_ACCOUNT)?;
        let api_version = told(headers, &STRIPE_VERSION)?;
        let digest = presented.as_ref().and_then(Presented::digest);
        let question = Question {
            credential: question::credential(presented.as_ref()),
            method: caller.parts.method.as_str(),
            path: &path,
            source: question::source(caller.source),
            context: context.as_deref(),
            account: account.as_deref(),
            api_version: api_version.as_deref(),
            now: host.clock.now(),
            attributes: &[],
        };
        Ok(host.decider.decide(&question, digest).await?)
    }

    /// Tells the audit log that a known key was refused at the door, unless that
    /// happens too often.
    ///
    /// Counted apart from what the key is refused once it is in: whoever has a
    /// stolen key that is no good from where they are could otherwise keep its
    /// owner out.
    async fn note_refusal(
        &self,
        caller: &Knock<'_>,
        key: Arc<Key>,
        code: &str,
    ) -> Result<(), ApiError> {
        let host = &self.host;
        if host.refusals.is_spent(format!("{} at the door", key.id), host.clock.now_ms()) {
            return Err(ApiError::TooManyRefusals);
        }
        let ask = Ask {
            source: Some(caller.source),
            request_id: Some(caller.request_id.to_owned()),
            ..Ask::by(Actor::Key(key))
        };
        host.keys.note_refusal(&ask, &caller.action(), None, code).await;
        Ok(())
    }

    /// Returns what was answered to the same request before.
    async fn kept_reply(&self, ask: &Ask) -> Result<Option<Response>, ApiError> {
        let Some(idempotency) = &ask.idempotency else { return Ok(None) };
        let kept = self.host.storage.find_reply(ask.actor.name(), &idempotency.key).await?;
        let Some(kept) = kept else { return Ok(None) };
        if kept.request_digest != idempotency.request_digest {
            return Err(ApiError::IdempotencyConflict);
        }
        let status = StatusCode::from_u16(kept.status).unwrap_or(StatusCode::OK);
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (IDEMPOTENT_REPLAYED, HeaderValue::from_static("true")),
        ];
        Ok(Some((status, headers, kept.body).into_response()))
    }
}

/// A request of somebody that is not known to be the operator.
struct Knock<'a> {
    parts: &'a Parts,
    source: IpAddr,
    request_id: &'a str,
}

impl Knock<'_> {
    /// Its path, without a secret that somebody has put there.
    fn path(&self) -> Cow<'_, str> {
        scrub(self.parts.uri.path())
    }

    /// What it wants, for the audit log.
    fn action(&self) -> String {
        let path = self.path();
        // Paths that were decided about are ASCII, and can be cut anywhere.
        let shown = path.get(..MAX_LOGGED_PATH_BYTES).unwrap_or(&path);
        format!("{} {shown}", self.parts.method)
    }
}

/// Where a request comes from that came without an address: in no allowlist.
const UNKNOWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// Where components are sent, which are larger than anything else is.
const PUSH_PATH: &str = "/v2/policies";

async fn read_body(parts: &Parts, body: Body) -> Result<Bytes, ApiError> {
    let is_component = parts.uri.path() == PUSH_PATH;
    let max_bytes = match is_component {
        // One more, so that what is too large is told so by who knows why.
        true => MAX_COMPONENT_BYTES + 1,
        false => MAX_BODY_BYTES,
    };
    if parts.method == Method::GET {
        return Ok(Bytes::new());
    }
    // What announces that it is too large is not read at all.
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if is_component && announced > max_bytes {
        return Err(LoadError::TooLarge(announced).into());
    }
    let read = timeout(BODY_TIMEOUT, Limited::new(body, max_bytes).collect()).await;
    match read {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) | Err(_) => Err(ApiError::Invalid {
            param: "body".to_owned(),
            message: format!(
                "send at most {} bytes, all of them, within {} seconds",
                max_bytes - usize::from(is_component),
                BODY_TIMEOUT.as_secs()
            ),
        }),
    }
}

/// Returns the one value of a header.
fn header_text(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match (value.to_str(), values.next()) {
        (Ok(text), None) => Ok(Some(text.trim().to_owned())),
        _ => Err(invalid_header(name, "send it once, in visible ASCII characters")),
    }
}

fn invalid_header(name: &HeaderName, message: &str) -> ApiError {
    ApiError::Invalid { param: name.as_str().to_owned(), message: message.to_owned() }
}

/// Returns the revision of `If-Match: "3"`. `*` matches every one.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(text) = header_text(headers, &header::IF_MATCH)? else { return Ok(None) };
    if text == "*" {
        return Ok(None);
    }
    let revision = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    revision.and_then(|revision| revision.parse().ok()).map(Some).ok_or_else(|| {
        invalid_header(&header::IF_MATCH, "send the ETag of the key as you read it, such as \"3\"")
    })
}

fn idempotency(parts: &Parts, body: &Bytes) -> Result<Option<Idempotency>, ApiError> {
    let Some(key) = header_text(&parts.headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
    if parts.method == Method::GET {
        return Ok(None);
    }
    if !(1..=MAX_IDEMPOTENCY_KEY_CHARS).contains(&key.len()) {
        let message = format!("use 1 to {MAX_IDEMPOTENCY_KEY_CHARS} characters");
        return Err(invalid_header(&IDEMPOTENCY_KEY, &message));
    }
    let mut request = format!("{} {}\n", parts.method, parts.uri).into_bytes();
    request.extend_from_slice(body);
    Ok(Some(Idempotency { key, request_digest: Digest::of_bytes(&request) }))
}

/// Runs what changes something to its end, even if the caller goes away: what
/// was stored must be in force at once.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(work).await.map_err(|err| ApiError::Internal(err.into()))?
}

type Asked = Extension<Ask>;
