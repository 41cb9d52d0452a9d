//! What is due and cannot be done: rotations that the policy in force refuses, and
//! whatever there is to be done with keys that are damaged.

use std::sync::Arc;

use rusqlite::Connection;
use serde_json::{Value, json};
use wardkey::{
    audit::AuditKey,
    secret::Digest,
    storage::{AuditEntry, Change, KeyRecord, RotationSchedule},
    worker::Seen,
};

use super::{
    DAY, Life, MINUTE,
    common::engine,
    guest::{
        ABOUT_KEYS, ANSWER, Guest, answer, component, denial, deny, honest, store, store_text,
        with_contract,
    },
    time,
};

const HOUR: u64 = 60 * MINUTE;

/// More keys than the host sees to in one go.
const MORE_THAN_A_BATCH: usize = 60;

/// A code that the bad policy refuses with.
const NO: &str = "x-name";

/// Puts a policy in force that lets in whoever the standard policy does, and does
/// what these functions of `lifecycle` say, with anything else that is done to keys
/// a trap.
fn put_in_force(life: &Life, functions: &[(&str, String)]) {
    // Zeros: everything may be seen, nothing is limited.
    let zeros = || format!("(i32.const {})", ANSWER + 512);
    let about_keys: String = ABOUT_KEYS
        .iter()
        .map(|&name| {
            let own = functions.iter().find(|(function, _)| *function == name);
            let body = match own {
                Some((_, body)) => body.clone(),
                None if ["visible", "describe"].contains(&name) => zeros(),
                None => "unreachable".to_owned(),
            };
            format!(
                r#"(func (export "wardkey:policy/lifecycle@0.1.0#{name}")
                    (param $asked i32) (result i32) {body})"#
            )
        })
        .collect();
    let default_keys = r#"(func (export "wardkey:policy/lifecycle@0.1.0#default-keys")
        (param i32 i32 i64) (result i32) unreachable)"#;
    let policy = Guest { more: about_keys + default_keys, ..Guest::new(honest()) };
    let contract = |resolve: &mut _| {
        with_contract(resolve, include_str!("../../wit/lifecycle.wit"));
    };
    let policy = engine().load(&component(&policy.module(), contract, "mine")).unwrap();
    life.host.host.policy().activate(Arc::new(policy));
}

/// Returns what refuses a rotation with this code.
fn refuse(code: Option<&str>) -> String {
    // A plan has numbers of eight bytes in it, and so the denial in its place
    // begins four bytes later than that of a request.
    const LATER: u32 = 4;
    let code = code
        .map(|code| store(denial::CODE + LATER, 1) + &store_text(denial::CODE + LATER + 4, code));
    store(0, 1)
        + &store(denial::CLASS + LATER, 2)
        + &code.unwrap_or_default()
        + &store_text(denial::MESSAGE + LATER, "no")
        + &answer()
}

/// Puts a policy in force that refuses every rotation, with this code.
fn put_bad_policy_in_force(life: &Life, code: Option<&str>) {
    put_in_force(life, &[("rotate", refuse(code))]);
}

fn put_standard_policy_in_force(life: &Life) {
    let policy = life.host.host.policy();
    policy.activate(policy.standard());
}

fn seen(life: &Life) -> Seen {
    life.host.block_on(life.host.host.run_due()).unwrap()
}

/// Returns what the audit log says of a key.
fn audit_of(life: &Life, id: &str) -> Vec<AuditEntry> {
    let mut entries = life.host.block_on(life.audit());
    entries.retain(|entry| entry.target.as_deref() == Some(id));
    entries
}

/// Stores a key as no route would let it become.
fn tamper(life: &Life, key: KeyRecord) {
    let change = Change { changed_keys: vec![key], ..Change::default() };
    let stored = life.host.storage.commit(change, Arc::new(AuditKey::generate()));
    life.host.block_on(stored).unwrap();
}

/// Stores so many keys that are like one but for what `change` makes of them.
fn store_like(life: &Life, like: &KeyRecord, count: usize, change: fn(usize, &mut KeyRecord)) {
    let new_keys = (0..count).map(|number| {
        let id = format!("key_like{number}");
        let mut key = KeyRecord { digest: Digest::of(&id), id, ..like.clone() };
        change(number, &mut key);
        key
    });
    let change = Change { new_keys: new_keys.collect(), ..Change::default() };
    let stored = life.host.storage.commit(change, Arc::new(AuditKey::generate()));
    life.host.block_on(stored).unwrap();
}

