//! What an SDK sees, row by row.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use axum::http::Request;
use serde_json::json;

use super::*;
use crate::{
    audit::AuditKey,
    secret::Digest,
    storage::{
        AccountRecord, Activation, AuditFilter, Change, DuePage, DuePosition, KeptReply, KeyFilter,
        KeyRecord, LogEntry, LogFilter, ObjectRecord, OrganizationRecord, Page, PolicyRecord,
        SealedAuditEntry, StorageResult, UsageMark,
    },
};

const NOW: u64 = 1_790_000_000;

const TEST: Caller<'_> = caller("acct_1", Mode::Test, false);
const LIVE: Caller<'_> = caller("acct_1", Mode::Live, false);
const FRONT_END: Caller<'_> = caller("acct_1", Mode::Test, true);
const STRANGER: Caller<'_> = caller("acct_2", Mode::Test, false);

const fn caller(account: &str, mode: Mode, client_secret_required: bool) -> Caller<'_> {
    Caller { account, mode, client_secret_required }
}

/// The API over a storage that can be made to fail.
struct World {
    storage: Arc<Memory>,
    api: Simulated,
}

impl World {
    fn new() -> Self {
        let storage = Arc::new(Memory::default());
        let api = Simulated::new(storage.clone());
        Self { storage, api }
    }

    /// Sends `METHOD /path parameters` and returns status, headers and body.
    async fn send(
        &self,
        caller: Caller<'_>,
        request: &str,
        headers: &[(&str, &str)],
    ) -> (u16, HeaderMap, Value) {
        let mut words = request.splitn(3, ' ');
        let mut next = || words.next().unwrap_or_default().to_owned();
        let (method, path, params) = (next(), next(), next());
        let is_post = method == "POST";
        let uri = match is_post || params.is_empty() {
            true => path,
            false => format!("{path}?{params}"),
        };
        let body = if is_post { params } else { String::new() };
        let mut builder = Request::builder().method(method.as_str()).uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let request = builder.body(Body::from(body)).unwrap();
        let response = self.api.serve(caller, NOW, request).await;
        let (parts, body) = response.into_parts();
        assert_eq!(parts.headers["content-type"], "application/json");
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap();
        (parts.status.as_u16(), parts.headers, body)
    }

    /// Makes an object and returns its id.
    async fn make(&self, caller: Caller<'_>, request: &str) -> String {
        let (status, _, body) = self.send(caller, request, &[]).await;
        assert_eq!(status, 200, "`{request}`: {body}");
        body["id"].as_str().unwrap().to_owned()
    }

    /// The one place that judges an answer: the status, and the fields that
    /// `expected` names.
    async fn check(&self, caller: Caller<'_>, request: &str, status: u16, expected: Value) {
        let (answered, _, body) = self.send(caller, request, &[]).await;
        assert_eq!(answered, status, "`{request}`: {body}");
        assert!(holds(&body, &expected), "`{request}`: {body} lacks {expected}");
    }

    async fn check_invalid(&self, request: &str, code: Value, param: Value) {
        let error = json!({ "type": "invalid_request_error", "code": code, "param": param });
        self.check(TEST, request, 400, json!({ "error": error })).await;
    }

    async fn check_missing(&self, caller: Caller<'_>, request: &str, message: &str) {
        let error = json!({ "code": "resource_missing", "param": "id", "message": message });
        self.check(caller, request, 404, json!({ "error": error })).await;
    }

    /// Checks which objects a list shows, and whether it says there are more.
    async fn check_list(&self, request: &str, ids: &[&String], has_more: bool) {
        let (status, _, body) = self.send(TEST, request, &[]).await;
        assert_eq!(status, 200, "`{request}`: {body}");
        let shown: Vec<_> = body["data"].as_array().unwrap().iter().collect();
        let shown: Vec<_> = shown.iter().map(|object| &object["id"]).collect();
        assert_eq!(shown, ids, "`{request}`");
        assert_eq!(body["has_more"], has_more, "`{request}`");
    }
}

/// Whether `body` has all that `expected` has. `null` also stands for absence.
fn holds(body: &Value, expected: &Value) -> bool {
    match (body, expected) {
        (Value::Object(_), Value::Object(fields)) => {
            fields.iter().all(|(name, field)| holds(&body[name], field))
        }
        _ => body == expected,
    }
}

