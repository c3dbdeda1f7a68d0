//! Requests over sockets: the only file that names ureq.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Error, ProxyProtocol, Timeout};

use super::lanes::LANES;
use super::transport::{Answer, Broken, Exchange, Transport};
use crate::error::{Phase, Sent};
use crate::network::{Network, Proxy, Scheme};
use crate::sync::Mutex;

/// Thousands of connections may be waiting at once, and ureq's own two buffers of 128 KiB each would cost them 576 MB.
const BUFFER: usize = 16 * 1024;
/// Shorter than the keep-alive of usual servers, so that a connection is seldom reused after the server left it.
const IDLE_AGE: Duration = Duration::from_secs(15);

/// One agent per lane. Shutting an agent down also ends its clones, so each client has agents of its own.
pub(crate) struct Ureq {
    agents: Mutex<Option<Vec<Agent>>>,
    /// The proxy, as errors name it.
    through: Option<String>,
}

impl Ureq {
    /// The connections of a client of one server.
    pub(crate) fn new(network: &Network) -> crate::error::Result<Self> {
        let proxy = network.proxy.as_ref().map(proxy).transpose()?;
        let tls = TlsConfig::builder().root_certs(roots(network)?).build();
        let agents = LANES.iter().map(|lane| {
            let config = Agent::config_builder()
                .http_status_as_error(false)
                .tls_config(tls.clone())
                .user_agent(super::headers::USER_AGENT)
                .accept("")
                // A redirect would carry the credential to wherever the server says.
                .max_redirects(0)
                .max_redirects_will_error(false)
                .input_buffer_size(BUFFER)
                .output_buffer_size(BUFFER)
                .max_idle_connections(lane.idle_connections())
                .max_idle_connections_per_host(lane.idle_connections())
                .max_idle_age(IDLE_AGE)
                // Always said, because ureq would look into the environment by itself.
                .proxy(proxy.clone());
            config.build().new_agent()
        });
        let through = network.proxy.as_ref().map(|it| it.to_string());
        Ok(Ureq { agents: Mutex::new(Some(agents.collect())), through })
    }

    /// An error of the way to the server names the proxy on it.
    fn blamed(&self, broken: Broken) -> Broken {
        match (broken, &self.through) {
            (Broken::Connection { sent, message }, Some(proxy)) => {
                Broken::Connection { sent, message: format!("{message} (through the proxy {proxy})") }
            }
            (broken, _) => broken,
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
        false => Ok(RootCerts::Specific(std::sync::Arc::new(certificates))),
    }
}

impl Transport for Ureq {
    fn exchange(&self, exchange: &Exchange) -> Result<Answer, Broken> {
        let agent = match self.agents.lock().as_ref() {
            Some(agents) => agents[exchange.lane.idx()].clone(),
            None => return Err(Broken::Closed),
        };
        let mut request = ureq::http::Request::builder().method(exchange.method).uri(&exchange.url);
        for (name, value) in &exchange.headers {
            request = request.header(&**name, value);
        }
        let garbage = |it: ureq::http::Error| Broken::Connection { sent: Sent::No, message: it.to_string() };
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
        let mut response = result.map_err(|it| self.blamed(broken(it, Stage::Head)))?;
        let headers = response
            .headers()
            .iter()
            .filter_map(|(name, value)| Some((name.as_str().to_string(), value.to_str().ok()?.to_string())))
            .collect();
        let body = response
            .body_mut()
            .with_config()
            .limit(exchange.largest_answer)
            .read_to_vec()
            .map_err(|it| broken(it, Stage::Body { limit: exchange.largest_answer }))?;
        Ok(Answer { status: response.status().as_u16(), headers, body: Bytes::from(body) })
    }

    fn shutdown(&self) {
        // Taken out first: shutting down waits for nothing, but no lock is held across a call into other code.
        let agents = self.agents.lock().take();
        for agent in agents.into_iter().flatten() {
            agent.shutdown();
        }
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
        self.timeout_connect(Some(exchange.connect_timeout)).timeout_global(Some(exchange.timeout)).build()
    }
}

/// How far an exchange was when it broke.
#[derive(Clone, Copy)]
enum Stage {
    Head,
    Body { limit: u64 },
}

fn broken(error: Error, stage: Stage) -> Broken {
    let connection = |sent, message: String| Broken::Connection { sent, message };
    match (error, stage) {
        (Error::Timeout(it), _) => Broken::Timeout(phase(it)),
        (Error::HostNotFound, _) => connection(Sent::No, "the host name is unknown".into()),
        (Error::ConnectionFailed, _) => {
            connection(Sent::No, "no address of the host could be connected to".into())
        }
        (Error::BodyExceedsLimit(_), Stage::Body { limit }) => Broken::TooLarge { limit },
        (Error::Io(error), stage) => io_error(error, stage),
        (Error::Tls(message), _) => connection(Sent::No, format!("TLS: {message}")),
        (Error::Rustls(error), _) => connection(Sent::No, format!("TLS: {error}")),
        (error @ (Error::Protocol(_) | Error::Decompress(..) | Error::LargeResponseHeader(..)), _) => {
            Broken::Garbage { message: error.to_string() }
        }
        (error @ Error::ConnectProxyFailed(_), _) => connection(Sent::No, error.to_string()),
        (error, _) => connection(Sent::Maybe, error.to_string()),
    }
}

fn io_error(error: io::Error, stage: Stage) -> Broken {
    use io::ErrorKind::*;
    match (error.kind(), stage) {
        (NotConnected, _) => Broken::Closed,
        (TimedOut | WouldBlock, _) => Broken::Timeout(Phase::Exchange),
        (ConnectionRefused | HostUnreachable | NetworkUnreachable | AddrNotAvailable, Stage::Head) => {
            Broken::Connection { sent: Sent::No, message: error.to_string() }
        }
        // What rustls says comes as invalid data.
        (InvalidData, Stage::Head) => {
            Broken::Connection { sent: Sent::Maybe, message: format!("TLS: {error}") }
        }
        _ => Broken::Connection { sent: Sent::Maybe, message: error.to_string() },
    }
}

fn phase(timeout: Timeout) -> Phase {
    match timeout {
        Timeout::Resolve => Phase::Resolve,
        Timeout::Connect => Phase::Connect,
        Timeout::SendRequest | Timeout::SendBody | Timeout::PerWrite => Phase::Send,
        Timeout::RecvResponse => Phase::FirstByte,
        Timeout::RecvBody => Phase::Body,
        _ => Phase::Exchange,
    }
}
