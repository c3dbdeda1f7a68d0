//! A TLS server with a certificate of a private authority.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file of the private authority.
pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls").join(name)
}

/// Starts a TLS server with a certificate of a private authority, and returns its URL. Every request gets the same
/// answer.
pub(crate) fn server() -> String {
    let read = |name: &str| std::fs::read(data(name)).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(read("server.key.der")).into();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![read("server.der").into()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let config = config.clone();
            std::thread::spawn(move || {
                let connection = rustls::ServerConnection::new(config).unwrap();
                let mut stream = rustls::StreamOwned::new(connection, stream);
                let (mut request, mut piece) = (Vec::<u8>::new(), [0; 4096]);
                while !request.windows(4).any(|window| window == b"\r\n\r\n") {
                    match stream.read(&mut piece) {
                        Ok(n) if 0 < n => request.extend(&piece[..n]),
                        _ => return,
                    }
                }
                let body = r#"{"supported_models":[]}"#;
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                // Ignore errors: the client may have closed the connection already.
                drop(stream.write_all(answer.as_bytes()).and_then(|()| stream.flush()));
                stream.conn.send_close_notify();
                drop(stream.flush());
            });
        }
    });
    format!("https://{address}")
}
