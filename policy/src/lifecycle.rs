//! The rules for the life of a key: who may make, see, change, rotate, restore
//! and end which keys (S8–S16, S26–S39, S42–S72, S76–S84).
//!
//! Each function returns a plan that the host carries out, or a refusal that
//! names the field at fault. This file makes keys; the others are what happens
//! to them afterwards:
//!
//! - [`caller`] is who may touch which key, and the rule that nobody gets more
//!   out of a key than it holds itself.
//! - [`fields`] is what names, notes, permissions and allowlists may be.
//! - [`show`] is what may be seen of a key, its secret included.
//! - [`change`] is editing, ending and restoring.
//! - [`rotation`] is replacing, now or at a set time.

use crate::{
    contract::{
        Denial, Mode,
        lifecycle::{Caller, KeyPlan, KeyRequest},
    },
    denial::invalid,
    kind, permission,
};

pub mod caller;
pub mod change;
pub mod fields;
pub mod rotation;
pub mod show;

pub use self::{
    change::{expire, restore, update},
    fields::{MAX_NAME_CHARS, MAX_NOTE_CHARS},
    rotation::{cancel_rotation, rotate, schedule_rotation},
    show::{describe, reveal, visible},
};

/// Returns the keys that a new account gets without asking: a publishable, a
/// secret and a restricted one in each mode (S8, S20).
///
/// The restricted keys start without any permission: which ones an integration
/// needs is for its owner to say, and a default would be wrong for everybody.
pub fn default_keys(account: &str) -> Vec<KeyPlan> {
    let mut plans = Vec::new();
    for mode in [Mode::Test, Mode::Live] {
        for kind in [kind::PUBLISHABLE, kind::SECRET, kind::RESTRICTED] {
            plans.push(KeyPlan {
                account: account.to_owned(),
                mode,
                kind: kind.to_owned(),
                origin: kind::PLATFORM.to_owned(),
                prefix: kind::prefix(kind, mode).unwrap_or_default().to_owned(),
                name: default_name(kind).unwrap_or("Restricted key").to_owned(),
                note: String::new(),
                permissions: own_permissions(kind).to_owned(),
                connect_permissions: own_permissions(kind).to_owned(),
                ipv4_nets: Vec::new(),
                ends_at: None,
                revealable: true,
                needs_code: false,
                attributes: attributes(kind),
            });
        }
    }
    plans
}

/// Returns the plan for the key that `caller` asks for, or why it cannot have
/// it.
pub fn create(caller: &Caller, request: &KeyRequest, now: u64) -> Result<KeyPlan, Denial> {
    caller::may_create(caller, request)?;
    let plan = plan(caller, request, now)?;
    caller::mints_no_live_unrestricted(caller, &(&plan).into())?;
    caller::stays_within(caller, &(&plan).into(), now)?;
    Ok(plan)
}

/// Returns the plan for a key whose secret there is already, or why there can
/// be no such key.
///
/// Its secret is kept by nobody, so that it is never revealed; a rotation makes
/// an ordinary key of it. What the secret starts with says to people, and to
/// scanners for leaked keys, whether it may stand in front-end code and whether
/// it is a live one, so that a start of ours must not say something else than
/// the request. Whether it is secret or restricted is open: to import a secret
/// key as a restricted one narrows it without a new deployment.
pub fn import_key(
    caller: &Caller,
    request: &KeyRequest,
    prefix: &str,
    now: u64,
) -> Result<KeyPlan, Denial> {
    caller::is_operator(caller, "Only the operator imports keys.")?;
    let plan = plan(caller, request, now)?;
    if prefix.starts_with(kind::WEBHOOK_PREFIX) {
        return Err(invalid(
            "parameter_invalid",
            "secret",
            "This is a webhook signing secret, which is no API key. Import the secret of a key.",
        ));
    }
    for of_kind in kind::ALL {
        for mode in [Mode::Test, Mode::Live] {
            let publishable = [*of_kind, &plan.kind].map(|kind| kind == kind::PUBLISHABLE);
            let agrees = mode == plan.mode && publishable[0] == publishable[1];
            if kind::prefix(of_kind, mode) == Some(prefix) && !agrees {
                return Err(invalid(
                    "parameter_invalid",
                    "secret",
                    format!(
                        "The secret starts with '{prefix}', as those of {} keys in {} mode do. \
                         Import it as such a key.",
                        if publishable[0] { "publishable" } else { "server" },
                        if mode == Mode::Live { "live" } else { "test" },
                    ),
                ));
            }
        }
    }
    Ok(KeyPlan { prefix: prefix.to_owned(), revealable: false, ..plan })
}

