//! Who may touch which key.
//!
//! The operator may do whatever the rules of the other files allow. The host
//! itself (the platform) makes default keys and carries out rotations that were
//! scheduled, and nothing else.
//!
//! # Keys that manage keys
//!
//! - Publishable keys and organization keys manage nothing. The others need
//!   `api_key_write`, or `api_key_read` to see what there is.
//! - A key touches keys of its own account and its own mode. Any other key is
//!   answered as one that there is not, so that nobody learns of it.
//! - **Nobody gets more out of another key than it holds itself.** What a key
//!   makes, edits, rotates, reveals or schedules a rotation for may have no
//!   permission that it lacks, may be used from no address that it may not be
//!   used from, and may not outlive it. If its access is limited, it may not
//!   move money either. One exception: ending. A key with `api_key_write` ends
//!   any server key of its account and mode, also a stronger one, because to
//!   kill a leaked key must be easy, and ending gives nobody anything.
//! - In live mode a key never reveals a secret, and never makes or rotates a key
//!   without limits (`*`).
//! - It does not change itself: no edit, no restoring, no schedule. It may end
//!   itself, and may rotate itself, as its replacement is what it is.
//! - Imported and managed keys are the operator's to make, and managed keys the
//!   operator's to edit and rotate. Restoring is the operator's too: a person has
//!   to look.

use crate::{
    catalogue::{self, Permission},
    contract::{
        Denial, DenialClass, Ipv4Net, Key, Mode,
        lifecycle::{Caller, KeyPlan, KeyRequest, StoredKey},
    },
    denial::{self, denial},
    kind, limited, network, permission,
};

/// The permission that lets a key see keys.
pub(super) const READS_KEYS: &str = "api_key_read";

/// The permission that lets a key manage keys.
pub(super) const WRITES_KEYS: &str = "api_key_write";

/// How far a key reaches: all that one key can have more of than another.
pub(super) struct Reach<'a> {
    mode: Mode,
    kind: &'a str,
    permissions: &'a str,
    connect_permissions: &'a str,
    ipv4_nets: &'a [Ipv4Net],
    ends_at: Option<u64>,
}

impl<'a> From<&'a Key> for Reach<'a> {
    fn from(key: &'a Key) -> Self {
        Self {
            mode: key.mode,
            kind: &key.kind,
            permissions: &key.permissions,
            connect_permissions: &key.connect_permissions,
            ipv4_nets: &key.ipv4_nets,
            ends_at: key.ends_at,
        }
    }
}

impl<'a> From<&'a KeyPlan> for Reach<'a> {
    fn from(plan: &'a KeyPlan) -> Self {
        Self {
            mode: plan.mode,
            kind: &plan.kind,
            permissions: &plan.permissions,
            connect_permissions: &plan.connect_permissions,
            ipv4_nets: &plan.ipv4_nets,
            ends_at: plan.ends_at,
        }
    }
}

impl Reach<'_> {
    /// Tells whether it can move money, at home or on a connected account.
    fn moves_money(&self) -> bool {
        [self.permissions, self.connect_permissions].iter().any(|held| {
            catalogue::Endpoint::all()
                .iter()
                .filter(|endpoint| endpoint.money_movement)
                .any(|endpoint| permission::missing(held, endpoint.permissions()).is_empty())
        })
    }
}

/// Checks that a key manages keys at all, and holds the permission for it.
/// `authorize` has done so for the endpoint; this does not rely on it.
pub(super) fn manages(key: &Key, permission: &str) -> Result<(), Denial> {
    match key.kind.as_str() {
        kind::SECRET | kind::RESTRICTED | kind::MANAGED => {}
        kind::PUBLISHABLE => return Err(denial::secret_key_required()),
        kind::ORGANIZATION => {
            return Err(forbidden(
                "key_scope",
                "An organization key manages no keys. Use a key of the account itself, or ask the \
                 operator.",
            ));
        }
        unknown => return Err(denial::unknown_kind(unknown)),
    }
    if holds(&key.permissions, permission) {
        Ok(())
    } else {
        Err(Denial {
            missing_permissions: permission.to_owned(),
            ..forbidden(
                "more_permissions_required",
                format!("To do this with keys, a key needs the permission '{permission}'."),
            )
        })
    }
}

