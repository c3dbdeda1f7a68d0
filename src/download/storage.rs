//! Requests to storage servers. They get no credential, and their addresses, which grant access, are never shown.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Timeouts;
use crate::config::address::Address;
use crate::config::network::NetworkSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::http::transport::{Broken, Exchange, Lane, Limits, Transport};
use crate::http::{Answer, Stream, Ureq};
use crate::sync::Mutex;
use crate::sync::cancel::Wake;
use crate::types::SignedUrl;

/// Largest number of redirects of one request.
const MOST_REDIRECTS: usize = 5;

/// The connections of one download.
pub(super) struct Storage {
    network: NetworkSettings,
    connect_timeout: Duration,
    /// Longest time without a byte.
    stall: Duration,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    is_shut: bool,
    /// One transport for each server, with the proxy for that server.
    transports: Vec<(Address, Arc<Ureq>)>,
}

/// A request that has no answer.
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) is_final: bool,
}

/// The answer of a storage server.
pub(super) struct Reply {
    pub(super) stream: Stream,
    server: Address,
}

impl Wake for Storage {
    /// Interrupts all requests.
    fn wake(&self) {
        let transports = {
            let mut open = self.open.lock();
            open.is_shut = true;
            std::mem::take(&mut open.transports)
        };
        transports.iter().for_each(|(_, it)| it.shutdown());
    }
}

impl Storage {
    pub(super) fn new(network: NetworkSettings, timeouts: &Timeouts, stall: Duration) -> Self {
        let connect_timeout = timeouts.connect.min(stall);
        Storage { network, connect_timeout, stall, open: Mutex::default() }
    }

    /// Asks for a file. The address was checked by the client.
    pub(super) fn get(&self, url: &SignedUrl, headers: &[(&'static str, String)]) -> Result<Reply, Failed> {
        let mut place = url.expose().to_owned();
        for _ in 0..=MOST_REDIRECTS {
            let server = Address::of_server(&place).map_err(|problem| unusable(&problem))?;
            let stream = self.open(&server, &place, headers)?;
            let answer = &stream.answer;
            let is_redirect = matches!(answer.status, 301 | 302 | 303 | 307 | 308);
            match answer.header("location").filter(|_| is_redirect) {
                None => return Ok(Reply { stream, server }),
                Some(location) => place = server.named(location).map_err(|problem| unusable(&problem))?,
            }
        }
        let text = format!("the storage redirects more than {MOST_REDIRECTS} times");
        Err(Failed { error: Error::decode(text), is_final: true })
    }

    fn open(
        &self,
        server: &Address,
        url: &str,
        headers: &[(&'static str, String)],
    ) -> Result<Stream, Failed> {
        let transport = self.transport(server)?;
        let mut exchange = Exchange::new(Lane::Rest, "GET", url);
        // Without compression: sizes and ranges are those of the file itself.
        exchange.headers.push(("Accept-Encoding".into(), "identity".into()));
        exchange.headers.push(("Accept".into(), "*/*".into()));
        exchange.headers.extend(headers.iter().map(|(name, value)| ((*name).into(), value.clone())));
        exchange.connect_timeout = self.connect_timeout;
        exchange.timeout = self.stall;
        exchange.limit = Duration::MAX;
        // A broken connection often leaves others of the pool broken, too, and a new one costs little beside a file.
        exchange.fresh = true;
        transport.open(&exchange).map_err(|broken| self.failed(server, &broken))
    }

    fn transport(&self, server: &Address) -> Result<Arc<Ureq>, Failed> {
        let is_final = |error| Failed { error, is_final: true };
        let known = |open: &Open| {
            open.transports.iter().find(|it| it.0.is_same_server(server)).map(|it| it.1.clone())
        };
        if let Some(transport) = known(&self.open.lock()) {
            return Ok(transport);
        }
        let network = self.network.to(server).map_err(is_final)?;
        let transport = Arc::new(Ureq::new(&network).map_err(is_final)?);
        let mut open = self.open.lock();
        if open.is_shut {
            return Err(is_final(Error::cancelled()));
        }
        open.transports.push((server.clone(), transport.clone()));
        Ok(transport)
    }

    /// The failure of a request or of the body of its answer.
    pub(super) fn failed(&self, server: &Address, broken: &Broken) -> Failed {
        let limits = Limits {
            connect: self.connect_timeout,
            idle: self.stall,
            head: self.stall,
            whole: Duration::MAX,
        };
        let error = match broken {
            // The text may quote the address.
            Broken::Unsendable { .. } => Error::decode("the server returned an unusable URL"),
            broken => broken.error(limits),
        };
        let is_final =
            matches!(broken, Broken::Unsendable { .. } | Broken::Closed | Broken::WrongPeer { .. });
        Failed { error: at(server, error), is_final }
    }
}

impl Reply {
    pub(super) fn answer(&self) -> &Answer {
        &self.stream.answer
    }

    pub(super) fn server(&self) -> &Address {
        &self.server
    }

    /// The error of an answer that is not the file. Reads the reason of S3-like services.
    pub(super) fn refusal(&mut self, text: &str) -> Error {
        let mut body = vec![0; 4 << 10];
        let mut n = 0;
        while n < body.len() {
            match self.stream.read(&mut body[n..]) {
                Ok(0) | Err(_) => break,
                Ok(more) => n += more,
            }
        }
        let status = self.answer().status;
        let reason =
            reason(&String::from_utf8_lossy(&body[..n])).map(|it| format!(", {it}")).unwrap_or_default();
        let error = Error::new(ErrorKind::Status { code: status }, format!("{text} (HTTP {status}{reason})"));
        at(&self.server, error.with(|context| context.status = Some(status)))
    }
}

/// Names the server of an error, without the path and the query of the address, which grant access.
fn at(server: &Address, error: Error) -> Error {
    error.with(|context| context.url = Some(server.as_str().to_owned()))
}

fn unusable(problem: &str) -> Failed {
    let error = Error::decode(format!("the storage has an unusable URL: {problem}"));
    Failed { error, is_final: true }
}

/// The code in an error document of S3, Google Cloud Storage and Azure, such as `AccessDenied`. Their messages quote the
/// address.
fn reason(body: &str) -> Option<&str> {
    let (_, rest) = body.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    let is_code = !code.is_empty() && code.len() <= 64 && code.bytes().all(|it| it.is_ascii_alphanumeric());
    is_code.then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_code_of_an_error_document_is_shown() {
        let body = "<?xml?><Error><Code>ExpiredToken</Code><Message>sig=secret</Message></Error>";
        assert_eq!(reason(body), Some("ExpiredToken"));
        for body in
            ["", "<Code></Code>", "<Code>a b</Code>", "<Code>x", &format!("<Code>{}</Code>", "x".repeat(65))]
        {
            assert_eq!(reason(body), None);
        }
    }
}
