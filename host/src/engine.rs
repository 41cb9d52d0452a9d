//! Loading policies and asking them. The only place that knows `wasmtime`.
//!
//! # Invariants
//!
//! - Every call gets an instance in the state in which a new one is: nothing leaks from
//!   one request to the next. Requests get one that was put back (by `reset`) where that
//!   is possible, and all other questions a new one, which is thrown away afterwards.
//! - A component imports nothing but this contract's `storage` and `types`, so
//!   that it has no clock, no randomness, no network and no log.
//! - What is not an answer is an [`EngineError`], and there is no way from one
//!   to a decision.

use std::{fmt, sync::Arc};

use wasmtime::{
    Config, Enabled, OptLevel, PoolConcurrencyLimitError, PoolingAllocationConfig, ResourceLimiter,
    Store, StoreContextMut, StoreLimits, StoreLimitsBuilder, Strategy, Trap, UpdateDeadline,
    component::{
        Component, ComponentExportIndex, InstancePre, Linker, TypedFunc, types::ComponentItem,
    },
};

use self::{
    budget::{Budget, Clockwork, Verdict},
    contract::{Account, Decision, Key, Request, catalogue, explain::Explanation, lifecycle},
    instances::{Instance, MAX_WAITING, Waiting},
    reset::Unresettable,
};
use crate::{
    facts::{Facts, Unread},
    secret::Digest,
};

mod bounds;
mod budget;
pub mod contract;
mod instances;
mod questions;
mod reset;

/// The largest component that is read, in bytes. The standard policy has 235 KB.
/// What compiling takes does not follow from it: that is bounded by what the bytes
/// ask for.
pub const MAX_COMPONENT_BYTES: usize = 8 * 1024 * 1024;

/// The most memory that an instance may grow to, in bytes. Room for a policy
/// whose language brings a garbage collector.
const MAX_MEMORY_BYTES: usize = 4 * 1024 * 1024;

/// The most elements of an instance's tables: one for each function that is
/// called by address.
const MAX_TABLE_ELEMENTS: usize = 20_000;

/// How many instances may be alive at once: one for each thread that decides, as
/// no instance is held while storage is read, and those that wait. Each costs
/// address space, and memory once it was used ([`KEPT_MEMORY_BYTES`]).
const MAX_INSTANCES: u32 = 64 + MAX_WAITING as u32;

/// The core instances, memories and tables that one component may be made of:
/// the policy itself, and what `wit-component` puts beside it to connect the
/// imports. More than twice what the standard policy needs.
const MAX_PARTS: u32 = 8;

/// How much of an instance's memory is put back by copying, in bytes. Of a larger
/// one, the rest is given back to the system when the instance ends, and faulted in
/// anew. The standard policy starts with one page of 64 KiB, and large requests take
/// a second. Measured 2026-11 by the benchmark `decision`: nothing kept costs a new
/// instance 16 µs.
const KEPT_MEMORY_BYTES: usize = 128 * 1024;

/// The same for its tables: 8 bytes for each function that is called by
/// address. Measured 2026-11 by the benchmark `decision`: nothing kept costs a new
/// instance 5 µs, and scanning for changed pages (`pagemap_scan`) 1.6 µs.
const KEPT_TABLE_BYTES: usize = 4 * 1024;

/// The most bytes that an instance may hand over in one call, answers included.
/// The longest answer, the catalogue, takes a third of it.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// How deep an instance may recurse, in bytes of stack. An eighth of the stack
/// of a worker thread.
const MAX_STACK_BYTES: usize = 256 * 1024;

const STORAGE: &str = "wardkey:policy/storage@0.1.0";
/// Interfaces that a component may import, without the last number of the
/// version: additions raise that one, and link.
const MAY_IMPORT: &[&str] = &["wardkey:policy/storage@0.1.", "wardkey:policy/types@0.1."];

/// Why a component was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Larger than [`MAX_COMPONENT_BYTES`].
    #[error("the component has {0} bytes, and at most {MAX_COMPONENT_BYTES} are read")]
    TooLarge(usize),
    /// It asks more of the compiler than a policy may.
    #[error("the component has {count} {what}, and at most {limit} are accepted")]
    Beyond {
        /// Of what.
        what: &'static str,
        /// How many it has, as far as they were counted.
        count: u64,
        /// How many it may have.
        limit: u64,
    },
    /// It does not parse, validate or compile.
    #[error("this is no valid component: {}", causes(.0))]
    Invalid(wasmtime::Error),
    /// It asks for something that policies do not get.
    #[error("the component imports `{0}`, and a policy may import only `{STORAGE}`")]
    Import(String),
    /// Its types are not those of the contract, or it needs more than the host
    /// gives.
    #[error("the component does not fit the contract: {}", causes(.0))]
    Contract(wasmtime::Error),
}

