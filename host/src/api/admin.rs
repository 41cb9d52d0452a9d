//! What the operator does: keys, accounts, and what the rules say.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Json, Query, bearer, internal};
use crate::{
    data_dir::DataDir,
    engine::contract::lifecycle::Caller,
    error::ApiError,
    host::Host,
    keys::{self, CreateKey, KeyView, MAX_LIST},
    storage::{KeyFilter, Mode},
};

/// How many objects a list has if the caller does not say.
const DEFAULT_LIST: usize = 20;

/// How many endpoints one call may ask the permissions of.
const MAX_ENDPOINTS: usize = 100;

/// Who may call the admin routes.
#[derive(Clone)]
pub enum AdminAccess {
    /// Whoever has the operator credential of this data directory.
    Credential(Arc<DataDir>),
    /// Whoever reaches them: the socket in the data directory, which only its
    /// owner can open.
    Socket,
}

/// Returns the routes of the admin listener. On the socket, where the command
/// line calls, those of the internal listener are there too.
pub fn router(host: Arc<Host>, access: AdminAccess) -> Router {
    let routes = Router::new()
        .route("/v2/iam/api_keys", get(list_keys).post(create_key))
        .route("/v2/iam/api_keys/{id}", get(show_key))
        .route("/v2/iam/api_keys/{id}/reveal", post(reveal_key))
        .route("/v2/iam/permissions", get(list_permissions))
        .route("/v2/iam/permissions/resolve", post(resolve_permissions))
        .route("/v2/accounts", get(list_accounts).post(create_account))
        .route("/v2/accounts/{id}", get(show_account).post(update_account))
        .route("/v2/organizations", post(create_organization))
        .with_state(Arc::clone(&host));
    let routes = match access {
        AdminAccess::Socket => return routes.merge(internal::routes(host)),
        AdminAccess::Credential(_) => {
            routes.fallback(internal::no_route).method_not_allowed_fallback(internal::no_route)
        }
    };
    routes.layer(middleware::from_fn_with_state(access, check_access))
}

async fn check_access(
    State(access): State<AdminAccess>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let allowed = match &access {
        AdminAccess::Socket => true,
        AdminAccess::Credential(data_dir) => {
            bearer(&parts).is_some_and(|presented| data_dir.operator().matches(presented))
        }
    };
    if !allowed {
        return Err(ApiError::OperatorRequired);
    }
    Ok(next.run(Request::from_parts(parts, body)).await)
}

