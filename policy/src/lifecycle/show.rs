//! What may be seen of keys (S33–S39, S69, S77).

use super::{
    caller::{self, READS_KEYS, Reach, forbidden, operator_required},
    expire, needs_code, restore, rotate, update,
};
use crate::{
    contract::{
        Denial, Mode,
        lifecycle::{
            Caller, KeyChange, KeyFilter, KeyStatus, RevealPlan, RotationRequest, StoredKey,
        },
    },
    kind, limited, permission,
};

/// Narrows what `caller` wants to see to what it may see: a key sees those of
/// its own account and mode.
pub fn visible(caller: &Caller, wanted: &KeyFilter) -> Result<KeyFilter, Denial> {
    let Caller::Key(key) = caller else { return Ok(wanted.clone()) };
    caller::manages(key, READS_KEYS)?;
    let scope = |param: &str, message| {
        Err(Denial { param: Some(param.to_owned()), ..forbidden("key_scope", message) })
    };
    if wanted.account.as_ref().is_some_and(|account| *account != key.account) {
        return scope("account", "A key sees keys of its own account only. Leave this out.");
    }
    if wanted.mode.is_some_and(|mode| mode != key.mode) {
        return scope("livemode", "A key sees keys of its own mode only. Leave this out.");
    }
    Ok(KeyFilter { account: Some(key.account.clone()), mode: Some(key.mode) })
}

/// Returns what is shown of a key.
pub fn describe(current: &StoredKey, now: u64) -> KeyStatus {
    // What could be done is what would be answered, so that a list never
    // promises something else.
    let operator = &Caller::Operator;
    let stays = KeyChange {
        name: None,
        note: None,
        permissions: None,
        connect_permissions: None,
        ip_allowlist: None,
    };
    let at_once = RotationRequest { expire_current_in_minutes: 0, note: None };
    // What is shown anyway has nothing to reveal (S37).
    let is_hidden = current.key.kind != kind::PUBLISHABLE;
    let actions = [
        ("expire", expire(operator, current, now).is_ok()),
        ("restore", restore(operator, current, now).is_ok()),
        ("reveal", is_hidden && reveal(operator, current, now).is_ok()),
        ("rotate", rotate(operator, current, &at_once, now).is_ok()),
        ("update", update(operator, current, &stays, now).is_ok()),
    ];
    // Of a key whose access nobody could restore, it is not limited either: one
    // that has ended, or that moves no money in the first place.
    let can_be_limited = restore(operator, current, now).is_ok();
    KeyStatus {
        limited_access: can_be_limited && limited::is_limited(&current.key, now),
        actions: permission::join(
            actions.into_iter().filter(|(_, possible)| *possible).map(|(name, _)| name),
        ),
    }
}

/// Tells whether `caller` may see the secret of a key.
///
/// A live secret that a person has seen is never shown again (S33), one that
/// nobody has seen yet may be (S34); in test mode all may be (S36). To see a
/// secret is worth as much as to make one, and the same holds for it.
pub fn reveal(caller: &Caller, current: &StoredKey, now: u64) -> Result<RevealPlan, Denial> {
    caller::reaches(caller, current, now)?;
    caller::is_somebody(caller)?;
    caller::knows_kind(current)?;
    let StoredKey { key, .. } = current;
    if matches!(caller, Caller::Key(_)) && key.mode == Mode::Live {
        return Err(operator_required("In live mode no key reveals a secret. Ask the operator."));
    }
    caller::stays_within(caller, &Reach::from(key), now)?;
    let not_kept = |why: &str| {
        let message = format!("{why} Rotate the key to get one with a new secret.");
        Err(forbidden("secret_not_kept", message))
    };
    match key.kind.as_str() {
        kind::MANAGED => {
            return Err(forbidden(
                "managed_key",
                "The secret of a managed key goes to the platform that manages it, and is shown to \
                 nobody. The operator can rotate the key.",
            ));
        }
        _ if current.imported => {
            return not_kept("This key was imported, and its secret is not kept here.");
        }
        kind::PUBLISHABLE => {}
        _ if key.mode == Mode::Live && key.origin != kind::PLATFORM => {
            return Err(forbidden(
                "secret_shown_once",
                "This secret was shown once, when the key was made. Rotate the key to get one with \
                 a new secret.",
            ));
        }
        _ => {}
    }
    if !current.has_secret {
        return not_kept("The secret of this key is not kept.");
    }
    Ok(RevealPlan { needs_code: needs_code(&key.kind, key.mode, caller) })
}
