//! `/v2/iam/api_keys`, in the shape of Stripe's preview API.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Asked, to_its_end};
use crate::{
    api::{Json, OptionalJson, Query},
    error::ApiError,
    host::Host,
    keys::{
        Actor, Ask, CreateKey, Done, ImportKey, KeyView, MAX_LIST, RotateKey, ScheduleRotation,
        UpdateKey,
    },
    storage::{KeyFilter, Mode},
};

/// How many objects a list has if the caller does not say.
pub(super) const DEFAULT_LIST: usize = 20;

/// Returns how many objects a list shall have.
pub(super) fn list_limit(asked: Option<usize>) -> Result<usize, ApiError> {
    let limit = asked.unwrap_or(DEFAULT_LIST);
    if (1..=MAX_LIST).contains(&limit) {
        return Ok(limit);
    }
    Err(ApiError::Invalid {
        param: "limit".to_owned(),
        message: format!("ask for 1 to {MAX_LIST}"),
    })
}

fn shown(host: &Host, status: StatusCode, done: Done) -> Result<Response, ApiError> {
    let view = host.keys.view(&done.key, done.secret)?;
    let tag = HeaderValue::try_from(format!("\"{}\"", view.revision()));
    let mut response = (status, axum::Json(view)).into_response();
    if let Ok(tag) = tag {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

pub(super) async fn create(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Json(wanted): Json<CreateKey>,
) -> Result<Response, ApiError> {
    to_its_end(async move {
        let done = host.keys.create(&ask, wanted).await?;
        shown(&host, StatusCode::CREATED, done)
    })
    .await
}

pub(super) async fn import(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Json(wanted): Json<ImportKey>,
) -> Result<Response, ApiError> {
    to_its_end(async move {
        let done = host.keys.import(&ask, wanted).await?;
        shown(&host, StatusCode::CREATED, done)
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListKeys {
    account: Option<String>,
    livemode: Option<bool>,
    #[serde(default)]
    include_expired: bool,
    limit: Option<usize>,
    starting_after: Option<String>,
}

pub(super) async fn list(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Query(asked): Query<ListKeys>,
) -> Result<axum::Json<Value>, ApiError> {
    let filter = KeyFilter {
        account: asked.account,
        mode: asked.livemode.map(|live| if live { Mode::Live } else { Mode::Test }),
        not_ended_at: (!asked.include_expired).then(|| host.clock.now()),
        starting_after: asked.starting_after,
        limit: list_limit(asked.limit)?,
    };
    let (keys, has_more) = host.keys.list(&ask, filter).await?;
    let data: Vec<KeyView> =
        keys.iter().map(|key| host.keys.view(key, None)).collect::<Result<_, _>>()?;
    Ok(axum::Json(json!({ "object": "list", "data": data, "has_more": has_more })))
}

pub(super) async fn show(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let key = host.keys.find(&ask, &id).await?;
    shown(&host, StatusCode::OK, Done { key, secret: None })
}

/// What the presented key is and may do. The gate answers the same.
pub(super) async fn show_self(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
) -> Result<Response, ApiError> {
    let Actor::Key(key) = &ask.actor else {
        return Err(ApiError::NotFound { what: "API key", id: "self".to_owned() });
    };
    // Every key may see itself.
    let key = host.keys.find(&Ask::by(Actor::Platform), &key.id).await?;
    shown(&host, StatusCode::OK, Done { key, secret: None })
}

pub(super) async fn update(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Path(id): Path<String>,
    Json(wanted): Json<UpdateKey>,
) -> Result<Response, ApiError> {
    to_its_end(async move {
        let done = host.keys.update(&ask, &id, wanted).await?;
        shown(&host, StatusCode::OK, done)
    })
    .await
}

/// A body without anything in it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

pub(super) async fn expire(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Path(id): Path<String>,
    OptionalJson(Nothing {}): OptionalJson<Nothing>,
) -> Result<Response, ApiError> {
    to_its_end(async move {
        let done = host.keys.expire(&ask, &id).await?;
        shown(&host, StatusCode::OK, done)
    })
    .await
}

pub(super) async fn rotate(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Path(id): Path<String>,
    OptionalJson(wanted): OptionalJson<RotateKey>,
) -> Result<Response, ApiError> {
    to_its_end(async move {
        let done = host.keys.rotate(&ask, &id, wanted).await?;
        shown(&host, StatusCode::OK, done)
    })
    .await
}

pub(super) async fn schedule_rotation(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Path(id): Path<String>,
    Json(wanted): Json<ScheduleRotation>,
) -> Result<Response, ApiError> {
    to_its_end(async move {
        let done = host.keys.schedule_rotation(&ask, &id, wanted).await?;
        shown(&host, StatusCode::OK, done)
    })
    .await
}

pub(super) async fn cancel_rotation(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Path(id): Path<String>,
    OptionalJson(Nothing {}): OptionalJson<Nothing>,
) -> Result<Response, ApiError> {
    to_its_end(async move {
        let done = host.keys.cancel_rotation(&ask, &id).await?;
        shown(&host, StatusCode::OK, done)
    })
    .await
}

pub(super) async fn reveal(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Path(id): Path<String>,
    OptionalJson(Nothing {}): OptionalJson<Nothing>,
) -> Result<Response, ApiError> {
    to_its_end(async move {
        let done = host.keys.reveal(&ask, &id).await?;
        shown(&host, StatusCode::OK, done)
    })
    .await
}

pub(super) async fn restore(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Path(id): Path<String>,
    OptionalJson(Nothing {}): OptionalJson<Nothing>,
) -> Result<Response, ApiError> {
    to_its_end(async move {
        let done = host.keys.restore(&ask, &id).await?;
        shown(&host, StatusCode::OK, done)
    })
    .await
}
