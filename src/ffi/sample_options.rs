//! `tinkex_sample_options`: parameters of a sample, and what it reports besides the sequences.

use std::ffi::c_char;

use super::border::{self, Fault, Result, unsigned};
use super::code;
use super::object::{self, Kind, Object};
use super::options::{self, Holder, Sticky};
use crate::SamplingClient;
use crate::types::{SampleOptions, SamplingParams, Stop, TensorData};

pub type tinkex_sample_options = Object<SampleSettings>;

#[derive(Default)]
pub struct SampleSettings {
    sticky: Sticky<Settings>,
}

impl Kind for SampleSettings {
    const NAME: &'static str = "sample_options";
}

impl Holder for SampleSettings {
    type Options = Settings;

    fn sticky(&self) -> &Sticky<Settings> {
        &self.sticky
    }
}

/// The options of one or more samples.
#[derive(Clone, Default)]
pub struct Settings {
    pub(super) params: SamplingParams,
    pub(super) options: SampleOptions,
    /// `None`: as the client does.
    record_stability: Option<bool>,
}

/// Names for `tinkex_sample_options_set_number`.
const NUMBERS: [&str; 6] = [
    "prompt_logprobs",
    "topk_prompt",
    "topk_sample",
    "prompt_alt_tokens",
    "prompt_logprobs_last_n",
    "record_stability",
];

impl Settings {
    /// The client that takes the samples.
    pub(super) fn client(&self, client: &SamplingClient) -> SamplingClient {
        match self.record_stability {
            Some(yes) => client.clone().record_stability_info(yes),
            None => client.clone(),
        }
    }

    fn set_number(&mut self, name: &str, value: i64) -> Result<()> {
        let options = &mut self.options;
        match name {
            "prompt_logprobs" => options.include_prompt_logprobs = value != 0,
            "topk_prompt" => options.topk_prompt_logprobs = unsigned(value, name)?,
            "topk_sample" => options.topk_sample_logprobs = unsigned(value, name)?,
            "prompt_alt_tokens" => options.prompt_alt_tokens_k = unsigned(value, name)?,
            "prompt_logprobs_last_n" => {
                let n = unsigned(value, name)?;
                options.prompt_logprobs_last_n = (0 < n).then_some(n);
                options.include_prompt_logprobs |= 0 < n;
            }
            "record_stability" => self.record_stability = Some(value != 0),
            _ => return Err(Fault::name("option of a sample", name, &NUMBERS)),
        }
        Ok(())
    }

    fn add_stop_text(&mut self, text: &str) -> Result<()> {
        match &mut self.params.stop {
            Some(Stop::Strings(texts)) => texts.push(text.into()),
            Some(Stop::Tokens(_)) => return Err(two_kinds_of_stops()),
            None => self.params.stop = Some(text.into()),
        }
        Ok(())
    }

    fn set_stop_tokens(&mut self, tokens: &[i32]) -> Result<()> {
        if let Some(Stop::Strings(_)) = self.params.stop {
            return Err(two_kinds_of_stops());
        }
        self.params.stop = Some(Stop::Tokens(tokens.into()));
        Ok(())
    }
}

fn two_kinds_of_stops() -> Fault {
    Fault::invalid("stop", "a sample stops at texts or at tokens, not at both: set only one of them")
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sample_options_new() -> *mut tinkex_sample_options {
    border::value(std::ptr::null_mut(), || Ok(Object::make(SampleSettings::default())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sample_options_free(options: *mut *mut tinkex_sample_options) {
    // SAFETY: see the header.
    unsafe { object::free(options) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sample_options_set_max_tokens(options: *mut tinkex_sample_options, n: i32) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            it.params.max_tokens = Some(unsigned(i64::from(n), "max_tokens")?);
            Ok(())
        });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sample_options_set_temperature(
    options: *mut tinkex_sample_options,
    temperature: f64,
) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            // The function that uses the options checks the range.
            it.params.temperature = temperature as f32;
            Ok(())
        });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sample_options_set_top_p(options: *mut tinkex_sample_options, top_p: f64) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            it.params.top_p = top_p as f32;
            Ok(())
        });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sample_options_set_top_k(options: *mut tinkex_sample_options, top_k: i32) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            it.params.top_k = top_k;
            Ok(())
        });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sample_options_set_seed(options: *mut tinkex_sample_options, seed: i64) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            it.params.seed = Some(unsigned(seed, "seed")?);
            Ok(())
        });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sample_options_add_stop_text(
    options: *mut tinkex_sample_options,
    text: *const c_char,
) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| it.add_stop_text(border::text(text, "stop")?));
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sample_options_set_stop_tokens(
    options: *mut tinkex_sample_options,
    tokens: *const i32,
    n: usize,
) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| it.set_stop_tokens(border::array(tokens, n, "stop")?));
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sample_options_set_number(
    options: *mut tinkex_sample_options,
    name: *const c_char,
    value: i64,
) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| it.set_number(border::text(name, "name")?, value));
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sample_options_set_targets(
    options: *mut tinkex_sample_options,
    tokens: *const i64,
    rows: usize,
    columns: usize,
) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            let n = rows.checked_mul(columns).ok_or_else(|| {
                let text = format!("`targets` has an impossible length: {rows} x {columns}");
                Fault::new(code::LENGTH, text).at("targets")
            })?;
            let tokens = border::array(tokens, n, "targets")?;
            let targets = TensorData::from(tokens.to_vec()).with_shape([rows, columns])?;
            // Without rows and columns the targets are removed.
            it.options.target_prompt_logprobs = (0 < rows || 0 < columns).then_some(targets);
            Ok(())
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_its_name_and_its_range() {
        for name in NUMBERS {
            Settings::default().set_number(name, 1).unwrap();
        }
        let mut settings = Settings::default();
        settings.set_number("prompt_logprobs_last_n", 2).unwrap();
        assert_eq!(settings.options.prompt_logprobs_last_n, Some(2));
        assert!(
            settings.options.include_prompt_logprobs,
            "the last tokens are scored without another option"
        );
        settings.set_number("prompt_logprobs_last_n", 0).unwrap();
        assert_eq!(settings.options.prompt_logprobs_last_n, None);
        for (name, value, expected) in [
            ("topk_sample", -1, code::INVALID_INPUT),
            ("topk_prompt", 1 << 32, code::INVALID_INPUT),
            ("topk", 1, code::NAME),
        ] {
            assert_eq!(settings.set_number(name, value).unwrap_err().code(), expected, "{name}");
        }
    }

    #[test]
    fn texts_and_tokens_cannot_both_stop_a_sample() {
        let mut settings = Settings::default();
        settings.add_stop_text("a").unwrap();
        settings.add_stop_text("b").unwrap();
        assert_eq!(settings.set_stop_tokens(&[1]).unwrap_err().code(), code::INVALID_INPUT);
        assert_eq!(settings.params.stop, Some(Stop::Strings(vec!["a".into(), "b".into()])));
        let mut settings = Settings::default();
        settings.set_stop_tokens(&[]).unwrap();
        assert_eq!(settings.params.stop, Some(Stop::Tokens(Vec::new())), "only max_tokens ends a sequence");
        assert_eq!(settings.add_stop_text("a").unwrap_err().code(), code::INVALID_INPUT);
    }
}
