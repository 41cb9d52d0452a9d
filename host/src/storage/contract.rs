//! What every backend must keep, as functions over `dyn Storage`.
//!
//! A backend's tests call `storage_contract!` with a function that makes an
//! empty storage, together with whatever must outlive it.

use std::{
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use serde_json::json;

use super::*;
use crate::audit::{AuditHead, ChainVerifier};

/// Makes a test of each promise.
macro_rules! storage_contract {
    ($empty:path) => {
        crate::storage::contract::storage_contract! { $empty:
            a_key_is_found_by_digest_and_by_id,
            a_missing_record_is_an_answer,
            a_digest_belongs_to_one_key,
            of_many_that_create_the_same_digest_one_wins,
            keys_are_listed_newest_first,
            accounts_are_returned_in_the_order_asked,
            an_account_is_stored_with_its_keys_or_not_at_all,
            an_account_joins_and_leaves_an_organization,
            a_change_is_stored_over_the_revision_that_was_read,
            a_change_with_one_stale_key_changes_nothing,
            of_concurrent_changes_of_one_revision_one_wins,
            a_rotated_key_is_never_seen_without_its_replacement,
            a_reply_is_kept_with_its_change_or_not_at_all,
            the_audit_log_is_one_chain,
            the_audit_log_is_listed_in_both_directions,
            rotations_are_due_longest_first,
            what_is_due_is_found_page_by_page,
            ends_are_noted_once,
            imported_digests_are_those_of_imported_keys,
            sealed_secrets_are_replaced_where_they_are_as_read,
            a_stored_use_never_goes_back,
            the_log_returns_the_newest_entries,
            the_log_is_filtered_by_everything_at_once,
            what_is_old_is_dropped,
            a_storage_that_is_no_copy_has_no_mark,
            objects_belong_to_an_account_and_a_mode,
            a_changed_object_keeps_its_place,
            objects_are_listed_page_by_page,
            the_first_answer_stays,
            answers_outlive_a_day_only,
            a_policy_comes_back_byte_for_byte,
            policies_are_found_between_two_digests,
            a_policy_is_kept_once,
            activations_are_numbered_one_after_the_other,
            of_concurrent_activations_one_wins,
            only_a_policy_that_is_there_and_not_retired_is_put_in_force,
            a_policy_is_retired_once,
            a_policy_that_is_signed_later_keeps_the_rest,
        }
    };
    ($empty:path: $($promise:ident,)*) => {$(
        #[tokio::test]
        async fn $promise() {
            let (storage, _kept) = $empty();
            crate::storage::contract::$promise(storage).await;
        }
    )*};
}
pub(crate) use storage_contract;

type Shared = Arc<dyn Storage>;

/// A key with something in every field.
pub(crate) fn key(number: u64) -> KeyRecord {
    KeyRecord {
        id: format!("key_{number}"),
        account: "acct_1".to_owned(),
        mode: Mode::Live,
        kind: "restricted".to_owned(),
        origin: "user".to_owned(),
        prefix: "rk_live_".to_owned(),
        masked: "rk_live_********abcd".to_owned(),
        digest: digest(number),
        sealed_secret: Some(vec![0, 1, 255]),
        name: "Übersicht ".to_owned(),
        note: "in the safe".to_owned(),
        permissions: "charge_read charge_write".to_owned(),
        connect_permissions: "*".to_owned(),
        ipv4_networks: [(0x0A00_0000, 8), (0xCB00_7105, 32), (0, 0)]
            .map(|(address, prefix_length)| Ipv4Network { address, prefix_length })
            .to_vec(),
        created_at: 1_000 + number,
        ends_at: Some(2_000 + number),
        restored_at: Some(3),
        money_moved_at: Some(4),
        last_use: Some(last_use(5, "2001:db8::5", "POST /v1/charges")),
        attributes: vec![
            ("a".to_owned(), "\"quoted\"".to_owned()),
            ("b".to_owned(), String::new()),
        ],
        imported: true,
        replaces: Some("key_old".to_owned()),
        replaced_by: Some("key_new".to_owned()),
        rotation: Some(RotationSchedule {
            at: 1_500 + number,
            every_days: Some(90),
            expire_current_in_minutes: 60,
        }),
        end_noted: true,
        revision: 7,
    }
}

pub(crate) fn last_use(at: u64, source: &str, endpoint: &str) -> LastUse {
    LastUse { at, source: source.parse().unwrap(), endpoint: endpoint.to_owned() }
}

/// A key with nothing in the fields that may be empty.
fn bare_key(number: u64) -> KeyRecord {
    KeyRecord {
        sealed_secret: None,
        ipv4_networks: Vec::new(),
        ends_at: None,
        restored_at: None,
        money_moved_at: None,
        last_use: None,
        attributes: Vec::new(),
        imported: false,
        replaces: None,
        replaced_by: None,
        rotation: None,
        end_noted: false,
        ..key(number)
    }
}

/// The key of all audit logs here.
pub(crate) static CHAIN: LazyLock<Arc<AuditKey>> = LazyLock::new(|| Arc::new(AuditKey::generate()));

pub(crate) async fn commit(storage: &dyn Storage, change: Change) -> StorageResult<()> {
    storage.commit(change, Arc::clone(&CHAIN)).await
}

pub(crate) async fn create_key(storage: &dyn Storage, key: KeyRecord) -> StorageResult<()> {
    commit(storage, Change { new_keys: vec![key], ..Change::default() }).await
}

async fn create_account(
    storage: &dyn Storage,
    account: AccountRecord,
    new_keys: Vec<KeyRecord>,
) -> StorageResult<()> {
    commit(storage, Change { new_accounts: vec![account], new_keys, ..Change::default() }).await
}

pub(crate) fn audit_entry(actor: &str, target: Option<&str>) -> AuditEntry {
    AuditEntry {
        at_ms: 1_700_000_000_000,
        actor: actor.to_owned(),
        source: Some(IpAddr::from([203, 0, 113, 5])),
        request_id: None,
        action: "api_key.updated".to_owned(),
        target: target.map(str::to_owned),
        refused: None,
        before: Some(json!({ "name": "Übersicht" })),
        after: Some(json!({ "name": null })),
    }
}

fn reply(idempotency_key: &str) -> KeptReply {
    KeptReply {
        caller: "operator".to_owned(),
        idempotency_key: idempotency_key.to_owned(),
        request_digest: digest(1),
        at: 100,
        status: 201,
        body: "{}".to_owned(),
    }
}

/// Reads the whole audit log and verifies it. Returns its head.
pub(crate) async fn verified_head(storage: &dyn Storage) -> Option<AuditHead> {
    let mut verifier = ChainVerifier::new(&CHAIN, None);
    // In pages, as whoever verifies does.
    let mut after = None;
    loop {
        let filter = AuditFilter { after, limit: 3, ..AuditFilter::default() };
        let entries = storage.list_audit(filter).await.unwrap();
        let Some(last) = entries.last() else { break };
        after = Some(last.sequence);
        entries.iter().for_each(|entry| verifier.feed(entry));
    }
    verifier.finish().unwrap()
}

async fn audit_length(storage: &dyn Storage) -> u64 {
    verified_head(storage).await.map_or(0, |head| head.sequence)
}

fn digest(number: u64) -> Digest {
    // The high bit, so that a backend with signed numbers is found out.
    Digest::from_words((u64::MAX, number, 0, 1 << 63))
}

fn account(id: &str) -> AccountRecord {
    AccountRecord {
        id: id.to_owned(),
        name: "Rocket Rides".to_owned(),
        organization: None,
        platform: None,
        created_at: 7,
    }
}

pub(crate) fn entry(number: u64, key_id: Option<&str>) -> LogEntry {
    LogEntry {
        at_ms: 1_700_000_000_000 + number,
        request_id: format!("req_{number}"),
        key_id: key_id.map(str::to_owned),
        account: Some("acct_1".to_owned()),
        method: "GET".to_owned(),
        path: "/v1/charges/:id".to_owned(),
        status: 200,
        code: None,
        source: IpAddr::from([203, 0, 113, 5]),
        policy: Some(Digest::from_bytes([0x5F; 32])),
        overlays: (0..number % 3).map(|n| Digest::of(&n.to_string())).collect(),
        decision_us: 17,
    }
}

fn object(id: &str, collection: &str) -> ObjectRecord {
    ObjectRecord {
        id: id.to_owned(),
        collection: collection.to_owned(),
        created_at: 9,
        body: json!({ "id": id, "nested": { "list": [1, null, 1.5] } }),
    }
}

/// A policy with something in every field. It is called by the digest of its
/// bytes.
pub(crate) fn policy(bytes: &[u8]) -> (PolicyRecord, Arc<[u8]>) {
    let record = PolicyRecord {
        digest: Digest::of_bytes(bytes),
        name: "Übersicht ".to_owned(),
        version: "1.2.3-rc \"4\"".to_owned(),
        revision: i64::MAX.unsigned_abs(),
        interfaces: "authorizer explain".to_owned(),
        size_bytes: bytes.len() as u64,
        pushed_at: 5,
        pushed_by: "operator".to_owned(),
        signature: Some([0xF5; 64]),
        retired_at: None,
    };
    (record, bytes.into())
}

async fn push(storage: &dyn Storage, bytes: &[u8]) -> StorageResult<()> {
    let audit = vec![audit_entry("operator", None)];
    let new_policies = vec![policy(bytes)];
    commit(storage, Change { new_policies, audit, ..Change::default() }).await
}

async fn retire(storage: &dyn Storage, digest: Digest, at: u64) -> StorageResult<()> {
    let audit = vec![audit_entry("operator", None)];
    let retired_policies = vec![(digest, at)];
    commit(storage, Change { retired_policies, audit, ..Change::default() }).await
}

fn activation(number: u64, policy: Option<Digest>) -> Activation {
    Activation {
        number,
        policy,
        overlays: Vec::new(),
        canary: None,
        min_revision: 0,
        at: 6,
        actor: "operator".to_owned(),
        reason: "rolled back".to_owned(),
    }
}

async fn activate(storage: &dyn Storage, activation: Activation) -> StorageResult<()> {
    let audit = vec![audit_entry("operator", None)];
    let activation = Some(activation);
    commit(storage, Change { activation, audit, ..Change::default() }).await
}

#[track_caller]
fn assert_changed(result: StorageResult<()>, expected: &str) {
    match result {
        Err(StorageError::Changed { id }) => assert_eq!(id, expected),
        other => panic!("{expected} should have changed: {other:?}"),
    }
}

#[track_caller]
fn assert_exists(result: StorageResult<()>, expected: &str) {
    match result {
        Err(StorageError::Exists { id }) => assert_eq!(id, expected),
        other => panic!("{expected} should exist: {other:?}"),
    }
}

pub(crate) async fn a_key_is_found_by_digest_and_by_id(storage: Shared) {
    for key in [key(1), bare_key(2)] {
        create_key(&*storage, key.clone()).await.unwrap();
        let by_digest = storage.find_key_by_digest(key.digest).await.unwrap();
        assert_eq!(by_digest.as_ref(), Some(&key));
        assert_eq!(storage.find_key(&key.id).await.unwrap(), Some(key));
    }
}

pub(crate) async fn a_missing_record_is_an_answer(storage: Shared) {
    assert_eq!(storage.find_key("key_1").await.unwrap(), None);
    assert_eq!(storage.find_key_by_digest(digest(1)).await.unwrap(), None);
    assert_eq!(storage.find_organization("org_1").await.unwrap(), None);
    assert_eq!(storage.find_accounts(Vec::new()).await.unwrap(), []);
    let object = storage.find_object("acct_1", Mode::Test, "cus_1").await;
    assert_eq!(object.unwrap(), None);
    let deleted = storage.delete_object("acct_1", Mode::Test, "cus_1").await;
    assert!(!deleted.unwrap());
    let answer = storage.find_answer("acct_1", Mode::Test, "again").await;
    assert_eq!(answer.unwrap(), None);
    assert_eq!(storage.find_reply("operator", "again").await.unwrap(), None);
    assert_eq!(storage.imported_digests().await.unwrap(), []);
    assert_eq!(storage.sealed_secrets(None, 9).await.unwrap(), []);
    assert_eq!(verified_head(&*storage).await, None);
    storage.ping().await.unwrap();
}

pub(crate) async fn a_digest_belongs_to_one_key(storage: Shared) {
    create_key(&*storage, key(1)).await.unwrap();
    let same_digest = KeyRecord { id: "key_2".to_owned(), ..key(1) };
    let same_id = KeyRecord { digest: digest(2), ..key(1) };
    assert_exists(create_key(&*storage, same_digest).await, "key_2");
    assert_exists(create_key(&*storage, same_id).await, "key_1");
    assert_eq!(storage.find_key("key_2").await.unwrap(), None);
    assert_eq!(storage.find_key_by_digest(digest(2)).await.unwrap(), None);
}

pub(crate) async fn of_many_that_create_the_same_digest_one_wins(storage: Shared) {
    let tasks: Vec<_> = (0..16)
        .map(|number| {
            let storage = Arc::clone(&storage);
            let key = KeyRecord { digest: digest(0), ..key(number) };
            tokio::spawn(async move { create_key(&*storage, key).await.map(|()| number) })
        })
        .collect();
    let mut winners = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(number) => winners.push(format!("key_{number}")),
            Err(StorageError::Exists { .. }) => {}
            Err(err) => panic!("{err:?}"),
        }
    }
    let stored = storage.find_key_by_digest(digest(0)).await.unwrap().unwrap();
    assert_eq!(winners, [stored.id]);
    let all = KeyFilter { limit: 100, ..KeyFilter::default() };
    assert_eq!(storage.list_keys(all).await.unwrap().len(), 1);
}

