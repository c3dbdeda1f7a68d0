//! Turns what an observer of a client is told into events, for a callback or a queue.

use std::sync::{Arc, Weak};

use serde_json::{Value, json};

use super::code::Code;
use super::constants::{
    EVENT_BACKOFF, EVENT_BILLING_PAUSE, EVENT_BREAKER, EVENT_DROPPED, EVENT_HEARTBEAT, EVENT_QUEUE_STATE,
    EVENT_RETRY,
};
use super::event::{Event, tinkex_event};
use super::in_turn::InTurn;
use super::object::{Object, User};
use super::queue::{Queue, SharedQueue};
use super::status::milliseconds;
use crate::error::Error;
use crate::event::{
    Backoff, BillingPause, BreakerChange, BreakerState, Dropped, HeartbeatTrouble, Observer,
    QueueStateChange, Retry,
};
use crate::transport::Lane;

type EventFn = unsafe extern "C-unwind" fn(*mut std::ffi::c_void, *const tinkex_event);

/// Receiver of events: a callback or a queue of C code.
pub(super) enum Receiver {
    Callback {
        function: EventFn,
        user: User,
        in_turn: InTurn<Event>,
    },
    /// Events for a queue that was freed are dropped.
    Queue {
        queue: Weak<SharedQueue>,
        tag: u64,
    },
}

impl Receiver {
    pub(super) fn callback(function: EventFn, user: User) -> Arc<Self> {
        Arc::new(Receiver::Callback { function, user, in_turn: InTurn::new() })
    }

    pub(super) fn queue(queue: &Queue, tag: u64) -> Arc<Self> {
        Arc::new(Receiver::Queue { queue: queue.downgrade(), tag })
    }

    fn receive(&self, kind: i32, message: &str, json: &Value) {
        match self {
            Receiver::Callback { function, user, in_turn } => {
                let event = Event::new(kind, 0).saying(message, json);
                in_turn.call(event, |event| {
                    let event = Object::embedded(event);
                    // SAFETY: the caller who registered the function promises that it takes these pointers. The event
                    // lives until it returns.
                    unsafe { function(user.pointer(), &raw const event) };
                });
            }
            Receiver::Queue { queue, tag } => {
                if let Some(queue) = queue.upgrade() {
                    queue.push(Event::new(kind, *tag).saying(message, json));
                }
            }
        }
    }
}

/// The observer of a client, for one or two receivers.
pub(super) struct EventObserver(pub(super) Vec<Arc<Receiver>>);

impl EventObserver {
    fn tell(&self, kind: i32, message: &str, json: &Value) {
        self.0.iter().for_each(|receiver| receiver.receive(kind, message, json));
    }
}

impl Observer for EventObserver {
    fn on_queue_state(&self, change: &QueueStateChange) {
        let QueueStateChange { operation, request_id, state, reason, elapsed } = change;
        let why = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let message = format!("{operation}: the queue is {}{why}", state.as_str());
        let json = json!({
            "operation": operation,
            "request_id": request_id,
            "state": state.as_str(),
            "reason": reason,
            "elapsed_ms": milliseconds(*elapsed),
        });
        self.tell(EVENT_QUEUE_STATE, &message, &json);
    }

    fn on_retry(&self, retry: &Retry) {
        let Retry { path, attempts, error, pause } = retry;
        let message =
            format!("{path}: attempt {attempts} failed, the next one follows in {pause:.1?}: {error}");
        let json = json!({
            "path": path,
            "attempts": attempts,
            "error": error_json(error),
            "pause_ms": milliseconds(*pause),
        });
        self.tell(EVENT_RETRY, &message, &json);
    }

    fn on_backoff(&self, backoff: &Backoff) {
        let message = format!("the server is overloaded: no sample is sent for {:.1?}", backoff.pause);
        self.tell(EVENT_BACKOFF, &message, &json!({ "pause_ms": milliseconds(backoff.pause) }));
    }

    fn on_breaker(&self, change: &BreakerChange) {
        let (class, state) = (lane(change.class), breaker_state(change.state));
        let message = format!("the circuit breaker of requests of the class {class} is {state}");
        self.tell(EVENT_BREAKER, &message, &json!({ "class": class, "state": state }));
    }

    fn on_billing_pause(&self, pause: &BillingPause) {
        let BillingPause { lasted, error } = pause;
        let message = format!("operations wait for payment of the account since {lasted:.1?}: {error}");
        let json = json!({ "lasted_ms": milliseconds(*lasted), "error": error_json(error) });
        self.tell(EVENT_BILLING_PAUSE, &message, &json);
    }

    fn on_heartbeat_trouble(&self, trouble: &HeartbeatTrouble) {
        let HeartbeatTrouble { session_id, silent, error } = trouble;
        let message = format!("session {session_id}: no heartbeat has arrived for {silent:.1?}: {error}");
        let json = json!({
            "session_id": session_id,
            "silent_ms": milliseconds(*silent),
            "error": error_json(error),
        });
        self.tell(EVENT_HEARTBEAT, &message, &json);
    }

    fn on_drop(&self, dropped: &Dropped) {
        let Dropped { operation, request_id } = dropped;
        let message = format!("{operation}: cancelled, because its handle was freed");
        self.tell(EVENT_DROPPED, &message, &json!({ "operation": operation, "request_id": request_id }));
    }
}

fn error_json(error: &Error) -> Value {
    let code = Code::of(error.kind());
    json!({ "code": code.number(), "name": code.name(), "message": error.to_string() })
}

fn lane(lane: Lane) -> &'static str {
    match lane {
        Lane::Session => "session",
        Lane::Train => "train",
        Lane::Sample => "sample",
        Lane::Poll => "poll",
        Lane::Rest => "rest",
        Lane::PollMany => "poll_many",
        Lane::Telemetry => "telemetry",
    }
}

fn breaker_state(state: BreakerState) -> &'static str {
    match state {
        BreakerState::Closed => "closed",
        BreakerState::Open => "open",
        BreakerState::HalfOpen => "half_open",
    }
}
