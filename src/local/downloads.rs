//! Temporary download addresses that need no key, like the signed URLs of storage services: a random token in the
//! address grants access.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};

use super::checkpoint::CheckpointId;
use super::issued::Issued;

/// Time for which an address is valid.
const LIFE: Duration = Duration::from_secs(15 * 60);

/// Content behind a download address.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item {
    /// The files of one save of a checkpoint, one address for each file. The number is the save id.
    Files(CheckpointId, u64),
    /// All files of one save of a checkpoint in one archive. The number is the save id.
    Archive(CheckpointId, u64),
    /// The trace of a session.
    Trace(String),
}

/// The addresses that were issued.
#[derive(Debug)]
pub(super) struct Downloads {
    issued: Mutex<Issued<Item>>,
}

impl Default for Downloads {
    fn default() -> Self {
        // Expired tokens are remembered for an hour, so that late requests get a precise error.
        Downloads { issued: Mutex::new(Issued::new(LIFE, Duration::from_secs(3600))) }
    }
}

impl Downloads {
    /// Issues a token for an item; returns it with its expiry.
    pub(super) fn issue(&self, item: Item, now: SystemTime) -> (String, SystemTime) {
        let token = random_token();
        let until = self.issued.lock().add(&token, item, now);
        (token, until)
    }

    /// The item of a token. `None` if the token is unknown, an error if it has expired.
    pub(super) fn lookup(&self, token: &str, now: SystemTime) -> Option<Result<Item, ()>> {
        let issued = self.issued.lock();
        let (item, until) = issued.get(token)?;
        Some(if now < *until { Ok(item.clone()) } else { Err(()) })
    }
}

/// A random token of 128 bits.
pub(super) fn random_token() -> String {
    let mut bytes = [0; 16];
    // If the system refuses its random numbers, take those that the standard library got from it for its hashers.
    if SystemRandom::new().fill(&mut bytes).is_err() {
        let half = || RandomState::new().hash_one(SystemTime::now());
        bytes = ((u128::from(half()) << 64) | u128::from(half())).to_be_bytes();
    }
    format!("{:032x}", u128::from_be_bytes(bytes))
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_valid_for_a_quarter_of_an_hour() {
        let (downloads, now) = (Downloads::default(), SystemTime::now());
        let item = Item::Trace("s".into());
        let (token, until) = downloads.issue(item.clone(), now);
        let (other, _) = downloads.issue(item.clone(), now);
        assert!(token != other && token.len() == 32 && until == now + LIFE);
        assert_eq!(downloads.lookup(&token, now), Some(Ok(item)));
        assert_eq!(downloads.lookup(&token, until), Some(Err(())));
        assert_eq!(downloads.lookup("guess", now), None);
        downloads.issue(Item::Trace("t".into()), until + Duration::from_secs(3600));
        assert_eq!(downloads.lookup(&token, until), None, "dropped after another hour");
    }
}
