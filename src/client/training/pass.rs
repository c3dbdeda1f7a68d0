//! Forward and backward passes. Splits the data of a pass into parts, sends one request for each part, waits for the
//! results of all parts and joins them.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::submit::Sequencer;
use crate::client::Submitted;
use crate::error::{Error, Result};
use crate::http::{Body, Call, Lane, Room, endpoint};
use crate::pending::Progress;
use crate::policy::chunk::{ChunkLimits, split};
use crate::policy::combine::combine;
use crate::policy::forms::{Form, Next, Outcome};
use crate::policy::loss_sum::{Terms, n_tokens};
use crate::policy::turn::{Fate, fate, waves};
use crate::session::{Job, Promise, Session, Ticket};
use crate::sync::CancelToken;
use crate::types::{Datum, ForwardBackwardOutput, Loss};
use crate::wire::json::ResultBody;
use crate::wire::{pass_json, train};

/// A pass over data, with a loss that the server computes.
pub(super) struct Pass {
    pub(super) ticket: Ticket<ForwardBackwardOutput>,
    pub(super) data: Vec<Datum>,
    pub(super) loss: Loss,
    pub(super) forward_only: bool,
}

/// Maximum number of parts of one call that are sent at the same time.
const PARALLEL: usize = 8;

/// An accepted part.
pub(super) struct Accepted {
    submitted: Submitted,
    /// Time at which the server accepted the part.
    born: Instant,
    /// Number of targets of each datum, if it has targets.
    n_targets: Vec<Option<usize>>,
    /// Size limit of the result.
    room: Room,
}

/// Returns the ticket together with the value of `sent`. If `sent` is an error, answers the ticket with the error and
/// returns the error.
pub(super) fn or_answer<R: Send + 'static, T>(ticket: Ticket<R>, sent: Result<T>) -> Result<(Ticket<R>, T)> {
    match sent {
        Ok(sent) => Ok((ticket, sent)),
        Err(error) => {
            ticket.answer(Err(error.clone()));
            Err(error)
        }
    }
}

impl Sequencer {
    /// Sends all parts of a pass. A pool thread waits for their results.
    ///
    /// # Errors
    /// Not all parts were accepted. The caller has already been answered with the same error.
    pub(super) fn submit_pass(&mut self, pass: Pass) -> Result<()> {
        let Pass { ticket, data, loss, forward_only } = pass;
        let summary = LossSummary::of(&data, &loss, &self.session);
        let sent = self.send_pass(&ticket, data, loss, forward_only);
        let (ticket, accepted) = or_answer(ticket, sent)?;
        let session = self.session.clone();
        // A closed pool drops the job. Dropping the ticket in it answers the caller with an error.
        let _ = self.session.pool[Job::Wait].spawn(move || {
            let result = collect(&session, &ticket.progress, &ticket.cancel, accepted, forward_only);
            ticket.answer(result.map(|output| summary.complete(output, &session)));
        });
        Ok(())
    }

    pub(super) fn send_pass(
        &mut self,
        ticket: &Ticket<ForwardBackwardOutput>,
        data: Vec<Datum>,
        loss: Loss,
        forward_only: bool,
    ) -> Result<Vec<Accepted>> {
        let parts = self.parts(data.iter().map(Datum::n_bytes));
        let range = self.begin(ticket, parts.len())?;
        let sent = self.send_parts(ticket, data, loss, forward_only, parts, range.start);
        self.settle(range, &sent.fates, sent.result)
    }

    /// Splits data into parts. `sizes` has the size of each datum in bytes. The server's flags limit the number of data
    /// and the number of bytes in one part.
    pub(super) fn parts(&self, sizes: impl IntoIterator<Item = usize>) -> Vec<Range<usize>> {
        let flags = self.session.known_flags();
        let limits = ChunkLimits {
            n_data: usize_of(flags.config.fwdbwd_max_chunk_len),
            n_bytes: usize_of(flags.config.fwdbwd_max_chunk_bytes_count),
        };
        split(sizes, limits)
    }

