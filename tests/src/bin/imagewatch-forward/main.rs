//! A socket proxy for tests: it forwards each accepted connection to a Unix socket. It runs in a container.
//! Usage: `imagewatch-forward ADDRESS SOCKET`. ADDRESS is `0.0.0.0:2375`, or the path of a socket to create.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, socket] = arguments.as_slice() else {
        return Err(io::Error::other("usage: imagewatch-forward ADDRESS SOCKET"));
    };
    if address.starts_with('/') {
        // A previous process that was killed leaves its socket file.
        let _ = std::fs::remove_file(address);
        for client in UnixListener::bind(address)?.incoming() {
            let (client, engine) = (client?, UnixStream::connect(socket)?);
            copy(client.try_clone()?, engine.try_clone()?, |engine| engine.shutdown(Shutdown::Write));
            copy(engine, client, |client| client.shutdown(Shutdown::Write));
        }
    } else {
        for client in TcpListener::bind(address)?.incoming() {
            let (client, engine): (TcpStream, _) = (client?, UnixStream::connect(socket)?);
            copy(client.try_clone()?, engine.try_clone()?, |engine| engine.shutdown(Shutdown::Write));
            copy(engine, client, |client| client.shutdown(Shutdown::Write));
        }
    }
    Ok(())
}

/// Copies until `from` ends, and then ends `to`.
fn copy<From, To>(mut from: From, mut to: To, end: impl Fn(&To) -> io::Result<()> + Send + 'static)
where
    From: Read + Send + 'static,
    To: Write + Send + 'static,
{
    thread::spawn(move || {
        // An error here means that the connection has ended.
        let _ = io::copy(&mut from, &mut to);
        let _ = end(&to);
    });
}
