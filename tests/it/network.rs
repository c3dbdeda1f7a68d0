//! The network path to the server: proxies and trusted TLS certificates.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use tinkex::testing::FakeServer;
use tinkex::{ErrorKind, ServiceClient};

use crate::tls::{self, data};
use crate::util::alone_with;
use crate::util::proxy::Proxy;

#[test]
fn every_request_goes_through_the_callers_proxy_with_its_password() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    let proxy = Proxy::start(&listening.url(), 200);
    let url = format!("http://us%40r:p%3Ass@{}", proxy.address());
    let service = listening.client().proxy(url).build().unwrap();
    service.create_lora_training_client("fake/model", Default::default()).unwrap();
    drop(service);
    let heads = proxy.heads();
    assert!(!heads.is_empty() && !server.requests_to("/api/v1/create_model").is_empty());
    let target = listening.url().trim_start_matches("http://").to_string();
    for head in heads {
        assert!(head.starts_with(&format!("CONNECT {target} HTTP/1.1\r\n")), "{head}");
        // Base64 of "us@r:p:ss".
        assert!(head.contains("Proxy-Authorization: Basic dXNAcjpwOnNz\r\n"), "{head}");
        assert!(!head.to_ascii_lowercase().contains("api-key"), "{head}");
    }
}

#[test]
fn the_proxy_of_the_environment_is_used_for_other_machines_only() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    let proxy = Proxy::start(&listening.url(), 200);
    let url = format!("http://{}", proxy.address());
    let name = "network::the_proxy_of_the_environment_is_used_for_other_machines_only";
    let environment =
        [("HTTP_PROXY", url.as_str()), ("NO_PROXY", "excepted.invalid"), ("TINKER_API_KEY", "tml-x")];
    alone_with(name, &environment, || {
        let call_within = |seconds: u64, builder: tinkex::ServiceClientBuilder| {
            let service = builder.timeouts(|it| it.connect = Duration::from_secs(seconds)).build().unwrap();
            service.get_server_capabilities()
        };
        let call = |builder| call_within(60, builder);
        // `alone_with` runs this closure in a child process, where `HTTP_PROXY` is the proxy of the parent process. No
        // host has the name `elsewhere.invalid`, so the call succeeds only through that proxy, which connects to the
        // server of the parent process.
        call(ServiceClient::builder().base_url("http://elsewhere.invalid")).unwrap();
        let direct = FakeServer::new();
        let here = direct.listen().unwrap();
        call(ServiceClient::builder().base_url(here.url())).unwrap();
        assert_eq!(direct.requests_to("/api/v1/get_server_capabilities").len(), 1);
        for builder in [
            ServiceClient::builder().base_url("http://excepted.invalid"),
            ServiceClient::builder().base_url("http://elsewhere.invalid").no_proxy(),
        ] {
            let error = call_within(2, builder).unwrap_err();
            assert!(error.is_connection() || error.is_timeout(), "{error}");
            assert!(!error.to_string().contains("proxy"), "{error}");
        }
    });
    if std::env::var_os("TINKEX_TEST_ALONE").is_none() {
        assert!(proxy.heads().iter().all(|it| it.starts_with("CONNECT elsewhere.invalid:80 ")));
        assert!(!proxy.heads().is_empty());
    }
}

#[test]
fn a_connection_error_names_the_proxy_without_its_password() {
    let refusing = Proxy::start("127.0.0.1:9", 407);
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    for address in [refusing.address(), gone] {
        let service = ServiceClient::builder()
            .api_key("tml-x")
            .base_url("http://server.invalid")
            .proxy(format!("http://user:hunter2@{address}"))
            .timeouts(|it| it.connect = Duration::from_secs(1))
            .build()
            .unwrap();
        let error = service.get_server_capabilities().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Connection { .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("through the proxy http://{address}")), "{error}");
        assert!(!format!("{error} {error:?} {service:?}").contains("hunter2"), "{error:?}");
    }
}

#[test]
fn a_malformed_proxy_is_refused_before_anything_is_sent() {
    let builder = ServiceClient::builder().api_key("tml-x").proxy("gopher://u:hunter2@h");
    assert!(!format!("{builder:?}").contains("hunter2"));
    let error = builder.build().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Config);
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
}

#[test]
fn a_private_certificate_authority_is_trusted_only_with_its_bundle() {
    let url = tls::server();
    let client = || {
        let builder = ServiceClient::builder().api_key("tml-x").base_url(&url);
        builder.timeouts(|it| (it.connect, it.exchange) = (Duration::from_secs(5), Duration::from_secs(60)))
    };
    let trusting = client().ca_bundle(data("ca.pem")).build().unwrap();
    assert_eq!(trusting.get_server_capabilities().unwrap().supported_models, []);
    let error = client().build().unwrap().get_server_capabilities().unwrap_err();
    assert!(error.is_connection() && error.to_string().contains("TLS"), "{error}");
}

#[test]
fn a_bundle_without_certificates_is_refused() {
    let error = ServiceClient::builder().api_key("tml-x").ca_bundle(data("server.der")).build().unwrap_err();
    assert!(error.message().contains("CA bundle"), "{error}");
}
