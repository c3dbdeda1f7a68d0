//! The faults and their expected outcomes (PROTOCOL §1.10, §1.13, §4.3). The official SDK nests three loops of retries.
//! In place of two of them, this client has one loop with one time limit. A promise is the id with which the client
//! requests the result of an accepted request.
//!
//! The time limits on the virtual clock: 30 s for all attempts of a request, 30 s for an operation unless
//! [`Fault::operation`] has another value, and 20 s without an answer of the server, after which an operation fails
//! with the error kind `Stuck`.

use std::ops::RangeInclusive;
use std::time::Duration;

use tinkex::testing::{Act, FakeServer};
use tinkex::transport::Answer;
use tinkex::{Category, Error, ErrorKind};

use super::{Place, Times};

/// A kind of error, without the details that differ from run to run.
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

/// The expected outcome of a row (a verb with a fault), and the number of requests that must reach the server.
#[derive(Clone, Debug)]
pub(super) enum Expect {
    Works(RangeInclusive<usize>),
    /// Fails with one of these kinds of error.
    Fails(Vec<Kind>, RangeInclusive<usize>),
}

/// State of a training client after a failed submission. The client must keep the order of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The server certainly did not accept the request: the client accepts later operations.
    Whole,
    /// The server may have accepted the request: the client is poisoned, that is, it refuses later operations.
    Lost,
}

/// Injects a fault into the server at a path, once if the flag is true and always otherwise.
type Inject = Box<dyn Fn(&FakeServer, &str, bool) + Send + Sync>;

pub(super) struct Fault {
    pub(super) name: &'static str,
    /// The fault holds the connection until a timeout, so the row needs the real clock.
    pub(super) slow: bool,
    /// Timeout of an operation on the virtual clock, in seconds.
    pub(super) operation: u64,
    pub(super) inject: Inject,
    /// Outcomes if the first request of the verb meets the fault: once, and always.
    pub(super) submit: (Expect, Expect),
    /// Outcomes if the request for the result meets the fault: once, and always.
    pub(super) retrieve: (Expect, Expect),
    /// Outcomes if the request that ends a session meets the fault: once, and always. That request is retried for 10 s.
    pub(super) finish: (Expect, Expect),
    pub(super) order: Order,
}

/// Verbs for which a fault has another outcome than [`Fault`] says.
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

/// Number of attempts when a request is retried with growing pauses for 30 s.
const ALL: RangeInclusive<usize> = 7..=8;

/// The connection breaks. `alter` turns the usual response into the fault.
fn broken(
    name: &'static str,
    kind: Kind,
    alter: impl Fn(Answer) -> Act + Clone + Send + Sync + 'static,
) -> Fault {
    Fault {
        name,
        slow: false,
        operation: 30,
        inject: Box::new(move |server, path, once| {
            if once {
                server.next_altered(path, alter.clone());
            } else {
                server.always_altered(path, alter.clone());
            }
        }),
        submit: (works(2), fails(kind, ALL)),
        // Six requests: the first one, four after pauses of 1, 2, 4 and 8 s, and a last one when 20 s without an answer
        // have passed.
        retrieve: (works(2), fails(Kind::Stuck, 6..=6)),
        finish: (works(2), fails(kind, 5..=5)),
        order: Order::Lost,
    }
}

/// The server keeps the connection open without a complete response, until the timeout for one exchange (a request with
/// its response) passes.
fn held(name: &'static str, alter: impl Fn(Answer) -> Act + Clone + Send + Sync + 'static) -> Fault {
    Fault {
        slow: true,
        submit: (works(2), fails(Kind::Timeout, 2..=2)),
        retrieve: (works(2), fails(Kind::Stuck, 2..=2)),
        finish: (works(2), fails(Kind::Timeout, 2..=2)),
        ..broken(name, Kind::Timeout, alter)
    }
}

/// The response is unusual but complete.
fn harmless(name: &'static str, alter: impl Fn(Answer) -> Act + Clone + Send + Sync + 'static) -> Fault {
    Fault {
        submit: (works(1), works(1)),
        retrieve: (works(1), works(1)),
        finish: (works(1), works(1)),
        ..broken(name, Kind::Other, alter)
    }
}

/// The response has a success status and a body that cannot be decoded.
fn undecodable(name: &'static str, alter: impl Fn(Answer) -> Act + Clone + Send + Sync + 'static) -> Fault {
    let fail = || fails(Kind::Decode, 1..=1);
    Fault {
        submit: (fail(), fail()),
        retrieve: (fail(), fail()),
        // The client does not decode the body of the response to the request that ends a session.
        finish: (works(1), works(1)),
        ..broken(name, Kind::Decode, alter)
    }
}

/// A status after which the client does not repeat the request.
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

