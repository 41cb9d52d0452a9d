//! What may stand in the fields of a key.

use super::own_permissions;
use crate::{
    catalogue::Permission,
    contract::{Denial, Ipv4Net},
    denial::invalid,
    kind, network, permission,
};

/// The longest name, in characters. A well-known integration cuts names at 100.
pub const MAX_NAME_CHARS: usize = 100;

/// The longest note, in characters: a sentence or two on where the key is kept.
pub const MAX_NOTE_CHARS: usize = 500;

/// Checks the name of a new key, and trims it.
pub(super) fn new_name(name: &str) -> Result<String, Denial> {
    if name.trim().is_empty() {
        return Err(invalid("parameter_missing", "name", "Give the key a name."));
    }
    text("name", name.trim(), MAX_NAME_CHARS)
}

/// Checks the name that a key of this kind shall have from now on.
///
/// Publishable keys cannot be renamed: only of secret and restricted keys does
/// anybody say that they can (S64), and a list without names of one's own choice
/// for what everybody can read loses nothing.
pub(super) fn next_name(kind: &str, current: &str, name: &str) -> Result<String, Denial> {
    let name = name.trim();
    if name.is_empty() {
        let message = "A name cannot be empty. Leave it out to keep the name that there is.";
        return Err(invalid("parameter_invalid", "name", message));
    }
    if kind == kind::PUBLISHABLE && name != current {
        let message = "A publishable key cannot be renamed. Write what you want to say of it into \
                       its note.";
        return Err(invalid("parameter_invalid", "name", message));
    }
    text("name", name, MAX_NAME_CHARS)
}

/// Checks a note.
pub(super) fn note(note: &str) -> Result<String, Denial> {
    text("note", note, MAX_NOTE_CHARS)
}

fn text(param: &str, text: &str, max_chars: usize) -> Result<String, Denial> {
    if text.chars().count() > max_chars {
        let message = format!("Use at most {max_chars} characters.");
        return Err(invalid("parameter_invalid", param, message));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid("parameter_invalid", param, "Control characters are not allowed."));
    }
    Ok(text.to_owned())
}

/// Sorts the permissions asked for a new key, or says which of them there is
/// not.
pub(super) fn permissions(kind: &str, param: &str, asked: &str) -> Result<String, Denial> {
    let own = own_permissions(kind);
    if !can_choose(kind) && (asked.trim().is_empty() || asked.trim() == own) {
        return Ok(own.to_owned());
    }
    choose(kind, param, asked)
}

/// Sorts the permissions that a key shall have from now on.
///
/// No permissions is no wish for the default here: a secret key asked to have
/// none would otherwise go on having all.
pub(super) fn next_permissions(
    kind: &str,
    param: &str,
    current: &str,
    asked: &str,
) -> Result<String, Denial> {
    if !can_choose(kind) && asked.trim() == current {
        return Ok(current.to_owned());
    }
    choose(kind, param, asked)
}

fn can_choose(kind: &str) -> bool {
    matches!(kind, kind::RESTRICTED | kind::ORGANIZATION)
}

fn choose(kind: &str, param: &str, asked: &str) -> Result<String, Denial> {
    if !can_choose(kind) {
        return Err(invalid(
            "parameter_invalid",
            param,
            format!("The permissions of a {kind} key cannot be chosen. Make a restricted key."),
        ));
    }
    let mut names: Vec<&str> = asked.split_whitespace().collect();
    names.sort_unstable();
    names.dedup();
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

/// Reads an allowlist (S42–S45, S80). Empty: any address.
pub(super) fn networks(kind: &str, list: &str) -> Result<Vec<Ipv4Net>, Denial> {
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

/// Checks when a new key shall end (S53, S79).
pub(super) fn ends_at(kind: &str, ends_at: Option<u64>, now: u64) -> Result<Option<u64>, Denial> {
    const PARAM: &str = "expires_at";
    if ends_at.is_some() && kind == kind::PUBLISHABLE {
        let message = "A publishable key cannot expire.";
        return Err(invalid("parameter_invalid", PARAM, message));
    }
    if ends_at.is_some_and(|ends_at| ends_at <= now) {
        return Err(invalid("parameter_invalid", PARAM, "This time has passed."));
    }
    Ok(ends_at)
}
