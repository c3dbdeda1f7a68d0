//! How large an answer may be. Each kind of answer has a limit of its own, far above every real one of that kind and far
//! below what would hurt the machine: it holds for the body after decompression, whatever its announced length.

use super::transport::{Answer, Broken, Lane};

/// Of an answer that is no success, so much is read and the rest is left.
pub(super) const LARGEST_REFUSAL: u64 = 64 << 10;

/// The most that an answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Of its body, in bytes.
    pub(crate) bytes: u64,
    /// Values in its JSON. One that is written as `0,` takes 2 bytes of the body and 32 bytes of memory.
    pub(crate) values: usize,
}

impl Room {
    /// Flags, heartbeats, capabilities, promises, tokens: kilobytes.
    pub(crate) const SMALL: Room = Room { bytes: 1 << 20, values: 1 << 17 };
    /// Lists: of some servers, all checkpoints of a run at once.
    pub(crate) const LIST: Room = Room { bytes: 16 << 20, values: 1 << 19 };
    /// Results of which it is not known what was asked for.
    pub(crate) const UNKNOWN: Room = Room { bytes: 256 << 20, values: 1 << 25 };

    /// The result of a request that sent, or asked for, so many numbers: several numbers for each of them, as JSON writes
    /// the longest ones.
    pub(crate) fn for_numbers(n: u64) -> Room {
        let bytes = n.saturating_mul(128).saturating_add(256 << 10);
        let values = n.saturating_mul(8).saturating_add(1 << 16);
        Room {
            bytes: bytes.min(Room::UNKNOWN.bytes * 4),
            values: usize::try_from(values).unwrap_or(usize::MAX),
        }
    }

    /// What the requests of a lane are answered with, unless the call knows better.
    pub(super) fn of(lane: Lane) -> Room {
        match lane {
            Lane::Session | Lane::Telemetry => Room::SMALL,
            Lane::Rest | Lane::PollMany => Room::LIST,
            // Some servers answer with the result at once.
            Lane::Train | Lane::Sample | Lane::Poll => Room::UNKNOWN,
        }
    }

    /// Checks an answer, whatever transport brought it. One that is no success is shortened.
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
        match self.values < n_values {
            true => Err(Broken::TooManyValues { limit: self.values, found: n_values }),
            false => Ok(answer),
        }
    }
}

/// How many values JSON may hold at most, counted without reading it: texts count as if they were JSON, too.
fn n_values(json: &[u8]) -> usize {
    // A short body cannot hold too many.
    if json.len() < 1 << 16 {
        return json.len();
    }
    json.iter().filter(|it| matches!(it, b',' | b'[' | b'{')).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: Vec<u8>) -> Answer {
        Answer { status, headers: Vec::new(), body: body.into() }
    }

    #[test]
    fn each_kind_of_answer_has_a_limit_of_its_own() {
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
        let text = error.error(&Default::default()).to_string();
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
    fn of_a_refusal_the_beginning_is_kept_with_its_status() {
        let kept = Room::SMALL.check(answer(503, vec![b'x'; 1 << 20])).expect("a refusal");
        assert_eq!((kept.status, kept.body.len() as u64), (503, LARGEST_REFUSAL));
    }
}
