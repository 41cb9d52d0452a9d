//! `/v2/policies`: the rules, as they were pushed, and which of them are in
//! force.

use std::sync::Arc;

use axum::{
    Extension,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Asked, keys::Nothing, to_its_end};
use crate::{
    api::{Json, OptionalJson, Query},
    error::ApiError,
    host::Host,
    policies::{Activate, Listed, PushPolicy},
    share::{CanaryBy, Share},
    trust::{MalformedSignature, PolicySignature},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Push {
    name: String,
    version: String,
    revision: u64,
    #[serde(default)]
    signature: Option<String>,
}

/// The body is the component itself.
pub(super) async fn push(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Query(asked): Query<Push>,
    body: Bytes,
) -> Result<Response, ApiError> {
    to_its_end(async move {
        let Push { name, version, revision, signature } = asked;
        let signature: Option<PolicySignature> =
            signature.map(|text| text.parse()).transpose().map_err(|err: MalformedSignature| {
                ApiError::Invalid { param: "signature".to_owned(), message: err.to_string() }
            })?;
        let signature = signature.map(|signature| *signature.as_bytes());
        let wanted = PushPolicy { name, version, revision, signature, bytes: (&*body).into() };
        let listed = host.policies.push(&ask, wanted).await?;
        Ok((StatusCode::CREATED, axum::Json(listed.to_json())).into_response())
    })
    .await
}

pub(super) async fn list(State(host): State<Arc<Host>>) -> Result<axum::Json<Value>, ApiError> {
    let data: Vec<Value> = host.policies.list().await?.iter().map(Listed::to_json).collect();
    Ok(axum::Json(json!({ "object": "list", "data": data, "has_more": false })))
}

pub(super) async fn show(
    State(host): State<Arc<Host>>,
    Path(digest): Path<String>,
) -> Result<axum::Json<Value>, ApiError> {
    Ok(axum::Json(host.policies.named(&digest).await?.to_json()))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Activation {
    /// What shall stand on it, in this order; left out: what stands there.
    #[serde(default)]
    overlays: Option<Vec<String>>,
    /// The lowest revision to fall back to; left out: as it is.
    #[serde(default)]
    min_revision: Option<u64>,
}

pub(super) async fn activate(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Path(policy): Path<String>,
    OptionalJson(asked): OptionalJson<Activation>,
) -> Result<axum::Json<Value>, ApiError> {
    to_its_end(async move {
        let Activation { overlays, min_revision } = asked;
        let wanted = Activate { policy, overlays, min_revision };
        let listed = host.policies.activate(&ask, wanted).await?;
        Ok(axum::Json(listed.to_json()))
    })
    .await
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RollBack {
    /// The digest to go back to; left out: what was in force before.
    #[serde(default)]
    to: Option<String>,
}

pub(super) async fn roll_back(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    OptionalJson(asked): OptionalJson<RollBack>,
) -> Result<axum::Json<Value>, ApiError> {
    to_its_end(async move {
        let listed = host.policies.roll_back(&ask, asked.to.as_deref()).await?;
        Ok(axum::Json(listed.to_json()))
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StartCanary {
    /// How many, in percent.
    percent: f64,
    /// Of what: `key` or `account`.
    #[serde(default)]
    by: Option<String>,
}

pub(super) async fn canary(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Path(digest): Path<String>,
    Json(asked): Json<StartCanary>,
) -> Result<axum::Json<Value>, ApiError> {
    to_its_end(async move {
        let by = match &asked.by {
            None => CanaryBy::Account,
            Some(by) => CanaryBy::from_name(by).ok_or_else(|| ApiError::Invalid {
                param: "by".to_owned(),
                message: "use `key` or `account`".to_owned(),
            })?,
        };
        let listed = host.policies.canary(&ask, &digest, share(asked.percent)?, by).await?;
        Ok(axum::Json(listed.to_json()))
    })
    .await
}

pub(super) async fn end_canary(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    OptionalJson(Nothing {}): OptionalJson<Nothing>,
) -> Result<axum::Json<Value>, ApiError> {
    to_its_end(async move {
        let listed = host.policies.end_canary(&ask).await?;
        Ok(axum::Json(listed.to_json()))
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StartShadow {
    /// Of how many requests, in percent.
    percent: f64,
    /// What shall stand on it, in this order; left out: what is in force.
    #[serde(default)]
    overlays: Option<Vec<String>>,
}

pub(super) async fn shadow(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Path(digest): Path<String>,
    Json(asked): Json<StartShadow>,
) -> Result<axum::Json<Value>, ApiError> {
    to_its_end(async move {
        let share = share(asked.percent)?;
        let shadow = host.policies.shadow(&ask, &digest, asked.overlays.as_deref(), share);
        Ok(axum::Json(shadow.await?))
    })
    .await
}

pub(super) async fn show_shadow(
    State(host): State<Arc<Host>>,
) -> Result<axum::Json<Value>, ApiError> {
    Ok(axum::Json(host.policies.shadow_report()?))
}

pub(super) async fn end_shadow(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    OptionalJson(Nothing {}): OptionalJson<Nothing>,
) -> Result<axum::Json<Value>, ApiError> {
    to_its_end(async move { Ok(axum::Json(host.policies.end_shadow(&ask).await?)) }).await
}

pub(super) async fn in_force(State(host): State<Arc<Host>>) -> Result<axum::Json<Value>, ApiError> {
    Ok(axum::Json(host.policies.in_force().await?))
}

fn share(percent: f64) -> Result<Share, ApiError> {
    Share::of_percent(percent).ok_or_else(|| ApiError::Invalid {
        param: "percent".to_owned(),
        message: "use a number from 0.01 to 100, with at most two decimals".to_owned(),
    })
}

pub(super) async fn retire(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Path(digest): Path<String>,
    OptionalJson(Nothing {}): OptionalJson<Nothing>,
) -> Result<axum::Json<Value>, ApiError> {
    to_its_end(async move {
        let listed = host.policies.retire(&ask, &digest).await?;
        Ok(axum::Json(listed.to_json()))
    })
    .await
}
