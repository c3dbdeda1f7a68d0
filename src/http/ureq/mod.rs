//! Requests over sockets: the only module that names ureq.

mod failure;

use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout, TcpConnector};
use ureq::{Agent, Error, ProxyProtocol};

use failure::{Marking, Stage, Step, broken, unsent};

use super::Lane;
use super::lanes::LANES;
use super::room;
use super::transport::{Answer, Broken, Exchange, Transport, head_timeout};
use crate::config::network::{Network, Proxy, Scheme};
use crate::error::Sent;
use crate::sync::Mutex;

/// Longest timeout: 100 years. ureq adds timeouts to the current time, which overflows with `Duration::MAX`.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Longest idle time after which a connection is still reused. Usual servers (uvicorn, Node) close connections that
/// were idle for 5 s or more. So a request seldom meets a connection that the server is closing.
const IDLE_AGE: Duration = Duration::from_secs(4);

/// Time for which resolved addresses are cached, unless connecting fails.
const NAME_AGE: Duration = Duration::from_secs(30);

/// The transport over sockets. It has one agent (ureq's pool of connections) for each lane (class of requests). Clients
/// do not share agents, because shutting an agent down also shuts its clones down.
pub(crate) struct Ureq {
    /// `None` after the shutdown.
    open: Mutex<Option<Open>>,
    maker: Maker,
}

struct Open {
    agents: Vec<Agent>,
    branches: Vec<Weak<Single>>,
}

impl Ureq {
    /// Creates the transport of one client. Nothing is connected yet.
    pub(crate) fn new(network: &Network) -> crate::error::Result<Self> {
        let maker = Maker {
            is_plain: network.is_plain,
            tls: TlsConfig::builder().root_certs(roots(network)?).build(),
            proxy: network.proxy.as_ref().map(proxy).transpose()?,
            through: network.proxy.as_ref().map(|it| it.to_string()),
            names: Names::default(),
        };
        let agents = LANES.iter().map(|lane| maker.agent(*lane)).collect();
        Ok(Ureq { open: Mutex::new(Some(Open { agents, branches: Vec::new() })), maker })
    }
}

impl Ureq {
    /// Sends a request and receives the head of its answer, whose body is then read piece by piece.
    pub(crate) fn open(&self, exchange: &Exchange) -> Result<Stream, Broken> {
        let agent = match self.open.lock().as_ref() {
            Some(open) => open.agents[exchange.lane.idx()].clone(),
            None => return Err(Broken::Closed),
        };
        let (answer, response) = self.maker.start(&agent, exchange)?;
        let body = response.into_body().into_with_config().limit(u64::MAX).reader();
        Ok(Stream { answer, body })
    }
}

/// An answer whose body is read piece by piece.
pub(crate) struct Stream {
    /// The head; its body is empty.
    pub(crate) answer: Answer,
    body: ureq::BodyReader<'static>,
}

impl Stream {
    /// Reads the next piece; 0 at the end of the body. A body that ends before its announced length is an error.
    pub(crate) fn read(&mut self, piece: &mut [u8]) -> Result<usize, Broken> {
        let stage = Stage::Body { limit: u64::MAX, announced: None };
        self.body.read(piece).map_err(|error| broken(error.into(), stage))
    }
}

impl Transport for Ureq {
    fn exchange(&self, exchange: &Exchange) -> Result<Answer, Broken> {
        let agent = match self.open.lock().as_ref() {
            Some(open) => open.agents[exchange.lane.idx()].clone(),
            None => return Err(Broken::Closed),
        };
        let result = self.maker.exchange(&agent, exchange);
        // The shutdown closes connections, and their requests fail as if the server had closed them.
        if result.is_err() && self.open.lock().is_none() { Err(Broken::Closed) } else { result }
    }

    fn shutdown(&self) {
        // Shut down without the lock, so that no lock is held across a call into another crate.
        let Some(open) = self.open.lock().take() else { return };
        open.agents.into_iter().for_each(Agent::shutdown);
        open.branches.iter().filter_map(Weak::upgrade).for_each(|it| it.shutdown());
    }

