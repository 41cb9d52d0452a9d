//! Which requests do the same at the same time.
//!
//! What a request runs is more code than the caches near a processor hold. Where
//! several are ready at once, it is better to do a part of each, one after the other,
//! than all of one and then all of the next: only the first of them waits for that
//! part's code. (In the literature: cohort scheduling.)

use std::{cell::Cell, future::poll_fn, task::Poll};

/// How often a thread whose requests come alone looks whether that is still so, in
/// requests. To give way to nobody takes up to 10 µs, as another thread is woken for
/// what there is to run: a sixth of a microsecond for each.
const LOOK_EVERY: u32 = 64;

/// How many in a row give way to nobody until it is taken that requests come alone.
/// Under load one does so every now and then.
const ALONE_IN_A_ROW: u32 = 8;

/// Where requests give way to each other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Point {
    /// The request was decided about.
    Decided,
    /// It was served, and its answer can be sent.
    Served,
}

const POINTS: usize = 2;

thread_local! {
    static CROWDS: [Crowd; POINTS] = const { [const { Crowd::new() }; POINTS] };
}

/// How many requests come to a point together, on one thread.
struct Crowd {
    /// How many have come this far.
    came: Cell<u32>,
    /// How many of those are no longer counted as coming together.
    counted: Cell<u32>,
    /// How many of those that gave way last, gave way to nobody.
    alone: Cell<u32>,
}

impl Crowd {
    const fn new() -> Self {
        Self { came: Cell::new(0), counted: Cell::new(0), alone: Cell::new(0) }
    }

    /// Notes that a request has come this far; returns whether it gives way.
    fn come(&self) -> bool {
        let number = self.came.get().wrapping_add(1);
        self.came.set(number);
        let come_alone = self.alone.get() >= ALONE_IN_A_ROW;
        let looks = come_alone && number.is_multiple_of(LOOK_EVERY);
        if looks {
            // Those before it have gone on.
            self.counted.set(number.wrapping_sub(1));
        }
        looks || !come_alone
    }

    /// Notes that one that gave way goes on. The first of those that came together
    /// finds how many they are.
    fn go_on(&self) {
        let together = self.came.get().wrapping_sub(self.counted.get());
        if together > 0 {
            self.counted.set(self.came.get());
            self.alone.set(if together == 1 { self.alone.get().saturating_add(1) } else { 0 });
        }
    }
}

/// Lets the other requests come this far that are ready on this thread, if there are
/// any. One that goes on on another thread is counted there: at worst, some give way in
/// vain, or do not.
pub(crate) async fn give_way(point: Point) {
    if CROWDS.with(|crowds| crowds[point as usize].come()) {
        behind_the_others().await;
        CROWDS.with(|crowds| crowds[point as usize].go_on());
    }
}

/// Lets the tasks run that are ready on this thread.
///
/// Not tokio's `yield_now`, which lets the thread ask the system for more to do as well:
/// that call costs more than those that come by it save (measured 2026-11 by the
/// benchmark `gate-cost`: a ninth of the CPU of a request).
async fn behind_the_others() {
    let mut has_waited = false;
    poll_fn(|context| {
        if has_waited {
            return Poll::Ready(());
        }
        has_waited = true;
        // A task that wakes itself goes to the end of the queue.
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use tokio::task::LocalSet;

    use super::*;

    /// So many come at once. Returns what they did, in order: a letter before each gave
    /// way, and one after.
    fn together(requests: u32) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let done = Rc::new(RefCell::new(String::new()));
        let all = LocalSet::new();
        for _ in 0..requests {
            let done = Rc::clone(&done);
            all.spawn_local(async move {
                done.borrow_mut().push('a');
                give_way(Point::Decided).await;
                done.borrow_mut().push('b');
            });
        }
        runtime.block_on(all);
        done.take()
    }

    #[test]
    fn those_that_come_together_go_on_together_and_whoever_comes_alone_goes_on() {
        assert_eq!(together(3), "aaabbb");
        assert_eq!(together(2), "aabb");
        for _ in 0..ALONE_IN_A_ROW - 1 {
            assert_eq!(together(1), "ab");
        }
        assert_eq!(together(2), "aabb");
        for _ in 0..ALONE_IN_A_ROW {
            assert_eq!(together(1), "ab");
        }
        // They come alone, it seems.
        assert_eq!(together(3), "ababab");
        for _ in 3 + 2 + (ALONE_IN_A_ROW - 1) + 2 + ALONE_IN_A_ROW + 3..LOOK_EVERY - 1 {
            assert_eq!(together(1), "ab");
        }
        // The first one looks, and finds the others.
        assert_eq!(together(3), "aababb");
        assert_eq!(together(3), "aaabbb");
    }
}
