//! What may be seen of keys: which, how they are shown, and their secrets
//! (S33–S39, S77).

use wardkey_policy::contract::{
    Decision, Key, Mode,
    lifecycle::{Caller, KeyFilter, StoredKey},
};

use crate::{
    both::{
        decide, describe_denial,
        lifecycle::{reveal, status, visible},
    },
    rows::*,
};

fn filter(account: Option<&str>, mode: Option<Mode>) -> KeyFilter {
    KeyFilter { account: account.map(str::to_owned), mode }
}

#[test]
fn a_key_sees_keys_of_its_own_account_and_mode() {
    let row = |caller: Key, wanted: &KeyFilter, expected: &str| {
        let mode = caller.mode;
        let answer = match visible(&Caller::Key(caller.clone()), wanted) {
            Ok(seen) => {
                assert_eq!(seen, filter(Some(OWNER), Some(mode)));
                "its own".to_owned()
            }
            Err(denial) => describe_denial(&denial),
        };
        assert_eq!(answer, expected, "{caller:?} wants {wanted:?}");
    };
    let all = filter(None, None);
    for caller in [secret(), managed(), restricted("api_key_read"), restricted("api_key_write")] {
        row(caller.clone(), &all, "its own");
        row(live(caller.clone()), &all, "its own");
        row(caller.clone(), &filter(Some(OWNER), Some(Mode::Test)), "its own");
        let account = "forbidden: key_scope in account";
        for other in ["acct_shop", ORGANIZATION, ""] {
            row(caller.clone(), &filter(Some(other), None), account);
        }
        let mode = "forbidden: key_scope in livemode";
        row(caller.clone(), &filter(None, Some(Mode::Live)), mode);
        row(live(caller.clone()), &filter(Some(OWNER), Some(Mode::Test)), mode);
    }
    let missing = "forbidden: more_permissions_required, missing api_key_read";
    row(restricted("charge_write"), &all, missing);
    row(restricted(""), &all, missing);
    row(publishable(), &all, "forbidden: secret_key_required");
    row(organization("*"), &all, "forbidden: key_scope");
    row(kind("foreign"), &all, "forbidden: key_kind_unknown");
}

#[test]
fn the_operator_and_the_host_see_what_they_want() {
    for caller in [Caller::Operator, Caller::Platform] {
        for wanted in [
            filter(None, None),
            filter(Some("acct_shop"), None),
            filter(Some(ORGANIZATION), Some(Mode::Live)),
        ] {
            assert_eq!(visible(&caller, &wanted), Ok(wanted));
        }
    }
}

// Secrets.

#[track_caller]
fn check_reveal(caller: &Caller, current: &StoredKey, expected: &str) {
    let answer = match reveal(caller, current, NOW) {
        Ok(plan) if plan.needs_code => "with a code".to_owned(),
        Ok(_) => "yes".to_owned(),
        Err(denial) => describe_denial(&denial),
    };
    assert_eq!(answer, expected, "{caller:?} of {current:?}");
}

#[test]
fn a_secret_is_shown_again_if_nobody_has_seen_it_or_nothing_is_at_stake() {
    let by_platform = |key: Key| Key { origin: "platform".to_owned(), ..key };
    let once = "forbidden: secret_shown_once";
    let managed_key = "forbidden: managed_key";
    for (key, expected) in [
        // S36
        (secret(), "yes"),
        (restricted(""), "yes"),
        (organization(""), "yes"),
        (by_platform(secret()), "yes"),
        // S33, S77
        (live(secret()), once),
        (live(restricted("")), once),
        (live(organization("")), once),
        // S34, S35
        (live(by_platform(secret())), "with a code"),
        (live(by_platform(restricted(""))), "with a code"),
        (live(by_platform(organization(""))), "with a code"),
        // S37
        (publishable(), "yes"),
        (live(publishable()), "yes"),
        (live(by_platform(publishable())), "yes"),
        // S16
        (managed(), managed_key),
        (live(managed()), managed_key),
        (live(by_platform(managed())), managed_key),
        (kind("foreign"), "forbidden: key_kind_unknown"),
        // Made by whoever another policy knows.
        (live(Key { origin: "importer".to_owned(), ..secret() }), once),
    ] {
        check_reveal(&Caller::Operator, &stored(key.clone()), expected);
        let not_kept = StoredKey { has_secret: false, ..stored(key.clone()) };
        let gone = "forbidden: secret_not_kept";
        let expected = if expected.starts_with("forbidden") { expected } else { gone };
        check_reveal(&Caller::Operator, &not_kept, expected);
        let imported = StoredKey { imported: true, ..not_kept };
        let expected = match expected {
            "forbidden: managed_key" | "forbidden: key_kind_unknown" => expected,
            _ => gone,
        };
        check_reveal(&Caller::Operator, &imported, expected);
    }
}

