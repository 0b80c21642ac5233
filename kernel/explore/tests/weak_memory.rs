//! The pairs of orders in `docs/lock-order.md`, on memory that is weaker than x86's, with `loom`.
//!
//! Schedules and model are sequentially consistent but for the stores of programs, so what needs a barrier is not seen there. Each
//! pair is tried with its barriers, and once without, which must fail. What is a locked instruction in the source, a full barrier,
//! is an exchange and a fence here: `loom` gives an access by itself no more than acquire and release.
#![allow(clippy::unwrap_used, reason = "a helper of tests, too, ends a test by a panic")]
use loom::sync::Arc;
use loom::sync::atomic::Ordering::{self, Acquire, Relaxed, Release, SeqCst};
use loom::sync::atomic::{AtomicU8, fence};
use loom::thread;

const OLD: u8 = 1;
const NEW: u8 = 2;

/// "Mark this CPU, then load the root" against "write the entry, then read the marks".
fn enter_against_flush(barrier: impl Fn() + Copy + Send + Sync + 'static) {
    loom::model(move || {
        let (entry, marks) = (Arc::new(AtomicU8::new(OLD)), Arc::new(AtomicU8::new(0)));
        let enters = {
            let (entry, marks) = (entry.clone(), marks.clone());
            thread::spawn(move || {
                marks.store(1, Relaxed);
                barrier();
                entry.load(Relaxed)
            })
        };
        entry.store(NEW, Relaxed);
        barrier();
        let flushes = marks.load(Relaxed) != 0;
        let cached = enters.join().unwrap();
        assert!(cached == NEW || flushes, "the old entry is cached, and nobody is flushed");
    });
}

#[test]
fn who_enters_is_flushed_or_reads_the_new_entry() {
    enter_against_flush(|| fence(SeqCst));
}

#[test]
#[should_panic(expected = "nobody is flushed")]
fn without_barriers_who_enters_caches_the_old_entry() {
    enter_against_flush(|| fence(Ordering::AcqRel));
}

/// "Write the request, then add the mark" against "take the marks, then read the request"; and an answer that is given when the
/// target's stores are out.
fn request_against_answer(mark_order: Ordering, answer_order: Ordering) {
    loom::model(move || {
        let [request, mark, answer, page] = [(); 4].map(|()| Arc::new(AtomicU8::new(0)));
        let target = {
            let (request, mark, answer, page) = (request.clone(), mark.clone(), answer.clone(), page.clone());
            thread::spawn(move || {
                page.store(NEW, Relaxed);
                if mark.swap(0, Acquire) != 0 {
                    assert_eq!(request.load(Relaxed), NEW, "the mark came before the request");
                    answer.store(1, answer_order);
                }
            })
        };
        request.store(NEW, Relaxed);
        mark.store(1, mark_order);
        if answer.load(Acquire) != 0 {
            assert_eq!(page.load(Relaxed), NEW, "the answer came before a store");
        }
        target.join().unwrap();
    });
}

#[test]
fn a_target_reads_the_request_that_it_is_marked_for() {
    request_against_answer(Release, Release);
}

#[test]
#[should_panic(expected = "the mark came before the request")]
fn a_mark_without_order_may_come_before_its_request() {
    request_against_answer(Relaxed, Release);
}

#[test]
#[should_panic(expected = "the answer came before a store")]
fn an_answer_without_order_may_come_before_a_store() {
    request_against_answer(Release, Relaxed);
}
