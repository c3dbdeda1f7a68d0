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
use super::transport::{Answer, Broken, Exchange, Transport};
use crate::error::Sent;
use crate::network::{Network, Proxy, Scheme};
use crate::sync::Mutex;

/// The longest timeout that ureq can add to the time: a century.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Shorter than the keep-alive of usual servers, which is 5 s for the shortest of them (uvicorn, Node), so that a connection is
/// seldom used again in the moment in which the server leaves it.
const IDLE_AGE: Duration = Duration::from_secs(4);

/// For how long the addresses of a name are believed, unless connecting fails.
const NAME_AGE: Duration = Duration::from_secs(30);

/// The slowest upload, in bytes per second, whose answer is waited for.
const SLOWEST: f64 = 32.0 * 1024.0;

/// One agent per lane. Shutting an agent down also ends its clones, so each client has agents of its own.
pub(crate) struct Ureq {
    /// Until it is shut down.
    open: Mutex<Option<Open>>,
    maker: Maker,
}

struct Open {
    agents: Vec<Agent>,
    branches: Vec<Weak<Single>>,
}

impl Ureq {
    /// The connections of a client of one server.
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

impl Transport for Ureq {
    fn exchange(&self, exchange: &Exchange) -> Result<Answer, Broken> {
        let agent = match self.open.lock().as_ref() {
            Some(open) => open.agents[exchange.lane.idx()].clone(),
            None => return Err(Broken::Closed),
        };
        let result = self.maker.exchange(&agent, exchange);
        // A connection that this side closed looks as if the server had.
        if result.is_err() && self.open.lock().is_none() { Err(Broken::Closed) } else { result }
    }

    fn shutdown(&self) {
        // Taken out first: shutting down waits for nothing, but no lock is held across a call into other code.
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

/// The connections of one client's long polls.
struct Single {
    /// Until it is shut down.
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
        // A connection that this side closed looks as if the server had.
        if result.is_err() && self.agent().is_none() { Err(Broken::Closed) } else { result }
    }

    fn shutdown(&self) {
        let agent = self.agent.lock().take();
        if let Some(agent) = agent {
            agent.shutdown();
        }
    }
}

/// A proxy, as ureq wants it.
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

/// Whom TLS trusts: the given certificates and no others, or those of the operating system if the crate was built so, or
/// those that are compiled in.
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
            Ok(PemItem::Certificate(it)) => certificates.push(it),
            Ok(_) => {}
            Err(_) => return Err(unreadable("is no PEM file")),
        }
    }
    match certificates.is_empty() {
        true => Err(unreadable("holds no certificate")),
        false => Ok(RootCerts::Specific(Arc::new(certificates))),
    }
}

/// Makes agents for one server, and sends over them.
#[derive(Clone)]
struct Maker {
    /// Neither TLS nor a proxy is between this machine and itself.
    is_plain: bool,
    tls: TlsConfig,
    proxy: Option<ureq::Proxy>,
    /// The proxy, as errors name it.
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
            // A redirect would carry the credential to wherever the server says.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .input_buffer_size(lane.buffers().0)
            .output_buffer_size(lane.buffers().1)
            // A head that fills the buffer would look like a connection that ended.
            .max_response_header_size(lane.buffers().0 - 1)
            .max_idle_connections(lane.idle_connections())
            .max_idle_connections_per_host(lane.idle_connections())
            .max_idle_age(IDLE_AGE)
            // Always said, because ureq would look into the environment by itself.
            .proxy(self.proxy.clone())
            .build();
        match self.is_plain {
            // The connector of TLS alone takes a page of stack, which thousands of threads would pay for.
            true => Agent::with_parts(config, Marking(TcpConnector::default()), self.names.clone()),
            false => Agent::with_parts(config, Marking(DefaultConnector::default()), self.names.clone()),
        }
    }

    /// An error of the way to the server names the proxy on it.
    fn blamed(&self, broken: Broken) -> Broken {
        match (broken, &self.through) {
            (Broken::Connection { sent, message }, Some(proxy)) => {
                Broken::Connection { sent, message: format!("{message} (through the proxy {proxy})") }
            }
            (Broken::Stranger { message }, Some(proxy)) => {
                Broken::Stranger { message: format!("{message} (through the proxy {proxy})") }
            }
            (broken, _) => broken,
        }
    }

    fn exchange(&self, agent: &Agent, exchange: &Exchange) -> Result<Answer, Broken> {
        let mut request = ureq::http::Request::builder().method(exchange.method).uri(&exchange.url);
        if let Some(headers) = request.headers_mut() {
            headers.reserve(exchange.headers.len());
        }
        for (name, value) in &exchange.headers {
            request = request.header(&**name, value);
        }
        let garbage = |it: ureq::http::Error| Broken::Unsendable { message: it.to_string() };
        let result = match exchange.method {
            // A GET must not announce a body, not even an empty one.
            "GET" => {
                let request = request.body(()).map_err(garbage)?;
                agent.run(agent.configure_request(request).with(exchange))
            }
            _ => {
                let request = request.body(&exchange.body[..]).map_err(garbage)?;
                agent.run(agent.configure_request(request).with(exchange))
            }
        };
        let mut response = result.map_err(|it| {
            let broken = broken(it, Stage::Head);
            if broken.sent() == Sent::No {
                self.names.forget();
            }
            self.blamed(broken)
        })?;
        let headers = response
            .headers()
            .iter()
            .filter_map(|(name, value)| Some((name.as_str().to_string(), value.to_str().ok()?.to_string())))
            .collect();
        let mut answer = Answer { status: response.status().as_u16(), headers, body: Bytes::new() };
        let announced = answer.header("content-length").and_then(|it| it.parse().ok());
        let is_success = answer.is_success();
        let limit = if is_success { exchange.largest_answer } else { u64::MAX };
        if announced.is_some_and(|it| limit < it) {
            return Err(Broken::TooLarge { limit, announced });
        }
        let stage = Stage::Body { limit, announced };
        // The body grows as its pieces come: nothing is set aside for what is only announced.
        let mut body = Vec::new();
        let mut reader = response.body_mut().with_config().limit(limit).reader();
        let read = match is_success {
            true => reader.read_to_end(&mut body),
            // Of what a server says of a failure the beginning is enough, and its status must not be lost.
            false => reader.take(room::LARGEST_REFUSAL).read_to_end(&mut body),
        };
        read.map_err(|it| broken(it.into(), stage))?;
        answer.body = Bytes::from(body);
        Ok(answer)
    }
}