#[test]
fn a_refusal_says_how_to_get_a_secret_after_all() {
    for current in [
        stored(live(secret())),
        StoredKey { imported: true, ..stored(secret()) },
        StoredKey { has_secret: false, ..stored(secret()) },
    ] {
        let denial = reveal(&Caller::Operator, &current, NOW).unwrap_err();
        assert!(denial.message.contains("Rotate the key"), "{}", denial.message);
    }
}

#[test]
fn in_live_mode_no_key_reveals_a_secret() {
    let by_platform = Key { origin: "platform".to_owned(), ..restricted("") };
    let operator = "forbidden: operator_required";
    for key in [live(by_platform.clone()), live(publishable()), live(restricted(""))] {
        check_reveal(&Caller::Key(live(secret())), &stored(key), operator);
    }
    check_reveal(&Caller::Key(secret()), &stored(by_platform), "yes");
    check_reveal(&Caller::Key(secret()), &stored(publishable()), "yes");
    check_reveal(&Caller::Platform, &stored(secret()), operator);
}

// How a key is shown.

#[track_caller]
fn check_status(current: &StoredKey, limited: bool, actions: &str) {
    let status = status(current, NOW);
    assert_eq!((status.limited_access, status.actions.as_str()), (limited, actions), "{current:?}");
}

#[test]
fn a_key_is_shown_with_what_the_operator_could_do_now() {
    let all = "expire restore reveal rotate update";
    let unseen = "expire restore rotate update";
    for (key, actions) in [
        (secret(), all),
        (restricted(""), all),
        (organization("*"), all),
        (live(secret()), unseen),
        (live(Key { origin: "platform".to_owned(), ..secret() }), all),
        (managed(), unseen),
        (publishable(), "rotate update"),
        (kind("foreign"), "expire"),
        (Key { ends_at: Some(NOW + 1), ..secret() }, all),
        (Key { ends_at: Some(NOW), ..secret() }, ""),
        (Key { ends_at: Some(NOW), created_at: 0, ..secret() }, ""),
    ] {
        check_status(&stored(key), false, actions);
    }
    let replaced = StoredKey { replaced_by: Some("key_9".to_owned()), ..stored(secret()) };
    check_status(&replaced, false, "expire restore reveal update");
    let forgotten = StoredKey { has_secret: false, ..stored(secret()) };
    check_status(&forgotten, false, unseen);
}

/// S69, S70: shown as limited is what the decision limits.
#[test]
fn limited_access_is_shown_as_it_is_decided() {
    for key in [
        secret(),
        restricted("payout_write"),
        managed(),
        live(secret()),
        live(restricted("payout_write")),
        publishable(),
        kind("foreign"),
    ] {
        for age in [0, 180 * DAY, 180 * DAY + 1, 4000 * DAY] {
            for (restored_at, money_moved_at) in
                [(None, None), (Some(NOW - DAY), None), (None, Some(NOW - 180 * DAY))]
            {
                for ends_at in [None, Some(NOW), Some(NOW + 1)] {
                    let created_at = NOW - age;
                    let key =
                        Key { created_at, restored_at, money_moved_at, ends_at, ..key.clone() };
                    let decision = decide(&post("/v1/payouts"), &world(&key));
                    let limited = matches!(
                        decision,
                        Decision::Deny(denial) if denial.code.as_deref() == Some("access_limited")
                    );
                    assert_eq!(
                        status(&stored(key.clone()), NOW).limited_access,
                        limited,
                        "{key:?}"
                    );
                }
            }
        }
    }
}