    fn branch(&self) -> Option<Arc<dyn Transport>> {
        let agent = self.maker.agent(Lane::PollMany);
        let branch = Arc::new(Single { agent: Mutex::new(Some(agent)), maker: self.maker.clone() });
        let is_open = self.open.lock().as_mut().map(|open| {
            open.branches.retain(|it| 0 < it.strong_count());
            open.branches.push(Arc::downgrade(&branch));
        });
        if is_open.is_none() {
            branch.shutdown();
        }
        Some(branch)
    }
}

/// A branch: separate connections for the long polls of one client.
struct Single {
    /// `None` after the shutdown.
    agent: Mutex<Option<Agent>>,
    maker: Maker,
}

impl Single {
    fn agent(&self) -> Option<Agent> {
        self.agent.lock().clone()
    }
}

impl Transport for Single {
    fn exchange(&self, exchange: &Exchange) -> Result<Answer, Broken> {
        let agent = self.agent().ok_or(Broken::Closed)?;
        let result = self.maker.exchange(&agent, exchange);
        // The shutdown closes connections, and their requests fail as if the server had closed them.
        if result.is_err() && self.agent().is_none() { Err(Broken::Closed) } else { result }
    }

    fn shutdown(&self) {
        let agent = self.agent.lock().take();
        if let Some(agent) = agent {
            agent.shutdown();
        }
    }
}

/// Converts a proxy into ureq's form.
fn proxy(proxy: &Proxy) -> crate::error::Result<ureq::Proxy> {
    let protocol = match proxy.scheme {
        Scheme::Http => ProxyProtocol::Http,
        Scheme::Https => ProxyProtocol::Https,
        Scheme::Socks4 => ProxyProtocol::Socks4,
        Scheme::Socks5 => ProxyProtocol::Socks5,
        Scheme::Socks5h => ProxyProtocol::Socks5h,
    };
    let host = if proxy.host.contains(':') { format!("[{}]", proxy.host) } else { proxy.host.clone() };
    let mut builder = ureq::Proxy::builder(protocol).host(&host).port(proxy.port);
    if let Some((user, password)) = &proxy.login {
        builder = builder.username(user.expose()).password(password.expose());
    }
    builder.build().map_err(|_| crate::error::Error::config(format!("the proxy {proxy} cannot be used")))
}

/// Returns the certificates that TLS trusts. If there is a CA bundle, only its certificates. Otherwise the certificates
/// of the operating system (feature `native-roots`) or the certificates that are compiled in.
fn roots(network: &Network) -> crate::error::Result<RootCerts> {
    let Some(pem) = &network.ca_bundle else {
        return Ok(if cfg!(feature = "native-roots") {
            RootCerts::PlatformVerifier
        } else {
            RootCerts::WebPki
        });
    };
    let unreadable = |problem: &str| crate::error::Error::config(format!("the CA bundle {problem}"));
    let mut certificates = Vec::new();
    for item in parse_pem(pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(_) => return Err(unreadable("is not a PEM file")),
        }
    }
    if certificates.is_empty() {
        return Err(unreadable("contains no certificate"));
    }
    Ok(RootCerts::Specific(Arc::new(certificates)))
}

/// Creates agents for one server and sends over them.
#[derive(Clone)]
struct Maker {
    /// The server is on this machine and reached without TLS and proxy.
    is_plain: bool,
    tls: TlsConfig,
    proxy: Option<ureq::Proxy>,
    /// The proxy, as error messages show it.
    through: Option<String>,
    names: Names,
}

impl Maker {
    fn agent(&self, lane: Lane) -> Agent {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .tls_config(self.tls.clone())
            .user_agent(super::headers::USER_AGENT)
            .accept("")
            // Do not follow redirects: that would send the credential to any address that the server names.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .input_buffer_size(lane.buffers().0)
            .output_buffer_size(lane.buffers().1)
            // One byte less than the buffer: ureq reports a head that fills the whole buffer as a closed connection,
            // and not as too large.
            .max_response_header_size(lane.buffers().0 - 1)
            .max_idle_connections(lane.idle_connections())
            .max_idle_connections_per_host(lane.idle_connections())
            .max_idle_age(IDLE_AGE)
            // Set the proxy even if it is `None`: by default ureq reads it from the environment.
            .proxy(self.proxy.clone())
            .build();
        if self.is_plain {
            // A connector without TLS: the TLS connector needs one more page of stack in each of thousands of threads.
            Agent::with_parts(config, Marking(TcpConnector::default()), self.names.clone())
        } else {
            Agent::with_parts(config, Marking(DefaultConnector::default()), self.names.clone())
        }
    }

