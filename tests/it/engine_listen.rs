//! The engine listens for other machines only with a key that was given, and answers only to hosts that it knows.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use serde_json::{Value, json};
use tinkex::local::{Options, Server};
use tinkex::types::{LoraConfig, SamplingParams};
use tinkex::{ErrorKind, ServiceClient};

use crate::util::TEST_TIMEOUT;
use crate::util::engine::Client;

const KEY: &str = "tml-0123456789abcdef";
const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

fn options(listen: IpAddr) -> Options {
    Options { listen, api_key: Some(KEY.into()), threads: 1, ..Options::default() }
}

/// An address of this machine that is not a loopback address, if it has one. Connecting a UDP socket sends nothing: it
/// chooses the address that packets to another machine would come from.
fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((ANY, 0)).ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

fn port(server: &Server) -> u16 {
    server.url().rsplit_once(':').unwrap().1.parse().unwrap()
}

/// Sends a request to an address with these values of `Host` and `Origin`. Returns the response, whose status is its second
/// word.
fn ask(address: SocketAddr, request: &str, host: &str, more: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    let head =
        format!("{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nX-API-Key: {KEY}\r\n{more}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).unwrap();
    String::from_utf8_lossy(&response).into_owned()
}

fn status(address: SocketAddr, host: &str, more: &str) -> u16 {
    let response = ask(address, "GET /api/v1/get_server_capabilities", host, more);
    response.split(' ').nth(1).expect("a status").parse().unwrap()
}

#[test]
fn other_machines_are_served_only_with_a_given_key_of_twenty_characters() {
    // The port is taken: an engine that bound it first would report that instead.
    let taken = TcpListener::bind((ANY, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    for listen in [ANY, Ipv6Addr::UNSPECIFIED.into(), "192.0.2.77".parse().unwrap()] {
        for (key, problem) in [(None, "none is given"), (Some(&KEY[1..]), "it has 19")] {
            let api_key = key.map(String::from);
            let error = Server::start(Options { api_key, port, ..options(listen) }).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error.kind(), ErrorKind::Config), "{text}");
            let about = format!("can reach the address {listen} (Options::listen)");
            assert!(
                text.contains("Options::api_key must be given and have at least 20 characters"),
                "{text}"
            );
            assert!(text.contains(&about) && text.ends_with(problem), "{text}");
            assert!(!text.contains(&KEY[1..]), "{text}");
        }
    }
    let error = Server::start(Options { port, ..options(ANY) }).unwrap_err().to_string();
    assert!(error.contains(&format!("cannot listen on 0.0.0.0:{port}")), "{error}");
}

#[test]
fn a_loopback_address_needs_no_key() {
    let mut addresses: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into()];
    if has_ipv6() {
        addresses.push(Ipv6Addr::LOCALHOST.into());
    }
    for listen in addresses {
        let server = Server::start(Options { listen, threads: 1, ..Options::default() }).unwrap();
        let host = SocketAddr::new(listen, port(&server));
        assert_eq!(server.url(), format!("http://{host}"));
        let service =
            ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build().unwrap();
        assert_eq!(service.get_server_capabilities().unwrap().supported_models.len(), 1);
        // Other machines could not reach it anyway, but pages in browsers of this one could.
        assert_eq!(status(host, "192.0.2.7", ""), 403, "{listen}");
    }
}

#[test]
fn an_engine_on_all_addresses_is_reached_by_each_of_them() {
    let server = Server::start(options(ANY)).unwrap();
    let port = port(&server);
    assert_eq!(server.url(), format!("http://127.0.0.1:{port}"));
    let mut urls = vec![server.url().to_string()];
    // A machine without a network has no such address.
    urls.extend(outer_address().map(|it| format!("http://{}", SocketAddr::new(it, port))));
    for url in urls {
        let service = ServiceClient::builder().base_url(&url).api_key(KEY).build().unwrap();
        let config = LoraConfig { rank: 2, ..Default::default() };
        let training = service.create_lora_training_client("tinkex/nano", config).unwrap();
        let sampler = training.save_weights_and_get_sampling_client().unwrap();
        let params = SamplingParams { max_tokens: Some(2), ..Default::default() };
        let prompt = tinkex::types::ModelInput::from_ints([1, 2]);
        assert_eq!(sampler.sample(&prompt, 1, &params).wait().unwrap().sequences.len(), 1, "{url}");
    }
}

#[test]
fn an_engine_on_all_addresses_of_ipv6_is_reached_by_them() {
    if !has_ipv6() {
        return;
    }
    let server = Server::start(options(Ipv6Addr::UNSPECIFIED.into())).unwrap();
    assert_eq!(server.url(), format!("http://[::1]:{}", port(&server)));
    let service = ServiceClient::builder().base_url(server.url()).api_key(KEY).build().unwrap();
    assert_eq!(service.get_server_capabilities().unwrap().supported_models.len(), 1);
}

