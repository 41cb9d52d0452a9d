//! The model: what is documented of the life of keys, once more.

use std::collections::BTreeSet;

pub(super) const MINUTE: u64 = 60;
pub(super) const DAY: u64 = 24 * 60 * MINUTE;

/// By how much the time moves. Ends and schedules are set by the same steps, so
/// that the very second of one is often met.
pub(super) const MOVES: &[u64] =
    &[1, MINUTE, 10 * MINUTE, DAY, DAY, 7 * DAY, 30 * DAY, 180 * DAY, 180 * DAY + 1];

/// How far ahead ends and schedules are set.
pub(super) const AHEAD: &[u64] =
    &[0, 1, MINUTE, 10 * MINUTE, DAY, 7 * DAY, 8 * DAY, 180 * DAY, 366 * DAY];

pub(super) const READ: &str = "api_key_read";
pub(super) const WRITE: &str = "api_key_write";

/// A few permissions, and those among them that each includes.
pub(super) const PERMISSIONS: &[(&str, &[&str])] = &[
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
pub(super) const MOVES_MONEY: &[&str] = &["payout_write", "transfer_write"];

/// Entries of allowlists, and what they are; none: not to be had.
pub(super) const NETWORKS: &[(&str, Option<(u32, u8)>)] = &[
    ("192.0.2.0/24", Some((0xC000_0200, 24))),
    ("192.0.2.7", Some((0xC000_0207, 32))),
    ("192.0.2.7/32", Some((0xC000_0207, 32))),
    ("198.51.100.0/25", Some((0xC633_6400, 25))),
    ("0.0.0.0/0", Some((0, 0))),
    ("192.0.2.7/24", None),
    ("2001:db8::1", None),
];

/// Where callers are. The last two are in no network but that of all.
pub(super) const SOURCES: &[[u8; 4]] =
    &[[192, 0, 2, 7], [192, 0, 2, 200], [198, 51, 100, 9], [203, 0, 113, 1]];

/// What a key is used for: what it needs, and who may call it.
pub(super) struct Endpoint {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) needs: Option<&'static str>,
    pub(super) publishable: bool,
    pub(super) money: bool,
    /// Whether the simulated API answers 200 to the body that is sent.
    pub(super) served: bool,
}

pub(super) const fn endpoint(
    method: &'static str,
    path: &'static str,
    needs: Option<&'static str>,
) -> Endpoint {
    Endpoint { method, path, needs, publishable: false, money: false, served: true }
}

pub(super) const ENDPOINTS: &[Endpoint] = &[
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
pub(super) struct Key {
    pub(super) id: String,
    pub(super) live: bool,
    pub(super) kind: String,
    /// Made by the host by itself, and seen by nobody.
    pub(super) by_host: bool,
    pub(super) name: String,
    pub(super) note: String,
    pub(super) permissions: Vec<String>,
    pub(super) connect: Vec<String>,
    pub(super) nets: Vec<(u32, u8)>,
    pub(super) created: u64,
    pub(super) ends: Option<u64>,
    pub(super) restored: Option<u64>,
    pub(super) moved: Option<u64>,
    pub(super) imported: bool,
    pub(super) replaces: Option<String>,
    pub(super) replaced_by: Option<String>,
    pub(super) schedule: Option<Schedule>,
    /// Whether the host has its secret.
    pub(super) kept: bool,
    pub(super) end_noted: bool,
    pub(super) revision: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    pub(super) at: u64,
    pub(super) every_days: Option<u32>,
    pub(super) overlap: u32,
}

impl Key {
    pub(super) fn new(kind: &str, live: bool, now: u64) -> Self {
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

    pub(super) fn has_ended(&self, now: u64) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }

    pub(super) fn is_limited(&self, now: u64) -> bool {
        let since = self.created.max(self.restored.unwrap_or(0)).max(self.moved.unwrap_or(0));
        now - since > 180 * DAY
    }

    pub(super) fn moves_money(&self) -> bool {
        [&self.permissions, &self.connect]
            .iter()
            .any(|held| MOVES_MONEY.iter().any(|name| covers(held, name)))
    }

    pub(super) fn is_without_limits(&self) -> bool {
        [&self.permissions, &self.connect].iter().any(|held| held.iter().any(|name| name == "*"))
    }

    pub(super) fn lets_in(&self, source: [u8; 4]) -> bool {
        self.nets.is_empty()
            || self.nets.iter().any(|&net| inside((u32::from_be_bytes(source), 32), net))
    }

    /// What one that is made anew has for a secret that is kept.
    pub(super) fn keeps_secret(kind: &str, live: bool, by_host: bool) -> bool {
        kind == "publishable" || kind != "managed" && (!live || by_host)
    }

    /// Ends it at this time, unless it ends earlier anyway.
    pub(super) fn end(&mut self, at: u64, now: u64) {
        self.ends = Some(self.ends.map_or(at, |ends| ends.min(at)));
        self.schedule = None;
        if at <= now {
            (self.kept, self.end_noted) = (false, true);
        }
    }
}

pub(super) fn covers(held: &[String], name: &str) -> bool {
    held.iter().any(|one| {
        one == "*"
            || one == name
            || PERMISSIONS
                .iter()
                .any(|(permission, includes)| permission == one && includes.contains(&name))
    })
}

pub(super) fn inside(net: (u32, u8), other: (u32, u8)) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(other.1)).unwrap_or(0);
    net.1 >= other.1 && net.0 & mask == other.0
}

