//! An HTTP proxy for tests (method `CONNECT`). It ignores the address that the client asks for and always connects to
//! the same server.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A proxy that runs until the process ends. It records the heads of the requests that it gets.
pub(crate) struct Proxy {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Starts a proxy that answers each request with `status`. If `status` is 200, it then forwards bytes between the
    /// client and `server`; otherwise it closes the connection.
    pub(crate) fn start(server: &str, status: u16) -> Self {
        let target = server.trim_start_matches("http://").to_string();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (address, heads) = (listener.local_addr().unwrap(), Arc::default());
        let seen: Arc<Mutex<Vec<String>>> = Arc::clone(&heads);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (target, seen) = (target.clone(), seen.clone());
                // Ignore I/O errors: if a connection breaks, the client's request fails and the test with it.
                std::thread::spawn(move || drop(tunnel(client, &target, status, &seen)));
            }
        });
        Proxy { address, heads }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Heads (request line and headers) of all requests so far.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn tunnel(client: TcpStream, target: &str, status: u16, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    seen.lock().unwrap().push(head);
    (&client).write_all(format!("HTTP/1.1 {status} Said\r\n\r\n").as_bytes())?;
    if status != 200 {
        return client.shutdown(Shutdown::Both);
    }
    let server = TcpStream::connect(target)?;
    server.set_nodelay(true)?;
    let (mut to_server, mut from_server) = (server.try_clone()?, server);
    let mut to_client = client;
    let back = std::thread::spawn(move || {
        drop(std::io::copy(&mut from_server, &mut to_client));
        to_client.shutdown(Shutdown::Both)
    });
    drop(std::io::copy(&mut reader, &mut to_server));
    to_server.shutdown(Shutdown::Both)?;
    drop(back.join());
    Ok(())
}