#[tokio::test]
async fn an_object_is_made_read_changed_and_deleted() {
    let world = World::new();
    let request = "POST /v1/customers email=a%40b.c&metadata[k]=1&metadata[l]=2";
    let id = world.make(TEST, request).await;
    assert!(id.starts_with("cus_") && id.len() == 28, "{id}");
    let one = format!("/v1/customers/{id}");
    let made = json!({ "id": id, "object": "customer", "created": NOW, "livemode": false,
                       "email": "a@b.c", "metadata": { "k": "1", "l": "2" } });
    world.check(TEST, &format!("GET {one}"), 200, made).await;

    let change = format!("POST {one} email=&name=true+Story&metadata[k]=&metadata[m]=true");
    let changed = json!({ "email": null, "name": "true Story",
                          "metadata": { "k": null, "l": "2", "m": "true" } });
    world.check(TEST, &change, 200, changed.clone()).await;
    world.check(TEST, &format!("GET {one}"), 200, changed).await;
    world.check(TEST, &format!("POST {one} metadata="), 200, json!({})).await;
    let (_, _, body) = world.send(TEST, &format!("GET {one}"), &[]).await;
    assert_eq!(body["metadata"], json!({}));

    let deleted = json!({ "id": id, "object": "customer", "deleted": true });
    let delete = format!("DELETE {one}");
    world.check(TEST, &delete, 200, deleted).await;
    let message = format!("No such customer: '{id}'");
    world.check_missing(TEST, &format!("GET {one}"), &message).await;
    world.check_missing(TEST, &delete, &message).await;
}

#[tokio::test]
async fn the_table_names_objects_and_gives_them_their_first_state() {
    let world = World::new();
    for (request, prefix, expected) in [
        (
            "POST /v1/payment_intents amount=7&currency=usd",
            "pi_",
            json!({ "amount": 7, "status": "requires_payment_method" }),
        ),
        (
            "POST /v1/payment_intents amount=7&confirm=true",
            "pi_",
            json!({ "status": "succeeded", "confirm": null }),
        ),
        ("POST /v1/charges amount=7", "ch_", json!({ "status": "succeeded", "captured": true })),
        (
            "POST /v1/checkout/sessions line_items[0][quantity]=2",
            "cs_test_",
            json!({ "object": "checkout.session", "line_items": [{ "quantity": 2 }] }),
        ),
        ("POST /v1/products id=gold", "gold", json!({})),
        (
            "POST /v1/billing/credit_grants x[y]=1",
            "creditgrant_",
            json!({ "object": "billing.credit_grant", "x": { "y": "1" } }),
        ),
        ("POST /v1/wonders", "wonder_", json!({ "object": "wonder" })),
    ] {
        let (status, _, body) = world.send(TEST, request, &[]).await;
        assert_eq!(status, 200, "`{request}`: {body}");
        assert!(body["id"].as_str().unwrap().starts_with(prefix), "`{request}`: {body}");
        assert!(holds(&body, &expected), "`{request}`: {body}");
    }
    let (_, _, body) = world.send(LIVE, "POST /v1/checkout/sessions", &[]).await;
    assert!(body["id"].as_str().unwrap().starts_with("cs_live_"));
    assert_eq!(body["livemode"], true);
}

#[tokio::test]
async fn an_action_changes_the_state() {
    let world = World::new();
    for (create, action, expected) in [
        (
            "POST /v1/payment_intents",
            "POST /:id/confirm payment_method=pm_card_visa",
            json!({ "status": "succeeded", "payment_method": "pm_card_visa" }),
        ),
        ("POST /v1/payment_intents", "POST /:id/cancel", json!({ "status": "canceled" })),
        (
            "POST /v1/charges capture=false",
            "POST /:id/capture",
            json!({ "captured": true, "status": "succeeded" }),
        ),
        ("POST /v1/payouts", "POST /:id/reverse", json!({ "status": "reversed" })),
        ("POST /v1/invoices", "POST /:id/void", json!({ "status": "void" })),
        (
            "POST /v1/subscriptions",
            "DELETE /:id",
            json!({ "object": "subscription", "status": "canceled" }),
        ),
        ("POST /v1/wonders", "POST /:id/shine", json!({})),
    ] {
        let id = world.make(TEST, create).await;
        let path = create.split(' ').nth(1).unwrap();
        let request = action.replace("/:id", &format!("{path}/{id}"));
        world.check(TEST, &request, 200, expected).await;
    }
}

