//! Replacing a key, now or at a set time (S58–S68, S84).

use super::{
    caller::{self, Reach},
    default_name, fields, is_revealable, needs_code, origin,
};
use crate::{
    contract::{
        Denial, DenialClass, Key,
        lifecycle::{Caller, KeyPlan, RotationPlan, RotationRequest, RotationSchedule, StoredKey},
    },
    denial::{denial, invalid},
    kind,
    limited::DAY_SECS,
};

/// The longest that an old key may work beside its replacement, in minutes:
/// seven days (S62).
pub const MAX_OVERLAP_MINUTES: u32 = 7 * DAY_MINUTES;

/// How far ahead a rotation may be scheduled, in days: a year.
pub const MAX_AHEAD_DAYS: u64 = 366;

/// The longest interval of rotations, in days.
pub const MAX_EVERY_DAYS: u32 = 365;

const MINUTE_SECS: u64 = 60;
const DAY_MINUTES: u32 = 24 * 60;

/// Returns the plan for replacing a key.
///
/// The replacement has the same properties (S67), and the same end: no row of
/// rotations outlives what was promised for the first key. Neither does the old
/// key live longer than it would have.
pub fn rotate(
    caller: &Caller,
    current: &StoredKey,
    request: &RotationRequest,
    now: u64,
) -> Result<RotationPlan, Denial> {
    may_replace(caller, current, now)?;
    if matches!(caller, Caller::Platform) {
        is_due(current, now)?;
    }
    overlap(request.expire_current_in_minutes)?;
    let note = match &request.note {
        Some(note) => fields::note(note)?,
        None => current.note.clone(),
    };
    let StoredKey { key, name, .. } = current;
    let Key { mode, ends_at, .. } = *key;
    let kind = key.kind.as_str();
    let overlap_secs = u64::from(request.expire_current_in_minutes) * MINUTE_SECS;
    let current_ends_at = now.saturating_add(overlap_secs);
    let needs_code = needs_code(kind, mode, caller);
    Ok(RotationPlan {
        replacement: KeyPlan {
            account: key.account.clone(),
            mode,
            kind: kind.to_owned(),
            origin: origin(caller).to_owned(),
            prefix: kind::prefix(kind, mode).unwrap_or_default().to_owned(),
            name: default_name(kind).unwrap_or(name).to_owned(),
            note,
            permissions: key.permissions.clone(),
            connect_permissions: key.connect_permissions.clone(),
            ipv4_nets: key.ipv4_nets.clone(),
            ends_at,
            revealable: is_revealable(kind, mode, caller),
            needs_code,
            attributes: key.attributes.clone(),
        },
        current_ends_at: ends_at.map_or(current_ends_at, |ends_at| current_ends_at.min(ends_at)),
        rotation: next(caller, current, now),
        needs_code,
    })
}

/// Returns the schedule that a key gets: `wanted`, if it may have it.
///
/// It takes the place of the one that there is. No code is needed: nobody sees
/// a secret by it, and to see that of the replacement later needs one.
pub fn schedule_rotation(
    caller: &Caller,
    current: &StoredKey,
    wanted: &RotationSchedule,
    now: u64,
) -> Result<RotationSchedule, Denial> {
    may_replace(caller, current, now)?;
    caller::is_somebody(caller)?;
    caller::is_another(caller, current)?;
    let at = |message: String| Err(invalid("parameter_invalid", "at", message));
    if wanted.at <= now {
        return at("This time has passed. To rotate the key now, rotate it.".to_owned());
    }
    if wanted.at > now.saturating_add(MAX_AHEAD_DAYS * DAY_SECS) {
        return at(format!("A rotation is at most {MAX_AHEAD_DAYS} days ahead."));
    }
    if current.key.ends_at.is_some_and(|ends_at| ends_at <= wanted.at) {
        return at("The key will have ended by then. Name a time before its end.".to_owned());
    }
    overlap(wanted.expire_current_in_minutes)?;
    if let Some(days) = wanted.every_days {
        if !(1..=MAX_EVERY_DAYS).contains(&days) {
            let message = format!("A key is rotated every 1 to {MAX_EVERY_DAYS} days.");
            return Err(invalid("parameter_invalid", "every_days", message));
        }
        if wanted.expire_current_in_minutes > days.saturating_mul(DAY_MINUTES) {
            return Err(invalid(
                "parameter_invalid",
                OVERLAP_PARAM,
                format!(
                    "A key that is rotated every {days} days works beside its replacement for at \
                     most as long, so that there are never more than two."
                ),
            ));
        }
    }
    Ok(*wanted)
}