pub(crate) async fn keys_are_listed_newest_first(storage: Shared) {
    let rows = [
        (1, "acct_1", Mode::Live, None),
        (2, "acct_1", Mode::Test, None),
        (3, "acct_2", Mode::Live, None),
        (4, "acct_1", Mode::Live, Some(50)),
        (5, "acct_1", Mode::Live, Some(51)),
    ];
    for (number, account, mode, ends_at) in rows {
        let account = account.to_owned();
        let key = KeyRecord { account, mode, ends_at, ..key(number) };
        create_key(&*storage, key).await.unwrap();
    }
    let check = async |account: Option<&str>,
                       mode,
                       not_ended_at,
                       after: Option<&str>,
                       limit,
                       expected: &str| {
        let filter = KeyFilter {
            account: account.map(str::to_owned),
            mode,
            not_ended_at,
            starting_after: after.map(str::to_owned),
            limit,
        };
        let found = storage.list_keys(filter.clone()).await.unwrap();
        let ids: Vec<_> = found.iter().map(|key| key.id.trim_start_matches("key_")).collect();
        assert_eq!(ids.join(" "), expected, "{filter:?}");
    };
    let (live, all) = (Some(Mode::Live), usize::MAX);
    check(None, None, None, None, all, "5 4 3 2 1").await;
    check(None, None, None, None, 2, "5 4").await;
    check(None, None, None, None, 0, "").await;
    check(None, None, None, Some("key_4"), 2, "3 2").await;
    check(None, None, None, Some("key_1"), 2, "").await;
    check(None, None, None, Some("key_9"), 2, "").await;
    check(Some("acct_1"), None, None, None, all, "5 4 2 1").await;
    check(Some("acct_1"), live, None, None, all, "5 4 1").await;
    check(Some("acct_1"), live, Some(49), None, all, "5 4 1").await;
    check(Some("acct_1"), live, Some(50), None, all, "5 1").await;
    check(Some("acct_1"), live, Some(51), Some("key_5"), all, "1").await;
    check(Some("acct_3"), live, None, None, all, "").await;
}

