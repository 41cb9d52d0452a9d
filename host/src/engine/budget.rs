//! How long a policy may take.
//!
//! A component is interrupted at the next loop or call once the engine's epoch
//! has passed its deadline. Epochs are wall-clock time, and on a busy machine a
//! thread may be put aside for longer than a whole budget. So the first
//! deadline is not the end: it notes the thread's CPU time, and only a decision
//! that has burnt the budget since then is over.

use std::{
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// How far apart the ticks of the epoch are. Each wakes a thread, also of an
/// idle host: a thousand a second would be 1 % of a core for nothing, and the
/// budget is judged by CPU time anyway, not by counting ticks.
const TICK: Duration = Duration::from_millis(5);

/// How much CPU time one run of a decision may take. The standard policy takes a
/// thousandth of it; a rule that needs longer would hold up a worker thread
/// that other requests wait for.
const BUDGET: Duration = Duration::from_millis(10);

/// How long a decision may take by the clock on the wall, whatever the CPU
/// time. Reached only if a machine gives the thread less than a hundredth of a
/// core, and then the caller has given up anyway.
const WALL_LIMIT: Duration = Duration::from_secs(1);

/// [`BUDGET`] in ticks: the epochs from the start of a decision to its first
/// deadline.
pub(super) const DEADLINE_TICKS: u64 = (BUDGET.as_millis() / TICK.as_millis()) as u64;

/// What comes of a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is time left.
    GoOn,
    /// The policy has spent its time.
    Spent,
    /// The machine had none for it.
    Starved,
}

/// What is left of a decision's time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Budget {
    /// The thread's CPU time at the first deadline. Reading it costs a system
    /// call, which a decision that ends in time never pays.
    cpu_at_first_deadline: Option<Duration>,
    deadlines: u32,
    /// Whether the decision was ended because the machine had no time for it.
    pub(super) is_starved: bool,
}

impl Budget {
    /// Tells at a deadline what comes of it.
    ///
    /// A decision in a loop is over after at least one and at most two budgets
    /// of CPU time.
    pub(super) fn at_deadline(&mut self) -> Verdict {
        let verdict = self.at_deadline_with(thread_cpu_time());
        self.is_starved = verdict == Verdict::Starved;
        verdict
    }

    fn at_deadline_with(&mut self, cpu: Duration) -> Verdict {
        self.deadlines += 1;
        match self.cpu_at_first_deadline {
            None => {
                self.cpu_at_first_deadline = Some(cpu);
                Verdict::GoOn
            }
            Some(first) if cpu.saturating_sub(first) >= BUDGET => Verdict::Spent,
            Some(_) if BUDGET * self.deadlines >= WALL_LIMIT => Verdict::Starved,
            Some(_) => Verdict::GoOn,
        }
    }
}

fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// What ticks.
pub(super) trait Clockwork: Send + Sync + 'static {
    /// Moves the epoch on by one.
    fn tick(&self);
}

/// Starts the one thread that ticks for this engine. It ends with the engine.
///
/// A thread of its own and not a task: where every worker is busy with a policy
/// that loops, a task would never run, and nothing would interrupt them.
pub(super) fn start_ticking(clockwork: &Arc<impl Clockwork>) -> std::io::Result<()> {
    let clockwork: Weak<_> = Arc::downgrade(clockwork);
    thread::Builder::new().name("policy-epoch".to_owned()).spawn(move || {
        while let Some(clockwork) = clockwork.upgrade() {
            clockwork.tick();
            drop(clockwork);
            thread::sleep(TICK);
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tells at which deadline a decision is over whose thread gets `cpu_ms` of
    /// CPU time between one deadline and the next, and why.
    #[track_caller]
    fn check(cpu_ms: u64, expected: (u64, Verdict)) {
        let mut budget = Budget::default();
        let mut verdicts = (1..=1000).map(|deadline| {
            // The thread has done other work before.
            let cpu = Duration::from_secs(5) + Duration::from_millis(deadline * cpu_ms);
            (deadline, budget.at_deadline_with(cpu))
        });
        let found = verdicts.find(|(_, verdict)| *verdict != Verdict::GoOn);
        assert_eq!(found, Some(expected), "{cpu_ms} ms of CPU for each deadline");
    }

    #[test]
    fn a_loop_is_over_at_its_second_deadline() {
        check(10, (2, Verdict::Spent));
        check(11, (2, Verdict::Spent));
    }

    #[test]
    fn a_busy_machine_is_not_a_guilty_guest() {
        // It got a fifth of a core, and so five times the time.
        check(2, (6, Verdict::Spent));
        check(5, (3, Verdict::Spent));
        check(1, (11, Verdict::Spent));
    }

    #[test]
    fn a_thread_that_gets_no_cpu_at_all_is_given_up_on() {
        check(0, (100, Verdict::Starved));
        assert_eq!(BUDGET * 100, WALL_LIMIT);
    }

    #[test]
    fn what_the_thread_did_before_does_not_count() {
        let mut budget = Budget::default();
        let hour = Duration::from_secs(3600);
        assert_eq!(budget.at_deadline_with(hour), Verdict::GoOn);
        assert_eq!(budget.at_deadline_with(hour + BUDGET / 2), Verdict::GoOn);
        assert_eq!(budget.at_deadline_with(hour + BUDGET), Verdict::Spent);
    }
}
