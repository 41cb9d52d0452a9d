//! Random lives of keys against a model of the rules.
//!
//! The model is written from what is documented (the contract in `wit/`, the
//! list at the head of `policy/src/lifecycle/caller.rs`, the tables in the
//! READMEs) and shares no code with what it is compared to. It says which
//! refusals are due and not which of several comes first: that order is the
//! policy's own, but for one thing. Who may not know of a key is told nothing
//! else.
//!
//! A sequence has an account of its own, and many sequences run at once on one
//! host: the time, which they share, moves between rounds of steps. What a step
//! does hangs on the seed and on its own number alone, so that a sequence that
//! fails can be run again by itself and without single steps.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::Request,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tower::ServiceExt as _;
use wardkey::{
    api::{admin::AdminAccess, internal::InternalAccess},
    error::ApiError,
    host::Host,
    keys::Done,
    secret::{Digest, Secret},
    server::Peer,
    storage::{AuditEntry, AuditFilter, KeyFilter, KeyRecord, Mode, Storage},
    worker::Seen,
};

use crate::{
    common::{NOON, Options, TestHost, account_named, by_operator},
    random::{Random, SEED},
};

/// How many sequences `cargo test` runs. `WARDKEY_MODEL_SEQUENCES` asks for
/// another number: `.ci/run` has 10,000 of them.
const SEQUENCES: usize = 2_500;

/// How many of them share a host. To start one costs as much as a few of them.
const BATCH: usize = 250;

/// How many accounts of strangers there are for them: one for so many. Whoever is
/// refused too often in a minute is told to wait, and strangers always are.
const PER_STRANGER: usize = 16;

/// How often the time moves in a sequence.
const ROUNDS: usize = 4;

/// How many steps a sequence takes in between.
const STEPS: usize = 4;

const MINUTE: u64 = 60;
const DAY: u64 = 24 * 60 * MINUTE;

/// By how much the time moves. Ends and schedules are set by the same steps, so
/// that the very second of one is often met.
const MOVES: &[u64] =
    &[1, MINUTE, 10 * MINUTE, DAY, DAY, 7 * DAY, 30 * DAY, 180 * DAY, 180 * DAY + 1];

/// How far ahead ends and schedules are set.
const AHEAD: &[u64] = &[0, 1, MINUTE, 10 * MINUTE, DAY, 7 * DAY, 8 * DAY, 180 * DAY, 366 * DAY];

const READ: &str = "api_key_read";
const WRITE: &str = "api_key_write";

/// A few permissions, and those among them that each includes.
const PERMISSIONS: &[(&str, &[&str])] = &[
    (READ, &[]),
    (WRITE, &[READ]),
    ("charge_read", &[]),
    ("charge_write", &["charge_read"]),
    ("customer_read", &["billing_clock_read"]),
    ("customer_write", &["customer_read", "billing_clock_read"]),
    ("payout_read", &[]),
    ("payout_write", &["payout_read"]),
    ("transfer_write", &["transfer_read", "payout_read"]),
];

/// Those that let a key move money.
const MOVES_MONEY: &[&str] = &["payout_write", "transfer_write"];

/// Entries of allowlists, and what they are; none: not to be had.
const NETWORKS: &[(&str, Option<(u32, u8)>)] = &[
    ("192.0.2.0/24", Some((0xC000_0200, 24))),
    ("192.0.2.7", Some((0xC000_0207, 32))),
    ("192.0.2.7/32", Some((0xC000_0207, 32))),
    ("198.51.100.0/25", Some((0xC633_6400, 25))),
    ("0.0.0.0/0", Some((0, 0))),
    ("192.0.2.7/24", None),
    ("2001:db8::1", None),
];

/// Where callers are. The last two are in no network but that of all.
const SOURCES: &[[u8; 4]] =
    &[[192, 0, 2, 7], [192, 0, 2, 200], [198, 51, 100, 9], [203, 0, 113, 1]];

/// What a key is used for: what it needs, and who may call it.
struct Endpoint {
    method: &'static str,
    path: &'static str,
    needs: Option<&'static str>,
    publishable: bool,
    money: bool,
    /// Whether the simulated API answers 200 to the body that is sent.
    served: bool,
}

const fn endpoint(
    method: &'static str,
    path: &'static str,
    needs: Option<&'static str>,
) -> Endpoint {
    Endpoint { method, path, needs, publishable: false, money: false, served: true }
}

const ENDPOINTS: &[Endpoint] = &[
    Endpoint { publishable: true, ..endpoint("GET", "/v2/iam/api_keys/self", None) },
    endpoint("GET", "/v1/charges", Some("charge_read")),
    endpoint("GET", "/v1/payouts", Some("payout_read")),
    Endpoint { money: true, ..endpoint("POST", "/v1/payouts", Some("payout_write")) },
    Endpoint {
        publishable: true,
        served: false,
        ..endpoint("POST", "/v1/tokens", Some("token_write"))
    },
];

/// A key as the model has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    id: String,
    live: bool,
    kind: String,
    /// Made by the host by itself, and seen by nobody.
    by_host: bool,
    name: String,
    note: String,
    permissions: Vec<String>,
    connect: Vec<String>,
    nets: Vec<(u32, u8)>,
    created: u64,
    ends: Option<u64>,
    restored: Option<u64>,
    moved: Option<u64>,
    imported: bool,
    replaces: Option<String>,
    replaced_by: Option<String>,
    schedule: Option<Schedule>,
    /// Whether the host has its secret.
    kept: bool,
    end_noted: bool,
    revision: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Schedule {
    at: u64,
    every_days: Option<u32>,
    overlap: u32,
}

impl Key {
    fn new(kind: &str, live: bool, now: u64) -> Self {
        let all = match kind {
            "secret" | "managed" => vec!["*".to_owned()],
            _ => Vec::new(),
        };
        Self {
            id: String::new(),
            live,
            kind: kind.to_owned(),
            by_host: false,
            name: String::new(),
            note: String::new(),
            permissions: all.clone(),
            connect: all,
            nets: Vec::new(),
            created: now,
            ends: None,
            restored: None,
            moved: None,
            imported: false,
            replaces: None,
            replaced_by: None,
            schedule: None,
            kept: false,
            end_noted: false,
            revision: 1,
        }
    }

    fn has_ended(&self, now: u64) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }

    fn is_limited(&self, now: u64) -> bool {
        let since = self.created.max(self.restored.unwrap_or(0)).max(self.moved.unwrap_or(0));
        now - since > 180 * DAY
    }

    fn moves_money(&self) -> bool {
        [&self.permissions, &self.connect]
            .iter()
            .any(|held| MOVES_MONEY.iter().any(|name| covers(held, name)))
    }

    fn is_without_limits(&self) -> bool {
        [&self.permissions, &self.connect].iter().any(|held| held.iter().any(|name| name == "*"))
    }

    fn lets_in(&self, source: [u8; 4]) -> bool {
        self.nets.is_empty()
            || self.nets.iter().any(|&net| inside((u32::from_be_bytes(source), 32), net))
    }

    /// What one that is made anew has for a secret that is kept.
    fn keeps_secret(kind: &str, live: bool, by_host: bool) -> bool {
        kind == "publishable" || kind != "managed" && (!live || by_host)
    }

    /// Ends it at this time, unless it ends earlier anyway.
    fn end(&mut self, at: u64, now: u64) {
        self.ends = Some(self.ends.map_or(at, |ends| ends.min(at)));
        self.schedule = None;
        if at <= now {
            (self.kept, self.end_noted) = (false, true);
        }
    }
}

fn covers(held: &[String], name: &str) -> bool {
    held.iter().any(|one| {
        one == "*"
            || one == name
            || PERMISSIONS
                .iter()
                .any(|(permission, includes)| permission == one && includes.contains(&name))
    })
}

fn inside(net: (u32, u8), other: (u32, u8)) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(other.1)).unwrap_or(0);
    net.1 >= other.1 && net.0 & mask == other.0
}

/// Returns the rules by which what `caller` would have through `wanted` is more
/// than it has itself.
fn gains(caller: &Key, wanted: &Key, now: u64) -> Vec<&'static str> {
    let mut gains = Vec::new();
    let beyond = |asked: &[String], held: &[String]| {
        asked.iter().any(|name| match name.as_str() {
            "*" => !held.iter().any(|one| one == "*"),
            name => !covers(held, name),
        })
    };
    if beyond(&wanted.permissions, &caller.permissions) || beyond(&wanted.connect, &caller.connect)
    {
        gains.push("more_permissions_required");
    }
    let lies_inside = |net: &(u32, u8)| caller.nets.iter().any(|own| inside(*net, *own));
    if !caller.nets.is_empty() && (wanted.nets.is_empty() || !wanted.nets.iter().all(lies_inside)) {
        gains.push("ip_beyond_own");
    }
    if caller.ends.is_some_and(|own| wanted.ends.is_none_or(|ends| ends > own)) {
        gains.push("expiry_beyond_own");
    }
    if caller.is_limited(now) && wanted.moves_money() {
        gains.push("access_limited");
    }
    gains
}

