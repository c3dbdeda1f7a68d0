//! What each fault must lead to (PROTOCOL §1.10, §1.13, §4.3, with the retries of both layers flattened into one budget of
//! time).
//!
//! On the virtual clock a request is repeated for 30 s, a promise is asked after for 30 s unless the fault says otherwise,
//! and a server is given up after 20 s of silence.

use std::ops::RangeInclusive;
use std::time::Duration;

use tinkex::testing::{Act, FakeServer};
use tinkex::transport::Answer;
use tinkex::{Category, Error, ErrorKind};

use super::{Place, Times};

/// A kind of error, without what differs from run to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Connection,
    Timeout,
    Stuck,
    Decode,
    Auth,
    Billing,
    Incompatible,
    Permission,
    NotFound,
    Conflict,
    RateLimited,
    Expired,
    User,
    Status(u16),
    Other,
}

impl Kind {
    pub(super) fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::Connection { .. } => Kind::Connection,
            ErrorKind::Timeout(_) => Kind::Timeout,
            ErrorKind::Stuck { .. } => Kind::Stuck,
            ErrorKind::Decode => Kind::Decode,
            ErrorKind::Auth => Kind::Auth,
            ErrorKind::Billing => Kind::Billing,
            ErrorKind::Incompatible => Kind::Incompatible,
            ErrorKind::Permission => Kind::Permission,
            ErrorKind::NotFound => Kind::NotFound,
            ErrorKind::Conflict => Kind::Conflict,
            ErrorKind::RateLimited => Kind::RateLimited,
            ErrorKind::PromiseExpired => Kind::Expired,
            ErrorKind::RequestFailed { category: Category::User } => Kind::User,
            ErrorKind::Status { code } => Kind::Status(*code),
            _ => Kind::Other,
        }
    }
}

/// What must come of a row, and how many requests must reach the server.
#[derive(Clone, Debug)]
pub(super) enum Expect {
    Works(RangeInclusive<usize>),
    /// With one of these kinds of error.
    Fails(Vec<Kind>, RangeInclusive<usize>),
}

/// What a failed submission leaves of a training client's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The server certainly did not accept the request: later ones may follow.
    Whole,
    /// It may have: the client says so.
    Lost,
}

type Tell = Box<dyn Fn(&FakeServer, &str, bool) + Send + Sync>;

pub(super) struct Fault {
    pub(super) name: &'static str,
    /// It holds the line, so that real time has to pass.
    pub(super) slow: bool,
    /// How long an operation may take on the virtual clock, in seconds.
    pub(super) operation: u64,
    pub(super) tell: Tell,
    /// On the submitting request: once, and always.
    pub(super) submit: (Expect, Expect),
    /// On the request for the result: once, and always.
    pub(super) retrieve: (Expect, Expect),
    /// On the request that ends a session, which is repeated for 10 s: once, and always.
    pub(super) finish: (Expect, Expect),
    pub(super) order: Order,
}

/// A verb for which a fault means something else.
pub(super) struct Exception {
    pub(super) fault: &'static str,
    pub(super) verbs: &'static [&'static str],
    pub(super) place: Place,
    pub(super) times: Times,
    pub(super) expect: Expect,
}

fn works(n: usize) -> Expect {
    Expect::Works(n..=n)
}

fn fails(kind: Kind, requests: RangeInclusive<usize>) -> Expect {
    Expect::Fails(vec![kind], requests)
}

/// A request that is repeated with growing pauses until its 30 s are over is sent so many times.
const ALL: RangeInclusive<usize> = 7..=8;

/// The connection breaks, whatever of the usual answer arrives.
fn broken(
    name: &'static str,
    kind: Kind,
    alter: impl Fn(Answer) -> Act + Clone + Send + Sync + 'static,
) -> Fault {
    Fault {
        name,
        slow: false,
        operation: 30,
        tell: Box::new(move |server, path, once| match once {
            true => server.next_altered(path, alter.clone()),
            false => server.always_altered(path, alter.clone()),
        }),
        submit: (works(2), fails(kind, ALL)),
        // After 1, 2, 4 and 8 s, and at the end of the silence.
        retrieve: (works(2), fails(Kind::Stuck, 6..=6)),
        finish: (works(2), fails(kind, 5..=5)),
        order: Order::Lost,
    }
}

