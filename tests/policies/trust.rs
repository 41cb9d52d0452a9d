//! What the operator demands of policies, and that nothing in the database
//! overrules it.

use rusqlite::{Connection, params};
use serde_json::json;
use wardkey::{
    policies::{Activate, PushPolicy},
    trust::{PolicyKey, PolicySigner, Signed},
};

use crate::*;

fn trusting(keys: &[PolicyKey]) -> Trust {
    Trust { keys: keys.to_vec(), ..Trust::default() }
}

/// Signs a component as `rules`.
fn sign(signer: &PolicySigner, bytes: &[u8], revision: u64) -> Signed {
    signer.sign(Digest::of_bytes(bytes), "rules", revision)
}

fn wanted(policy: &str) -> Activate {
    Activate { policy: policy.to_owned(), ..Activate::default() }
}

/// Returns the query that pushes what was signed.
fn query_of(signed: &Signed) -> String {
    let Signed { name, revision, signature, .. } = signed;
    format!("name={name}&version=1&revision={revision}&signature={signature}")
}

impl Place {
    fn start_trusting(keys: &[PolicyKey]) -> Self {
        Self::start_with(Options { trust: trusting(keys), ..Options::default() })
    }

    fn push_as(&self, query: &str, bytes: &[u8]) -> Answer {
        self.host.push_policy_as(&self.host.operator, query, bytes)
    }

    /// Pushes a policy with its signature, and returns its digest.
    #[track_caller]
    fn pushed_signed(&self, signed: &Signed, bytes: &[u8]) -> String {
        let answer = self.push_as(&query_of(signed), bytes);
        assert_eq!(answer.status, 201, "{answer:?}");
        digest(bytes)
    }

    fn database(&self) -> Connection {
        let database = Connection::open(self.host.data_dir.database()).unwrap();
        // Whoever changes it by hand is not kept from anything.
        database.pragma_update(None, "foreign_keys", false).unwrap();
        database
    }

    /// Checks that a host does not start, and what it says.
    #[track_caller]
    fn does_not_start(&self, policy: Option<&[u8]>, trust: Trust, code: &str, says: &str) {
        let refusal = self.restarted_with(policy, trust).err().expect("it started");
        assert_eq!(refusal.refusal().as_deref(), Some(code), "{refusal}");
        let text = refusal.to_string();
        assert!(text.contains(says), "`{says}` is not in: {text}");
        // And the way out.
        assert!(text.contains("`--policy FILE.wasm`") && text.contains("rollback"), "{text}");
    }
}

#[test]
fn what_is_not_signed_is_refused_before_it_is_parsed() {
    let (us, them) = (PolicySigner::generate(), PolicySigner::generate());
    let place = Place::start_trusting(&[us.key()]);
    let (one, two) = (honest(ONE), honest(TWO));
    let garbage = b"no component".to_vec();
    let half = one[..one.len() / 2].to_vec();
    let signed = sign(&us, &one, 7);
    let good = signed.signature;
    let theirs = sign(&them, &one, 7).signature;
    let with = |name: &str, revision: u64, signature: &dyn std::fmt::Display| {
        format!("name={name}&version=1&revision={revision}&signature={signature}")
    };
    let unsigned = "name=rules&version=1&revision=7".to_owned();
    let (required, invalid) = ("signature_required", "signature_invalid");
    for (what, query, bytes, code) in [
        ("no signature", unsigned.clone(), &one, required),
        ("another's key", with("rules", 7, &theirs), &one, invalid),
        ("another name", with("Rules", 7, &good), &one, invalid),
        ("a higher revision", with("rules", 8, &good), &one, invalid),
        ("a lower revision", with("rules", 6, &good), &one, invalid),
        ("another component", with("rules", 7, &good), &two, invalid),
        // These would be refused for what they are, if anybody looked.
        ("half of it", with("rules", 7, &good), &half, invalid),
        ("no component", with("rules", 7, &good), &garbage, invalid),
        ("no component and no signature", unsigned, &garbage, required),
        ("nothing", with("rules", 7, &good), &Vec::new(), invalid),
    ] {
        let before = place.audit().len();
        refused(&place.push_as(&query, bytes), 403, code, "`--policy-key`");
        let told = place.audit();
        let last = told.last().unwrap();
        assert_eq!((told.len(), last.action.as_str()), (before + 1, "policy.pushed"), "{what}");
        assert_eq!(last.refused.as_deref(), Some(code), "{what}");
        assert_eq!(last.target.as_deref(), Some(digest(bytes).as_str()), "{what}");
        assert_eq!(place.list().len(), 1, "{what}: it was kept");
    }
    place.in_force(STANDARD_POLICY, None);
    // What is no signature at all is a mistake in the request.
    for text in ["", "abc", &good.to_string().to_uppercase(), &format!("{good}00")] {
        let answer = place.push_as(&with("rules", 7, &text), &one);
        refused(&answer, 400, "parameter_invalid", "128 lower-case");
        assert_eq!(answer.json()["error"]["param"], "signature", "{answer:?}");
    }
    // A signature says by whom it is, and not that it is any good.
    let answer = place.push_as(&query_of(&sign(&us, &garbage, 7)), &garbage);
    refused(&answer, 400, "policy_refused", "no valid component");
    assert_eq!(place.list().len(), 1);
    place.pushed_signed(&signed, &one);
}

