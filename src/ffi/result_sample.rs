//! The arrays of samples and of log-probabilities. Tokens are borrowed as they are; other arrays are converted once.

use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::OnceLock;

use super::border::{self, Fault, Out, Result, c_text};
use super::code;
use super::constants;
use super::error::tinkex_error;
use super::object;
use super::result::{Outcome, ResultView, start_of, tinkex_result};
use super::result_outputs::dense;
use super::tinkex_code;
use crate::types::{SampleResponse, SampledSequence, TensorData, TokenLogprob};

/// Converted arrays, each made on first use.
#[derive(Default)]
pub(super) struct SampleArrays {
    /// For each sequence.
    sequences: OnceLock<Vec<SequenceArrays>>,
    prompt_logprobs: OnceLock<Vec<f32>>,
    prompt_topk: OnceLock<Topk>,
    targets: OnceLock<Table>,
    alternatives: OnceLock<Table>,
}

#[derive(Default)]
struct SequenceArrays {
    id: OnceLock<CString>,
    topk: OnceLock<Topk>,
}

/// The most likely tokens at each position, as compressed rows.
struct Topk {
    /// Number of positions + 1.
    offsets: Vec<i64>,
    tokens: Vec<i32>,
    logprobs: Vec<f32>,
}

impl From<&[Option<Vec<TokenLogprob>>]> for Topk {
    fn from(rows: &[Option<Vec<TokenLogprob>>]) -> Self {
        let mut topk = Topk { offsets: vec![0], tokens: Vec::new(), logprobs: Vec::new() };
        for row in rows {
            for cell in row.iter().flatten() {
                topk.tokens.push(cell.token);
                topk.logprobs.push(cell.logprob);
            }
            // Memory holds fewer values than i64::MAX.
            topk.offsets.push(topk.tokens.len() as i64);
        }
        topk
    }
}

/// A row for each position of the prompt after the first.
struct Table {
    /// `None`: the caller chose the tokens.
    tokens: Option<Vec<i32>>,
    logprobs: Vec<f32>,
    rows: usize,
    columns: usize,
}

/// Names for `tinkex_result_prompt_table`.
const TABLES: [&str; 2] = ["targets", "prompt_alt_tokens"];

impl ResultView {
    fn sample(&self) -> Result<&SampleResponse> {
        match self.outcome() {
            Outcome::Sample(response) => Ok(response),
            _ => Err(self.wrong_kind("sample")),
        }
    }

    fn sequence(&self, index: usize) -> Result<&SampledSequence> {
        let all = &self.sample()?.sequences;
        all.get(index).ok_or_else(|| Fault::range("sequence", index, all.len()))
    }

    /// The converted arrays of a sequence.
    fn arrays(&self, index: usize) -> Result<&SequenceArrays> {
        let n = self.sample()?.sequences.len();
        let all = &self.cache().sample.sequences;
        let all = all.get_or_init(|| std::iter::repeat_with(SequenceArrays::default).take(n).collect());
        all.get(index).ok_or_else(|| Fault::range("sequence", index, n))
    }

    fn topk(&self, index: usize) -> Result<&Topk> {
        let sequence = self.sequence(index)?;
        let rows = match &sequence.topk_logprobs {
            Some(rows) => rows.as_slice(),
            // Servers leave out an empty list.
            None if sequence.tokens.is_empty() => &[],
            None => return Err(not_requested("most likely tokens", "topk_sample")),
        };
        Ok(self.arrays(index)?.topk.get_or_init(|| rows.into()))
    }

    fn prompt_topk(&self) -> Result<&Topk> {
        let rows = self.sample()?.topk_prompt_logprobs.as_deref();
        let rows = rows.ok_or_else(|| not_requested("most likely tokens of the prompt", "topk_prompt"))?;
        Ok(self.cache().sample.prompt_topk.get_or_init(|| rows.into()))
    }

    /// The log-probabilities of the prompt, NaN where a token was not scored; `None` if they were not requested.
    fn prompt_logprobs(&self) -> Result<Option<&[f32]>> {
        let scores = match self.outcome() {
            Outcome::Sample(response) => response.prompt_logprobs.as_deref(),
            Outcome::Logprobs(scores) => Some(scores.as_slice()),
            _ => return Err(self.wrong_kind("sample")),
        };
        Ok(scores.map(|scores| {
            let floats = || scores.iter().map(|score| score.unwrap_or(f32::NAN)).collect();
            self.cache().sample.prompt_logprobs.get_or_init(floats).as_slice()
        }))
    }

    fn table(&self, name: &str) -> Result<&Table> {
        let response = self.sample()?;
        let cache = &self.cache().sample;
        let (place, tokens, logprobs) = match name {
            "targets" => {
                let logprobs = response.target_prompt_logprobs.as_ref();
                (&cache.targets, None, logprobs.ok_or_else(|| not_requested(name, "targets"))?)
            }
            "prompt_alt_tokens" => {
                let alternatives = response.prompt_alt_tokens.as_ref();
                let alternatives = alternatives.ok_or_else(|| not_requested(name, name))?;
                (&cache.alternatives, Some(&alternatives.tokens), &alternatives.logprobs)
            }
            _ => return Err(Fault::name("table of a prompt", name, &TABLES)),
        };
        match place.get() {
            Some(table) => Ok(table),
            None => {
                let made = Table::new(tokens, logprobs, name)?;
                Ok(place.get_or_init(|| made))
            }
        }
    }
}

