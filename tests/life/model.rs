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

mod rules;
mod sequence;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use serde_json::json;
use tokio::task::JoinSet;
use wardkey::{
    api::{admin::AdminAccess, internal::InternalAccess},
    secret::Secret,
    storage::{AuditEntry, AuditFilter, KeyRecord, Mode},
    worker::Seen,
};

use self::{rules::*, sequence::*};
use crate::{
    common::{NOON, Options, TestHost, account_named, by_operator},
    random::SEED,
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
    let memory = Path::new("/dev/shm");
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
        if let Entry::Vacant(free) = strangers.entry(group) {
            free.insert(Arc::new(stranger(host).await));
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