#[test]
fn what_is_signed_is_put_in_force_and_comes_back() {
    let (us, them) = (PolicySigner::generate(), PolicySigner::generate());
    let place = Place::start_trusting(&[them.key(), us.key()]);
    let one = honest(ONE);
    let signed = sign(&us, &one, 7);
    let answer = place.push_as(&query_of(&signed), &one);
    let fields = |answer: &Answer| {
        let policy = answer.json();
        (policy["signed"].clone(), policy["signed_by"].clone())
    };
    assert_eq!(fields(&answer), (json!(true), json!(us.key().to_string())), "{answer:?}");
    let answer = place.activate(&digest(&one));
    assert_eq!(fields(&answer), (json!(true), json!(us.key().to_string())), "{answer:?}");
    place.in_force(&one, Some(ONE));
    let restarted = |keys: &[PolicyKey]| {
        let host = place.restarted_with(None, trusting(keys)).unwrap();
        assert_eq!(host.policy().get().digest(), Digest::of_bytes(&one));
        host
    };
    restarted(&[us.key()]);
    restarted(&[us.key(), them.key()]);
    // A host without keys knows that there is a signature, and not whose.
    let unknowing = restarted(&[]);
    let listed = place.host.block_on(unknowing.policies().named(&digest(&one))).unwrap();
    assert_eq!(listed.to_json()["signed"], true);
    assert_eq!(listed.to_json()["signed_by"], Value::Null);
    // When a key goes, so does what it has signed.
    place.does_not_start(None, trusting(&[them.key()]), "signature_invalid", "`--policy-key`");
    // The standard policy is a part of the host.
    let answer = place.roll_back(None);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(fields(&answer), (json!(false), Value::Null), "{answer:?}");
    place.in_force(STANDARD_POLICY, None);
    place.restarted_with(None, trusting(&[them.key()])).unwrap();
}

#[test]
fn a_key_is_replaced_without_a_gap() {
    let (old, new) = (PolicySigner::generate(), PolicySigner::generate());
    let place = Place::start_trusting(&[old.key(), new.key()]);
    let one = honest(ONE);
    place.pushed_signed(&sign(&old, &one, 7), &one);
    assert_eq!(place.activate(&digest(&one)).status, 200);
    let signed_by = |signed: &Signed| {
        let answer = place.push_as(&query_of(signed), &one);
        assert_eq!((answer.status, &answer.json()["revision"]), (201, &json!(7)), "{answer:?}");
        answer.json()["signed_by"].as_str().unwrap().to_owned()
    };
    // Signed as something else, it would be another than is in force.
    assert_eq!(signed_by(&sign(&new, &one, 8)), old.key().to_string());
    let renamed = new.sign(Digest::of_bytes(&one), "other", 7);
    assert_eq!(signed_by(&renamed), old.key().to_string());
    place.does_not_start(None, trusting(&[new.key()]), "signature_invalid", "`--policy-key`");

    assert_eq!(signed_by(&sign(&new, &one, 7)), new.key().to_string());
    let told = place.audit().len();
    assert_eq!(signed_by(&sign(&new, &one, 7)), new.key().to_string());
    assert_eq!(place.audit().len(), told, "nothing was changed");
    let host = place.restarted_with(None, trusting(&[new.key()])).unwrap();
    assert_eq!(host.policy().get().digest(), Digest::of_bytes(&one));
    place.does_not_start(None, trusting(&[old.key()]), "signature_invalid", "`--policy-key`");
    place.in_force(&one, Some(ONE));
}

