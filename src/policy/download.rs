//! Downloads of files from storage servers: what an answer means for the part of a file that is on the disk, when an
//! address is replaced, and when a download is given up.

use std::time::Duration;

/// Attempts in a row that bring less than [`PROGRESS`] until a download fails.
pub(crate) const MOST_FRUITLESS: u32 = 8;
/// Number of times that a file may change on the server during one download.
pub(crate) const MOST_CHANGES: u32 = 5;
/// New bytes after which an attempt counts as progress, unless it completes the file.
pub(crate) const PROGRESS: u64 = 64 << 10;
/// An address is replaced this long before it expires.
const MARGIN: Duration = Duration::from_secs(5 * 60);

/// The version of a file, as its server identifies it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) etag: Option<String>,
    pub(crate) last_modified: Option<String>,
    /// Length of the whole file in bytes.
    pub(crate) size: Option<u64>,
}

impl Version {
    /// The value of `If-Range`, with which the server sends the rest only of the same version (RFC 9110 §13.1.5). A weak
    /// tag does not promise the same bytes.
    pub(crate) fn validator(&self) -> Option<&str> {
        let strong = self.etag.as_deref().filter(|it| it.starts_with('"'));
        strong.or(self.last_modified.as_deref())
    }

    /// Whether an answer may be about the same version: nothing that both know differs.
    fn fits(&self, other: &Version) -> bool {
        fn differ<T: PartialEq>(one: &Option<T>, other: &Option<T>) -> bool {
            matches!((one, other), (Some(one), Some(other)) if one != other)
        }
        !differ(&self.etag, &other.etag)
            && !differ(&self.size, &other.size)
            // A tag identifies the version better: servers behind one name may disagree about the date.
            && (self.etag.is_some() && other.etag.is_some() || !differ(&self.last_modified, &other.last_modified))
    }
}

/// What is asked for: the rest of a file from this offset on; the whole file if 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) offset: u64,
}

/// Decides whether the part on the disk can be continued: from its end, or from zero if it may be of another version.
pub(crate) fn ask(part: u64, version: Option<&Version>) -> Asked {
    let can_resume =
        version.is_some_and(|it| it.validator().is_some() && it.size.is_none_or(|size| part <= size));
    Asked { offset: if can_resume { part } else { 0 } }
}

/// The head of an answer of a storage server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head<'a> {
    pub(crate) status: u16,
    pub(crate) content_range: Option<&'a str>,
    pub(crate) content_length: Option<u64>,
    pub(crate) content_encoding: Option<&'a str>,
    pub(crate) is_chunked: bool,
    pub(crate) etag: Option<&'a str>,
    pub(crate) last_modified: Option<&'a str>,
}

