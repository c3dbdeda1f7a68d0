//! Where panics stop: the only `catch_unwind` of the crate.
//!
//! A panic must not lose an answer. A request travels with its [`Reply`](super::oneshot::Reply); if the code that
//! owns it panics, the reply is dropped *before* anybody has seen the panic's payload, so that it could only say
//! "somebody panicked". Therefore [`catch`] opens a scope on its thread: a reply that is dropped while unwinding
//! registers itself there as an orphan, and `catch`, which then holds the payload, answers every orphan with the
//! panic's own message. Scopes nest; outside of any scope an orphan is answered at once, in general words.
//!
//! [`drop_because`] is the counterpart without a panic: it drops things that will not be done any more, and replies that
//! die within it answer with the reason.
//!
//! All this needs `panic = "unwind"`. With `panic = "abort"` the crate does not compile.

use std::any::Any;
use std::cell::RefCell;
use std::mem;
use std::panic::{self, AssertUnwindSafe};

use super::{thread, thread_local};
use crate::error::{Error, Result};

/// Answers an abandoned request with an error.
type Answer = Box<dyn FnOnce(Error)>;

enum Scope {
    /// A `catch`, and the answers owed when it has seen the panic.
    Catch(Vec<Answer>),
    /// A `drop_because`, and why.
    Burial(Error),
}

thread_local! {
    static SCOPES: RefCell<Vec<Scope>> = const { RefCell::new(Vec::new()) };
}

/// Runs a function and makes its panic an error, with which requests that died in it are answered too.
pub(crate) fn catch<T>(f: impl FnOnce() -> T) -> Result<T> {
    let depth = open(Scope::Catch(Vec::new()));
    // The state that the function touched is not looked at after a panic, except by owners that mean to: actors
    // commit a new state only when it is whole.
    let outcome = panic::catch_unwind(AssertUnwindSafe(f));
    let orphans = close(depth);
    match outcome {
        Ok(value) => {
            orphans.into_iter().for_each(pass_outwards);
            Ok(value)
        }
        Err(payload) => {
            let error = Error::panicked(thread_name(), text(&*payload));
            orphans.into_iter().for_each(|answer| answer(error.clone()));
            discard(payload);
            Err(error)
        }
    }
}

/// Runs foreign code whose panic concerns nobody here: it is logged, and that is all.
pub(crate) fn shield(what: &str, f: impl FnOnce()) {
    if let Err(error) = catch(f) {
        report(what, &error);
    }
}

/// Drops what will not be done any more. Replies in it answer with the cause given.
pub(crate) fn drop_because<T>(value: T, cause: &Error) {
    shield("a destructor failed", || {
        // Closed by the `catch` around it, also if the destructor panics.
        open(Scope::Burial(cause.clone()));
        drop(value);
    });
}

/// Logs a panic that was caught. The logger is foreign code as well.
pub(crate) fn report(what: &str, error: &Error) {
    let _ = catch(|| log::error!(target: "tinkex::sync", "{what}: {error}"));
}

/// Called by a reply that is dropped without an answer: decides which error to answer with, and when.
pub(super) fn abandon(answer: Answer) {
    if thread::panicking() {
        return adopt(answer);
    }
    answer(burial().unwrap_or_else(|| Error::closed("the worker ended without an answer")));
}

/// Leaves an answer to the innermost `catch`, which is about to learn the panic's message.
fn adopt(answer: Answer) {
    let mut answer = Some(answer);
    // It fails while the thread's locals are destroyed; then there is no scope either.
    let _ = SCOPES.try_with(|scopes| {
        let mut scopes = scopes.borrow_mut();
        let innermost = scopes.iter_mut().rev().find_map(|it| match it {
            Scope::Catch(orphans) => Some(orphans),
            Scope::Burial(_) => None,
        });
        if let Some(orphans) = innermost {
            orphans.extend(answer.take());
        }
    });
    if let Some(answer) = answer {
        answer(Error::panicked(thread_name(), "it panicked while it owned this request"));
    }
}

/// What becomes of orphans of a function that then returned normally. Either it ran inside a destructor while an
/// outer panic unwinds, and the outer `catch` knows the message; or foreign code swallowed the panic.
fn pass_outwards(answer: Answer) {
    match thread::panicking() {
        true => adopt(answer),
        false => {
            answer(Error::panicked(thread_name(), "a panic that was caught elsewhere dropped this request"))
        }
    }
}

fn burial() -> Option<Error> {
    let words = SCOPES.try_with(|scopes| match scopes.borrow().last() {
        Some(Scope::Burial(cause)) => Some(cause.clone()),
        _ => None,
    });
    words.ok().flatten()
}

/// Opens a scope and returns how many were open before.
fn open(scope: Scope) -> usize {
    let depth = SCOPES.try_with(|scopes| {
        let mut scopes = scopes.borrow_mut();
        scopes.push(scope);
        scopes.len() - 1
    });
    depth.unwrap_or(0)
}

/// Closes a scope, with those inside it that a panic left open, and returns the orphans of all of them.
fn close(depth: usize) -> Vec<Answer> {
    let closed = SCOPES.try_with(|scopes| {
        let mut scopes = scopes.borrow_mut();
        let depth = depth.min(scopes.len());
        scopes.split_off(depth)
    });
    let scopes = closed.unwrap_or_default().into_iter();
    scopes
        .flat_map(|it| match it {
            Scope::Catch(orphans) => orphans,
            Scope::Burial(_) => Vec::new(),
        })
        .collect()
}

