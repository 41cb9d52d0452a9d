//! The rules for making keys (S8–S16, S26–S32, S42, S76).
//!
//! Each function returns a plan that the host carries out, or a refusal that
//! names the field at fault.

use crate::{
    catalogue::Permission,
    contract::{
        Denial, DenialClass, Ipv4Net, Mode,
        lifecycle::{Caller, CallerKey, KeyPlan, KeyRequest},
    },
    denial::{denial, invalid},
    kind, network, permission,
};

/// The longest name, in characters. A well-known integration cuts names at 100.
pub const MAX_NAME_CHARS: usize = 100;

/// The longest note, in characters: a sentence or two on where the key is kept.
pub const MAX_NOTE_CHARS: usize = 500;

/// The permission that lets a key make keys.
const MANAGES_KEYS: &str = "api_key_write";

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
                name: default_name(kind).to_owned(),
                note: String::new(),
                permissions: own_permissions(kind).to_owned(),
                connect_permissions: own_permissions(kind).to_owned(),
                ipv4_nets: Vec::new(),
                ends_at: None,
                revealable: true,
                attributes: attributes(kind),
            });
        }
    }
    plans
}

/// Returns the plan for the key that `caller` asks for, or why it cannot have
/// it.
pub fn create(caller: &Caller, request: &KeyRequest, now: u64) -> Result<KeyPlan, Denial> {
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
    check_text("name", &request.name, MAX_NAME_CHARS)?;
    check_text("note", &request.note, MAX_NOTE_CHARS)?;
    if request.name.trim().is_empty() {
        return Err(invalid("parameter_missing", "name", "Give the key a name."));
    }
    let permissions = permissions(kind, "permissions", &request.permissions)?;
    let connect_permissions =
        self::permissions(kind, "connect_permissions", &request.connect_permissions)?;
    let ipv4_nets = networks(kind, &request.ip_allowlist)?;
    if let Some(ends_at) = request.ends_at {
        if kind == kind::PUBLISHABLE {
            return Err(invalid(
                "parameter_invalid",
                "expires_at",
                "A publishable key cannot expire.",
            ));
        }
        if ends_at <= now {
            return Err(invalid("parameter_invalid", "expires_at", "This time has passed."));
        }
    }
    if let Caller::Key(caller) = caller {
        may_create(caller, request, &permissions, &connect_permissions)?;
    }
    let platform = matches!(caller, Caller::Platform);
    Ok(KeyPlan {
        account: request.account.clone(),
        mode: request.mode,
        kind: kind.to_owned(),
        origin: if platform { kind::PLATFORM } else { kind::USER }.to_owned(),
        prefix: prefix.to_owned(),
        name: request.name.trim().to_owned(),
        note: request.note.clone(),
        permissions,
        connect_permissions,
        ipv4_nets,
        ends_at: request.ends_at,
        revealable: is_revealable(kind, request.mode, platform),
        attributes: attributes(kind),
    })
}

/// Tells whether the secret of such a key may be shown again later: in test
/// mode always; in live mode only if no person has seen it yet (S33–S37); of a
/// managed key never.
fn is_revealable(kind: &str, mode: Mode, platform: bool) -> bool {
    match kind {
        kind::PUBLISHABLE => true,
        kind::MANAGED => false,
        _ => mode == Mode::Test || platform,
    }
}

/// What a key may ask for. It never makes more than it is itself.
fn may_create(
    caller: &CallerKey,
    request: &KeyRequest,
    permissions: &str,
    connect_permissions: &str,
) -> Result<(), Denial> {
    let forbidden = |code, message: &str| Err(denial(DenialClass::Forbidden, code, message));
    if caller.account != request.account || caller.mode != request.mode {
        return forbidden(
            "key_scope",
            "A key makes keys of its own account and its own mode only.",
        );
    }
    if request.kind == kind::MANAGED {
        return forbidden("operator_required", "Only the operator makes managed keys.");
    }
    let missing = match Permission::find(MANAGES_KEYS) {
        Some(manages) => !permission::covers(&caller.permissions, manages),
        None => caller.permissions != permission::UNRESTRICTED,
    };
    if missing || caller.kind == kind::PUBLISHABLE {
        return Err(Denial {
            missing_permissions: MANAGES_KEYS.to_owned(),
            ..denial(
                DenialClass::Forbidden,
                "more_permissions_required",
                format!("To make keys, a key needs the permission '{MANAGES_KEYS}'."),
            )
        });
    }
    let without_limits = [permissions, connect_permissions].contains(&permission::UNRESTRICTED);
    if caller.mode == Mode::Live && without_limits {
        return forbidden(
            "operator_required",
            "In live mode no key makes keys without limits. Ask the operator.",
        );
    }
    let mut beyond: Vec<&str> = beyond(permissions, &caller.permissions)
        .chain(beyond(connect_permissions, &caller.connect_permissions))
        .collect();
    beyond.sort_unstable();
    beyond.dedup();
    let beyond = permission::join(beyond.into_iter());
    if !beyond.is_empty() {
        return Err(Denial {
            missing_permissions: beyond.clone(),
            ..denial(
                DenialClass::Forbidden,
                "more_permissions_required",
                format!("A key cannot give what it does not hold: {beyond}."),
            )
        });
    }
    Ok(())
}

