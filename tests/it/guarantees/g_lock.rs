//! G-LOCK. Answers 003-D6, 004-7, N-09.
//!
//! No lock is held during a callback, a request or a wait, so that whoever is called may call the client.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tinkex::event::{Backoff, Observer, QueueStateChange, Retry};
use tinkex::testing::{Act, FakeServer};
use tinkex::types::AdamParams;
use tinkex::{CloseStatus, ServiceClient};

use super::sample;
use crate::util::in_time;

/// Looks at everything that it can reach, whenever it is told something.
#[derive(Default)]
struct Nosy(OnceLock<ServiceClient>);

impl Nosy {
    fn look(&self) {
        let Some(service) = self.0.get() else { return };
        assert!(service.dump().to_string().contains("session-1"));
        service.metrics().snapshot();
        service.clone().create_sampling_client("fake/model").unwrap().close();
    }
}

impl Observer for Nosy {
    fn on_queue_state(&self, _: &QueueStateChange) {
        self.look();
    }

    fn on_retry(&self, _: &Retry) {
        self.look();
    }

    fn on_backoff(&self, _: &Backoff) {
        self.look();
    }
}

#[test]
fn an_observer_may_use_the_client_that_it_observes() {
    in_time(|| {
        let (server, nosy) = (FakeServer::new(), Arc::new(Nosy::default()));
        let service = server.in_memory().observer(nosy.clone()).build().unwrap();
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        let sampler = service.create_sampling_client("fake/model").unwrap();
        nosy.0.set(service.clone()).unwrap();
        server.next("/api/v1/optim_step", Act::status(503, "x"));
        server.next("/api/v1/retrieve_future", Act::status(408, r#"{"queue_state":"paused_capacity"}"#));
        training.optim_step(AdamParams::default()).wait().unwrap();
        server.next("/api/v1/asample", Act::status(429, "x"));
        sample(&sampler, 1).wait().unwrap();
        // Two clients were made by hand, the others by callbacks: a retry, a state and its end, a backoff.
        assert!(4 < server.requests_to("/api/v1/create_sampling_session").len());
        // The observer holds the service, and the service the observer.
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

/// Closes the client from another thread and waits for that.
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
            .timeouts(|it| it.close = Duration::from_millis(200))
            .build()
            .unwrap();
        let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
        closer.0.set(service.clone()).unwrap();
        server.next("/api/v1/optim_step", Act::status(503, "x"));
        assert!(training.optim_step(AdamParams::default()).wait().unwrap_err().is_closed());
        assert!(service.dump().closed);
    });
}
