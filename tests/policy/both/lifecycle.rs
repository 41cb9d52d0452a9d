//! Every question about the life of keys, natively and through the component.

use wardkey::engine::{EngineError, contract as host, contract::lifecycle as wit};
use wardkey_policy::{
    contract::{
        Denial,
        lifecycle::{
            Caller, KeyChange, KeyFilter, KeyPlan, KeyRequest, KeyStatus, KeyUpdate, RevealPlan,
            RotationPlan, RotationRequest, RotationSchedule, StoredKey,
        },
    },
    lifecycle,
};

use super::{host_denial, host_key, host_mode, host_net, standard};

/// The one place that compares. Returns the native answer.
#[track_caller]
fn same<T, H: PartialEq + std::fmt::Debug>(
    native: Result<T, Denial>,
    component: Result<Result<H, host::Denial>, EngineError>,
    convert: impl FnOnce(&T) -> H,
) -> Result<T, Denial> {
    let expected = native.as_ref().map(convert).map_err(host_denial);
    assert_eq!(component.unwrap(), expected);
    if let Err(denial) = &native {
        check_refusal(denial);
    }
    native
}

/// What every refusal has.
#[track_caller]
fn check_refusal(denial: &Denial) {
    let code = denial.code.as_deref().expect("a refusal has a code");
    assert!(code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{code}");
    assert!(denial.message.ends_with(['.', '\'']), "no sentence: {}", denial.message);
    assert!(denial.key.is_none() && denial.endpoint.is_none(), "{denial:?}");
    let missing = !denial.missing_permissions.is_empty();
    assert_eq!(missing, code == "more_permissions_required", "{denial:?}");
}

/// Returns the keys of a new account.
#[track_caller]
pub(crate) fn default_keys(account: &str) -> Vec<KeyPlan> {
    let native = lifecycle::default_keys(account);
    let answer = standard().default_keys(account, 0).unwrap();
    assert_eq!(answer, native.iter().map(host_plan).collect::<Vec<_>>());
    native
}

#[track_caller]
pub(crate) fn create(caller: &Caller, request: &KeyRequest, now: u64) -> Result<KeyPlan, Denial> {
    let answer = by(caller, |caller| standard().create(caller, &host_key_request(request), now));
    same(lifecycle::create(caller, request, now), answer, host_plan)
}

#[track_caller]
pub(crate) fn import_key(
    caller: &Caller,
    request: &KeyRequest,
    prefix: &str,
    now: u64,
) -> Result<KeyPlan, Denial> {
    let host_request = host_key_request(request);
    let answer = by(caller, |caller| standard().import_key(caller, &host_request, prefix, now));
    same(lifecycle::import_key(caller, request, prefix, now), answer, host_plan)
}

#[track_caller]
pub(crate) fn visible(caller: &Caller, wanted: &KeyFilter) -> Result<KeyFilter, Denial> {
    let answer = by(caller, |caller| standard().visible(caller, &host_filter(wanted)));
    same(lifecycle::visible(caller, wanted), answer, host_filter)
}

#[track_caller]
pub(crate) fn status(current: &StoredKey, now: u64) -> KeyStatus {
    let native = lifecycle::describe(current, now);
    let KeyStatus { limited_access, actions } = native.clone();
    let answer = about(current, |current| standard().describe(current, now)).unwrap();
    assert_eq!(answer, wit::KeyStatus { limited_access, actions });
    native
}

#[track_caller]
pub(crate) fn update(
    caller: &Caller,
    current: &StoredKey,
    change: &KeyChange,
    now: u64,
) -> Result<KeyUpdate, Denial> {
    let KeyChange { name, note, permissions, connect_permissions, ip_allowlist } = change;
    let host_change = wit::KeyChange {
        name: name.as_deref(),
        note: note.as_deref(),
        permissions: permissions.as_deref(),
        connect_permissions: connect_permissions.as_deref(),
        ip_allowlist: ip_allowlist.as_deref(),
    };
    let answer = by_about(caller, current, |caller, current| {
        standard().update(caller, current, &host_change, now)
    });
    same(lifecycle::update(caller, current, change, now), answer, |update| {
        let KeyUpdate { name, note, permissions, connect_permissions, ipv4_nets } = update.clone();
        let ipv4_nets = ipv4_nets.into_iter().map(host_net).collect();
        wit::KeyUpdate { name, note, permissions, connect_permissions, ipv4_nets }
    })
}

#[track_caller]
pub(crate) fn expire(caller: &Caller, current: &StoredKey, now: u64) -> Result<u64, Denial> {
    let answer =
        by_about(caller, current, |caller, current| standard().expire(caller, current, now));
    same(lifecycle::expire(caller, current, now), answer, |at| *at)
}

#[track_caller]
pub(crate) fn restore(caller: &Caller, current: &StoredKey, now: u64) -> Result<u64, Denial> {
    let answer =
        by_about(caller, current, |caller, current| standard().restore(caller, current, now));
    same(lifecycle::restore(caller, current, now), answer, |at| *at)
}

#[track_caller]
pub(crate) fn reveal(caller: &Caller, current: &StoredKey, now: u64) -> Result<RevealPlan, Denial> {
    let answer =
        by_about(caller, current, |caller, current| standard().reveal(caller, current, now));
    same(lifecycle::reveal(caller, current, now), answer, |RevealPlan { needs_code }| {
        wit::RevealPlan { needs_code: *needs_code }
    })
}

#[track_caller]
pub(crate) fn rotate(
    caller: &Caller,
    current: &StoredKey,
    request: &RotationRequest,
    now: u64,
) -> Result<RotationPlan, Denial> {
    let RotationRequest { expire_current_in_minutes, note } = request;
    let host_request = wit::RotationRequest {
        expire_current_in_minutes: *expire_current_in_minutes,
        note: note.as_deref(),
    };
    let answer = by_about(caller, current, |caller, current| {
        standard().rotate(caller, current, &host_request, now)
    });
    same(lifecycle::rotate(caller, current, request, now), answer, |plan| {
        let RotationPlan { replacement, current_ends_at, rotation, needs_code } = plan;
        wit::RotationPlan {
            replacement: host_plan(replacement),
            current_ends_at: *current_ends_at,
            rotation: rotation.as_ref().map(host_schedule),
            needs_code: *needs_code,
        }
    })
}

#[track_caller]
pub(crate) fn schedule_rotation(
    caller: &Caller,
    current: &StoredKey,
    wanted: &RotationSchedule,
    now: u64,
) -> Result<RotationSchedule, Denial> {
    let answer = by_about(caller, current, |caller, current| {
        standard().schedule_rotation(caller, current, host_schedule(wanted), now)
    });
    same(lifecycle::schedule_rotation(caller, current, wanted, now), answer, host_schedule)
}

#[track_caller]
pub(crate) fn cancel_rotation(
    caller: &Caller,
    current: &StoredKey,
    now: u64,
) -> Result<(), Denial> {
    let answer = by_about(caller, current, |caller, current| {
        standard().cancel_rotation(caller, current, now)
    });
    same(lifecycle::cancel_rotation(caller, current, now), answer, |()| ())
}

// From the rules' types to the host's. Every struct is taken apart by name, so
// that a new field does not go uncompared.

/// Asks something in the caller's name.
fn by<T>(caller: &Caller, ask: impl FnOnce(&wit::Caller<'_>) -> T) -> T {
    match caller {
        Caller::Operator => ask(&wit::Caller::Operator),
        Caller::Platform => ask(&wit::Caller::Platform),
        Caller::Key(key) => ask(&wit::Caller::Key(&host_key(key))),
    }
}

/// Asks something about a key.
fn about<T>(stored: &StoredKey, ask: impl FnOnce(&wit::StoredKey<'_>) -> T) -> T {
    let StoredKey { key, name, note, has_secret, imported, replaced_by, rotation } = stored;
    ask(&wit::StoredKey {
        key: &host_key(key),
        name,
        note,
        has_secret: *has_secret,
        imported: *imported,
        replaced_by: replaced_by.as_deref(),
        rotation: rotation.as_ref().map(host_schedule),
    })
}

/// Asks something about a key in the caller's name.
fn by_about<T>(
    caller: &Caller,
    stored: &StoredKey,
    ask: impl FnOnce(&wit::Caller<'_>, &wit::StoredKey<'_>) -> T,
) -> T {
    by(caller, |caller| about(stored, |stored| ask(caller, stored)))
}

fn host_filter(filter: &KeyFilter) -> wit::KeyFilter {
    let KeyFilter { account, mode } = filter.clone();
    wit::KeyFilter { account, mode: mode.map(host_mode) }
}

fn host_schedule(schedule: &RotationSchedule) -> wit::RotationSchedule {
    let RotationSchedule { at, every_days, expire_current_in_minutes } = *schedule;
    wit::RotationSchedule { at, every_days, expire_current_in_minutes }
}

fn host_key_request(request: &KeyRequest) -> wit::KeyRequest<'_> {
    let KeyRequest {
        account,
        mode,
        kind,
        name,
        note,
        permissions,
        connect_permissions,
        ip_allowlist,
        ends_at,
    } = request;
    wit::KeyRequest {
        account,
        mode: host_mode(*mode),
        kind,
        name,
        note,
        permissions,
        connect_permissions,
        ip_allowlist,
        ends_at: *ends_at,
    }
}

fn host_plan(plan: &KeyPlan) -> wit::KeyPlan {
    let KeyPlan {
        account,
        mode,
        kind,
        origin,
        prefix,
        name,
        note,
        permissions,
        connect_permissions,
        ipv4_nets,
        ends_at,
        revealable,
        needs_code,
        attributes,
    } = plan.clone();
    wit::KeyPlan {
        account,
        mode: host_mode(mode),
        kind,
        origin,
        prefix,
        name,
        note,
        permissions,
        connect_permissions,
        ipv4_nets: ipv4_nets.into_iter().map(host_net).collect(),
        ends_at,
        revealable,
        needs_code,
        attributes,
    }
}