/// Who does something.
#[derive(Clone, Copy, Debug)]
enum Caller {
    Operator,
    /// A key of the account, from an address.
    Key(usize, [u8; 4]),
    /// A secret key of another account, in live mode or not.
    Stranger(bool),
}

/// Which key something is done to: by its place among those of the account, or
/// one that is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Own(usize),
    /// A stranger's for the keys of the account; for the others one that there
    /// is not.
    Foreign,
}

#[derive(Clone, Debug)]
struct Wanted {
    kind: &'static str,
    live: bool,
    /// Names another account than the caller's as the owner.
    elsewhere: bool,
    name: String,
    note: String,
    permissions: Vec<&'static str>,
    connect: Vec<&'static str>,
    nets: Vec<&'static str>,
    ends: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Changes {
    name: Option<String>,
    note: Option<String>,
    permissions: Option<Vec<&'static str>>,
    connect: Option<Vec<&'static str>>,
    nets: Option<Vec<&'static str>>,
}

#[derive(Clone, Debug)]
enum Op {
    Create(Wanted),
    Import(Wanted, String),
    Update(Target, Changes),
    Expire(Target),
    Rotate(Target, u32, Option<String>),
    Schedule(Target, Schedule),
    Cancel(Target),
    Reveal(Target),
    Restore(Target),
    Show(Target),
    List {
        ended: bool,
    },
    /// A request with this key at the gate.
    Use(usize, usize, [u8; 4]),
}

impl Op {
    fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Import(..) => "import",
            Self::Update(..) => "update",
            Self::Expire(_) => "expire",
            Self::Rotate(..) => "rotate",
            Self::Schedule(..) => "schedule",
            Self::Cancel(_) => "cancel",
            Self::Reveal(_) => "reveal",
            Self::Restore(_) => "restore",
            Self::Show(_) => "show",
            Self::List { .. } => "list",
            Self::Use(..) => "use",
        }
    }

    fn target(&self) -> Option<Target> {
        match *self {
            Self::Update(target, _)
            | Self::Expire(target)
            | Self::Rotate(target, ..)
            | Self::Schedule(target, _)
            | Self::Cancel(target)
            | Self::Reveal(target)
            | Self::Restore(target)
            | Self::Show(target) => Some(target),
            _ => None,
        }
    }

    /// What the audit log calls it.
    fn action(&self) -> &'static str {
        match self {
            Self::Create(_) => "api_key.created",
            Self::Import(..) => "api_key.imported",
            Self::Update(..) => "api_key.updated",
            Self::Expire(_) => "api_key.expired",
            Self::Rotate(..) => "api_key.rotated",
            Self::Schedule(..) => "api_key.rotation_scheduled",
            Self::Cancel(_) => "api_key.rotation_canceled",
            Self::Reveal(_) => "api_key.revealed",
            Self::Restore(_) => "api_key.access_restored",
            Self::Show(_) | Self::List { .. } | Self::Use(..) => "",
        }
    }
}

/// What an operation does, if it is let through.
#[derive(Debug, Default)]
struct Effect {
    changed: Option<Key>,
    made: Option<Key>,
    /// Whether the answer has the secret in it.
    shows: bool,
}

fn checked_text(text: &str, most: usize) -> bool {
    text.chars().count() <= most && !text.chars().any(char::is_control)
}

/// Reads a list of permissions for a key of this kind; `None`: not to be had.
fn checked_permissions(kind: &str, names: &[&str]) -> Option<Vec<String>> {
    let known = |name: &&str| PERMISSIONS.iter().any(|(permission, _)| permission == name);
    if kind != "restricted" || !names.iter().all(known) {
        return None;
    }
    let names: BTreeSet<String> = names.iter().map(|&name| name.to_owned()).collect();
    Some(names.into_iter().collect())
}

fn checked_nets(kind: &str, entries: &[&str]) -> Option<Vec<(u32, u8)>> {
    let mut nets = Vec::new();
    for entry in entries {
        let (_, net) = NETWORKS.iter().find(|(text, _)| text == entry).unwrap();
        let net = (*net)?;
        if !nets.contains(&net) {
            nets.push(net);
        }
    }
    let limited = !matches!(kind, "publishable" | "managed");
    (limited || nets.is_empty()).then_some(nets)
}

/// The keys of one account, and what the audit log has to say of each.
#[derive(Debug, Default)]
struct Model {
    keys: Vec<Key>,
    /// The secrets that somebody knows.
    secrets: Vec<Option<String>>,
    /// By key: who did what, and the code if it was refused.
    audit: Vec<Vec<(String, &'static str, Option<String>)>>,
}

impl Model {
    fn add(&mut self, key: Key, secret: Option<String>, actor: &str, action: &'static str) {
        self.keys.push(key);
        self.secrets.push(secret);
        self.audit.push(vec![(actor.to_owned(), action, None)]);
    }

    /// Says what comes of an operation: its effect, or every refusal that is
    /// right.
    fn predict(&self, caller: Caller, op: &Op, now: u64) -> Result<Effect, Vec<&'static str>> {
        if matches!(op, Op::Import(..)) && !matches!(caller, Caller::Operator) {
            return Err(vec!["operator_required"]);
        }
        if let Op::Use(..) = op {
            return self.predict_use(op, now);
        }
        let by = match caller {
            Caller::Operator => None,
            // It is good, and all that it asks for is somebody else's.
            Caller::Stranger(_) => match op {
                Op::Create(_) => return Err(vec!["key_scope"]),
                Op::List { .. } => return Ok(Effect::default()),
                _ => return Err(vec!["resource_missing"]),
            },
            Caller::Key(place, source) => {
                let key = &self.keys[place];
                let needs = match op {
                    Op::Show(_) | Op::List { .. } => READ,
                    _ => WRITE,
                };
                Self::calls(key, Some(needs), source, now)?;
                Some(key)
            }
        };
        match op {
            Op::Create(wanted) | Op::Import(wanted, _) => self.predict_new(by, op, wanted, now),
            Op::List { .. } | Op::Use(..) => Ok(Effect::default()),
            _ => {
                let Some(Target::Own(place)) = op.target() else {
                    return Err(vec!["resource_missing"]);
                };
                let current = &self.keys[place];
                if by.is_some_and(|by| by.live != current.live) {
                    return Err(vec!["resource_missing"]);
                }
                if matches!(op, Op::Show(_)) {
                    return Ok(Effect::default());
                }
                if current.has_ended(now) {
                    return Err(vec!["key_ended"]);
                }
                Self::predict_change(by, current, op, now)
            }
        }
    }

