//! The one table of resources, and how a path is read with it.
//!
//! A resource without a row still works: its object name and id prefix are
//! derived from its collection's name. A row is needed for Stripe's own prefix
//! or defaults, and for a collection under a parent.

use serde_json::{Map, Value, json};

use crate::{secret::mint_id, storage::Mode};

/// A row of the table.
struct Row {
    /// The collection's path without `/v1/`; `:id` stands for the parent.
    collection: &'static str,
    object: &'static str,
    prefix: &'static str,
    /// The fields that a new object has before the caller's are put in.
    defaults: fn() -> Value,
}

const fn row(collection: &'static str, object: &'static str, prefix: &'static str) -> Row {
    row_with(collection, object, prefix, || json!({}))
}

const fn row_with(
    collection: &'static str,
    object: &'static str,
    prefix: &'static str,
    defaults: fn() -> Value,
) -> Row {
    Row { collection, object, prefix, defaults }
}

// One row, one line, where it fits: a table is read in columns.
#[rustfmt::skip]
static ROWS: &[Row] = &[
    row_with("accounts", "account", "acct_", ||
        json!({ "charges_enabled": true, "payouts_enabled": true, "details_submitted": true,
            "country": "US", "default_currency": "usd", "email": null, "type": "standard" })),
    row("accounts/:id/capabilities", "capability", "cap_"),
    row_with("accounts/:id/external_accounts", "bank_account", "ba_", ||
        json!({ "status": "new" })),
    row("accounts/:id/login_links", "login_link", "lael_"),
    row("accounts/:id/persons", "person", "person_"),
    row("application_fees", "application_fee", "fee_"),
    row("application_fees/:id/refunds", "fee_refund", "fr_"),
    row("balance_transactions", "balance_transaction", "txn_"),
    row_with("charges", "charge", "ch_", ||
        json!({ "status": "succeeded", "paid": true, "captured": true, "refunded": false,
            "amount_refunded": 0 })),
    row_with("checkout/sessions", "checkout.session", "cs_{mode}_", ||
        json!({ "status": "open", "payment_status": "unpaid" })),
    row_with("coupons", "coupon", "", || json!({ "valid": true, "times_redeemed": 0 })),
    row("credit_notes", "credit_note", "cn_"),
    row_with("customers", "customer", "cus_", ||
        json!({ "balance": 0, "delinquent": false, "email": null, "name": null })),
    row("customers/:id/balance_transactions", "customer_balance_transaction", "cbtxn_"),
    row("customers/:id/payment_methods", "payment_method", "pm_"),
    row("customers/:id/sources", "source", "src_"),
    row("customers/:id/tax_ids", "tax_id", "txi_"),
    row("disputes", "dispute", "dp_"),
    row("events", "event", "evt_"),
    row("files", "file", "file_"),
    row_with("invoiceitems", "invoiceitem", "ii_", || json!({ "quantity": 1 })),
    row_with("invoices", "invoice", "in_", ||
        json!({ "status": "draft", "amount_due": 0, "amount_paid": 0 })),
    row("invoices/:id/lines", "line_item", "il_"),
    row("issuing/cardholders", "issuing.cardholder", "ich_"),
    row("issuing/cards", "issuing.card", "ic_"),
    row_with("payment_intents", "payment_intent", "pi_", ||
        json!({ "status": "requires_payment_method", "capture_method": "automatic" })),
    row_with("payment_links", "payment_link", "plink_", || json!({ "active": true })),
    row("payment_methods", "payment_method", "pm_"),
    row_with("payouts", "payout", "po_", || json!({ "status": "pending", "method": "standard" })),
    row_with("plans", "plan", "plan_", || json!({ "active": true, "interval_count": 1 })),
    row_with("prices", "price", "price_", || json!({ "active": true })),
    row_with("products", "product", "prod_", || json!({ "active": true, "description": null })),
    row("products/:id/features", "product_feature", "prodft_"),
    row_with("promotion_codes", "promotion_code", "promo_", || json!({ "active": true })),
    row_with("quotes", "quote", "qt_", || json!({ "status": "draft" })),
    row_with("refunds", "refund", "re_", || json!({ "status": "succeeded" })),
    row_with("setup_intents", "setup_intent", "seti_", ||
        json!({ "status": "requires_payment_method", "usage": "off_session" })),
    row("shipping_rates", "shipping_rate", "shr_"),
    row_with("sources", "source", "src_", || json!({ "status": "chargeable" })),
    row_with("subscription_items", "subscription_item", "si_", || json!({ "quantity": 1 })),
    row("subscription_schedules", "subscription_schedule", "sub_sched_"),
    row_with("subscriptions", "subscription", "sub_", ||
        json!({ "status": "active", "cancel_at_period_end": false })),
    row("tax_rates", "tax_rate", "txr_"),
    row("terminal/locations", "terminal.location", "tml_"),
    row("terminal/readers", "terminal.reader", "tmr_"),
    row_with("test_clocks", "test_helpers.test_clock", "clock_", || json!({ "status": "ready" })),
    row_with("tokens", "token", "tok_", || json!({ "used": false })),
    row_with("topups", "topup", "tu_", || json!({ "status": "pending" })),
    row_with("transfers", "transfer", "tr_", || json!({ "reversed": false, "amount_reversed": 0 })),
    row("transfers/:id/reversals", "transfer_reversal", "trr_"),
    row_with("webhook_endpoints", "webhook_endpoint", "we_", || json!({ "status": "enabled" })),
];