pub(crate) async fn accounts_are_returned_in_the_order_asked(storage: Shared) {
    let platform = AccountRecord { platform: Some("acct_2".to_owned()), ..account("acct_1") };
    for account in [account("acct_2"), platform.clone(), account("acct_3")] {
        create_account(&*storage, account, Vec::new()).await.unwrap();
    }
    let asked = ["acct_3", "acct_9", "acct_1", "acct_3"].map(str::to_owned).to_vec();
    let found = storage.find_accounts(asked).await.unwrap();
    let three = Some(account("acct_3"));
    assert_eq!(found, [three.clone(), None, Some(platform), three]);
    let oldest = storage.list_accounts(None, 2).await.unwrap();
    let ids: Vec<_> = oldest.iter().map(|account| account.id.as_str()).collect();
    assert_eq!(ids, ["acct_2", "acct_1"]);
    for (after, expected) in [("acct_1", &["acct_3"][..]), ("acct_3", &[]), ("acct_9", &[])] {
        let behind = storage.list_accounts(Some(after), 2).await.unwrap();
        let ids: Vec<_> = behind.iter().map(|account| account.id.as_str()).collect();
        assert_eq!(ids, expected, "behind {after}");
    }
}

pub(crate) async fn an_account_is_stored_with_its_keys_or_not_at_all(storage: Shared) {
    create_account(&*storage, account("acct_1"), vec![key(1), key(2)]).await.unwrap();
    assert_eq!(storage.find_key("key_2").await.unwrap(), Some(key(2)));

    let again = create_account(&*storage, account("acct_2"), vec![key(3), key(1)]).await;
    assert_exists(again, "key_1");
    let found = storage.find_accounts(vec!["acct_2".to_owned()]).await.unwrap();
    assert_eq!(found, [None]);
    assert_eq!(storage.find_key("key_3").await.unwrap(), None);

    let again = create_account(&*storage, account("acct_1"), vec![key(4)]).await;
    assert_exists(again, "acct_1");
    assert_eq!(storage.find_key("key_4").await.unwrap(), None);
}

pub(crate) async fn an_account_joins_and_leaves_an_organization(storage: Shared) {
    let organization = OrganizationRecord {
        id: "org_1".to_owned(),
        name: "Rocket Holdings".to_owned(),
        created_at: 6,
    };
    let create = || Change { new_organizations: vec![organization.clone()], ..Change::default() };
    commit(&*storage, create()).await.unwrap();
    assert_exists(commit(&*storage, create()).await, "org_1");
    let found = storage.find_organization("org_1").await.unwrap();
    assert_eq!(found.as_ref(), Some(&organization));

    create_account(&*storage, account("acct_1"), Vec::new()).await.unwrap();
    let join = |account: &str, organization: Option<&str>| {
        let memberships = vec![(account.to_owned(), organization.map(str::to_owned))];
        Change { memberships, ..Change::default() }
    };
    for expected in [Some("org_1"), None] {
        commit(&*storage, join("acct_1", expected)).await.unwrap();
        let found = storage.find_accounts(vec!["acct_1".to_owned()]).await.unwrap();
        let organization = found[0].as_ref().unwrap().organization.as_deref();
        assert_eq!(organization, expected);
    }
    assert_changed(commit(&*storage, join("acct_9", Some("org_1"))).await, "acct_9");
    // Only where there is such an organization.
    commit(&*storage, join("acct_1", Some("org_9"))).await.unwrap_err();

    // An organization, its member and the keys of both in one change.
    let both = Change {
        new_organizations: vec![OrganizationRecord { id: "org_2".to_owned(), ..organization }],
        new_accounts: vec![AccountRecord {
            organization: Some("org_2".to_owned()),
            ..account("acct_2")
        }],
        new_keys: vec![KeyRecord { account: "org_2".to_owned(), ..key(1) }],
        memberships: vec![("acct_1".to_owned(), Some("org_2".to_owned()))],
        ..Change::default()
    };
    commit(&*storage, both).await.unwrap();
    let found = storage.find_accounts(vec!["acct_1".to_owned()]).await.unwrap();
    assert_eq!(found[0].as_ref().unwrap().organization.as_deref(), Some("org_2"));
}

pub(crate) async fn a_change_is_stored_over_the_revision_that_was_read(storage: Shared) {
    create_key(&*storage, key(1)).await.unwrap();
    create_key(&*storage, bare_key(2)).await.unwrap();
    let change = async |key: KeyRecord| {
        commit(&*storage, Change { changed_keys: vec![key], ..Change::default() }).await
    };
    // Everything that the one has and the other has not, and the other way round;
    // but uses come in while the change is made, and stay.
    for (mut now, before) in [(bare_key(1), key(1)), (key(2), bare_key(2))] {
        let used = last_use(60, "192.0.2.1", "GET /v1/balance");
        let mark =
            UsageMark { key_id: now.id.clone(), last_use: used.clone(), money_moved_at: Some(50) };
        storage.record_usage(vec![mark]).await.unwrap();
        now.account = "acct_7".to_owned();
        now.digest = digest(100 + now.created_at);
        change(now.clone()).await.unwrap();
        let stored = storage.find_key(&now.id).await.unwrap();
        let (last_use, money_moved_at) = (Some(used), Some(50));
        let expected = KeyRecord { last_use, money_moved_at, revision: 8, ..now.clone() };
        assert_eq!(stored.as_ref(), Some(&expected));
        assert_eq!(storage.find_key_by_digest(before.digest).await.unwrap(), None);

        for revision in [0, 6, 7, 9, u64::MAX] {
            let stale = KeyRecord { revision, name: "lost".to_owned(), ..now.clone() };
            assert_changed(change(stale).await, &now.id);
        }
        assert_eq!(storage.find_key(&now.id).await.unwrap(), stored);
        change(KeyRecord { name: "last".to_owned(), ..expected }).await.unwrap();
    }
    assert_changed(change(key(3)).await, "key_3");
    // In one change, too, the second of two from the same revision is late.
    let twice = KeyRecord { revision: 9, ..bare_key(1) };
    let twice = Change { changed_keys: vec![twice.clone(), twice], ..Change::default() };
    assert_changed(commit(&*storage, twice).await, "key_1");
    // A change to what another one has.
    let same = KeyRecord { revision: 9, digest: digest(102 + 1_000), ..bare_key(1) };
    assert_exists(change(same).await, "key_1");
}

pub(crate) async fn a_change_with_one_stale_key_changes_nothing(storage: Shared) {
    let keys = [key(1), key(2), key(3)];
    commit(&*storage, Change { new_keys: keys.to_vec(), ..Change::default() }).await.unwrap();
    for stale in 0..keys.len() {
        let mut changed_keys = keys.to_vec();
        for key in &mut changed_keys {
            key.name = "changed".to_owned();
        }
        changed_keys[stale].revision = 6;
        let change = Change {
            new_accounts: vec![account("acct_9")],
            new_keys: vec![key(9)],
            changed_keys,
            audit: vec![audit_entry("operator", Some("key_1"))],
            reply: Some(reply("again")),
            ..Change::default()
        };
        assert_changed(commit(&*storage, change).await, &keys[stale].id);
        for key in &keys {
            assert_eq!(storage.find_key(&key.id).await.unwrap().as_ref(), Some(key));
        }
        assert_eq!(storage.find_key("key_9").await.unwrap(), None);
        assert_eq!(storage.find_accounts(vec!["acct_9".to_owned()]).await.unwrap(), [None]);
        assert_eq!(storage.find_reply("operator", "again").await.unwrap(), None);
        assert_eq!(audit_length(&*storage).await, 0);
    }
}

