//! What is in flight, for those who wonder why they wait.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::words::one_line;
use crate::metrics::{Metrics, name};
use crate::pending::{Progress, Status};
use crate::sync::Mutex;

/// The operations of a session that are not answered yet.
#[derive(Default)]
pub(super) struct InFlight {
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    next: u64,
    all: BTreeMap<u64, Progress>,
}

/// An operation's place in the list, until it is answered.
pub(super) struct Entry {
    number: u64,
    list: Arc<InFlight>,
    metrics: Metrics,
}

impl InFlight {
    pub(super) fn enter(self: &Arc<Self>, progress: Progress, metrics: &Metrics) -> Entry {
        metrics.increment(name::OPERATIONS, 1);
        metrics.shift_gauge(name::IN_FLIGHT, 1.0);
        let number = {
            let mut entries = self.entries.lock();
            entries.next += 1;
            let number = entries.next;
            entries.all.insert(number, progress);
            number
        };
        Entry { number, list: self.clone(), metrics: metrics.clone() }
    }

    pub(super) fn list(&self, now: Instant) -> Vec<Status> {
        let all: Vec<Progress> = self.entries.lock().all.values().cloned().collect();
        all.iter().map(|it| it.look(now)).collect()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let over = self.list.entries.lock().all.remove(&self.number);
        drop(over);
        self.metrics.shift_gauge(name::IN_FLIGHT, -1.0);
    }
}

/// Everything that a service client has in flight, at one moment. Its `Display` is a table for people.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Dump {
    /// The server.
    pub base_url: String,
    /// The session, once it is open.
    pub session_id: Option<String>,
    /// The client is closed.
    pub closed: bool,
    /// How long ago the server last answered anything.
    pub last_contact: Option<Duration>,
    /// The operations that are not answered yet, oldest first.
    pub operations: Vec<Status>,
    /// The threads that work for them.
    pub pools: Vec<PoolStatus>,
}

/// A pool of threads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStatus {
    /// What its threads are called.
    pub name: &'static str,
    /// How many there are.
    pub threads: usize,
    /// How many jobs wait for one.
    pub queued: usize,
}

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let session = self.session_id.as_deref().unwrap_or("not open yet");
        write!(f, "{} session {}", self.base_url, one_line(session))?;
        if self.closed {
            f.write_str(", closed")?;
        }
        match self.last_contact {
            Some(ago) => writeln!(f, ", last contact {ago:.1?} ago")?,
            None => writeln!(f, ", no contact yet")?,
        }
        for pool in &self.pools {
            writeln!(f, "  {:<8} {} threads, {} jobs queued", pool.name, pool.threads, pool.queued)?;
        }
        writeln!(f, "  {} operations in flight", self.operations.len())?;
        for it in &self.operations {
            write!(f, "  {:<32} {:?} since {:.1?}", it.operation, it.stage, it.elapsed)?;
            if let Some(id) = &it.request_id {
                write!(f, ", request {}", one_line(id))?;
            }
            if let Some(state) = &it.queue_state {
                write!(f, ", {state:?}")?;
            }
            if let Some(reason) = &it.queue_state_reason {
                write!(f, " ({reason})")?;
            }
            match it.last_contact {
                Some(ago) => writeln!(f, ", {} requests, last contact {ago:.1?} ago", it.attempts)?,
                None => writeln!(f, ", {} requests", it.attempts)?,
            }
            if let Some(failure) = &it.last_failure {
                writeln!(f, "    the last one failed: {failure}")?;
            }
        }
        Ok(())
    }
}