/// Opens the database under the host.
fn intrude(life: &Life) -> Connection {
    Connection::open(life.host.data_dir.database()).unwrap()
}

/// Makes a key that is rotated at this time.
#[track_caller]
fn scheduled(life: &Life, at: u64) -> super::Made {
    let made = life.make_kind("secret", true);
    life.check_key(&made.id, "schedule_rotation", json!({ "at": time(at) }), "200");
    made
}

#[test]
fn a_rotation_that_the_policy_refuses_happens_once_another_policy_allows_it() {
    let life = Life::start();
    let key = life.make_kind("secret", true);
    let at = life.host.clock.now() + 3 * DAY;
    let wanted = json!({ "at": time(at), "every_days": 90, "expire_current_key_in_minutes": 1440 });
    life.check_key(&key.id, "schedule_rotation", wanted, "200");
    let (before, told) = (life.stored(&key.id), audit_of(&life, &key.id).len());
    put_bad_policy_in_force(&life, Some(NO));

    // When, and how often it was tried by then.
    let rows = [
        (at - 1, 0),
        (at, 1),
        (at, 1),
        (at + 1, 1),
        (at + HOUR - 1, 1),
        (at + HOUR, 2),
        (at + HOUR, 2),
        // A host that was away does not make up for what it missed.
        (at + 50 * HOUR, 3),
        (at + 50 * HOUR + 1, 3),
    ];
    let (mut next, mut tries) = (at, 0);
    for (now, expected) in rows {
        let last = next;
        life.wait_until(now);
        if expected > tries {
            next = now + HOUR;
            tries = expected;
            let entry = life.last_audit();
            assert_eq!((&*entry.actor, &*entry.action), ("platform", "api_key.rotated"));
            assert_eq!(
                (entry.target.as_deref(), entry.refused.as_deref()),
                (Some(&*key.id), Some(NO))
            );
            let fields = |at: u64, revision: u64| {
                let rotation = json!({ "at": time(at), "every_days": 90,
                    "expire_current_key_in_minutes": 1440 });
                Some(json!({ "rotation": rotation, "revision": revision }))
            };
            let revision = before.revision + tries;
            assert_eq!(entry.before, fields(last, revision - 1), "{now}");
            assert_eq!(entry.after, fields(next, revision), "{now}");
        }
        assert_eq!(audit_of(&life, &key.id).len(), told + usize::try_from(tries).unwrap(), "{now}");
        // Nothing but the schedule is another.
        let rotation = before.rotation.clone().map(|one| RotationSchedule { at: next, ..one });
        let revision = before.revision + tries;
        assert_eq!(life.stored(&key.id), KeyRecord { rotation, revision, ..before.clone() });
        let shown = life.show(&key.id);
        assert_eq!(shown["rotation"]["at"], time(next), "{now}");
        assert_eq!((&shown["status"], &shown["replaced_by"]), (&json!("active"), &Value::Null));
        assert_eq!(life.used(&key.secret), "200", "{now}");
    }

    put_standard_policy_in_force(&life);
    life.wait_until(next - 1);
    assert_eq!(life.show(&key.id)["replaced_by"], Value::Null);
    life.wait_until(next);
    let old = life.stored(&key.id);
    assert_eq!((old.ends_at, old.rotation), (Some(next + DAY), None));
    let new = life.stored(&old.replaced_by.unwrap());
    assert_eq!(
        new.rotation,
        before.rotation.map(|one| RotationSchedule { at: next + 90 * DAY, ..one })
    );
    let done = audit_of(&life, &key.id).pop().unwrap();
    assert_eq!((&*done.action, done.refused), ("api_key.rotated", None));
}

#[test]
fn a_refusal_without_a_code_is_told_as_a_refusal() {
    let life = Life::start();
    for (code, expected) in [(Some(NO), NO), (None, "refused")] {
        let at = life.host.clock.now() + DAY;
        put_standard_policy_in_force(&life);
        let key = scheduled(&life, at);
        put_bad_policy_in_force(&life, code);
        life.wait_until(at);
        let entry = audit_of(&life, &key.id).pop().unwrap();
        assert_eq!((&*entry.action, entry.refused.as_deref()), ("api_key.rotated", Some(expected)));
        assert_eq!(life.stored(&key.id).replaced_by, None);
    }
}