pub(crate) async fn of_concurrent_changes_of_one_revision_one_wins(storage: Shared) {
    create_key(&*storage, key(1)).await.unwrap();
    for round in 0..4 {
        let read = storage.find_key("key_1").await.unwrap().unwrap();
        let tasks: Vec<_> = (0..16)
            .map(|number| {
                let (storage, name) = (Arc::clone(&storage), format!("{round} {number}"));
                let change = Change {
                    changed_keys: vec![KeyRecord { name: name.clone(), ..read.clone() }],
                    audit: vec![audit_entry(&name, Some("key_1"))],
                    ..Change::default()
                };
                tokio::spawn(async move { commit(&*storage, change).await.map(|()| name) })
            })
            .collect();
        let mut winners = Vec::new();
        for task in tasks {
            match task.await.unwrap() {
                Ok(name) => winners.push(name),
                Err(StorageError::Changed { id }) => assert_eq!(id, "key_1"),
                Err(err) => panic!("{err:?}"),
            }
        }
        let stored = storage.find_key("key_1").await.unwrap().unwrap();
        assert_eq!(winners, [stored.name]);
        assert_eq!(stored.revision, read.revision + 1);
        assert_eq!(audit_length(&*storage).await, round + 1, "of the losers, no word");
    }
}

pub(crate) async fn a_rotated_key_is_never_seen_without_its_replacement(storage: Shared) {
    const ROTATIONS: u64 = 50;
    create_key(&*storage, bare_key(0)).await.unwrap();
    let writing = Arc::clone(&storage);
    let writer = tokio::spawn(async move {
        for number in 0..ROTATIONS {
            let old = writing.find_key(&format!("key_{number}")).await.unwrap().unwrap();
            let id = format!("key_{}", number + 1);
            let new = KeyRecord { replaces: Some(old.id.clone()), ..bare_key(number + 1) };
            let change = Change {
                new_keys: vec![new],
                changed_keys: vec![KeyRecord { replaced_by: Some(id), ends_at: Some(9), ..old }],
                ..Change::default()
            };
            commit(&*writing, change).await.unwrap();
        }
    });
    loop {
        let is_last = writer.is_finished();
        let all = KeyFilter { limit: usize::MAX, ..KeyFilter::default() };
        let keys = storage.list_keys(all).await.unwrap();
        let newest = keys.len() - 1;
        for (age, key) in keys.iter().enumerate() {
            let number = newest - age;
            let next = (age > 0).then(|| format!("key_{}", number + 1));
            let previous = number.checked_sub(1).map(|number| format!("key_{number}"));
            assert_eq!((&key.replaced_by, &key.replaces), (&next, &previous), "{}", key.id);
            assert_eq!(key.ends_at.is_some(), next.is_some(), "{}", key.id);
        }
        if is_last {
            break;
        }
    }
    writer.await.unwrap();
    let all = KeyFilter { not_ended_at: Some(9), limit: 9, ..KeyFilter::default() };
    assert_eq!(storage.list_keys(all).await.unwrap().len(), 1);
}

pub(crate) async fn a_reply_is_kept_with_its_change_or_not_at_all(storage: Shared) {
    let change = |number: u64, reply: KeptReply| Change {
        new_keys: vec![key(number)],
        audit: vec![audit_entry("operator", None)],
        reply: Some(reply),
        ..Change::default()
    };
    commit(&*storage, change(1, reply("again"))).await.unwrap();
    // Another request, and the same one that two hosts' clients sent at once.
    for request_digest in [digest(1), digest(2)] {
        let second = KeptReply { request_digest, status: 409, ..reply("again") };
        assert_exists(commit(&*storage, change(2, second)).await, "again");
    }
    assert_eq!(storage.find_key("key_2").await.unwrap(), None);
    assert_eq!(audit_length(&*storage).await, 1);

    let other = KeptReply { caller: "key_1".to_owned(), ..reply("again") };
    commit(&*storage, change(3, other.clone())).await.unwrap();
    let rows = [
        ("operator", "again", Some(reply("again"))),
        ("key_1", "again", Some(other)),
        ("operator", "Again", None),
        ("", "again", None),
    ];
    for (caller, idempotency_key, expected) in rows {
        let found = storage.find_reply(caller, idempotency_key).await.unwrap();
        assert_eq!(found, expected, "{caller} {idempotency_key}");
    }
}

