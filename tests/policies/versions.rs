//! Which policy is in force, and what it takes to change that.

use serde_json::json;
use wardkey::policies::Activate;

use crate::{
    failing_storage::{Health, Switch},
    *,
};

#[test]
fn a_policy_is_pushed_put_in_force_and_taken_back() {
    let place = Place::start();
    let (one, two) = (honest(ONE), honest(TWO));
    place.in_force(STANDARD_POLICY, None);

    let answer = place.push(&one, 7);
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(
        answer.json(),
        json!({
            "object": "policy",
            "digest": digest(&one),
            "name": "rules",
            "version": "1.7",
            "revision": 7,
            "state": "ready",
            "overlays": [],
            "interfaces": ["authorizer"],
            "size_bytes": one.len(),
            "pushed": "2030-01-01T00:00:00Z",
            "pushed_by": "operator",
            "retired": null,
            "signed": false,
            "signed_by": null,
        })
    );
    // It is kept, and nothing more.
    place.in_force(STANDARD_POLICY, None);
    assert_eq!(place.listed_as("ready"), [digest(&one)]);
    assert_eq!(
        place.ask("GET", &format!("/v2/policies/{}", digest(&one)), "").json(),
        answer.json()
    );

    let answer = place.activate(&digest(&one));
    assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("active")), "{answer:?}");
    place.in_force(&one, Some(ONE));
    assert_eq!(place.host.call("GET", "/v1/charges", place.secret.expose()).status, 200);
    place.comes_back(&one);

    place.pushed(&two, 8);
    assert_eq!(place.activate(&digest(&two)).status, 200);
    place.in_force(&two, Some(TWO));
    assert_eq!(place.listed_as("ready"), [digest(&one), standard().to_owned()]);

    let answer = place.roll_back(None);
    assert_eq!((answer.status, &answer.json()["digest"]), (200, &json!(digest(&one))));
    place.in_force(&one, Some(ONE));
    place.comes_back(&one);
}

#[test]
fn an_older_revision_comes_back_only_as_a_rollback() {
    let place = Place::start();
    let [one, two, three] = [ONE, TWO, THREE].map(honest);
    place.pushed(&one, 1);
    place.pushed(&two, 2);
    place.pushed(&three, 2);
    assert_eq!(place.activate(&digest(&two)).status, 200);
    for older in [&digest(&one), "standard"] {
        refused(&place.activate(older), 409, "conflict", "revision 2 was in force");
        place.in_force(&two, Some(TWO));
        place.comes_back(&two);
    }
    // By its name, or by the digest that it has.
    for (to, bytes, refusal) in [
        (digest(&one), &one[..], Some(ONE)),
        (standard().to_owned(), STANDARD_POLICY, None),
        (digest(&one)[..8].to_owned(), &one[..], Some(ONE)),
        ("standard".to_owned(), STANDARD_POLICY, None),
    ] {
        assert_eq!(place.roll_back(Some(&to)).status, 200, "{to}");
        place.in_force(bytes, refusal);
        place.comes_back(bytes);
    }
    // What was in force once counts, also after a rollback; the same revision
    // is no older one.
    refused(&place.activate(&digest(&one)), 409, "conflict", "revision 2 was in force");
    place.in_force(STANDARD_POLICY, None);
    assert_eq!(place.activate(&digest(&three)).status, 200);
    place.in_force(&three, Some(THREE));
}

/// However often the same one was put in force since.
#[test]
fn a_long_history_changes_nothing() {
    let place = Place::start();
    let [one, two, three] = [ONE, TWO, THREE].map(honest);
    place.pushed(&one, 1);
    place.pushed(&two, 9);
    place.pushed(&three, 2);
    assert_eq!(place.activate(&digest(&one)).status, 200);
    assert_eq!(place.activate(&digest(&two)).status, 200);
    assert_eq!(place.roll_back(None).status, 200);
    assert_eq!(place.activate(&digest(&two)).status, 200);
    place.host.block_on(async {
        for _ in 0..120 {
            let ask = common::by_operator();
            place.host.host.policies().roll_back(ask, Some(&digest(&one))).await.unwrap();
        }
    });
    place.in_force(&one, Some(ONE));
    refused(&place.activate(&digest(&three)), 409, "conflict", "revision 9 was in force");
    let again = place.restarted(None).unwrap();
    let wanted = Activate { policy: digest(&three), ..Activate::default() };
    let refusal = place.host.block_on(again.policies().activate(common::by_operator(), wanted));
    assert!(refusal.unwrap_err().to_string().contains("revision 9"), "after a restart");
    // The second was rolled back from: there is no way forward to it like this.
    assert_eq!(place.roll_back(None).status, 200);
    place.in_force(STANDARD_POLICY, None);
}