#[test]
fn refused_rotations_keep_nobody_from_their_turn() {
    let life = Life::start();
    let at = life.host.clock.now() + DAY;
    // What the standard policy refuses for ever, and by which code.
    type Damage = fn(KeyRecord) -> KeyRecord;
    let kind: Damage = |key| KeyRecord { kind: "of another policy".to_owned(), ..key };
    let overlap: Damage = |key| {
        let rotation = key
            .rotation
            .map(|one| RotationSchedule { expire_current_in_minutes: 8 * 24 * 60, ..one });
        KeyRecord { rotation, ..key }
    };
    let rows = [(kind, "key_kind_unknown"), (overlap, "parameter_invalid")];
    let mut refused = Vec::new();
    for (damage, code) in rows {
        for _ in 0..MORE_THAN_A_BATCH / 2 {
            let key = scheduled(&life, at);
            tamper(&life, damage(life.stored(&key.id)));
            refused.push((key.id, code));
        }
    }
    let good = scheduled(&life, at + 1);
    let count = life.state().keys.len();

    life.host.clock.set(at + 1);
    assert_eq!(seen(&life), Seen { rotations: refused.len() + 1, ..Seen::default() });
    assert!(life.stored(&good.id).replaced_by.is_some(), "it had to wait for the others");
    assert_eq!(life.state().keys.len(), count + 1, "one of the others was rotated");
    for (id, code) in &refused {
        let key = life.stored(id);
        assert_eq!(key.rotation.map(|rotation| rotation.at), Some(at + 1 + HOUR), "{code}");
        let entry = audit_of(&life, id).pop().unwrap();
        assert_eq!(entry.refused.as_deref(), Some(*code));
    }
    assert_eq!(seen(&life), Seen::default(), "nothing is tried again at once");
}

#[test]
fn of_many_that_see_to_a_refused_rotation_one_puts_it_off() {
    let life = Life::start();
    let at = life.host.clock.now() + DAY;
    let key = scheduled(&life, at);
    let told = audit_of(&life, &key.id).len();
    put_bad_policy_in_force(&life, Some(NO));
    life.host.clock.set(at);
    // As hosts that share a database do: each has found it due before one was done.
    let host = &life.host.host;
    let (a, b, c) =
        life.host.block_on(async { tokio::join!(host.run_due(), host.run_due(), host.run_due()) });
    for seen in [a, b, c] {
        seen.unwrap();
    }
    assert_eq!(audit_of(&life, &key.id).len(), told + 1);
    assert_eq!(life.stored(&key.id).rotation.map(|rotation| rotation.at), Some(at + HOUR));
}

#[test]
fn what_was_put_off_is_as_any_schedule() {
    let life = Life::start();
    // What is done with a key whose rotation was put off, and for when one is
    // scheduled then, in hours from when it was first due.
    type Act = fn(&Life, &str, u64);
    let rows: [(&str, Act, Option<u64>); 4] = [
        (
            "cancel",
            |life, id, _| drop(life.check_key(id, "cancel_rotation", Value::Null, "200")),
            None,
        ),
        ("expire", |life, id, _| drop(life.check_key(id, "expire", Value::Null, "200")), None),
        (
            "schedule",
            |life, id, at| {
                let at = json!({ "at": time(at + 5 * HOUR) });
                life.check_key(id, "schedule_rotation", at, "200");
            },
            Some(5),
        ),
        // The key ends before the next try.
        ("wait", |life, _, at| life.wait_until(at + HOUR / 2), None),
    ];
    for (name, act, expected) in rows {
        let at = life.host.clock.now() + DAY;
        let ends = (name == "wait").then(|| time(at + HOUR / 2));
        let key = life.make(json!({ "kind": "secret", "livemode": true, "expires_at": ends }));
        life.check_key(&key.id, "schedule_rotation", json!({ "at": time(at) }), "200");
        put_bad_policy_in_force(&life, Some(NO));
        life.wait_until(at);
        let put_off = life.stored(&key.id).rotation.map(|rotation| rotation.at);
        assert_eq!(put_off, Some(at + HOUR), "{name}");
        put_standard_policy_in_force(&life);
        act(&life, &key.id, at);
        let rotation = life.stored(&key.id).rotation.map(|rotation| rotation.at);
        assert_eq!(rotation, expected.map(|hours| at + hours * HOUR), "{name}");
        let (count, told) = (life.state().keys.len(), audit_of(&life, &key.id).len());
        life.wait_until(at + 5 * HOUR - 1);
        assert_eq!(life.state().keys.len(), count, "{name}: it was rotated");
        assert_eq!(audit_of(&life, &key.id).len(), told, "{name}: it was tried");
        life.wait_until(at + 5 * HOUR);
        let is_rotated = life.stored(&key.id).replaced_by.is_some();
        assert_eq!(is_rotated, expected.is_some(), "{name}");
    }
}