/// The line is held without a word until the exchange times out.
fn held(name: &'static str, alter: impl Fn(Answer) -> Act + Clone + Send + Sync + 'static) -> Fault {
    Fault {
        slow: true,
        submit: (works(2), fails(Kind::Timeout, 2..=2)),
        retrieve: (works(2), fails(Kind::Stuck, 2..=2)),
        finish: (works(2), fails(Kind::Timeout, 2..=2)),
        ..broken(name, Kind::Timeout, alter)
    }
}

/// The answer is odd but complete.
fn harmless(name: &'static str, alter: impl Fn(Answer) -> Act + Clone + Send + Sync + 'static) -> Fault {
    Fault {
        submit: (works(1), works(1)),
        retrieve: (works(1), works(1)),
        finish: (works(1), works(1)),
        ..broken(name, Kind::Other, alter)
    }
}

/// The answer says that it is a success, and is nothing that anybody understands.
fn nonsense(name: &'static str, alter: impl Fn(Answer) -> Act + Clone + Send + Sync + 'static) -> Fault {
    let fail = || fails(Kind::Decode, 1..=1);
    Fault {
        submit: (fail(), fail()),
        retrieve: (fail(), fail()),
        // Nobody reads the answer to that.
        finish: (works(1), works(1)),
        ..broken(name, Kind::Decode, alter)
    }
}

/// A status that is final wherever it comes.
fn fatal(name: &'static str, kind: Kind, act: Act) -> Fault {
    let fail = || fails(kind, 1..=1);
    Fault {
        submit: (fail(), fail()),
        retrieve: (fail(), fail()),
        finish: (fail(), fail()),
        order: Order::Whole,
        ..broken(name, kind, move |_| act.clone())
    }
}

/// A status that may pass. `polls` is how often a result is asked for until the operation's time is over.
fn passing(name: &'static str, kind: Kind, order: Order, act: Act, polls: RangeInclusive<usize>) -> Fault {
    Fault {
        submit: (works(2), fails(kind, ALL)),
        retrieve: (works(2), fails(Kind::Timeout, polls)),
        order,
        ..broken(name, kind, move |_| act.clone())
    }
}

const DETAIL: &str = r#"{"detail":"no"}"#;