/// Returns those of `asked` that somebody who holds `held` does not have.
fn beyond<'a>(asked: &'a str, held: &str) -> impl Iterator<Item = &'a str> {
    asked.split_whitespace().filter(move |name| match Permission::find(name) {
        Some(needed) => !permission::covers(held, needed),
        None => held != permission::UNRESTRICTED,
    })
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

fn default_name(kind: &str) -> &'static str {
    match kind {
        kind::PUBLISHABLE => "Publishable key",
        kind::SECRET => "Secret key",
        _ => "Restricted key",
    }
}

/// Sorts the permissions asked for, or says which of them there is not.
fn permissions(kind: &str, param: &str, asked: &str) -> Result<String, Denial> {
    let mut names: Vec<&str> = asked.split_whitespace().collect();
    names.sort_unstable();
    names.dedup();
    match kind {
        kind::RESTRICTED | kind::ORGANIZATION => {}
        _ if names.is_empty() || names == [own_permissions(kind)] => {
            return Ok(own_permissions(kind).to_owned());
        }
        _ => {
            return Err(invalid(
                "parameter_invalid",
                param,
                format!("The permissions of a {kind} key cannot be chosen. Make a restricted key."),
            ));
        }
    }
    if names.contains(&permission::UNRESTRICTED) {
        return if kind == kind::ORGANIZATION && names.len() == 1 {
            Ok(permission::UNRESTRICTED.to_owned())
        } else {
            Err(invalid(
                "parameter_invalid",
                param,
                "'*' stands alone, and only for an organization key. A key without limits is a \
                 secret key.",
            ))
        };
    }
    let unknown: Vec<&str> =
        names.iter().copied().filter(|name| Permission::find(name).is_none()).collect();
    if !unknown.is_empty() {
        return Err(invalid(
            "parameter_invalid",
            param,
            format!("There is no such permission: {}.", unknown.join(", ")),
        ));
    }
    Ok(permission::join(names.into_iter()))
}

fn networks(kind: &str, list: &str) -> Result<Vec<Ipv4Net>, Denial> {
    const PARAM: &str = "ip_allowlist";
    let mut nets = Vec::new();
    for entry in list.split_whitespace() {
        let net = network::parse(entry).map_err(|why| invalid("parameter_invalid", PARAM, why))?;
        if !nets.contains(&net) {
            nets.push(net);
        }
    }
    if !nets.is_empty() && matches!(kind, kind::PUBLISHABLE | kind::MANAGED) {
        return Err(invalid(
            "parameter_invalid",
            PARAM,
            format!("A {kind} key cannot be limited to IP addresses."),
        ));
    }
    if nets.len() > network::MAX_NETWORKS {
        return Err(invalid(
            "parameter_invalid",
            PARAM,
            format!("An allowlist has at most {} entries.", network::MAX_NETWORKS),
        ));
    }
    Ok(nets)
}

fn check_text(param: &str, text: &str, max_chars: usize) -> Result<(), Denial> {
    if text.chars().count() > max_chars {
        let message = format!("Use at most {max_chars} characters.");
        return Err(invalid("parameter_invalid", param, message));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid("parameter_invalid", param, "Control characters are not allowed."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_secret_that_somebody_has_seen_is_shown_once() {
        use kind::{MANAGED, ORGANIZATION, PUBLISHABLE, RESTRICTED, SECRET};
        for (kinds, mode, platform, expected) in [
            (&[SECRET, RESTRICTED, ORGANIZATION][..], Mode::Live, false, false),
            (&[SECRET, RESTRICTED, ORGANIZATION], Mode::Live, true, true),
            (&[SECRET, RESTRICTED, ORGANIZATION], Mode::Test, false, true),
            (&[SECRET, RESTRICTED, ORGANIZATION], Mode::Test, true, true),
            (&[PUBLISHABLE], Mode::Live, false, true),
            (&[PUBLISHABLE], Mode::Test, false, true),
            (&[MANAGED], Mode::Live, true, false),
            (&[MANAGED], Mode::Test, true, false),
        ] {
            for kind in kinds {
                let row = format!("{kind} {mode:?}, by the platform: {platform}");
                assert_eq!(is_revealable(kind, mode, platform), expected, "{row}");
            }
        }
    }

    #[test]
    fn what_goes_beyond_is_named() {
        for (asked, held, expected) in [
            ("", "", ""),
            ("charge_read", "charge_read", ""),
            ("charge_read", "charge_write", ""),
            ("charge_write", "charge_read", "charge_write"),
            ("charge_read payout_read", "", "charge_read payout_read"),
            ("charge_read payout_read", "*", ""),
            ("*", "*", ""),
            ("*", "charge_read charge_write", "*"),
        ] {
            let found = permission::join(beyond(asked, held));
            assert_eq!(found, expected, "`{asked}` asked with `{held}`");
        }
    }
}