#[tokio::test]
async fn nested_collections_stay_with_their_parent() {
    let world = World::new();
    let one = world.make(TEST, "POST /v1/transfers amount=5").await;
    let two = world.make(TEST, "POST /v1/transfers amount=5").await;
    let reversals = format!("/v1/transfers/{one}/reversals");
    let reversal = world.make(TEST, &format!("POST {reversals} amount=5")).await;
    assert!(reversal.starts_with("trr_"));
    let made = json!({ "object": "transfer_reversal", "transfer": one, "amount": 5 });
    let request = format!("GET {reversals}/{reversal}");
    world.check(TEST, &request, 200, made).await;
    world.check_list(&format!("GET {reversals}"), &[&reversal], false).await;
    world.check_list(&format!("GET /v1/transfers/{two}/reversals"), &[], false).await;
    for (request, message) in [
        (
            format!("GET /v1/transfers/{two}/reversals/{reversal}"),
            format!("No such transfer_reversal: '{reversal}'"),
        ),
        ("POST /v1/transfers/tr_no/reversals".to_owned(), "No such transfer: 'tr_no'".to_owned()),
        (
            "GET /v1/customers/cus_no/sources/src_no".to_owned(),
            "No such customer: 'cus_no'".to_owned(),
        ),
    ] {
        world.check_missing(TEST, &request, &message).await;
    }
}

#[tokio::test]
async fn a_customers_payment_methods_are_those_attached() {
    let world = World::new();
    let customer = world.make(TEST, "POST /v1/customers").await;
    let attached = world.make(TEST, "POST /v1/payment_methods type=card").await;
    let other = world.make(TEST, "POST /v1/payment_methods type=card").await;
    let list = format!("GET /v1/customers/{customer}/payment_methods");
    world.check_list(&list, &[], false).await;
    let path = format!("/v1/payment_methods/{attached}");
    let attach = format!("POST {path}/attach customer={customer}");
    world.check(TEST, &attach, 200, json!({})).await;
    world.check_list(&list, &[&attached], false).await;
    world.check(TEST, &format!("{list}/{attached}"), 200, json!({})).await;
    let message = format!("No such payment_method: '{other}'");
    world.check_missing(TEST, &format!("{list}/{other}"), &message).await;
    let detach = format!("POST {path}/detach");
    world.check(TEST, &detach, 200, json!({ "customer": null })).await;
    world.check_list(&list, &[], false).await;
}

#[tokio::test]
async fn lists_come_in_pages_newest_first() {
    let world = World::new();
    let (mut ids, mut charged) = (Vec::new(), Vec::new());
    let customer = world.make(TEST, "POST /v1/customers").await;
    for number in 0..12 {
        let params = match number % 4 {
            0 => format!("customer={customer}"),
            _ => String::new(),
        };
        let id = world.make(TEST, &format!("POST /v1/charges {params}")).await;
        if number % 4 == 0 {
            charged.insert(0, id.clone());
        }
        ids.insert(0, id);
    }
    let refs: Vec<&String> = ids.iter().collect();
    let charged: Vec<&String> = charged.iter().collect();
    for (params, expected, has_more) in [
        (String::new(), &refs[..10], true),
        ("limit=12".to_owned(), &refs[..], false),
        ("limit=100&expand[]=data.customer".to_owned(), &refs[..], false),
        (format!("starting_after={}", ids[9]), &refs[10..], false),
        (format!("limit=2&ending_before={}", ids[5]), &refs[3..5], true),
        (format!("limit=3&ending_before={}", ids[3]), &refs[..3], false),
        (format!("customer={customer}"), &charged[..], false),
        (format!("limit=2&customer={customer}"), &charged[..2], true),
        (
            format!("limit=2&customer={customer}&starting_after={}", charged[1]),
            &charged[2..],
            false,
        ),
        (format!("limit=1&customer={customer}&ending_before={}", charged[2]), &charged[1..2], true),
        (format!("limit=2&customer={customer}&ending_before={}", ids[8]), &charged[..2], false),
    ] {
        let request = format!("GET /v1/charges {params}");
        world.check_list(&request, expected, has_more).await;
    }
    let shape = json!({ "object": "list", "url": "/v1/charges" });
    world.check(TEST, "GET /v1/charges", 200, shape).await;

    let request = "GET /v1/charges/search query=x&limit=10";
    let shape = json!({ "object": "search_result", "has_more": true, "next_page": ids[9] });
    world.check(TEST, request, 200, shape).await;
    let request = format!("GET /v1/charges/search query=x&page={}", ids[9]);
    world.check_list(&request, &refs[10..], false).await;
}