pub(crate) async fn the_audit_log_is_one_chain(storage: Shared) {
    let refused = AuditEntry {
        source: None,
        request_id: Some("req_1".to_owned()),
        refused: Some("key_not_found".to_owned()),
        before: None,
        after: None,
        ..audit_entry("key_1", None)
    };
    let entries = [audit_entry("operator", Some("key_1")), refused];
    let change = || Change { audit: entries.to_vec(), ..Change::default() };
    let failing =
        || Change { changed_keys: vec![key(9)], audit: entries.to_vec(), ..Change::default() };
    let mut heads = Vec::new();
    for _ in 0..3 {
        assert_changed(commit(&*storage, failing()).await, "key_9");
        commit(&*storage, change()).await.unwrap();
        commit(&*storage, Change::default()).await.unwrap();
        assert_changed(commit(&*storage, failing()).await, "key_9");
        heads.push(verified_head(&*storage).await.unwrap());
    }
    assert_eq!(heads.iter().map(|head| head.sequence).collect::<Vec<_>>(), [2, 4, 6]);

    let all = AuditFilter { limit: 99, ..AuditFilter::default() };
    let stored = storage.list_audit(all).await.unwrap();
    for (found, expected) in stored.iter().zip(entries.iter().cycle()) {
        let read: AuditEntry = serde_json::from_str(&found.text).unwrap();
        assert_eq!(&read, expected);
    }
    // The log goes through each head that it ever had.
    for head in heads {
        let mut verifier = ChainVerifier::new(&CHAIN, Some(head));
        stored.iter().for_each(|entry| verifier.feed(entry));
        verifier.finish().unwrap();
    }

    // Many at once are in one order, whichever.
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (storage, change) = (Arc::clone(&storage), change());
            tokio::spawn(async move { commit(&*storage, change).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(audit_length(&*storage).await, 6 + 16 * 2);
}

pub(crate) async fn the_audit_log_is_listed_in_both_directions(storage: Shared) {
    let rows = [
        ("operator", Some("key_1")),
        ("operator", Some("key_2")),
        ("platform", Some("key_1")),
        ("operator", None),
        ("operator", Some("key_1")),
    ];
    let audit = rows.map(|(actor, target)| audit_entry(actor, target)).to_vec();
    commit(&*storage, Change { audit, ..Change::default() }).await.unwrap();
    let check =
        async |target: Option<&str>, actor: Option<&str>, before, after, limit, expected: &str| {
            let filter = AuditFilter {
                target: target.map(str::to_owned),
                actor: actor.map(str::to_owned),
                before,
                after,
                limit,
            };
            let found = storage.list_audit(filter.clone()).await.unwrap();
            let found: Vec<_> = found.iter().map(|entry| entry.sequence.to_string()).collect();
            assert_eq!(found.join(" "), expected, "{filter:?}");
        };
    let newest = Some(u64::MAX);
    check(None, None, None, None, 9, "1 2 3 4 5").await;
    check(None, None, None, Some(3), 9, "4 5").await;
    check(None, None, None, Some(5), 9, "").await;
    check(None, None, newest, None, 2, "5 4").await;
    check(None, None, Some(4), None, 2, "3 2").await;
    check(None, None, Some(1), None, 2, "").await;
    check(None, None, Some(0), None, 2, "").await;
    check(Some("key_1"), None, newest, None, 9, "5 3 1").await;
    check(Some("key_1"), None, None, Some(1), 1, "3").await;
    check(None, Some("operator"), newest, None, 3, "5 4 2").await;
    check(None, Some("platform"), None, None, 9, "3").await;
    check(Some("key_1"), Some("operator"), newest, None, 9, "5 1").await;
    check(Some("key_9"), None, newest, None, 9, "").await;
    check(Some("key_1"), None, newest, None, 0, "").await;
}

pub(crate) async fn rotations_are_due_longest_first(storage: Shared) {
    let rows = [
        // The time of the rotation, and that of the end.
        (1, Some(20), None),
        (2, Some(10), None),
        (3, None, None),
        (4, Some(10), Some(30)),
        (5, Some(30), None),
        (6, Some(5), Some(11)),
    ];
    for (number, at, ends_at) in rows {
        let rotation =
            at.map(|at| RotationSchedule { at, every_days: None, expire_current_in_minutes: 0 });
        create_key(&*storage, KeyRecord { rotation, ends_at, ..bare_key(number) }).await.unwrap();
    }
    for (now, limit, expected) in [
        (4, 9, ""),
        (5, 9, "6"),
        (10, 9, "6 2 4"),
        (10, 2, "6 2"),
        (11, 9, "2 4"),
        (29, 9, "2 4 1"),
        (30, 9, "2 1 5"),
        (u64::MAX, 0, ""),
    ] {
        let found = storage.due_rotations(now, None, limit).await.unwrap();
        assert_eq!(numbers(&found), expected, "{now} {limit}");
    }
}

fn numbers(found: &DuePage) -> String {
    let keys = found.keys.iter().flatten();
    let numbers: Vec<_> = keys.map(|key| key.id.trim_start_matches("key_")).collect();
    numbers.join(" ")
}

/// Returns all rotations, or else all ends, that are due, page by page.
pub(crate) async fn due(
    storage: &dyn Storage,
    rotations: bool,
    now: u64,
    limit: usize,
) -> Vec<DuePage> {
    let (mut pages, mut after) = (Vec::new(), None);
    loop {
        let page = match rotations {
            true => storage.due_rotations(now, after, limit).await.unwrap(),
            false => storage.unnoted_ends(now, after, limit).await.unwrap(),
        };
        after = page.next;
        pages.push(page);
        assert!(pages.len() < 1_000, "there is no end of it");
        if after.is_none() {
            return pages;
        }
    }
}

pub(crate) async fn what_is_due_is_found_page_by_page(storage: Shared) {
    let scheduled = |at| {
        let rotation = RotationSchedule { at, every_days: None, expire_current_in_minutes: 0 };
        KeyRecord { rotation: Some(rotation), ..bare_key(0) }
    };
    let ending = |at| KeyRecord { ends_at: Some(at), ..bare_key(0) };
    let numbered =
        |number, key| KeyRecord { id: bare_key(number).id, digest: digest(number), ..key };
    for (number, at) in [(1, 20), (2, 10), (3, 10), (4, 30), (5, 10), (6, 20)] {
        create_key(&*storage, numbered(number, scheduled(at))).await.unwrap();
        create_key(&*storage, numbered(number + 10, ending(at))).await.unwrap();
    }
    for (limit, rotations, ends) in [
        (1, "2 / 3 / 5 / 1 / 6 / 4 / ", "12 / 13 / 15 / 11 / 16 / 14 / "),
        (2, "2 3 / 5 1 / 6 4 / ", "12 13 / 15 11 / 16 14 / "),
        (4, "2 3 5 1 / 6 4", "12 13 15 11 / 16 14"),
        (9, "2 3 5 1 6 4", "12 13 15 11 16 14"),
    ] {
        for (is_rotation, expected) in [(true, rotations), (false, ends)] {
            let pages = due(&*storage, is_rotation, 30, limit).await;
            let pages: Vec<_> = pages.iter().map(numbers).collect();
            assert_eq!(pages.join(" / "), expected, "{limit}");
        }
    }

    // Whatever becomes of what was found, and of what is behind it.
    let first = storage.due_rotations(30, None, 2).await.unwrap();
    let ended = storage.unnoted_ends(30, None, 2).await.unwrap();
    let find = async |number| storage.find_key(&bare_key(number).id).await.unwrap().unwrap();
    let at = |key: KeyRecord, at| KeyRecord { rotation: scheduled(at).rotation, ..key };
    let changed_keys = vec![
        KeyRecord { rotation: None, ..find(3).await },
        at(find(2).await, 31),
        KeyRecord { rotation: None, ..find(1).await },
        KeyRecord { end_noted: true, ..find(13).await },
        KeyRecord { end_noted: true, ..find(11).await },
    ];
    // Made by a search, with what is due at once.
    let new_keys = vec![
        numbered(7, scheduled(10)),
        numbered(8, scheduled(25)),
        numbered(17, ending(10)),
        numbered(18, ending(25)),
    ];
    commit(&*storage, Change { changed_keys, new_keys, ..Change::default() }).await.unwrap();
    let found = storage.due_rotations(30, first.next, 9).await.unwrap();
    assert_eq!(numbers(&found), "5 6 4");
    let found = storage.unnoted_ends(30, ended.next, 9).await.unwrap();
    assert_eq!(numbers(&found), "15 16 14");
    let found = storage.due_rotations(30, None, 9).await.unwrap();
    assert_eq!(numbers(&found), "5 7 6 8 4");
    let found = storage.unnoted_ends(30, None, 9).await.unwrap();
    assert_eq!(numbers(&found), "12 15 17 16 18 14");
}

pub(crate) async fn ends_are_noted_once(storage: Shared) {
    for (number, ends_at, end_noted) in
        [(1, Some(20), false), (2, Some(10), false), (3, None, false), (4, Some(5), true)]
    {
        let key = KeyRecord { ends_at, end_noted, ..bare_key(number) };
        create_key(&*storage, key).await.unwrap();
    }
    let check = async |now, limit, expected: &str| {
        let found = storage.unnoted_ends(now, None, limit).await.unwrap();
        assert_eq!(numbers(&found), expected, "{now} {limit}");
        found
    };
    check(9, 9, "").await;
    check(10, 9, "2").await;
    check(20, 1, "2").await;
    let both = check(20, 9, "2 1").await;
    let first = both.keys.into_iter().flatten().next().unwrap();
    let noted = KeyRecord { end_noted: true, ..first };
    commit(&*storage, Change { changed_keys: vec![noted], ..Change::default() }).await.unwrap();
    check(u64::MAX, 9, "1").await;
}

pub(crate) async fn imported_digests_are_those_of_imported_keys(storage: Shared) {
    for (number, imported) in [(1, true), (2, false), (3, true)] {
        create_key(&*storage, KeyRecord { imported, ..key(number) }).await.unwrap();
    }
    let mut found: Vec<_> =
        storage.imported_digests().await.unwrap().iter().map(Digest::to_hex).collect();
    found.sort_unstable();
    assert_eq!(found, [digest(1).to_hex(), digest(3).to_hex()]);
}

pub(crate) async fn sealed_secrets_are_replaced_where_they_are_as_read(storage: Shared) {
    for (number, sealed) in [(1, Some(1)), (2, None), (3, Some(3)), (4, Some(4))] {
        let sealed_secret = sealed.map(|byte| vec![byte]);
        create_key(&*storage, KeyRecord { sealed_secret, ..key(number) }).await.unwrap();
    }
    let check = async |after: Option<&str>, limit, expected: &[(&str, u8)]| {
        let found = storage.sealed_secrets(after, limit).await.unwrap();
        let expected: Vec<_> =
            expected.iter().map(|(id, byte)| ((*id).to_owned(), vec![*byte])).collect();
        assert_eq!(found, expected, "{after:?} {limit}");
    };
    check(None, 9, &[("key_1", 1), ("key_3", 3), ("key_4", 4)]).await;
    check(None, 2, &[("key_1", 1), ("key_3", 3)]).await;
    check(Some("key_3"), 2, &[("key_4", 4)]).await;
    check(Some("key_4"), 2, &[]).await;

    let replace = |id: &str, old, new| (id.to_owned(), vec![old], vec![new]);
    storage
        .replace_sealed_secrets(vec![
            replace("key_1", 1, 11),
            replace("key_2", 2, 12),
            replace("key_3", 9, 13),
            replace("key_4", 4, 14),
            replace("key_9", 9, 19),
        ])
        .await
        .unwrap();
    check(None, 9, &[("key_1", 11), ("key_3", 3), ("key_4", 14)]).await;

    // A change from before that would bring back the old secret comes too late.
    let late = KeyRecord { sealed_secret: Some(vec![1]), ..key(1) };
    let late = Change { changed_keys: vec![late], ..Change::default() };
    assert_changed(commit(&*storage, late).await, "key_1");
    let untouched = Change { changed_keys: vec![key(3)], ..Change::default() };
    commit(&*storage, untouched).await.unwrap();
}

pub(crate) async fn a_stored_use_never_goes_back(storage: Shared) {
    create_key(&*storage, bare_key(1)).await.unwrap();
    let rows = [
        // The time, source and endpoint of a use and when money moved, and what is
        // stored then.
        ((10, "192.0.2.1", "GET /a", None), (10, "192.0.2.1", "GET /a", None)),
        ((12, "192.0.2.2", "GET /b", Some(11)), (12, "192.0.2.2", "GET /b", Some(11))),
        ((11, "192.0.2.3", "GET /c", Some(10)), (12, "192.0.2.2", "GET /b", Some(11))),
        ((12, "::1", "POST /d", None), (12, "::1", "POST /d", Some(11))),
        ((13, "192.0.2.5", "", None), (13, "192.0.2.5", "", Some(11))),
        ((0, "192.0.2.6", "GET /f", Some(14)), (13, "192.0.2.5", "", Some(14))),
    ];
    for ((at, source, endpoint, money_moved_at), expected) in rows {
        let mark = |id: &str| UsageMark {
            key_id: id.to_owned(),
            last_use: last_use(at, source, endpoint),
            money_moved_at,
        };
        storage.record_usage(vec![mark("key_9"), mark("key_1")]).await.unwrap();
        let key = storage.find_key("key_1").await.unwrap().unwrap();
        let (at, source, endpoint, money_moved_at) = expected;
        assert_eq!(key.last_use, Some(last_use(at, source, endpoint)));
        assert_eq!(key.money_moved_at, money_moved_at);
        assert_eq!(key.revision, 7, "a use is no change");
    }
}

pub(crate) async fn the_log_returns_the_newest_entries(storage: Shared) {
    let bare = LogEntry {
        account: None,
        code: Some("api_key_expired".to_owned()),
        source: "2001:db8::1".parse().unwrap(),
        ..entry(3, None)
    };
    let [one, two, four] =
        [(1, "key_1"), (2, "key_2"), (4, "key_1")].map(|(n, id)| entry(n, Some(id)));
    storage.append_log([one.clone(), two.clone()].into()).await.unwrap();
    storage.append_log([].into()).await.unwrap();
    storage.append_log([bare.clone(), four.clone()].into()).await.unwrap();

    let all = [four.clone(), bare, two, one.clone()];
    for (key_id, limit, expected) in [
        (None, 9, &all[..]),
        (None, 2, &all[..2]),
        (Some("key_1"), 9, &[four, one]),
        (Some("key_9"), 9, &[]),
    ] {
        let key_id = key_id.map(str::to_owned);
        let filter = LogFilter { key_id, limit, ..LogFilter::default() };
        let found = storage.find_log(filter.clone()).await.unwrap();
        let entries: Vec<_> = found.iter().map(|(_, entry)| entry.clone()).collect();
        assert_eq!(entries, expected, "{filter:?}");
        assert!(found.is_sorted_by(|one, next| one.0 > next.0), "{filter:?}");
    }
}

pub(crate) async fn the_log_is_filtered_by_everything_at_once(storage: Shared) {
    let live = KeyRecord { account: "acct_1".to_owned(), mode: Mode::Live, ..key(1) };
    let test = KeyRecord { account: "acct_2".to_owned(), mode: Mode::Test, ..key(2) };
    commit(&*storage, Change { new_keys: vec![live, test], ..Change::default() }).await.unwrap();
    let row = |number, key_id: Option<&str>, account: Option<&str>, status, code: Option<&str>| {
        LogEntry {
            account: account.map(str::to_owned),
            status,
            code: code.map(str::to_owned),
            ..entry(number, key_id)
        }
    };
    let entries = [
        row(1, Some("key_1"), Some("acct_1"), 200, None),
        row(2, Some("key_2"), Some("acct_1"), 403, Some("denied")),
        row(3, None, None, 401, Some("key_invalid")),
        row(4, Some("key_1"), None, 429, Some("denied")),
        LogEntry {
            method: "POST".to_owned(),
            path: "/v1/refunds".to_owned(),
            ..row(5, Some("key_2"), Some("acct_2"), 200, None)
        },
        row(6, Some("key_9"), Some("acct_9"), 500, Some("denied")),
    ];
    storage.append_log(entries.into()).await.unwrap();
    let all = storage.find_log(LogFilter { limit: 9, ..LogFilter::default() }).await.unwrap();
    let position = |number: usize| all[6 - number].0;

    let all = || LogFilter { limit: 9, ..LogFilter::default() };
    let name = |text: &str| Some(text.to_owned());
    let ms = |number: u64| Some(1_700_000_000_000 + number);
    let rows = [
        (all(), "6 5 4 3 2 1"),
        (LogFilter { before: Some(position(4)), ..all() }, "3 2 1"),
        (LogFilter { before: Some(position(1)), ..all() }, ""),
        (LogFilter { before: Some(0), ..all() }, ""),
        (LogFilter { before: Some(u64::MAX), ..all() }, "6 5 4 3 2 1"),
        (LogFilter { limit: 0, ..all() }, ""),
        (LogFilter { key_id: name("key_1"), ..all() }, "4 1"),
        (LogFilter { key_id: name("key_1"), before: Some(position(4)), ..all() }, "1"),
        (LogFilter { key_id: name("key_1"), before: Some(0), ..all() }, ""),
        (LogFilter { key_id: name("key_1"), code: name("denied"), ..all() }, "4"),
        (LogFilter { key_id: name("key_2"), account: name("acct_1"), ..all() }, "2"),
        // Acted on, or made with a key of.
        (LogFilter { account: name("acct_1"), ..all() }, "4 2 1"),
        (LogFilter { account: name("acct_2"), ..all() }, "5 2"),
        (LogFilter { account: name("acct_9"), ..all() }, "6"),
        (LogFilter { account: name("acct_7"), ..all() }, ""),
        // Only where the key is known.
        (LogFilter { mode: Some(Mode::Live), ..all() }, "4 1"),
        (LogFilter { mode: Some(Mode::Test), ..all() }, "5 2"),
        (LogFilter { mode: Some(Mode::Test), key_id: name("key_1"), ..all() }, ""),
        (LogFilter { from_ms: ms(3), ..all() }, "6 5 4 3"),
        (LogFilter { until_ms: ms(3), ..all() }, "2 1"),
        (LogFilter { from_ms: ms(2), until_ms: ms(4), ..all() }, "3 2"),
        (LogFilter { from_ms: ms(7), ..all() }, ""),
        (LogFilter { statuses: Some((400, 499)), ..all() }, "4 3 2"),
        (LogFilter { statuses: Some((401, 401)), ..all() }, "3"),
        (LogFilter { code: name("denied"), ..all() }, "6 4 2"),
        (LogFilter { code: name("Denied"), ..all() }, ""),
        (LogFilter { method: name("POST"), ..all() }, "5"),
        (LogFilter { path: name("/v1/refunds"), ..all() }, "5"),
        (LogFilter { path: name("/v1/refund"), ..all() }, ""),
        (
            LogFilter {
                key_id: name("key_2"),
                account: name("acct_1"),
                mode: Some(Mode::Test),
                from_ms: ms(2),
                until_ms: ms(3),
                statuses: Some((403, 403)),
                code: name("denied"),
                method: name("GET"),
                path: name("/v1/charges/:id"),
                before: Some(position(3)),
                limit: 1,
            },
            "2",
        ),
    ];
    for (filter, expected) in rows {
        let found = storage.find_log(filter.clone()).await.unwrap();
        let found: Vec<_> =
            found.iter().map(|(_, entry)| entry.request_id.trim_start_matches("req_")).collect();
        assert_eq!(found.join(" "), expected, "{filter:?}");
    }
}

pub(crate) async fn what_is_old_is_dropped(storage: Shared) {
    for (idempotency_key, at) in [("one", 10), ("two", 20), ("three", 30)] {
        let reply = Some(KeptReply { at, ..reply(idempotency_key) });
        commit(&*storage, Change { reply, ..Change::default() }).await.unwrap();
    }
    // The third was answered before the second, though it came later.
    let entries = [1, 3, 2, 4, 5].map(|number| entry(number, Some("key_1")));
    storage.append_log(entries.into()).await.unwrap();
    let ms = |number: u64| Some(1_700_000_000_000 + number);
    let rows = [
        // From before when, and how many went; what is left.
        (None, 0, 0, "5 4 2 3 1", "one two three"),
        (ms(1), 20, 0, "5 4 2 3 1", "two three"),
        (ms(3), 20, 1, "5 4 2 3", "two three"),
        (ms(4), 31, 2, "5 4", ""),
        (ms(99), 31, 2, "", ""),
        (ms(99), 31, 0, "", ""),
    ];
    for (log_before, replies_before, dropped, log, replies) in rows {
        let row = (log_before, replies_before);
        let found = storage.drop_old(log_before, replies_before).await.unwrap();
        assert_eq!(found, dropped, "{row:?}");
        for key_id in [None, Some("key_1".to_owned())] {
            let filter = LogFilter { key_id, limit: 9, ..LogFilter::default() };
            let found = storage.find_log(filter).await.unwrap();
            let found: Vec<_> = found
                .iter()
                .map(|(_, entry)| entry.request_id.trim_start_matches("req_"))
                .collect();
            assert_eq!(found.join(" "), log, "{row:?}");
        }
        let mut found = Vec::new();
        for idempotency_key in ["one", "two", "three"] {
            let reply = storage.find_reply("operator", idempotency_key).await.unwrap();
            found.extend(reply.map(|reply| reply.idempotency_key));
        }
        assert_eq!(found.join(" "), replies, "{row:?}");
    }
}

pub(crate) async fn a_storage_that_is_no_copy_has_no_mark(storage: Shared) {
    assert_eq!(storage.backup_made_at().await.unwrap(), None);
    storage.accept_backup().await.unwrap();
}

pub(crate) async fn objects_belong_to_an_account_and_a_mode(storage: Shared) {
    let customer = object("cus_1", "customers");
    storage.put_object("acct_1", Mode::Test, customer.clone()).await.unwrap();
    let rows = [
        ("acct_1", Mode::Test, "cus_1", Some(customer)),
        ("acct_1", Mode::Live, "cus_1", None),
        ("acct_2", Mode::Test, "cus_1", None),
        ("acct_1", Mode::Test, "cus_2", None),
    ];
    for (account, mode, id, expected) in rows {
        let found = storage.find_object(account, mode, id).await.unwrap();
        assert_eq!(found, expected, "{account} {mode:?} {id}");
    }
    assert!(!storage.delete_object("acct_1", Mode::Live, "cus_1").await.unwrap());
    assert!(storage.delete_object("acct_1", Mode::Test, "cus_1").await.unwrap());
    assert!(!storage.delete_object("acct_1", Mode::Test, "cus_1").await.unwrap());
}

pub(crate) async fn a_changed_object_keeps_its_place(storage: Shared) {
    for id in ["cus_1", "cus_2"] {
        let customer = object(id, "customers");
        storage.put_object("acct_1", Mode::Test, customer).await.unwrap();
    }
    let changed = ObjectRecord { body: json!({ "name": "Jenny" }), ..object("cus_1", "customers") };
    storage.put_object("acct_1", Mode::Test, changed.clone()).await.unwrap();
    let page = Page { limit: 9, ..Page::default() };
    let (objects, has_more) =
        storage.list_objects("acct_1", Mode::Test, "customers", page).await.unwrap();
    assert_eq!(objects, [object("cus_2", "customers"), changed]);
    assert!(!has_more);
}

pub(crate) async fn objects_are_listed_page_by_page(storage: Shared) {
    for number in 1..=5 {
        for (account, mode) in
            [("acct_1", Mode::Test), ("acct_1", Mode::Live), ("acct_2", Mode::Test)]
        {
            for collection in ["customers", "accounts/acct_1/persons"] {
                let id = format!("{collection}_{number}");
                storage.put_object(account, mode, object(&id, collection)).await.unwrap();
            }
        }
    }
    let check = async |limit, after: Option<u32>, before: Option<u32>, expected: &str| {
        let cursor = |number: u32| format!("customers_{number}");
        let page =
            Page { limit, starting_after: after.map(cursor), ending_before: before.map(cursor) };
        let (objects, has_more) =
            storage.list_objects("acct_1", Mode::Test, "customers", page.clone()).await.unwrap();
        let mut found: Vec<_> =
            objects.iter().map(|object| object.id.trim_start_matches("customers_")).collect();
        found.extend(has_more.then_some("more"));
        assert_eq!(found.join(" "), expected, "{page:?}");
    };
    check(9, None, None, "5 4 3 2 1").await;
    check(5, None, None, "5 4 3 2 1").await;
    check(usize::MAX, None, None, "5 4 3 2 1").await;
    check(2, None, None, "5 4 more").await;
    check(0, None, None, "more").await;
    check(2, Some(4), None, "3 2 more").await;
    check(2, Some(3), None, "2 1").await;
    check(2, Some(1), None, "").await;
    check(2, Some(9), None, "").await;
    check(2, None, Some(1), "3 2 more").await;
    check(2, None, Some(3), "5 4").await;
    check(2, None, Some(5), "").await;
    check(2, None, Some(9), "").await;
    check(2, Some(5), Some(1), "4 3 more").await;
}

pub(crate) async fn the_first_answer_stays(storage: Shared) {
    let first = StoredAnswer { request_digest: digest(1), status: 200, body: vec![0, 255] };
    let second = StoredAnswer { request_digest: digest(2), status: 402, body: Vec::new() };
    for answer in [&first, &second] {
        storage.keep_answer("acct_1", Mode::Test, "again", 100, answer.clone()).await.unwrap();
    }
    storage.keep_answer("acct_1", Mode::Live, "again", 100, second.clone()).await.unwrap();
    let rows = [
        ("acct_1", Mode::Test, "again", Some(first)),
        ("acct_1", Mode::Live, "again", Some(second)),
        ("acct_2", Mode::Test, "again", None),
        ("acct_1", Mode::Test, "Again", None),
    ];
    for (account, mode, key, expected) in rows {
        let found = storage.find_answer(account, mode, key).await.unwrap();
        assert_eq!(found, expected, "{account} {mode:?} {key}");
    }
}

pub(crate) async fn answers_outlive_a_day_only(storage: Shared) {
    const DAY: u64 = 24 * 60 * 60;
    let answer = |status| StoredAnswer { request_digest: digest(1), status, body: Vec::new() };
    let keep = async |key: &str, now, status| {
        storage.keep_answer("acct_1", Mode::Test, key, now, answer(status)).await.unwrap();
    };
    let find = async |key: &str| storage.find_answer("acct_1", Mode::Test, key).await.unwrap();
    keep("old", 100, 200).await;
    keep("new", 99 + DAY, 200).await;
    assert_eq!(find("old").await, Some(answer(200)));
    keep("old", 100 + DAY, 201).await;
    assert_eq!(find("old").await, Some(answer(201)), "the key is free again");
    assert_eq!(find("new").await, Some(answer(200)));
}

pub(crate) async fn a_policy_comes_back_byte_for_byte(storage: Shared) {
    assert_eq!(storage.list_policies().await.unwrap(), []);
    assert_eq!(storage.find_policy(digest(1)).await.unwrap(), None);
    let every_byte: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let rows = [&every_byte[..], b"\0", b"", b"\0asm\r\n"];
    for bytes in rows {
        push(&*storage, bytes).await.unwrap();
        let found = storage.find_policy(Digest::of_bytes(bytes)).await.unwrap();
        assert!(found == Some(policy(bytes)), "{} bytes", bytes.len());
    }
    let bare = PolicyRecord { signature: None, retired_at: Some(0), revision: 0, ..policy(b"b").0 };
    let new_policies = vec![(bare.clone(), b"b"[..].into())];
    commit(&*storage, Change { new_policies, ..Change::default() }).await.unwrap();
    let listed = storage.list_policies().await.unwrap();
    let expected = [bare].into_iter().chain(rows.iter().rev().map(|bytes| policy(bytes).0));
    assert_eq!(listed, expected.collect::<Vec<_>>(), "the newest first");
}

pub(crate) async fn policies_are_found_between_two_digests(storage: Shared) {
    let at = |first: u8, last: u8| {
        let mut bytes = [0; 32];
        (bytes[0], bytes[31]) = (first, last);
        Digest::from_bytes(bytes)
    };
    // The last of them in order is not the last that was pushed.
    let digests = [at(0x80, 0), at(0xFF, 0xFF), at(0x7F, 0xFF), at(0, 0)];
    for digest in digests {
        let record = PolicyRecord { digest, ..policy(b"rules").0 };
        let new_policies = vec![(record, b"rules"[..].into())];
        commit(&*storage, Change { new_policies, ..Change::default() }).await.unwrap();
    }
    let [c, d, b, a] = digests;
    for (first, last, limit, expected) in [
        (at(0, 0), at(0xFF, 0xFF), 9, &[a, b, c, d][..]),
        (at(0, 0), at(0xFF, 0xFF), 2, &[a, b]),
        (at(0, 1), at(0xFF, 0xFE), 9, &[b, c]),
        (b, c, 9, &[b, c]),
        (c, c, 9, &[c]),
        (at(0x80, 1), at(0xFF, 0xFE), 9, &[]),
        (d, a, 9, &[]),
        (a, d, 0, &[]),
    ] {
        let found = storage.find_policies(first, last, limit).await.unwrap();
        let found: Vec<Digest> = found.iter().map(|record| record.digest).collect();
        assert_eq!(found, expected, "{first:?} {last:?} {limit}");
    }
}

pub(crate) async fn a_policy_is_kept_once(storage: Shared) {
    push(&*storage, b"rules").await.unwrap();
    let (mut again, bytes) = policy(b"rules");
    again.name = "another name".to_owned();
    let change = Change {
        new_policies: vec![policy(b"other rules"), (again.clone(), bytes)],
        audit: vec![audit_entry("operator", None)],
        ..Change::default()
    };
    assert_exists(commit(&*storage, change).await, &again.digest.to_hex());
    assert_eq!(storage.list_policies().await.unwrap(), [policy(b"rules").0]);
    assert_eq!(audit_length(&*storage).await, 1);
}

pub(crate) async fn activations_are_numbered_one_after_the_other(storage: Shared) {
    assert_eq!(storage.list_activations(9).await.unwrap(), []);
    let (one, two) = (policy(b"one").0.digest, policy(b"two").0.digest);
    push(&*storage, b"one").await.unwrap();
    push(&*storage, b"two").await.unwrap();
    let rows = [
        // The number, what it is of, and whether it is the next one.
        (0, None, false),
        (2, None, false),
        (1, Some(one), true),
        (1, Some(two), false),
        (3, Some(two), false),
        (2, None, true),
        (3, Some(one), true),
        (u64::MAX, Some(one), false),
    ];
    let (mut expected, mut told) = (Vec::new(), 2);
    for (number, policy, is_next) in rows {
        let wanted = Activation { overlays: vec![two, one], ..activation(number, policy) };
        let done = activate(&*storage, wanted.clone()).await;
        if is_next {
            done.unwrap();
            expected.insert(0, wanted);
            told += 1;
        } else {
            assert_changed(done, "activation");
        }
        assert_eq!(storage.list_activations(usize::MAX).await.unwrap(), expected, "{number}");
        assert_eq!(audit_length(&*storage).await, told, "{number}");
    }
    assert_eq!(storage.list_activations(1).await.unwrap(), expected[..1]);
    assert_eq!(storage.list_activations(0).await.unwrap(), []);
}

pub(crate) async fn of_concurrent_activations_one_wins(storage: Shared) {
    let tasks: Vec<_> = (0..16)
        .map(|number| {
            let storage = Arc::clone(&storage);
            let wanted = Activation { at: number, ..activation(1, None) };
            tokio::spawn(async move { activate(&*storage, wanted).await.map(|()| number) })
        })
        .collect();
    let mut winners = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(number) => winners.push(number),
            Err(StorageError::Changed { .. }) => {}
            Err(err) => panic!("{err:?}"),
        }
    }
    let stored = storage.list_activations(99).await.unwrap();
    assert_eq!(stored.iter().map(|one| one.at).collect::<Vec<_>>(), winners);
    assert_eq!((winners.len(), audit_length(&*storage).await), (1, 1));
}