    /// Adds the proxy to the text of a connection error.
    fn with_proxy_named(&self, broken: Broken) -> Broken {
        match (broken, &self.through) {
            (Broken::Connection { sent, message }, Some(proxy)) => {
                Broken::Connection { sent, message: format!("{message} (through the proxy {proxy})") }
            }
            (Broken::WrongPeer { message }, Some(proxy)) => {
                Broken::WrongPeer { message: format!("{message} (through the proxy {proxy})") }
            }
            (broken, _) => broken,
        }
    }

    /// Sends a request and receives the head of the answer.
    fn start(
        &self,
        agent: &Agent,
        exchange: &Exchange,
    ) -> Result<(Answer, ureq::http::Response<ureq::Body>), Broken> {
        check_lines(exchange)?;
        let mut request = ureq::http::Request::builder().method(exchange.method).uri(&exchange.url);
        if let Some(headers) = request.headers_mut() {
            headers.reserve(exchange.headers.len());
        }
        for (name, value) in &exchange.headers {
            request = request.header(&**name, value);
        }
        let unsendable = |error: ureq::http::Error| Broken::Unsendable { message: error.to_string() };
        let result = match exchange.method {
            // These must not have a `Content-Length`, not even of 0.
            "GET" | "HEAD" => {
                let request = request.body(()).map_err(unsendable)?;
                agent.run(agent.configure_request(request).with(exchange))
            }
            _ => {
                let request = request.body(&exchange.body[..]).map_err(unsendable)?;
                agent.run(agent.configure_request(request).with(exchange))
            }
        };
        let response = result.map_err(|error| {
            let broken = broken(error, Stage::Head);
            if broken.sent() == Sent::No {
                self.names.forget();
            }
            self.with_proxy_named(broken)
        })?;
        let headers = response
            .headers()
            .iter()
            .filter_map(|(name, value)| Some((name.as_str().to_string(), value.to_str().ok()?.to_string())))
            .collect();
        Ok((Answer { status: response.status().as_u16(), headers, body: Bytes::new() }, response))
    }

    fn exchange(&self, agent: &Agent, exchange: &Exchange) -> Result<Answer, Broken> {
        let (mut answer, mut response) = self.start(agent, exchange)?;
        let announced = answer.header("content-length").and_then(|it| it.parse().ok());
        let is_success = answer.is_success();
        let limit = if is_success { exchange.largest_answer } else { u64::MAX };
        if announced.is_some_and(|it| limit < it) {
            return Err(Broken::TooLarge { limit, announced });
        }
        let stage = Stage::Body { limit, announced };
        // The buffer grows with the received pieces. Memory for the announced length is not allocated ahead.
        let mut body = Vec::new();
        let mut reader = response.body_mut().with_config().limit(limit).reader();
        let read = if is_success {
            reader.read_to_end(&mut body)
        } else {
            // Read only the beginning of an error answer and drop the rest. If a long error answer failed as too large,
            // the caller would not see its status.
            reader.take(room::LARGEST_REFUSAL).read_to_end(&mut body)
        };
        read.map_err(|error| broken(error.into(), stage))?;
        answer.body = Bytes::from(body);
        Ok(answer)
    }
}

/// Refuses a request line or a header that does not fit into the output buffer of its connection.
fn check_lines(exchange: &Exchange) -> Result<(), Broken> {
    let buffer = exchange.lane.buffers().1;
    // A header line consists of the name, a colon, a space, the value and a line break.
    let header_line = |name: &str, value: &str| name.len() + value.len() + ": \r\n".len();
    let message = if buffer < exchange.method.len() + exchange.url.len() + "  HTTP/1.1\r\n".len() {
        format!("the URL has {} bytes, and a request line must fit into {buffer} bytes", exchange.url.len())
    } else {
        let long = exchange.headers.iter().find(|(name, value)| buffer < header_line(name, value));
        let Some((name, value)) = long else { return Ok(()) };
        format!("the header {name} has {} bytes, and a header line must fit into {buffer} bytes", value.len())
    };
    Err(Broken::Unsendable { message })
}