#[tokio::test]
async fn a_faulty_request_is_told_what_is_wrong() {
    let world = World::new();
    world.make(TEST, "POST /v1/coupons id=HALF").await;
    let (one, two) =
        (world.make(TEST, "POST /v1/charges").await, world.make(TEST, "POST /v1/charges").await);
    let both = format!("GET /v1/charges starting_after={one}&ending_before={two}");
    let large = format!("POST /v1/customers name={}", "x".repeat(64 * 1024));
    let many: String = (0..101).map(|n| format!("items[{n}][price]=price_no&")).collect();
    let many = format!("POST /v1/subscriptions {many}");
    let integer = json!("parameter_invalid_integer");
    let unknown = json!("parameter_unknown");
    for (request, code, param) in [
        ("GET /v1/charges limit=0", integer.clone(), json!("limit")),
        ("GET /v1/charges limit=101", integer.clone(), json!("limit")),
        ("GET /v1/charges limit=x", integer.clone(), json!("limit")),
        ("GET /v1/charges limit[]=1", integer.clone(), json!("limit")),
        (&both, json!(null), json!("ending_before")),
        ("POST /v1/charges amount=1.5", integer.clone(), json!("amount")),
        ("POST /v1/charges a[0][amount]=x", integer, json!("a[0][amount]")),
        ("POST /v1/charges id=ch_mine", unknown.clone(), json!("id")),
        ("POST /v1/charges livemode=true", unknown, json!("livemode")),
        ("POST /v1/charges metadata=x", json!(null), json!("metadata")),
        ("POST /v1/charges metadata[a][b]=x", json!(null), json!("metadata")),
        ("POST /v1/coupons id=a/b", json!(null), json!("id")),
        ("POST /v1/products id=HALF", json!("resource_already_exists"), json!("id")),
        ("POST /v1/charges amount=1&amount=2", json!(null), json!("amount")),
        ("POST /v1/charges amount", json!(null), json!(null)),
        ("POST /v1/charges amount=%f", json!(null), json!(null)),
        ("POST /v1/charges?amount=1", json!(null), json!(null)),
        (&large, json!(null), json!(null)),
        (&many, json!(null), json!(null)),
    ] {
        world.check_invalid(request, code, param).await;
    }
    let (status, _, _) = world
        .send(TEST, "POST /v1/charges {}", &[("content-type", "application/json; charset=utf-8")])
        .await;
    assert_eq!(status, 400);
    let huge = format!("POST /v1/charges a={}", "x".repeat(MAX_BODY_BYTES));
    world.check(TEST, &huge, 413, json!({})).await;
    // None of them left anything behind.
    world.check_list("GET /v1/charges", &[&two, &one], false).await;
}

#[tokio::test]
async fn an_address_that_leads_nowhere_is_not_found() {
    let world = World::new();
    for request in [
        "GET /v2/charges",
        "GET /v1/",
        "GET /v1/Charges",
        "GET /v1/charges/",
        "GET /v1/checkout",
        "GET /v1/charges/ch_1/capture",
        "GET /v1/charges/ch_1/a/b/c",
        "PUT /v1/charges/ch_1",
        "DELETE /v1/charges",
        "POST /v1/balance",
    ] {
        let error = json!({ "type": "invalid_request_error", "code": null });
        world.check(TEST, request, 404, json!({ "error": error })).await;
    }
}

#[tokio::test]
async fn the_other_modes_object_is_missing_with_a_hint() {
    let world = World::new();
    let test = world.make(TEST, "POST /v1/customers").await;
    let live = world.make(LIVE, "POST /v1/customers").await;
    let in_test = format!(
        "No such customer: '{live}'; a similar object exists in live mode, but a test mode key \
         was used to make this request."
    );
    let in_live = format!(
        "No such customer: '{test}'; a similar object exists in test mode, but a live mode key \
         was used to make this request."
    );
    for method in ["GET", "POST", "DELETE"] {
        let request = format!("{method} /v1/customers/{live}");
        world.check_missing(TEST, &request, &in_test).await;
        let request = format!("{method} /v1/customers/{test}");
        world.check_missing(LIVE, &request, &in_live).await;
        // Another account learns nothing.
        let plain = format!("No such customer: '{test}'");
        world.check_missing(STRANGER, &request, &plain).await;
    }
    // An id of another kind is no id.
    let plain = format!("No such charge: '{live}'");
    let request = format!("GET /v1/charges/{live}");
    world.check_missing(TEST, &request, &plain).await;
    world.check_list("GET /v1/customers", &[&test], false).await;
}