/// What to do with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The body is the whole file in this version.
    Whole(Version),
    /// The body is the rest of the file from the offset that was asked for.
    Rest,
    /// The file has another version, or the server answers for another range: ask for the whole file.
    Restart,
    /// The address is not accepted, for this reason: replace it.
    Renew(&'static str),
    /// Try again later.
    Again,
    /// The file cannot be downloaded, for this reason.
    Fail(&'static str),
}

/// Decides what an answer means. `known` is the version of the part on the disk.
pub(crate) fn judge(asked: Asked, known: Option<&Version>, head: &Head<'_>) -> Step {
    let text = |it: Option<&str>| it.map(|it| it.trim().to_owned()).filter(|it| !it.is_empty());
    let version = |size| Version { etag: text(head.etag), last_modified: text(head.last_modified), size };
    match head.status {
        200 | 206 if head.content_encoding.is_some_and(|it| !it.trim().eq_ignore_ascii_case("identity")) => {
            Step::Fail("the storage sends the file compressed, although it was not asked to")
        }
        200 if head.content_length.is_none() && !head.is_chunked => {
            Step::Fail("the storage states neither the size of the file nor its end")
        }
        200 => Step::Whole(version(head.content_length)),
        206 if asked.offset == 0 => Step::Again,
        206 => match (head.content_range.and_then(content_range), known) {
            (Some(range), Some(known)) => {
                let size = range.size.or(known.size);
                let is_to_the_end = size.is_none_or(|size| range.last + 1 == size);
                if range.first == asked.offset && is_to_the_end && known.fits(&version(range.size)) {
                    Step::Rest
                } else {
                    Step::Restart
                }
            }
            _ => Step::Restart,
        },
        416 if 0 < asked.offset => Step::Restart,
        // Storage services answer with 400 to a signature that has expired (S3: ExpiredToken).
        400 | 401 | 403 => Step::Renew("the storage refuses the address"),
        // A storage that was started anew no longer knows its addresses of before, and a file that is gone gets none.
        404 | 410 => Step::Renew("the storage does not have the file"),
        408 | 425 | 429 | 500.. => Step::Again,
        _ => Step::Fail("the storage refuses the file"),
    }
}

struct ContentRange {
    first: u64,
    last: u64,
    size: Option<u64>,
}

/// Reads `bytes 5-9/10` or `bytes 5-9/*`.
fn content_range(text: &str) -> Option<ContentRange> {
    let (unit, rest) = text.trim().split_once(' ')?;
    let (range, size) = rest.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let size = match size.trim() {
        "*" => None,
        size => Some(size.parse().ok()?),
    };
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let is_valid = unit.eq_ignore_ascii_case("bytes") && first <= last && last < u64::MAX;
    (is_valid && size.is_none_or(|size| last < size)).then_some(ContentRange { first, last, size })
}

/// Time for which an address that lives this long is used.
pub(crate) fn useful_life(life: Duration) -> Duration {
    life.saturating_sub(MARGIN.min(life / 4))
}

/// The pause before the next attempt, after this number of attempts in a row without progress. `unit` is a random
/// number from 0 to 1, and `hint` the pause that the server asks for.
pub(crate) fn pause(n_fruitless: u32, hint: Option<Duration>, unit: f64) -> Duration {
    if n_fruitless == 0 {
        return hint.unwrap_or_default().min(Duration::from_secs(60));
    }
    let doubled = Duration::from_millis(250).saturating_mul(1 << (n_fruitless - 1).min(6));
    let jittered = doubled.min(Duration::from_secs(15)).mul_f64(1.0 - 0.25 * unit.clamp(0.0, 1.0));
    hint.map_or(jittered, |it| it.min(Duration::from_secs(60)).max(jittered))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(etag: Option<&str>, date: Option<&str>, size: Option<u64>) -> Version {
        Version { etag: etag.map(Into::into), last_modified: date.map(Into::into), size }
    }

    #[test]
    fn a_part_is_continued_only_if_the_server_can_be_asked_for_the_same_version() {
        for (known, offset) in [
            (None, 0),
            (Some(version(None, None, Some(100))), 0),
            (Some(version(Some("W/\"a\""), None, Some(100))), 0),
            (Some(version(Some("\"a\""), None, Some(40))), 0),
            (Some(version(Some("\"a\""), None, Some(100))), 50),
            (Some(version(Some("\"a\""), None, None)), 50),
            (Some(version(Some("W/\"a\""), Some("Sun"), Some(100))), 50),
        ] {
            assert_eq!(ask(50, known.as_ref()).offset, offset, "{known:?}");
        }
    }

    #[test]
    fn two_versions_are_never_mixed() {
        let known = version(Some("\"a\""), Some("Sun"), Some(100));
        let rest = Head {
            status: 206,
            etag: Some("\"a\""),
            content_range: Some("bytes 50-99/100"),
            ..Head::default()
        };
        let with = |change: &dyn Fn(&mut Head<'static>)| {
            let mut head = rest.clone();
            change(&mut head);
            judge(Asked { offset: 50 }, Some(&known), &head)
        };
        assert_eq!(with(&|_| ()), Step::Rest);
        assert_eq!(with(&|it| it.etag = None), Step::Rest);
        assert_eq!(with(&|it| it.last_modified = Some("Mon")), Step::Rest);
        assert_eq!(with(&|it| it.content_range = Some("bytes 50-99/*")), Step::Rest);
        for range in [
            "bytes 0-99/100",
            "bytes 51-99/100",
            "bytes 50-98/100",
            "bytes 50-99/101",
            "bytes 50-100/100",
            "bytes 99-50/100",
            "lines 50-99/100",
            "bytes 50-99",
            "bytes 50-x/100",
            "",
        ] {
            assert_eq!(with(&|it| it.content_range = Some(range)), Step::Restart, "{range}");
        }
        assert_eq!(with(&|it| it.content_range = None), Step::Restart);
        assert_eq!(with(&|it| it.etag = Some("\"b\"")), Step::Restart);
        assert_eq!(with(&|it| (it.etag, it.last_modified) = (None, Some("Mon"))), Step::Restart);
        assert_eq!(with(&|it| it.status = 416), Step::Restart);
        let whole = with(&|it| (it.status, it.content_length, it.etag) = (200, Some(9), Some("\"b\"")));
        assert_eq!(whole, Step::Whole(version(Some("\"b\""), None, Some(9))));
    }

    #[test]
    fn each_status_has_its_meaning() {
        for (status, step) in [
            (400, Step::Renew("the storage refuses the address")),
            (401, Step::Renew("the storage refuses the address")),
            (403, Step::Renew("the storage refuses the address")),
            (404, Step::Renew("the storage does not have the file")),
            (410, Step::Renew("the storage does not have the file")),
            (405, Step::Fail("the storage refuses the file")),
            (206, Step::Again),
            (408, Step::Again),
            (429, Step::Again),
            (500, Step::Again),
            (503, Step::Again),
            (200, Step::Fail("the storage states neither the size of the file nor its end")),
        ] {
            assert_eq!(
                judge(Asked { offset: 0 }, None, &Head { status, ..Head::default() }),
                step,
                "{status}"
            );
        }
        let head = Head { status: 200, is_chunked: true, ..Head::default() };
        assert_eq!(judge(Asked { offset: 0 }, None, &head), Step::Whole(Version::default()));
        let head = Head { content_encoding: Some("gzip"), ..head };
        assert!(matches!(judge(Asked { offset: 0 }, None, &head), Step::Fail(_)));
    }

    #[test]
    fn an_address_is_replaced_before_it_expires() {
        let seconds = Duration::from_secs;
        assert_eq!(useful_life(seconds(900)), seconds(675));
        assert_eq!(useful_life(seconds(3600)), seconds(3300));
        assert_eq!(useful_life(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn pauses_grow_and_follow_the_server() {
        assert_eq!(pause(0, None, 0.5), Duration::ZERO);
        assert_eq!(pause(1, None, 0.0), Duration::from_millis(250));
        assert_eq!(pause(2, None, 1.0), Duration::from_millis(375));
        assert_eq!(pause(50, None, 0.0), Duration::from_secs(15));
        assert_eq!(pause(1, Some(Duration::from_secs(7)), 0.0), Duration::from_secs(7));
        assert_eq!(pause(1, Some(Duration::from_secs(7000)), 0.0), Duration::from_secs(60));
    }
}