/// Checks what `caller` may ask for before anything is said of the request.
pub(super) fn may_create(caller: &Caller, request: &KeyRequest) -> Result<(), Denial> {
    let Caller::Key(key) = caller else { return Ok(()) };
    manages(key, WRITES_KEYS)?;
    let scope = |param: &str, message| {
        Err(Denial { param: Some(param.to_owned()), ..forbidden("key_scope", message) })
    };
    if key.account != request.account {
        return scope("account", "A key makes keys of its own account only.");
    }
    if key.mode != request.mode {
        return scope("livemode", "A key makes keys of its own mode only.");
    }
    if request.kind == kind::MANAGED {
        return Err(operator_required("Only the operator makes managed keys."));
    }
    Ok(())
}

/// Checks that `caller` may touch this key at all, and that there is anything
/// left to do with it.
///
/// Where a key may not touch it comes first: the answer must not tell whether
/// it has ended, nor what kind it is.
pub(super) fn reaches(caller: &Caller, current: &StoredKey, now: u64) -> Result<(), Denial> {
    let target = &current.key;
    if let Caller::Key(key) = caller {
        manages(key, WRITES_KEYS)?;
        if key.account != target.account || key.mode != target.mode {
            return Err(denial::no_such_key(&target.id));
        }
    }
    if target.ends_at.is_some_and(|ends_at| now >= ends_at) {
        return Err(denial(
            DenialClass::Conflict,
            "key_ended",
            format!("The key '{}' has ended already. Make a new one.", target.id),
        ));
    }
    Ok(())
}

/// Checks that the kind is one of ours. What another policy's kind can be
/// changed into is not for us to guess; it can be ended.
pub(super) fn knows_kind(current: &StoredKey) -> Result<(), Denial> {
    match kind::prefix(&current.key.kind, current.key.mode) {
        Some(_) => Ok(()),
        None => Err(denial::unknown_kind(&current.key.kind)),
    }
}

/// Checks that it is not the host by itself that asks.
pub(super) fn is_somebody(caller: &Caller) -> Result<(), Denial> {
    match caller {
        Caller::Platform => Err(operator_required(
            "By itself, the host makes default keys and carries out scheduled rotations only.",
        )),
        Caller::Operator | Caller::Key(_) => Ok(()),
    }
}

/// Checks that it is the operator who asks.
pub(super) fn is_operator(caller: &Caller, message: &str) -> Result<(), Denial> {
    match caller {
        Caller::Operator => Ok(()),
        Caller::Platform | Caller::Key(_) => Err(operator_required(message)),
    }
}

/// Checks that a key does not ask for itself.
pub(super) fn is_another(caller: &Caller, current: &StoredKey) -> Result<(), Denial> {
    match caller {
        Caller::Key(key) if key.id == current.key.id => Err(forbidden(
            "key_scope",
            "A key does not change itself. Use another key, or ask the operator.",
        )),
        _ => Ok(()),
    }
}

/// Checks that no key edits or rotates a managed key.
pub(super) fn may_manage_kind(caller: &Caller, current: &StoredKey) -> Result<(), Denial> {
    match caller {
        Caller::Key(_) if current.key.kind == kind::MANAGED => Err(operator_required(
            "Only the operator edits and rotates managed keys. A key can end them.",
        )),
        _ => Ok(()),
    }
}

/// Checks that no key gets hold of a new live key without limits.
pub(super) fn mints_no_live_unrestricted(
    caller: &Caller,
    wanted: &Reach<'_>,
) -> Result<(), Denial> {
    let without_limits =
        [wanted.permissions, wanted.connect_permissions].contains(&permission::UNRESTRICTED);
    if matches!(caller, Caller::Key(_)) && wanted.mode == Mode::Live && without_limits {
        return Err(operator_required(
            "In live mode no key makes or rotates keys without limits. Ask the operator.",
        ));
    }
    Ok(())
}