#[test]
fn there_is_nothing_to_go_back_to_at_the_start() {
    let place = Place::start();
    refused(&place.roll_back(None), 409, "conflict", "no other policy was in force");
    let one = place.pushed(&honest(ONE), 1);
    refused(&place.roll_back(None), 409, "conflict", "no other policy was in force");
    assert_eq!(place.activate(&one).status, 200);
    // Before the first, the standard policy was.
    assert_eq!(place.roll_back(None).status, 200);
    place.in_force(STANDARD_POLICY, None);
}

#[test]
fn a_retired_policy_never_comes_back() {
    let place = Place::start();
    let (one, two) = (honest(ONE), honest(TWO));
    place.pushed(&one, 1);
    place.pushed(&two, 2);
    assert_eq!(place.activate(&digest(&one)).status, 200);
    refused(&place.retire(&digest(&one)), 409, "conflict", "in force");
    refused(&place.retire("standard"), 409, "conflict", "part of the host");
    // Also where somebody has pushed it.
    assert_eq!(place.push(STANDARD_POLICY, 3).json()["name"], "standard");
    refused(&place.retire(standard()), 409, "conflict", "part of the host");

    assert_eq!(place.activate(&digest(&two)).status, 200);
    let answer = place.retire(&digest(&one));
    assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("retired")));
    place.host.clock.set(common::NOON + 5);
    assert_eq!(place.retire(&digest(&one)).json(), answer.json(), "once is enough");
    assert_eq!(place.listed_as("retired"), [digest(&one)]);

    refused(&place.activate(&digest(&one)), 409, "conflict", "revision 2 was in force");
    refused(&place.roll_back(Some(&digest(&one))), 409, "conflict", "retired");
    // It is what was before, and is passed over.
    assert_eq!(place.roll_back(None).status, 200);
    place.in_force(STANDARD_POLICY, None);
    assert_eq!(place.activate(&digest(&two)).status, 200);
    // And to push it again does not change what was decided.
    let again = place.push(&one, 5);
    assert_eq!((again.status, again.json()), (201, answer.json()));
    place.in_force(&two, Some(TWO));
    place.comes_back(&two);

    let three = place.pushed(&honest(THREE), 3);
    assert_eq!(place.retire(&three).status, 200);
    refused(&place.activate(&three), 409, "conflict", "retired");
}

#[test]
fn a_policy_is_named_by_the_start_of_its_digest() {
    let place = Place::start();
    let one = place.pushed(&honest(ONE), 1);
    for (name, status) in [
        (one.as_str(), 200),
        (&one[..8], 200),
        (&one[..63], 200),
        ("standard", 200),
        (&standard()[..8], 200),
        (&one[..7], 404),
        (&one.to_uppercase()[..8], 404),
        ("Standard", 404),
        ("00000000", 404),
        ("%20", 404),
        ("rules", 404),
    ] {
        let shown = place.ask("GET", &format!("/v2/policies/{name}"), "");
        assert_eq!(shown.status, status, "{name}: {shown:?}");
        if status == 404 {
            for answer in [place.activate(name), place.retire(name), place.roll_back(Some(name))] {
                assert_eq!(answer.status, 404, "{name}: {answer:?}");
            }
        }
    }
    place.in_force(STANDARD_POLICY, None);

    // Two that begin alike, which nobody can make: written into the database.
    let database = rusqlite::Connection::open(place.host.data_dir.database()).unwrap();
    let two = honest(TWO);
    let query = "name=twin&version=1&revision=1";
    assert_eq!(push_to(place.host.admin, &place.host.operator, query, &two).status, 201);
    let digest = Digest::from_hex(&one).unwrap();
    let mut twin = digest.as_bytes().map(|byte| !byte);
    twin[..8].copy_from_slice(&digest.as_bytes()[..8]);
    let sql = "UPDATE policies SET digest = ?1 WHERE name = 'twin'";
    assert_eq!(database.execute(sql, [twin]).unwrap(), 1);
    for answer in [
        place.ask("GET", &format!("/v2/policies/{}", &one[..8]), ""),
        place.activate(&one[..8]),
        place.retire(&one[..8]),
        place.roll_back(Some(&one[..8])),
    ] {
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(says_so(&answer, "several policies"), "{answer:?}");
    }
    assert_eq!(place.activate(&one[..17]).status, 200);
}

