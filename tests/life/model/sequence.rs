//! One sequence: draws what is done, puts it to the host and to the model, and
//! compares.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::Request,
};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use wardkey::{
    error::ApiError,
    host::Host,
    keys::Done,
    secret::{Digest, Secret},
    server::Peer,
    storage::{AuditEntry, KeyFilter, KeyRecord, Mode, Storage},
    worker::Seen,
};

use super::rules::*;
use crate::{
    common::{NOON, by_operator},
    random::Random,
};

/// What all sequences of a batch call.
#[derive(Clone)]
pub(super) struct World {
    pub(super) host: Arc<Host>,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) admin: Router,
    pub(super) gate: Router,
    pub(super) internal: Router,
    /// The time, which moves between rounds only.
    pub(super) now: u64,
}

/// Another account: its id, and its secret keys in test and live mode.
pub(super) struct Stranger {
    pub(super) account: String,
    pub(super) keys: [(KeyRecord, Secret); 2],
}

/// One sequence, and where it has got to.
pub(super) struct Run {
    pub(super) seed: u64,
    pub(super) account: String,
    pub(super) stranger: Arc<Stranger>,
    pub(super) model: Model,
    /// What was done, for whoever reads of a failure.
    pub(super) trace: Vec<String>,
    /// What was due when the time moved last.
    pub(super) seen: Seen,
    pub(super) counts: BTreeMap<String, usize>,
}

/// What came back: the key as it is shown (or another answer) and its secret, or
/// the code of the refusal.
pub(super) type Outcome = Result<(Value, Option<String>), String>;

impl World {
    pub(super) async fn call(
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
    pub(super) async fn verify(
        &self,
        secret: &str,
        endpoint: &Endpoint,
        source: [u8; 4],
    ) -> Option<String> {
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
pub(super) fn code(answer: &Value) -> String {
    let error = &answer["error"];
    error["code"].as_str().or(error["message"].as_str()).unwrap_or("?").to_owned()
}

pub(super) fn timestamp(at: u64) -> String {
    jiff::Timestamp::from_second(i64::try_from(at).unwrap()).unwrap().to_string()
}

/// Returns a stored key as the model has keys.
pub(super) fn stored(record: KeyRecord) -> Key {
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
    pub(super) async fn step(&mut self, world: &World, number: usize) -> Result<(), String> {
        let mut random = seeded(self.seed, number);
        let (caller, op) = self.draw(&mut random, world.now);
        self.put(world, caller, &op, &mut random).await
    }

    /// Puts an operation to the host and to the model.
    pub(super) async fn put(
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
    pub(super) async fn apply(
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

    pub(super) fn check_list(
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

    pub(super) fn check_shown(&self, place: usize, shown: &Value, now: u64) -> Result<(), String> {
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
        // What is shown by default needs no revealing.
        .filter(|(name, _)| *name != "reveal" || key.kind != "publishable")
        .map(|(name, _)| name)
        // What is shown anyway has nothing to reveal (S37).
        .filter(|name| *name != "reveal" || key.kind != "publishable")
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
    pub(super) async fn compare(&self, world: &World, place: usize) -> Result<(), String> {
        let key = &self.model.keys[place];
        let found = world.storage.find_key(&key.id).await.map_err(|err| err.to_string())?;
        let Some(found) = found.map(stored) else { return Err(format!("{} is gone", key.id)) };
        if found == *key { Ok(()) } else { Err(format!("stored is {found:?}, due {key:?}")) }
    }

    /// Checks that a secret that somebody knows is accepted exactly if the model
    /// says so.
    pub(super) async fn check_use(
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
    pub(super) async fn settle(
        &mut self,
        world: &World,
        number: usize,
        due: bool,
    ) -> Result<(), String> {
        let mut random = seeded(self.seed, number);
        self.trace.push(format!("the time is {}; what is due is done: {due}", world.now));
        if due {
            let first = self.model.keys.len();
            let (ends, rotations, rotated) = self.model.run_due(world.now);
            self.seen = Seen { ends, rotations, failed: 0 };
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
    pub(super) async fn stored(&self, world: &World) -> Result<Vec<KeyRecord>, String> {
        let filter = KeyFilter {
            account: Some(self.account.clone()),
            limit: usize::MAX >> 1,
            ..KeyFilter::default()
        };
        world.storage.list_keys(filter).await.map_err(|err| err.to_string())
    }

    /// Checks what holds of all that is left behind.
    pub(super) async fn finish(
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
pub(super) fn check_lineages(keys: &[KeyRecord]) -> Result<(), String> {
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
    pub(super) fn draw(&self, random: &mut Random, now: u64) -> (Caller, Op) {
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
    pub(super) fn known(&self, random: &mut Random) -> Option<usize> {
        let known = |place: &usize| self.model.secrets[*place].is_some();
        let places: Vec<usize> = (0..self.model.keys.len()).filter(known).collect();
        let managing: Vec<usize> = (places.iter().copied())
            .filter(|&place| covers(&self.model.keys[place].permissions, WRITE))
            .collect();
        let from = if random.one_in(5) || managing.is_empty() { &places } else { &managing };
        (!from.is_empty()).then(|| *random.pick(from))
    }

    pub(super) fn wanted(&self, random: &mut Random, by: Option<&Key>, now: u64) -> Wanted {
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

    pub(super) async fn perform(&self, world: &World, caller: Caller, op: &Op) -> Outcome {
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
    pub(super) fn request(&self, caller: Caller, op: &Op) -> (String, Value) {
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
    pub(super) async fn operate(&self, world: &World, op: &Op, path: &str, body: Value) -> Outcome {
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

pub(super) fn refusal(err: ApiError) -> String {
    err.refusal().unwrap_or_else(|| format!("no refusal, but: {err}"))
}

/// Chance for one step of one sequence.
pub(super) fn seeded(seed: u64, step: usize) -> Random {
    let step = u64::try_from(step).unwrap();
    let mut random = Random((seed ^ step << 48).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    // Seeds that are near each other give starts that are.
    for _ in 0..4 {
        random.next();
    }
    random
}

pub(super) fn text(random: &mut Random) -> String {
    let texts = ["Other", "  padded  ", "", "a\ttab", "vault/prod"];
    match random.below(7) {
        5 => "é".repeat(100 + random.below(2)),
        6 => "x".repeat(500 + random.below(2)),
        at => texts[at].to_owned(),
    }
}

pub(super) fn permissions(random: &mut Random) -> Vec<&'static str> {
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

pub(super) fn nets(random: &mut Random) -> Vec<&'static str> {
    let good = &NETWORKS[..5];
    let from = if random.one_in(8) { NETWORKS } else { good };
    (0..random.below(3)).map(|_| random.pick(from).0).collect()
}

pub(super) fn changes(random: &mut Random) -> Changes {
    Changes {
        name: random.one_in(4).then(|| text(random)),
        note: random.one_in(4).then(|| text(random)),
        permissions: random.one_in(3).then(|| permissions(random)),
        connect: random.one_in(6).then(|| permissions(random)),
        nets: random.one_in(3).then(|| nets(random)),
    }
}
