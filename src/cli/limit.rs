//! `--limit` of the commands that list things on a server, and the note about what it leaves out.

use super::args::Format;

/// Entries of a table, which a person reads. Programs get all entries: a list that ends early looks complete to them.
const OF_TABLE: usize = 20;

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Limit {
    /// Most entries to list; 0 lists all [default: 20 in a table, and all in a pipe and as JSON]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

impl Limit {
    /// The number of entries, by default that of the format.
    pub(crate) fn of(self, format: Format) -> usize {
        match self.limit {
            Some(0) => usize::MAX,
            Some(n) => n,
            None if format == Format::Table => OF_TABLE,
            None => usize::MAX,
        }
    }
}

/// Number of entries to ask for at once: one more than the limit shows whether the list goes on.
pub(crate) fn page_size(limit: usize, most: u32) -> u32 {
    u32::try_from(limit.saturating_add(1)).map_or(most, |it| it.min(most))
}

/// Takes the first entries of a list; the second value is true if there are more.
pub(crate) fn first<T>(
    mut all: impl Iterator<Item = tinkex::Result<T>>,
    limit: usize,
) -> tinkex::Result<(Vec<T>, bool)> {
    let entries = all.by_ref().take(limit).collect::<tinkex::Result<Vec<_>>>()?;
    let has_more = entries.len() == limit && all.next().transpose()?.is_some();
    Ok((entries, has_more))
}

/// The note about a list that has more entries than the `n` that are shown; `total` is the number of all, if it is known.
pub(crate) fn note(n: usize, total: Option<u64>, things: &str) -> String {
    match total {
        Some(total) => format!("note: {n} of {total} {things}; --limit 0 lists all"),
        None => format!("note: the first {n} {things}; --limit 0 lists all"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_a_table_is_short_by_default() {
        let of = |limit, format| Limit { limit }.of(format);
        assert_eq!(of(None, Format::Table), 20);
        for format in [Format::Json, Format::Jsonl, Format::Tsv] {
            assert_eq!(of(None, format), usize::MAX, "{format:?}");
        }
        assert_eq!((of(Some(5), Format::Json), of(Some(0), Format::Table)), (5, usize::MAX));
    }

    #[test]
    fn one_entry_more_than_the_limit_shows_that_a_list_goes_on() {
        let list = |n| (0..n).map(Ok);
        assert_eq!(first(list(3), 2).unwrap(), (vec![0, 1], true));
        assert_eq!(first(list(2), 2).unwrap(), (vec![0, 1], false));
        assert_eq!(first(list(2), usize::MAX).unwrap(), (vec![0, 1], false));
        assert_eq!((page_size(20, 100), page_size(100, 100), page_size(usize::MAX, 100)), (21, 100, 100));
        assert_eq!(note(20, Some(137), "runs"), "note: 20 of 137 runs; --limit 0 lists all");
        assert_eq!(note(20, None, "runs"), "note: the first 20 runs; --limit 0 lists all");
    }
}
