//! What the rules say: which permissions there are, and which ones an endpoint
//! needs.

use std::sync::Arc;

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{api::Json, error::ApiError, host::Host};

/// How many endpoints one call may ask the permissions of.
const MAX_ENDPOINTS: usize = 100;

pub(super) async fn list_permissions(
    State(host): State<Arc<Host>>,
) -> Result<axum::Json<Value>, ApiError> {
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
pub(super) struct Resolve {
    /// Each a method and a path: `POST /v1/refunds`.
    endpoints: Vec<String>,
}

/// Which permissions a key needs to call these endpoints: the answer that users
/// of Stripe ask for most, and get by trial and error.
pub(super) async fn resolve_permissions(
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