/// Resolves host names and caches the last one. ureq resolves the name for each request, even over an open connection.
/// For this it starts a thread, which costs more than the rest of a request.
#[derive(Clone, Debug, Default)]
struct Names {
    last: Arc<Mutex<Option<Known>>>,
}

#[derive(Debug)]
struct Known {
    /// Scheme and authority, which together determine the port.
    place: String,
    addresses: Vec<SocketAddr>,
    since: Instant,
}

impl Names {
    fn forget(&self) {
        *self.last.lock() = None;
    }

    fn known(&self, place: &str) -> Option<Vec<SocketAddr>> {
        let last = self.last.lock();
        let known = last.as_ref().filter(|it| it.place == place && it.since.elapsed() < NAME_AGE)?;
        Some(known.addresses.clone())
    }
}

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let place = format!("{:?}://{:?}", uri.scheme(), uri.authority());
        if let Some(addresses) = self.known(&place) {
            let mut known = self.empty();
            addresses.into_iter().for_each(|it| known.push(it));
            return Ok(known);
        }
        let found = DefaultResolver::default().resolve(uri, config, timeout);
        let found = found.map_err(|it| unsent(it, Step::Resolve))?;
        let known = Known { place, addresses: found.to_vec(), since: Instant::now() };
        *self.last.lock() = Some(known);
        Ok(found)
    }
}

/// Sets the timeouts of one exchange on its request.
trait With {
    type Out;
    fn with(self, exchange: &Exchange) -> Self::Out;
}

impl<S: ureq::AsSendBody> With for ureq::config::ConfigBuilder<ureq::typestate::HttpCrateScope<S>> {
    type Out = ureq::http::Request<S>;

    fn with(self, exchange: &Exchange) -> Self::Out {
        let wait = head_timeout(exchange.timeout, exchange.body.len());
        let at_most = |it: Duration| Some(it.min(LONGEST));
        // With a maximum age of zero, an idle connection is closed and not reused.
        let builder = if exchange.fresh { self.max_idle_age(Duration::ZERO) } else { self };
        builder
            .timeout_resolve(at_most(exchange.connect_timeout))
            .timeout_connect(at_most(exchange.connect_timeout))
            .timeout_send_request(at_most(exchange.timeout))
            .timeout_per_write(at_most(exchange.timeout))
            .timeout_recv_response(at_most(wait))
            // This limit also applies to reads of the head, so that it must not be shorter than the wait for the head.
            .timeout_per_read(at_most(wait))
            .timeout_global(at_most(exchange.limit))
            .build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Settings, Timeouts};
    use crate::credentials::Secret;
    use crate::env::Env;
    use crate::policy::retry::Failure;

    #[test]
    fn a_request_that_cannot_be_written_as_http_is_not_retried() {
        let settings = Settings { api_key: Some(Secret::new("tml-x")), ..Default::default() };
        let network = settings.resolve(&Env::empty()).expect("good settings").network;
        let transport = Ureq::new(&network).expect("a transport");
        let header = |value: &str| vec![("X-Token".into(), value.to_string())];
        let long = "x".repeat(20_000);
        let long_url = format!("http://127.0.0.1:1/{long}");
        for (url, headers) in [
            ("http://127.0.0.1:1/a b", vec![]),
            ("http://127.0.0.1:1/a", header("a\nb")),
            ("http://127.0.0.1:1/a", header(&long)),
            (&long_url, vec![]),
        ] {
            let exchange = Exchange { headers, ..Exchange::new(Lane::Rest, "GET", url) };
            let broken = transport.exchange(&exchange).expect_err("a refusal");
            assert!(matches!(broken, Broken::Unsendable { .. }), "{broken:?}");
            assert_eq!((broken.failure(), broken.sent()), (Failure::Fatal, Sent::No));
            assert!(broken.error(&Timeouts::default()).is_user_error());
        }
    }
}