    /// The rules for a request with a key, wherever it goes.
    fn calls(
        key: &Key,
        needs: Option<&str>,
        source: [u8; 4],
        now: u64,
    ) -> Result<(), Vec<&'static str>> {
        if key.has_ended(now) {
            return Err(vec!["api_key_expired"]);
        }
        if !key.lets_in(source) {
            return Err(vec!["ip_not_allowed"]);
        }
        if key.kind == "publishable" {
            return Err(vec!["secret_key_required"]);
        }
        if needs.is_some_and(|needs| !covers(&key.permissions, needs)) {
            return Err(vec!["more_permissions_required"]);
        }
        Ok(())
    }

    fn predict_use(&self, op: &Op, now: u64) -> Result<Effect, Vec<&'static str>> {
        let &Op::Use(place, endpoint, source) = op else { unreachable!("it is no use") };
        let (key, endpoint) = (&self.keys[place], &ENDPOINTS[endpoint]);
        let called = Self::calls(key, endpoint.needs, source, now);
        if !(endpoint.publishable && called == Err(vec!["secret_key_required"])) {
            called?;
        }
        if !endpoint.money {
            return Ok(Effect::default());
        }
        if key.is_limited(now) {
            return Err(vec!["access_limited"]);
        }
        Ok(Effect { changed: Some(Key { moved: Some(now), ..key.clone() }), ..Effect::default() })
    }

    fn predict_new(
        &self,
        by: Option<&Key>,
        op: &Op,
        wanted: &Wanted,
        now: u64,
    ) -> Result<Effect, Vec<&'static str>> {
        let mut refusals = Vec::new();
        let mut key = Key::new(wanted.kind, wanted.live, now);
        key.name = wanted.name.trim().to_owned();
        key.note = wanted.note.clone();
        key.ends = wanted.ends;
        key.imported = matches!(op, Op::Import(..));
        key.kept = !key.imported && Key::keeps_secret(wanted.kind, wanted.live, false);
        if !matches!(wanted.kind, "restricted" | "secret" | "publishable" | "managed") {
            // One that there is not, or not for an account.
            refusals.push("parameter_invalid");
        }
        if key.name.is_empty() {
            refusals.push("parameter_missing");
        }
        for (asked, own) in
            [(&wanted.permissions, &mut key.permissions), (&wanted.connect, &mut key.connect)]
        {
            let is_own = asked.is_empty() || *asked == *own;
            match checked_permissions(wanted.kind, asked) {
                Some(names) => *own = names,
                None if is_own => {}
                None => refusals.push("parameter_invalid"),
            }
        }
        match checked_nets(wanted.kind, &wanted.nets) {
            Some(nets) => key.nets = nets,
            None => refusals.push("parameter_invalid"),
        }
        let good_end = wanted.ends.is_none_or(|ends| ends > now && wanted.kind != "publishable");
        if !checked_text(&key.name, 100) || !checked_text(&key.note, 500) || !good_end {
            refusals.push("parameter_invalid");
        }
        if let Some(by) = by {
            if wanted.elsewhere || by.live != wanted.live {
                refusals.push("key_scope");
            }
            if wanted.kind == "managed" || wanted.live && key.is_without_limits() {
                refusals.push("operator_required");
            }
            refusals.extend(gains(by, &key, now));
        }
        if refusals.is_empty() {
            Ok(Effect { made: Some(key), shows: !matches!(op, Op::Import(..)), changed: None })
        } else {
            Err(refusals)
        }
    }

    fn predict_change(
        by: Option<&Key>,
        current: &Key,
        op: &Op,
        now: u64,
    ) -> Result<Effect, Vec<&'static str>> {
        let mut refusals = Vec::new();
        let mut refuse = |due: bool, code| {
            if due {
                refusals.push(code);
            }
        };
        let mut next = Key { revision: current.revision + 1, ..current.clone() };
        let is_itself = by.is_some_and(|by| by.id == current.id);
        let by_key = by.is_some();
        let managed = current.kind == "managed";
        let mut effect = Effect::default();
        let mut invalid = false;
        match op {
            Op::Update(_, changes) => {
                refuse(is_itself, "key_scope");
                refuse(by_key && managed, "operator_required");
                if let Some(name) = &changes.name {
                    let name = name.trim();
                    let stays = current.kind == "publishable" && name != current.name;
                    invalid |= name.is_empty() || stays || !checked_text(name, 100);
                    next.name = name.to_owned();
                }
                if let Some(note) = &changes.note {
                    invalid |= !checked_text(note, 500);
                    next.note.clone_from(note);
                }
                for (asked, held) in [
                    (&changes.permissions, &mut next.permissions),
                    (&changes.connect, &mut next.connect),
                ] {
                    if let Some(asked) = asked {
                        match checked_permissions(&current.kind, asked) {
                            Some(names) => *held = names,
                            None => invalid |= *asked != *held || current.kind == "restricted",
                        }
                    }
                }
                if let Some(entries) = &changes.nets {
                    match checked_nets(&current.kind, entries) {
                        Some(nets) => next.nets = nets,
                        None => invalid = true,
                    }
                }
                refuse(invalid, "parameter_invalid");
            }
            Op::Expire(_) => {
                refuse(current.kind == "publishable", "publishable_key_cannot_expire");
                next.end(now, now);
            }
            Op::Rotate(_, overlap, note) => {
                let good_note = note.as_ref().is_none_or(|note| checked_text(note, 500));
                refuse(current.replaced_by.is_some(), "key_replaced");
                refuse(by_key && managed, "operator_required");
                refuse(by_key && current.live && current.is_without_limits(), "operator_required");
                refuse(*overlap > 7 * 24 * 60 || !good_note, "parameter_invalid");
                let made = replacement(current, note.as_ref(), false, now);
                next.end(now + u64::from(*overlap) * MINUTE, now);
                effect = Effect { made: Some(made), shows: true, changed: None };
            }
            Op::Schedule(_, wanted) => {
                refuse(current.replaced_by.is_some(), "key_replaced");
                refuse(is_itself, "key_scope");
                refuse(by_key && managed, "operator_required");
                refuse(by_key && current.live && current.is_without_limits(), "operator_required");
                let good_days = wanted.every_days.is_none_or(|days| {
                    (1..=365).contains(&days) && wanted.overlap <= days * 24 * 60
                });
                refuse(
                    wanted.at <= now
                        || wanted.at > now + 366 * DAY
                        || current.ends.is_some_and(|ends| ends <= wanted.at)
                        || wanted.overlap > 7 * 24 * 60
                        || !good_days,
                    "parameter_invalid",
                );
                next.schedule = Some(*wanted);
            }
            Op::Cancel(_) => {
                refuse(is_itself, "key_scope");
                refuse(by_key && managed, "operator_required");
                refuse(current.schedule.is_none(), "no_rotation_scheduled");
                next.schedule = None;
            }
            Op::Reveal(_) => {
                refuse(by_key && current.live, "operator_required");
                refuse(managed, "managed_key");
                let seen = current.live && !current.by_host && current.kind != "publishable";
                refuse(!managed && seen && !current.imported, "secret_shown_once");
                refuse(!managed && (current.imported || !current.kept), "secret_not_kept");
                effect.shows = true;
            }
            Op::Restore(_) => {
                refuse(by_key, "operator_required");
                refuse(current.kind == "publishable", "publishable_key_not_limited");
                next.restored = Some(now);
            }
            _ => unreachable!("it changes no key"),
        }
        // To end a key gives nobody anything, and to restore one is the
        // operator's alone.
        if let Some(by) = by
            && !matches!(op, Op::Expire(_) | Op::Restore(_))
            && !(matches!(op, Op::Update(..)) && invalid)
        {
            refusals.extend(gains(by, &next_reach(op, current, &next), now));
        }
        if !refusals.is_empty() {
            return Err(refusals);
        }
        if !matches!(op, Op::Reveal(_)) {
            effect.changed = Some(next);
        }
        Ok(effect)
    }

    /// Does what is due. Returns how many ends and rotations there were, and the
    /// places of the keys that were made.
    fn run_due(&mut self, now: u64) -> (usize, usize, Vec<usize>) {
        let platform = || "platform".to_owned();
        let mut ends = 0;
        for (key, audit) in self.keys.iter_mut().zip(&mut self.audit) {
            if key.has_ended(now) && !key.end_noted {
                (key.kept, key.end_noted, key.schedule) = (false, true, None);
                key.revision += 1;
                audit.push((platform(), "api_key.ended", None));
                ends += 1;
            }
        }
        let mut made = Vec::new();
        for place in 0..self.keys.len() {
            let current = self.keys[place].clone();
            let Some(due) = current.schedule.filter(|schedule| schedule.at <= now) else {
                continue;
            };
            let replacement = replacement(&current, None, true, now);
            let key = &mut self.keys[place];
            key.end(now + u64::from(due.overlap) * MINUTE, now);
            key.revision += 1;
            self.audit[place].push((platform(), "api_key.rotated", None));
            made.push(place);
            self.add(replacement, None, "platform", "api_key.created");
        }
        (ends, made.len(), made)
    }
}

/// What the caller would have by it: what the key becomes, or, where the whole
/// of it ends up with the caller, what it is.
fn next_reach(op: &Op, current: &Key, next: &Key) -> Key {
    if matches!(op, Op::Update(..)) { next.clone() } else { current.clone() }
}

fn replacement(current: &Key, note: Option<&String>, by_host: bool, now: u64) -> Key {
    let interval = |schedule: Schedule| schedule.every_days.map(|days| u64::from(days) * DAY);
    let schedule = current.schedule.and_then(|schedule| {
        let interval = interval(schedule)?;
        // The host keeps the rhythm, unless it missed a beat.
        let at = schedule.at + interval;
        let at = if by_host && at > now { at } else { now + interval };
        let in_time = current.ends.is_none_or(|ends| ends > at);
        in_time.then_some(Schedule { at, ..schedule })
    });
    Key {
        id: String::new(),
        by_host,
        name: match current.kind.as_str() {
            "publishable" => "Publishable key".to_owned(),
            "secret" => "Secret key".to_owned(),
            _ => current.name.clone(),
        },
        note: note.unwrap_or(&current.note).clone(),
        created: now,
        restored: None,
        moved: None,
        imported: false,
        replaces: Some(current.id.clone()),
        replaced_by: None,
        schedule,
        kept: Key::keeps_secret(&current.kind, current.live, by_host),
        end_noted: false,
        revision: 1,
        ..current.clone()
    }
}

