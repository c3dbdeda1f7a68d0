//! Addresses from which something can be fetched for a while without a key, as from a signed storage.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::checkpoint::Place;

/// How long an address is good for.
const LIFE: Duration = Duration::from_secs(15 * 60);

/// What can be fetched.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item {
    /// The files of one save of a checkpoint, one by one.
    Files(Place, u64),
    /// All of them in one.
    Archive(Place, u64),
    /// What a session did, and when.
    Trace(String),
}

/// The addresses that were given out.
#[derive(Debug, Default)]
pub(super) struct Downloads {
    given: Mutex<HashMap<String, (Item, SystemTime)>>,
}

impl Downloads {
    /// A word that gives access to something, and until when.
    pub(super) fn give(&self, item: Item, now: SystemTime) -> (String, SystemTime) {
        let (token, until) = (secret(), now + LIFE);
        let mut given = self.given.lock();
        // An hour longer than it is good for, so that whoever comes late is told so.
        given.retain(|_, it| now < it.1 + Duration::from_secs(3600));
        given.insert(token.clone(), (item, until));
        (token, until)
    }

    /// What a word gives access to: `None` if nothing ever, an error if no longer.
    pub(super) fn find(&self, token: &str, now: SystemTime) -> Option<Result<Item, ()>> {
        let given = self.given.lock();
        let (item, until) = given.get(token)?;
        Some(if now < *until { Ok(item.clone()) } else { Err(()) })
    }
}

/// A word that nobody guesses: 128 bits of a keyed hash whose keys come from the system.
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
