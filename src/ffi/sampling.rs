//! `tinkex_sampling`: a client that samples from one set of weights.

use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::OnceLock;

use super::border::{self, Fault, Out, Result, c_text};
use super::cancel::tinkex_cancel;
use super::code;
use super::error::tinkex_error;
use super::input::{self, tinkex_input};
use super::object::{self, Kind, Object};
use super::options;
use super::pending::{self, tinkex_pending};
use super::result::Outcome;
use super::sample_options::{Settings, tinkex_sample_options};
use super::service::{Service, tinkex_service};
use super::text::{Text, tinkex_text};
use super::tinkex_code;
use crate::types::ModelInput;
use crate::{SamplingClient, SamplingSource};

pub type tinkex_sampling = Object<Sampling>;

/// A client with the texts that C code has asked for.
pub struct Sampling {
    client: SamplingClient,
    session_id: OnceLock<CString>,
    base_model: OnceLock<Option<CString>>,
}

impl Kind for Sampling {
    const NAME: &'static str = "sampling";
}

impl Sampling {
    /// A handle of a client.
    pub(super) fn make(client: SamplingClient) -> *mut tinkex_sampling {
        let (session_id, base_model) = (OnceLock::new(), OnceLock::new());
        Object::make(Sampling { client, session_id, base_model })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sampling_new(
    service: *const tinkex_service,
    base_model_or_path: *const c_char,
    out: *mut *mut tinkex_sampling,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let service = Service::client(service)?;
            let source = source(base_model_or_path)?;
            out.set(Sampling::make(service.create_sampling_client(source)?));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sampling_start(
    service: *const tinkex_service,
    base_model_or_path: *const c_char,
    out: *mut *mut tinkex_pending,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let service = Service::client(service)?;
            let source = source(base_model_or_path)?;
            pending::submit(&out, service.start_sampling_client(source)?, Outcome::Sampling)
        })
    }
}

