//! Whether a model gives the answers of the data.

use tinkex::chat::Message;
use tinkex::types::{ModelInput, SampledSequence, SamplingParams};
use tinkex::wait_all;

use super::nll::AT_ONCE;
use super::{Figures, Subject};
use crate::examples::{Content, Record};
use crate::failure::Failure;
use crate::sample::Progress;

/// A question, and the answer of the data.
struct Question {
    prompt: ModelInput,
    expected: String,
    is_chat: bool,
}

/// The last answer of each example is asked for. Space around answers does not count.
pub(super) fn measure(subject: &Subject<'_>) -> Result<Figures, Failure> {
    let questions: Vec<Question> =
        subject.lines.records.iter().map(|record| question(subject, record)).collect::<Result<_, _>>()?;
    let mut n_right = 0;
    let (mut progress, mut n_asked) = (Progress::new(subject.app), 0);
    for some in questions.chunks(AT_ONCE) {
        let pending: Vec<_> = some
            .iter()
            .map(|question| {
                let params = SamplingParams {
                    max_tokens: Some(subject.max_tokens),
                    temperature: 0.0,
                    stop: subject.encoder.stop().filter(|_| question.is_chat),
                    ..SamplingParams::default()
                };
                subject.sampler.sample(&question.prompt, 1, &params)
            })
            .collect();
        let responses = wait_all(pending)?;
        n_right += some
            .iter()
            .zip(&responses)
            .filter(|(question, response)| {
                let given = response.sequences.first().map(|sequence| given(subject, question, sequence));
                given.is_some_and(|given| given.trim() == question.expected.trim())
            })
            .count();
        n_asked += some.len();
        progress.say(subject.app, || format!("{}: {n_asked} of {}", subject.model, questions.len()));
    }
    progress.end();
    let n = questions.len();
    Ok(Figures(vec![
        ("Exact", (0 < n).then(|| n_right as f64 / n as f64), 4),
        ("Right", Some(n_right as f64), 0),
        ("Examples", Some(n as f64), 0),
    ]))
}

fn question(subject: &Subject<'_>, record: &Record) -> Result<Question, Failure> {
    let at = |problem: &str| Failure::text(format!("{}: {problem}", subject.lines.place(record)));
    match &record.content {
        Content::Chat(chat) => {
            let last = chat.messages.iter().rposition(|message| message.role == "assistant");
            let last = last.filter(|last| 0 < *last).ok_or_else(|| at("has no question before an answer"))?;
            let before: Vec<Message> = chat.messages[..last]
                .iter()
                .cloned()
                .map(|mut message| {
                    message.trainable = None;
                    message
                })
                .collect();
            let prompt = subject.encoder.prompt(&before)?;
            Ok(Question { prompt, expected: chat.messages[last].text(), is_chat: true })
        }
        Content::Completion(completion) => {
            let prompt = subject.encoder.text_prompt(&completion.prompt)?;
            Ok(Question { prompt, expected: completion.completion.clone(), is_chat: false })
        }
        _ => Err(at("has no question and answer")),
    }
}

fn given(subject: &Subject<'_>, question: &Question, sequence: &SampledSequence) -> String {
    let template = subject.encoder.template().filter(|_| question.is_chat);
    match template.and_then(|template| template.parse(&sequence.tokens).ok()) {
        Some(message) => message.text(),
        None => subject.encoder.text_of(&sequence.tokens),
    }
}