/// What all sequences of a batch call.
#[derive(Clone)]
struct World {
    host: Arc<Host>,
    storage: Arc<dyn Storage>,
    admin: Router,
    gate: Router,
    internal: Router,
    /// The time, which moves between rounds only.
    now: u64,
}

/// Another account: its id, and its secret keys in test and live mode.
struct Stranger {
    account: String,
    keys: [(KeyRecord, Secret); 2],
}

/// One sequence, and where it has got to.
struct Run {
    seed: u64,
    account: String,
    stranger: Arc<Stranger>,
    model: Model,
    /// What was done, for whoever reads of a failure.
    trace: Vec<String>,
    /// What was due when the time moved last.
    seen: Seen,
    counts: BTreeMap<String, usize>,
}

/// What came back: the key as it is shown (or another answer) and its secret, or
/// the code of the refusal.
type Outcome = Result<(Value, Option<String>), String>;

impl World {
    async fn call(
        &self,
        router: &Router,
        request: (&str, &str),
        secret: &str,
        source: [u8; 4],
        body: Value,
    ) -> (u16, Value) {
        let (method, path) = request;
        // What the simulated API is sent is a form, which no test here reads.
        let json = !path.starts_with("/v1/");
        let kind = if json { "application/json" } else { "application/x-www-form-urlencoded" };
        let body = match &body {
            Value::Null => String::new(),
            Value::String(form) => form.clone(),
            body => body.to_string(),
        };
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if !body.is_empty() {
            request = request.header("content-type", kind);
        }
        if !secret.is_empty() {
            request = request.header("authorization", format!("Bearer {secret}"));
        }
        let mut request = request.body(Body::from(body)).unwrap();
        request.extensions_mut().insert(Peer(IpAddr::from(source)));
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Tells what the host answers a service that was presented this secret: the
    /// code of its refusal, or nothing.
    async fn verify(&self, secret: &str, endpoint: &Endpoint, source: [u8; 4]) -> Option<String> {
        let asked = json!({
            "key": secret,
            "method": endpoint.method,
            "path": endpoint.path,
            "source": IpAddr::from(source).to_string(),
        });
        let (_, answer) =
            self.call(&self.internal, ("POST", "/verify"), "", [127, 0, 0, 1], asked).await;
        match &answer["allowed"] {
            Value::Bool(true) => None,
            Value::Bool(false) => Some(code(&answer)),
            _ => Some(answer.to_string()),
        }
    }
}

/// Returns the code of an error; its message if it has none.
fn code(answer: &Value) -> String {
    let error = &answer["error"];
    error["code"].as_str().or(error["message"].as_str()).unwrap_or("?").to_owned()
}

fn timestamp(at: u64) -> String {
    jiff::Timestamp::from_second(i64::try_from(at).unwrap()).unwrap().to_string()
}

/// Returns a stored key as the model has keys.
fn stored(record: KeyRecord) -> Key {
    let names = |list: &str| list.split_whitespace().map(str::to_owned).collect();
    Key {
        id: record.id,
        live: record.mode == Mode::Live,
        kind: record.kind,
        by_host: record.origin == "platform",
        name: record.name,
        note: record.note,
        permissions: names(&record.permissions),
        connect: names(&record.connect_permissions),
        nets: record.ipv4_networks.iter().map(|net| (net.address, net.prefix_length)).collect(),
        created: record.created_at,
        ends: record.ends_at,
        restored: record.restored_at,
        moved: record.money_moved_at,
        imported: record.imported,
        replaces: record.replaces,
        replaced_by: record.replaced_by,
        schedule: record.rotation.map(|rotation| Schedule {
            at: rotation.at,
            every_days: rotation.every_days,
            overlap: rotation.expire_current_in_minutes,
        }),
        kept: record.sealed_secret.is_some(),
        end_noted: record.end_noted,
        revision: record.revision,
    }
}

impl Run {
    /// Takes one step, which hangs on its number and on what there is by now.
    async fn step(&mut self, world: &World, number: usize) -> Result<(), String> {
        let mut random = seeded(self.seed, number);
        let (caller, op) = self.draw(&mut random, world.now);
        self.put(world, caller, &op, &mut random).await
    }

    /// Puts an operation to the host and to the model.
    async fn put(
        &mut self,
        world: &World,
        caller: Caller,
        op: &Op,
        random: &mut Random,
    ) -> Result<(), String> {
        let predicted = self.model.predict(caller, op, world.now);
        let outcome = self.perform(world, caller, op).await;
        let told = match &outcome {
            Ok((shown, secret)) => format!("ok {} secret {}", shown["id"], secret.is_some()),
            Err(code) => code.clone(),
        };
        self.trace.push(format!("{}: {caller:?} {op:?}: {told}", world.now));
        let who = match caller {
            Caller::Operator => "operator",
            Caller::Key(..) => "key",
            Caller::Stranger(_) => "stranger",
        };
        let answer = outcome.as_ref().err().map_or("ok", String::as_str);
        *self.counts.entry(format!("{who} {} {answer}", op.name())).or_default() += 1;
        let actor = match caller {
            Caller::Operator => "operator".to_owned(),
            Caller::Key(place, _) => self.model.keys[place].id.clone(),
            Caller::Stranger(live) => self.stranger.keys[usize::from(live)].0.id.clone(),
        };
        let target = match op.target() {
            Some(Target::Own(place)) => Some(place),
            _ => None,
        };
        match (predicted, outcome) {
            (Err(refusals), Err(code)) if refusals.contains(&code.as_str()) => {
                // Who did not get past the door is noted without a target.
                let past_the_door = match caller {
                    Caller::Key(place, source) => {
                        Model::calls(&self.model.keys[place], Some(WRITE), source, world.now)
                            .is_ok()
                    }
                    _ => true,
                };
                if let Some(place) = target
                    && past_the_door
                    && !op.action().is_empty()
                {
                    self.model.audit[place].push((actor, op.action(), Some(code)));
                }
            }
            (Ok(effect), Ok((shown, secret))) => {
                self.apply(world, caller, op, &actor, effect, &shown, secret).await?;
            }
            (predicted, outcome) => {
                return Err(format!("the model says {predicted:?}, and the host {outcome:?}"));
            }
        }
        let mut touched: Vec<usize> = target.into_iter().collect();
        if let Op::Use(place, ..) = op {
            touched.push(*place);
        }
        touched.push(self.model.keys.len() - 1);
        touched.dedup();
        for place in touched {
            self.compare(world, place).await?;
            self.check_use(world, place, random.below(ENDPOINTS.len()), *random.pick(SOURCES))
                .await?;
        }
        Ok(())
    }

    /// Takes over what was done, and checks the answer.
    #[expect(clippy::too_many_arguments, reason = "they are one outcome")]
    async fn apply(
        &mut self,
        world: &World,
        caller: Caller,
        op: &Op,
        actor: &str,
        effect: Effect,
        shown: &Value,
        secret: Option<String>,
    ) -> Result<(), String> {
        let id = shown["id"].as_str().unwrap_or_default().to_owned();
        // As it is before it has, perhaps, rotated itself.
        let by = match caller {
            Caller::Key(place, _) => Some(self.model.keys[place].clone()),
            Caller::Operator | Caller::Stranger(_) => None,
        };
        let Effect { changed, made, shows } = effect;
        if secret.is_some() != shows && !shown["publishable_key"].is_object() {
            return Err(format!("the secret is in the answer: {}", secret.is_some()));
        }
        let target = match op.target() {
            Some(Target::Own(place)) => place,
            _ => usize::MAX,
        };
        match op {
            Op::List { ended } => return self.check_list(caller, *ended, shown, world.now),
            Op::Show(_) => return self.check_shown(target, shown, world.now),
            Op::Reveal(_) => {
                let known = &mut self.model.secrets[target];
                if known.is_some() && *known != secret {
                    return Err("another secret was revealed than was made".to_owned());
                }
                *known = secret.clone();
                let key = &self.model.keys[target];
                let stored = world.storage.find_key(&key.id).await.unwrap().unwrap();
                if secret.as_ref().is_none_or(|secret| Digest::of(secret) != stored.digest) {
                    return Err("what was revealed is not the key's secret".to_owned());
                }
                self.model.audit[target].push((actor.to_owned(), op.action(), None));
            }
            _ => {}
        }
        if let Some(mut changed) = changed {
            if made.is_some() {
                changed.replaced_by = Some(id.clone());
            } else if !matches!(op, Op::Use(..)) && id != changed.id {
                return Err(format!("the answer is about {id}"));
            }
            let place = self.model.keys.iter().position(|key| key.id == changed.id).unwrap();
            self.model.keys[place] = changed;
            if matches!(op, Op::Use(..)) {
                // Uses are written about once a second: this is that second.
                world.host.finish().await.map_err(|err| err.to_string())?;
            } else {
                self.model.audit[place].push((actor.to_owned(), op.action(), None));
            }
        }
        if let Some(made) = made {
            let (secret, action) = match op {
                Op::Import(_, secret) => (Some(secret.clone()), op.action()),
                _ => (secret, "api_key.created"),
            };
            self.model.add(Key { id, ..made }, secret, actor, action);
        }
        // Whatever the model says: nobody has more by another key than by its own.
        if let Some(by) = by
            && matches!(op, Op::Create(_) | Op::Update(..) | Op::Rotate(..) | Op::Reveal(_))
        {
            let id = shown["id"].as_str().unwrap_or_default();
            let got = stored(world.storage.find_key(id).await.unwrap().unwrap());
            let gains = gains(&by, &got, world.now);
            if !gains.is_empty() {
                return Err(format!("the caller {by:?} has gained {gains:?} by {got:?}"));
            }
        }
        Ok(())
    }

