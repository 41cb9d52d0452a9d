//! Accounts and organizations: who owns keys.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Asked, keys::list_limit, to_its_end};
use crate::{
    api::{Json, Query},
    error::ApiError,
    host::Host,
    keys::{AccountView, CreateAccount, OrganizationView},
};

pub(super) async fn create(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Json(wanted): Json<CreateAccount>,
) -> Result<Response, ApiError> {
    to_its_end(async move {
        // The secrets stay here: `reveal` shows them one by one.
        let (account, _) = host.keys.create_account(&ask, wanted).await?;
        Ok((StatusCode::CREATED, axum::Json(AccountView::from(&account))).into_response())
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListAccounts {
    limit: Option<usize>,
    starting_after: Option<String>,
}

/// Oldest first.
pub(super) async fn list(
    State(host): State<Arc<Host>>,
    Query(asked): Query<ListAccounts>,
) -> Result<axum::Json<Value>, ApiError> {
    let limit = list_limit(asked.limit)?;
    if let Some(cursor) = &asked.starting_after {
        host.keys.account(cursor).await?;
    }
    let after = asked.starting_after.as_deref();
    let mut accounts = host.storage.list_accounts(after, limit + 1).await?;
    let has_more = accounts.len() > limit;
    accounts.truncate(limit);
    let data: Vec<AccountView> = accounts.iter().map(AccountView::from).collect();
    Ok(axum::Json(json!({ "object": "list", "data": data, "has_more": has_more })))
}

pub(super) async fn show(
    State(host): State<Arc<Host>>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let account = host.keys.account(&id).await?;
    Ok(axum::Json(AccountView::from(&account)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateAccount {
    /// The organization to be a member of; null for none. Has to be said: a
    /// body without it must not end a membership.
    #[serde(deserialize_with = "Option::deserialize")]
    organization: Option<String>,
}

pub(super) async fn update(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Path(id): Path<String>,
    Json(change): Json<UpdateAccount>,
) -> Result<Response, ApiError> {
    to_its_end(async move {
        let account = host.keys.set_organization(&ask, &id, change.organization.as_deref()).await?;
        Ok(axum::Json(AccountView::from(&account)).into_response())
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateOrganization {
    name: String,
}

pub(super) async fn create_organization(
    State(host): State<Arc<Host>>,
    Extension(ask): Asked,
    Json(wanted): Json<CreateOrganization>,
) -> Result<Response, ApiError> {
    to_its_end(async move {
        let made = host.keys.create_organization(&ask, wanted.name).await?;
        Ok((StatusCode::CREATED, axum::Json(OrganizationView::from(&made))).into_response())
    })
    .await
}
