//! Policies that decide for a share.

use std::collections::BTreeSet;

use serde_json::json;
use wardkey::keys::CreateKey;

use crate::*;

const KEYS: usize = 60;

/// A host with many accounts, each with two keys.
struct Many {
    place: Place,
    /// For each account its keys' secrets.
    accounts: Vec<[Secret; 2]>,
}

impl Many {
    fn start() -> Self {
        let place = Place::start();
        let accounts = (0..KEYS / 2).map(|number| {
            let account = place.host.make_account(common::account_named(&format!("a{number}")));
            [0, 1].map(|_| {
                let wanted = CreateKey {
                    kind: "restricted".to_owned(),
                    account: Some(account.clone()),
                    ..CreateKey::default()
                };
                place.host.key_with(wanted).1
            })
        });
        let accounts = accounts.collect();
        Self { place, accounts }
    }

    fn canary(&self, digest: &str, percent: f64, by: &str) -> Answer {
        let body = json!({ "percent": percent, "by": by }).to_string();
        self.place.ask("POST", &format!("/v2/policies/{digest}/canary"), &body)
    }

    fn end(&self) -> Answer {
        self.place.ask("POST", "/v2/policies/canary/end", "")
    }

    /// Tells whether the canary decides about this key. Both refuse what it asks.
    fn is_canary(&self, secret: &Secret) -> bool {
        let answer = self.place.host.call("GET", "/v1/charges", secret.expose());
        match answer.code().as_str() {
            "more_permissions_required" => false,
            "x-name" => true,
            _ => panic!("{answer:?}"),
        }
    }

    /// Returns the places of the keys that the canary decides about.
    fn decided(&self) -> BTreeSet<usize> {
        let keys = self.accounts.iter().flatten().enumerate();
        keys.filter(|(_, secret)| self.is_canary(secret)).map(|(place, _)| place).collect()
    }
}

/// A policy that refuses every key with words of its own.
fn refusing_all() -> Vec<u8> {
    let refusal = refuse(ONE);
    Guest::new(refusal).build()
}

#[test]
fn a_canary_decides_for_a_share_that_only_grows() {
    let many = Many::start();
    let canary = many.place.pushed(&refusing_all(), 1);
    let mut before = BTreeSet::new();
    for (percent, at_least, at_most) in [(10.0, 0, 20), (50.0, 12, 48), (90.0, 40, 60)] {
        let answer = many.canary(&canary, percent, "key");
        assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("canary")), "{answer:?}");
        let decided = many.decided();
        assert!((at_least..=at_most).contains(&decided.len()), "{percent}: {}", decided.len());
        assert!(before.is_subset(&decided), "{percent}: somebody was taken out again");
        // The same ones the next time, and after a restart.
        assert_eq!(many.decided(), decided);
        let share = many.place.restarted(None).unwrap().policy().in_force().canary.clone().unwrap();
        assert_eq!((share.share.percent(), share.by.as_str()), (percent, "key"));
        before = decided;
    }
    // Whoever has no key that there is belongs to no share.
    many.canary(&canary, 100.0, "key");
    assert_eq!(many.decided().len(), KEYS);
    assert_eq!(many.place.host.call_with("GET", "/v1/charges", &[], "").status, 401);
    let stranger = Secret::generate(None, "sk_test_");
    assert_eq!(many.place.host.call("GET", "/v1/charges", stranger.expose()).status, 401);
    // Lowered again, those are left that were there before.
    many.canary(&canary, 50.0, "key");
    assert!(many.decided().len() < KEYS);
    assert_eq!(many.end().status, 200);
    assert_eq!(many.decided(), BTreeSet::new());
    refused(&many.end(), 409, "conflict", "there is no canary");
    let actions: Vec<String> =
        many.place.audit().into_iter().map(|entry| entry.action).skip(1).collect();
    let mut expected = vec!["policy.canary"; 5];
    expected.extend(["policy.canary_ended", "policy.canary_ended"]);
    assert_eq!(actions, expected);
}