/// Returns the rules by which what `caller` would have through `wanted` is more
/// than it has itself.
pub(super) fn gains(caller: &Key, wanted: &Key, now: u64) -> Vec<&'static str> {
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
pub(super) enum Caller {
    Operator,
    /// A key of the account, from an address.
    Key(usize, [u8; 4]),
    /// A secret key of another account, in live mode or not.
    Stranger(bool),
}

/// Which key something is done to: by its place among those of the account, or
/// one that is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Own(usize),
    /// A stranger's for the keys of the account; for the others one that there
    /// is not.
    Foreign,
}

#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) kind: &'static str,
    pub(super) live: bool,
    /// Names another account than the caller's as the owner.
    pub(super) elsewhere: bool,
    pub(super) name: String,
    pub(super) note: String,
    pub(super) permissions: Vec<&'static str>,
    pub(super) connect: Vec<&'static str>,
    pub(super) nets: Vec<&'static str>,
    pub(super) ends: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    pub(super) name: Option<String>,
    pub(super) note: Option<String>,
    pub(super) permissions: Option<Vec<&'static str>>,
    pub(super) connect: Option<Vec<&'static str>>,
    pub(super) nets: Option<Vec<&'static str>>,
}

#[derive(Clone, Debug)]
pub(super) enum Op {
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
    pub(super) fn name(&self) -> &'static str {
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

    pub(super) fn target(&self) -> Option<Target> {
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
    pub(super) fn action(&self) -> &'static str {
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
pub(super) struct Effect {
    pub(super) changed: Option<Key>,
    pub(super) made: Option<Key>,
    /// Whether the answer has the secret in it.
    pub(super) shows: bool,
}

pub(super) fn checked_text(text: &str, most: usize) -> bool {
    text.chars().count() <= most && !text.chars().any(char::is_control)
}

/// Reads a list of permissions for a key of this kind; `None`: not to be had.
pub(super) fn checked_permissions(kind: &str, names: &[&str]) -> Option<Vec<String>> {
    let known = |name: &&str| PERMISSIONS.iter().any(|(permission, _)| permission == name);
    if kind != "restricted" || !names.iter().all(known) {
        return None;
    }
    let names: BTreeSet<String> = names.iter().map(|&name| name.to_owned()).collect();
    Some(names.into_iter().collect())
}

pub(super) fn checked_nets(kind: &str, entries: &[&str]) -> Option<Vec<(u32, u8)>> {
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
pub(super) struct Model {
    pub(super) keys: Vec<Key>,
    /// The secrets that somebody knows.
    pub(super) secrets: Vec<Option<String>>,
    /// By key: who did what, and the code if it was refused.
    pub(super) audit: Vec<Vec<(String, &'static str, Option<String>)>>,
}

impl Model {
    pub(super) fn add(
        &mut self,
        key: Key,
        secret: Option<String>,
        actor: &str,
        action: &'static str,
    ) {
        self.keys.push(key);
        self.secrets.push(secret);
        self.audit.push(vec![(actor.to_owned(), action, None)]);
    }

    /// Says what comes of an operation: its effect, or every refusal that is
    /// right.
    pub(super) fn predict(
        &self,
        caller: Caller,
        op: &Op,
        now: u64,
    ) -> Result<Effect, Vec<&'static str>> {
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
    pub(super) fn calls(
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

    pub(super) fn predict_use(&self, op: &Op, now: u64) -> Result<Effect, Vec<&'static str>> {
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

    pub(super) fn predict_new(
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

    pub(super) fn predict_change(
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
    pub(super) fn run_due(&mut self, now: u64) -> (usize, usize, Vec<usize>) {
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
pub(super) fn next_reach(op: &Op, current: &Key, next: &Key) -> Key {
    if matches!(op, Op::Update(..)) { next.clone() } else { current.clone() }
}

pub(super) fn replacement(current: &Key, note: Option<&String>, by_host: bool, now: u64) -> Key {
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