#[test]
fn damaged_keys_keep_no_others_from_their_turn() {
    let life = Life::start();
    let now = life.host.clock.now();
    let (at, ends) = (now + DAY, now + 2 * DAY);
    let damaged = scheduled(&life, at - 1);
    let with_end = json!({ "kind": "secret", "livemode": true, "expires_at": time(ends) });
    let (ending, rotated) = (life.make(with_end), scheduled(&life, at));
    // As many as that one whose rotation is due first, and whose end is.
    let like = KeyRecord { ends_at: Some(ends - 1), ..life.stored(&damaged.id) };
    store_like(&life, &like, 2 * MORE_THAN_A_BATCH, |number, key| {
        let has_end = number % 2 == 0;
        key.ends_at.take_if(|_| !has_end);
        key.rotation.take_if(|_| has_end);
    });
    let database = intrude(&life);
    database.pragma_update(None, "ignore_check_constraints", true).unwrap();
    let damage = |mode: &str| {
        let sql = "UPDATE keys SET mode = ?1 WHERE id LIKE 'key_like%' OR id = ?2";
        assert_eq!(database.execute(sql, [mode, &damaged.id]).unwrap(), 2 * MORE_THAN_A_BATCH + 1);
    };
    damage("prod");
    let untouched = || -> i64 {
        let sql = "SELECT count(*) FROM keys WHERE mode = 'prod' AND end_noted = 0 \
            AND replaced_by IS NULL AND (rotate_at IS NOT NULL OR ends_at IS NOT NULL)";
        database.query_row(sql, [], |row| row.get(0)).unwrap()
    };

    life.host.clock.set(ends);
    let failed = 2 * MORE_THAN_A_BATCH + 1;
    assert_eq!(seen(&life), Seen { rotations: 1, ends: 1, failed });
    assert!(life.stored(&ending.id).end_noted);
    assert!(life.stored(&rotated.id).replaced_by.is_some());
    assert_eq!(usize::try_from(untouched()), Ok(2 * MORE_THAN_A_BATCH + 1));
    // What keeps nobody from their turn there lets nobody in here.
    assert_eq!(life.used(&damaged.secret), "500 internal");
    assert_eq!(seen(&life), Seen { failed, ..Seen::default() });

    // Mended, they have their turn.
    damage("live");
    let (rotations, ends) = (MORE_THAN_A_BATCH + 1, MORE_THAN_A_BATCH);
    assert_eq!(seen(&life), Seen { rotations, ends, failed: 0 });
    assert!(life.stored(&damaged.id).replaced_by.is_some());
}

/// What keys are called with which nothing can be done.
const FAILING: &str = "a key that fails";

#[test]
fn keys_that_a_policy_fails_on_keep_no_others_from_their_turn() {
    let life = Life::start();
    let at = life.host.clock.now() + DAY;
    let good = scheduled(&life, at);
    let like = life.stored(&good.id);
    store_like(&life, &like, MORE_THAN_A_BATCH, |_, key| {
        key.name = FAILING.to_owned();
        key.rotation.iter_mut().for_each(|rotation| rotation.at -= 1);
    });
    // Where the length of the key's name is in what is asked: behind the caller.
    const NAME_LEN: u32 = 268;
    let trap = format!(
        "(if (i32.eq (i32.load offset={NAME_LEN} (local.get $asked)) (i32.const {})) \
         (then unreachable))",
        FAILING.len()
    );
    put_in_force(&life, &[("rotate", trap + &refuse(Some(NO)))]);

    let failed = MORE_THAN_A_BATCH;
    life.host.clock.set(at);
    // The good one is refused by a policy that does answer: this is its turn.
    assert_eq!(seen(&life), Seen { rotations: 1, failed, ends: 0 });
    assert_eq!(life.stored(&good.id).rotation.map(|rotation| rotation.at), Some(at + HOUR));
    assert_eq!(seen(&life), Seen { failed, ..Seen::default() });
    life.host.clock.set(at + HOUR);
    assert_eq!(seen(&life), Seen { rotations: 1, failed, ends: 0 });

    put_standard_policy_in_force(&life);
    life.host.clock.set(at + 2 * HOUR);
    assert_eq!(seen(&life), Seen { rotations: MORE_THAN_A_BATCH + 1, ..Seen::default() });
    assert!(life.stored(&good.id).replaced_by.is_some());
    assert_eq!(seen(&life), Seen::default());
}

