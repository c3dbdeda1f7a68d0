//! Pagination: decides which page to request next. Also works for servers that report wrong totals, return shorter
//! pages than requested, or repeat pages.

use std::collections::HashSet;

use crate::types::Cursor;

/// Position in a list that is paged by offset and limit.
#[derive(Debug)]
pub(crate) struct Paging {
    offset: u64,
    limit: u32,
    /// If the server does not report the total, a page with fewer entries than this is the last page. This is the
    /// smaller one of `limit` and the server's default limit, because a server may never return more than its default.
    full_page: u32,
    total: Option<u64>,
    seen: HashSet<String>,
    first: bool,
    /// Offset of the first page. `offset` never becomes smaller than this.
    start: u64,
    /// Largest offset that was reached before paging went back (see `received`).
    reached: u64,
    /// Number of consecutive pages without a new entry.
    idle: u32,
}

/// Result of one page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Indices of the entries on the page that were not returned before.
    pub(crate) fresh: Vec<usize>,
    pub(crate) next: Next,
}

/// The next action.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Request the next page.
    More,
    /// Stop: this was the last page.
    End,
    /// Stop: the server announces more entries but repeats pages.
    Stuck,
}

impl Paging {
    /// Starts at offset 0 with pages of `limit` entries. `default` is the server's default limit.
    pub(crate) fn new(limit: u32, default: u32) -> Self {
        Paging {
            offset: 0,
            limit,
            full_page: limit.min(default),
            total: None,
            seen: HashSet::new(),
            first: true,
            start: 0,
            reached: 0,
            idle: 0,
        }
    }

    /// Offset of the next page.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// Number of entries of the list, once the server has reported it.
    pub(crate) fn total(&self) -> Option<u64> {
        self.total
    }

    /// Sets the offset.
    pub(crate) fn start_at(&mut self, offset: u64) {
        self.offset = offset;
        self.start = offset;
    }

    /// Sets the page size.
    pub(crate) fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
        self.full_page = self.full_page.min(limit);
    }

    /// Handles a page whose entries have these keys. Each entry is returned once, although it may appear on two pages:
    /// entries that are added at the beginning of the list move older entries to the next page.
    ///
    /// If the list has become shorter since the last page, later entries may have moved to offsets that were already
    /// read. Paging therefore goes back by the number of deleted entries and requests the page at that offset.
    pub(crate) fn received(&mut self, keys: &[&str], cursor: Option<Cursor>) -> Step {
        let total = cursor.and_then(|cursor| cursor.total_count);
        if let (Some(before), Some(now)) = (self.total, total)
            && now < before
        {
            self.total = Some(now);
            let back = self.offset.saturating_sub(before - now).max(self.start);
            if back < self.offset && self.may_repeat() {
                self.reached = self.reached.max(self.offset);
                self.offset = back;
                return Step { fresh: Vec::new(), next: Next::More };
            }
        }
        let mut fresh = Vec::new();
        let mut advanced = false;
        for (i, key) in keys.iter().enumerate() {
            // An entry without a key cannot be recognised. It counts as new, but not as progress. A page without
            // progress returns no entry, unless it is the first page.
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
            None if keys.len() < self.full_page as usize => Some(false),
            None => None,
        };
        let progressed = advanced || first;
        // After paging went back, pages repeat entries until the offset is `reached` again. That is no fault of the
        // server.
        let returning = self.offset <= self.reached && self.may_repeat();
        if progressed {
            self.idle = 0;
        }
        let next = match (keys.is_empty(), progressed || returning, more) {
            // The end of the list, or the list has become shorter.
            (true, _, _) | (_, _, Some(false)) => Next::End,
            (false, true, _) => Next::More,
            (false, false, Some(true)) => Next::Stuck,
            // The server ignores the offset and repeats the page.
            (false, false, None) => Next::End,
        };
        if !advanced && !first {
            fresh.clear();
        }
        Step { fresh, next }
    }
}

impl Paging {
    /// Counts a page that may have no new entry. Returns false after more than [`MAX_IDLE`] consecutive ones.
    fn may_repeat(&mut self) -> bool {
        self.idle += 1;
        self.idle <= MAX_IDLE
    }
}

/// Largest number of consecutive pages without a new entry.
const MAX_IDLE: u32 = 100;

/// Position in a list that is paged by cursors.
#[derive(Debug)]
pub(crate) struct CursorPaging<C> {
    visited: Vec<C>,
    seen: HashSet<String>,
    idle: u32,
}