/// Says an error and what caused it, on one line: some of wasmtime's have lists
/// of bytes in them, one byte a line.
fn causes(err: &wasmtime::Error) -> String {
    format!("{err:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Why a call gave no answer. The host answers the request with an error.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It took too long.
    #[error("the policy spent its time budget")]
    OutOfTime,
    /// The machine was too busy to run it.
    #[error("the machine had no time for the policy")]
    Starved,
    /// It trapped, or asked for more memory or stack than there is.
    #[error("the policy failed: {0:#}")]
    Trapped(wasmtime::Error),
    /// Its answer breaks a rule of the contract.
    #[error("the policy's answer is not valid: {0}")]
    Garbage(&'static str),
    /// It lacks the interface, and so the question cannot be put to it.
    #[error("the policy does not export `{0}`")]
    Missing(&'static str),
}

/// The answer of a run, or what it lacked.
#[derive(Debug)]
pub enum Run<T> {
    /// The run came to its end.
    Done(T),
    /// The run ended at something that the request has not read yet. Read it,
    /// and run again.
    Unread(Unread),
}

/// What policies are compiled and run by. One for a process.
pub struct Engine {
    engine: wasmtime::Engine,
    linker: Linker<Call>,
    clockwork: Arc<Epoch>,
    waiting: Arc<Waiting>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Engine")
    }
}

struct Epoch(wasmtime::Engine);

impl Clockwork for Epoch {
    fn tick(&self) {
        self.0.increment_epoch();
    }
}

impl Engine {
    /// Makes the engine and starts its clock.
    ///
    /// # Errors
    ///
    /// If the machine cannot give the address space or the thread.
    pub fn new() -> Result<Self, wasmtime::Error> {
        Self::with(|_| {})
    }

    /// Makes an engine whose pool is changed by `tune`: for measuring what the
    /// settings are worth.
    #[doc(hidden)]
    pub fn with(tune: impl FnOnce(&mut PoolingAllocationConfig)) -> Result<Self, wasmtime::Error> {
        let mut pool = PoolingAllocationConfig::default();
        pool.total_component_instances(MAX_INSTANCES)
            .total_core_instances(MAX_INSTANCES * MAX_PARTS)
            .total_memories(MAX_INSTANCES * 2)
            .total_tables(MAX_INSTANCES * MAX_PARTS)
            .max_core_instances_per_component(MAX_PARTS)
            .max_memories_per_component(2)
            .max_tables_per_component(MAX_PARTS)
            .table_elements(MAX_TABLE_ELEMENTS)
            .max_memory_size(MAX_MEMORY_BYTES)
            .max_unused_warm_slots(MAX_INSTANCES)
            .linear_memory_keep_resident(KEPT_MEMORY_BYTES)
            .table_keep_resident(KEPT_TABLE_BYTES)
            .pagemap_scan(Enabled::No);
        tune(&mut pool);
        let mut config = Config::new();
        config
            .allocation_strategy(pool)
            .strategy(Strategy::Cranelift)
            .cranelift_opt_level(OptLevel::Speed)
            .epoch_interruption(true)
            .max_wasm_stack(MAX_STACK_BYTES)
            // A trap is answered with an error; nobody reads its backtrace, and
            // taking one costs more than the decision.
            .wasm_backtrace_max_frames(None)
            // Asynchronous calls cost each call twice as much, and nothing here
            // waits inside a component.
            .concurrency_support(false);
        let engine = wasmtime::Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        let mut storage = linker.instance(STORAGE)?;
        storage.func_wrap("find-accounts", find_accounts)?;
        let clockwork = Arc::new(Epoch(engine.clone()));
        budget::start_ticking(&clockwork)?;
        Ok(Self { engine, linker, clockwork, waiting: Arc::default() })
    }

    /// Measures a component, compiles it, and checks it against the contract. Takes
    /// up to seconds: not for a thread that requests wait for.
    ///
    /// # Errors
    ///
    /// [`LoadError`] says what is wrong with it.
    pub fn load(&self, bytes: &[u8]) -> Result<Policy, LoadError> {
        if bytes.len() > MAX_COMPONENT_BYTES {
            return Err(LoadError::TooLarge(bytes.len()));
        }
        let cases = bounds::check(bytes)?;
        let with_reset = reset::with_reset(bytes);
        // Bytes and never text or compiled code: the text format is a
        // convenience for tests, and compiled code would be run as it is.
        let component =
            Component::from_binary(&self.engine, with_reset.as_deref().unwrap_or(bytes))
                .map_err(LoadError::Invalid)?;
        for (name, item) in component.component_type().imports(&self.engine) {
            let known = MAY_IMPORT.iter().any(|start| name.starts_with(start));
            if !known || !matches!(item.ty, ComponentItem::ComponentInstance(_)) {
                return Err(LoadError::Import(name.to_owned()));
            }
        }
        let pre = self.linker.instantiate_pre(&component).map_err(LoadError::Contract)?;
        let authorize = function(&pre, "authorizer", "authorize")?
            .ok_or_else(|| not_exported(&interface_name("authorizer")))?;
        let policy = Policy {
            authorize,
            reset: with_reset.map(drop),
            lifecycle: optional(&pre, "lifecycle", lifecycle::GuestIndices::new)?,
            catalogue: optional(&pre, "catalogue", catalogue::GuestIndices::new)?,
            explain: function(&pre, "explain", "explain")?,
            _clockwork: Arc::clone(&self.clockwork),
            waiting: Arc::clone(&self.waiting),
            digest: Digest::of_bytes(bytes),
            size_bytes: bytes.len(),
            cases,
            pre,
        };
        policy.check_types()?;
        Ok(policy)
    }
}

/// Finds the functions of an interface that a policy may leave out. One that it
/// exports half is a mistake, and the standard policy's answers would hide it.
fn optional<T>(
    pre: &InstancePre<Call>,
    interface: &str,
    find: impl FnOnce(&InstancePre<Call>) -> wasmtime::Result<T>,
) -> Result<Option<T>, LoadError> {
    let name = interface_name(interface);
    match pre.component().get_export_index(None, &name) {
        Some(_) => find(pre).map(Some).map_err(LoadError::Contract),
        None => Ok(None),
    }
}

/// Finds the one function of an interface. `None`: the component lacks the interface.
fn function(
    pre: &InstancePre<Call>,
    interface: &str,
    name: &str,
) -> Result<Option<ComponentExportIndex>, LoadError> {
    let component = pre.component();
    let exported = component.get_export_index(None, interface_name(interface));
    let function = |of| component.get_export_index(Some(&of), name);
    exported.map(|of| function(of).ok_or_else(|| not_exported(name))).transpose()
}

fn not_exported(what: &str) -> LoadError {
    LoadError::Contract(wasmtime::Error::msg(format!("it does not export `{what}`")))
}

fn interface_name(interface: &str) -> String {
    format!("wardkey:policy/{interface}@0.1.0")
}

/// A request and its key.
type Question<'a> = (&'a Request<'a>, Option<&'a Key>);

/// A component that was checked and compiled, ready to be asked.
pub struct Policy {
    pre: InstancePre<Call>,
    /// Keeps the thread alive that ticks. An engine may be dropped once its
    /// policies are loaded, and without ticks no loop would ever end.
    _clockwork: Arc<Epoch>,
    digest: Digest,
    size_bytes: usize,
    cases: Option<Vec<u8>>,
    authorize: ComponentExportIndex,
    /// Whether an instance is put back once it has answered, or why each decides once.
    reset: Result<(), Unresettable>,
    waiting: Arc<Waiting>,
    lifecycle: Option<lifecycle::GuestIndices>,
    catalogue: Option<catalogue::GuestIndices>,
    explain: Option<ComponentExportIndex>,
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Policy {
    /// Makes one instance: before there is one, nobody compares the types of a
    /// policy's functions with the contract's, and each request would fail.
    fn check_types(&self) -> Result<(), LoadError> {
        let checked = self.run(Facts::default(), |store, instance| {
            instance.get_typed_func::<Question<'_>, (Decision,)>(&mut *store, self.authorize)?;
            if let Some(lifecycle) = &self.lifecycle {
                lifecycle.load(&mut *store, instance)?;
            }
            if let Some(catalogue) = &self.catalogue {
                catalogue.load(&mut *store, instance)?;
            }
            if let Some(explain) = self.explain {
                instance.get_typed_func::<Question<'_>, (Explanation,)>(&mut *store, explain)?;
            }
            Ok(())
        });
        match checked.1 {
            Ok(Run::Done(())) => Ok(()),
            Ok(Run::Unread(_)) => {
                let why = "it reads storage before it is asked anything";
                Err(LoadError::Contract(wasmtime::Error::msg(why)))
            }
            Err(EngineError::Trapped(err)) => Err(LoadError::Contract(err)),
            Err(err) => Err(LoadError::Contract(wasmtime::Error::new(err))),
        }
    }

    /// Returns the SHA-256 digest of the component: what the policy is called.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the size of the component in bytes.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Returns the section in which the policy carries cases of its own, if it has
    /// one. Nobody has read it yet.
    pub fn cases(&self) -> Option<&[u8]> {
        self.cases.as_deref()
    }

    /// Returns the names of the interfaces that the policy exports.
    pub fn interfaces(&self) -> Vec<&'static str> {
        let optional = [
            ("lifecycle", self.lifecycle.is_some()),
            ("catalogue", self.catalogue.is_some()),
            ("explain", self.explain.is_some()),
        ];
        let optional = optional.into_iter().filter(|(_, there)| *there).map(|(name, _)| name);
        std::iter::once("authorizer").chain(optional).collect()
    }

    /// Returns why every request gets a new instance of the policy, which takes longer;
    /// `None`: an instance is put back into the state in which it began, and used again.
    pub fn why_anew(&self) -> Option<String> {
        self.reset.as_ref().err().map(ToString::to_string)
    }

    /// Asks for the decision about a request. `key` is the one whose secret it
    /// presents.
    ///
    /// The facts go in and come out again, in a `Result` or not, so that the
    /// next run has them.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: the policy has not decided.
    pub fn authorize(
        &self,
        request: &Request<'_>,
        key: Option<&Key>,
        facts: Facts,
    ) -> (Facts, Result<Run<Decision>, EngineError>) {
        if self.reset.is_ok()
            && let Some(mut waiting) = self.waiting.take(self.digest)
        {
            renew(&mut waiting.store, facts);
            return self.decide(waiting, request, key, self.reset.is_ok());
        }
        match self.instance(facts) {
            Ok(instance) => self.decide(instance, request, key, self.reset.is_ok()),
            Err((err, call)) => outcome(Err(err), call),
        }
    }

    /// Asks for the decision in a new instance, which is thrown away. Not for
    /// requests: benchmarks measure by it what a new instance costs.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: the policy has not decided.
    #[doc(hidden)]
    pub fn authorize_anew(
        &self,
        request: &Request<'_>,
        key: Option<&Key>,
        facts: Facts,
    ) -> (Facts, Result<Run<Decision>, EngineError>) {
        match self.instance(facts) {
            Ok(instance) => self.decide(instance, request, key, false),
            Err((err, call)) => outcome(Err(err), call),
        }
    }

    /// Makes an instance that can be asked for a decision.
    fn instance(&self, facts: Facts) -> Result<Instance, (wasmtime::Error, Call)> {
        let mut store = self.store(facts);
        let authorize = self.pre.instantiate(&mut store).and_then(|instance| {
            let gone = || not_exported("authorize").into();
            instance.get_func(&mut store, self.authorize).ok_or_else(gone)
        });
        // To be made is not to grow.
        store.data_mut().limits.has_grown = false;
        match authorize {
            Ok(authorize) => Ok(Instance { store, authorize }),
            Err(err) => Err((err, store.into_data())),
        }
    }

    /// Puts a request to an instance, and lets the instance wait for the next if it was
    /// put back.
    fn decide(
        &self,
        mut instance: Instance,
        request: &Request<'_>,
        key: Option<&Key>,
        is_put_back: bool,
    ) -> (Facts, Result<Run<Decision>, EngineError>) {
        #[expect(unsafe_code, reason = "the types were compared when the policy was loaded")]
        // SAFETY: `Engine::load`, the only maker of policies, has compared
        // the types of this function with these, in `check_types`. To compare them
        // again takes 0.2 µs.
        let authorize =
            unsafe { TypedFunc::<Question<'_>, (Decision,)>::new_unchecked(instance.authorize) };
        let answer = authorize.call(&mut instance.store, (request, key));
        let answer = answer.map(|(decision,)| decision);
        let call = std::mem::replace(instance.store.data_mut(), Call::new(Facts::default()));
        let is_as_new = is_put_back && !call.limits.has_grown;
        let (facts, answer) = outcome(answer, call);
        if is_as_new && matches!(&answer, Ok(Run::Done(_))) {
            self.waiting.keep(self.digest, instance);
        }
        (facts, answer)
    }

    /// Asks for the decision about a request, as [`Policy::authorize`] does, and which
    /// rules led to it.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: the policy has not decided.
    pub fn explain(
        &self,
        request: &Request<'_>,
        key: Option<&Key>,
        facts: Facts,
    ) -> (Facts, Result<Run<Explanation>, EngineError>) {
        let Some(explain) = self.explain else {
            return (facts, Err(EngineError::Missing("explain")));
        };
        self.run(facts, |store, instance| {
            let explain =
                instance.get_typed_func::<Question<'_>, (Explanation,)>(&mut *store, explain)?;
            explain.call(store, (request, key)).map(|(explanation,)| explanation)
        })
    }

    /// Puts a question that reads nothing from storage. What may be asked is in
    /// `questions`.
    fn ask<T>(
        &self,
        question: impl FnOnce(&mut Store<Call>, &wasmtime::component::Instance) -> wasmtime::Result<T>,
    ) -> Result<T, EngineError> {
        match self.run(Facts::default(), question).1? {
            Run::Done(answer) => Ok(answer),
            Run::Unread(_) => Err(EngineError::Garbage("it read storage where there is none")),
        }
    }

    /// Puts a question to a new instance.
    fn run<T>(
        &self,
        facts: Facts,
        question: impl FnOnce(&mut Store<Call>, &wasmtime::component::Instance) -> wasmtime::Result<T>,
    ) -> (Facts, Result<Run<T>, EngineError>) {
        let mut store = self.store(facts);
        let answer =
            self.pre.instantiate(&mut store).and_then(|instance| question(&mut store, &instance));
        outcome(answer, store.into_data())
    }

    fn store(&self, facts: Facts) -> Store<Call> {
        let mut store = Store::new(self.pre.engine(), Call::new(Facts::default()));
        store.limiter(|call| &mut call.limits);
        store.epoch_deadline_callback(|mut context| {
            Ok(match context.data_mut().budget.at_deadline() {
                Verdict::GoOn => UpdateDeadline::Continue(budget::DEADLINE_TICKS),
                Verdict::Spent | Verdict::Starved => UpdateDeadline::Interrupt,
            })
        });
        renew(&mut store, facts);
        store
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        self.waiting.forget(self.digest);
    }
}

/// Gives a store what one question may read and spend. Nothing is left of what it had.
fn renew(store: &mut Store<Call>, facts: Facts) {
    *store.data_mut() = Call::new(facts);
    store.set_hostcall_fuel(MAX_ANSWER_BYTES);
    store.set_epoch_deadline(budget::DEADLINE_TICKS);
}

/// Tells what came of a call.
fn outcome<T>(answer: wasmtime::Result<T>, call: Call) -> (Facts, Result<Run<T>, EngineError>) {
    let Call { facts, unread, budget, .. } = call;
    let answer = match (answer, unread) {
        // Whatever came of the run, it was cut short: a trap on the way out
        // is not the policy's fault, and an answer not its word.
        (_, Some(unread)) => Ok(Run::Unread(unread)),
        (Ok(answer), None) => Ok(Run::Done(answer)),
        (Err(err), None) => Err(match err.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) if budget.is_starved => EngineError::Starved,
            Some(Trap::Interrupt) => EngineError::OutOfTime,
            // More decide at once than there are places: no fault of the policy.
            _ if err.is::<PoolConcurrencyLimitError>() => EngineError::Starved,
            _ => EngineError::Trapped(err),
        }),
    };
    (facts, answer)
}

