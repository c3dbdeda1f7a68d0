//! A TCP relay that forwards bytes between a client and a server at a limited rate, as a slow network does.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Maximum number of bytes that are forwarded at a time.
const PIECE: usize = 64 << 10;

/// Pause after each piece of more than [`PIECE`] / 2 bytes: to the server (`up`), and to the client (`down`).
#[derive(Clone, Copy, Default)]
pub(crate) struct Pace {
    pub(crate) up: Duration,
    pub(crate) down: Duration,
}

/// A relay that runs until the process ends.
pub(crate) struct Relay {
    address: SocketAddr,
}

impl Relay {
    pub(crate) fn start(server: &str, pace: Pace) -> Self {
        let server = server.strip_prefix("http://").unwrap().to_string();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&server) else { continue };
                let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else {
                    continue;
                };
                std::thread::spawn(move || carry(from_client, server, pace.up));
                std::thread::spawn(move || carry(from_server, client, pace.down));
            }
        });
        Relay { address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, pause: Duration) {
    let mut piece = vec![0; PIECE];
    while let Ok(n) = from.read(&mut piece) {
        if n == 0 || to.write_all(&piece[..n]).is_err() {
            break;
        }
        // Forward small pieces, such as the head of a request, without a pause.
        if PIECE / 2 < n {
            std::thread::sleep(pause);
        }
    }
    drop(from.shutdown(Shutdown::Both));
    drop(to.shutdown(Shutdown::Both));
}
