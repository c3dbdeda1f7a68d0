//! Walking through a long list page by page, whatever the server makes of it.

use std::collections::HashSet;

use crate::types::Cursor;

/// Where in the list the walk is.
#[derive(Debug)]
pub(crate) struct Paging {
    offset: u64,
    limit: u32,
    /// A page that is shorter than this is the last one, even on a server that caps the limit.
    sure: u32,
    total: Option<u64>,
    seen: HashSet<String>,
    first: bool,
    /// Where the walk was told to begin. It goes back no further.
    start: u64,
    /// How far it had come when it went back.
    been: u64,
    /// Pages in a row without anything new.
    idle: u32,
}

/// What a page means for the walk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Which entries of the page were not there before, by their places in it.
    pub(crate) fresh: Vec<usize>,
    pub(crate) next: Next,
}

/// How the walk goes on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// With the page at the new offset.
    More,
    /// Not at all: that was the last page.
    End,
    /// Not at all: the server says that there is more, and repeats itself.
    Stuck,
}

impl Paging {
    /// A walk in steps of `limit` entries; `default` is the limit that the server itself would choose.
    pub(crate) fn new(limit: u32, default: u32) -> Self {
        Paging {
            offset: 0,
            limit,
            sure: limit.min(default),
            total: None,
            seen: HashSet::new(),
            first: true,
            start: 0,
            been: 0,
            idle: 0,
        }
    }

    /// The number of entries before the next page.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// How many entries there are in all, once the server said so.
    pub(crate) fn total(&self) -> Option<u64> {
        self.total
    }

    /// Begins somewhere else.
    pub(crate) fn start_at(&mut self, offset: u64) {
        self.offset = offset;
        self.start = offset;
    }

    /// Takes steps of another size.
    pub(crate) fn step_by(&mut self, limit: u32) {
        self.limit = limit;
        self.sure = self.sure.min(limit);
    }

    /// A page arrived, of entries with these keys. An entry that was there before is passed on no second time: lists
    /// grow at their beginning while somebody walks through them.
    ///
    /// If the list has become shorter since the last page, by entries that were deleted before this place, what follows them has
    /// moved to where the walk has been. So it goes back by as many entries and asks again.
    pub(crate) fn received(&mut self, keys: &[&str], cursor: Option<Cursor>) -> Step {
        let total = cursor.and_then(|it| it.total_count);
        if let (Some(before), Some(now)) = (self.total, total)
            && now < before
        {
            self.total = Some(now);
            let back = self.offset.saturating_sub(before - now).max(self.start);
            if back < self.offset && self.is_patient() {
                self.been = self.been.max(self.offset);
                self.offset = back;
                return Step { fresh: Vec::new(), next: Next::More };
            }
        }
        let mut fresh = Vec::new();
        let mut advanced = false;
        for (i, key) in keys.iter().enumerate() {
            // What has no key cannot be told apart, and is no sign of progress.
            if key.is_empty() {
                fresh.push(i);
            } else if self.seen.insert((*key).to_string()) {
                fresh.push(i);
                advanced = true;
            }
        }
        let first = std::mem::replace(&mut self.first, false);
        self.offset += keys.len() as u64;
        self.total = total.or(self.total);
        let more = match self.total {
            Some(total) => Some(self.offset < total),
            None if keys.len() < self.sure as usize => Some(false),
            None => None,
        };
        let anew = advanced || first;
        // A walk that went back sees again what it has passed on.
        let returning = self.offset <= self.been && self.is_patient();
        if anew {
            self.idle = 0;
        }
        let next = match (keys.is_empty(), anew || returning, more) {
            // The list shrank, or this is its end.
            (true, _, _) | (_, _, Some(false)) => Next::End,
            (false, true, _) => Next::More,
            (false, false, Some(true)) => Next::Stuck,
            // A server that ignores the offset sends the same page for ever.
            (false, false, None) => Next::End,
        };
        if !advanced && !first {
            fresh.clear();
        }
        Step { fresh, next }
    }
}

impl Paging {
    /// Counts a page that may bring nothing new.
    fn is_patient(&mut self) -> bool {
        self.idle += 1;
        self.idle <= MOST_IDLE
    }
}