/// How a host that has policies already begins to demand signatures: its database
/// does not change by that, and the digest is what a policy is called.
#[test]
fn what_is_there_unsigned_gets_a_signature_when_one_comes() {
    let (us, them) = (PolicySigner::generate(), PolicySigner::generate());
    let place = Place::start();
    let (one, two) = (honest(ONE), honest(TWO));
    place.pushed(&one, 9);
    place.pushed(&two, 9);
    place.host.block_on(async {
        let policies = place.host.host.policies();
        policies.retire(common::by_operator(), &digest(&two)).await.unwrap();
    });
    assert_eq!(place.activate(&digest(&one)).status, 200);
    place.does_not_start(None, trusting(&[us.key()]), "signature_required", "is not signed");

    // Where nobody asks for signatures yet, one is kept as it comes, once.
    let bad = query_of(&sign(&them, &one, 8));
    let answer = place.push_as(&bad, &one);
    assert_eq!((answer.status, &answer.json()["signed"]), (201, &json!(true)), "{answer:?}");
    assert_eq!((&answer.json()["name"], &answer.json()["revision"]), (&json!("rules"), &json!(8)));
    let again = place.push_as(&query_of(&sign(&us, &one, 7)), &one);
    assert_eq!(again.json(), answer.json());
    let told = place.audit();
    let last = told.last().unwrap();
    assert_eq!(last.action, "policy.pushed");
    assert_eq!(last.before.as_ref().unwrap()["revision"], 9);
    assert_eq!(last.after.as_ref().unwrap()["revision"], 8);
    // The revision that was in force is the one that was signed.
    let three = place.pushed(&honest(THREE), 8);
    assert_eq!(place.activate(&three).status, 200);
    assert_eq!(place.roll_back(None).status, 200);
    place.in_force(&one, Some(ONE));

    // Where they are, a good one takes the place of what is none.
    let host = place.restarted_with(Some(&one), trusting(&[us.key()])).unwrap();
    let push = |bytes: &[u8], signed: Option<&Signed>| {
        let wanted = PushPolicy {
            name: signed.map_or("rules", |signed| &signed.name).to_owned(),
            version: "2".to_owned(),
            revision: signed.map_or(8, |signed| signed.revision),
            signature: signed.map(|signed| *signed.signature.as_bytes()),
            bytes: bytes.into(),
        };
        place.host.block_on(host.policies().push(common::by_operator(), wanted))
    };
    let code = |result: Result<_, ApiError>| result.map(drop).unwrap_err().refusal().unwrap();
    assert_eq!(code(push(&one, None)), "signature_required");
    assert_eq!(code(push(&one, Some(&sign(&them, &one, 8)))), "signature_invalid");
    place.does_not_start(None, trusting(&[us.key()]), "signature_invalid", "`--policy-key`");
    let listed = push(&one, Some(&sign(&us, &one, 7))).unwrap();
    assert_eq!((listed.record.revision, listed.signed_by), (7, Some(us.key())));
    // A second one changes nothing.
    let other = us.sign(Digest::of_bytes(&one), "other", 5);
    assert_eq!(push(&one, Some(&other)).unwrap().record.name, "rules");
    // And what was retired stays so.
    let retired = push(&two, Some(&sign(&us, &two, 7))).unwrap();
    assert!(retired.record.signature.is_some() && retired.record.retired_at.is_some());
    let host = place.restarted_with(None, trusting(&[us.key()])).unwrap();
    assert_eq!(host.policy().get().digest(), Digest::of_bytes(&one));
    let second = digest(&two);
    let back = host.policies().roll_back(common::by_operator(), Some(&second));
    assert_eq!(code(place.host.block_on(back)), "conflict");
}

