//! Temporary download addresses that need no key, like signed URLs of a storage service.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::checkpoint::Place;

/// Time that an address is valid.
const LIFE: Duration = Duration::from_secs(15 * 60);

/// Content of an address.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item {
    /// The files of one save of a checkpoint, each by its name.
    Files(Place, u64),
    /// All files of a save in one archive.
    Archive(Place, u64),
    /// The trace of a session.
    Trace(String),
}

/// Addresses that were issued.
#[derive(Debug, Default)]
pub(super) struct Downloads {
    given: Mutex<HashMap<String, (Item, SystemTime)>>,
}

impl Downloads {
    /// Issues a token for an item; returns it with its expiry.
    pub(super) fn give(&self, item: Item, now: SystemTime) -> (String, SystemTime) {
        let (token, until) = (secret(), now + LIFE);
        let mut given = self.given.lock();
        // Expired tokens are kept for an hour, so that late requests get a precise error.
        given.retain(|_, it| now < it.1 + Duration::from_secs(3600));
        given.insert(token.clone(), (item, until));
        (token, until)
    }

    /// Item of a token: `None` if the token is unknown, an error if it has expired.
    pub(super) fn find(&self, token: &str, now: SystemTime) -> Option<Result<Item, ()>> {
        let given = self.given.lock();
        let (item, until) = given.get(token)?;
        Some(if now < *until { Ok(item.clone()) } else { Err(()) })
    }
}

/// A random token of 128 bits, from a keyed hash whose keys come from the system.
pub(super) fn secret() -> String {
    let half = || RandomState::new().hash_one(SystemTime::now());
    format!("{:016x}{:016x}", half(), half())
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_good_for_a_quarter_of_an_hour() {
        let (downloads, now) = (Downloads::default(), SystemTime::now());
        let item = Item::Trace("s".into());
        let (token, until) = downloads.give(item.clone(), now);
        let (other, _) = downloads.give(item.clone(), now);
        assert!(token != other && token.len() == 32 && until == now + LIFE);
        assert_eq!(downloads.find(&token, now), Some(Ok(item)));
        assert_eq!(downloads.find(&token, until), Some(Err(())));
        assert_eq!(downloads.find("guess", now), None);
        downloads.give(Item::Trace("t".into()), until + Duration::from_secs(3600));
        assert_eq!(downloads.find(&token, until), None, "forgotten in the end");
    }
}