/// First segments that are no collection but hold some: `/v1/checkout/sessions`.
const NAMESPACES: &[&str] = &[
    "apple_pay",
    "apps",
    "billing",
    "billing_portal",
    "checkout",
    "climate",
    "entitlements",
    "financial_connections",
    "forwarding",
    "identity",
    "issuing",
    "radar",
    "reporting",
    "sigma",
    "tax",
    "terminal",
    "treasury",
];

/// Nested collections that hold nothing of their own: they show those objects
/// of the top-level collection that name the parent.
const VIEWS: &[&str] = &["customers/:id/payment_methods"];

/// Second segments that make a new object, like a POST to the collection.
const MAKERS: &[&str] = &["create_from_calculation", "create_reversal", "report_payment"];

/// Collections whose new objects may be given an id by the caller.
const OWN_ID: &[&str] = &["coupons", "plans", "products"];

/// Collections whose objects a front end may use if it has their secret.
const WITH_CLIENT_SECRET: &[&str] = &["payment_intents", "setup_intents"];

/// Parameters whose value is the id of an object that must exist.
///
/// `payment_method` and `source` are not here: callers pass Stripe's test
/// values (`pm_card_visa`), which name no stored object.
const REFERENCES: &[(&str, &str)] = &[
    ("charge", "charges"),
    ("coupon", "coupons"),
    ("customer", "customers"),
    ("invoice", "invoices"),
    ("payment_intent", "payment_intents"),
    ("price", "prices"),
    ("product", "products"),
    ("promotion_code", "promotion_codes"),
    ("setup_intent", "setup_intents"),
    ("subscription", "subscriptions"),
    ("transfer", "transfers"),
];

/// What a third segment does to an object: collection (or any), action, and
/// the fields it sets. An action without a row sets only its parameters.
type ActionRow = (&'static str, &'static str, fn() -> Value);

/// Stands for every collection in an [`ActionRow`].
const ANY: &str = "";

#[rustfmt::skip]
static ACTIONS: &[ActionRow] = &[
    ("accounts", "reject", || json!({ "charges_enabled": false, "payouts_enabled": false })),
    ("billing/meters", "deactivate", || json!({ "status": "inactive" })),
    ("billing/meters", "reactivate", || json!({ "status": "active" })),
    ("charges", "capture", || json!({ "captured": true })),
    ("payment_methods", "detach", || json!({ "customer": null })),
    ("reviews", "approve", || json!({ "open": false })),
    // Ending a subscription is a DELETE that leaves the object in place.
    ("subscriptions", "delete", || json!({ "status": "canceled" })),
    ("subscriptions", "resume", || json!({ "status": "active" })),
    (ANY, "accept", || json!({ "status": "accepted" })),
    (ANY, "cancel", || json!({ "status": "canceled" })),
    (ANY, "capture", || json!({ "status": "succeeded" })),
    (ANY, "close", || json!({ "status": "lost" })),
    (ANY, "confirm", || json!({ "status": "succeeded" })),
    (ANY, "expire", || json!({ "status": "expired" })),
    (ANY, "finalize", || json!({ "status": "open" })),
    (ANY, "mark_uncollectible", || json!({ "status": "uncollectible" })),
    (ANY, "pay", || json!({ "status": "paid" })),
    (ANY, "release", || json!({ "status": "released" })),
    (ANY, "reverse", || json!({ "status": "reversed" })),
    (ANY, "send", || json!({ "status": "open" })),
    (ANY, "void", || json!({ "status": "void" })),
];

