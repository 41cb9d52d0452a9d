//! What other services of the operator ask: is this key good for that; how is
//! the host.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    http::{Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Json, bearer};
use crate::{
    answer,
    decide::DecideError,
    engine::{
        EngineError,
        contract::{Request as Question, explain::Explanation},
    },
    error::ApiError,
    gate::MAX_HEADER_BYTES,
    host::Host,
    question,
    scrub::scrub,
    secret::{Digest, Presented},
};

/// Who may call the internal listener.
#[derive(Clone)]
pub enum InternalAccess {
    /// Whoever reaches it: it listens on a loopback address. A web page in the
    /// operator's browser reaches it too, under a name of its own, so the
    /// `Host` header must name a loopback address.
    Loopback,
    /// Whoever has the token with this digest.
    Token(Digest),
}

/// Returns the routes of the internal listener.
pub fn router(host: Arc<Host>, access: InternalAccess) -> Router {
    routes(host).layer(middleware::from_fn_with_state(access, check_access))
}

/// Returns the routes without the check of who calls.
pub(super) fn routes(host: Arc<Host>) -> Router {
    Router::new()
        .route("/healthz", get(is_alive))
        .route("/readyz", get(is_ready))
        .route("/metrics", get(show_metrics))
        .route("/verify", post(verify_request))
        .fallback(no_route)
        .method_not_allowed_fallback(no_route)
        .with_state(host)
}

pub(super) async fn no_route(request: Request) -> ApiError {
    ApiError::NoRoute {
        method: request.method().to_string(),
        path: scrub(request.uri().path()).into_owned(),
    }
}

async fn check_access(
    State(access): State<InternalAccess>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let allowed = match &access {
        InternalAccess::Loopback => {
            let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
            host.is_some_and(is_loopback)
        }
        InternalAccess::Token(token) => {
            // Digests, so that the time this takes tells nothing of the token.
            bearer(&parts).is_some_and(|presented| Digest::of(presented) == *token)
        }
    };
    if !allowed {
        return Err(ApiError::InternalOnly);
    }
    Ok(next.run(Request::from_parts(parts, body)).await)
}

fn is_loopback(host: &str) -> bool {
    let name = format!("http://{host}/").parse::<Uri>();
    let name = name.ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The process runs.
async fn is_alive() -> &'static str {
    "ok\n"
}

/// Storage answers, so that requests can be decided.
async fn is_ready(State(host): State<Arc<Host>>) -> Result<&'static str, ApiError> {
    host.storage.ping().await?;
    Ok("ok\n")
}

async fn show_metrics(State(host): State<Arc<Host>>) -> Response {
    let in_force = host.policy.in_force();
    let text = host.metrics.encode(&in_force, host.cache.storage_reads(), host.log.dropped());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// A request that another service wants decided.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// The secret that was presented to that service. Left out: none was.
    #[serde(default)]
    pub key: Option<String>,
    /// The HTTP method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The client's address. Left out: unknown, which is in no sensible
    /// allowlist.
    #[serde(default = "unknown_address")]
    pub source: IpAddr,
    /// The `Stripe-Context` header.
    #[serde(default)]
    pub context: Option<String>,
    /// The `Stripe-Account` header.
    #[serde(default)]
    pub account: Option<String>,
    /// The `Stripe-Version` header.
    #[serde(default)]
    pub api_version: Option<String>,
    /// Whether to say which rules were asked.
    #[serde(default)]
    pub explain: bool,
}

fn unknown_address() -> IpAddr {
    IpAddr::from([0, 0, 0, 0])
}

/// Decides about a request that another service got. A denial is an answer like
/// any other: 200, `"allowed": false`.
pub(super) async fn verify_request(
    State(host): State<Arc<Host>>,
    Json(asked): Json<Verify>,
) -> Result<axum::Json<Value>, ApiError> {
    crate::path::check_path(&asked.path)?;
    let method = told("method", Some(&asked.method))?.unwrap_or_default();
    let context = told("context", asked.context.as_deref())?;
    let account = told("account", asked.account.as_deref())?;
    let api_version = told("api_version", asked.api_version.as_deref())?;
    let presented = asked.key.as_deref().filter(|key| !key.is_empty());
    let presented = presented.map(|key| host.cache.recognise(key, host.keys.brand.as_ref()));
    let path = scrub(&asked.path);
    let digest = presented.as_ref().and_then(Presented::digest);
    let question = Question {
        credential: question::credential(presented.as_ref()),
        method: &method,
        path: &path,
        source: question::source(asked.source),
        context: context.as_deref(),
        account: account.as_deref(),
        api_version: api_version.as_deref(),
        now: host.clock.now(),
        attributes: question::attributes(host.allow_unlisted),
    };
    let explained = match asked.explain {
        true => host.decider.explain(&question, digest).await.map(Some),
        false => Ok(None),
    };
    let (decision, steps, by) = match explained {
        Ok(Some(explained)) => {
            let Explanation { decision, steps } = explained.answer;
            let steps = steps.iter().map(
                |step| json!({ "rule": step.rule, "passed": step.passed, "detail": step.detail }),
            );
            (decision, Some(steps.collect()), explained.by)
        }
        // Nobody asked, or a policy that cannot say: the decision stands alone.
        Ok(None) | Err(DecideError::Engine { source: EngineError::Missing(_), .. }) => {
            let decided = host.decider.decide(&question, digest).await?;
            (decided.answer, None, decided.by)
        }
        Err(err) => return Err(err.into()),
    };
    let mut answer = answer::shown(&decision);
    answer["policy"] = by.policy().to_hex().into();
    answer["overlays"] = by.asked_overlays().iter().map(Digest::to_hex).collect();
    if let Some(steps) = steps {
        answer["steps"] = Value::Array(steps);
    }
    Ok(axum::Json(answer))
}

/// Returns what the policy is told of a value: as at the gate, nothing that no
/// header would hold, and no secrets.
fn told<'a>(param: &str, value: Option<&'a str>) -> Result<Option<Cow<'a, str>>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    let message = if value.len() > MAX_HEADER_BYTES {
        "this value is too long"
    } else if !value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        "use visible ASCII characters"
    } else {
        return Ok(Some(scrub(value)));
    };
    Err(ApiError::Invalid { param: param.to_owned(), message: message.to_owned() })
}