#[test]
fn a_damaged_policy_keeps_nobody_from_naming_another() {
    let place = Place::start();
    let one = place.pushed(&honest(ONE), 1);
    let two = place.pushed(&honest(TWO), 2);
    let database = rusqlite::Connection::open(place.host.data_dir.database()).unwrap();
    database.pragma_update(None, "ignore_check_constraints", true).unwrap();
    let sql = "UPDATE policies SET pushed_at = -1 WHERE digest = unhex(?1)";
    assert_eq!(database.execute(sql, [&two]).unwrap(), 1);
    for (name, status) in [(&one[..], 200), (&one[..8], 200), ("standard", 200), (&two, 500)] {
        let shown = place.ask("GET", &format!("/v2/policies/{name}"), "");
        assert_eq!(shown.status, status, "{name}: {shown:?}");
        assert_eq!(place.roll_back(Some(name)).status, status, "{name}");
    }
    assert_eq!(place.host.host.policy().get().digest(), Digest::of_bytes(STANDARD_POLICY));
}

#[test]
fn the_same_bytes_are_one_policy() {
    let place = Place::start();
    let one = honest(ONE);
    let first = place.push(&one, 1);
    place.host.clock.set(common::NOON + 5);
    // What it is called was said when it came.
    assert_eq!(place.push(&one, 2).json(), first.json());
    assert_eq!(place.list().len(), 2);
    // Pushed by several at once.
    let two = honest(TWO);
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let pushes: Vec<_> = (0..4).map(|n| (n, scope.spawn(|| place.push(&two, 3)))).collect();
        pushes.into_iter().map(|(_, push)| push.join().unwrap()).collect()
    });
    for answer in &answers {
        assert_eq!((answer.status, answer.json()), (201, answers[0].json()));
    }
    assert_eq!(place.list().len(), 3);
    // Nor is the standard policy another one.
    assert_eq!(place.push(STANDARD_POLICY, 4).json()["revision"], 0);
    assert_eq!(place.list().len(), 3);
}

#[test]
fn a_push_says_what_it_is() {
    let place = Place::start();
    let one = honest(ONE);
    let long = "x".repeat(101);
    let rows = [
        ("version=1&revision=1", "name"),
        ("name=a&revision=1", "version"),
        ("name=a&version=1", "revision"),
        ("name=&version=1&revision=1", "visible ASCII"),
        (&format!("name={long}&version=1&revision=1"), "1 to 100"),
        ("name=a&version=%0A&revision=1", "visible ASCII"),
        ("name=%C3%A9&version=1&revision=1", "visible ASCII"),
        ("name=a&version=1&revision=-1", "revision"),
        ("name=a&version=1&revision=9223372036854775808", "9223372036854775807"),
        ("name=a&version=1&revision=1&activate=true", "activate"),
    ];
    for (query, says) in rows {
        let answer = push_to(place.host.admin, &place.host.operator, query, &one);
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
        assert!(answer.body.contains(says), "{query}: {answer:?}");
    }
    assert_eq!(place.list().len(), 1);
    let query = "name=a%20b&version=1&revision=9223372036854775807";
    let answer = push_to(place.host.admin, &place.host.operator, query, &one);
    assert_eq!((answer.status, &answer.json()["name"]), (201, &json!("a b")), "{answer:?}");
    assert_eq!(answer.json()["revision"], i64::MAX);
    assert_eq!(place.activate(&digest(&one)).status, 200);
    place.comes_back(&one);
}