    /// Sends the parts of a pass. Their sequence ids are consecutive, start at `first_seq_id`, and are already
    /// reserved.
    pub(super) fn send_parts(
        &self,
        ticket: &Ticket<ForwardBackwardOutput>,
        data: Vec<Datum>,
        loss: Loss,
        forward_only: bool,
        parts: Vec<Range<usize>>,
        first_seq_id: u32,
    ) -> SentParts {
        let flags = self.session.known_flags();
        let job = Arc::new(PartRequest {
            session: self.session.clone(),
            model_id: self.model_id.clone(),
            progress: ticket.progress.clone(),
            cancel: ticket.cancel.clone(),
            deadline: ticket.progress.deadline(),
            compress: flags.config.proto_compress_fwdbwd,
            sizes: data.iter().map(Datum::n_bytes).collect(),
            data,
            loss,
            forward_only,
            parts,
            first_seq_id,
        });
        let mut accepted: Vec<Option<Accepted>> = job.parts.iter().map(|_| None).collect();
        let mut fates = vec![Fate::Unsent; job.parts.len()];
        let mut failure: Option<(usize, Error)> = None;
        for wave in waves(job.parts.len(), flags.config.parallel_fwdbwd_chunks) {
            for (idx, result) in wave.iter().copied().zip(job.send_wave(&wave)) {
                match result {
                    Ok(part) => {
                        fates[idx] = Fate::Accepted;
                        accepted[idx] = Some(part);
                    }
                    Err(error) => {
                        fates[idx] = fate(&error);
                        // Prefer the error of a part that the server may have accepted: this part poisons the client.
                        if failure.is_none() || fates[idx] == Fate::Unknown {
                            failure = Some((idx, error));
                        }
                    }
                }
            }
            if failure.is_some() {
                break;
            }
        }
        if let Some((idx, error)) = failure {
            let n = fates.iter().filter(|fate| **fate == Fate::Accepted).count();
            let total = fates.len();
            let error = error.with(|context| {
                context.model_id = Some(self.model_id.clone());
                context.seq_id = Some(u64::from(first_seq_id) + idx as u64);
                context.accepted_parts = (1 < total).then_some((n, total));
            });
            return SentParts { fates, result: Err(error) };
        }
        ticket.progress.contact(self.session.clock.now());
        if let Some(Some(Accepted { submitted: Submitted::Promised(first), .. })) = accepted.first() {
            ticket.progress.accepted(&first.request_id);
        }
        SentParts { fates, result: Ok(accepted.into_iter().flatten().collect()) }
    }
}

/// Facts about the data of a pass that are added to its result.
struct LossSummary {
    n_tokens: f64,
    /// Copies of the inputs from which the client computes the sum of the loss. `None` if the server has reported the
    /// sum of the loss of an earlier pass, so that it will report this one too, or if the client cannot compute it.
    terms: Option<Terms>,
}

impl LossSummary {
    fn of(data: &[Datum], loss: &Loss, session: &Session) -> Self {
        let terms = if session.formats.reports_loss() { None } else { Terms::of(data, loss) };
        LossSummary { n_tokens: n_tokens(data, loss), terms }
    }

    /// Adds the number of tokens, and the sum of the loss if the server did not report it.
    fn complete(self, mut output: ForwardBackwardOutput, session: &Session) -> ForwardBackwardOutput {
        output.n_loss_tokens = Some(self.n_tokens);
        match output.loss() {
            Some(_) => session.formats.note_loss(),
            None => output.computed_loss = self.terms.and_then(|terms| terms.sum(&output.loss_fn_outputs)),
        }
        output
    }
}

/// Outcome of sending the parts of a pass: what became of each part (accepted, refused, not sent or unknown), and
/// either all accepted parts or an error.
pub(super) struct SentParts {
    pub(super) fates: Vec<Fate>,
    pub(super) result: Result<Vec<Accepted>>,
}

/// State shared by the threads that send the parts of a pass.
struct PartRequest {
    session: Arc<Session>,
    model_id: String,
    progress: Progress,
    cancel: CancelToken,
    deadline: Option<Instant>,
    compress: bool,
    data: Vec<Datum>,
    loss: Loss,
    forward_only: bool,
    sizes: Vec<usize>,
    parts: Vec<Range<usize>>,
    first_seq_id: u32,
}

impl PartRequest {
    /// Sends the parts of one wave concurrently. The parts of a pass are sent in one or more waves, one after the
    /// other.
    fn send_wave(self: &Arc<Self>, wave: &[usize]) -> Vec<Result<Accepted>> {
        if let [idx] = wave {
            return vec![self.send_part(*idx)];
        }
        let jobs = wave.iter().copied().map(|idx| {
            let job = self.clone();
            Box::new(move || job.send_part(idx)) as Box<dyn FnOnce() -> Result<Accepted> + Send>
        });
        self.session.pool[Job::Send].fan_out(jobs.collect(), PARALLEL)
    }

    /// Sends a part in a format that the server reads, protobuf or JSON. If the part is sent a second time in the other
    /// format, it keeps its sequence id.
    fn send_part(&self, idx: usize) -> Result<Accepted> {
        let part = self.parts[idx].clone();
        // Limit the memory of all encoded parts: take the size of this part from the budget before encoding it, and
        // return the size when the part has been accepted or has failed.
        let n_bytes = self.sizes[part.clone()].iter().sum();
        let budget = self.session.dispatch.training_budget();
        let _share = budget.acquire_deadline(n_bytes, self.deadline, &self.cancel)?;
        let (mut tried, mut results) = (Vec::new(), Vec::new());
        loop {
            match self.session.formats.next(&tried) {
                Next::Send { form, final_on } => {
                    let result = self.send_as(form, final_on, idx, n_bytes);
                    let outcome = match &result {
                        Ok(_) => Outcome::Accepted,
                        Err(error) => Outcome::of_failure(form, error.http_status()),
                    };
                    tried.push((form, outcome));
                    results.push(result);
                }
                Next::Report(i) => return results.swap_remove(i),
            }
        }
    }