#[test]
fn a_request_may_name_an_address_or_a_known_name_but_no_other() {
    let allowed_hosts = vec!["engine.test".to_string()];
    let server = Server::start(Options { allowed_hosts, ..options(ANY) }).unwrap();
    let here = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port(&server));
    for host in ["127.0.0.1", "localhost:1", "[::1]:80", "engine.test:8402", "192.0.2.7:8402", "[fd00::2]"] {
        assert_eq!(status(here, host, ""), 200, "{host}");
        assert_eq!(status(here, host, &format!("Origin: http://{host}\r\n")), 200, "{host}");
    }
    let pages = "Origin: http://192.0.2.8\r\n";
    assert_eq!(status(here, "192.0.2.7", pages), 403, "an address of the attacker's own page");
    for host in ["evil.example", "192.0.2.7.evil.example", "engine.test.evil.example", "a@192.0.2.7", ""] {
        assert_eq!(status(here, host, ""), 403, "{host}");
        assert_eq!(status(here, "192.0.2.7", &format!("Host: {host}\r\n")), 403, "{host}");
    }
    let refused = ask(here, "GET /api/v1/healthz", "evil.example", "");
    let names = "127.0.0.1, localhost, [::1], any IP address and engine.test";
    assert!(refused.contains(&format!("answers only to requests for {names}; ")), "{refused}");
    assert!(refused.contains("Options::allowed_hosts") && refused.contains("--allow-host"), "{refused}");
}

#[test]
fn an_engine_on_one_address_answers_to_that_address() {
    let listen: IpAddr = "127.0.0.2".parse().unwrap();
    // Some systems have only one loopback address.
    let Ok(server) = Server::start(options(listen)) else { return };
    let here = SocketAddr::new(listen, port(&server));
    assert_eq!(server.url(), format!("http://{here}"));
    for (host, expected) in [("127.0.0.2", 200), ("localhost", 200), ("127.0.0.3", 403), ("192.0.2.7", 403)] {
        assert_eq!(status(here, host, ""), expected, "{host}");
    }
}

#[test]
fn the_key_is_needed_from_every_address() {
    let server = Server::start(options(ANY)).unwrap();
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    for address in [Some(Ipv4Addr::LOCALHOST.into()), outer_address()].into_iter().flatten() {
        let url =
            format!("http://{}/api/v1/get_server_capabilities", SocketAddr::new(address, port(&server)));
        for (key, expected) in [(KEY, 200), ("tml-0123456789abcdeg", 401), ("", 401)] {
            let status = agent.get(&url).header("X-API-Key", key).call().unwrap().status();
            assert_eq!(status.as_u16(), expected, "{address} {key:?}");
        }
    }
}

#[test]
fn download_addresses_are_on_the_host_that_the_client_has_asked() {
    let client = Client::with(Options { allowed_hosts: vec!["engine.test".into()], ..options(ANY) });
    let model = client.model(0);
    client.run("save_weights", &json!({"model_id": model, "path": "a", "seq_id": 1}));
    client.run("save_weights_external", &json!({"model_id": model, "path": "x", "seq_id": 2}));
    let port = port(&client.server);
    let here = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    let mut hosts = vec![format!("127.0.0.1:{port}"), format!("localhost:{port}"), "engine.test".into()];
    hosts.extend(outer_address().map(|it| SocketAddr::new(it, port).to_string()));
    for host in &hosts {
        let get = |path: &str| ask(here, &format!("GET /api/v1/{path}"), host, "");
        let body = |response: &str| -> Value {
            serde_json::from_str(response.split_once("\r\n\r\n").expect("a body").1).unwrap()
        };
        let run = format!("training_runs/{model}/checkpoints");
        let archive = get(&format!("{run}/weights/a/archive"));
        let location = archive.lines().find_map(|it| it.strip_prefix("location: ")).expect("a location");
        let files = body(&get(&format!("{run}/external_weights/x/external_weights_urls")));
        let file = files["urls"]["adapter_config.json"].as_str().expect("a file");
        let trace = body(&get(&format!("sessions/{}/trace_export", client.session)));
        for url in [location, file, trace["url"].as_str().expect("a trace")] {
            let path = url.strip_prefix(&format!("http://{host}")).unwrap_or_else(|| panic!("{host}: {url}"));
            assert!(ask(here, &format!("GET {path}"), host, "").starts_with("HTTP/1.1 200"), "{url}");
        }
    }
    // A client that can reach the engine by a name can fetch from the address that it got.
    for host in hosts.iter().filter(|it| *it != "engine.test") {
        let request =
            client.agent.get(format!("http://{host}/api/v1/sessions/{}/trace_export", client.session));
        let mut response = request.header("X-API-Key", KEY).call().unwrap();
        let trace: Value = serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap();
        assert_eq!(client.agent.get(trace["url"].as_str().unwrap()).call().unwrap().status(), 200);
    }
}