/// A transient status, after which the client repeats the request. `polls` is the number of requests for a result until
/// the operation times out.
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
    let unread: Inject = Box::new(|server, path, once| {
        if once {
            server.next(path, Act::ResetUnread);
        } else {
            server.always(path, Act::ResetUnread);
        }
    });
    let refuse: Inject = Box::new(|server, path, once| {
        if once {
            server.next(path, Act::Refuse(Duration::from_millis(100)));
        } else {
            server.always(path, Act::Refuse(Duration::from_secs(3600)));
        }
    });
    vec![
        Fault { inject: unread, ..broken("reset-before", Kind::Connection, |_| Act::Reset) },
        broken("reset-after", Kind::Connection, |_| Act::Reset),
        Fault {
            inject: refuse,
            slow: true,
            // Requests on refused connections do not reach the server and are not counted.
            submit: (works(2), fails(Kind::Connection, 1..=1)),
            retrieve: (works(2), fails(Kind::Stuck, 1..=1)),
            finish: (works(2), fails(Kind::Connection, 1..=1)),
            ..broken("refuse", Kind::Connection, |_| Act::Reset)
        },
        held("stall-head", |_| Act::Stall),
        held("stall-body", Act::StallBody),
        held("length-too-long", |answer| {
            let length = answer.body.len() + 7;
            Act::Answer(answer).with_header("content-length", &length.to_string())
        }),
        undecodable("length-too-short", |answer| {
            let length = answer.body.len() / 2;
            Act::Answer(answer).with_header("content-length", &length.to_string())
        }),
        broken("truncate", Kind::Connection, Act::Truncate),
        broken("garbage", Kind::Decode, |_| Act::Garbage("this is not HTTP\r\n\r\n".into())),
        // A response head that exceeds the client's buffer for heads, and one that fits into this buffer.
        broken("head-of-100-kB", Kind::Decode, |answer| {
            Act::Answer(answer).with_header("x-padding", &"x".repeat(100_000))
        }),
        harmless("head-of-9-kB", |it| Act::Answer(it).with_header("x-padding", &"x".repeat(9_000))),
        Fault {
            // An HTML page is an error even in response to the request that ends a session, for which the client
            // decodes no body.
            finish: (fails(Kind::Decode, 1..=1), fails(Kind::Decode, 1..=1)),
            ..undecodable("another-page", |_| Act::status(200, "<html>Please log in</html>"))
        },
        harmless("drip", |it| Act::Drip(it, Duration::from_millis(1))),
        harmless("body-of-200-kB", |it| Act::Answer(padded(it))),
        Fault {
            submit: (works(2), fails(Kind::Status(400), ALL)),
            // Pauses of 1, 2, 4, 8 and 16 s; the operation times out during the last pause.
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
            // Repeated every 5 s until the operation times out.
            submit: (works(2), fails(Kind::Billing, 6..=6)),
            retrieve: (works(2), fails(Kind::Billing, 6..=6)),
            ..fatal("402", Kind::Billing, status(402))
        },
        fatal("403", Kind::Permission, status(403)),
        Fault {
            operation: 60,
            // Some replicas of the server may not know a new promise yet, so the client repeats the request after 1, 2,
            // 4 and 8 s.
            retrieve: (works(2), fails(Kind::Expired, 5..=5)),
            finish: (works(1), works(1)),
            ..fatal("404", Kind::NotFound, status(404))
        },
        passing("408", Kind::Status(408), Lost, status(408), 590..=601),
        Fault {
            // Retried for 5 s.
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

/// The usual response with 200 kB of padding. The decoder skips the padding, and no size limit forbids it.
fn padded(mut answer: Answer) -> Answer {
    const PADDING: usize = 200 << 10;
    let mut body = answer.body.to_vec();
    if answer.header("content-type") == Some("application/x-protobuf") {
        // Put the padding into field 1000, length-delimited, which no known message has.
        body.extend([0xc2, 0x3e]);
        let mut length = PADDING;
        while 0x7f < length {
            body.push(0x80 | (length & 0x7f) as u8);
            length >>= 7;
        }
        body.push(length as u8);
    }
    body.resize(body.len() + PADDING, b' ');
    answer.body = body.into();
    answer
}

pub(super) fn exceptions() -> Vec<Exception> {
    const FROM_STATE: &[&str] =
        &["create_training_client_from_state", "create_training_client_from_state_with_optimizer"];
    const CAPABILITIES: &[&str] = &["get_server_capabilities"];
    const FIRST_CALLS: &[&str] =
        &["get_server_capabilities", "create_lora_training_client", "create_sampling_client"];
    const SAMPLING: &[&str] = &["sample", "compute_logprobs"];
    use Place::*;
    use Times::*;
    let except = |fault, verbs, place, times, expect| Exception { fault, verbs, place, times, expect };
    let kinds = |all: &[Kind], requests| Expect::Fails(all.to_vec(), requests);
    let ended = |requests| Expect::Fails(vec![Kind::RateLimited, Kind::Timeout], requests);
    let lost = |requests| Expect::Fails(vec![Kind::Expired, Kind::Timeout], requests);
    vec![
        // If the server refuses the request that creates a model from a checkpoint, the client creates the model and
        // loads the checkpoint with three other requests.
        except("422", FROM_STATE, Submit, Once, works(2)),
        except("422", FROM_STATE, Submit, Always, fails(Kind::Status(422), 2..=2)),
        // The request names no object, so a 404 means that the endpoint itself is missing.
        except("404", CAPABILITIES, Submit, Once, fails(Kind::Incompatible, 1..=1)),
        except("404", CAPABILITIES, Submit, Always, fails(Kind::Incompatible, 1..=1)),
        // A 402 is not retried in the calls that a program usually makes first.
        except("402", FIRST_CALLS, Submit, Once, fails(Kind::Billing, 1..=1)),
        except("402", FIRST_CALLS, Submit, Always, fails(Kind::Billing, 1..=1)),
        // A sample whose promise has expired (410) is submitted again until the operation times out.
        except("410", SAMPLING, Retrieve, Once, works(2)),
        except("410", SAMPLING, Retrieve, Always, lost(5..=10)),
        // A sample whose promise is unknown to the server (404) is submitted once more. The client polls five times
        // after each of the two submissions.
        except("404", SAMPLING, Retrieve, Always, fails(Kind::Expired, 10..=10)),
        // After a 429 all samples pause together and are retried until the operation times out.
        except("429", SAMPLING, Submit, Always, ended(29..=31)),
        except("429-retry-after", SAMPLING, Submit, Always, ended(29..=31)),
    ]
    .into_iter()
    // If a sample was not accepted within the timeout `submit`, the client submits it as a new request, but only if
    // this timeout has at least its default of 300 s. The clients of this test have a shorter timeout, so such a sample
    // fails.
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
