//! What happened: the request log and the audit log.

use std::sync::Arc;

use axum::{Extension, extract::State};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Asked, keys::list_limit};
use crate::{
    api::{OptionalJson, Query},
    audit::{AuditHead, ChainVerifier},
    error::ApiError,
    host::Host,
    secret::Digest,
    storage::{AuditFilter, LogEntry, LogFilter, Mode, SealedAuditEntry},
};

/// How many entries are read at a time to verify the audit log: a few hundred
/// kilobytes.
const VERIFY_PAGE: usize = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListRequests {
    key: Option<String>,
    account: Option<String>,
    livemode: Option<bool>,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
    /// `403`, or `4xx`.
    status: Option<String>,
    code: Option<String>,
    /// `POST /v1/refunds`, or a path's template alone.
    endpoint: Option<String>,
    limit: Option<usize>,
    starting_after: Option<u64>,
}

/// Requests at the gate, newest first, those of ended keys included.
pub(super) async fn list_requests(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Query(asked): Query<ListRequests>,
) -> Result<axum::Json<Value>, ApiError> {
    let limit = list_limit(asked.limit)?;
    let mode = asked.livemode.map(|live| if live { Mode::Live } else { Mode::Test });
    let scope = host.keys.scope(&ask, asked.account.as_deref(), mode)?;
    if let Some(key) = &asked.key {
        // Its own are all that a caller can ask for.
        host.keys.find(&ask, key).await?;
    }
    let statuses = asked.status.as_deref().map(statuses).transpose()?;
    let (method, path) = match asked.endpoint.as_deref().map(str::trim) {
        None => (None, None),
        Some(endpoint) => match endpoint.split_once(' ') {
            Some((method, path)) => (Some(method.to_ascii_uppercase()), Some(path.trim())),
            None => (None, Some(endpoint)),
        },
    };
    let filter = LogFilter {
        key_id: asked.key,
        account: scope.account,
        mode: scope.mode.map(Mode::from),
        from_ms: asked.from.map(milliseconds),
        until_ms: asked.until.map(milliseconds),
        statuses,
        code: asked.code,
        method,
        path: path.map(str::to_owned),
        before: asked.starting_after,
        limit: limit + 1,
    };
    // What the last second brought is on its way to storage.
    let mut entries = host.storage.find_log(filter).await?;
    let has_more = entries.len() > limit;
    entries.truncate(limit);
    let data: Vec<Value> =
        entries.iter().map(|(position, entry)| shown(*position, entry)).collect();
    Ok(axum::Json(json!({ "object": "list", "data": data, "has_more": has_more })))
}

fn shown(position: u64, entry: &LogEntry) -> Value {
    json!({
        "object": "request_log",
        // What `starting_after` takes.
        "position": position,
        "id": entry.request_id,
        "created": time(entry.at_ms),
        "key": entry.key_id,
        "account": entry.account,
        "method": entry.method,
        "path": entry.path,
        "status": entry.status,
        "code": entry.code,
        "source": entry.source,
        "policy": entry.policy.map(|policy| policy.to_hex()),
        "overlays": entry.overlays.iter().map(Digest::to_hex).collect::<Vec<_>>(),
        "decision_us": entry.decision_us,
    })
}

fn statuses(text: &str) -> Result<(u16, u16), ApiError> {
    let class = text.strip_suffix("xx").and_then(|class| class.parse::<u16>().ok());
    match (class, text.parse::<u16>()) {
        (Some(class @ 1..=5), _) => Ok((class * 100, class * 100 + 99)),
        (None, Ok(status @ 100..=599)) => Ok((status, status)),
        _ => Err(ApiError::Invalid {
            param: "status".to_owned(),
            message: "give a status such as `403`, or a class such as `4xx`".to_owned(),
        }),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListAudit {
    /// The id of a key, an account or an organization.
    target: Option<String>,
    /// `operator`, `platform`, or a key's id.
    actor: Option<String>,
    limit: Option<usize>,
    starting_after: Option<u64>,
}

/// What was done with keys, newest first.
pub(super) async fn list_audit(
    State(host): State<Arc<Host>>,
    Query(asked): Query<ListAudit>,
) -> Result<axum::Json<Value>, ApiError> {
    let limit = list_limit(asked.limit)?;
    let filter = AuditFilter {
        target: asked.target,
        actor: asked.actor,
        before: Some(asked.starting_after.unwrap_or(i64::MAX.unsigned_abs())),
        after: None,
        limit: limit + 1,
    };
    let mut entries = host.storage.list_audit(filter).await?;
    let has_more = entries.len() > limit;
    entries.truncate(limit);
    let data: Vec<Value> = entries.iter().map(sealed).collect::<Result<_, _>>()?;
    Ok(axum::Json(json!({ "object": "list", "data": data, "has_more": has_more })))
}

fn sealed(entry: &SealedAuditEntry) -> Result<Value, ApiError> {
    let mut shown: Value =
        serde_json::from_str(&entry.text).map_err(|err| ApiError::Internal(err.into()))?;
    shown["object"] = "audit_entry".into();
    // What `starting_after` takes.
    shown["sequence"] = entry.sequence.into();
    shown["created"] = json!(shown["at_ms"].as_u64().and_then(time));
    shown["seal"] = entry.seal.to_string().into();
    Ok(shown)
}

/// The newest entry's place and seal. Kept elsewhere, it shows later whether
/// anything up to here was changed or taken away.
pub(super) async fn audit_head(
    State(host): State<Arc<Host>>,
) -> Result<axum::Json<Value>, ApiError> {
    let filter =
        AuditFilter { before: Some(i64::MAX.unsigned_abs()), limit: 1, ..AuditFilter::default() };
    let newest = host.storage.list_audit(filter).await?;
    let head = newest
        .first()
        .map(|entry| AuditHead { sequence: entry.sequence, seal: entry.seal }.to_string());
    Ok(axum::Json(json!({ "object": "audit_head", "head": head })))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VerifyAudit {
    /// A head that was kept elsewhere.
    #[serde(default)]
    head: Option<String>,
}

/// Reads the whole audit log and checks every seal.
pub(super) async fn verify_audit(
    State(host): State<Arc<Host>>,
    OptionalJson(asked): OptionalJson<VerifyAudit>,
) -> Result<axum::Json<Value>, ApiError> {
    let head: Option<AuditHead> = match &asked.head {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| ApiError::Invalid {
            param: "head".to_owned(),
            message: "give a head as `GET /v2/audit_log/head` returns it".to_owned(),
        })?),
    };
    let mut verifier = ChainVerifier::new(&host.keys.audit_key, head);
    let mut after = 0;
    loop {
        let filter =
            AuditFilter { after: Some(after), limit: VERIFY_PAGE, ..AuditFilter::default() };
        let entries = host.storage.list_audit(filter).await?;
        entries.iter().for_each(|entry| verifier.feed(entry));
        match entries.last() {
            Some(last) => after = last.sequence,
            None => break,
        }
    }
    Ok(axum::Json(match verifier.finish() {
        Ok(head) => json!({
            "object": "audit_verification",
            "intact": true,
            "entries": after,
            "head": head.map(|head| head.to_string()),
        }),
        Err(fault) => json!({
            "object": "audit_verification",
            "intact": false,
            "entries": after,
            "fault": fault.to_string(),
        }),
    }))
}

fn milliseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or_default()
}

fn time(ms: u64) -> Option<Timestamp> {
    i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok())
}