    fn check_list(
        &self,
        caller: Caller,
        ended: bool,
        shown: &Value,
        now: u64,
    ) -> Result<(), String> {
        let mut found: BTreeMap<&str, bool> = BTreeMap::new();
        for key in shown["data"].as_array().into_iter().flatten() {
            found.insert(key["id"].as_str().unwrap_or("?"), key["status"] == "expired");
        }
        let mode = match caller {
            Caller::Operator => None,
            Caller::Key(place, _) => Some(self.model.keys[place].live),
            Caller::Stranger(_) => {
                let ours = self.model.keys.iter().find(|key| found.contains_key(key.id.as_str()));
                return match ours {
                    Some(key) => Err(format!("a stranger sees {}", key.id)),
                    None => Ok(()),
                };
            }
        };
        let visible: BTreeMap<&str, bool> = (self.model.keys.iter())
            .filter(|key| mode.is_none_or(|live| live == key.live))
            .map(|key| (key.id.as_str(), key.has_ended(now)))
            .filter(|(_, has_ended)| ended || !has_ended)
            .collect();
        if found == visible { Ok(()) } else { Err(format!("listed {found:?}, due {visible:?}")) }
    }

    fn check_shown(&self, place: usize, shown: &Value, now: u64) -> Result<(), String> {
        let key = &self.model.keys[place];
        let target = Target::Own(place);
        let actions: Vec<&str> = [
            ("expire", Op::Expire(target)),
            ("restore", Op::Restore(target)),
            ("reveal", Op::Reveal(target)),
            ("rotate", Op::Rotate(target, 0, None)),
            ("update", Op::Update(target, Changes::default())),
        ]
        .into_iter()
        .filter(|(_, op)| self.model.predict(Caller::Operator, op, now).is_ok())
        .map(|(name, _)| name)
        .collect();
        let has_ended = key.has_ended(now);
        let limited = !has_ended && key.kind != "publishable" && key.is_limited(now);
        let due = json!({
            "id": key.id,
            "livemode": key.live,
            "status": if has_ended { "expired" } else { "active" },
            "limited_access": limited,
            "actions": actions,
            "permissions": key.permissions,
            "replaced_by": key.replaced_by,
            "revision": key.revision,
        });
        for (name, value) in due.as_object().unwrap() {
            if shown[name] != *value {
                return Err(format!("{name} is shown as {}, and due is {value}", shown[name]));
            }
        }
        Ok(())
    }

    /// Compares a stored key with the model's.
    async fn compare(&self, world: &World, place: usize) -> Result<(), String> {
        let key = &self.model.keys[place];
        let found = world.storage.find_key(&key.id).await.map_err(|err| err.to_string())?;
        let Some(found) = found.map(stored) else { return Err(format!("{} is gone", key.id)) };
        if found == *key { Ok(()) } else { Err(format!("stored is {found:?}, due {key:?}")) }
    }

    /// Checks that a secret that somebody knows is accepted exactly if the model
    /// says so.
    async fn check_use(
        &self,
        world: &World,
        place: usize,
        endpoint: usize,
        source: [u8; 4],
    ) -> Result<(), String> {
        let Some(secret) = &self.model.secrets[place] else { return Ok(()) };
        let found = world.verify(secret, &ENDPOINTS[endpoint], source).await;
        let due = self.model.predict_use(&Op::Use(place, endpoint, source), world.now);
        let agree = match (&found, &due) {
            (None, Ok(_)) => true,
            (Some(code), Err(refusals)) => refusals.contains(&code.as_str()),
            _ => false,
        };
        if agree {
            return Ok(());
        }
        let (key, path) = (&self.model.keys[place], ENDPOINTS[endpoint].path);
        Err(format!("{path} from {source:?} is {found:?}, due {due:?}, with {key:?}"))
    }

    /// Catches up on what the host did by itself, and looks at everything.
    async fn settle(&mut self, world: &World, number: usize, due: bool) -> Result<(), String> {
        let mut random = seeded(self.seed, number);
        self.trace.push(format!("the time is {}; what is due is done: {due}", world.now));
        if due {
            let first = self.model.keys.len();
            let (ends, rotations, rotated) = self.model.run_due(world.now);
            self.seen = Seen { ends, rotations };
            for (made, place) in (first..).zip(rotated) {
                let id = self.model.keys[place].id.clone();
                let found = world.storage.find_key(&id).await.unwrap().unwrap();
                let Some(id) = found.replaced_by else {
                    return Err(format!("the rotation of {id} was due"));
                };
                self.model.keys[place].replaced_by = Some(id.clone());
                self.model.keys[made].id = id;
            }
            // Nobody knows the secrets that the host has made by itself.
            for place in first..self.model.keys.len() {
                let op = Op::Reveal(Target::Own(place));
                self.put(world, Caller::Operator, &op, &mut random).await?;
            }
        }
        let stored: BTreeMap<String, Key> = (self.stored(world).await?.into_iter())
            .map(|record| (record.id.clone(), stored(record)))
            .collect();
        for (place, key) in self.model.keys.iter().enumerate() {
            if stored.get(&key.id) != Some(key) {
                return Err(format!("stored is {:?}, due {key:?}", stored.get(&key.id)));
            }
            // Those that came with the account and that nobody has touched are as
            // they were.
            if key.revision > 1 || key.created > NOON || place > 5 {
                self.check_use(world, place, 0, *random.pick(SOURCES)).await?;
            }
        }
        Ok(())
    }

    /// Returns all keys of the account as they are stored.
    async fn stored(&self, world: &World) -> Result<Vec<KeyRecord>, String> {
        let filter = KeyFilter {
            account: Some(self.account.clone()),
            limit: usize::MAX >> 1,
            ..KeyFilter::default()
        };
        world.storage.list_keys(filter).await.map_err(|err| err.to_string())
    }

