//! The threads that run the operations of the soak: each submits random operations, waits for them in different ways,
//! and checks their results.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender};
use fastrand::Rng;
use tinkex::types::{
    AdamParams, Datum, ForwardBackwardOutput, LoraConfig, LossFn, ModelInput, OptimStepOutput,
    SampleResponse, SamplingParams, Ttl,
};
use tinkex::{CloseStatus, Pending};

use super::clients::{Held, OPERATION, PanicsOnDrop, Service, Slot};
use super::request::base_model;
use super::server::{Books, THREADS};
use super::tally::{Question, Tally};
use crate::util::TEST_TIMEOUT;

/// Maximum number of operations in flight for each thread. At this number, the thread waits for the oldest.
const WINDOW: usize = 48;

/// State that the threads of a round share.
pub(super) struct Round {
    pub(super) services: Vec<Service>,
    pub(super) books: Books,
    /// Serial number of the first operation, unique over all rounds.
    pub(super) first: u32,
    /// Number of operations of the round.
    pub(super) n: u32,
    /// Number of operations that threads have begun. May exceed `n`.
    pub(super) taken: AtomicU32,
    /// Time after which no more operations are submitted.
    pub(super) until: Instant,
    /// Jobs for the helper thread, which closes clients and cancels operations during their use.
    pub(super) elsewhere: Sender<Box<dyn FnOnce() + Send>>,
}

/// An operation in flight. The call waits for the operation and checks its result.
type Open = Box<dyn FnOnce(&mut Tally) + Send>;

/// A thread that runs operations.
pub(super) struct Worker<'a> {
    pub(super) round: &'a Round,
    pub(super) thread: u32,
    pub(super) rng: Rng,
    pub(super) tally: Tally,
}

/// Way of waiting for the result of an operation.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// `wait`.
    Wait,
    /// `on_done` with an unbounded channel.
    Channel,
    /// `on_done` with a channel of capacity 0, so that the sender must wait for the reader.
    FullChannel,
    /// `on_done` with a channel whose receiver is already dropped.
    DeadChannel,
    /// `wait_timeout`, then `cancel` if there is no result yet.
    ShortThenCancel,
    /// `try_wait`, `wait_deadline` and `status`, then `wait`.
    Look,
    /// `cancel` right after the submission.
    Cancel,
    /// `cancel` by the helper thread.
    CancelElsewhere,
    /// Drops the `Pending`.
    Drop,
}

