//! A TCP relay between a client and a server with a limited rate.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Largest number of bytes in one piece.
const PIECE: usize = 64 << 10;

/// Pause after each piece, to the server (`up`) and to the client (`down`).
#[derive(Clone, Copy, Default)]
pub(crate) struct Pace {
    pub(crate) up: Duration,
    pub(crate) down: Duration,
}

/// Listens until the process ends.
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
        // Small pieces, such as a head alone, pass without a pause.
        if PIECE / 2 < n {
            std::thread::sleep(pause);
        }
    }
    drop(from.shutdown(Shutdown::Both));
    drop(to.shutdown(Shutdown::Both));
}