/// Whoever can write to the database still has no key.
#[test]
fn a_database_that_was_tampered_with_decides_nothing() {
    let us = PolicySigner::generate();
    let keys = [us.key()];
    let place = Place::start_trusting(&keys);
    let [one, two, evil] = [ONE, TWO, THREE].map(honest);
    let (signed_one, signed_two) = (sign(&us, &one, 7), sign(&us, &two, 8));
    place.pushed_signed(&signed_one, &one);
    place.pushed_signed(&signed_two, &two);
    assert_eq!(place.activate(&digest(&one)).status, 200);
    let database = place.database();
    let of = |bytes: &[u8]| *Digest::of_bytes(bytes).as_bytes();
    // The row is called after its new bytes, so that storage finds nothing wrong.
    let moved = |from: &[u8], to: &[u8], signature: Option<[u8; 64]>| {
        let sql = "UPDATE policies SET digest = ?2, bytes = ?3, signature = ?4 WHERE digest = ?1";
        let changed = database.execute(sql, params![of(from), of(to), to, signature]).unwrap();
        assert_eq!(changed, 1);
        let sql = "UPDATE activations SET digest = ?2 WHERE digest = ?1";
        database.execute(sql, params![of(from), of(to)]).unwrap();
    };
    let set = |column: &str, value: &dyn rusqlite::ToSql| {
        let sql = format!("UPDATE policies SET {column} = ?2 WHERE digest IN (?1, ?3)");
        assert_eq!(database.execute(&sql, params![of(&one), value, of(&two)]).unwrap(), 2);
    };
    let put_back = || {
        for (bytes, signed) in [(&one, &signed_one), (&two, &signed_two)] {
            let sql = "UPDATE policies SET name = 'rules', revision = ?2, signature = ?3, \
                       bytes = ?4 WHERE digest = ?1";
            let revision = i64::try_from(signed.revision).unwrap();
            let signature = signed.signature.as_bytes();
            let values = params![of(bytes), revision, signature, bytes];
            assert_eq!(database.execute(sql, values).unwrap(), 1);
        }
    };
    let other = *sign(&PolicySigner::generate(), &one, 7).signature.as_bytes();
    let (required, invalid) = ("signature_required", "signature_invalid");
    for (column, value, code) in [
        ("signature", &None::<[u8; 64]> as &dyn rusqlite::ToSql, required),
        ("signature", &[0_u8; 64], invalid),
        ("signature", &other, invalid),
        ("name", &"other", invalid),
        ("revision", &99, invalid),
    ] {
        set(column, value);
        place.does_not_start(None, trusting(&keys), code, "`--policy-key`");
        // What is in force is in memory, and stays; what comes from there does not.
        place.in_force(&one, Some(ONE));
        refused(&place.activate(&digest(&two)), 403, code, "`--policy-key`");
        refused(&place.roll_back(Some(&digest(&two))), 403, code, "`--policy-key`");
        let told = place.audit();
        assert_eq!(told.last().unwrap().refused.as_deref(), Some(code), "{column}");
        place.in_force(&one, Some(ONE));
        put_back();
    }

    place.restarted_with(None, trusting(&keys)).unwrap();

    // Another component in the place of a signed one, with or without its signature.
    let good = *signed_one.signature.as_bytes();
    for (signature, code) in [(None, required), (Some(good), invalid), (Some(other), invalid)] {
        moved(&one, &evil, signature);
        place.does_not_start(None, trusting(&keys), code, "`--policy-key`");
        refused(&place.activate(&digest(&evil)), 403, code, "`--policy-key`");
        moved(&evil, &one, Some(good));
        put_back();
    }
    let sql = "UPDATE policies SET bytes = ?2 WHERE digest = ?1";
    database.execute(sql, params![of(&one), evil]).unwrap();
    let refusal = place.restarted_with(None, trusting(&keys)).err().expect("it started");
    assert!(matches!(refusal, ApiError::Internal(_)), "{refusal}");
    put_back();
    place.restarted_with(None, trusting(&keys)).unwrap();

    // One more, put in force by hand.
    let sql = "INSERT INTO policies SELECT ?2, seq + 1, name, version, 100, interfaces, \
               pushed_at, pushed_by, signature, NULL, ?3 FROM policies WHERE digest = ?1";
    assert_eq!(database.execute(sql, params![of(&two), of(&evil), evil]).unwrap(), 1);
    let sql = "INSERT INTO activations (seq, digest, overlays, at, actor, reason) \
               SELECT max(seq) + 1, ?1, '[]', 1, 'operator', 'activated' FROM activations";
    assert_eq!(database.execute(sql, params![of(&evil)]).unwrap(), 1);
    place.does_not_start(None, trusting(&keys), invalid, "`--policy-key`");
    // The way out that the sentence tells.
    let pinned = place.restarted_with(Some(&one), trusting(&keys)).unwrap();
    let by = common::by_operator();
    for (to, bytes) in [(None, &one), (Some(digest(&two)), &two)] {
        place.host.block_on(pinned.policies().roll_back(by, to.as_deref())).unwrap();
        let host = place.restarted_with(None, trusting(&keys)).unwrap();
        assert_eq!(host.policy().get().digest(), Digest::of_bytes(bytes), "{to:?}");
    }
}