/// Tells whether `caller` may take a schedule off a key again.
pub fn cancel_rotation(caller: &Caller, current: &StoredKey, now: u64) -> Result<(), Denial> {
    caller::reaches(caller, current, now)?;
    caller::is_somebody(caller)?;
    caller::is_another(caller, current)?;
    caller::may_manage_kind(caller, current)?;
    caller::stays_within(caller, &Reach::from(&current.key), now)?;
    scheduled(current).map(|_| ())
}

/// The rules that a rotation and its schedule have in common.
fn may_replace(caller: &Caller, current: &StoredKey, now: u64) -> Result<(), Denial> {
    caller::reaches(caller, current, now)?;
    caller::knows_kind(current)?;
    if let Some(replacement) = &current.replaced_by {
        return Err(denial(
            DenialClass::Conflict,
            "key_replaced",
            format!("This key has been rotated already. Rotate its replacement '{replacement}'."),
        ));
    }
    caller::may_manage_kind(caller, current)?;
    let becomes = Reach::from(&current.key);
    caller::mints_no_live_unrestricted(caller, &becomes)?;
    caller::stays_within(caller, &becomes, now)
}

/// Checks that the host rotates by itself what it was told to, and when. It
/// finds the keys that are due before it reads them, and by then somebody may
/// have thought better of it.
fn is_due(current: &StoredKey, now: u64) -> Result<(), Denial> {
    if scheduled(current)?.at <= now {
        return Ok(());
    }
    Err(denial(
        DenialClass::Conflict,
        "rotation_not_due",
        "The rotation of this key is scheduled for later.",
    ))
}

fn scheduled(current: &StoredKey) -> Result<&RotationSchedule, Denial> {
    current.rotation.as_ref().ok_or_else(|| {
        denial(
            DenialClass::Conflict,
            "no_rotation_scheduled",
            "No rotation is scheduled for this key.",
        )
    })
}

const OVERLAP_PARAM: &str = "expire_current_key_in_minutes";

fn overlap(minutes: u32) -> Result<(), Denial> {
    if minutes > MAX_OVERLAP_MINUTES {
        return Err(invalid(
            "parameter_invalid",
            OVERLAP_PARAM,
            format!(
                "The old key works beside its replacement for at most {MAX_OVERLAP_MINUTES} \
                 minutes (7 days)."
            ),
        ));
    }
    Ok(())
}

/// Returns when the replacement is rotated in turn, if it is to be rotated again
/// and again. A rotation of the host's own keeps the rhythm; one by hand starts
/// it anew.
fn next(caller: &Caller, current: &StoredKey, now: u64) -> Option<RotationSchedule> {
    let schedule = current.rotation.as_ref()?;
    // Every zero days is damage, and would be a rotation without end.
    let days = schedule.every_days.filter(|&days| days > 0)?;
    let interval = u64::from(days) * DAY_SECS;
    let in_rhythm = match caller {
        Caller::Platform => schedule.at.saturating_add(interval),
        Caller::Operator | Caller::Key(_) => 0,
    };
    // A host that was away for long does not catch up on what it missed.
    let at = if in_rhythm > now { in_rhythm } else { now.saturating_add(interval) };
    let ends_before = current.key.ends_at.is_some_and(|ends_at| ends_at <= at);
    (!ends_before).then_some(RotationSchedule { at, ..*schedule })
}
