//! What the audit log is told of a change: who, what, from where, and which
//! fields were how before and are how now. Never a secret.

use serde_json::{Map, Value};

use super::{ask::Ask, view::KeyFields};
use crate::{
    scrub::scrub,
    storage::{AuditEntry, KeyRecord},
};

/// Returns the entry of something that was done with a key.
///
/// `before` is missing where the key was made; where both are the same, as when
/// a secret is revealed, there are no fields to tell of.
pub(super) fn done(
    ask: &Ask,
    at_ms: u64,
    action: &str,
    before: Option<&KeyRecord>,
    after: &KeyRecord,
) -> AuditEntry {
    let fields = |key: &KeyRecord| without_secrets(KeyFields::new(key, at_ms / 1000).to_json());
    let (before, after_fields) = match before {
        Some(before) => {
            let (before, after) = differences(fields(before), fields(after));
            (before, after)
        }
        None => (None, Some(fields(after))),
    };
    AuditEntry {
        before,
        after: after_fields,
        target: Some(after.id.clone()),
        ..entry(ask, at_ms, action)
    }
}

/// Takes secrets out of what people write freely: they paste them there, and
/// nothing is ever taken out of this log.
fn without_secrets(mut fields: Value) -> Value {
    for name in ["name", "note"] {
        if let Some(Value::String(text)) = fields.get_mut(name) {
            *text = scrub(text).into_owned();
        }
    }
    fields
}

/// Returns the entry of something that was refused.
pub(super) fn refused(
    ask: &Ask,
    at_ms: u64,
    action: &str,
    target: Option<&str>,
    code: &str,
) -> AuditEntry {
    AuditEntry {
        // An id is the caller's word, and people put secrets there.
        target: target.map(|id| scrub(id).into_owned()),
        refused: Some(code.to_owned()),
        ..entry(ask, at_ms, action)
    }
}

/// Returns the entry of a scheduled rotation that was refused, and of what became
/// of its schedule: one of both, so that a try leaves no more than one.
pub(super) fn put_off(
    ask: &Ask,
    at_ms: u64,
    before: &KeyRecord,
    after: &KeyRecord,
    code: &str,
) -> AuditEntry {
    AuditEntry {
        refused: Some(code.to_owned()),
        ..done(ask, at_ms, "api_key.rotated", Some(before), after)
    }
}

/// Returns an entry about something that is no key.
pub(super) fn other(
    ask: &Ask,
    at_ms: u64,
    action: &str,
    target: Option<&str>,
    before: Option<Value>,
    after: Option<Value>,
) -> AuditEntry {
    let after = after.map(without_secrets);
    AuditEntry { before, after, target: target.map(str::to_owned), ..entry(ask, at_ms, action) }
}

fn entry(ask: &Ask, at_ms: u64, action: &str) -> AuditEntry {
    AuditEntry {
        at_ms,
        actor: ask.actor.name().to_owned(),
        source: ask.source,
        request_id: ask.request_id.clone(),
        action: action.to_owned(),
        target: None,
        refused: None,
        before: None,
        after: None,
    }
}

/// Returns the fields that differ, as they were and as they are.
pub(super) fn differences(before: Value, after: Value) -> (Option<Value>, Option<Value>) {
    let (Value::Object(mut before), Value::Object(after)) = (before, after) else {
        return (None, None);
    };
    let changed: Map<String, Value> =
        after.into_iter().filter(|(name, value)| before.get(name) != Some(value)).collect();
    before.retain(|name, _| changed.contains_key(name));
    if changed.is_empty() {
        return (None, None);
    }
    (Some(Value::Object(before)), Some(Value::Object(changed)))
}
