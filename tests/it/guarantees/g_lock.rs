//! Tests of the guarantee G-LOCK (see `guarantees/mod.rs`). It covers these findings of `src/_docs/findings.md`:
//! 003-D6, 004-7, N-09.
//!
//! No lock is held during a callback, a request or a wait, so that observers and transports may call the client.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tinkex::event::{Backoff, Observer, QueueStateChange, Retry};
use tinkex::testing::{Act, FakeServer};
use tinkex::types::AdamParams;
use tinkex::{CloseStatus, ServiceClient};

use super::sample;
use crate::util::in_time;

/// An observer that calls the observed client in each callback.
#[derive(Default)]
struct CallsBack(OnceLock<ServiceClient>);

impl CallsBack {
    fn call(&self) {
        let Some(service) = self.0.get() else { return };
        assert!(service.dump().to_string().contains("session-1"));
        service.metrics().snapshot();
        service.clone().create_sampling_client("fake/model").unwrap().close();
    }
}

impl Observer for CallsBack {
    fn on_queue_state(&self, _: &QueueStateChange) {
        self.call();
    }

    fn on_retry(&self, _: &Retry) {
        self.call();
    }

    fn on_backoff(&self, _: &Backoff) {
        self.call();
    }
}

#[test]
fn an_observer_may_use_the_client_that_it_observes() {
    in_time(|| {
        let (server, observer) = (FakeServer::new(), Arc::new(CallsBack::default()));
        let service = server.in_memory().observer(observer.clone()).build().unwrap();
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        let sampler = service.create_sampling_client("fake/model").unwrap();
        observer.0.set(service.clone()).unwrap();
        server.next("/api/v1/optim_step", Act::status(503, "x"));
        server.next("/api/v1/retrieve_future", Act::status(408, r#"{"queue_state":"paused_capacity"}"#));
        training.optim_step(AdamParams::default()).wait().unwrap();
        server.next("/api/v1/asample", Act::status(429, "x"));
        sample(&sampler, 1).wait().unwrap();
        // The test created one sampling session. The callbacks created the others: at a retry, at the beginning and the
        // end of a queue state, and at a backoff.
        assert!(4 < server.requests_to("/api/v1/create_sampling_session").len());
        // Break the cycle of references between the observer and the service.
        service.close(CloseStatus::Success).unwrap();
    });
}

#[test]
fn a_transport_may_use_the_client_that_uses_it() {
    in_time(|| {
        let server = FakeServer::new();
        let service = server.in_memory().build().unwrap();
        let held: Arc<OnceLock<ServiceClient>> = Arc::default();
        held.set(service.clone()).unwrap();
        server.script(move |seen| {
            let service = held.get().unwrap();
            assert!(!service.dump().closed);
            service.metrics().snapshot();
            if seen.path == "/api/v1/optim_step" {
                service.get_server_capabilities().unwrap();
            }
            None
        });
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        training.optim_step(AdamParams::default()).wait().unwrap();
        assert_eq!(server.requests_to("/api/v1/get_server_capabilities").len(), 1);
        service.close(CloseStatus::Success).unwrap();
    });
}

/// An observer that closes the client on another thread and waits for the end of that thread.
#[derive(Default)]
struct Closer(OnceLock<ServiceClient>);

impl Observer for Closer {
    fn on_retry(&self, _: &Retry) {
        if let Some(service) = self.0.get().cloned() {
            std::thread::spawn(move || service.close(CloseStatus::Interrupted)).join().unwrap().unwrap();
        }
    }
}

#[test]
fn a_callback_may_wait_for_another_thread_that_closes_the_client() {
    in_time(|| {
        let (server, closer) = (FakeServer::new(), Arc::new(Closer::default()));
        let service = server
            .in_memory()
            .observer(closer.clone())
            .timeouts(|timeouts| timeouts.close = Duration::from_millis(200))
            .build()
            .unwrap();
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        closer.0.set(service.clone()).unwrap();
        server.next("/api/v1/optim_step", Act::status(503, "x"));
        assert!(training.optim_step(AdamParams::default()).wait().unwrap_err().is_closed());
        assert!(service.dump().closed);
    });
}