async fn create_key(
    State(host): State<Arc<Host>>,
    Json(wanted): Json<CreateKey>,
) -> Result<(StatusCode, axum::Json<KeyView>), ApiError> {
    // To its end, even if the caller goes away: what was stored must be in
    // force at once.
    let task = tokio::spawn(async move {
        let (key, secret) = host.keys.create(&Caller::Operator, wanted).await?;
        Ok::<_, ApiError>(keys::view(&key, Some(secret), host.clock.now()))
    });
    let view = task.await.map_err(|err| ApiError::Internal(err.into()))??;
    Ok((StatusCode::CREATED, axum::Json(view)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListKeys {
    account: Option<String>,
    livemode: Option<bool>,
    #[serde(default)]
    include_expired: bool,
    limit: Option<usize>,
    starting_after: Option<String>,
}

async fn list_keys(
    State(host): State<Arc<Host>>,
    Query(asked): Query<ListKeys>,
) -> Result<axum::Json<Value>, ApiError> {
    let limit = asked.limit.unwrap_or(DEFAULT_LIST);
    if !(1..=MAX_LIST).contains(&limit) {
        return Err(ApiError::Invalid {
            param: "limit".to_owned(),
            message: format!("ask for 1 to {MAX_LIST}"),
        });
    }
    if let Some(cursor) = &asked.starting_after {
        host.keys.find(cursor).await?;
    }
    let now = host.clock.now();
    let filter = KeyFilter {
        account: asked.account,
        mode: asked.livemode.map(|live| if live { Mode::Live } else { Mode::Test }),
        not_ended_at: (!asked.include_expired).then_some(now),
        starting_after: asked.starting_after,
        limit,
    };
    let (keys, has_more) = host.keys.list(filter).await?;
    let data: Vec<KeyView> = keys.iter().map(|key| keys::view(key, None, now)).collect();
    Ok(axum::Json(json!({ "object": "list", "data": data, "has_more": has_more })))
}

async fn show_key(
    State(host): State<Arc<Host>>,
    Path(id): Path<String>,
) -> Result<axum::Json<KeyView>, ApiError> {
    let key = host.keys.find(&id).await?;
    Ok(axum::Json(keys::view(&key, None, host.clock.now())))
}

async fn reveal_key(
    State(host): State<Arc<Host>>,
    Path(id): Path<String>,
) -> Result<axum::Json<KeyView>, ApiError> {
    let (key, secret) = host.keys.reveal(&id).await?;
    Ok(axum::Json(keys::view(&key, Some(secret), host.clock.now())))
}

async fn list_permissions(State(host): State<Arc<Host>>) -> Result<axum::Json<Value>, ApiError> {
    let permissions = host.policy.permissions()?;
    let data: Vec<Value> = permissions
        .iter()
        .map(|one| {
            json!({
                "name": one.name,
                "title": one.title,
                "category": one.category,
                "implies": one.implies.split_whitespace().collect::<Vec<_>>(),
            })
        })
        .collect();
    Ok(axum::Json(json!({ "object": "list", "data": data, "has_more": false })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resolve {
    /// Each a method and a path: `POST /v1/refunds`.
    endpoints: Vec<String>,
}

/// Which permissions a key needs to call these endpoints: the answer that users
/// of Stripe ask for most, and get by trial and error.
async fn resolve_permissions(
    State(host): State<Arc<Host>>,
    Json(asked): Json<Resolve>,
) -> Result<axum::Json<Value>, ApiError> {
    if asked.endpoints.len() > MAX_ENDPOINTS {
        return Err(ApiError::Invalid {
            param: "endpoints".to_owned(),
            message: format!("ask for at most {MAX_ENDPOINTS} at a time"),
        });
    }
    let mut permissions = std::collections::BTreeSet::new();
    let (mut resolved, mut unresolved) = (Vec::new(), Vec::new());
    for endpoint in &asked.endpoints {
        let mut words = endpoint.split_whitespace();
        let (Some(method), Some(path), None) = (words.next(), words.next(), words.next()) else {
            let reason = "write a method and a path, such as `POST /v1/refunds`";
            unresolved.push(json!({ "endpoint": endpoint, "reason": reason }));
            continue;
        };
        let path = path.split('?').next().unwrap_or_default();
        match host.policy.find_endpoint(&method.to_ascii_uppercase(), path)? {
            Some(found) => {
                let names: Vec<&str> = found.permissions.split_whitespace().collect();
                permissions.extend(names.iter().map(|&name| name.to_owned()));
                resolved.push(json!({
                    "endpoint": endpoint,
                    "path": found.path,
                    "permissions": names,
                    "any_key": found.any_key,
                    "money_movement": found.money_movement,
                    "sandbox_only": found.sandbox_only,
                }));
            }
            None => {
                let reason = "the catalogue lists no such endpoint";
                unresolved.push(json!({ "endpoint": endpoint, "reason": reason }));
            }
        }
    }
    Ok(axum::Json(json!({
        "permissions": permissions,
        "endpoints": resolved,
        "unresolved_endpoints": unresolved,
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateAccount {
    name: String,
    organization: Option<String>,
    platform: Option<String>,
}

async fn create_account(
    State(host): State<Arc<Host>>,
    Json(wanted): Json<CreateAccount>,
) -> Result<Response, ApiError> {
    let task = tokio::spawn(async move {
        let CreateAccount { name, organization, platform } = wanted;
        host.keys.create_account(name, organization, platform).await
    });
    let made = task.await.map_err(|err| ApiError::Internal(err.into()))?;
    // The secrets stay here: `reveal` shows them one by one.
    let (account, _) = made?;
    Ok((StatusCode::CREATED, axum::Json(account)).into_response())
}

async fn list_accounts(State(host): State<Arc<Host>>) -> Result<axum::Json<Value>, ApiError> {
    let mut accounts = host.storage.list_accounts(MAX_LIST + 1).await?;
    let has_more = accounts.len() > MAX_LIST;
    accounts.truncate(MAX_LIST);
    Ok(axum::Json(json!({ "object": "list", "data": accounts, "has_more": has_more })))
}

async fn show_account(
    State(host): State<Arc<Host>>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    Ok(axum::Json(host.keys.account(&id).await?).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateAccount {
    /// The organization to be a member of; null for none. Has to be said: a
    /// body without it must not end a membership.
    #[serde(deserialize_with = "Option::deserialize")]
    organization: Option<String>,
}

async fn update_account(
    State(host): State<Arc<Host>>,
    Path(id): Path<String>,
    Json(change): Json<UpdateAccount>,
) -> Result<Response, ApiError> {
    let task = tokio::spawn(async move {
        host.keys.account(&id).await?;
        host.keys.set_organization(&id, change.organization.as_deref()).await
    });
    let account = task.await.map_err(|err| ApiError::Internal(err.into()))??;
    Ok(axum::Json(account).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateOrganization {
    name: String,
}

async fn create_organization(
    State(host): State<Arc<Host>>,
    Json(wanted): Json<CreateOrganization>,
) -> Result<Response, ApiError> {
    let made = host.keys.create_organization(wanted.name).await?;
    Ok((StatusCode::CREATED, axum::Json(made)).into_response())
}
