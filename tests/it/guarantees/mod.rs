//! One module per guarantee of the client's lifecycle. Each says first which findings about other clients it answers; the
//! table in `src/_docs/findings.md` maps every finding to its mechanism and its test.

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

/// Holds whoever passes, until it is opened or lets one through.
#[derive(Clone)]
struct Gate {
    keys: Arc<std::sync::Mutex<Option<Sender<()>>>>,
    door: Receiver<()>,
}

impl Gate {
    fn new() -> Self {
        let (sender, door) = crossbeam_channel::unbounded();
        Gate { keys: Arc::new(std::sync::Mutex::new(Some(sender))), door }
    }

    /// Waits until the gate is open, or for one of those who are let through.
    fn pass(&self) {
        // An error says that the gate is open.
        let _open = self.door.recv();
    }

    /// Lets one pass: who waits, or else who comes next.
    fn let_one(&self) {
        self.keys.lock().unwrap().as_ref().expect("a gate that is shut").send(()).unwrap();
    }

    /// Opens the gate for good.
    fn open(&self) {
        self.keys.lock().unwrap().take();
    }
}

/// Samples one token after a prompt of so many.
fn sample(sampler: &SamplingClient, n_tokens: usize) -> Pending<SampleResponse> {
    let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
    sampler.sample(&ModelInput::from_ints(vec![1; n_tokens]), 1, &params)
}

/// The length of the prompt of a sample that a server got.
fn prompt_length(seen: &Seen) -> usize {
    seen.json().unwrap()["prompt"]["chunks"][0]["tokens"].as_array().unwrap().len()
}
