//! Catches panics. No other module of the crate calls `catch_unwind`.
//!
//! Each request must be answered, even if a panic ends its handling. A request carries its
//! [`Reply`](super::oneshot::Reply). If the code that owns the request panics, unwinding drops the reply *before* the
//! panic's message can be read, so that the destructor of the reply cannot send the message.
//!
//! Therefore [`catch`] opens a scope on its thread. A reply that is dropped while a panic unwinds sends nothing; it
//! stores a function in the scope that can send its answer later. When unwinding has ended, `catch` knows the message
//! and calls these functions with it. Scopes nest: the innermost `catch` answers. Without any scope the reply answers
//! immediately, without the message.
//!
//! [`drop_because`] is for work that is dropped without a panic, because it will not be done: replies that are dropped
//! with the work answer with the given reason.
//!
//! All this needs `panic = "unwind"`. With `panic = "abort"` the crate refuses to compile.

use std::any::Any;
use std::cell::RefCell;
use std::mem;
use std::panic::{self, AssertUnwindSafe};

use super::{thread, thread_local};
use crate::error::{Error, Result};

/// A function that answers a dropped request with an error.
type Answer = Box<dyn FnOnce(Error)>;

enum Scope {
    /// A running `catch`, with the answers that it sends once it has the panic's message.
    Catch(Vec<Answer>),
    /// A running `drop_because`, with its reason.
    DropBecause(Error),
}

thread_local! {
    static SCOPES: RefCell<Vec<Scope>> = const { RefCell::new(Vec::new()) };
}

/// Runs a function and turns its panic into an error. Replies that the panic dropped answer with the same error.
pub(crate) fn catch<T>(f: impl FnOnce() -> T) -> Result<T> {
    let depth = open(Scope::Catch(Vec::new()));
    // Unwind safety: a panic may leave a state half changed. Only owners that are prepared for this read the state
    // afterwards. An actor, for example, stores a new state only when it is complete.
    let outcome = panic::catch_unwind(AssertUnwindSafe(f));
    let answers = close(depth);
    match outcome {
        Ok(value) => {
            answers.into_iter().for_each(answer_after_return);
            Ok(value)
        }
        Err(payload) => {
            let error = Error::panicked(thread_name(), text(&*payload));
            answers.into_iter().for_each(|answer| answer(error.clone()));
            discard(payload);
            Err(error)
        }
    }
}

/// Runs code that may panic, such as a callback of the user. A panic is logged and otherwise ignored.
pub(crate) fn shield(what: &str, f: impl FnOnce()) {
    if let Err(error) = catch(f) {
        report(what, &error);
    }
}

/// Drops work that will not be done. Replies in it answer with `cause`.
pub(crate) fn drop_because<T>(value: T, cause: &Error) {
    shield("a destructor failed", || {
        // The `catch` within `shield` closes this scope, even if the destructor panics.
        open(Scope::DropBecause(cause.clone()));
        drop(value);
    });
}

/// Logs a panic that was caught. The logger is code of the user, so that its own panic is caught as well.
pub(crate) fn report(what: &str, error: &Error) {
    let _ = catch(|| log::error!(target: "tinkex::sync", "{what}: {error}"));
}

/// Answers for a reply that is dropped without an answer. While a panic unwinds, the answer is left to the innermost
/// `catch`. Otherwise it is sent immediately, with the reason of the innermost `drop_because` or with a general error.
pub(super) fn answer_dropped(answer: Answer) {
    if thread::panicking() {
        return leave_to_catch(answer);
    }
    answer(drop_cause().unwrap_or_else(|| Error::closed("the worker ended without an answer")));
}

