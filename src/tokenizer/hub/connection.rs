//! Requests to the hub: redirects, retries, and the token, which only the hub itself gets.

use std::time::{Duration, Instant};

use super::metadata::Metadata;
use super::options::Settings;
use super::refusal::refusal;
use crate::config::Timeouts;
use crate::config::address::Address;
use crate::config::network::Network;
use crate::error::{Error, ErrorKind, Phase, Result, words};
use crate::http::redact::Redactor;
use crate::http::transport::{Exchange, Lane, Limits, Transport};
use crate::http::{Answer, Ureq};
use crate::policy::retry::{self, Failure, FirstContact, Retries};
use crate::policy::verdict::Verdict;
use crate::sync::CancelToken;

/// Largest file that is accepted, in bytes. The largest tokenizers have about 40 MB.
const LARGEST_FILE: u64 = 256 << 20;

/// Largest number of redirects of one request. The hub needs two for a repository with a new name.
const MOST_REDIRECTS: usize = 8;

/// Largest number of retries of one request.
const MOST_RETRIES: u32 = 4;

/// Limits until the hub answers for the first time. Short, so that a machine without network soon uses its cache.
const FIRST_CONTACT: FirstContact =
    FirstContact { connection: Duration::from_secs(5), answer: Duration::from_secs(30) };

/// The connections of one download.
pub(super) struct Connection<'a> {
    settings: &'a Settings,
    /// End of the whole download.
    deadline: Instant,
    redactor: Redactor,
    /// One transport for each server, with the proxy for that server.
    transports: Vec<(Address, Ureq)>,
    /// The hub has answered.
    is_reached: bool,
}

/// The answer to a request.
pub(super) struct Reply {
    pub(super) answer: Answer,
    pub(super) metadata: Metadata,
    /// The answer is a redirect to another server, which a `HEAD` does not follow: the file exists.
    leads_away: bool,
    /// The answer is that of the hub, and not of a storage server to which it redirects.
    is_of_hub: bool,
}

impl Reply {
    pub(super) fn is_success(&self) -> bool {
        self.answer.is_success() || self.leads_away
    }
}

/// A failed attempt.
struct Failed {
    failure: Failure,
    error: Error,
}

impl Failed {
    fn for_good(error: Error) -> Self {
        Failed { failure: Failure::Fatal, error }
    }
}

impl<'a> Connection<'a> {
    pub(super) fn new(settings: &'a Settings) -> Self {
        let deadline = settings.clock.now() + settings.timeout;
        let redactor = Redactor::new(settings.token.as_ref());
        Connection { settings, deadline, redactor, transports: Vec::new(), is_reached: false }
    }

    /// The web page of a repository.
    fn page(&self, repo: &str) -> String {
        format!("{}/{repo}", self.settings.endpoint.as_str())
    }

    /// Asks for the properties of a file. An answer with status 404 is a success if it says that the repository has no
    /// such file.
    pub(super) fn head(&mut self, repo: &str, revision: &str, name: &str) -> Result<Reply> {
        self.file("HEAD", repo, revision, name)
    }

    /// Downloads a file.
    pub(super) fn get(&mut self, repo: &str, revision: &str, name: &str) -> Result<Reply> {
        self.file("GET", repo, revision, name)
    }

    fn file(&mut self, method: &'static str, repo: &str, revision: &str, name: &str) -> Result<Reply> {
        let page = self.page(repo);
        let url = format!("{page}/resolve/{}/{name}", revision.replace('/', "%2F"));
        let has_token = self.settings.token.is_some();
        let refused = |reply: &Reply| {
            if reply.is_of_hub {
                refusal(&reply.answer, &page, revision, has_token)
            } else {
                let error = reply.answer.facts().error();
                let text = format!(
                    "the storage server to which the hub redirects refuses the file: {}",
                    error.message()
                );
                let kind = ErrorKind::Status { code: reply.answer.status };
                error.renamed(kind, text)
            }
        };
        let reply = self.send(method, &url, refused)?;
        let code = reply.answer.header("x-error-code").unwrap_or_default();
        let is_absent = reply.answer.status == 404 && !matches!(code, "RepoNotFound" | "RevisionNotFound");
        if reply.is_success() || (method == "HEAD" && is_absent) {
            return Ok(reply);
        }
        Err(self.at(refused(&reply), &url))
    }

    /// Sends a request until it succeeds or fails for good.
    fn send(&mut self, method: &'static str, url: &str, refused: impl Fn(&Reply) -> Error) -> Result<Reply> {
        let clock = self.settings.clock.clone();
        let started = clock.now();
        let budget = self.deadline.saturating_duration_since(started);
        let mut retries = Retries::default();
        loop {
            let Failed { failure, error } = match self.follow(method, url, retries.needs_new_connection()) {
                Ok(reply) => match reply.answer.facts().verdict() {
                    verdict @ (Verdict::Retry | Verdict::Dropped) => {
                        let failure = Failure::Answer { verdict, hint: reply.answer.facts().hint() };
                        Failed { failure, error: self.at(refused(&reply), url) }
                    }
                    Verdict::Success | Verdict::Conflict | Verdict::Fatal => return Ok(reply),
                },
                Err(failed) => failed,
            };
            let elapsed = clock.now().saturating_duration_since(started);
            let first_contact = (!self.is_reached).then_some(FIRST_CONTACT);
            let limits = retry::Limits { budget, first_contact };
            let pause = if retries.taken() < MOST_RETRIES {
                retries.next(failure, elapsed, limits, fastrand::f64())
            } else {
                None
            };
            let Some(pause) = pause else {
                return Err(error.with(|context| context.attempts = Some(retries.taken() + 1)));
            };
            log::debug!(target: "tinkex::http", "{method} {url}: {error}; again in {pause:.1?}");
            clock.pause(pause, &CancelToken::new())?;
        }
    }