/// A resource of which an account has exactly one.
pub(super) struct Singleton {
    /// Its path without `/v1/`, which is also the id that it is stored under:
    /// no id in a path has a slash, so that it cannot be reached as an object.
    pub(super) path: &'static str,
    pub(super) is_writable: bool,
    pub(super) initial: fn() -> Value,
}

static SINGLETONS: &[Singleton] = &[
    Singleton {
        path: "balance",
        is_writable: false,
        initial: || {
            let nothing =
                json!([{ "amount": 0, "currency": "usd", "source_types": { "card": 0 } }]);
            json!({ "object": "balance", "available": nothing, "pending": nothing })
        },
    },
    Singleton {
        path: "balance_settings",
        is_writable: true,
        initial: || json!({ "object": "balance_settings", "payments": {} }),
    },
    Singleton {
        path: "tax/settings",
        is_writable: true,
        initial: || json!({ "object": "tax.settings", "status": "active", "defaults": {} }),
    },
];

/// Where a path leads.
pub(super) enum Place {
    /// `/v1/balance`
    Singleton(&'static Singleton),
    /// `/v1/account`: the caller's own, an object like others by another path.
    OwnAccount,
    /// `/v1/customers`, `/v1/accounts/:id/persons`
    Collection(Collection),
    /// `/v1/customers/search`
    Search(Collection),
    /// `/v1/customers/:id`
    Object(Collection, String),
    /// `/v1/charges/:id/capture`
    Action(Collection, String, String),
}

/// A set of objects of one kind.
pub(super) struct Collection {
    /// The path without `/v1/`, ids included: what objects are stored under.
    pub(super) path: String,
    pub(super) object: String,
    pub(super) parent: Option<Parent>,
    prefix: String,
    defaults: fn() -> Value,
}

/// The object that a nested collection belongs to.
pub(super) struct Parent {
    pub(super) collection: Box<Collection>,
    pub(super) id: String,
}

/// Returns where a path leads; `None` if nowhere.
///
/// A third segment is a nested collection if the table has a row for it
/// (`transfers/:id/reversals`), and else an action.
pub(super) fn locate(path: &str) -> Option<Place> {
    let path = path.strip_prefix("/v1/")?;
    if path == "account" {
        return Some(Place::OwnAccount);
    }
    if let Some(singleton) = SINGLETONS.iter().find(|singleton| singleton.path == path) {
        return Some(Place::Singleton(singleton));
    }
    // Helpers are actions of a sandbox on the ordinary resources.
    let path = path.strip_prefix("test_helpers/").unwrap_or(path);
    let segments: Vec<&str> = path.split('/').collect();
    let head = match segments.first()? {
        first if NAMESPACES.contains(first) => 2,
        _ => 1,
    };
    let (head, rest) = segments.split_at_checked(head)?;
    if !head.iter().all(|name| is_name(name)) || rest.contains(&"") {
        return None;
    }
    let top = top_level(head.join("/"));
    match *rest {
        [] => Some(Place::Collection(top)),
        ["search"] => Some(Place::Search(top)),
        [maker] if MAKERS.contains(&maker) => Some(Place::Collection(top)),
        [id] => Some(Place::Object(top, id.to_owned())),
        [id, name, ref rest @ ..] => match find_row(&format!("{}/:id/{name}", top.path)) {
            Some(row) => within(nested(top, id, name, row), rest),
            None if rest.is_empty() => Some(Place::Action(top, id.to_owned(), name.to_owned())),
            None => None,
        },
    }
}

fn within(nested: Collection, rest: &[&str]) -> Option<Place> {
    match *rest {
        [] => Some(Place::Collection(nested)),
        [id] => Some(Place::Object(nested, id.to_owned())),
        [id, action] => Some(Place::Action(nested, id.to_owned(), action.to_owned())),
        _ => None,
    }
}

fn find_row(collection: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.collection == collection)
}