/// Leaves an answer to the innermost `catch`, which gets the panic's message when unwinding ends.
fn leave_to_catch(answer: Answer) {
    let mut answer = Some(answer);
    // Fails while the thread's locals are destroyed; no scope is open then.
    let _ = SCOPES.try_with(|scopes| {
        let mut scopes = scopes.borrow_mut();
        let innermost = scopes.iter_mut().rev().find_map(|scope| match scope {
            Scope::Catch(answers) => Some(answers),
            Scope::DropBecause(_) => None,
        });
        if let Some(answers) = innermost {
            answers.extend(answer.take());
        }
    });
    if let Some(answer) = answer {
        answer(Error::panicked(thread_name(), "it panicked while it owned this request"));
    }
}

/// Answers for a reply that a panic dropped although the function of `catch` returned normally. Two cases are possible.
/// If an outer panic is unwinding, this `catch` runs in a destructor: the answer is left to the outer `catch`, which
/// gets the message. Otherwise code inside the function caught the panic, and its message is lost.
fn answer_after_return(answer: Answer) {
    if thread::panicking() {
        leave_to_catch(answer);
    } else {
        answer(Error::panicked(thread_name(), "a panic that was caught elsewhere dropped this request"));
    }
}

/// The cause of the `drop_because` that runs on this thread, if it is the innermost scope.
fn drop_cause() -> Option<Error> {
    let cause = SCOPES.try_with(|scopes| match scopes.borrow().last() {
        Some(Scope::DropBecause(cause)) => Some(cause.clone()),
        _ => None,
    });
    cause.ok().flatten()
}

/// Opens a scope and returns the number of scopes that were open before.
fn open(scope: Scope) -> usize {
    let depth = SCOPES.try_with(|scopes| {
        let mut scopes = scopes.borrow_mut();
        scopes.push(scope);
        scopes.len() - 1
    });
    depth.unwrap_or(0)
}

/// Closes a scope, and inner ones that a panic left open. Returns the answers left in all of them.
fn close(depth: usize) -> Vec<Answer> {
    let closed = SCOPES.try_with(|scopes| {
        let mut scopes = scopes.borrow_mut();
        let depth = depth.min(scopes.len());
        scopes.split_off(depth)
    });
    let scopes = closed.unwrap_or_default().into_iter();
    scopes
        .flat_map(|scope| match scope {
            Scope::Catch(answers) => answers,
            Scope::DropBecause(_) => Vec::new(),
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

/// Drops the payload of a panic. If its destructor panics as well, the payload of that second panic is leaked: dropping
/// it could panic again, and so on without end.
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
    fn a_request_that_is_dropped_by_a_panic_is_answered_with_its_message() {
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
    fn each_nested_scope_answers_with_its_own_panic() {
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
    fn a_scope_in_a_destructor_leaves_its_answers_to_the_panic_that_unwinds() {
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
    fn a_request_is_answered_if_foreign_code_caught_the_panic() {
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
    fn a_payload_that_panics_when_dropped_is_ignored() {
        struct PanicsOnDrop;
        impl Drop for PanicsOnDrop {
            fn drop(&mut self) {
                panic::panic_any(PanicsOnDrop);
            }
        }
        assert!(catch(|| panic::panic_any(PanicsOnDrop)).unwrap_err().is_panic());
        assert_eq!(catch(|| 1).unwrap(), 1);
    }

    #[test]
    fn dropped_work_answers_with_the_cause_and_its_destructor_may_panic() {
        struct PanicsOnDrop;
        impl Drop for PanicsOnDrop {
            fn drop(&mut self) {
                panic!("loud");
            }
        }
        let (first, first_slot) = oneshot::<()>();
        let (second, second_slot) = oneshot::<()>();
        drop_because((first, PanicsOnDrop, second), &Error::closed("the shop is closed"));
        assert_eq!(first_slot.try_take().unwrap().unwrap_err().message(), "the shop is closed");
        assert_eq!(message(&second_slot.try_take().unwrap().unwrap_err()), "loud");
        let (later, slot) = oneshot::<()>();
        drop(later);
        assert_eq!(slot.try_take().unwrap().unwrap_err().message(), "the worker ended without an answer");
    }
}