    /// Makes one attempt and follows redirects.
    fn follow(&mut self, method: &'static str, url: &str, fresh: bool) -> Result<Reply, Failed> {
        let mut metadata = Metadata::default();
        let mut server = self.settings.endpoint.clone();
        let mut place = url.to_string();
        for _ in 0..=MOST_REDIRECTS {
            let answer = self.exchange(method, &server, &place, fresh)?;
            if server.is_same_server(&self.settings.endpoint) {
                metadata.read(&answer);
            }
            let is_redirect = matches!(answer.status, 301 | 302 | 303 | 307 | 308);
            let Some(location) = answer.header("location").filter(|_| is_redirect) else {
                let is_of_hub = server.is_same_server(&self.settings.endpoint);
                return Ok(Reply { answer, metadata, leads_away: false, is_of_hub });
            };
            let next = server.named(location).and_then(|next| Ok((Address::of_server(&next)?, next)));
            let (next_server, next) = next.map_err(|problem| {
                let text = format!("the server redirects to an unusable URL: {problem}; check HF_ENDPOINT");
                Failed::for_good(self.at(Error::decode(text), &place))
            })?;
            if method == "HEAD" && !next_server.is_same_server(&self.settings.endpoint) {
                return Ok(Reply { answer, metadata, leads_away: true, is_of_hub: true });
            }
            (server, place) = (next_server, next);
        }
        let text = format!("the server redirects more than {MOST_REDIRECTS} times; check HF_ENDPOINT");
        Err(Failed::for_good(self.at(Error::decode(text), url)))
    }

    fn exchange(
        &mut self,
        method: &'static str,
        server: &Address,
        url: &str,
        fresh: bool,
    ) -> Result<Answer, Failed> {
        let left = self.deadline.saturating_duration_since(self.settings.clock.now());
        if left.is_zero() {
            let text = format!("the download did not finish within {:.1?}", self.settings.timeout);
            return Err(Failed::for_good(self.at(Error::timeout(Phase::Total, text), url)));
        }
        // Without compression: the length and the etag are those of the file itself.
        let mut headers = vec![("Accept-Encoding".into(), "identity".to_string())];
        if let Some(token) = self.settings.token_for(server) {
            headers.push(("Authorization".into(), format!("Bearer {}", token.expose())));
        }
        let timeouts = Timeouts::default();
        let exchange = Exchange {
            headers,
            connect_timeout: timeouts.connect.min(left),
            timeout: timeouts.exchange.min(left),
            limit: left,
            largest_answer: LARGEST_FILE,
            fresh,
            ..Exchange::new(Lane::Rest, method, url)
        };
        let transport = self.transport(server).map_err(Failed::for_good)?;
        match transport.exchange(&exchange) {
            Ok(answer) => {
                self.is_reached = true;
                // The body of a success is the file, which is left as it is.
                Ok(if answer.is_success() { answer } else { self.redactor.answer(answer) })
            }
            Err(broken) => {
                let limits = Limits {
                    connect: exchange.connect_timeout,
                    idle: exchange.timeout,
                    head: exchange.timeout,
                    whole: exchange.limit,
                };
                let broken = self.redactor.broken(broken);
                Err(Failed { failure: broken.failure(), error: self.at(broken.error(limits), url) })
            }
        }
    }

    /// The transport to a server, which is made when it is needed.
    fn transport(&mut self, server: &Address) -> Result<&Ureq> {
        let found = self.transports.iter().position(|(known, _)| known.is_same_server(server));
        let found = match found {
            Some(found) => found,
            None => {
                let Settings { proxy, ca_bundle, env, .. } = self.settings;
                let network = Network::resolve(proxy, ca_bundle.as_deref(), server, env)?;
                for secret in network.secrets() {
                    self.redactor.hide(&secret);
                }
                self.transports.push((server.clone(), Ureq::new(&network)?));
                self.transports.len() - 1
            }
        };
        Ok(&self.transports[found].1)
    }

    /// Adds the URL to an error. The query is left out: storage servers expect signatures in it.
    pub(super) fn at(&self, error: Error, url: &str) -> Error {
        let url = url.split(['?', '#']).next().unwrap_or_default();
        let url = words::presentable(url);
        self.redactor.error(error.with(|context| context.url = Some(url)))
    }

    /// The URL of a file, for errors.
    pub(super) fn url(&self, repo: &str, revision: &str, name: &str) -> String {
        format!("{}/resolve/{revision}/{name}", self.page(repo))
    }
}
