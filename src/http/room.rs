//! Limits of the size of answers. Each kind of answer has its own limit, far above the size of real answers and far
//! below the memory of the machine. A limit applies to the body after decompression, whatever length the server
//! announced.

use super::transport::{Answer, Broken, Lane};

/// Number of bytes that are read of an error answer. The rest is dropped.
pub(super) const LARGEST_REFUSAL: u64 = 64 << 10;

/// The limits of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Largest body, in bytes.
    pub(crate) bytes: u64,
    /// Largest number of values in JSON. A value written as `0,` takes 2 bytes in the body and 32 bytes in memory.
    pub(crate) values: usize,
}

impl Room {
    /// For answers of a few kilobytes: client flags, heartbeats, server capabilities, access tokens, and promises (the
    /// request ids with which the server accepts a request whose result comes later).
    pub(crate) const SMALL: Room = Room { bytes: 1 << 20, values: 1 << 17 };
    /// For lists. Some servers return all checkpoints of a run in one answer.
    pub(crate) const LIST: Room = Room { bytes: 16 << 20, values: 1 << 19 };
    /// For results of unknown size.
    pub(crate) const UNKNOWN: Room = Room { bytes: 256 << 20, values: 1 << 25 };

    /// For the result of a request that sends or asks for `n` numbers. For each of them the result may have 8 JSON
    /// values and 128 bytes, which is enough for several numbers with all their digits. A fixed amount is added.
    pub(crate) fn for_numbers(n: u64) -> Room {
        let bytes = n.saturating_mul(128).saturating_add(256 << 10);
        let values = n.saturating_mul(8).saturating_add(1 << 16);
        Room {
            bytes: bytes.min(Room::UNKNOWN.bytes * 4),
            values: usize::try_from(values).unwrap_or(usize::MAX),
        }
    }

    /// The default limits of a lane.
    pub(super) fn of(lane: Lane) -> Room {
        match lane {
            Lane::Session | Lane::Telemetry => Room::SMALL,
            Lane::Rest | Lane::PollMany => Room::LIST,
            // Some servers answer a submission with the result.
            Lane::Train | Lane::Sample | Lane::Poll => Room::UNKNOWN,
        }
    }

    /// Refuses an answer that is too large, and cuts the body of an error answer. Does not rely on the transport: a
    /// transport of the user may ignore the limits.
    pub(super) fn check(self, mut answer: Answer) -> Result<Answer, Broken> {
        if !answer.is_success() {
            answer.body.truncate(LARGEST_REFUSAL.min(self.bytes) as usize);
            return Ok(answer);
        }
        let n_bytes = answer.body.len() as u64;
        if self.bytes < n_bytes {
            return Err(Broken::TooLarge { limit: self.bytes, announced: Some(n_bytes) });
        }
        if answer.is_protobuf() {
            return Ok(answer);
        }
        let n_values = n_values(&answer.body);
        if self.values < n_values {
            return Err(Broken::TooManyValues { limit: self.values, found: n_values });
        }
        Ok(answer)
    }
}

/// Returns an upper bound of the number of values in JSON, without the outermost one. Separators inside strings are
/// counted, too.
fn n_values(json: &[u8]) -> usize {
    // A body this short cannot exceed any limit, so its length is good enough as the upper bound.
    if json.len() < 1 << 16 {
        return json.len();
    }
    json.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Timeouts;

    fn answer(status: u16, body: Vec<u8>) -> Answer {
        Answer { status, headers: Vec::new(), body: body.into() }
    }

    #[test]
    fn each_kind_of_answer_has_its_own_limit() {
        for (room, bytes) in [
            (Room::of(Lane::Session), 1 << 20),
            (Room::of(Lane::Rest), 16 << 20),
            (Room::for_numbers(1000), (256 << 10) + 128_000),
            (Room::for_numbers(u64::MAX), 1 << 30),
        ] {
            assert_eq!(room.bytes, bytes);
        }
        let fits = Room::SMALL.check(answer(200, vec![b' '; 1 << 20]));
        assert!(fits.is_ok());
        let error = Room::SMALL.check(answer(200, vec![b' '; (1 << 20) + 1])).expect_err("too large");
        let text = error.error(&Timeouts::default()).to_string();
        assert!(text.contains("1048576") && text.contains("1048577"), "{text}");
    }

    #[test]
    fn many_small_values_are_refused_before_they_take_memory() {
        let values = "[".to_string() + &"0,".repeat(1 << 18) + "0]";
        let error = Room::SMALL.check(answer(200, values.clone().into())).expect_err("too many");
        assert!(matches!(error, Broken::TooManyValues { .. }), "{error:?}");
        assert!(Room::LIST.check(answer(200, values.into())).is_ok());
    }

    #[test]
    fn an_error_answer_is_cut_and_keeps_its_status() {
        let kept = Room::SMALL.check(answer(503, vec![b'x'; 1 << 20])).expect("a refusal");
        assert_eq!((kept.status, kept.body.len() as u64), (503, LARGEST_REFUSAL));
    }
}