    /// Checks what holds of all that is left behind.
    async fn finish(
        &self,
        world: &World,
        audit: &BTreeMap<String, Vec<AuditEntry>>,
    ) -> Result<(), String> {
        let keys = self.stored(world).await?;
        if keys.len() != self.model.keys.len() {
            return Err(format!("{} keys, due {}", keys.len(), self.model.keys.len()));
        }
        check_lineages(&keys)?;
        for (key, due) in self.model.keys.iter().zip(&self.model.audit) {
            let entries = audit.get(&key.id).map(Vec::as_slice).unwrap_or_default();
            let found: Vec<_> = entries
                .iter()
                .map(|entry| (&*entry.actor, &*entry.action, entry.refused.as_deref()))
                .collect();
            let due: Vec<_> =
                due.iter().map(|(by, what, code)| (&**by, *what, code.as_deref())).collect();
            if found != due {
                return Err(format!("the audit log has of {}: {found:?}, due {due:?}", key.id));
            }
            // Each change says from which revision to which, without a gap.
            let mut revision = 1;
            for entry in entries.iter().filter(|entry| entry.refused.is_none()) {
                let of = |fields: &Option<Value>| fields.as_ref()?.get("revision")?.as_u64();
                let due = match (entry.action.as_str(), revision) {
                    ("api_key.created" | "api_key.imported", revision) => (None, Some(revision)),
                    ("api_key.revealed", _) => (None, None),
                    (_, before) => {
                        revision += 1;
                        (Some(before), Some(revision))
                    }
                };
                if (of(&entry.before), of(&entry.after)) != due {
                    return Err(format!("{entry:?} is no change of the revision by one: {due:?}"));
                }
            }
            if revision != key.revision {
                return Err(format!(
                    "{} is at {}, by its audit at {revision}",
                    key.id, key.revision
                ));
            }
        }
        Ok(())
    }
}

/// Checks that of every row of keys that took each other's place one is current.
fn check_lineages(keys: &[KeyRecord]) -> Result<(), String> {
    let by_id: BTreeMap<&str, &KeyRecord> = keys.iter().map(|key| (&*key.id, key)).collect();
    let mut current: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for key in keys {
        if let Some(next) = &key.replaced_by
            && by_id.get(&**next).is_none_or(|next| next.replaces.as_ref() != Some(&key.id))
        {
            return Err(format!("{} does not take the place of {}", next, key.id));
        }
        let mut first = key;
        while let Some(earlier) = &first.replaces {
            let Some(earlier) = by_id.get(&**earlier) else {
                return Err(format!("{} replaces a key that there is not", first.id));
            };
            first = earlier;
        }
        let current = current.entry(&first.id).or_default();
        if key.replaced_by.is_none() {
            current.push(&key.id);
        }
    }
    match current.iter().find(|(_, current)| current.len() != 1) {
        Some((first, current)) => Err(format!("of the row of {first}, current are {current:?}")),
        None => Ok(()),
    }
}

impl Run {
    /// Draws what is done next. Every reference is to what there is by now.
    fn draw(&self, random: &mut Random, now: u64) -> (Caller, Op) {
        let caller = match random.below(10) {
            0..5 => Caller::Operator,
            5..9 => match self.known(random) {
                Some(place) => Caller::Key(place, *random.pick(SOURCES)),
                None => Caller::Operator,
            },
            _ => Caller::Stranger(random.one_in(2)),
        };
        let by = match caller {
            Caller::Key(place, _) => Some(&self.model.keys[place]),
            _ => None,
        };
        let keys = self.model.keys.len();
        // The newest are those that something has happened to.
        let mut place = match random.below(3) {
            0 => random.below(keys),
            _ => keys - 1 - random.below(keys.min(4)),
        };
        // Those of the other mode are answered like none.
        if let Some(by) = by
            && !random.one_in(4)
        {
            let same: Vec<usize> =
                (0..keys).filter(|&at| self.model.keys[at].live == by.live).collect();
            place = same[same.len() - 1 - random.below(same.len().min(5))];
        }
        let target = if random.one_in(12) { Target::Foreign } else { Target::Own(place) };
        let ahead = |random: &mut Random| now + random.pick(AHEAD);
        let op = match random.below(100) {
            0..22 => Op::Create(self.wanted(random, by, now)),
            22..25 => {
                let hex = (0..4).map(|_| format!("{:016x}", random.next())).collect::<String>();
                Op::Import(self.wanted(random, by, now), format!("legacy_{hex}"))
            }
            25..39 => Op::Update(target, changes(random)),
            39..46 => Op::Expire(target),
            46..58 => {
                let overlap = *random.pick(&[0, 0, 1, 10, 24 * 60, 7 * 24 * 60, 7 * 24 * 60 + 1]);
                Op::Rotate(target, overlap, random.one_in(3).then(|| text(random)))
            }
            58..70 => Op::Schedule(
                target,
                Schedule {
                    at: ahead(random),
                    every_days: random.one_in(2).then(|| *random.pick(&[0, 1, 1, 7, 30, 365, 366])),
                    overlap: *random.pick(&[0, 1, 10, 24 * 60, 24 * 60 + 1, 7 * 24 * 60 + 1]),
                },
            ),
            70..75 => {
                // Few have one to take off.
                let keys = &self.model.keys;
                let with: Vec<usize> =
                    (0..keys.len()).filter(|&at| keys[at].schedule.is_some()).collect();
                match with.is_empty() || random.one_in(3) {
                    true => Op::Cancel(target),
                    false => Op::Cancel(Target::Own(*random.pick(&with))),
                }
            }
            75..81 => Op::Reveal(target),
            81..85 => Op::Restore(target),
            85..88 => Op::Show(target),
            88..91 => Op::List { ended: random.one_in(2) },
            _ => match self.known(random) {
                Some(place) => {
                    let served: Vec<usize> =
                        (0..ENDPOINTS.len()).filter(|&at| ENDPOINTS[at].served).collect();
                    Op::Use(place, *random.pick(&served), *random.pick(SOURCES))
                }
                None => Op::List { ended: true },
            },
        };
        (caller, op)
    }

    /// Draws a key whose secret somebody knows: as a rule one that manages keys.
    fn known(&self, random: &mut Random) -> Option<usize> {
        let known = |place: &usize| self.model.secrets[*place].is_some();
        let places: Vec<usize> = (0..self.model.keys.len()).filter(known).collect();
        let managing: Vec<usize> = (places.iter().copied())
            .filter(|&place| covers(&self.model.keys[place].permissions, WRITE))
            .collect();
        let from = if random.one_in(5) || managing.is_empty() { &places } else { &managing };
        (!from.is_empty()).then(|| *random.pick(from))
    }

    fn wanted(&self, random: &mut Random, by: Option<&Key>, now: u64) -> Wanted {
        let kind = *random.pick(&[
            "restricted",
            "restricted",
            "restricted",
            "restricted",
            "secret",
            "publishable",
            "managed",
            "organization",
            "root",
        ]);
        let live = match by {
            Some(by) if !random.one_in(8) => by.live,
            _ => random.one_in(2),
        };
        let choose = kind == "restricted" || random.one_in(8);
        Wanted {
            kind,
            live,
            elsewhere: by.is_some() && random.one_in(12),
            name: if random.one_in(6) { text(random) } else { "a key".to_owned() },
            note: if random.one_in(6) { text(random) } else { String::new() },
            permissions: if choose { permissions(random) } else { Vec::new() },
            connect: if choose && random.one_in(3) { permissions(random) } else { Vec::new() },
            nets: if random.one_in(3) { nets(random) } else { Vec::new() },
            ends: random.one_in(3).then(|| now + random.pick(AHEAD)),
        }
    }

    async fn perform(&self, world: &World, caller: Caller, op: &Op) -> Outcome {
        if let &Op::Use(place, endpoint, source) = op {
            let endpoint = &ENDPOINTS[endpoint];
            let body = match endpoint.money {
                true => json!("amount=100&currency=usd"),
                false => Value::Null,
            };
            let secret = self.model.secrets[place].as_deref().unwrap();
            let request = (endpoint.method, endpoint.path);
            let (status, answer) = world.call(&world.gate, request, secret, source, body).await;
            return if status == 200 { Ok((answer, None)) } else { Err(code(&answer)) };
        }
        let (path, body) = self.request(caller, op);
        let (secret, source) = match caller {
            Caller::Operator => return self.operate(world, op, &path, body).await,
            Caller::Key(place, source) => (self.model.secrets[place].as_deref().unwrap(), source),
            Caller::Stranger(live) => {
                (self.stranger.keys[usize::from(live)].1.expose(), [203, 0, 113, 1])
            }
        };
        let method = if matches!(op, Op::Show(_) | Op::List { .. }) { "GET" } else { "POST" };
        let (status, answer) =
            world.call(&world.admin, (method, &path), secret, source, body).await;
        if !matches!(status, 200 | 201) {
            return Err(code(&answer));
        }
        let token = ["secret_key", "publishable_key"].map(|shape| &answer[shape]["token"]);
        let secret = token.iter().find_map(|token| token.as_str()).map(str::to_owned);
        Ok((answer, secret))
    }

