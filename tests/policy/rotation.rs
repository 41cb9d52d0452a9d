//! Replacing keys, now and at a set time (S58–S68, S84).

use wardkey_policy::{
    contract::{
        Denial, Key,
        lifecycle::{Caller, KeyPlan, RotationPlan, RotationRequest, RotationSchedule, StoredKey},
    },
    lifecycle::{
        MAX_NOTE_CHARS,
        rotation::{MAX_AHEAD_DAYS, MAX_EVERY_DAYS, MAX_OVERLAP_MINUTES},
    },
};

use crate::{
    both::{
        describe_denial,
        lifecycle::{cancel_rotation, rotate, schedule_rotation},
    },
    rows::*,
};

fn scheduled(rotation: RotationSchedule, key: Key) -> StoredKey {
    StoredKey { rotation: Some(rotation), ..stored(key) }
}

#[track_caller]
fn rotated(caller: &Caller, current: &StoredKey, overlap_minutes: u32) -> RotationPlan {
    rotate(caller, current, &rotation_request(overlap_minutes), NOW).unwrap()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Denial>, expected: &str) {
    assert_eq!(describe_denial(&answer.unwrap_err()), expected);
}

#[test]
fn a_replacement_has_the_same_properties() {
    for key in [publishable(), secret(), restricted("charge_read"), managed(), organization("*")] {
        for key in [key.clone(), live(key)] {
            let key = Key {
                connect_permissions: "payout_read".to_owned(),
                ipv4_nets: nets("192.0.2.0/24 198.51.100.7"),
                ends_at: Some(NOW + 30 * DAY),
                attributes: vec![("x-team".to_owned(), "billing".to_owned())],
                ..key
            };
            let current = StoredKey { note: "vault".to_owned(), ..stored(key.clone()) };
            let plan = rotated(&Caller::Operator, &current, 60);
            let KeyPlan { account, mode, kind, permissions, .. } = &plan.replacement;
            assert_eq!((account, *mode, kind), (&key.account, key.mode, &key.kind));
            assert_eq!(*permissions, key.permissions);
            assert_eq!(plan.replacement.connect_permissions, key.connect_permissions);
            assert_eq!(plan.replacement.ipv4_nets, key.ipv4_nets);
            assert_eq!(plan.replacement.attributes, key.attributes);
            assert_eq!(plan.replacement.note, "vault");
            // No row of rotations outlives what was promised for the first key.
            assert_eq!(plan.replacement.ends_at, key.ends_at);
            assert_eq!(plan.current_ends_at, NOW + HOUR);
            assert_eq!(plan.rotation, None);
            assert_eq!(plan.needs_code, plan.replacement.needs_code);
        }
    }
}

#[test]
fn a_replacement_is_named_as_its_kind_says() {
    for (key, prefix, name) in [
        (publishable(), "pk_test_", "Publishable key"),
        (secret(), "sk_test_", "Secret key"),
        (restricted(""), "rk_test_", "a key"),
        (organization(""), "sk_org_test_", "a key"),
        (managed(), "sk_test_", "a key"),
        (live(publishable()), "pk_live_", "Publishable key"),
        (live(secret()), "sk_live_", "Secret key"),
        (live(restricted("")), "rk_live_", "a key"),
    ] {
        let replacement = rotated(&Caller::Operator, &stored(key), 0).replacement;
        assert_eq!((replacement.prefix.as_str(), replacement.name.as_str()), (prefix, name));
    }
    let imported = StoredKey { imported: true, has_secret: false, ..stored(live(restricted(""))) };
    let replacement = rotated(&Caller::Operator, &imported, 0).replacement;
    assert_eq!(replacement.prefix, "rk_live_", "an ordinary key comes of it");
}

#[test]
fn a_note_is_taken_or_kept() {
    let current = StoredKey { note: "vault".to_owned(), ..stored(secret()) };
    for (note, expected) in [(None, "vault"), (Some("safe"), "safe"), (Some(""), "")] {
        let note = note.map(str::to_owned);
        let request = RotationRequest { note, ..rotation_request(0) };
        let plan = rotate(&Caller::Operator, &current, &request, NOW).unwrap();
        assert_eq!(plan.replacement.note, expected);
    }
    for note in ["a\nb".to_owned(), "n".repeat(MAX_NOTE_CHARS + 1)] {
        let request = RotationRequest { note: Some(note), ..rotation_request(0) };
        let answer = rotate(&Caller::Operator, &current, &request, NOW);
        refused(answer, "invalid request: parameter_invalid in note");
    }
}

