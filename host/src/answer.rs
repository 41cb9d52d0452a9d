//! A decision, as people and services are shown it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    engine::contract::{Decision, Denial, Grant},
    error::ErrorBody,
    storage::Mode,
};

/// Returns everything that a decision says.
pub(crate) fn shown(decision: &Decision) -> Value {
    match decision {
        Decision::Allow(grant) => allowed(grant),
        Decision::Deny(denial) => denied(denial),
    }
}

fn allowed(grant: &Grant) -> Value {
    let mode: Mode = grant.mode.into();
    json!({
        "allowed": true,
        "key": grant.key,
        "account": grant.account,
        "livemode": mode == Mode::Live,
        "endpoint": grant.endpoint,
        "permissions": names(&grant.permissions),
        "usage": names(&grant.usage),
        "notices": grant.notices,
        "attributes": grant.attributes.iter().cloned().collect::<BTreeMap<_, _>>(),
    })
}

fn denied(denial: &Denial) -> Value {
    let body = ErrorBody::from(denial);
    json!({
        "allowed": false,
        "key": denial.key,
        "endpoint": denial.endpoint,
        "status": body.status.as_u16(),
        "error": body,
    })
}

fn names(list: &str) -> Vec<&str> {
    list.split_whitespace().collect()
}
