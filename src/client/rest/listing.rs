//! Iterators over lists that the server sends in pages.

use std::collections::VecDeque;

use crate::client::blocking_call::{Caller, RestRequest};
use crate::error::{Error, Result};
use crate::http::Endpoint;
use crate::policy::paging::{Next, Paging};
use crate::types::{AccessScope, Page, TrainingRun};
use crate::wire::url::Query;

/// Endpoint and format of a list.
#[derive(Clone, Copy)]
pub(super) struct Source<T> {
    pub(super) verb: &'static str,
    pub(super) endpoint: &'static Endpoint,
    /// Default page size, the same as in the official Python SDK.
    pub(super) limit: u32,
    pub(super) read: fn(&[u8]) -> Result<Page<T>>,
    /// Returns the key of an entry. Entries with the same key are the same entry, sent twice.
    pub(super) key: fn(&T) -> &str,
}

/// Iterates over a list in the server's order, and fetches pages as they are needed. Nothing is sent before the first
/// call of `next`.
///
/// An entry that the server repeats because the list grew is returned once. If entries are deleted during the
/// iteration, the iterator sees that the list has become shorter and goes back by the number of deleted entries, so
/// that it skips none. If the server does not report the length of the list ([`total_count`](Self::total_count)),
/// `collect` the list before deleting entries. The iterator ends after an error; [`offset`](Self::offset) is then the
/// position to continue from with [`start_at`](Self::start_at).
///
/// # Errors
/// The errors of the call that created the list; and [`Decode`](crate::ErrorKind::Decode) if the server announces
/// another page and repeats an earlier one.
///
/// # Blocking
/// `next` waits for one request whenever it needs another page.
///
/// # Example: the newest three runs and the number of all
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
    caller: Caller,
    source: Source<T>,
    scope: Option<AccessScope>,
    project_id: Option<String>,
    paging: Paging,
    ready: VecDeque<T>,
    next: Next,
}

impl<T: Send + 'static> Listing<T> {
    pub(super) fn new(caller: &Caller, source: Source<T>, scope: Option<AccessScope>) -> Self {
        Listing {
            caller: caller.clone(),
            paging: Paging::new(source.limit, source.limit),
            source,
            scope,
            project_id: None,
            ready: VecDeque::new(),
            next: Next::More,
        }
    }

    /// Sets the page size, at least 1. Servers may send fewer entries.
    pub fn page_size(mut self, limit: u32) -> Self {
        self.paging.set_limit(limit.max(1));
        self
    }

    /// Sets the number of entries to skip.
    pub fn start_at(mut self, offset: u64) -> Self {
        self.paging.start_at(offset);
        self
    }

    /// Offset in the list at which the next page starts.
    pub fn offset(&self) -> u64 {
        self.paging.offset()
    }

    /// Number of entries of the whole list, once the server has reported it.
    pub fn total_count(&self) -> Option<u64> {
        self.paging.total()
    }

    /// Fetches one page of `limit` entries that starts at `offset`. Does not change the iterator.
    ///
    /// # Errors
    /// The errors of the call that created the list.
    ///
    /// # Blocking
    /// For one request.
    pub fn page(&self, limit: u32, offset: u64) -> Result<Page<T>> {
        let query = Query::on(self.source.endpoint.path()).with("limit", limit).with("offset", offset);
        let query = query.and("access_scope", self.scope.map(AccessScope::as_str));
        let query = query.and("project_id", self.project_id.as_deref());
        let request = RestRequest::new(self.source.endpoint, query.text());
        // With a project id, a 404 may mean that the project does not exist; it then does not show that the server
        // lacks the endpoint.
        let request = if self.project_id.is_some() { request } else { request.naming_no_resource() };
        self.caller.run(self.source.verb, |call| {
            let answer = call.answer(&request)?;
            (self.source.read)(if answer.body.is_empty() { b"{}" } else { &answer.body })
        })
    }

    /// Fetches the first page, with the default page size. Does not change the iterator.
    ///
    /// # Errors
    /// The errors of the call that created the list.
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
        let received = self.paging.received(&keys, page.cursor);
        self.next = received.next;
        let mut fresh = received.fresh.into_iter().peekable();
        let is_fresh = |(i, item)| fresh.next_if_eq(&i).map(|_| item);
        self.ready.extend(page.items.into_iter().enumerate().filter_map(is_fresh));
        Ok(())
    }
}

impl Listing<TrainingRun> {
    /// Restricts the list to one project.
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
                    let error = Error::decode("the server announces another page and repeats an earlier one");
                    let operation = self.source.verb.rsplit('.').next().map(str::to_string);
                    return Some(Err(error.with(|context| context.operation = operation)));
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