#[tokio::test]
async fn a_parameter_must_refer_to_something() {
    let world = World::new();
    let charge = world.make(LIVE, "POST /v1/charges amount=5").await;
    let refund = format!("POST /v1/refunds charge={charge}");
    let message = format!(
        "No such charge: '{charge}'; a similar object exists in live mode, but a test mode key \
         was used to make this request."
    );
    let error = json!({ "code": "resource_missing", "param": "charge", "message": message });
    world.check(TEST, &refund, 400, json!({ "error": error })).await;
    let made = json!({ "object": "refund", "charge": charge });
    world.check(LIVE, &refund, 200, made).await;
    let request = "POST /v1/subscriptions items[0][price]=price_no";
    let missing = json!("resource_missing");
    world.check_invalid(request, missing.clone(), json!("items[0][price]")).await;
    let request = "GET /v1/charges starting_after=ch_no";
    world.check_invalid(request, missing, json!("starting_after")).await;
    let request = "POST /v1/customers metadata[charge]=ch_no";
    world.check(TEST, request, 200, json!({})).await;
}

#[tokio::test]
async fn a_front_end_needs_the_client_secret() {
    let world = World::new();
    let request = "POST /v1/payment_intents amount=5&currency=usd&metadata[k]=v";
    let (_, _, intent) = world.send(TEST, request, &[]).await;
    let id = intent["id"].as_str().unwrap();
    let secret = intent["client_secret"].as_str().unwrap();
    let live = world.make(LIVE, "POST /v1/payment_intents").await;
    let customer = world.make(TEST, "POST /v1/customers").await;
    let one = format!("/v1/payment_intents/{id}");

    for request in [
        format!("GET {one}"),
        format!("GET {one} client_secret={id}_secret_no"),
        format!("GET {one} client_secret[]={secret}"),
        format!("POST {one}/confirm"),
    ] {
        let message = format!("No such payment_intent: '{id}'");
        world.check_missing(FRONT_END, &request, &message).await;
    }
    let request = format!("GET /v1/payment_intents/{live}");
    let message = format!("No such payment_intent: '{live}'");
    world.check_missing(FRONT_END, &request, &message).await;
    let request = format!("GET /v1/customers/{customer} client_secret=");
    let message = format!("No such customer: '{customer}'");
    world.check_missing(FRONT_END, &request, &message).await;
    for request in ["GET /v1/payment_intents", "GET /v1/balance", "GET /v1/account"] {
        world.check(FRONT_END, request, 404, json!({})).await;
    }

    let seen = json!({ "id": id, "amount": 5, "client_secret": secret, "metadata": null });
    let request = format!("GET {one} client_secret={secret}");
    world.check(FRONT_END, &request, 200, seen).await;
    let request = format!("POST {one}/confirm client_secret={secret}&amount=1");
    let error = json!({ "code": "parameter_unknown", "param": "amount" });
    world.check(FRONT_END, &request, 400, json!({ "error": error })).await;
    let request = format!("POST {one}/confirm client_secret={secret}&payment_method=pm_card_visa");
    let seen = json!({ "amount": 5, "status": "succeeded", "metadata": null });
    world.check(FRONT_END, &request, 200, seen).await;
    let kept = json!({ "status": "succeeded", "metadata": { "k": "v" } });
    world.check(TEST, &format!("GET {one}"), 200, kept).await;
    let made = json!({ "object": "token" });
    world.check(FRONT_END, "POST /v1/tokens", 200, made).await;
}

#[tokio::test]
async fn accounts_are_the_callers_own_and_those_connected_to_it() {
    let world = World::new();
    for (id, platform) in [("acct_1", None), ("acct_2", None), ("acct_3", Some("acct_1"))] {
        world.storage.accounts.lock().unwrap().push(AccountRecord {
            id: id.to_owned(),
            name: format!("{id} Inc"),
            organization: None,
            platform: platform.map(str::to_owned),
            created_at: 7,
        });
    }
    let own = json!({ "id": "acct_1", "object": "account", "created": 7,
                      "business_profile": { "name": "acct_1 Inc" } });
    world.check(TEST, "GET /v1/account", 200, own.clone()).await;
    world.check(TEST, "GET /v1/accounts/acct_1", 200, own).await;
    world.check(TEST, "GET /v1/accounts/acct_3", 200, json!({ "id": "acct_3" })).await;
    let message = "No such account: 'acct_2'";
    world.check_missing(TEST, "GET /v1/accounts/acct_2", message).await;
    let destination = world.make(TEST, "POST /v1/accounts/acct_1/external_accounts").await;
    assert!(destination.starts_with("ba_"));
    let changed = json!({ "email": "a@b.c" });
    world.check(TEST, "POST /v1/accounts/acct_1 email=a@b.c", 200, changed.clone()).await;
    world.check(TEST, "GET /v1/account", 200, changed).await;
}