/// So many pages in a row without anything new are enough.
const MOST_IDLE: u32 = 100;

/// A walk through a list whose server says where the next page begins.
#[derive(Debug)]
pub(crate) struct Trail<C> {
    been: Vec<C>,
    seen: HashSet<String>,
    idle: u32,
}

impl<C: PartialEq> Trail<C> {
    pub(crate) fn new() -> Self {
        Trail { been: Vec::new(), seen: HashSet::new(), idle: 0 }
    }

    /// A page arrived, of entries with these keys, and the place where the next one begins. An empty page is no end: the
    /// server may have looked through entries that were not asked for.
    pub(crate) fn received(&mut self, keys: &[&str], next: Option<C>) -> Step {
        let is_fresh = |it: &usize| keys[*it].is_empty() || self.seen.insert(keys[*it].to_string());
        let fresh: Vec<usize> = (0..keys.len()).filter(is_fresh).collect();
        self.idle = if fresh.is_empty() { self.idle + 1 } else { 0 };
        let next = match next {
            None => Next::End,
            Some(it) if self.been.contains(&it) || MOST_IDLE <= self.idle => Next::Stuck,
            Some(it) => {
                self.been.push(it);
                Next::More
            }
        };
        Step { fresh, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pages = &'static [(&'static [&'static str], Option<Cursor>)];

    /// What it is about, the pages that the server sends, what comes out, how it ends, after how many pages.
    type Case = (&'static str, Pages, &'static [&'static str], Next, usize);

    const fn cursor(total: u64) -> Option<Cursor> {
        Some(Cursor { offset: 0, limit: 0, total_count: Some(total) })
    }

    /// Walks over pages and says what came out, how it ended, and how many pages it took.
    fn walk(mut paging: Paging, pages: &[(&[&str], Option<Cursor>)]) -> (Vec<String>, Next, usize) {
        let mut out = Vec::new();
        for (i, (keys, cursor)) in pages.iter().enumerate() {
            let step = paging.received(keys, *cursor);
            out.extend(step.fresh.iter().map(|it| keys[*it].to_string()));
            if step.next != Next::More {
                return (out, step.next, i + 1);
            }
        }
        (out, Next::More, pages.len())
    }

    #[test]
    fn a_walk_ends_where_the_list_does() {
        const TABLE: [Case; 12] = [
            ("nothing", &[(&[], None)], &[], Next::End, 1),
            ("nothing, counted", &[(&[], cursor(0))], &[], Next::End, 1),
            ("a short page", &[(&["a"], None)], &["a"], Next::End, 1),
            ("counted to the end", &[(&["a", "b"], cursor(2))], &["a", "b"], Next::End, 1),
            ("two pages", &[(&["a", "b"], cursor(3)), (&["c"], cursor(3))], &["a", "b", "c"], Next::End, 2),
            ("full pages, not counted", &[(&["a", "b"], None), (&[], None)], &["a", "b"], Next::End, 2),
            (
                "a short page although more are counted",
                &[(&["a"], cursor(2)), (&["b"], cursor(2))],
                &["a", "b"],
                Next::End,
                2,
            ),
            (
                "an empty page although more are counted",
                &[(&["a"], cursor(2)), (&[], cursor(2))],
                &["a"],
                Next::End,
                2,
            ),
            (
                "the same page, not counted",
                &[(&["a", "b"], None), (&["a", "b"], None)],
                &["a", "b"],
                Next::End,
                2,
            ),
            (
                "the same page, more counted",
                &[(&["a", "b"], cursor(9)), (&["a", "b"], cursor(9))],
                &["a", "b"],
                Next::Stuck,
                2,
            ),
            (
                "an entry was added meanwhile",
                &[(&["b", "c"], cursor(3)), (&["c", "d"], cursor(4))],
                &["b", "c", "d"],
                Next::End,
                2,
            ),
            ("no keys at all", &[(&["", ""], None), (&["", ""], None)], &["", ""], Next::End, 2),
        ];
        for (name, pages, out, next, n) in TABLE {
            let (came, how, took) = walk(Paging::new(2, 20), pages);
            let came: Vec<&str> = came.iter().map(String::as_str).collect();
            assert_eq!((came.as_slice(), how, took), (out, next, n), "{name}");
        }
    }

    /// Walks through `n` entries, a page of `limit` at a time, and deletes those of each page that `delete` names when they were
    /// passed on. Returns what was passed on, how the walk ended and the number of pages.
    fn walk_and_delete(
        n: u32,
        limit: u32,
        counted: bool,
        delete: fn(u32) -> bool,
    ) -> (Vec<u32>, Next, usize) {
        let mut list: Vec<u32> = (0..n).collect();
        let mut paging = Paging::new(limit, 20);
        let (mut out, mut pages) = (Vec::new(), 0);
        loop {
            pages += 1;
            let page: Vec<u32> =
                list.iter().copied().skip(paging.offset() as usize).take(limit as usize).collect();
            let keys: Vec<String> = page.iter().map(u32::to_string).collect();
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let total =
                counted.then_some(Cursor { total_count: Some(list.len() as u64), ..Cursor::default() });
            let step = paging.received(&keys, total);
            let fresh: Vec<u32> = step.fresh.iter().map(|it| page[*it]).collect();
            list.retain(|it| !(fresh.contains(it) && delete(*it)));
            out.extend(fresh);
            if step.next != Next::More {
                return (out, step.next, pages);
            }
            assert!(pages < 1000, "an endless walk");
        }
    }

    #[test]
    fn entries_that_are_deleted_during_the_walk_make_it_skip_none() {
        let deletions: [fn(u32) -> bool; 4] = [|_| true, |_| false, |it| it % 2 == 0, |it| it % 3 != 0];
        for n in [0, 1, 3, 4, 5, 10, 25, 40] {
            for limit in [1, 2, 4, 7] {
                for (i, delete) in deletions.into_iter().enumerate() {
                    let (out, end, _) = walk_and_delete(n, limit, true, delete);
                    assert_eq!((out, end), ((0..n).collect(), Next::End), "{n} {limit} {i}");
                }
            }
        }
        let (_, _, pages) = walk_and_delete(10, 4, true, |_| false);
        assert_eq!(pages, 3, "a list that stays as it is costs no further request");
        // Nothing tells that a list became shorter which is not counted.
        assert_eq!(walk_and_delete(10, 4, false, |_| true).0.len(), 6);
    }

    #[test]
    fn a_count_that_falls_for_ever_ends_the_walk() {
        let mut paging = Paging::new(2, 20);
        let mut total = 1 << 40;
        let ended = (0..10_000).any(|_| {
            total -= 1;
            paging.received(&["a", "b"], cursor(total)).next != Next::More
        });
        assert!(ended);
    }

    #[test]
    fn a_server_that_caps_the_limit_is_asked_on() {
        let many: Vec<String> = (0..30).map(|it| it.to_string()).collect();
        let page: Vec<&str> = many.iter().map(String::as_str).collect();
        let mut paging = Paging::new(1000, 20);
        assert_eq!(paging.received(&page[..25], None).next, Next::More);
        assert_eq!(paging.offset(), 25);
        assert_eq!(paging.received(&page[25..], None).next, Next::End);
    }

    #[test]
    fn a_trail_ends_without_a_next_place_and_is_stuck_at_one_that_it_has_been_to() {
        let mut trail = Trail::new();
        assert_eq!(trail.received(&["a", "b"], Some(1)), Step { fresh: vec![0, 1], next: Next::More });
        assert_eq!(trail.received(&[], Some(2)), Step { fresh: vec![], next: Next::More });
        assert_eq!(trail.received(&["b", "c"], Some(1)), Step { fresh: vec![1], next: Next::Stuck });
        assert_eq!(Trail::new().received(&["a"], None::<u8>), Step { fresh: vec![0], next: Next::End });
        let mut idle = Trail::new();
        let n = (0..).take_while(|it| idle.received(&["a"], Some(*it)).next == Next::More).count();
        assert_eq!(n, 100);
    }
}
