//! What every backend must keep, as functions over `dyn Storage`.
//!
//! A backend's tests call `storage_contract!` with a function that makes an
//! empty storage, together with whatever must outlive it.

use std::{net::IpAddr, sync::Arc};

use serde_json::json;

use super::*;

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
            a_stored_use_never_goes_back,
            the_log_returns_the_newest_entries,
            objects_belong_to_an_account_and_a_mode,
            a_changed_object_keeps_its_place,
            objects_are_listed_page_by_page,
            the_first_answer_stays,
            answers_outlive_a_day_only,
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
        last_used_at: Some(5),
        attributes: vec![
            ("a".to_owned(), "\"quoted\"".to_owned()),
            ("b".to_owned(), String::new()),
        ],
    }
}

/// A key with nothing in the fields that may be empty.
fn bare_key(number: u64) -> KeyRecord {
    KeyRecord {
        sealed_secret: None,
        ipv4_networks: Vec::new(),
        ends_at: None,
        restored_at: None,
        money_moved_at: None,
        last_used_at: None,
        attributes: Vec::new(),
        ..key(number)
    }
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

fn assert_exists(result: StorageResult<()>, expected: &str) {
    match result {
        Err(StorageError::Exists { id }) => assert_eq!(id, expected),
        other => panic!("{expected} should exist: {other:?}"),
    }
}

pub(crate) async fn a_key_is_found_by_digest_and_by_id(storage: Shared) {
    for key in [key(1), bare_key(2)] {
        storage.create_key(key.clone()).await.unwrap();
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
    assert!(!storage.set_organization("acct_1", None).await.unwrap());
    storage.ping().await.unwrap();
}

pub(crate) async fn a_digest_belongs_to_one_key(storage: Shared) {
    storage.create_key(key(1)).await.unwrap();
    let same_digest = KeyRecord { id: "key_2".to_owned(), ..key(1) };
    let same_id = KeyRecord { digest: digest(2), ..key(1) };
    assert_exists(storage.create_key(same_digest).await, "key_2");
    assert_exists(storage.create_key(same_id).await, "key_1");
    assert_eq!(storage.find_key("key_2").await.unwrap(), None);
    assert_eq!(storage.find_key_by_digest(digest(2)).await.unwrap(), None);
}

pub(crate) async fn of_many_that_create_the_same_digest_one_wins(storage: Shared) {
    let tasks: Vec<_> = (0..16)
        .map(|number| {
            let storage = Arc::clone(&storage);
            let key = KeyRecord { digest: digest(0), ..key(number) };
            tokio::spawn(async move { storage.create_key(key).await.map(|()| number) })
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
        storage.create_key(key).await.unwrap();
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
        storage.create_account(account, Vec::new()).await.unwrap();
    }
    let asked = ["acct_3", "acct_9", "acct_1", "acct_3"].map(str::to_owned).to_vec();
    let found = storage.find_accounts(asked).await.unwrap();
    let three = Some(account("acct_3"));
    assert_eq!(found, [three.clone(), None, Some(platform), three]);
    let oldest = storage.list_accounts(2).await.unwrap();
    let ids: Vec<_> = oldest.iter().map(|account| account.id.as_str()).collect();
    assert_eq!(ids, ["acct_2", "acct_1"]);
}

pub(crate) async fn an_account_is_stored_with_its_keys_or_not_at_all(storage: Shared) {
    storage.create_account(account("acct_1"), vec![key(1), key(2)]).await.unwrap();
    assert_eq!(storage.find_key("key_2").await.unwrap(), Some(key(2)));

    let again = storage.create_account(account("acct_2"), vec![key(3), key(1)]).await;
    assert_exists(again, "key_1");
    let found = storage.find_accounts(vec!["acct_2".to_owned()]).await.unwrap();
    assert_eq!(found, [None]);
    assert_eq!(storage.find_key("key_3").await.unwrap(), None);

    let again = storage.create_account(account("acct_1"), vec![key(4)]).await;
    assert_exists(again, "acct_1");
    assert_eq!(storage.find_key("key_4").await.unwrap(), None);
}

pub(crate) async fn an_account_joins_and_leaves_an_organization(storage: Shared) {
    let organization = OrganizationRecord {
        id: "org_1".to_owned(),
        name: "Rocket Holdings".to_owned(),
        created_at: 6,
    };
    storage.create_organization(organization.clone()).await.unwrap();
    assert_exists(storage.create_organization(organization.clone()).await, "org_1");
    let found = storage.find_organization("org_1").await.unwrap();
    assert_eq!(found, Some(organization));

    storage.create_account(account("acct_1"), Vec::new()).await.unwrap();
    for expected in [Some("org_1"), None] {
        assert!(storage.set_organization("acct_1", expected).await.unwrap());
        let found = storage.find_accounts(vec!["acct_1".to_owned()]).await.unwrap();
        let organization = found[0].as_ref().unwrap().organization.as_deref();
        assert_eq!(organization, expected);
    }
    assert!(!storage.set_organization("acct_9", Some("org_1")).await.unwrap());
    // Only where there is such an organization.
    storage.set_organization("acct_1", Some("org_9")).await.unwrap_err();
}

pub(crate) async fn a_stored_use_never_goes_back(storage: Shared) {
    storage.create_key(bare_key(1)).await.unwrap();
    let rows = [
        ((10, None), (Some(10), None)),
        ((12, Some(11)), (Some(12), Some(11))),
        ((11, Some(10)), (Some(12), Some(11))),
        ((13, None), (Some(13), Some(11))),
        ((0, Some(14)), (Some(13), Some(14))),
    ];
    for ((last_used_at, money_moved_at), expected) in rows {
        let mark = |id: &str| UsageMark { key_id: id.to_owned(), last_used_at, money_moved_at };
        storage.record_usage(vec![mark("key_9"), mark("key_1")]).await.unwrap();
        let key = storage.find_key("key_1").await.unwrap().unwrap();
        assert_eq!((key.last_used_at, key.money_moved_at), expected);
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
    assert_eq!(storage.recent_log(None, 9).await.unwrap(), all);
    assert_eq!(storage.recent_log(None, 2).await.unwrap(), all[..2]);
    assert_eq!(storage.recent_log(Some("key_1"), 9).await.unwrap(), [four, one]);
    assert_eq!(storage.recent_log(Some("key_9"), 9).await.unwrap(), []);
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