pub(super) fn faults() -> Vec<Fault> {
    use Order::*;
    let status = |code| Act::status(code, DETAIL);
    let after = |code, name: &str, value: &str| status(code).with_header(name, value);
    let unread: Tell = Box::new(|server, path, once| match once {
        true => server.next(path, Act::ResetUnread),
        false => server.always(path, Act::ResetUnread),
    });
    let refuse: Tell = Box::new(|server, path, once| match once {
        true => server.next(path, Act::Refuse(Duration::from_millis(100))),
        false => server.always(path, Act::Refuse(Duration::from_secs(3600))),
    });
    vec![
        Fault { tell: unread, ..broken("reset-before", Kind::Connection, |_| Act::Reset) },
        broken("reset-after", Kind::Connection, |_| Act::Reset),
        Fault {
            tell: refuse,
            slow: true,
            // Those that are refused never arrive.
            submit: (works(2), fails(Kind::Connection, 1..=1)),
            retrieve: (works(2), fails(Kind::Stuck, 1..=1)),
            finish: (works(2), fails(Kind::Connection, 1..=1)),
            ..broken("refuse", Kind::Connection, |_| Act::Reset)
        },
        held("stall-head", |_| Act::Stall),
        held("stall-body", Act::StallBody),
        held("length-too-long", |it| {
            let length = it.body.len() + 7;
            Act::Answer(it).with_header("content-length", &length.to_string())
        }),
        nonsense("length-too-short", |it| {
            let length = it.body.len() / 2;
            Act::Answer(it).with_header("content-length", &length.to_string())
        }),
        broken("truncate", Kind::Connection, Act::Truncate),
        broken("garbage", Kind::Decode, |_| Act::Garbage("this is not HTTP\r\n\r\n".into())),
        // More than the buffer of a connection holds, and as much as every one does.
        broken("head-of-100-kB", Kind::Decode, |it| {
            Act::Answer(it).with_header("x-padding", &"x".repeat(100_000))
        }),
        harmless("head-of-9-kB", |it| Act::Answer(it).with_header("x-padding", &"x".repeat(9_000))),
        Fault {
            // What is a page is no success even of what is answered with nothing.
            finish: (fails(Kind::Decode, 1..=1), fails(Kind::Decode, 1..=1)),
            ..nonsense("another-page", |_| Act::status(200, "<html>Please log in</html>"))
        },
        harmless("drip", |it| Act::Drip(it, Duration::from_millis(1))),
        harmless("body-of-200-kB", |it| Act::Answer(padded(it))),
        Fault {
            submit: (works(2), fails(Kind::Status(400), ALL)),
            // After 1, 2, 4, 8 and 16 s, the last of which ends with the operation.
            retrieve: (works(2), fails(Kind::Timeout, 5..=5)),
            finish: (works(2), fails(Kind::Status(400), 5..=5)),
            ..fatal("400-empty", Kind::Status(400), Act::status(400, ""))
        },
        Fault {
            retrieve: (works(2), fails(Kind::User, 4..=4)),
            ..fatal("400-detail", Kind::Status(400), status(400))
        },
        fatal("401", Kind::Auth, status(401)),
        Fault {
            // Every five seconds, for as long as the operation may take.
            submit: (works(2), fails(Kind::Billing, 6..=6)),
            retrieve: (works(2), fails(Kind::Billing, 6..=6)),
            ..fatal("402", Kind::Billing, status(402))
        },
        fatal("403", Kind::Permission, status(403)),
        Fault {
            operation: 60,
            // Young promises may not be known everywhere yet: after 1, 2, 4 and 8 s.
            retrieve: (works(2), fails(Kind::Expired, 5..=5)),
            finish: (works(1), works(1)),
            ..fatal("404", Kind::NotFound, status(404))
        },
        passing("408", Kind::Status(408), Lost, status(408), 590..=601),
        Fault {
            // Worth five seconds.
            submit: (works(2), fails(Kind::Conflict, 4..=4)),
            finish: (works(2), fails(Kind::Conflict, 4..=4)),
            ..fatal("409", Kind::Conflict, status(409))
        },
        Fault {
            retrieve: (fails(Kind::Expired, 1..=1), fails(Kind::Expired, 1..=1)),
            finish: (works(1), works(1)),
            ..fatal("410", Kind::Status(410), status(410))
        },
        fatal("413", Kind::Status(413), status(413)),
        fatal("422", Kind::Status(422), status(422)),
        Fault {
            submit: (works(2), fails(Kind::Status(425), ALL)),
            finish: (works(2), fails(Kind::Status(425), 5..=5)),
            ..fatal("425", Kind::Status(425), status(425))
        },
        passing("429", Kind::RateLimited, Whole, status(429), 5..=5),
        Fault {
            submit: (works(2), fails(Kind::RateLimited, 15..=15)),
            ..passing("429-retry-after", Kind::RateLimited, Whole, after(429, "retry-after", "2"), 15..=15)
        },
        passing("500", Kind::Status(500), Lost, status(500), 14..=17),
        passing("503", Kind::Status(503), Lost, status(503), 14..=17),
        Fault {
            submit: (fails(Kind::Status(503), 1..=1), fails(Kind::Status(503), 1..=1)),
            finish: (fails(Kind::Status(503), 1..=1), fails(Kind::Status(503), 1..=1)),
            ..passing(
                "503-should-not-retry",
                Kind::Status(503),
                Lost,
                after(503, "x-should-retry", "false"),
                14..=17,
            )
        },
        fatal("302", Kind::Status(302), after(302, "location", "/elsewhere")),
    ]
}

