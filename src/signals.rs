//! Keeps signals that are sent to the process away from the threads that this crate starts.
//!
//! The system delivers a signal that is sent to the process to any one of its threads that does not block the signal. A
//! program that handles signals expects them on its own threads: a handler on a thread of this crate would interrupt
//! system calls there and run on a small stack. A new thread inherits the signal mask of the thread that starts it.
//! This module therefore blocks the signals on the starting thread for the time of the start.

#![allow(unsafe_code)]

#[cfg(unix)]
use std::mem::MaybeUninit;
use std::process::Command;
#[cfg(unix)]
use std::ptr;

/// Signals that are not blocked: the system sends them to the thread that caused them.
#[cfg(unix)]
const SYNCHRONOUS: [libc::c_int; 7] =
    [libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGSEGV, libc::SIGSYS, libc::SIGTRAP];

/// Runs `start`. Meanwhile this thread blocks all signals except the [`SYNCHRONOUS`] ones. In threads that `start`
/// starts, the signals remain blocked. `SIGPIPE` is one of the blocked signals: so in these threads a write to a closed
/// connection returns an error and does not end the process. If the system refuses to block the signals, `start` runs
/// nevertheless.
#[cfg(unix)]
pub(crate) fn blocked<T>(start: impl FnOnce() -> T) -> T {
    struct Restore(libc::sigset_t);

    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: `pthread_sigmask` itself has returned this mask.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, ptr::null_mut()) };
        }
    }

    let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
    let mut old = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigfillset` initializes the set that `sigdelset` and `pthread_sigmask` read, and `pthread_sigmask` writes
    // the old mask if it returns 0.
    let restore = unsafe {
        libc::sigfillset(mask.as_mut_ptr());
        for signal in SYNCHRONOUS {
            libc::sigdelset(mask.as_mut_ptr(), signal);
        }
        let is_set = libc::pthread_sigmask(libc::SIG_SETMASK, mask.as_ptr(), old.as_mut_ptr()) == 0;
        is_set.then(|| Restore(old.assume_init()))
    };
    let started = start();
    drop(restore);
    started
}

/// Makes a command run with no signal blocked. Otherwise the command would inherit the mask of the thread that starts
/// it.
#[cfg(unix)]
pub(crate) fn unblock_in(command: &mut Command) {
    use std::os::unix::process::CommandExt;

    let unblock = || {
        let mut none = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the set is initialized before it is read.
        let code = unsafe {
            libc::sigemptyset(none.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut())
        };
        if code == 0 { Ok(()) } else { Err(std::io::Error::from_raw_os_error(code)) }
    };
    // SAFETY: `sigemptyset` and `pthread_sigmask` may be called between `fork` and `exec`.
    unsafe { command.pre_exec(unblock) };
}

/// Changes nothing: this system has no signal mask that a command could inherit.
#[cfg(not(unix))]
pub(crate) fn unblock_in(_: &mut Command) {}

/// Runs `start`: this system has no signals that must be blocked.
#[cfg(not(unix))]
pub(crate) fn blocked<T>(start: impl FnOnce() -> T) -> T {
    start()
}

#[cfg(all(test, target_os = "linux", not(shuttle)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Signal mask of the current thread, read from `/proc`. Bit n - 1 stands for signal n.
    fn mask() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    }

    #[test]
    fn a_command_that_such_a_thread_starts_blocks_no_signal() {
        let thread = blocked(|| {
            std::thread::spawn(|| {
                let mut command = Command::new("cat");
                unblock_in(command.arg("/proc/self/status"));
                String::from_utf8(command.output().unwrap().stdout).unwrap()
            })
        });
        let status = thread.join().unwrap();
        assert!(status.contains("SigBlk:\t0000000000000000"), "{status}");
    }

    #[test]
    fn a_new_thread_blocks_all_but_the_synchronous_signals_and_the_starting_thread_keeps_its_mask() {
        let before = mask();
        let thread = blocked(|| std::thread::spawn(mask));
        assert_eq!(mask(), before);
        let blocked = thread.join().unwrap();
        let is_blocked = |signal: libc::c_int| blocked >> (signal - 1) & 1 == 1;
        for signal in
            [libc::SIGPIPE, libc::SIGINT, libc::SIGTERM, libc::SIGALRM, libc::SIGCHLD, libc::SIGPROF]
        {
            assert!(is_blocked(signal), "{signal}");
        }
        for signal in SYNCHRONOUS {
            assert!(!is_blocked(signal), "{signal}");
        }
    }
}