/// What goes with one question.
struct Call {
    facts: Facts,
    /// What ended the run, if it asked for something that was not read yet.
    unread: Option<Unread>,
    budget: Budget,
    limits: Limits,
}

impl Call {
    fn new(facts: Facts) -> Self {
        let limits = StoreLimitsBuilder::new()
            .memory_size(MAX_MEMORY_BYTES)
            .table_elements(MAX_TABLE_ELEMENTS)
            .build();
        let limits = Limits { limits, has_grown: false };
        Self { facts, unread: None, budget: Budget::default(), limits }
    }
}

/// What an instance may grow to.
struct Limits {
    limits: StoreLimits,
    /// Whether a memory was made or has grown, or was to.
    has_grown: bool,
}

impl ResourceLimiter for Limits {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.has_grown = true;
        self.limits.memory_growing(current, desired, maximum)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.limits.table_growing(current, desired, maximum)
    }
}

/// The import `find-accounts`.
fn find_accounts(
    mut context: StoreContextMut<'_, Call>,
    (ids,): (Vec<String>,),
) -> wasmtime::Result<(Vec<Option<Arc<Account>>>,)> {
    let call = context.data_mut();
    match ids.iter().map(|id| call.facts.account(id)).collect() {
        Some(accounts) => Ok((accounts,)),
        None => Err(cut_short(call, Unread(ids))),
    }
}

/// Ends the run. Only the first question counts: the component does not come
/// back from it.
#[cold]
fn cut_short(call: &mut Call, unread: Unread) -> wasmtime::Error {
    call.unread.get_or_insert(unread);
    wasmtime::Error::msg("the request has not read this yet")
}