#[test]
fn all_keys_of_an_account_are_decided_by_the_same() {
    let many = Many::start();
    let canary = many.place.pushed(&refusing_all(), 1);
    assert_eq!(many.canary(&canary, 50.0, "account").status, 200);
    let decided = many.decided();
    for account in 0..many.accounts.len() {
        let [one, other] = [0, 1].map(|key| decided.contains(&(2 * account + key)));
        assert_eq!(one, other, "account {account}");
    }
    assert!((4..=56).contains(&decided.len()), "{}", decided.len());
    // Which ones is another matter for another policy.
    let other = many.place.pushed(&Guest::new(refuse(ONE) + "(drop (i32.const 1))").build(), 1);
    assert_eq!(many.canary(&other, 50.0, "account").status, 200);
    assert_ne!(many.decided(), decided);
}

#[test]
fn a_canary_ends_with_what_takes_its_place() {
    let many = Many::start();
    let canary = many.place.pushed(&refusing_all(), 1);
    let canary_of = |percent| assert_eq!(many.canary(&canary, percent, "key").status, 200);
    let in_force = || many.place.ask("GET", "/v2/policies/in_force", "").json();

    // Gone back from.
    canary_of(100.0);
    assert_eq!(in_force()["canary"]["policy"], canary);
    let back = many.place.roll_back(None);
    assert_eq!((back.status, &back.json()["name"]), (200, &json!("standard")));
    assert_eq!((many.decided().len(), &in_force()["canary"]), (0, &json!(null)));
    // Put in force for all.
    canary_of(10.0);
    assert_eq!(many.place.activate(&canary).status, 200);
    assert_eq!((many.decided().len(), &in_force()["canary"]), (KEYS, &json!(null)));
    refused(&many.canary(&canary, 10.0, "key"), 409, "conflict", "in force for everybody");
    // Another put in force for all.
    assert_eq!(many.canary("standard", 100.0, "key").status, 409, "its revision is lower");
    assert_eq!(many.place.roll_back(Some("standard")).status, 200);
    canary_of(100.0);
    let other = many.place.pushed(&honest(TWO), 1);
    assert_eq!(many.place.activate(&other).status, 200);
    assert_eq!(in_force()["canary"], json!(null));
    // What decides for a share is in force.
    canary_of(1.0);
    refused(&many.place.retire(&canary), 409, "conflict", "in force");
}

#[test]
fn a_share_that_is_none_is_refused() {
    let many = Many::start();
    let canary = many.place.pushed(&refusing_all(), 1);
    for body in [
        json!({ "percent": 0 }),
        json!({ "percent": -1 }),
        json!({ "percent": 100.01 }),
        json!({ "percent": 0.001 }),
    ] {
        let path = format!("/v2/policies/{canary}/canary");
        let answer = many.place.ask("POST", &path, &body.to_string());
        refused(&answer, 400, "parameter_invalid", "0.01 to 100");
        assert_eq!(answer.json()["error"]["param"], "percent");
    }
    assert_eq!(many.decided(), BTreeSet::new());
}

/// The keys of the share are decided by the canary, and managed by the rules of all
/// others.
#[test]
fn the_life_of_keys_is_not_the_canarys() {
    let many = Many::start();
    let canary = many.place.pushed(&refusing_all(), 1);
    assert_eq!(many.canary(&canary, 100.0, "key").status, 200);
    let (key, _) = many.place.host.key("restricted", &["charge_read"]);
    assert_eq!(key.permissions, "charge_read");
    let status = many.place.ask("GET", "/v2/policies/in_force", "").json();
    assert_eq!(status["canary"]["decisions"], json!({ "allowed": 0, "denied": 0, "failed": 0 }));
    many.decided();
    let status = many.place.ask("GET", "/v2/policies/in_force", "").json();
    let counted = json!({ "allowed": 0, "denied": KEYS, "failed": 0 });
    assert_eq!(
        (&status["canary"]["decisions"], &status["decisions"]["denied"]),
        (&counted, &json!(0))
    );
}