fn thread_name() -> String {
    thread::current().name().unwrap_or("unnamed").into()
}

fn text(payload: &(dyn Any + Send)) -> String {
    let literal = payload.downcast_ref::<&'static str>().map(|it| it.to_string());
    let text = literal.or_else(|| payload.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a text".into())
}

/// Drops a payload, whose destructor is foreign code. Should it panic, then its own payload is leaked rather than
/// dropped, because that one could panic again, without end.
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(another) = panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        mem::forget(another);
    }
}

#[cfg(all(test, not(shuttle)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::oneshot::oneshot;
    use super::*;
    use crate::error::ErrorKind;

    fn message(error: &Error) -> &str {
        match error.kind() {
            ErrorKind::Panicked { message, .. } => message,
            other => panic!("not a panic: {other:?}"),
        }
    }

    #[test]
    fn a_panic_becomes_an_error_with_the_thread_and_the_message() {
        let thread = thread::Builder::new().name("tk-unwind".into());
        let error = thread.spawn(|| catch(|| panic!("no {}", "luck")).unwrap_err()).unwrap().join().unwrap();
        let expected = ErrorKind::Panicked { thread: "tk-unwind".into(), message: "no luck".into() };
        assert_eq!(error.kind(), &expected);
        assert_eq!(message(&catch(|| panic!("literal")).unwrap_err()), "literal");
        assert_eq!(message(&catch(|| panic::panic_any(7)).unwrap_err()), "a panic without a text");
        assert_eq!(catch(|| 7).unwrap(), 7);
    }

    #[test]
    fn a_request_that_dies_in_a_panic_is_answered_with_its_message() {
        let (reply, slot) = oneshot::<()>();
        let seen = slot.clone();
        let error = catch(move || {
            let _reply = reply;
            panic!("the reason");
        });
        assert_eq!(message(&error.unwrap_err()), "the reason");
        assert_eq!(message(&seen.try_take().unwrap().unwrap_err()), "the reason");
    }

    #[test]
    fn nested_scopes_answer_each_with_their_own_panic() {
        let (inner_reply, inner) = oneshot::<()>();
        let (outer_reply, outer) = oneshot::<()>();
        let error = catch(move || {
            let _outer = outer_reply;
            let caught = catch(move || {
                let _inner = inner_reply;
                panic!("inner");
            });
            assert!(caught.is_err());
            panic!("outer");
        });
        assert_eq!(message(&error.unwrap_err()), "outer");
        assert_eq!(message(&inner.try_take().unwrap().unwrap_err()), "inner");
        assert_eq!(message(&outer.try_take().unwrap().unwrap_err()), "outer");
    }

    #[test]
    fn a_scope_inside_a_destructor_leaves_its_orphans_to_the_panic_that_unwinds() {
        struct Nested(Option<super::super::oneshot::Reply<()>>);
        impl Drop for Nested {
            fn drop(&mut self) {
                let reply = self.0.take();
                let _ = catch(move || drop(reply));
            }
        }
        let (reply, slot) = oneshot::<()>();
        let error = catch(move || {
            let _nested = Nested(Some(reply));
            panic!("outer");
        });
        assert!(error.is_err());
        assert_eq!(message(&slot.try_take().unwrap().unwrap_err()), "outer");
    }

    #[test]
    fn outside_of_a_scope_a_request_is_answered_at_once() {
        let (reply, slot) = oneshot::<()>();
        let thread = thread::spawn(move || {
            let _reply = reply;
            panic!("nobody catches this");
        });
        assert!(slot.wait(None).unwrap().unwrap_err().is_panic());
        assert!(thread.join().is_err());
    }

    #[test]
    fn an_orphan_of_a_panic_that_foreign_code_swallowed_is_answered() {
        let (reply, slot) = oneshot::<()>();
        catch(move || {
            let swallowed = panic::catch_unwind(AssertUnwindSafe(move || {
                let _reply = reply;
                panic!("swallowed");
            }));
            assert!(swallowed.is_err());
        })
        .unwrap();
        assert!(slot.try_take().unwrap().unwrap_err().is_panic());
    }

    #[test]
    fn a_payload_that_panics_when_dropped_does_no_harm() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic::panic_any(Bomb);
            }
        }
        assert!(catch(|| panic::panic_any(Bomb)).unwrap_err().is_panic());
        assert_eq!(catch(|| 1).unwrap(), 1);
    }

    #[test]
    fn what_is_buried_answers_with_the_cause_and_may_panic() {
        struct Loud;
        impl Drop for Loud {
            fn drop(&mut self) {
                panic!("loud");
            }
        }
        let (first, first_slot) = oneshot::<()>();
        let (second, second_slot) = oneshot::<()>();
        drop_because((first, Loud, second), &Error::closed("the shop is closed"));
        assert_eq!(first_slot.try_take().unwrap().unwrap_err().message(), "the shop is closed");
        assert_eq!(message(&second_slot.try_take().unwrap().unwrap_err()), "loud");
        let (later, slot) = oneshot::<()>();
        drop(later);
        assert_eq!(slot.try_take().unwrap().unwrap_err().message(), "the worker ended without an answer");
    }
}
