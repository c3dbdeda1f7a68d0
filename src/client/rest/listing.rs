//! Long lists, fetched a page at a time.

use std::collections::VecDeque;

use crate::client::asking::{Ask, Asker};
use crate::error::{Error, Result};
use crate::http::Endpoint;
use crate::policy::paging::{Next, Paging};
use crate::types::{AccessScope, Page, TrainingRun};
use crate::wire::url::Query;

/// How the entries of a list are asked for.
#[derive(Clone, Copy)]
pub(super) struct Source<T> {
    pub(super) verb: &'static str,
    pub(super) endpoint: &'static Endpoint,
    /// The limit of a page that the official SDK asks for.
    pub(super) limit: u32,
    pub(super) read: fn(&[u8]) -> Result<Page<T>>,
    /// What tells one entry from another.
    pub(super) key: fn(&T) -> &str,
}

/// A list of a server, in its order: an iterator that fetches pages as they are needed. Nothing is sent before the first
/// entry is asked for.
///
/// An entry that appears twice because the list grew meanwhile is passed on once. If entries are deleted during the walk, be it
/// those that it passed on, the walk notices by the list's length that what follows moved up, and skips none; servers that do not
/// say the length ([`total_count`](Self::total_count)) must not be trusted with that: `collect` the list first. After an error the iterator ends;
/// [`offset`](Self::offset) then says where to [`start_at`](Self::start_at) with another one.
///
/// # Errors
/// Those of the call that made it; and [`Decode`](crate::ErrorKind::Decode) if the server says that there is more but
/// sends what it sent before.
///
/// # Blocking
/// For one request whenever a page is used up.
///
/// # Example: the newest three, and how many there are
/// ```
/// # #[cfg(feature = "testing")] {
/// # use tinkex::{testing::FakeServer, types::LoraConfig};
/// # let server = FakeServer::new();
/// # let service = server.in_memory().build()?;
/// # for _ in 0..5 { service.create_lora_training_client("fake/model", LoraConfig::default())?; }
/// let mut runs = service.create_rest_client().list_training_runs().page_size(2);
/// let first: Vec<_> = runs.by_ref().take(3).collect::<tinkex::Result<_>>()?;
/// assert_eq!((first.len(), runs.total_count()), (3, Some(5)));
/// let page = runs.page(20, 0)?;
/// assert_eq!(page.items.len(), 5);
/// # }
/// # Ok::<(), tinkex::Error>(())
/// ```
#[must_use]
pub struct Listing<T> {
    asker: Asker,
    source: Source<T>,
    scope: Option<AccessScope>,
    project_id: Option<String>,
    paging: Paging,
    ready: VecDeque<T>,
    next: Next,
}

impl<T: Send + 'static> Listing<T> {
    pub(super) fn new(asker: &Asker, source: Source<T>, scope: Option<AccessScope>) -> Self {
        Listing {
            asker: asker.clone(),
            paging: Paging::new(source.limit, source.limit),
            source,
            scope,
            project_id: None,
            ready: VecDeque::new(),
            next: Next::More,
        }
    }

    /// Fetches so many entries at a time, at least 1. Servers may send fewer.
    pub fn page_size(mut self, limit: u32) -> Self {
        self.paging.set_limit(limit.max(1));
        self
    }

    /// Skips so many entries.
    pub fn start_at(mut self, offset: u64) -> Self {
        self.paging.start_at(offset);
        self
    }

    /// The number of entries before the next page.
    pub fn offset(&self) -> u64 {
        self.paging.offset()
    }

    /// How many entries the whole list has, once the server said so.
    pub fn total_count(&self) -> Option<u64> {
        self.paging.total()
    }

    /// One page, wherever the iterator is: `limit` entries from `offset` on.
    ///
    /// # Errors
    /// Those of the call that made the list.
    ///
    /// # Blocking
    /// For one request.
    pub fn page(&self, limit: u32, offset: u64) -> Result<Page<T>> {
        let query = Query::on(self.source.endpoint.path()).with("limit", limit).with("offset", offset);
        let query = query.and("access_scope", self.scope.map(AccessScope::as_str));
        let query = query.and("project_id", self.project_id.as_deref());
        let ask = Ask::new(self.source.endpoint, query.text());
        // A project that was named may be what is missing.
        let ask = if self.project_id.is_some() { ask } else { ask.naming_nothing() };
        self.asker.run(self.source.verb, |it| {
            let answer = it.answer(&ask)?;
            (self.source.read)(if answer.body.is_empty() { b"{}" } else { &answer.body })
        })
    }

    /// The first page, as long as the official SDK's.
    ///
    /// # Errors
    /// Those of the call that made the list.
    ///
    /// # Blocking
    /// For one request.
    pub fn first_page(&self) -> Result<Page<T>> {
        self.page(self.source.limit, 0)
    }

    fn fetch(&mut self) -> Result<()> {
        let offset = self.paging.offset();
        let page = self.page(self.paging.limit(), offset)?;
        let keys: Vec<&str> = page.items.iter().map(self.source.key).collect();
        let step = self.paging.received(&keys, page.cursor);
        self.next = step.next;
        let mut fresh = step.fresh.into_iter().peekable();
        let is_fresh = |(i, item)| fresh.next_if_eq(&i).map(|_| item);
        self.ready.extend(page.items.into_iter().enumerate().filter_map(is_fresh));
        Ok(())
    }
}

impl Listing<TrainingRun> {
    /// Only those of one project.
    pub fn project_id(mut self, id: impl Into<String>) -> Self {
        self.project_id = Some(id.into());
        self
    }
}

impl<T: Send + 'static> Iterator for Listing<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(Ok(item));
            }
            match self.next {
                Next::End => return None,
                Next::Stuck => {
                    self.next = Next::End;
                    let error = Error::decode("the server says that the list goes on, and repeats itself");
                    let operation = self.source.verb.rsplit('.').next().map(str::to_string);
                    return Some(Err(error.with(|it| it.operation = operation)));
                }
                Next::More => {
                    if let Err(error) = self.fetch() {
                        self.next = Next::End;
                        return Some(Err(error));
                    }
                }
            }
        }
    }
}

impl<T: Send + 'static> std::iter::FusedIterator for Listing<T> {}

impl<T> std::fmt::Debug for Listing<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listing")
            .field("path", &self.source.endpoint.path())
            .field("offset", &self.paging.offset())
            .field("total_count", &self.paging.total())
            .finish_non_exhaustive()
    }
}
