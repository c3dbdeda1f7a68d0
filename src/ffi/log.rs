//! Log records of the library: to standard error, a callback or a queue.
//!
//! The library logs through the crate `log`, whose logger can be set once in a process. Only records of this library are
//! passed on: other crates may log request headers, which contain the credential.

use std::cell::Cell;
use std::ffi::CString;
use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use log::{LevelFilter, Log, Metadata, Record};
use serde_json::json;

use super::border::{self, Fault, Result, c_text};
use super::code;
use super::constants::{EVENT_LOG, LOG_DEBUG, LOG_ERROR, LOG_INFO, LOG_OFF, LOG_TRACE, LOG_WARN};
use super::error::tinkex_error;
use super::event::Event;
use super::in_turn::InTurn;
use super::object::{self, User};
use super::queue::{SharedQueue, tinkex_queue};
use super::{tinkex_code, tinkex_log_fn, tinkex_release_fn};
use crate::sync::StaticMutex;

type LogFn =
    unsafe extern "C-unwind" fn(*mut std::ffi::c_void, i32, *const std::ffi::c_char, *const std::ffi::c_char);

/// Receiver of log records.
enum Target {
    Stderr,
    Callback {
        function: LogFn,
        user: User,
        in_turn: InTurn<Line>,
    },
    /// Records for a queue that was freed are dropped.
    Queue {
        queue: Weak<SharedQueue>,
        tag: u64,
    },
}

/// A log record as texts for C.
struct Line {
    level: i32,
    target: CString,
    message: CString,
}

/// The logger of the process, if this library has set it.
struct Logger {
    target: StaticMutex<Option<Arc<Target>>>,
    /// [`object::generation`] of the process that set the target.
    generation: AtomicU32,
}

static LOGGER: Logger = Logger { target: StaticMutex::new(None), generation: AtomicU32::new(0) };

thread_local! {
    /// The thread is passing on a record. Records that it makes meanwhile, such as those of a function that the callback
    /// calls, are dropped.
    static IS_LOGGING: Cell<bool> = const { Cell::new(false) };
}

struct Reset;

impl Drop for Reset {
    fn drop(&mut self) {
        let _ = IS_LOGGING.try_with(|is_logging| is_logging.set(false));
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        target == "tinkex" || target.starts_with("tinkex::")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // While the thread ends, the flag does not exist any more, and recursion could not be recognized.
        if IS_LOGGING.try_with(|is_logging| is_logging.replace(true)).unwrap_or(true) {
            return;
        }
        let _reset = Reset;
        // In a forked child the locks of the parent may stay held forever.
        if self.generation.load(Ordering::Relaxed) != object::generation() {
            return;
        }
        let target = self.target.lock().clone();
        if let Some(target) = target {
            target.receive(record);
        }
    }

    fn flush(&self) {}
}

impl Target {
    fn receive(&self, record: &Record<'_>) {
        let (level, message) = (record.level() as i32, record.args().to_string());
        match self {
            Target::Stderr => {
                let line = format!("{:<5} {}: {message}\n", record.level(), record.target());
                // If standard error is closed, nothing can be reported.
                let _ = std::io::stderr().lock().write_all(line.as_bytes());
            }
            Target::Callback { function, user, in_turn } => {
                let line = Line { level, target: c_text(record.target()), message: c_text(message) };
                in_turn.call(line, |line| {
                    // SAFETY: the caller who registered the function promises that it takes these arguments. The texts
                    // live until it returns.
                    unsafe {
                        function(user.pointer(), line.level, line.target.as_ptr(), line.message.as_ptr());
                    }
                });
            }
            Target::Queue { queue, tag } => {
                if let Some(queue) = queue.upgrade() {
                    let json = json!({ "level": level, "target": record.target(), "message": message });
                    queue.push(Event::new(EVENT_LOG, *tag).saying(message, &json).at_level(level));
                }
            }
        }
    }
}

fn filter(level: i32) -> Result<LevelFilter> {
    match level {
        LOG_OFF => Ok(LevelFilter::Off),
        LOG_ERROR => Ok(LevelFilter::Error),
        LOG_WARN => Ok(LevelFilter::Warn),
        LOG_INFO => Ok(LevelFilter::Info),
        LOG_DEBUG => Ok(LevelFilter::Debug),
        LOG_TRACE => Ok(LevelFilter::Trace),
        _ => {
            let text = format!("`level` is {level}, but must be one of TINKEX_LOG_OFF to TINKEX_LOG_TRACE");
            Err(Fault::invalid("level", text))
        }
    }
}

/// Sets the receiver of all records of the process.
///
/// # Errors
/// A receiver was set before, or the program has another logger.
fn install(level: i32, target: Target) -> Result<()> {
    let (filter, target) = (filter(level)?, Arc::new(target));
    {
        let mut current = LOGGER.target.lock();
        if current.is_some() {
            let text = "the target of the log is set already and cannot be changed; tinkex_log_set_level changes the level";
            return Err(Fault::new(code::ALREADY, text));
        }
        if log::set_logger(&LOGGER).is_err() {
            let text = "another part of the program has set a logger, which receives the records of tinkex";
            return Err(Fault::new(code::ALREADY, text));
        }
        LOGGER.generation.store(object::generation(), Ordering::Relaxed);
        *current = Some(target);
    }
    log::set_max_level(filter);
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_log_to_stderr(level: i32, error: *mut *mut tinkex_error) -> tinkex_code {
    // SAFETY: see the header.
    unsafe { border::run(error, || install(level, Target::Stderr)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_log_to_callback(
    level: i32,
    log: tinkex_log_fn,
    user: *mut std::ffi::c_void,
    release: tinkex_release_fn,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    let user = User::new(user, release);
    // SAFETY: see the header.
    unsafe {
        border::run(error, || {
            let function = log.ok_or_else(|| Fault::null("log"))?;
            install(level, Target::Callback { function, user, in_turn: InTurn::new() })
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_log_to_queue(
    level: i32,
    queue: *mut tinkex_queue,
    tag: u64,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        border::run(error, || {
            let queue = object::get(queue)?.downgrade();
            install(level, Target::Queue { queue, tag })
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_log_set_level(level: i32) {
    border::value((), || {
        let filter = filter(level)?;
        // Another logger of the program has its own level.
        if LOGGER.target.lock().is_some() {
            log::set_max_level(filter);
        }
        Ok(())
    });
}
