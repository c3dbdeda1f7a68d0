//! One module for each guarantee of the client's lifecycle. Each begins with the ids of the findings about another client
//! that it covers; the table in `src/_docs/findings.md` maps each finding to its mechanism and its tests.

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

/// Blocks threads in [`Gate::pass`] until it is opened or lets single threads pass.
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

    /// Waits until the gate is open or lets this thread pass.
    fn pass(&self) {
        // Fails when the sender is gone, that is, when the gate is open.
        let _ = self.receiver.recv();
    }

    /// Lets one thread pass: one that waits or, if none waits, the next.
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