    /// Returns the path and the body by which an operation is asked for.
    fn request(&self, caller: Caller, op: &Op) -> (String, Value) {
        const KEYS: &str = "/v2/iam/api_keys";
        let id = match op.target() {
            Some(Target::Own(place)) => self.model.keys[place].id.clone(),
            Some(Target::Foreign) if matches!(caller, Caller::Key(..)) => {
                self.stranger.keys[0].0.id.clone()
            }
            _ => "key_NobodyHasThisOne".to_owned(),
        };
        let at = |verb: &str| format!("{KEYS}/{id}/{verb}");
        match op {
            Op::Create(wanted) | Op::Import(wanted, _) => {
                let mut body = json!({
                    "kind": wanted.kind,
                    "livemode": wanted.live,
                    "name": wanted.name,
                    "note": wanted.note,
                    "permissions": wanted.permissions,
                    "connect_permissions": wanted.connect,
                    "ip_allowlist": wanted.nets,
                });
                if let Some(ends) = wanted.ends {
                    body["expires_at"] = timestamp(ends).into();
                }
                match caller {
                    Caller::Key(..) if wanted.elsewhere => {
                        body["account"] = self.stranger.account.clone().into();
                    }
                    // Left out, it is that of the key that asks.
                    Caller::Key(..) => {}
                    Caller::Operator | Caller::Stranger(_) => {
                        body["account"] = self.account.clone().into();
                    }
                }
                let Op::Import(_, secret) = op else { return (KEYS.to_owned(), body) };
                body["digest"] = Digest::of(secret).to_hex().into();
                let end = &secret[secret.len() - 4..];
                body["redacted"] = format!("legacy_************{end}").into();
                (format!("{KEYS}/import"), body)
            }
            Op::Update(_, changes) => {
                let mut body = json!({});
                let mut set = |name: &str, value: Option<Value>| {
                    if let Some(value) = value {
                        body[name] = value;
                    }
                };
                set("name", changes.name.clone().map(Value::from));
                set("note", changes.note.clone().map(Value::from));
                set("permissions", changes.permissions.clone().map(Value::from));
                set("connect_permissions", changes.connect.clone().map(Value::from));
                set("ip_allowlist", changes.nets.clone().map(Value::from));
                (format!("{KEYS}/{id}"), body)
            }
            Op::Rotate(_, overlap, note) => {
                let mut body = json!({ "expire_current_key_in_minutes": overlap });
                if let Some(note) = note {
                    body["note"] = note.clone().into();
                }
                (at("rotate"), body)
            }
            Op::Schedule(_, wanted) => {
                let mut body = json!({
                    "at": timestamp(wanted.at),
                    "expire_current_key_in_minutes": wanted.overlap,
                });
                if let Some(days) = wanted.every_days {
                    body["every_days"] = days.into();
                }
                (at("schedule_rotation"), body)
            }
            Op::Expire(_) => (at("expire"), json!({})),
            Op::Cancel(_) => (at("cancel_rotation"), json!({})),
            Op::Reveal(_) => (at("reveal"), json!({})),
            Op::Restore(_) => (at("restore"), json!({})),
            Op::Show(_) => (format!("{KEYS}/{id}"), Value::Null),
            Op::List { ended } => {
                (format!("{KEYS}?limit=100&include_expired={ended}"), Value::Null)
            }
            Op::Use(..) => unreachable!("it goes to the gate"),
        }
    }

    /// The same by the operator: through the library, as there are no more
    /// refusals over HTTP for one caller than a person has use for.
    async fn operate(&self, world: &World, op: &Op, path: &str, body: Value) -> Outcome {
        let (keys, ask) = (world.host.keys(), by_operator());
        // What a repeated use of the path says is left: the id.
        let id = path.split('/').nth(4).unwrap_or_default();
        fn read<T: serde::de::DeserializeOwned>(body: Value) -> T {
            serde_json::from_value(body).unwrap()
        }
        let done = match op {
            Op::Create(_) => keys.create(ask, read(body)).await,
            Op::Import(..) => keys.import(ask, read(body)).await,
            Op::Update(..) => keys.update(ask, id, read(body)).await,
            Op::Expire(_) => keys.expire(ask, id).await,
            Op::Rotate(..) => keys.rotate(ask, id, read(body)).await,
            Op::Schedule(..) => keys.schedule_rotation(ask, id, read(body)).await,
            Op::Cancel(_) => keys.cancel_rotation(ask, id).await,
            Op::Reveal(_) => keys.reveal(ask, id).await,
            Op::Restore(_) => keys.restore(ask, id).await,
            Op::Show(_) => keys.find(ask, id).await.map(|key| Done { key, secret: None }),
            Op::List { ended } => {
                let filter = KeyFilter {
                    account: Some(self.account.clone()),
                    not_ended_at: (!ended).then_some(world.now),
                    limit: 100,
                    ..KeyFilter::default()
                };
                let (keys, _) = keys.list(ask, filter).await.map_err(refusal)?;
                let data: Vec<Value> = keys
                    .into_iter()
                    .map(|key| {
                        let ended = key.ends_at.is_some_and(|ends| ends <= world.now);
                        json!({ "id": key.id, "status": if ended { "expired" } else { "active" } })
                    })
                    .collect();
                return Ok((json!({ "data": data }), None));
            }
            Op::Use(..) => unreachable!("it goes to the gate"),
        };
        let Done { key, secret } = done.map_err(refusal)?;
        let shown = json!(keys.view(&key, None).map_err(refusal)?);
        Ok((shown, secret.map(|secret| secret.expose().to_owned())))
    }
}

fn refusal(err: ApiError) -> String {
    err.refusal().unwrap_or_else(|| format!("no refusal, but: {err}"))
}

/// Chance for one step of one sequence.
fn seeded(seed: u64, step: usize) -> Random {
    let step = u64::try_from(step).unwrap();
    let mut random = Random((seed ^ step << 48).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    // Seeds that are near each other give starts that are.
    for _ in 0..4 {
        random.next();
    }
    random
}

fn text(random: &mut Random) -> String {
    let texts = ["Other", "  padded  ", "", "a\ttab", "vault/prod"];
    match random.below(7) {
        5 => "é".repeat(100 + random.below(2)),
        6 => "x".repeat(500 + random.below(2)),
        at => texts[at].to_owned(),
    }
}

fn permissions(random: &mut Random) -> Vec<&'static str> {
    if random.one_in(10) {
        return vec![*random.pick(&["*", "no_such_permission"])];
    }
    let mut names: Vec<&str> = (0..random.below(5)).map(|_| random.pick(PERMISSIONS).0).collect();
    // Without this one, few keys could do anything to others.
    if random.one_in(2) {
        names.push(WRITE);
    }
    names
}

fn nets(random: &mut Random) -> Vec<&'static str> {
    let good = &NETWORKS[..5];
    let from = if random.one_in(8) { NETWORKS } else { good };
    (0..random.below(3)).map(|_| random.pick(from).0).collect()
}

fn changes(random: &mut Random) -> Changes {
    Changes {
        name: random.one_in(4).then(|| text(random)),
        note: random.one_in(4).then(|| text(random)),
        permissions: random.one_in(3).then(|| permissions(random)),
        connect: random.one_in(6).then(|| permissions(random)),
        nets: random.one_in(3).then(|| nets(random)),
    }
}

/// Which sequences to run, and how much of them.
#[derive(Clone)]
struct Batch {
    number: usize,
    sequences: Vec<usize>,
    /// The first step that is not taken.
    until: usize,
    left_out: BTreeSet<usize>,
}

/// Where the host and the model first disagree.
struct Disagreement {
    step: usize,
    sequence: usize,
    what: String,
    trace: Vec<String>,
}

/// How many steps there are in all.
const ALL_STEPS: usize = ROUNDS * STEPS;

/// Runs sequences on a host of their own.
fn run(batch: &Batch) -> Result<BTreeMap<String, usize>, Disagreement> {
    // What the disk does with what is flushed is not asked here, and waiting for
    // it would be nearly all of the time.
    let memory = std::path::Path::new("/dev/shm");
    let folder = memory.is_dir().then(|| memory.to_owned());
    let host = TestHost::start_with(Options { folder, ..Options::default() });
    host.block_on(live(&host, batch))
}