/// S33, S34, S66: what nobody has seen may be revealed later.
#[test]
fn a_scheduled_replacement_can_be_revealed_and_one_by_hand_is_shown_once() {
    for (key, by_hand, by_schedule) in [
        (live(secret()), false, true),
        (live(restricted("")), false, true),
        (live(organization("")), false, true),
        (live(managed()), false, false),
        (live(publishable()), true, true),
        (secret(), true, true),
        (managed(), false, false),
    ] {
        let current = scheduled(schedule(NOW, None), key.clone());
        let operator = rotated(&Caller::Operator, &current, 0);
        assert_eq!(operator.replacement.revealable, by_hand, "{key:?}");
        assert_eq!(operator.replacement.origin, "user");
        let live_secret = key.mode == live(secret()).mode && key.kind != "publishable";
        assert_eq!(operator.needs_code, live_secret, "{key:?}");
        let platform = rotated(&Caller::Platform, &current, 0);
        assert_eq!(platform.replacement.revealable, by_schedule, "{key:?}");
        assert_eq!(platform.replacement.origin, "platform");
        assert!(!platform.needs_code && !platform.replacement.needs_code, "nobody is there");
    }
    // Whoever stole a key cannot rotate it unnoticed.
    let thief = live(restricted("api_key_write"));
    assert!(rotated(&Caller::Key(thief.clone()), &stored(thief), 0).needs_code);
}

/// S61, S62.
#[test]
fn the_old_key_works_on_for_as_long_as_asked_and_no_longer_than_it_would_have() {
    let week = 7 * DAY;
    for (ends_at, overlap, expected) in [
        (None, 0, NOW),
        (None, 1, NOW + 60),
        (None, MAX_OVERLAP_MINUTES, NOW + week),
        (Some(NOW + 1), 0, NOW),
        (Some(NOW + 1), 1, NOW + 1),
        (Some(NOW + HOUR), 60, NOW + HOUR),
        (Some(NOW + HOUR), MAX_OVERLAP_MINUTES, NOW + HOUR),
        (Some(u64::MAX), MAX_OVERLAP_MINUTES, NOW + week),
    ] {
        for key in [secret(), publishable()] {
            let current = stored(Key { ends_at, ..key });
            let plan = rotated(&Caller::Operator, &current, overlap);
            assert_eq!(plan.current_ends_at, expected, "{ends_at:?}, {overlap} minutes");
        }
    }
    for overlap in [MAX_OVERLAP_MINUTES + 1, u32::MAX] {
        let param = "expire_current_key_in_minutes";
        let request = rotation_request(overlap);
        let answer = rotate(&Caller::Operator, &stored(secret()), &request, NOW);
        refused(answer, &format!("invalid request: parameter_invalid in {param}"));
    }
    assert_eq!(MAX_OVERLAP_MINUTES, 10_080);
}

#[test]
fn a_key_is_replaced_once() {
    let current = StoredKey { replaced_by: Some("key_9".to_owned()), ..stored(secret()) };
    let answer = rotate(&Caller::Operator, &current, &rotation_request(0), NOW);
    assert!(answer.as_ref().unwrap_err().message.contains("'key_9'"));
    refused(answer, "conflict: key_replaced");
    let wanted = schedule(NOW + DAY, None);
    let answer = schedule_rotation(&Caller::Operator, &current, &wanted, NOW);
    refused(answer, "conflict: key_replaced");
}

#[test]
fn a_repeated_rotation_goes_on_with_the_replacement() {
    let next = |caller: &Caller, rotation: RotationSchedule, ends_at: Option<u64>| {
        let current = scheduled(rotation, Key { ends_at, ..secret() });
        rotated(caller, &current, 0).rotation.map(|next| {
            let RotationSchedule { at, every_days, expire_current_in_minutes } = next;
            let kept = (rotation.every_days, rotation.expire_current_in_minutes);
            assert_eq!((every_days, expire_current_in_minutes), kept);
            at
        })
    };
    let (operator, platform) = (&Caller::Operator, &Caller::Platform);
    let due = |ago: u64| schedule(NOW - ago, Some(30));
    // By itself it keeps its rhythm, also when the host was a little late.
    assert_eq!(next(platform, due(0), None), Some(NOW + 30 * DAY));
    assert_eq!(next(platform, due(HOUR), None), Some(NOW - HOUR + 30 * DAY));
    // A host that was away for months does not catch up.
    assert_eq!(next(platform, due(30 * DAY), None), Some(NOW + 30 * DAY));
    assert_eq!(next(platform, due(100 * DAY), None), Some(NOW + 30 * DAY));
    // By hand, the interval starts anew.
    assert_eq!(next(operator, due(0), None), Some(NOW + 30 * DAY));
    let ahead = schedule(NOW + 29 * DAY, Some(30));
    assert_eq!(next(operator, ahead, None), Some(NOW + 30 * DAY));
    // Once is once.
    assert_eq!(next(platform, schedule(NOW, None), None), None);
    assert_eq!(next(operator, schedule(NOW + DAY, None), None), None);
    // The replacement has ended by then.
    for caller in [operator, platform] {
        assert_eq!(next(caller, due(0), Some(NOW + 30 * DAY)), None);
        assert_eq!(next(caller, due(0), Some(NOW + 30 * DAY + 1)), Some(NOW + 30 * DAY));
    }
    // Damage does not rotate without end.
    assert_eq!(next(platform, schedule(NOW, Some(0)), None), None);
    // As far as time goes.
    assert_eq!(next(platform, schedule(0, Some(u32::MAX)), None).map(|at| at > NOW), Some(true));
}