#[test]
fn every_action_and_every_refusal_is_in_the_audit_log() {
    let place = Place::start();
    let (one, two) = (honest(ONE), honest(TWO));
    let (first, second) = (digest(&one), digest(&two));
    place.pushed(&one, 1);
    place.pushed(&two, 2);
    place.activate(&first);
    place.activate(&second[..10]);
    place.activate(&first);
    place.roll_back(None);
    place.roll_back(Some("standard"));
    place.roll_back(Some("00000000"));
    place.retire("standard");
    place.retire(&first);
    place.push(b"no component", 3);
    place.ask("GET", "/v2/policies", "");

    let told: Vec<_> = place
        .audit()
        .into_iter()
        .map(|entry| {
            assert_eq!(entry.actor, "operator");
            assert!(entry.request_id.is_some() && entry.source.is_some(), "{entry:?}");
            let active = |side: &Option<Value>| {
                side.as_ref().and_then(|side| Some(side["active"].as_str()?.to_owned()))
            };
            let change = (active(&entry.before), active(&entry.after));
            let refused = entry.refused.unwrap_or_default();
            (entry.action, entry.target.unwrap_or_default(), refused, change)
        })
        .collect();
    let row = |action: &str, target: &str, refused: &str, change: Option<(&str, &str)>| {
        let change = change.map(|(before, after)| (before.to_owned(), after.to_owned()));
        (format!("policy.{action}"), target.to_owned(), refused.to_owned(), change.unzip())
    };
    let garbage = digest(b"no component");
    assert_eq!(
        told,
        [
            row("pushed", &first, "", None),
            row("pushed", &second, "", None),
            row("activated", &first, "", Some((standard(), &first))),
            row("activated", &second, "", Some((&first, &second))),
            row("activated", &first, "conflict", None),
            row("rolled_back", &first, "", Some((&second, &first))),
            row("rolled_back", standard(), "", Some((&first, standard()))),
            row("rolled_back", "00000000", "resource_missing", None),
            row("retired", "standard", "conflict", None),
            row("retired", &first, "", None),
            row("pushed", &garbage, "policy_refused", None),
        ]
    );
}

#[test]
fn a_restart_comes_back_to_what_was_in_force_or_not_at_all() {
    let place = Place::start();
    let (one, two) = (honest(ONE), honest(TWO));
    place.pushed(&one, 1);
    place.pushed(&two, 2);
    place.comes_back(STANDARD_POLICY);
    place.activate(&digest(&one));
    place.activate(&digest(&two));
    place.comes_back(&two);

    let database = rusqlite::Connection::open(place.host.data_dir.database()).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let digest = Digest::from_hex(name).unwrap();
        let (a, b, c, d) = digest.to_words();
        let key = [a, b, c, d].map(u64::to_be_bytes).concat();
        let sql = "UPDATE policies SET bytes = ?2 WHERE digest = ?1";
        assert_eq!(database.execute(sql, (key, bytes)).unwrap(), 1);
    };
    let mut damaged = two.clone();
    *damaged.last_mut().unwrap() ^= 1;
    // A bit of it, or another one that is fine by itself.
    for bytes in [&damaged[..], &one, STANDARD_POLICY, b""] {
        write(&digest(&two), bytes);
        let refusal = place.restarted(None).err().expect("it started");
        assert!(
            refusal.to_string().contains(&digest(&two)) || matches!(refusal, ApiError::Internal(_)),
            "{refusal}"
        );
    }
    // The one in force is in memory, and what is damaged is not put there.
    place.in_force(&two, Some(TWO));
    assert_eq!(place.activate(&digest(&two)).status, 500);
    place.in_force(&two, Some(TWO));
    // A pinned file is the way out, and so is what is not damaged.
    let pinned = place.restarted(Some(&one)).unwrap();
    assert_eq!(pinned.policy().get().digest(), Digest::of_bytes(&one));
    assert_eq!(place.roll_back(None).status, 200);
    place.comes_back(&one);
    write(&digest(&two), &two);
    place.comes_back(&one);
}

/// A client that has lost the answer asks again, and a rollback that is done
/// twice would bring back what it was to take away.
#[test]
fn a_repeated_request_is_done_once() {
    let place = Place::start();
    let (one, two) = (honest(ONE), honest(TWO));
    place.pushed(&one, 1);
    place.pushed(&two, 2);
    place.activate(&digest(&one));
    place.activate(&digest(&two));
    let auth = format!("Bearer {}", place.host.operator);
    let repeated = |path: &str, key: &str| {
        let headers = [("Authorization", auth.as_str()), ("Idempotency-Key", key)];
        common::send_json(place.host.admin, "POST", path, &headers, "")
    };
    let first = repeated("/v2/policies/rollback", "back");
    assert_eq!((first.status, &first.json()["digest"]), (200, &json!(digest(&one))));
    for _ in 0..3 {
        let again = repeated("/v2/policies/rollback", "back");
        assert_eq!((again.status, again.json()), (200, first.json()));
        assert_eq!(again.headers["idempotent-replayed"], "true");
        place.in_force(&one, Some(ONE));
    }
    // Another rollback goes back further, and not forward again.
    assert_eq!(repeated("/v2/policies/rollback", "again").status, 200);
    place.in_force(STANDARD_POLICY, None);
    for (action, name) in [("activate", &two), ("retire", &one)] {
        let path = format!("/v2/policies/{}/{action}", digest(name));
        let (first, again) = (repeated(&path, action), repeated(&path, action));
        assert_eq!((first.status, first.json()), (200, again.json()), "{action}");
        assert_eq!(again.headers["idempotent-replayed"], "true", "{action}");
    }
    assert_eq!(repeated("/v2/policies/rollback", "retire").code(), "idempotency_key_reused");
}