async fn live(host: &TestHost, batch: &Batch) -> Result<BTreeMap<String, usize>, Disagreement> {
    let access = AdminAccess::Credential(Arc::clone(&host.data_dir));
    let mut world = Arc::new(World {
        host: Arc::clone(&host.host),
        storage: Arc::clone(&host.storage),
        admin: host.host.admin_router(access),
        gate: host.host.gate_router(),
        internal: host.host.internal_router(InternalAccess::Loopback),
        now: NOON,
    });
    // What is noted of uses is written when the test says so.
    host.host.finish().await.unwrap();
    let mut strangers: BTreeMap<usize, Arc<Stranger>> = BTreeMap::new();
    let mut runs = BTreeMap::new();
    for &sequence in &batch.sequences {
        let (account, keys) =
            host.host.keys().create_account(by_operator(), account_named("Own")).await.unwrap();
        let group = sequence / PER_STRANGER;
        if !strangers.contains_key(&group) {
            strangers.insert(group, Arc::new(stranger(host).await));
        }
        let mut model = Model::default();
        for (key, secret) in keys {
            check_default(&key);
            model.add(stored(key), Some(secret.expose().to_owned()), "operator", "api_key.created");
        }
        let seed = SEED ^ u64::try_from(batch.number * BATCH + sequence).unwrap();
        let stranger = Arc::clone(&strangers[&group]);
        let (trace, counts) = (Vec::new(), BTreeMap::new());
        let (seen, account) = (Seen::default(), account.id);
        runs.insert(sequence, Run { seed, account, stranger, model, trace, seen, counts });
    }
    let mut time = seeded(SEED, batch.number);
    for round in 0..ROUNDS {
        let steps: Vec<usize> = (round * STEPS..(round + 1) * STEPS)
            .filter(|step| *step < batch.until && !batch.left_out.contains(step))
            .collect();
        let last = (round + 1) * STEPS - 1;
        runs = all(runs, &world, move |mut run, world| {
            let steps = steps.clone();
            async move {
                for step in steps {
                    if let Err(what) = run.step(&world, step).await {
                        return (run, Err((step, what)));
                    }
                }
                (run, Ok(()))
            }
        })
        .await?;
        let now = world.now + time.pick(MOVES);
        let due = !time.one_in(3);
        if last >= batch.until {
            break;
        }
        host.clock.set(now);
        world = Arc::new(World { now, ..World::clone(&world) });
        let seen = if due { host.host.run_due().await.unwrap() } else { Seen::default() };
        runs = all(runs, &world, move |mut run, world| async move {
            run.seen = Seen::default();
            let settled = run.settle(&world, ALL_STEPS + round, due).await;
            (run, settled.map_err(|what| (last, what)))
        })
        .await?;
        let mut total = Seen::default();
        for run in runs.values() {
            total.ends += run.seen.ends;
            total.rotations += run.seen.rotations;
        }
        if seen != total {
            let what = format!("the host has seen to {seen:?}, and due was {total:?}");
            return Err(Disagreement { step: last, sequence: 0, what, trace: Vec::new() });
        }
    }
    let audit = Arc::new(audit(host, &world).await);
    let mut counts = BTreeMap::new();
    let step = ALL_STEPS;
    for (sequence, run) in runs {
        if let Err(what) = run.finish(&world, &audit).await {
            return Err(Disagreement { step, sequence, what, trace: run.trace });
        }
        for (answer, count) in run.counts {
            *counts.entry(answer).or_default() += count;
        }
    }
    Ok(counts)
}

/// Has all sequences do something at once. Of those that disagree, the one that
/// does first counts.
async fn all<Work: Future<Output = (Run, Result<(), (usize, String)>)> + Send + 'static>(
    runs: BTreeMap<usize, Run>,
    world: &Arc<World>,
    work: impl Fn(Run, Arc<World>) -> Work,
) -> Result<BTreeMap<usize, Run>, Disagreement> {
    let mut set = JoinSet::new();
    for (sequence, run) in runs {
        let work = work(run, Arc::clone(world));
        set.spawn(async move { (sequence, work.await) });
    }
    let mut first: Option<Disagreement> = None;
    let mut runs = BTreeMap::new();
    while let Some(done) = set.join_next().await {
        let (sequence, (run, done)) = done.unwrap();
        match done {
            Ok(()) => drop(runs.insert(sequence, run)),
            Err((step, what)) => {
                let is_first = first
                    .as_ref()
                    .is_none_or(|first| (step, sequence) < (first.step, first.sequence));
                if is_first {
                    first = Some(Disagreement { step, sequence, what, trace: run.trace });
                }
            }
        }
    }
    first.map_or(Ok(runs), Err)
}

async fn stranger(host: &TestHost) -> Stranger {
    let made = host.host.keys().create_account(by_operator(), account_named("Stranger")).await;
    let (account, mut keys) = made.unwrap();
    let mut of = |mode| {
        let is_it = |(key, _): &(KeyRecord, Secret)| key.kind == "secret" && key.mode == mode;
        keys.swap_remove(keys.iter().position(is_it).unwrap())
    };
    Stranger { account: account.id, keys: [of(Mode::Test), of(Mode::Live)] }
}

/// Checks a key that came with an account: the model starts from these.
fn check_default(key: &KeyRecord) {
    let mut due = Key::new(&key.kind, key.mode == Mode::Live, key.created_at);
    due.id.clone_from(&key.id);
    (due.by_host, due.kept) = (true, true);
    due.name = format!("{}{} key", key.kind[..1].to_uppercase(), &key.kind[1..]);
    assert_eq!(stored(key.clone()), due);
}

/// Returns what the audit log has of each key, after a look at its chain.
async fn audit(host: &TestHost, world: &World) -> BTreeMap<String, Vec<AuditEntry>> {
    let request = ("POST", "/v2/audit_log/verify");
    let operator = &host.operator;
    let (_, chain) = world.call(&world.admin, request, operator, [127, 0, 0, 1], json!({})).await;
    assert_eq!(chain["intact"], true, "{chain}");
    let filter = AuditFilter { limit: usize::MAX >> 1, ..AuditFilter::default() };
    let mut audit: BTreeMap<String, Vec<AuditEntry>> = BTreeMap::new();
    for entry in world.storage.list_audit(filter).await.unwrap() {
        let entry: AuditEntry = serde_json::from_str(&entry.text).unwrap();
        let target = entry.target.clone().unwrap_or_default();
        audit.entry(target).or_default().push(entry);
    }
    audit
}

/// Says what is known of a disagreement: alone, and with as few steps as still
/// show it.
fn explain(batch: &Batch, found: Disagreement) -> String {
    let Disagreement { step, sequence, what, trace } = found;
    let head = format!(
        "seed {SEED:#x}, batch {}, sequence {sequence}, step {step}: {what}\n  {}\n",
        batch.number,
        trace.join("\n  ")
    );
    let mut alone =
        Batch { sequences: vec![sequence], until: (step + 1).min(ALL_STEPS), ..batch.clone() };
    let Err(mut least) = run(&alone) else {
        return format!("{head}It does not happen to this sequence alone.");
    };
    for step in (0..least.step.min(ALL_STEPS)).rev() {
        alone.left_out.insert(step);
        match run(&alone) {
            Err(found) => least = found,
            Ok(_) => drop(alone.left_out.remove(&step)),
        }
    }
    format!(
        "{head}Alone, without the steps {:?}, at step {}: {}\n  {}",
        alone.left_out,
        least.step,
        least.what,
        least.trace.join("\n  ")
    )
}

#[test]
fn the_host_and_the_model_agree_on_random_lives_of_keys() {
    let asked = std::env::var("WARDKEY_MODEL_SEQUENCES");
    let sequences = asked.map_or(SEQUENCES, |asked| asked.parse().unwrap());
    let (start, next) = (Instant::now(), AtomicUsize::new(0));
    let counts = Mutex::new(BTreeMap::<String, usize>::new());
    // Two hosts at once: each has one thread that writes.
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let left = sequences.saturating_sub(number * BATCH);
                    if left == 0 {
                        return;
                    }
                    let batch = Batch {
                        number,
                        sequences: (0..left.min(BATCH)).collect(),
                        until: ALL_STEPS,
                        left_out: BTreeSet::new(),
                    };
                    match run(&batch) {
                        Ok(of_batch) => {
                            let mut counts = counts.lock().unwrap();
                            for (answer, count) in of_batch {
                                *counts.entry(answer).or_default() += count;
                            }
                        }
                        Err(found) => {
                            next.store(usize::MAX / BATCH / 2, Ordering::Relaxed);
                            panic!("{}", explain(&batch, found));
                        }
                    }
                }
            });
        }
    });
    let counts = counts.into_inner().unwrap();
    let took = start.elapsed().as_secs_f32();
    let steps: usize = counts.values().sum();
    println!(
        "{sequences} sequences from seed {SEED:#x}, {steps} steps, in {took:.1} s: {counts:#?}"
    );
    check_reach(sequences, &counts);
}

/// Checks that what is there to be met was met: sequences that never get past the
/// first rule would prove little.
fn check_reach(sequences: usize, counts: &BTreeMap<String, usize>) {
    let count = |part: &str| -> usize {
        counts.iter().filter(|(answer, _)| answer.contains(part)).map(|(_, count)| count).sum()
    };
    for who in ["operator", "key"] {
        for what in
            ["create", "update", "expire", "rotate", "schedule", "cancel", "reveal", "show", "list"]
        {
            let done = count(&format!("{who} {what} ok"));
            assert!(done * 1000 >= sequences, "{who} {what}: {done}");
        }
    }
    for what in [
        "operator import ok",
        "operator restore ok",
        " use ok",
        " access_limited",
        " api_key_expired",
        " expiry_beyond_own",
        " ip_beyond_own",
        " ip_not_allowed",
        " key_ended",
        " key_replaced",
        " key_scope",
        " managed_key",
        " more_permissions_required",
        " no_rotation_scheduled",
        " operator_required",
        " parameter_invalid",
        " parameter_missing",
        " publishable_key_cannot_expire",
        " publishable_key_not_limited",
        " resource_missing",
        " secret_key_required",
        " secret_not_kept",
        " secret_shown_once",
    ] {
        assert!(count(what) * 2000 >= sequences, "{what}: {}", count(what));
    }
}