#[tokio::test]
async fn what_there_is_one_of_is_read_and_changed_in_place() {
    let world = World::new();
    let balance = json!({ "object": "balance", "livemode": true });
    world.check(LIVE, "GET /v1/balance", 200, balance).await;
    let changed = json!({ "object": "tax.settings", "defaults": { "tax_code": "txcd_1" } });
    let request = "POST /v1/tax/settings defaults[tax_code]=txcd_1";
    world.check(TEST, request, 200, changed.clone()).await;
    world.check(TEST, "GET /v1/tax/settings", 200, changed).await;
    let untouched = json!({ "defaults": { "tax_code": null } });
    world.check(LIVE, "GET /v1/tax/settings", 200, untouched).await;
}

#[tokio::test]
async fn a_repeated_idempotency_key_gets_the_first_answer() {
    let world = World::new();
    let key = [("idempotency-key", "k1")];
    let request = "POST /v1/charges amount=5";
    let (status, headers, first) = world.send(TEST, request, &key).await;
    assert_eq!((status, &headers["idempotency-key"]), (200, &"k1".parse().unwrap()));
    assert!(!headers.contains_key("idempotent-replayed"));
    let (status, headers, again) = world.send(TEST, request, &key).await;
    assert_eq!((status, &first), (200, &again));
    assert_eq!(headers["idempotent-replayed"], "true");
    let id = first["id"].as_str().unwrap().to_owned();
    world.check_list("GET /v1/charges", &[&id], false).await;

    for (caller, request) in [
        (TEST, "POST /v1/charges amount=6"),
        (TEST, "POST /v1/payouts amount=5"),
        // What a server was answered is not for a front end.
        (FRONT_END, "POST /v1/charges amount=5"),
    ] {
        let (status, _, body) = world.send(caller, request, &key).await;
        assert_eq!((status, &body["error"]["type"]), (400, &json!("idempotency_error")));
    }
    for caller in [LIVE, STRANGER] {
        let (status, _, other) = world.send(caller, request, &key).await;
        assert_eq!(status, 200);
        assert_ne!(first, other);
    }
}

#[tokio::test]
async fn a_request_that_was_never_run_does_not_use_up_its_key() {
    let world = World::new();
    let key = [("idempotency-key", "k1")];
    let statuses = async |request: &str| world.send(TEST, request, &key).await.0;
    assert_eq!(statuses("POST /v1/charges amount=x").await, 400);
    world.storage.is_broken.store(true, Ordering::Relaxed);
    assert_eq!(statuses("POST /v1/charges amount=5").await, 503);
    world.storage.is_broken.store(false, Ordering::Relaxed);
    assert_eq!(statuses("POST /v1/charges amount=5").await, 200);

    // "No such object" is an answer.
    let key = [("idempotency-key", "k2")];
    for is_replay in [false, true] {
        let request = "POST /v1/refunds charge=ch_no";
        let (status, headers, _) = world.send(TEST, request, &key).await;
        assert_eq!(status, 400);
        assert_eq!(headers.contains_key("idempotent-replayed"), is_replay);
    }
}

#[tokio::test]
async fn an_idempotency_key_is_one_short_text() {
    let world = World::new();
    let (fits, long) = ("x".repeat(255), "x".repeat(256));
    for (keys, expected) in [
        (vec![fits.as_str()], 200),
        (vec![long.as_str()], 400),
        (vec![""], 400),
        (vec!["a", "b"], 400),
    ] {
        let headers: Vec<_> = keys.iter().map(|key| ("idempotency-key", *key)).collect();
        let (status, ..) = world.send(TEST, "POST /v1/charges", &headers).await;
        assert_eq!(status, expected, "{keys:?}");
    }
}

