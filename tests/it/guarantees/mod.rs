//! Guarantees about the lifecycle of clients: their threads, locks, queues and operations. Each module tests one
//! guarantee.
//!
//! The head of a module names its guarantee, such as G-CACHE, and the findings that the guarantee covers. A finding is
//! a fault that was found in another client of this API. The table in `src/_docs/findings.md` maps each finding to the
//! mechanism that prevents the fault in this crate, and to the tests of that mechanism.

mod g_cache;
mod g_cancel;
mod g_cb;
mod g_debounce;
mod g_dispatch;
mod g_life;
mod g_lock;
mod g_nest;
mod g_order;
mod g_permit;
mod g_poll;
mod g_rate;
mod g_reply;
mod g_scope;
mod g_session;
mod g_telem;
mod table;

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use tinkex::testing::Seen;
use tinkex::types::{ModelInput, SampleResponse, SamplingParams};
use tinkex::{Pending, SamplingClient};

/// Blocks threads in [`Gate::pass`] until the test opens the gate, or lets one thread pass.
#[derive(Clone)]
struct Gate {
    sender: Arc<std::sync::Mutex<Option<Sender<()>>>>,
    receiver: Receiver<()>,
}

impl Gate {
    fn new() -> Self {
        let (sender, receiver) = crossbeam_channel::unbounded();
        Gate { sender: Arc::new(std::sync::Mutex::new(Some(sender))), receiver }
    }

    /// Waits until the gate is open or lets the calling thread pass.
    fn pass(&self) {
        // `recv` fails when the sender is gone, that is, when the gate is open.
        let _ = self.receiver.recv();
    }

    /// Lets one thread pass: one that waits or, if none waits, the next one that calls `pass`.
    fn let_one_pass(&self) {
        self.sender.lock().unwrap().as_ref().expect("a closed gate").send(()).unwrap();
    }

    /// Opens the gate permanently.
    fn open(&self) {
        self.sender.lock().unwrap().take();
    }
}

/// Samples one token after a prompt of `n_tokens`.
fn sample(sampler: &SamplingClient, n_tokens: usize) -> Pending<SampleResponse> {
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    sampler.sample(&ModelInput::from_ints(vec![1; n_tokens]), 1, &params)
}

/// Number of tokens in the prompt of a sample request.
fn prompt_length(seen: &Seen) -> usize {
    seen.json().unwrap()["prompt"]["chunks"][0]["tokens"].as_array().unwrap().len()
}