/// Looks names up and remembers the last one. ureq itself looks the name up for each request, also for one over an open
/// connection, and starts a thread to do so in time, which costs more than all the rest of a request.
#[derive(Clone, Debug, Default)]
struct Names {
    last: Arc<Mutex<Option<Known>>>,
}

#[derive(Debug)]
struct Known {
    /// Scheme and authority, because the port follows from both.
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

/// The timeouts of one exchange, set on its request.
trait With {
    type Out;
    fn with(self, exchange: &Exchange) -> Self::Out;
}

impl<S: ureq::AsSendBody> With for ureq::config::ConfigBuilder<ureq::typestate::HttpCrateScope<S>> {
    type Out = ureq::http::Request<S>;

    fn with(self, exchange: &Exchange) -> Self::Out {
        let wait = exchange.timeout.saturating_add(arriving(exchange.body.len()));
        let at_most = |it: Duration| Some(it.min(LONGEST));
        // Connections of such an age, which is any, are closed and not used.
        let it = if exchange.fresh { self.max_idle_age(Duration::ZERO) } else { self };
        it.timeout_resolve(at_most(exchange.connect_timeout))
            .timeout_connect(at_most(exchange.connect_timeout))
            .timeout_send_request(at_most(exchange.timeout))
            .timeout_per_write(at_most(exchange.timeout))
            .timeout_recv_response(at_most(wait))
            // The head is read as well, so that this must not be shorter than the wait for it.
            .timeout_per_read(at_most(wait))
            .timeout_global(at_most(exchange.limit))
            .build()
    }
}

/// How long a body may still be under way when the system has taken all of it: megabytes of it may wait in the buffers of a
/// socket, of whose progress nothing is seen.
fn arriving(n_bytes: usize) -> Duration {
    Duration::from_secs_f64(n_bytes as f64 / SLOWEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::env::Env;
    use crate::policy::retry::Failure;
    use crate::secret::Secret;

    #[test]
    fn what_cannot_be_written_as_http_is_not_tried_again() {
        let settings = Settings { api_key: Some(Secret::new("tml-x")), ..Default::default() };
        let network = settings.resolve(&Env::empty()).expect("good settings").network;
        let transport = Ureq::new(&network).expect("a transport");
        let header = |value: &str| vec![("X-Token".into(), value.to_string())];
        for (url, headers) in [("http://127.0.0.1:1/a b", vec![]), ("http://127.0.0.1:1/a", header("a\nb"))] {
            let second = Duration::from_secs(1);
            let exchange = Exchange {
                lane: Lane::Rest,
                method: "GET",
                url: url.into(),
                headers,
                body: Bytes::new(),
                connect_timeout: second,
                timeout: second,
                limit: second,
                largest_answer: 1,
                fresh: false,
            };
            let broken = transport.exchange(&exchange).expect_err("a refusal");
            assert!(matches!(broken, Broken::Unsendable { .. }), "{broken:?}");
            assert_eq!((broken.failure(), broken.sent()), (Failure::Fatal, Sent::No));
            assert!(broken.error(&Default::default()).is_user_error());
        }
    }
}