/// Returns whether a segment can be the name of a collection. The names of
/// unlisted collections are caller-supplied and end up in ids.
fn is_name(segment: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&segment.len())
        && segment.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// Longer than any of Stripe's; a path with a longer name leads nowhere.
const MAX_NAME_BYTES: usize = 64;

fn top_level(path: String) -> Collection {
    let (object, prefix, defaults): (String, String, fn() -> Value) = match find_row(&path) {
        Some(row) => (row.object.into(), row.prefix.into(), row.defaults),
        None => {
            let object = singular(&path).replace('/', ".");
            // One word: an id with two would look like a secret and be masked.
            let name = object.rsplit('.').next().unwrap_or_default();
            let prefix = format!("{}_", name.replace('_', ""));
            (object, prefix, || json!({}))
        }
    };
    Collection { path, object, parent: None, prefix, defaults }
}

fn nested(parent: Collection, id: &str, name: &str, row: &Row) -> Collection {
    let path = match VIEWS.contains(&row.collection) {
        true => name.to_owned(),
        false => format!("{}/{id}/{name}", parent.path),
    };
    Collection {
        path,
        object: row.object.to_owned(),
        prefix: row.prefix.to_owned(),
        defaults: row.defaults,
        parent: Some(Parent { collection: Box::new(parent), id: id.to_owned() }),
    }
}

fn singular(plural: &str) -> String {
    if let Some(stem) = plural.strip_suffix("ies") {
        return format!("{stem}y");
    }
    let stem = match plural.strip_suffix("es") {
        Some(stem) if stem.ends_with("ss") => stem,
        _ => plural.strip_suffix('s').unwrap_or(plural),
    };
    stem.to_owned()
}

impl Collection {
    /// The collection of the callers' accounts.
    pub(super) fn accounts() -> Self {
        top_level("accounts".to_owned())
    }

    /// Returns the collection that the parameter `name` refers to.
    pub(super) fn referenced_by(name: &str) -> Option<Self> {
        let (_, collection) = REFERENCES.iter().find(|(param, _)| *param == name)?;
        Some(top_level((*collection).to_owned()))
    }

    /// Returns the field, and its value, that objects must have to be shown in
    /// this collection, where it is a view of another.
    pub(super) fn narrowing(&self) -> Option<(&str, &str)> {
        let parent = self.parent.as_ref()?;
        let is_view = !self.path.contains('/');
        is_view.then_some((parent.collection.object.as_str(), parent.id.as_str()))
    }

    /// Returns whether the caller may choose the id of a new object.
    pub(super) fn takes_own_id(&self) -> bool {
        OWN_ID.contains(&self.path.as_str())
    }

    /// Returns an id for a new object.
    pub(super) fn mint_id(&self, mode: Mode) -> String {
        mint_id(&self.prefix.replace("{mode}", mode.as_str()))
    }

    /// Returns a new object as it is before the caller's parameters.
    pub(super) fn new_object(&self, id: &str, mode: Mode, now: u64) -> Map<String, Value> {
        let mut object = json!({
            "id": id,
            "object": self.object,
            "created": now,
            "livemode": mode == Mode::Live,
            "metadata": {},
        });
        if let (Value::Object(object), Value::Object(defaults)) = (&mut object, (self.defaults)()) {
            object.extend(defaults);
        }
        if WITH_CLIENT_SECRET.contains(&self.path.as_str()) {
            object["client_secret"] = mint_id(&format!("{id}_secret_")).into();
        }
        if let Some(parent) = &self.parent {
            object[parent.collection.object.as_str()] = parent.id.as_str().into();
        }
        object_fields(object)
    }

    /// Returns the fields that an action sets, `None` if the table lacks it.
    pub(super) fn effect_of(&self, action: &str) -> Option<Map<String, Value>> {
        let (_, _, effect) = ACTIONS.iter().find(|(collection, name, _)| {
            *name == action && (*collection == ANY || *collection == self.path)
        })?;
        Some(object_fields(effect()))
    }
}

/// Returns an object's fields. The tables above hold nothing but objects.
pub(super) fn object_fields(object: Value) -> Map<String, Value> {
    match object {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