pub(crate) async fn only_a_policy_that_is_there_and_not_retired_is_put_in_force(storage: Shared) {
    push(&*storage, b"one").await.unwrap();
    push(&*storage, b"old").await.unwrap();
    let (one, old) = (policy(b"one").0.digest, policy(b"old").0.digest);
    retire(&*storage, old, 9).await.unwrap();
    let before = audit_length(&*storage).await;
    for (policy, overlays, expected) in [
        (Some(digest(1)), vec![], digest(1)),
        (Some(old), vec![], old),
        (Some(one), vec![old], old),
        (None, vec![one, digest(1)], digest(1)),
    ] {
        let wanted = Activation { overlays, ..activation(1, policy) };
        assert_changed(activate(&*storage, wanted).await, &expected.to_hex());
    }
    assert_eq!(storage.list_activations(9).await.unwrap(), []);
    assert_eq!(audit_length(&*storage).await, before);
    activate(&*storage, activation(1, Some(one))).await.unwrap();
}

pub(crate) async fn a_policy_is_retired_once(storage: Shared) {
    push(&*storage, b"one").await.unwrap();
    push(&*storage, b"two").await.unwrap();
    let (one, two) = (policy(b"one"), policy(b"two").0);
    let retired = PolicyRecord { retired_at: Some(9), ..one.0.clone() };
    for at in [9, 10, 8] {
        retire(&*storage, one.0.digest, at).await.unwrap();
        assert_eq!(storage.list_policies().await.unwrap(), [two.clone(), retired.clone()]);
        // The request log names it: its bytes stay.
        let found = storage.find_policy(one.0.digest).await.unwrap();
        assert_eq!(found, Some((retired.clone(), Arc::clone(&one.1))));
    }
    assert_changed(retire(&*storage, digest(1), 9).await, &digest(1).to_hex());
}