impl Table {
    fn new(tokens: Option<&TensorData>, logprobs: &TensorData, name: &str) -> Result<Self> {
        let wrong = |problem: &str| {
            Fault::new(code::DECODE, format!("the server's table `{name}` {problem}")).at(name)
        };
        let &[rows, columns] = &logprobs.shape()[..] else {
            return Err(wrong("does not have two dimensions"));
        };
        let tokens = tokens.map(|tokens| {
            let tokens = dense(tokens, 0.0, name)?;
            let ids = tokens.as_i64().ok_or_else(|| wrong("has tokens that are not integers"))?;
            let ids: std::result::Result<Vec<i32>, _> = ids.iter().map(|id| i32::try_from(*id)).collect();
            ids.map_err(|_| wrong("has a token id of more than 31 bits"))
        });
        let logprobs = dense(logprobs, f32::NAN, name)?;
        let logprobs = logprobs.as_f32().ok_or_else(|| wrong("has log-probabilities that are not floats"))?;
        let tokens = tokens.transpose()?;
        if logprobs.len() != rows * columns || tokens.as_ref().is_some_and(|it| it.len() != logprobs.len()) {
            return Err(wrong("has another number of values than its shape"));
        }
        Ok(Table { tokens, logprobs: logprobs.into(), rows, columns })
    }
}