    fn send_as(&self, form: Form, final_on: &'static [u16], idx: usize, n_bytes: usize) -> Result<Accepted> {
        let data = &self.data[self.parts[idx].clone()];
        let (model_id, loss, forward_only) = (&self.model_id, &self.loss, self.forward_only);
        // The ids of all parts were reserved as 32-bit numbers, so the cast loses nothing.
        let seq_id = self.first_seq_id + idx as u32;
        let (endpoint, body) = match form {
            Form::Protobuf => {
                let bytes = self.session.compute(n_bytes, |parallel| {
                    train::encode_forward_backward(model_id, seq_id, data, loss, forward_only, parallel)
                })?;
                (&endpoint::FORWARD_BACKWARD, Body::protobuf(bytes, self.compress))
            }
            Form::Json => {
                let bytes = pass_json::encode_pass(model_id, seq_id, data, loss, forward_only)?;
                (
                    if forward_only { &endpoint::FORWARD } else { &endpoint::FORWARD_BACKWARD },
                    Body::Json(bytes.into()),
                )
            }
        };
        let mut call = Call::new(Lane::Train, endpoint, body).of(&self.progress);
        call.final_on = final_on;
        let n_targets: Vec<_> = data.iter().map(Datum::n_targets).collect();
        // Limit the size of the result: it has a few numbers for each number of the data, or for each target of a
        // sparse tensor, which may be more.
        let n_positions = n_targets.iter().flatten().fold(0u64, |sum, n| sum.saturating_add(*n as u64));
        let room = Room::for_numbers((n_bytes as u64 / 4).max(n_positions));
        let answer = self.session.http.send(&call.answered_within(room), &self.cancel)?;
        let submitted = Submitted::read(answer, request_type(forward_only))?;
        Ok(Accepted { submitted, born: self.session.clock.now(), n_targets, room })
    }
}

/// Waits for the results of all parts concurrently and joins them.
pub(super) fn collect(
    session: &Arc<Session>,
    progress: &Progress,
    cancel: &CancelToken,
    accepted: Vec<Accepted>,
    forward_only: bool,
) -> Result<ForwardBackwardOutput> {
    let request_type = request_type(forward_only);
    let started = progress.submitted();
    let several = 1 < accepted.len();
    let jobs = accepted.into_iter().enumerate().map(|(i, Accepted { submitted, born, n_targets, room })| {
        let part = if several { format!(" of part {i}") } else { String::new() };
        let read = move |answer: &ResultBody| {
            let output = read(answer, n_targets.len())?;
            check_counts(&output, &n_targets, &part).map(|()| output)
        };
        let (session, progress, cancel) = (session.clone(), progress.clone(), cancel.clone());
        Box::new(move || match submitted {
            Submitted::Done(result) => result.and_then(|body| read(&body)),
            Submitted::Promised(promised) => {
                let roundtrip = born.saturating_duration_since(started);
                let request_id = promised.request_id;
                let promise = Promise { request_id, request_type, protobuf: true, born, roundtrip, room };
                // Until `result` has been decoded and dropped, its size stays reserved in the response budget, which
                // limits the memory for results.
                session.retrieve(&promise, &progress, &cancel).and_then(|result| read(&result.body))
            }
        }) as Box<dyn FnOnce() -> Result<ForwardBackwardOutput> + Send>
    });
    let mut jobs: Vec<_> = jobs.collect();
    let parts = match jobs.len() {
        1 => vec![jobs.remove(0)()],
        n => session.pool[Job::Wait].fan_out(jobs, n),
    };
    Ok(combine(parts.into_iter().collect::<Result<Vec<_>>>()?))
}

/// Checks the number of outputs, and the number of log-probabilities in each output. With a wrong number, results would
/// be assigned to the wrong data.
fn check_counts(output: &ForwardBackwardOutput, n_targets: &[Option<usize>], part: &str) -> Result<()> {
    let (found, sent) = (output.loss_fn_outputs.len(), n_targets.len());
    if found != sent {
        return Err(Error::decode(format!("the server sent {found} outputs for the {sent} data{part}")));
    }
    for (i, (fields, n_targets)) in output.loss_fn_outputs.iter().zip(n_targets).enumerate() {
        if let (Some(logprobs), Some(n)) = (fields.get("logprobs"), n_targets)
            && logprobs.values.len() != *n
        {
            let found = logprobs.values.len();
            let problem =
                format!("the server sent {found} log-probabilities for the {n} targets of datum {i}{part}");
            return Err(Error::decode(problem));
        }
    }
    Ok(())
}

/// The protocol's name of the request of a pass.
fn request_type(forward_only: bool) -> &'static str {
    if forward_only { "Forward" } else { "ForwardBackward" }
}

/// Decodes an output, in protobuf or JSON.
fn read(body: &ResultBody, n_data: usize) -> Result<ForwardBackwardOutput> {
    match body {
        ResultBody::Protobuf(bytes) => train::decode_forward_backward_output_of(bytes.clone(), n_data),
        ResultBody::Json(value) => train::forward_backward_output_from_json(value),
    }
}

fn usize_of(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX).max(1)
}