#[test]
fn keys_that_storage_does_not_change_keep_no_others_from_their_turn() {
    let life = Life::start();
    let (at, ends) = (life.host.clock.now() + DAY, life.host.clock.now() + 2 * DAY);
    let with_end = json!({ "kind": "secret", "livemode": true, "expires_at": time(ends) });
    let (ending, rotated) = (life.make(with_end), scheduled(&life, at));
    let like = KeyRecord { ends_at: Some(ends - 1), ..life.stored(&rotated.id) };
    store_like(&life, &like, 2 * MORE_THAN_A_BATCH, |number, key| {
        let has_end = number % 2 == 0;
        key.name = FAILING.to_owned();
        key.ends_at.take_if(|_| !has_end);
        key.rotation.take_if(|_| has_end);
        key.rotation.iter_mut().for_each(|rotation| rotation.at -= 1);
    });
    let database = intrude(&life);
    let guard = format!(
        "CREATE TRIGGER failing BEFORE UPDATE ON keys WHEN OLD.name = '{FAILING}' \
         BEGIN SELECT RAISE(ABORT, 'a bad block'); END"
    );
    database.execute_batch(&guard).unwrap();

    let failed = 2 * MORE_THAN_A_BATCH;
    life.host.clock.set(ends);
    assert_eq!(seen(&life), Seen { rotations: 1, ends: 1, failed });
    assert!(life.stored(&ending.id).end_noted);
    assert!(life.stored(&rotated.id).replaced_by.is_some());
    assert_eq!(seen(&life), Seen { failed, ..Seen::default() });

    database.execute_batch("DROP TRIGGER failing").unwrap();
    let (rotations, ends) = (MORE_THAN_A_BATCH, MORE_THAN_A_BATCH);
    assert_eq!(seen(&life), Seen { rotations, ends, failed: 0 });
    assert_eq!(seen(&life), Seen::default());
}

#[test]
fn a_replacement_that_is_due_at_once_has_its_turn_in_the_next_look() {
    let life = Life::start();
    let at = life.host.clock.now() + DAY;
    let like = life.stored(&scheduled(&life, at).id);
    store_like(&life, &like, MORE_THAN_A_BATCH - 1, |_, _| {});
    // As if the policy had planned that; up to a number of keys, so that a look
    // without end has one here.
    let plan = format!(
        "CREATE TRIGGER plan AFTER INSERT ON keys \
         WHEN NEW.replaces IS NOT NULL AND (SELECT count(*) FROM keys) < 1000 BEGIN \
         UPDATE keys SET rotate_at = {}, rotate_overlap_minutes = 0 WHERE id = NEW.id; END",
        at + 1
    );
    intrude(&life).execute_batch(&plan).unwrap();
    life.host.clock.set(at + 1);
    for look in 0..3 {
        let expected = Seen { rotations: MORE_THAN_A_BATCH, ..Seen::default() };
        assert_eq!(seen(&life), expected, "{look}");
    }
}

#[test]
fn a_scheduled_rotation_does_not_hang_on_what_may_be_seen() {
    let life = Life::start();
    for visible in [deny(), "unreachable".to_owned()] {
        let at = life.host.clock.now() + DAY;
        put_standard_policy_in_force(&life);
        let key = scheduled(&life, at);
        put_in_force(&life, &[("rotate", refuse(Some(NO))), ("visible", visible.clone())]);
        life.host.clock.set(at);
        assert_eq!(seen(&life).failed, 0, "{visible}");
        let put_off = life.stored(&key.id).rotation.map(|rotation| rotation.at);
        assert_eq!(put_off, Some(at + HOUR), "{visible}");
    }
}