pub(crate) async fn a_policy_that_is_signed_later_keeps_the_rest(storage: Shared) {
    let (record, bytes) = policy(b"one");
    let unsigned = PolicyRecord { signature: None, revision: 3, ..record };
    let new_policies = vec![(unsigned.clone(), Arc::clone(&bytes))];
    commit(&*storage, Change { new_policies, ..Change::default() }).await.unwrap();
    push(&*storage, b"two").await.unwrap();
    retire(&*storage, unsigned.digest, 9).await.unwrap();
    let signed = PolicyRecord {
        name: "signed".to_owned(),
        version: "2".to_owned(),
        revision: 2,
        signature: Some([0x5F; 64]),
        ..unsigned.clone()
    };
    // What is not signed is not taken from there.
    let signed_policies = vec![PolicyRecord {
        interfaces: "other".to_owned(),
        size_bytes: 1,
        pushed_at: 77,
        pushed_by: "somebody".to_owned(),
        ..signed.clone()
    }];
    commit(&*storage, Change { signed_policies, ..Change::default() }).await.unwrap();
    let expected = PolicyRecord { retired_at: Some(9), ..signed.clone() };
    assert_eq!(storage.list_policies().await.unwrap(), [policy(b"two").0, expected.clone()]);
    let found = storage.find_policy(unsigned.digest).await.unwrap();
    assert_eq!(found, Some((expected, bytes)));

    let missing = PolicyRecord { digest: digest(1), ..signed };
    let id = missing.digest.to_hex();
    let change = Change { signed_policies: vec![missing], ..Change::default() };
    assert_changed(commit(&*storage, change).await, &id);
}