/// The weights that a name or a path stands for.
///
/// # Safety
/// As for [`border::text`].
unsafe fn source(text: *const c_char) -> Result<SamplingSource> {
    // SAFETY: promised by the caller.
    let text = unsafe { border::text(text, "base_model_or_path") }?;
    Ok(SamplingSource::try_from(text)?)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sampling_from_handle(
    json: *const c_char,
    out: *mut *mut tinkex_sampling,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let handle = border::text(json, "handle")?;
            out.set(Sampling::make(SamplingClient::from_sampler_handle(handle)?));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sampling_handle(
    sampling: *const tinkex_sampling,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(json, ptr::null_mut());
        border::run(error, || {
            out.required("handle")?;
            let handle = object::get(sampling)?.client.get_sampler_handle();
            out.set(Text::make(handle.to_string()));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sampling_ref(sampling: *const tinkex_sampling) -> *mut tinkex_sampling {
    // SAFETY: see the header.
    border::value(ptr::null_mut(), || Ok(Sampling::make(unsafe { object::get(sampling) }?.client.clone())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sampling_with_cancel(
    sampling: *const tinkex_sampling,
    cancel: *const tinkex_cancel,
) -> *mut tinkex_sampling {
    border::value(ptr::null_mut(), || {
        // SAFETY: see the header.
        let (sampling, cancel) = unsafe { (object::get(sampling)?, object::get(cancel)?) };
        Ok(Sampling::make(sampling.client.with_cancel(cancel.token())))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sampling_free(sampling: *mut *mut tinkex_sampling) {
    // SAFETY: see the header.
    unsafe { object::free(sampling) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sampling_close(sampling: *mut tinkex_sampling) {
    border::value((), || {
        // SAFETY: see the header. The client is cloned, because another thread may free the handle when its samples end.
        let client = unsafe { object::get(sampling) }?.client.clone();
        client.close();
        Ok(())
    });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sampling_session_id(sampling: *const tinkex_sampling) -> *const c_char {
    border::value(ptr::null(), || {
        // SAFETY: see the header.
        let Sampling { client, session_id, .. } = unsafe { object::get(sampling) }?;
        Ok(session_id.get_or_init(|| c_text(client.sampling_session_id())).as_ptr())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sampling_base_model(sampling: *const tinkex_sampling) -> *const c_char {
    border::value(ptr::null(), || {
        // SAFETY: see the header.
        let Sampling { client, base_model, .. } = unsafe { object::get(sampling) }?;
        let name = base_model.get_or_init(|| client.get_base_model().map(c_text));
        Ok(name.as_ref().map_or(ptr::null(), |name| name.as_ptr()))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sampling_sample(
    sampling: *const tinkex_sampling,
    prompt: *const tinkex_input,
    n: i32,
    options: *const tinkex_sample_options,
    out: *mut *mut tinkex_pending,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let sampling = object::get(sampling)?;
            let prompt = input::read(prompt)?;
            submit(&out, &sampling.client, prompt, number(n)?, options::read(options)?)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sampling_sample_tokens(
    sampling: *const tinkex_sampling,
    prompt: *const i32,
    n_prompt: usize,
    n: i32,
    options: *const tinkex_sample_options,
    out: *mut *mut tinkex_pending,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let sampling = object::get(sampling)?;
            let prompt = border::array(prompt, n_prompt, "prompt")?;
            check_tokens(prompt, "prompt")?;
            let prompt = ModelInput::from_ints(prompt);
            submit(&out, &sampling.client, prompt, number(n)?, options::read(options)?)
        })
    }
}

fn submit(
    out: &Out<*mut tinkex_pending>,
    client: &SamplingClient,
    prompt: ModelInput,
    n: u32,
    settings: Settings,
) -> Result<()> {
    let client = settings.client(client);
    let Settings { params, options, .. } = settings;
    pending::submit(out, client.sample_owned(prompt, n, params, options), Outcome::Sample)
}

/// Number of sequences of one sample.
fn number(n: i32) -> Result<u32> {
    match u32::try_from(n) {
        Ok(n) if 0 < n => Ok(n),
        _ => Err(Fault::invalid("n", format!("`n` must be at least 1, is {n}"))),
    }
}

fn check_tokens(tokens: &[i32], name: &str) -> Result<()> {
    match tokens.iter().position(|token| *token < 0) {
        Some(i) => Err(Fault::invalid(format!("{name}[{i}]"), format!("token id {} is negative", tokens[i]))),
        None => Ok(()),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sampling_sample_many(
    sampling: *const tinkex_sampling,
    n_prompts: usize,
    offsets: *const i64,
    tokens: *const i32,
    n: i32,
    options: *const tinkex_sample_options,
    outs: *mut *mut tinkex_pending,
    n_submitted: *mut usize,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let n_submitted = Out::cleared(n_submitted, 0);
        let outs = Outs::cleared(outs, n_prompts);
        border::run(error, || {
            let sampling = object::get(sampling)?;
            let settings = options::read(options)?;
            let n = number(n)?;
            let outs = outs?;
            if n_prompts == 0 {
                return Ok(());
            }
            let offsets = border::offsets(offsets, n_prompts, "offsets")?;
            let tokens = border::array(tokens, border::n_values(offsets, "offsets")?, "tokens")?;
            check_prompts(offsets, tokens, &settings)?;
            let client = settings.client(&sampling.client);
            for (i, prompt) in prompts(offsets, tokens).enumerate() {
                let (prompt, params) = (ModelInput::from_ints(prompt), settings.params.clone());
                let submitted = client.sample_owned(prompt, n, params, settings.options.clone());
                outs.set(i, Object::make(pending::begin(submitted, Outcome::Sample)?));
                n_submitted.set(i + 1);
            }
            Ok(())
        })
    }
}

/// The prompts of a ragged array whose offsets were checked, and whose last offset is the number of `tokens`.
fn prompts<'a>(offsets: &'a [i64], tokens: &'a [i32]) -> impl Iterator<Item = &'a [i32]> {
    // The offsets are in `0..=tokens.len()`, so that the casts are lossless.
    offsets.windows(2).map(move |pair| &tokens[pair[0] as usize..pair[1] as usize])
}

/// Refuses invalid prompts before the first one is submitted.
fn check_prompts(offsets: &[i64], tokens: &[i32], settings: &Settings) -> Result<()> {
    check_tokens(tokens, "tokens")?;
    settings.params.validate()?;
    for (i, prompt) in prompts(offsets, tokens).enumerate() {
        if prompt.is_empty() {
            return Err(Fault::invalid(format!("offsets[{}]", i + 1), format!("prompt {i} has no tokens")));
        }
        settings.options.validate_for(Some(prompt.len()))?;
    }
    Ok(())
}

/// The array of handles that `sample_many` fills.
struct Outs(*mut *mut tinkex_pending);

impl Outs {
    /// Writes NULL into each place.
    ///
    /// # Errors
    /// The array is NULL although it has a length, or its length is impossible.
    ///
    /// # Safety
    /// `places` is NULL or has room for `n` handles until the function returns.
    unsafe fn cleared(places: *mut *mut tinkex_pending, n: usize) -> Result<Self> {
        if places.is_null() && 0 < n {
            return Err(Fault::null("outs"));
        }
        if isize::MAX as usize / size_of::<*mut tinkex_pending>() < n {
            let text = format!("`n_prompts` is an impossible length: {n}");
            return Err(Fault::new(code::LENGTH, text).at("n_prompts"));
        }
        for i in 0..n {
            // SAFETY: promised by the caller.
            unsafe { places.add(i).write(ptr::null_mut()) };
        }
        Ok(Outs(places))
    }

    /// Writes the handle at `i`, which is below the `n` of `cleared`.
    fn set(&self, i: usize, pending: *mut tinkex_pending) {
        // SAFETY: promised to `cleared`.
        unsafe { self.0.add(i).write(pending) };
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_sampling_logprobs(
    sampling: *const tinkex_sampling,
    prompt: *const tinkex_input,
    last_n: i64,
    out: *mut *mut tinkex_pending,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let client = object::get(sampling)?.client.clone();
            let prompt = input::read(prompt)?;
            let pending = if last_n < 0 {
                client.compute_logprobs(&prompt)
            } else {
                client.compute_logprobs_last(&prompt, border::unsigned(last_n, "last_n")?)
            };
            pending::submit(&out, pending, Outcome::Logprobs)
        })
    }
}

#[cfg(all(test, not(shuttle)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_prompt_is_refused_with_its_place() {
        let path = |offsets: &[i64], tokens: &[i32], settings: &Settings| {
            check_prompts(offsets, tokens, settings).map_err(|fault| match fault {
                Fault::Misuse { path, .. } => path.unwrap(),
                Fault::Sdk(error) => error.violation().unwrap().path.clone(),
            })
        };
        let mut settings = Settings::default();
        path(&[0, 2, 3], &[1, 2, 3], &settings).unwrap();
        assert_eq!(path(&[0, 2, 3], &[1, 2, -3], &settings).unwrap_err(), "tokens[2]");
        assert_eq!(path(&[0, 3, 3], &[1, 2, 3], &settings).unwrap_err(), "offsets[2]");
        settings.options.include_prompt_logprobs = true;
        settings.options.prompt_logprobs_last_n = Some(1);
        assert_eq!(path(&[0, 2, 3], &[1, 2, 3], &settings).unwrap_err(), "prompt_logprobs_last_n");
        settings.params.top_p = 2.0;
        assert_eq!(path(&[0, 3], &[1, 2, 3], &settings).unwrap_err(), "sampling_params.top_p");
    }

    #[cfg(feature = "local")]
    #[test]
    fn many_prompts_are_sampled_or_none() {
        let server = crate::local::Server::start(Default::default()).unwrap();
        let service = crate::ServiceClient::builder().base_url(server.url()).api_key(server.api_key());
        let service = service.build().unwrap();
        let mut sampling = Sampling::make(service.create_sampling_client("tinkex/nano").unwrap());
        let mut all = [ptr::dangling_mut(); 2];
        let mut n_submitted = 7;
        let mut submit = |tokens: [i32; 3], all: &mut [*mut tinkex_pending; 2]| {
            // SAFETY: the arrays have two prompts with three tokens.
            let code = unsafe {
                tinkex_sampling_sample_many(
                    sampling,
                    2,
                    [0, 2, 3].as_ptr(),
                    tokens.as_ptr(),
                    1,
                    ptr::null(),
                    all.as_mut_ptr(),
                    &raw mut n_submitted,
                    ptr::null_mut(),
                )
            };
            (code, n_submitted)
        };
        assert_eq!(submit([1, 2, -3], &mut all), (code::INVALID_INPUT.number(), 0));
        assert_eq!(all, [ptr::null_mut(); 2]);
        assert_eq!(submit([1, 2, 3], &mut all), (code::OK, 2));
        // SAFETY: the handles are valid.
        unsafe {
            assert_eq!(
                pending::tinkex_wait_all(all.as_ptr(), 2, -1, ptr::null_mut(), ptr::null_mut()),
                code::OK
            );
            all.iter_mut().for_each(|pending| pending::tinkex_pending_free(pending));
            tinkex_sampling_free(&raw mut sampling);
        }
        assert_eq!(all, [ptr::null_mut(); 2]);
    }
}