#[test]
fn a_pinned_policy_stays_in_force() {
    let pinned = honest(THREE);
    let policy = Some(pinned.clone());
    let place = Place::start_with(Options { policy, ..Options::default() });
    let one = place.pushed(&honest(ONE), 1);
    refused(&place.activate(&one), 409, "conflict", "started with `--policy`");
    let answer = place.host.call_with("GET", "/v1/charges", &[], "");
    assert_eq!(answer.message(), THREE.1);
    // What is stored can be taken back, for the next start: it may be what keeps
    // a host from starting without a file.
    let answer = place.roll_back(Some(&one));
    assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("ready")));
    let answer = place.host.call_with("GET", "/v1/charges", &[], "");
    assert_eq!(answer.message(), THREE.1);
    place.comes_back(&honest(ONE));
    assert_eq!(place.roll_back(None).status, 200);
    place.comes_back(STANDARD_POLICY);

    // What storage would come back to without the file is not retired.
    let place = Place::start();
    let one = honest(ONE);
    let two = place.pushed(&honest(TWO), 1);
    place.pushed(&one, 1);
    place.activate(&digest(&one));
    let host = place.restarted(Some(&pinned)).unwrap();
    let ask = common::by_operator();
    let refusal = place.host.block_on(host.policies().retire(ask, &digest(&one)));
    assert!(refusal.unwrap_err().to_string().contains("in force"));
    place.host.block_on(host.policies().retire(ask, &two)).unwrap();
    place.comes_back(&one);
}

#[test]
fn only_the_operator_changes_policies() {
    let place = Place::start();
    let one = place.pushed(&honest(ONE), 1);
    let key = place.host.default_secret("secret", Mode::Live);
    let (admin, key) = (place.host.admin, key.expose());
    let before = place.list();
    let two = honest(TWO);
    let path = |action: &str| format!("/v2/policies/{one}{action}");
    for credential in [key, "nonsense", ""] {
        let push = push_to(admin, credential, "name=a&version=1&revision=1", &two);
        let ask = |method, path: &str| ask_at(admin, credential, method, path, "");
        for answer in [
            push,
            ask("GET", "/v2/policies"),
            ask("GET", &path("")),
            ask("POST", &path("/activate")),
            ask("POST", &path("/retire")),
            ask("POST", "/v2/policies/rollback"),
        ] {
            refused(&answer, 401, "operator_required", "");
            assert!(!answer.body.contains(&one), "{answer:?}");
        }
    }
    assert_eq!(place.list(), before);
    place.in_force(STANDARD_POLICY, None);
}

#[test]
fn storage_that_fails_leaves_the_old_policy_in_force() {
    let switch = Switch::new();
    let before = switch.clone();
    let wrap = Box::new(move |inner| before.wrap(inner));
    let place = Place::start_with(Options { wrap, ..Options::default() });
    let (one, two) = (honest(ONE), honest(TWO));
    place.pushed(&one, 1);
    place.pushed(&two, 2);
    assert_eq!(place.activate(&digest(&one)).status, 200);
    let known = place.host.call("GET", "/v1/charges", place.secret.expose());
    assert_eq!(known.status, 200);

    switch.set(Health::Failing);
    for answer in [
        place.activate(&digest(&two)),
        place.roll_back(None),
        place.roll_back(Some("standard")),
        place.retire(&digest(&two)),
        place.push(&honest(THREE), 3),
    ] {
        refused(&answer, 503, "unavailable", "");
        assert_eq!(place.host.host.policy().get().digest(), Digest::of_bytes(&one));
    }
    switch.set(Health::Well);
    place.in_force(&one, Some(ONE));
    place.comes_back(&one);

    // Each of the operations in the middle of it fails, one after the other.
    let mut failed = 0;
    for healthy in 0.. {
        switch.fail_after(healthy);
        let answer = place.activate(&digest(&two));
        switch.set(Health::Well);
        if answer.status == 200 {
            break;
        }
        refused(&answer, 503, "unavailable", "");
        place.in_force(&one, Some(ONE));
        place.comes_back(&one);
        failed += 1;
    }
    println!("{failed} operations of storage in an activation");
    assert!(failed >= 3, "only {failed} operations of storage failed");
    place.in_force(&two, Some(TWO));
    place.comes_back(&two);
}