/// The usual answer, and more than its reader needs to look at, but no more than any answer may be.
fn padded(mut answer: Answer) -> Answer {
    const PADDING: usize = 200 << 10;
    let mut body = answer.body.to_vec();
    if answer.header("content-type") == Some("application/x-protobuf") {
        // Field 1000 of any message, which is none that we know.
        body.extend([0xc2, 0x3e]);
        let mut left = PADDING;
        while 0x7f < left {
            body.push(0x80 | (left & 0x7f) as u8);
            left >>= 7;
        }
        body.push(left as u8);
    }
    body.resize(body.len() + PADDING, b' ');
    answer.body = body.into();
    answer
}

pub(super) fn exceptions() -> Vec<Exception> {
    const FROM_STATE: &[&str] =
        &["create_training_client_from_state", "create_training_client_from_state_with_optimizer"];
    const CAPABILITIES: &[&str] = &["get_server_capabilities"];
    const BEGINNING: &[&str] =
        &["get_server_capabilities", "create_lora_training_client", "create_sampling_client"];
    const SAMPLING: &[&str] = &["sample", "compute_logprobs"];
    use Place::*;
    use Times::*;
    let except = |fault, verbs, place, times, expect| Exception { fault, verbs, place, times, expect };
    let kinds = |all: &[Kind], requests| Expect::Fails(all.to_vec(), requests);
    let ended = |requests| Expect::Fails(vec![Kind::RateLimited, Kind::Timeout], requests);
    let lost = |requests| Expect::Fails(vec![Kind::Expired, Kind::Timeout], requests);
    vec![
        // A server that cannot make a model from a checkpoint in one step is asked in three.
        except("422", FROM_STATE, Submit, Once, works(2)),
        except("422", FROM_STATE, Submit, Always, fails(Kind::Status(422), 2..=2)),
        // The call names nothing that could be missing but itself.
        except("404", CAPABILITIES, Submit, Once, fails(Kind::Incompatible, 1..=1)),
        except("404", CAPABILITIES, Submit, Always, fails(Kind::Incompatible, 1..=1)),
        // Who cannot pay at the beginning is told at once.
        except("402", BEGINNING, Submit, Once, fails(Kind::Billing, 1..=1)),
        except("402", BEGINNING, Submit, Always, fails(Kind::Billing, 1..=1)),
        // A lost sample is submitted again for as long as the operation may take.
        except("410", SAMPLING, Retrieve, Once, works(2)),
        except("410", SAMPLING, Retrieve, Always, lost(5..=10)),
        // One whose promise is not even known, once more.
        except("404", SAMPLING, Retrieve, Always, fails(Kind::Expired, 10..=10)),
        // All samples wait together when the server has too many, and go on for as long as the operation may take.
        except("429", SAMPLING, Submit, Always, ended(29..=31)),
        except("429-retry-after", SAMPLING, Submit, Always, ended(29..=31)),
    ]
    .into_iter()
    // These clients allow less time for a submission than is usual, so that a sample that is not accepted is not submitted
    // afresh.
    .chain(
        [
            ("reset-before", Kind::Connection),
            ("reset-after", Kind::Connection),
            ("truncate", Kind::Connection),
            ("head-of-100-kB", Kind::Decode),
            ("408", Kind::Status(408)),
            ("409", Kind::Conflict),
            ("425", Kind::Status(425)),
            ("500", Kind::Status(500)),
            ("503", Kind::Status(503)),
        ]
        .map(|(fault, kind)| except(fault, SAMPLING, Submit, Always, kinds(&[kind, Kind::Timeout], 4..=12))),
    )
    .chain(
        ["reset-before", "reset-after", "truncate", "garbage", "head-of-100-kB"].map(|fault| {
            except(fault, SAMPLING, Retrieve, Always, kinds(&[Kind::Stuck, Kind::Timeout], 6..=20))
        }),
    )
    .chain(["refuse", "stall-head", "stall-body", "length-too-long"].map(|fault| {
        let all = [Kind::Stuck, Kind::Timeout, Kind::Connection];
        except(fault, SAMPLING, Retrieve, Always, kinds(&all, 1..=1))
    }))
    .chain(["refuse", "stall-head", "stall-body", "length-too-long"].map(|fault| {
        except(fault, SAMPLING, Submit, Always, kinds(&[Kind::Timeout, Kind::Connection], 1..=1))
    }))
    .collect()
}