/// Makes the plan for a key, whoever asks for it.
fn plan(caller: &Caller, request: &KeyRequest, now: u64) -> Result<KeyPlan, Denial> {
    let kind = request.kind.as_str();
    let prefix = kind::prefix(kind, request.mode).ok_or_else(|| {
        invalid(
            "parameter_invalid",
            "kind",
            format!(
                "There are no keys of the kind '{kind}'. Use one of: restricted, secret, \
                 publishable, organization, managed."
            ),
        )
    })?;
    let organization = request.account.starts_with("org_");
    if organization != (kind == kind::ORGANIZATION) {
        return Err(invalid(
            "parameter_invalid",
            "account",
            if organization {
                "An organization has organization keys only."
            } else {
                "Organization keys belong to an organization ('org_…'), not to an account."
            },
        ));
    }
    Ok(KeyPlan {
        account: request.account.clone(),
        mode: request.mode,
        kind: kind.to_owned(),
        origin: origin(caller).to_owned(),
        prefix: prefix.to_owned(),
        name: fields::new_name(&request.name)?,
        note: fields::note(&request.note)?,
        permissions: fields::permissions(kind, "permissions", &request.permissions)?,
        connect_permissions: fields::permissions(
            kind,
            "connect_permissions",
            &request.connect_permissions,
        )?,
        ipv4_nets: fields::networks(kind, &request.ip_allowlist)?,
        ends_at: fields::ends_at(kind, request.ends_at, now)?,
        revealable: is_revealable(kind, request.mode, caller),
        needs_code: needs_code(kind, request.mode, caller),
        attributes: attributes(kind),
    })
}

/// Who counts as the maker of what `caller` makes. What the host made by itself
/// has been seen by nobody yet.
fn origin(caller: &Caller) -> &'static str {
    match caller {
        Caller::Platform => kind::PLATFORM,
        Caller::Operator | Caller::Key(_) => kind::USER,
    }
}

/// Tells whether the secret of a key that `caller` makes may be shown again
/// later: in test mode always; in live mode only if no person has seen it yet
/// (S33–S37, S66); of a managed key never.
fn is_revealable(kind: &str, mode: Mode, caller: &Caller) -> bool {
    match kind {
        kind::PUBLISHABLE => true,
        kind::MANAGED => false,
        _ => mode == Mode::Test || matches!(caller, Caller::Platform),
    }
}

/// Tells whether a person has to confirm with a verification code that somebody
/// gets the secret of such a key (S27): in live mode, whatever the caller. Also
/// if that is a key: a stolen one must not be able to leave another behind
/// without anybody noticing. What the host does by itself shows nobody
/// anything, and publishable keys are no secret.
fn needs_code(kind: &str, mode: Mode, caller: &Caller) -> bool {
    mode == Mode::Live && kind != kind::PUBLISHABLE && !matches!(caller, Caller::Platform)
}

/// Returns what a kind has for permissions when nobody can choose them.
fn own_permissions(kind: &str) -> &'static str {
    match kind {
        kind::SECRET | kind::MANAGED => permission::UNRESTRICTED,
        _ => "",
    }
}

/// What the host shows of a key without knowing its kind.
fn attributes(kind: &str) -> Vec<(String, String)> {
    match kind {
        kind::PUBLISHABLE => vec![("safe-to-expose".to_owned(), "yes".to_owned())],
        _ => Vec::new(),
    }
}

/// Returns what keys of this kind are called when nobody chose: default keys,
/// and replacements (S63, S84). The other kinds keep their name when they are
/// replaced.
fn default_name(kind: &str) -> Option<&'static str> {
    match kind {
        kind::PUBLISHABLE => Some("Publishable key"),
        kind::SECRET => Some("Secret key"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_secret_that_somebody_has_seen_is_shown_once() {
        use kind::{MANAGED, ORGANIZATION, PUBLISHABLE, RESTRICTED, SECRET};
        let (operator, platform) = (Caller::Operator, Caller::Platform);
        for (kinds, mode, caller, expected) in [
            (&[SECRET, RESTRICTED, ORGANIZATION][..], Mode::Live, &operator, false),
            (&[SECRET, RESTRICTED, ORGANIZATION], Mode::Live, &platform, true),
            (&[SECRET, RESTRICTED, ORGANIZATION], Mode::Test, &operator, true),
            (&[SECRET, RESTRICTED, ORGANIZATION], Mode::Test, &platform, true),
            (&[PUBLISHABLE], Mode::Live, &operator, true),
            (&[PUBLISHABLE], Mode::Test, &operator, true),
            (&[MANAGED], Mode::Live, &platform, false),
            (&[MANAGED], Mode::Test, &platform, false),
        ] {
            for kind in kinds {
                let row = format!("{kind} {mode:?}, by {caller:?}");
                assert_eq!(is_revealable(kind, mode, caller), expected, "{row}");
            }
        }
    }
}
