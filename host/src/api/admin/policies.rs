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
    api::{OptionalJson, Query},
    error::ApiError,
    host::Host,
    policies::{Listed, PushPolicy},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Push {
    name: String,
    version: String,
    revision: u64,
}

/// The body is the component itself.
pub(super) async fn push(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Query(asked): Query<Push>,
    body: Bytes,
) -> Result<Response, ApiError> {
    to_its_end(async move {
        let Push { name, version, revision } = asked;
        let wanted = PushPolicy { name, version, revision, bytes: (&*body).into() };
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

pub(super) async fn activate(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Path(digest): Path<String>,
    OptionalJson(Nothing {}): OptionalJson<Nothing>,
) -> Result<axum::Json<Value>, ApiError> {
    to_its_end(async move {
        let listed = host.policies.activate(&ask, &digest).await?;
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
