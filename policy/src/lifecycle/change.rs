//! Editing, ending and restoring a key (S50–S57, S69–S72).

use super::{
    caller::{self, Reach},
    fields,
};
use crate::{
    contract::{
        Denial, DenialClass, Key,
        lifecycle::{Caller, KeyChange, KeyUpdate, StoredKey},
    },
    denial::denial,
    kind,
};

/// Returns what a key becomes by a change. Its secret stays, and so does a
/// rotation that was scheduled for it.
///
/// A key that has been replaced, and works on for a while, can still be edited.
pub fn update(
    caller: &Caller,
    current: &StoredKey,
    change: &KeyChange,
    now: u64,
) -> Result<KeyUpdate, Denial> {
    caller::reaches(caller, current, now)?;
    caller::is_somebody(caller)?;
    caller::is_another(caller, current)?;
    caller::knows_kind(current)?;
    caller::may_manage_kind(caller, current)?;
    let StoredKey { key, name, note, .. } = current;
    let kind = key.kind.as_str();
    let permissions = |param, held: &String, asked: &Option<String>| match asked {
        Some(asked) => fields::next_permissions(kind, param, held, asked),
        None => Ok(held.clone()),
    };
    let update = KeyUpdate {
        name: match &change.name {
            Some(next) => fields::next_name(kind, name, next)?,
            None => name.clone(),
        },
        note: match &change.note {
            Some(next) => fields::note(next)?,
            None => note.clone(),
        },
        permissions: permissions("permissions", &key.permissions, &change.permissions)?,
        connect_permissions: permissions(
            "connect_permissions",
            &key.connect_permissions,
            &change.connect_permissions,
        )?,
        ipv4_nets: match &change.ip_allowlist {
            Some(list) => fields::networks(kind, list)?,
            None => key.ipv4_nets.clone(),
        },
    };
    let KeyUpdate { permissions, connect_permissions, ipv4_nets, .. } = update.clone();
    let becomes = Key { permissions, connect_permissions, ipv4_nets, ..key.clone() };
    caller::stays_within(caller, &Reach::from(&becomes), now)?;
    Ok(update)
}

/// Returns when a key that shall end ends: at once.
///
/// Any server key can be ended, the last one of an account and a managed one
/// too, and by any key that manages keys, also a weaker one: to kill a leaked
/// key must be easy. There is no way back (S57).
pub fn expire(caller: &Caller, current: &StoredKey, now: u64) -> Result<u64, Denial> {
    caller::reaches(caller, current, now)?;
    caller::is_somebody(caller)?;
    if current.key.kind == kind::PUBLISHABLE {
        return Err(denial(
            DenialClass::InvalidRequest,
            "publishable_key_cannot_expire",
            "A publishable key cannot expire. Rotate it: without an overlap, the one that there is \
             ends at once.",
        ));
    }
    Ok(now)
}

/// Returns the time from which on the key counts as restored.
///
/// The operator's alone, because a person has to look at why the key did not
/// move money for so long. A key whose access is not limited can be restored
/// too: its clock starts anew.
pub fn restore(caller: &Caller, current: &StoredKey, now: u64) -> Result<u64, Denial> {
    caller::reaches(caller, current, now)?;
    caller::is_operator(caller, "Only the operator restores access: a person has to look.")?;
    caller::knows_kind(current)?;
    if current.key.kind == kind::PUBLISHABLE {
        return Err(denial(
            DenialClass::InvalidRequest,
            "publishable_key_not_limited",
            "A publishable key moves no money, so that its access is never limited.",
        ));
    }
    Ok(now)
}