impl Worker<'_> {
    /// Submits operations until the round has none left, then waits for all operations in flight.
    pub(super) fn run(mut self) -> Tally {
        let mut open: VecDeque<Open> = VecDeque::new();
        while let Some(op) = self.take() {
            let idx = self.rng.usize(..self.round.services.len());
            let service = &self.round.services[idx];
            open.extend(self.submit(op, service));
            if WINDOW <= open.len()
                && let Some(oldest) = open.pop_front()
            {
                oldest(&mut self.tally);
            }
        }
        for wait in open {
            wait(&mut self.tally);
        }
        self.tally
    }

    /// Returns the number of the next operation, or `None` at the end of the round. The first thread that finds no
    /// operation left closes half of the services, while other threads still use them.
    fn take(&mut self) -> Option<u32> {
        let round = self.round;
        if round.until <= Instant::now() {
            return None;
        }
        let taken = round.taken.fetch_add(1, Ordering::SeqCst);
        if taken == round.n {
            for service in round.services.iter().step_by(2) {
                service.closed.store(true, Ordering::SeqCst);
                // Ignore errors: faults are injected into the requests of the close, too.
                drop(service.client.close(CloseStatus::Interrupted));
            }
        }
        (taken < round.n).then_some((round.first + taken) * THREADS + self.thread)
    }

    fn submit(&mut self, op: u32, service: &Service) -> Option<Open> {
        match self.rng.u32(..100) {
            0 => {
                let question = self.question(op, "get_server_capabilities", service);
                let result = service.client.get_server_capabilities();
                self.tally.answered(&question, result, |_| None);
                None
            }
            1..60 => self.train(op, service),
            _ => self.sample(op, service),
        }
    }

    fn train(&mut self, op: u32, service: &Service) -> Option<Open> {
        let slot = &service.training[self.rng.usize(..service.training.len())];
        let Some(held) = self.held(slot) else {
            let question = self.question(op, "create_lora_training_client", service);
            let result = service.client.create_lora_training_client(&base_model(op), LoraConfig::default());
            let id = format!("model-{op}");
            self.tally.answered(&question, result, |client| {
                let right = client.model_id() == id
                    && client.get_info().base_model.as_deref() == Some(&base_model(op));
                slot.put(client.clone(), op);
                (!right).then(|| format!("{client:?}"))
            });
            return None;
        };
        let client = &held.client;
        let mut question = self.question(op, "optim_step", service);
        question.closed.push(held.closed.clone());
        question.lost = held.lost.clone();
        self.close_sometimes(&held, |it| it.close());
        match self.rng.u32(..60) {
            0..26 => {
                let adam = AdamParams { learning_rate: f64::from(op), ..Default::default() };
                self.follow(client.optim_step(adam), question, move |output: &OptimStepOutput| {
                    (output.metrics.get("op") != Some(&f64::from(op))).then(|| format!("{output:?}"))
                })
            }
            kind @ 26..52 => {
                let n = if self.rng.u32(..5) == 0 { self.rng.usize(5..10) } else { self.rng.usize(1..5) };
                let datum = |i| Datum::cross_entropy(&[op as i32, i as i32, n as i32], &[7]);
                let data = (0..n).map(datum).collect();
                let pending = match kind % 4 {
                    0 => client.forward(data, LossFn::CrossEntropy),
                    _ => client.forward_backward(data, LossFn::CrossEntropy),
                };
                question.verb = "forward_backward";
                self.follow(pending, question, move |output: &ForwardBackwardOutput| {
                    let right = |i: usize| output.logprobs(i) == Some(&[op as f32, i as f32, 0.0]);
                    let whole =
                        output.loss_fn_outputs.len() == n && output.metrics.get("n:sum") == Some(&(n as f64));
                    (!whole || !(0..n).all(right)).then(|| format!("{output:?}"))
                })
            }
            kind => {
                let (name, model) = (format!("op-{op}"), format!("model-{}", held.made_by));
                let path = move |directory| format!("tinker://{model}/{directory}/op-{op}");
                question.verb = "save";
                match kind % 2 {
                    0 => self.follow(client.save_state(&name, Ttl::Never), question, move |saved| {
                        (saved.path.as_str() != path("weights")).then(|| format!("{saved:?}"))
                    }),
                    _ => {
                        let pending = client.save_weights_for_sampler(&name, Ttl::Never);
                        self.follow(pending, question, move |saved| {
                            (saved.path.as_str() != path("sampler_weights")).then(|| format!("{saved:?}"))
                        })
                    }
                }
            }
        }
    }

    fn sample(&mut self, op: u32, service: &Service) -> Option<Open> {
        let slot = &service.sampling[self.rng.usize(..service.sampling.len())];
        let Some(held) = self.held(slot) else {
            let question = self.question(op, "create_sampling_client", service);
            let result = service.client.create_sampling_client(&base_model(op));
            self.tally.answered(&question, result, |client| {
                slot.put(client.clone(), op);
                (client.sampling_session_id() != format!("sampler-{op}")).then(|| format!("{client:?}"))
            });
            return None;
        };
        let mut question = self.question(op, "sample", service);
        question.closed.push(held.closed.clone());
        self.close_sometimes(&held, |it| it.close());
        let n_prompt = self.rng.usize(2..20);
        let tokens: Vec<i32> = std::iter::once(op as i32).chain((1..n_prompt).map(|it| it as i32)).collect();
        let prompt = ModelInput::from_ints(tokens);
        if self.rng.u32(..4) == 0 {
            question.verb = "compute_logprobs";
            return self.follow(
                held.client.compute_logprobs(&prompt),
                question,
                move |logprobs: &Vec<Option<f32>>| {
                    let right = |(i, it): (usize, &Option<f32>)| *it == (0 < i).then_some(-(op as f32));
                    (logprobs.len() != n_prompt || !logprobs.iter().enumerate().all(right))
                        .then(|| format!("{logprobs:?}"))
                },
            );
        }
        let n = self.rng.u32(1..5);
        let params = SamplingParams { max_tokens: Some(2), ..Default::default() };
        self.follow(held.client.sample(&prompt, n, &params), question, move |response: &SampleResponse| {
            let tokens: Vec<&[i32]> = response.sequences.iter().map(|it| it.tokens.as_slice()).collect();
            let right = tokens.iter().enumerate().all(|(i, it)| **it == [op as i32, i as i32]);
            (tokens.len() != n as usize || !right).then(|| format!("{response:?}"))
        })
    }

    /// Returns the client of a slot. `None` if the slot is empty or its client is closed or poisoned, and at random in
    /// 1 of 300 calls. After `None` the caller creates a new client.
    fn held<C: Clone>(&mut self, slot: &Slot<C>) -> Option<Held<C>> {
        let held = slot.get();
        held.filter(|_| self.rng.u32(..300) != 0)
    }

    /// In 1 of 500 calls, makes the helper thread close the client while this thread uses it.
    fn close_sometimes<C: Clone + Send + 'static>(&mut self, held: &Held<C>, close: fn(&C)) {
        if self.rng.u32(..500) != 0 {
            return;
        }
        let Held { client, closed, .. } = held.clone();
        let job = move || {
            closed.store(true, Ordering::SeqCst);
            close(&client);
        };
        drop(self.round.elsewhere.send(Box::new(job)));
    }

    fn question(&self, op: u32, verb: &'static str, service: &Service) -> Question {
        Question {
            op,
            verb,
            closed: vec![service.closed.clone()],
            cancelled: false,
            gives_up_pauses: service.gives_up_pauses,
            lost: Arc::new(AtomicBool::new(false)),
            books: self.round.books.clone(),
        }
    }

    /// Chooses a way of waiting at random and applies it to an operation. `None` if the result is dropped.
    fn follow<T: Send + 'static>(
        &mut self,
        pending: Pending<T>,
        mut question: Question,
        wrong: impl FnOnce(&T) -> Option<String> + Send + 'static,
    ) -> Option<Open> {
        let way = match self.rng.u32(..100) {
            0..45 => Way::Wait,
            45..65 => Way::Channel,
            65..69 => Way::FullChannel,
            69..71 => Way::DeadChannel,
            71..79 => Way::ShortThenCancel,
            79..84 => Way::Look,
            84..88 => Way::Cancel,
            88..92 => Way::CancelElsewhere,
            _ => Way::Drop,
        };
        question.cancelled = matches!(way, Way::ShortThenCancel | Way::Cancel | Way::CancelElsewhere);
        match way {
            Way::Drop => {
                drop(pending);
                self.tally.dropped += 1;
                return None;
            }
            Way::DeadChannel => {
                let (sender, receiver) = crossbeam_channel::unbounded();
                drop(receiver);
                pending.on_done(PanicsOnDrop, sender);
                self.tally.dropped += 1;
                return None;
            }
            Way::Channel | Way::FullChannel => {
                let (sender, receiver) = match way {
                    Way::Channel => crossbeam_channel::unbounded(),
                    _ => crossbeam_channel::bounded(0),
                };
                let op = question.op;
                pending.on_done(op, sender);
                return Some(Box::new(move |tally| {
                    match receiver.recv_timeout(longest()) {
                        Ok((tag, result)) if tag == op => tally.answered(&question, result, wrong),
                        Ok((tag, _)) => tally.violation(&question, &format!("got the answer of {tag}")),
                        Err(RecvTimeoutError::Timeout) => tally.violation(&question, "got no answer in time"),
                        Err(_) => tally.violation(&question, "got no answer: its channel is closed"),
                    }
                    // The crate must drop its sender after the result, which closes the channel. A second result, or a
                    // timeout on the open channel, is a violation.
                    if let Ok(_) | Err(RecvTimeoutError::Timeout) = receiver.recv_timeout(TEST_TIMEOUT) {
                        tally.violation(&question, "may be answered twice");
                    }
                }));
            }
            Way::Cancel => pending.cancel(),
            Way::CancelElsewhere => {
                let canceller = pending.canceller();
                drop(self.round.elsewhere.send(Box::new(move || canceller.cancel())));
            }
            _ => {}
        }
        let pause = Duration::from_millis(self.rng.u64(..30));
        Some(Box::new(move |tally| {
            let started = Instant::now();
            let result = wait(pending, way, pause, &question, tally);
            if longest() < started.elapsed() {
                tally.violation(&question, &format!("took {:?}", started.elapsed()));
            }
            tally.answered(&question, result, wrong);
        }))
    }
}

fn wait<T: Send + 'static>(
    mut pending: Pending<T>,
    way: Way,
    pause: Duration,
    question: &Question,
    tally: &mut Tally,
) -> tinkex::Result<T> {
    match way {
        Way::ShortThenCancel => {
            if let Some(result) = pending.wait_timeout(pause).transpose() {
                return result;
            }
            pending.cancel();
            if !pending.is_done() {
                tally.violation(question, "continues after its cancellation");
            }
        }
        Way::Look => {
            if let Some(result) = pending.try_wait() {
                return result;
            }
            if let Some(result) = pending.wait_deadline(Instant::now() + pause).transpose() {
                return result;
            }
            if pending.status().operation.is_empty() {
                tally.violation(question, "has no operation in its status");
            }
        }
        _ => {}
    }
    pending.wait()
}

/// Maximum time of a wait: the time limit of an operation, plus a margin for a busy machine.
fn longest() -> Duration {
    OPERATION + TEST_TIMEOUT
}