/// Checks that what a key does through another is no more than it may do
/// itself.
pub(super) fn stays_within(caller: &Caller, wanted: &Reach<'_>, now: u64) -> Result<(), Denial> {
    let Caller::Key(key) = caller else { return Ok(()) };
    let mut beyond: Vec<&str> = beyond(wanted.permissions, &key.permissions)
        .chain(self::beyond(wanted.connect_permissions, &key.connect_permissions))
        .collect();
    beyond.sort_unstable();
    beyond.dedup();
    let beyond = permission::join(beyond.into_iter());
    if !beyond.is_empty() {
        return Err(Denial {
            missing_permissions: beyond.clone(),
            ..forbidden(
                "more_permissions_required",
                format!("A key cannot give, nor get hold of, what it does not hold: {beyond}."),
            )
        });
    }
    // Only a key that has a limit can ask for more than that.
    let unlimited = match wanted.kind {
        kind::PUBLISHABLE | kind::MANAGED => " Keys of this kind have no such limit.",
        _ => "",
    };
    if !network::within(wanted.ipv4_nets, &key.ipv4_nets) {
        return Err(Denial {
            param: Some("ip_allowlist".to_owned()),
            ..forbidden(
                "ip_beyond_own",
                format!(
                    "The key that asks is limited to IP addresses. Each entry of the other key's \
                     allowlist has to lie inside one of its own entries.{unlimited}"
                ),
            )
        });
    }
    if let Some(own_end) = key.ends_at
        && wanted.ends_at.is_none_or(|ends_at| ends_at > own_end)
    {
        return Err(Denial {
            param: Some("expires_at".to_owned()),
            ..forbidden(
                "expiry_beyond_own",
                format!(
                    "The key that asks ends at {own_end} (seconds since 1970). The other key has \
                     to end then or before.{unlimited}"
                ),
            )
        });
    }
    if limited::is_limited(key, now) && wanted.moves_money() {
        return Err(forbidden(
            "access_limited",
            "Access of the key that asks has been limited, and the other key can move money. Have \
             the operator restore its access first.",
        ));
    }
    Ok(())
}

/// Returns those of `asked` that somebody who holds `held` does not have.
fn beyond<'a>(asked: &'a str, held: &str) -> impl Iterator<Item = &'a str> {
    asked.split_whitespace().filter(move |name| !holds(held, name))
}

/// Tells whether `held` covers a permission of that name. One that the
/// catalogue does not list is held by keys without limits only.
fn holds(held: &str, name: &str) -> bool {
    match Permission::find(name) {
        Some(needed) => permission::covers(held, needed),
        None => held == permission::UNRESTRICTED,
    }
}

pub(super) fn forbidden(code: &str, message: impl Into<String>) -> Denial {
    denial(DenialClass::Forbidden, code, message)
}

pub(super) fn operator_required(message: &str) -> Denial {
    forbidden("operator_required", message)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("no_such_permission", "charge_read", "no_such_permission"),
            ("no_such_permission", "no_such_permission", "no_such_permission"),
            ("no_such_permission", "*", ""),
        ] {
            let found = permission::join(beyond(asked, held));
            assert_eq!(found, expected, "`{asked}` asked with `{held}`");
        }
    }

    #[test]
    fn money_is_moved_by_whoever_holds_all_that_one_endpoint_needs() {
        for (permissions, connect_permissions, expected) in [
            ("", "", false),
            ("charge_write customer_write", "", false),
            ("payout_read", "", false),
            ("payout_write", "", true),
            ("transfer_write", "", true),
            ("", "payout_write", true),
            ("*", "", true),
            ("", "*", true),
        ] {
            let reach = Reach {
                mode: Mode::Test,
                kind: kind::RESTRICTED,
                permissions,
                connect_permissions,
                ipv4_nets: &[],
                ends_at: None,
            };
            let row = format!("`{permissions}`, connect `{connect_permissions}`");
            assert_eq!(reach.moves_money(), expected, "{row}");
        }
    }
}