impl<C: PartialEq> CursorPaging<C> {
    pub(crate) fn new() -> Self {
        CursorPaging { visited: Vec::new(), seen: HashSet::new(), idle: 0 }
    }

    /// Handles a page whose entries have these keys. `next` is the cursor of the next page. An empty page is not the
    /// end of the list: the server may have filtered out the entries of the page.
    pub(crate) fn received(&mut self, keys: &[&str], next: Option<C>) -> Step {
        let is_fresh = |idx: &usize| keys[*idx].is_empty() || self.seen.insert(keys[*idx].to_string());
        let fresh: Vec<usize> = (0..keys.len()).filter(is_fresh).collect();
        self.idle = if fresh.is_empty() { self.idle + 1 } else { 0 };
        let next = match next {
            None => Next::End,
            Some(cursor) if self.visited.contains(&cursor) || MAX_IDLE <= self.idle => Next::Stuck,
            Some(cursor) => {
                self.visited.push(cursor);
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

    /// Name, pages of the server, returned entries, final action, number of pages.
    type Case = (&'static str, Pages, &'static [&'static str], Next, usize);

    const fn cursor(total: u64) -> Option<Cursor> {
        Some(Cursor { offset: 0, limit: 0, total_count: Some(total) })
    }

    /// Pages through a list. Returns the entries, the final action and the number of pages.
    fn read_all(mut paging: Paging, pages: &[(&[&str], Option<Cursor>)]) -> (Vec<String>, Next, usize) {
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
    fn paging_ends_at_the_end_of_the_list() {
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
            let (entries, end, n_pages) = read_all(Paging::new(2, 20), pages);
            let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
            assert_eq!((entries.as_slice(), end, n_pages), (out, next, n), "{name}");
        }
    }

    /// Pages through `n` entries and deletes, after each page, the returned entries that `delete` selects. Returns the
    /// entries, the final action and the number of pages.
    fn read_and_delete(
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
            assert!(pages < 1000, "paging does not end");
        }
    }

    #[test]
    fn deletions_during_paging_do_not_make_it_skip_entries() {
        let deletions: [fn(u32) -> bool; 4] = [|_| true, |_| false, |it| it % 2 == 0, |it| it % 3 != 0];
        for n in [0, 1, 3, 4, 5, 10, 25, 40] {
            for limit in [1, 2, 4, 7] {
                for (i, delete) in deletions.into_iter().enumerate() {
                    let (out, end, _) = read_and_delete(n, limit, true, delete);
                    assert_eq!((out, end), ((0..n).collect(), Next::End), "{n} {limit} {i}");
                }
            }
        }
        let (_, _, pages) = read_and_delete(10, 4, true, |_| false);
        assert_eq!(pages, 3, "an unchanged list needs no additional request");
        // Without a count, deletions cannot be detected.
        assert_eq!(read_and_delete(10, 4, false, |_| true).0.len(), 6);
    }

    #[test]
    fn paging_ends_even_if_the_count_falls_with_every_page() {
        let mut paging = Paging::new(2, 20);
        let mut total = 1 << 40;
        let ended = (0..10_000).any(|_| {
            total -= 1;
            paging.received(&["a", "b"], cursor(total)).next != Next::More
        });
        assert!(ended);
    }

    #[test]
    fn paging_goes_on_if_the_server_caps_the_limit() {
        let names: Vec<String> = (0..30).map(|it| it.to_string()).collect();
        let page: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut paging = Paging::new(1000, 20);
        assert_eq!(paging.received(&page[..25], None).next, Next::More);
        assert_eq!(paging.offset(), 25);
        assert_eq!(paging.received(&page[25..], None).next, Next::End);
    }

    #[test]
    fn cursor_paging_ends_without_a_next_cursor_and_is_stuck_at_a_repeated_one() {
        let mut paging = CursorPaging::new();
        assert_eq!(paging.received(&["a", "b"], Some(1)), Step { fresh: vec![0, 1], next: Next::More });
        assert_eq!(paging.received(&[], Some(2)), Step { fresh: vec![], next: Next::More });
        assert_eq!(paging.received(&["b", "c"], Some(1)), Step { fresh: vec![1], next: Next::Stuck });
        assert_eq!(
            CursorPaging::new().received(&["a"], None::<u8>),
            Step { fresh: vec![0], next: Next::End }
        );
        let mut idle = CursorPaging::new();
        let n = (0..).take_while(|it| idle.received(&["a"], Some(*it)).next == Next::More).count();
        assert_eq!(n, 100);
    }
}