#[tokio::test]
async fn a_key_whose_request_still_runs_is_in_use() {
    let world = World::new();
    let key = [("idempotency-key", "k1")];
    let request = "POST /v1/charges amount=5";
    // Holds the first request back in the middle.
    let held = world.api.writing.lock().await;
    let mut first = Box::pin(world.send(TEST, request, &key));
    let (status, _, body) = loop {
        tokio::select! {
            biased;
            _ = &mut first => panic!("the first request was not held back"),
            () = tokio::task::yield_now() => {}
        }
        if world.api.running.claim("acct_1", Mode::Test, "k1").is_none() {
            break world.send(TEST, request, &key).await;
        }
    };
    assert_eq!(status, 409);
    assert_eq!(body["error"]["code"], "idempotency_key_in_use");

    // The first client hangs up. Its request is finished all the same.
    drop(first);
    drop(held);
    let headers = loop {
        let (status, headers, _) = world.send(TEST, request, &key).await;
        match status {
            409 => tokio::task::yield_now().await,
            _ => break headers,
        }
    };
    assert_eq!(headers["idempotent-replayed"], "true");
    let (_, _, list) = world.send(TEST, "GET /v1/charges", &[]).await;
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn changes_at_the_same_time_are_all_kept() {
    let world = World::new();
    let id = world.make(TEST, "POST /v1/customers").await;
    let request = |name| format!("POST /v1/customers/{id} metadata[{name}]=1");
    let (one, two) = (request("a"), request("b"));
    let (one, two) = tokio::join!(world.send(TEST, &one, &[]), world.send(TEST, &two, &[]));
    assert_eq!((one.0, two.0), (200, 200));
    let both = json!({ "metadata": { "a": "1", "b": "1" } });
    let request = format!("GET /v1/customers/{id}");
    world.check(TEST, &request, 200, both).await;
}

#[tokio::test]
async fn storage_that_is_away_is_a_503() {
    let world = World::new();
    world.storage.is_broken.store(true, Ordering::Relaxed);
    for request in ["GET /v1/charges", "POST /v1/charges", "GET /v1/charges/ch_1"] {
        let (status, headers, body) = world.send(TEST, request, &[]).await;
        assert_eq!((status, &headers["retry-after"]), (503, &"1".parse().unwrap()));
        assert_eq!(body["error"]["type"], "api_error");
    }
    world.storage.is_broken.store(false, Ordering::Relaxed);
    let id = world.make(TEST, "POST /v1/charges").await;
    for (_, _, object) in &mut *world.storage.objects.lock().unwrap() {
        object.body = Value::Null;
    }
    let (status, ..) = world.send(TEST, &format!("POST /v1/charges/{id}"), &[]).await;
    assert_eq!(status, 500);
}

/// Storage in memory, of which the simulated API uses a part.
#[derive(Default)]
struct Memory {
    is_broken: AtomicBool,
    accounts: Mutex<Vec<AccountRecord>>,
    /// Oldest first.
    objects: Mutex<Vec<(String, Mode, ObjectRecord)>>,
    answers: Mutex<HashMap<(String, Mode, String), StoredAnswer>>,
}

impl Memory {
    async fn turn(&self) -> StorageResult<()> {
        // As a real backend does, so that requests can overtake each other.
        tokio::task::yield_now().await;
        match self.is_broken.load(Ordering::Relaxed) {
            true => Err(StorageError::Unavailable("broken".into())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Storage for Memory {
    async fn find_accounts(&self, ids: Vec<String>) -> StorageResult<Vec<Option<AccountRecord>>> {
        self.turn().await?;
        let accounts = self.accounts.lock().unwrap();
        let find = |id: &String| accounts.iter().find(|account| account.id == *id).cloned();
        Ok(ids.iter().map(find).collect())
    }

    async fn find_object(
        &self,
        account: &str,
        mode: Mode,
        id: &str,
    ) -> StorageResult<Option<ObjectRecord>> {
        self.turn().await?;
        let objects = self.objects.lock().unwrap();
        let found = objects
            .iter()
            .find(|(owner, of, object)| owner == account && *of == mode && object.id == id);
        Ok(found.map(|(_, _, object)| object.clone()))
    }

    async fn list_objects(
        &self,
        account: &str,
        mode: Mode,
        collection: &str,
        page: Page,
    ) -> StorageResult<(Vec<ObjectRecord>, bool)> {
        self.turn().await?;
        let objects = self.objects.lock().unwrap();
        let mut all: Vec<_> = objects
            .iter()
            .rev()
            .filter(|(owner, of, _)| owner == account && *of == mode)
            .map(|(_, _, object)| object.clone())
            .filter(|object| object.collection == collection)
            .collect();
        let place = |id: &String| all.iter().position(|object| object.id == *id).unwrap();
        if let Some(place) = page.starting_after.as_ref().map(place) {
            all.drain(..=place);
        } else if let Some(place) = page.ending_before.as_ref().map(place) {
            all.truncate(place);
            let has_more = all.len() > page.limit;
            all.drain(..all.len().saturating_sub(page.limit));
            return Ok((all, has_more));
        }
        let has_more = all.len() > page.limit;
        all.truncate(page.limit);
        Ok((all, has_more))
    }

    async fn put_object(
        &self,
        account: &str,
        mode: Mode,
        object: ObjectRecord,
    ) -> StorageResult<()> {
        self.turn().await?;
        let mut objects = self.objects.lock().unwrap();
        let there = objects
            .iter_mut()
            .find(|(owner, of, there)| owner == account && *of == mode && there.id == object.id);
        match there {
            Some((_, _, there)) => *there = object,
            None => objects.push((account.to_owned(), mode, object)),
        }
        Ok(())
    }

    async fn delete_object(&self, account: &str, mode: Mode, id: &str) -> StorageResult<bool> {
        self.turn().await?;
        let mut objects = self.objects.lock().unwrap();
        let before = objects.len();
        objects.retain(|(owner, of, object)| !(owner == account && *of == mode && object.id == id));
        Ok(objects.len() < before)
    }

    async fn find_answer(
        &self,
        account: &str,
        mode: Mode,
        idempotency_key: &str,
    ) -> StorageResult<Option<StoredAnswer>> {
        self.turn().await?;
        let name = (account.to_owned(), mode, idempotency_key.to_owned());
        Ok(self.answers.lock().unwrap().get(&name).cloned())
    }

    async fn keep_answer(
        &self,
        account: &str,
        mode: Mode,
        idempotency_key: &str,
        _now: u64,
        answer: StoredAnswer,
    ) -> StorageResult<()> {
        self.turn().await?;
        let name = (account.to_owned(), mode, idempotency_key.to_owned());
        self.answers.lock().unwrap().entry(name).or_insert(answer);
        Ok(())
    }

    async fn find_key_by_digest(&self, _: Digest) -> StorageResult<Option<KeyRecord>> {
        unreachable!()
    }

    async fn find_key(&self, _: &str) -> StorageResult<Option<KeyRecord>> {
        unreachable!()
    }

    async fn list_keys(&self, _: KeyFilter) -> StorageResult<Vec<KeyRecord>> {
        unreachable!()
    }

    async fn commit(&self, _: Change, _: Arc<AuditKey>) -> StorageResult<()> {
        unreachable!()
    }

    async fn due_rotations(
        &self,
        _: u64,
        _: Option<DuePosition>,
        _: usize,
    ) -> StorageResult<DuePage> {
        unreachable!()
    }

    async fn unnoted_ends(
        &self,
        _: u64,
        _: Option<DuePosition>,
        _: usize,
    ) -> StorageResult<DuePage> {
        unreachable!()
    }

    async fn imported_digests(&self) -> StorageResult<Vec<Digest>> {
        unreachable!()
    }

    async fn sealed_secrets(
        &self,
        _: Option<&str>,
        _: usize,
    ) -> StorageResult<Vec<(String, Vec<u8>)>> {
        unreachable!()
    }

    async fn replace_sealed_secrets(
        &self,
        _: Vec<(String, Vec<u8>, Vec<u8>)>,
    ) -> StorageResult<()> {
        unreachable!()
    }

    async fn list_policies(&self) -> StorageResult<Vec<PolicyRecord>> {
        unreachable!()
    }

    async fn find_policies(
        &self,
        _: Digest,
        _: Digest,
        _: usize,
    ) -> StorageResult<Vec<PolicyRecord>> {
        unreachable!()
    }

    async fn find_policy(&self, _: Digest) -> StorageResult<Option<(PolicyRecord, Arc<[u8]>)>> {
        unreachable!()
    }

    async fn list_activations(&self, _: usize) -> StorageResult<Vec<Activation>> {
        unreachable!()
    }

    async fn find_reply(&self, _: &str, _: &str) -> StorageResult<Option<KeptReply>> {
        unreachable!()
    }

    async fn list_audit(&self, _: AuditFilter) -> StorageResult<Vec<SealedAuditEntry>> {
        unreachable!()
    }

    async fn list_accounts(&self, _: Option<&str>, _: usize) -> StorageResult<Vec<AccountRecord>> {
        unreachable!()
    }

    async fn find_organization(&self, _: &str) -> StorageResult<Option<OrganizationRecord>> {
        unreachable!()
    }

    async fn record_usage(&self, _: Vec<UsageMark>) -> StorageResult<()> {
        unreachable!()
    }

    async fn append_log(&self, _: Arc<[LogEntry]>) -> StorageResult<()> {
        unreachable!()
    }

    async fn find_log(&self, _: LogFilter) -> StorageResult<Vec<(u64, LogEntry)>> {
        unreachable!()
    }

    async fn drop_old(&self, _: Option<u64>, _: u64) -> StorageResult<u64> {
        unreachable!()
    }

    async fn back_up(&self, _: &Path, _: u64) -> StorageResult<()> {
        unreachable!()
    }

    async fn backup_made_at(&self) -> StorageResult<Option<u64>> {
        unreachable!()
    }

    async fn accept_backup(&self) -> StorageResult<()> {
        unreachable!()
    }

    async fn ping(&self) -> StorageResult<()> {
        unreachable!()
    }
}