/// The host reads which keys are due before it reads them. Meanwhile somebody
/// may have put the rotation off, or called it off.
#[test]
fn by_itself_the_host_rotates_what_is_due() {
    let answer =
        |current: &StoredKey| rotate(&Caller::Platform, current, &rotation_request(0), NOW);
    for ago in [0, 1, DAY] {
        assert!(answer(&scheduled(schedule(NOW - ago, None), secret())).is_ok(), "{ago} s ago");
    }
    refused(answer(&stored(secret())), "conflict: no_rotation_scheduled");
    let later = scheduled(schedule(NOW + 1, Some(1)), secret());
    refused(answer(&later), "conflict: rotation_not_due");
    // A managed key's too, and what its operator has scheduled.
    assert!(answer(&scheduled(schedule(NOW, None), live(managed()))).is_ok());
}

// Schedules (S60).

#[test]
fn a_rotation_is_scheduled_for_a_time_ahead() {
    let row = |at: u64, ends_at: Option<u64>, expected: Result<(), &str>| {
        for key in [secret(), restricted(""), live(managed()), organization("")] {
            let current = stored(Key { ends_at, ..key });
            let wanted = schedule(at, None);
            let answer = schedule_rotation(&Caller::Operator, &current, &wanted, NOW);
            match expected {
                Ok(()) => assert_eq!(answer.unwrap(), wanted),
                Err(param) => {
                    refused(answer, &format!("invalid request: parameter_invalid in {param}"));
                }
            }
        }
    };
    row(NOW + 1, None, Ok(()));
    row(NOW + MAX_AHEAD_DAYS * DAY, None, Ok(()));
    for at in [0, NOW - 1, NOW, NOW + MAX_AHEAD_DAYS * DAY + 1, u64::MAX] {
        row(at, None, Err("at"));
    }
    row(NOW + DAY, Some(NOW + DAY + 1), Ok(()));
    row(NOW + DAY, Some(NOW + DAY), Err("at"));
    row(NOW + DAY, Some(NOW + 1), Err("at"));
    let wanted = schedule(NOW + 1, Some(30));
    for key in [publishable(), live(publishable())] {
        let answer = schedule_rotation(&Caller::Operator, &stored(key), &wanted, NOW);
        assert_eq!(answer.unwrap(), wanted);
    }
    // A new one takes the place of the old one.
    let current = scheduled(schedule(NOW + DAY, Some(1)), secret());
    let answer = schedule_rotation(&Caller::Operator, &current, &wanted, NOW);
    assert_eq!(answer.unwrap(), wanted);
}

#[test]
fn a_rotation_is_repeated_so_that_no_more_than_two_keys_work_at_once() {
    let row = |every_days: Option<u32>, overlap: u32, expected: Result<(), &str>| {
        let wanted =
            RotationSchedule { at: NOW + DAY, every_days, expire_current_in_minutes: overlap };
        let answer = schedule_rotation(&Caller::Operator, &stored(secret()), &wanted, NOW);
        match expected {
            Ok(()) => assert_eq!(answer.unwrap(), wanted),
            Err(param) => {
                refused(answer, &format!("invalid request: parameter_invalid in {param}"));
            }
        }
    };
    let overlap = "expire_current_key_in_minutes";
    row(None, 0, Ok(()));
    row(None, MAX_OVERLAP_MINUTES, Ok(()));
    row(None, MAX_OVERLAP_MINUTES + 1, Err(overlap));
    row(Some(1), 0, Ok(()));
    row(Some(MAX_EVERY_DAYS), MAX_OVERLAP_MINUTES, Ok(()));
    row(Some(MAX_EVERY_DAYS), MAX_OVERLAP_MINUTES + 1, Err(overlap));
    for days in [0, MAX_EVERY_DAYS + 1, u32::MAX] {
        row(Some(days), 0, Err("every_days"));
    }
    row(Some(1), 24 * 60, Ok(()));
    row(Some(1), 24 * 60 + 1, Err(overlap));
    row(Some(6), MAX_OVERLAP_MINUTES, Err(overlap));
    row(Some(7), MAX_OVERLAP_MINUTES, Ok(()));
}

#[test]
fn a_schedule_is_taken_off_where_there_is_one() {
    for key in [secret(), publishable(), live(managed()), kind("foreign")] {
        let answer = cancel_rotation(&Caller::Operator, &stored(key.clone()), NOW);
        refused(answer, "conflict: no_rotation_scheduled");
        let current = scheduled(schedule(NOW - DAY, Some(1)), key);
        assert_eq!(cancel_rotation(&Caller::Operator, &current, NOW), Ok(()));
    }
}
