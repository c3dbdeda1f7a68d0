//! The attempts and the time of an operation that failed.

use std::time::Duration;

use super::Error;

impl Error {
    /// Sets the number of HTTP requests of the whole operation and the time since its submission. If only a part of the
    /// operation failed, they replace the numbers of that part; causes keep their numbers. If the operation itself sent
    /// no request (`attempts` is 0), for example because the session could not be opened, the error keeps its own
    /// number of attempts.
    pub(crate) fn accounted(self, attempts: u32, elapsed: Duration) -> Self {
        self.edit(|inner| {
            let earlier = inner.context.attempts.filter(|_| attempts == 0);
            inner.context.attempts = Some(earlier.unwrap_or(attempts));
            inner.context.elapsed = Some(elapsed);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn attempts_and_time_of_an_operation_replace_those_of_its_part() {
        let s = Duration::from_secs;
        let part = Error::new(ErrorKind::RateLimited, "busy").accounted(1, s(0));
        let whole = part.clone().accounted(601, s(600));
        assert_eq!((whole.attempts(), whole.elapsed()), (Some(601), Some(s(600))));
        let opening = part.accounted(0, s(3));
        assert_eq!((opening.attempts(), opening.elapsed()), (Some(1), Some(s(3))));
        // An operation that sent nothing does not report the attempts of its cause.
        let unsent = Error::new(ErrorKind::Poisoned, "not sent").caused_by(whole).accounted(0, s(2));
        assert_eq!((unsent.attempts(), unsent.elapsed()), (Some(0), Some(s(2))));
        assert_eq!(unsent.cause().and_then(Error::attempts), Some(601));
        assert_eq!(unsent.to_string(), "not sent: busy (2.0 s)");
    }
}