#[cold]
fn not_requested(what: &str, option: &str) -> Fault {
    let text = format!("the result has no {what}: request them with the option `{option}` of the sample");
    Fault::new(code::KIND, text).at(option)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_sequence_count(result: *const tinkex_result) -> usize {
    border::value(0, || {
        // SAFETY: see the header.
        match unsafe { object::get(result) }?.outcome() {
            Outcome::Sample(response) => Ok(response.sequences.len()),
            _ => Ok(0),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_tokens(
    result: *const tinkex_result,
    sequence: usize,
    n: *mut usize,
) -> *const i32 {
    // SAFETY: see the header.
    let n = unsafe { Out::cleared(n, 0) };
    border::value(ptr::null(), || {
        // SAFETY: see the header.
        let tokens = &unsafe { object::get(result) }?.sequence(sequence)?.tokens;
        n.set(tokens.len());
        Ok(start_of(tokens))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_logprobs(
    result: *const tinkex_result,
    sequence: usize,
    n: *mut usize,
) -> *const f32 {
    // SAFETY: see the header.
    let n = unsafe { Out::cleared(n, 0) };
    border::value(ptr::null(), || {
        // SAFETY: see the header.
        let logprobs = &unsafe { object::get(result) }?.sequence(sequence)?.logprobs;
        n.set(logprobs.as_ref().map_or(0, Vec::len));
        Ok(logprobs.as_deref().map_or(ptr::null(), start_of))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_stop_reason(result: *const tinkex_result, sequence: usize) -> i32 {
    border::value(constants::STOP_OTHER, || {
        // SAFETY: see the header.
        let sequence = unsafe { object::get(result) }?.sequence(sequence)?;
        Ok(constants::stop_reason(&sequence.stop_reason))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_sequence_id(
    result: *const tinkex_result,
    sequence: usize,
) -> *const c_char {
    border::value(ptr::null(), || {
        // SAFETY: see the header.
        let view = unsafe { object::get(result) }?;
        match &view.sequence(sequence)?.sequence_id {
            Some(id) => Ok(view.arrays(sequence)?.id.get_or_init(|| c_text(id.as_str())).as_ptr()),
            None => Ok(ptr::null()),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_topk(
    result: *const tinkex_result,
    sequence: usize,
    offsets: *mut *const i64,
    tokens: *mut *const i32,
    logprobs: *mut *const f32,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = TopkOut::cleared(offsets, tokens, logprobs);
        border::run(error, || out.fill(|| object::get(result)?.topk(sequence)))
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_prompt_topk(
    result: *const tinkex_result,
    offsets: *mut *const i64,
    tokens: *mut *const i32,
    logprobs: *mut *const f32,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = TopkOut::cleared(offsets, tokens, logprobs);
        border::run(error, || out.fill(|| object::get(result)?.prompt_topk()))
    }
}

/// The three outputs of the functions for the most likely tokens.
struct TopkOut {
    offsets: Out<*const i64>,
    tokens: Out<*const i32>,
    logprobs: Out<*const f32>,
}

impl TopkOut {
    /// # Safety
    /// As for [`Out::cleared`].
    unsafe fn cleared(offsets: *mut *const i64, tokens: *mut *const i32, logprobs: *mut *const f32) -> Self {
        // SAFETY: promised by the caller.
        unsafe {
            TopkOut {
                offsets: Out::cleared(offsets, ptr::null()),
                tokens: Out::cleared(tokens, ptr::null()),
                logprobs: Out::cleared(logprobs, ptr::null()),
            }
        }
    }

    fn fill<'a>(&self, topk: impl FnOnce() -> Result<&'a Topk>) -> Result<()> {
        self.offsets.required("offsets")?;
        self.tokens.required("tokens")?;
        self.logprobs.required("logprobs")?;
        let topk = topk()?;
        self.offsets.set(start_of(&topk.offsets));
        self.tokens.set(start_of(&topk.tokens));
        self.logprobs.set(start_of(&topk.logprobs));
        Ok(())
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_prompt_logprobs(
    result: *const tinkex_result,
    n: *mut usize,
) -> *const f32 {
    // SAFETY: see the header.
    let n = unsafe { Out::cleared(n, 0) };
    border::value(ptr::null(), || {
        // SAFETY: see the header.
        let logprobs = unsafe { object::get(result) }?.prompt_logprobs()?;
        n.set(logprobs.map_or(0, <[f32]>::len));
        Ok(logprobs.map_or(ptr::null(), start_of))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_prompt_table(
    result: *const tinkex_result,
    name: *const c_char,
    tokens: *mut *const i32,
    logprobs: *mut *const f32,
    rows: *mut usize,
    columns: *mut usize,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let (tokens, logprobs) = (Out::cleared(tokens, ptr::null()), Out::cleared(logprobs, ptr::null()));
        let (rows, columns) = (Out::cleared(rows, 0), Out::cleared(columns, 0));
        border::run(error, || {
            logprobs.required("logprobs")?;
            rows.required("rows")?;
            columns.required("columns")?;
            let (view, name) = (object::get(result)?, border::text(name, "name")?);
            let table = view.table(name)?;
            // The tokens of targets are those of the caller.
            tokens.set(table.tokens.as_deref().map_or(ptr::null(), start_of));
            logprobs.set(start_of(&table.logprobs));
            rows.set(table.rows);
            columns.set(table.columns);
            Ok(())
        })
    }
}

#[cfg(all(test, not(shuttle)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::PromptAltTokens;

    fn view(change: impl FnOnce(&mut SampleResponse)) -> ResultView {
        let mut response = SampleResponse::default();
        change(&mut response);
        ResultView::new(Outcome::Sample(response))
    }

    #[test]
    fn the_most_likely_tokens_are_compressed_rows() {
        let cell = |token| TokenLogprob::new(token, -1.0);
        let view = view(|response| {
            let topk_logprobs = Some(vec![Some(vec![cell(1), cell(2)]), None, Some(vec![cell(3)])]);
            let full = SampledSequence { tokens: vec![1, 2, 3], topk_logprobs, ..Default::default() };
            let bare = SampledSequence { tokens: vec![1], ..Default::default() };
            response.sequences = vec![full, bare, SampledSequence::default()];
        });
        let topk = view.topk(0).unwrap();
        assert_eq!((&topk.offsets[..], &topk.tokens[..]), (&[0, 2, 2, 3][..], &[1, 2, 3][..]));
        assert!(ptr::eq(topk, view.topk(0).unwrap()));
        assert_eq!(view.topk(1).map(|_| ()).unwrap_err().code(), code::KIND, "not requested");
        assert_eq!(view.topk(2).unwrap().offsets, [0], "without tokens there is nothing to report");
        assert_eq!(view.topk(3).map(|_| ()).unwrap_err().code(), code::RANGE);
    }

    #[test]
    fn positions_without_a_score_are_nan() {
        let scores = || vec![None, Some(-0.5)];
        for view in [
            view(|response| response.prompt_logprobs = Some(scores())),
            ResultView::new(Outcome::Logprobs(scores())),
        ] {
            let floats = view.prompt_logprobs().unwrap().unwrap();
            assert!(floats[0].is_nan() && floats[1] == -0.5 && floats.len() == 2);
        }
        assert!(view(|_| ()).prompt_logprobs().unwrap().is_none());
        let other = ResultView::new(Outcome::Load(None));
        assert_eq!(other.prompt_logprobs().unwrap_err().code(), code::KIND);
    }

    #[test]
    fn tables_have_rows_and_columns() {
        let table = |tokens: Vec<i64>| {
            let logprobs = TensorData::from(vec![-1.0f32; 4]).with_shape([2, 2]).unwrap();
            let tokens = TensorData::from(tokens).with_shape([2, 2]).unwrap();
            view(|response| response.prompt_alt_tokens = Some(PromptAltTokens::new(tokens, logprobs)))
        };
        let view = table(vec![1, 2, 3, 4]);
        let alternatives = view.table("prompt_alt_tokens").unwrap();
        assert_eq!((alternatives.rows, alternatives.columns), (2, 2));
        assert_eq!(alternatives.tokens.as_deref(), Some(&[1, 2, 3, 4][..]));
        let fault = |view: &ResultView, name| view.table(name).map(|_| ()).unwrap_err().code();
        assert_eq!(fault(&view, "targets"), code::KIND, "not requested");
        assert_eq!(fault(&view, "target"), code::NAME);
        assert_eq!(fault(&table(vec![1, 2, 3, 1 << 40]), "prompt_alt_tokens"), code::DECODE);
    }
}