#[test]
fn nothing_below_the_lowest_revision_is_put_in_force() {
    let us = PolicySigner::generate();
    let place = Place::start_trusting(&[us.key()]);
    let (old, new) = (honest(ONE), honest(TWO));
    place.pushed_signed(&sign(&us, &old, 5), &old);
    place.pushed_signed(&sign(&us, &new, 6), &new);
    let from = |min_revision| Trust { min_revision, ..trusting(&[us.key()]) };
    // Also the standard policy is below it.
    place.does_not_start(None, from(1), "policy_not_allowed", "`--min-revision 1`");
    assert_eq!(place.activate(&digest(&old)).status, 200);
    place.restarted_with(None, from(5)).unwrap();
    place.does_not_start(None, from(6), "policy_not_allowed", "`--min-revision 6`");
    assert_eq!(place.activate(&digest(&new)).status, 200);

    let host = place.restarted_with(None, from(6)).unwrap();
    let by = common::by_operator();
    place.host.block_on(async {
        for back in [Some(digest(&old)), Some("standard".to_owned()), None] {
            let refusal = host.policies().roll_back(by, back.as_deref()).await.unwrap_err();
            assert_eq!(refusal.refusal().as_deref(), Some("policy_not_allowed"), "{back:?}");
        }
        assert_eq!(host.policy().get().digest(), Digest::of_bytes(&new));
        host.policies().activate(by, wanted(&digest(&new))).await.unwrap();
    });
    place.comes_back(&new);
}

#[test]
fn nothing_but_what_is_required_is_put_in_force() {
    let place = Place::start();
    let (one, two) = (honest(ONE), honest(TWO));
    place.pushed(&one, 1);
    place.pushed(&two, 2);
    let only = |stacks: &[&str]| Trust {
        required: stacks.iter().map(|stack| stack.parse().unwrap()).collect(),
        ..Trust::default()
    };
    let first = digest(&one);
    let not_allowed = "policy_not_allowed";
    place.does_not_start(None, only(&[&first]), not_allowed, "`--require-policy`");
    place.restarted_with(None, only(&[standard()])).unwrap();
    place.restarted_with(None, only(&[&first, standard()])).unwrap();
    assert_eq!(place.activate(&first).status, 200);
    place.does_not_start(None, only(&[standard()]), not_allowed, &first);
    // With something on it, it is not what there is.
    let stacked = format!("{first}+{}", digest(&two));
    place.does_not_start(None, only(&[&stacked]), not_allowed, &first);

    let host = place.restarted_with(None, only(&[&first])).unwrap();
    let by = common::by_operator();
    place.host.block_on(async {
        let refusal = host.policies().activate(by, wanted(&digest(&two))).await.unwrap_err();
        assert_eq!(refusal.refusal().as_deref(), Some(not_allowed));
        let refusal = host.policies().roll_back(by, None).await.unwrap_err();
        assert_eq!(refusal.refusal().as_deref(), Some(not_allowed));
        assert_eq!(host.policy().get().digest(), Digest::of_bytes(&one));
        host.policies().activate(by, wanted(&first)).await.unwrap();
    });
    place.comes_back(&one);
}

/// Overlays narrow, and a canary is for a few: but what is not trusted is not run.
#[test]
fn all_of_a_stack_is_signed() {
    let us = PolicySigner::generate();
    let keys = [us.key()];
    let place = Place::start_trusting(&keys);
    let [base, overlay, other] = [honest(ONE), crate::overlays::no_posts(TWO), honest(THREE)];
    for bytes in [&base, &overlay, &other] {
        place.pushed_signed(&sign(&us, bytes, 7), bytes);
    }
    let [first, second, third] = [&base, &overlay, &other].map(|bytes| digest(bytes));
    let stacked = json!({ "overlays": [second] }).to_string();
    let share = json!({ "percent": 50, "by": "key" }).to_string();
    let activate = || place.ask("POST", &format!("/v2/policies/{first}/activate"), &stacked);
    let canary = || place.ask("POST", &format!("/v2/policies/{third}/canary"), &share);
    let percent = json!({ "percent": 1 }).to_string();
    let shadow = || place.ask("POST", &format!("/v2/policies/{third}/shadow"), &percent);
    for answer in [activate(), canary(), shadow()] {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    place.restarted_with(None, trusting(&keys)).unwrap();

    // Also what is required is all of it.
    let only = |stacks: &[String]| Trust {
        required: stacks.iter().map(|stack| stack.parse().unwrap()).collect(),
        ..Trust::default()
    };
    let (stable, share) = (format!("{first}+{second}"), format!("{third}+{second}"));
    let not_allowed = "policy_not_allowed";
    place.does_not_start(None, only(std::slice::from_ref(&stable)), not_allowed, &share);
    place.does_not_start(None, only(std::slice::from_ref(&share)), not_allowed, &stable);
    place.does_not_start(None, only(&[first.clone(), third.clone()]), not_allowed, &stable);
    place.restarted_with(None, only(&[stable, share])).unwrap();

    let database = place.database();
    let set = |bytes: &[u8], signature: Option<&[u8; 64]>| {
        let sql = "UPDATE policies SET signature = ?2 WHERE digest = ?1";
        let name = Digest::of_bytes(bytes);
        assert_eq!(database.execute(sql, params![name.as_bytes(), signature]).unwrap(), 1);
    };
    let required = "signature_required";
    for bytes in [&base, &overlay, &other] {
        set(bytes, None);
        place.does_not_start(None, trusting(&keys), required, &digest(bytes));
        set(bytes, Some(sign(&us, bytes, 7).signature.as_bytes()));
    }
    for (bytes, refusals) in [
        (&base, [true, true, false]),
        // What a shadow would stand on is parsed for it, too.
        (&overlay, [true, true, true]),
        (&other, [false, true, true]),
    ] {
        set(bytes, None);
        for (answer, is_refused) in [activate(), canary(), shadow()].iter().zip(refusals) {
            match is_refused {
                true => refused(answer, 403, required, &digest(bytes)),
                false => assert_eq!(answer.status, 200, "{answer:?}"),
            }
        }
        set(bytes, Some(sign(&us, bytes, 7).signature.as_bytes()));
    }
    assert_eq!(place.listed_as("active"), [first]);
    assert_eq!(place.listed_as("overlay"), [second]);
}

#[test]
fn a_rollback_passes_over_what_may_not_be_run() {
    let us = PolicySigner::generate();
    let place = Place::start_trusting(&[us.key()]);
    let [one, two, three] = [ONE, TWO, THREE].map(honest);
    for (bytes, revision) in [(&one, 7), (&two, 8), (&three, 9)] {
        place.pushed_signed(&sign(&us, bytes, revision), bytes);
        assert_eq!(place.activate(&digest(bytes)).status, 200);
    }
    let sql = "UPDATE policies SET signature = NULL WHERE digest = ?1";
    let second = Digest::of_bytes(&two);
    assert_eq!(place.database().execute(sql, params![second.as_bytes()]).unwrap(), 1);
    let answer = place.roll_back(None);
    assert_eq!((answer.status, &answer.json()["digest"]), (200, &json!(digest(&one))));
    place.in_force(&one, Some(ONE));
    // By its name it is not passed over, but refused.
    refused(&place.roll_back(Some(&second.to_hex())), 403, "signature_required", "not signed");
    place.in_force(&one, Some(ONE));
}
